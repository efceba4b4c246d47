/* Copies, conversions, fills and accumulation on the CPU: the backend's copy, fill and add, and the
 * kernels of cast and contiguous (ops/cast.c). Conversions are those of loops/elementwise.h. */
#include "backends/cpu/copy.h"

#include <string.h>

#include "backends/cpu/chunk.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/walk.h"

enum { CHUNK = 512, GRAIN = 32768, TILE = 32 };

typedef struct job {
    const bb_elementwise_loops *loops;
    bb_span_fn add;
    const char *source;
    char *target;
    int source_dtype, target_dtype;
    int64_t source_bytes, target_bytes;
    bb_walk walk; /* tensor 0: source, 1: target */
} job;

/* y[i * sy] = x[i * sx] for elements of 1, 2, 4 or 8 bytes. */
static void move(int64_t bytes, int64_t n, const void *x, int64_t sx, void *y, int64_t sy) {
    if (sx == 1 && sy == 1)
        memcpy(y, x, (size_t)(n * bytes));
    else if (bytes == 4)
        for (int64_t i = 0; i < n; i++) ((uint32_t *)y)[i * sy] = ((const uint32_t *)x)[i * sx];
    else if (bytes == 2)
        for (int64_t i = 0; i < n; i++) ((uint16_t *)y)[i * sy] = ((const uint16_t *)x)[i * sx];
    else if (bytes == 8)
        for (int64_t i = 0; i < n; i++) ((uint64_t *)y)[i * sy] = ((const uint64_t *)x)[i * sx];
    else
        for (int64_t i = 0; i < n; i++) ((uint8_t *)y)[i * sy] = ((const uint8_t *)x)[i * sx];
}

/* ---- Runs: n elements at one stride each */

static void convert_run(const job *j, int64_t n, const char *x, int64_t sx, char *y, int64_t sy) {
    int as = bb_compute_dtype(j->source_dtype);
    uint64_t loaded[CHUNK], stored[CHUNK];
    if (j->source_dtype == j->target_dtype) {
        move(j->source_bytes, n, x, sx, y, sy);
        return;
    }
    if (j->target_dtype == as && sy == 1) {
        bb_chunk_load(j->loops, as, j->source_dtype, n, x, sx, y);
        return;
    }
    for (int64_t i = 0; i < n; i += CHUNK) {
        int64_t m = n - i < CHUNK ? n - i : CHUNK;
        const void *chunk = x + i * sx * j->source_bytes;
        char *to = y + i * sy * j->target_bytes;
        if (j->source_dtype != as || sx != 1) {
            bb_chunk_load(j->loops, as, j->source_dtype, m, chunk, sx, loaded);
            chunk = loaded;
        }
        bb_chunk_store(j->loops, as, j->target_dtype, m, chunk,
                       sy == 1 ? (void *)to : (void *)stored);
        if (sy != 1) move(j->target_bytes, m, stored, 1, to, sy);
    }
}

static void add_run(const job *j, int64_t n, const char *x, int64_t sx, char *y, int64_t sy) {
    int as = bb_compute_dtype(j->target_dtype);
    uint64_t loaded[CHUNK], sum[CHUNK], stored[CHUNK];
    if (j->target_dtype == as && sx == 1 && sy == 1) {
        bb_span span = {.n = n, .x = {y, x}, .stride = {1, 1}, .y = y};
        j->add(&span);
        return;
    }
    for (int64_t i = 0; i < n; i += CHUNK) {
        int64_t m = n - i < CHUNK ? n - i : CHUNK;
        char *to = y + i * sy * j->target_bytes;
        bb_span span = {.n = m, .x = {sum, loaded}, .stride = {1, 1}, .y = sum};
        bb_chunk_load(j->loops, as, j->source_dtype, m, x + i * sx * j->source_bytes, sx, loaded);
        bb_chunk_load(j->loops, as, j->target_dtype, m, to, sy, sum);
        j->add(&span);
        bb_chunk_store(j->loops, as, j->target_dtype, m, sum,
                       sy == 1 ? (void *)to : (void *)stored);
        if (sy != 1) move(j->target_bytes, m, stored, 1, to, sy);
    }
}

/* Calls run on each part of a row that lies in elements [begin, end). */
static void rows_piece(const job *j, int64_t begin, int64_t end,
                       void (*run)(const job *, int64_t, const char *, int64_t, char *, int64_t)) {
    const bb_walk *w = &j->walk;
    int64_t length = bb_walk_row(w), at = begin % length;
    int64_t sx = w->stride[0][w->rank - 1], sy = w->stride[1][w->rank - 1];
    bb_cursor c;
    bb_walk_seek(w, begin / length, &c);
    for (int64_t i = begin; i < end;) {
        int64_t n = length - at < end - i ? length - at : end - i;
        run(j, n, j->source + (c.offset[0] + at * sx) * j->source_bytes, sx,
            j->target + (c.offset[1] + at * sy) * j->target_bytes, sy);
        i += n;
        at = 0;
        bb_walk_next(w, &c);
    }
}

static void convert_piece(void *user, int64_t begin, int64_t end) {
    rows_piece(user, begin, end, convert_run);
}
static void add_piece(void *user, int64_t begin, int64_t end) {
    rows_piece(user, begin, end, add_run);
}

/* ---- Transposes: by tiles through a small buffer, so that both sides are touched in whole cache
 * lines, once each. An item is TILE rows of a matrix made of the last two axes. */

static bool is_transpose(const job *j) {
    const bb_walk *w = &j->walk;
    int last = w->rank - 1;
    return j->source_dtype == j->target_dtype && w->rank >= 2 && w->stride[0][last] != 1 &&
           w->stride[1][last] == 1 && w->stride[0][last - 1] == 1 && w->size[last] >= 8 &&
           w->size[last - 1] >= 8;
}

static int64_t row_tiles(const bb_walk *w) { return (w->size[w->rank - 2] + TILE - 1) / TILE; }

static void transpose_piece(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    const bb_walk *w = &j->walk;
    int last = w->rank - 1;
    int64_t rows = w->size[last - 1], columns = w->size[last], tiles = row_tiles(w);
    int64_t column_stride = w->stride[0][last], row_stride = w->stride[1][last - 1],
            bytes = j->source_bytes;
    for (int64_t item = begin; item < end; item++) {
        int64_t r0 = item % tiles * TILE, r1 = r0 + TILE < rows ? r0 + TILE : rows;
        bb_cursor c;
        bb_walk_seek(w, item / tiles * rows, &c);
        for (int64_t c0 = 0; c0 < columns; c0 += TILE) {
            uint64_t tile[TILE * TILE];
            int64_t n = columns - c0 < TILE ? columns - c0 : TILE;
            const char *from = j->source + (c.offset[0] + c0 * column_stride + r0) * bytes;
            char *to = j->target + (c.offset[1] + r0 * row_stride + c0) * bytes;
            for (int64_t k = 0; k < n; k++)
                move(bytes, r1 - r0, from + k * column_stride * bytes, 1,
                     (char *)tile + k * TILE * bytes, 1);
            for (int64_t r = 0; r < r1 - r0; r++)
                move(bytes, n, (char *)tile + r * bytes, TILE, to + r * row_stride * bytes, 1);
        }
    }
}

/* ---- The backend's functions */

static job make_job(const bb_cpu *cpu, const bb_tensor *source, const bb_tensor *target) {
    const bb_tensor *both[] = {source, target};
    job j = {.loops = cpu->loops->elementwise,
             .source = source->data,
             .target = target->data,
             .source_dtype = source->dtype,
             .target_dtype = target->dtype,
             .source_bytes = (int64_t)bb_dtype_bytes((bb_dtype)source->dtype),
             .target_bytes = (int64_t)bb_dtype_bytes((bb_dtype)target->dtype)};
    bb_walk_make(&j.walk, target, 2, both);
    return j;
}

bb_status bb_cpu_copy(bb_backend *self, const bb_tensor *source, bb_tensor *target) {
    const bb_cpu *cpu = (const bb_cpu *)(const void *)self;
    if (target->count == 0) return BB_OK;
    if (source->dtype == target->dtype && source->contiguous && target->contiguous &&
        target->count <= GRAIN) {
        memcpy(target->data, source->data,
               (size_t)target->count * bb_dtype_bytes((bb_dtype)target->dtype));
        return BB_OK;
    }
    job j = make_job(cpu, source, target);
    if (is_transpose(&j)) {
        const bb_walk *w = &j.walk;
        int64_t items = target->count / (w->size[w->rank - 2] * bb_walk_row(w)) * row_tiles(w);
        bb_cpu_for(cpu, items, bb_cpu_grain(TILE * bb_walk_row(w), GRAIN), transpose_piece, &j);
    } else {
        bb_cpu_for(cpu, target->count, GRAIN, convert_piece, &j);
    }
    return BB_OK;
}

bb_status bb_cpu_accumulate(bb_backend *self, const bb_tensor *source, bb_tensor *target) {
    const bb_cpu *cpu = (const bb_cpu *)(const void *)self;
    if (target->count == 0) return BB_OK;
    job j = make_job(cpu, source, target);
    j.add = bb_loop_for(&j.loops->add, bb_compute_dtype(target->dtype));
    bb_cpu_for(cpu, target->count, GRAIN, add_piece, &j);
    return BB_OK;
}

static void zero_piece(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    memset(j->target + begin * j->target_bytes, 0, (size_t)((end - begin) * j->target_bytes));
}

/* A fill is a copy of one element at stride 0. */
bb_status bb_cpu_fill(bb_backend *self, bb_tensor *target, double value) {
    const bb_cpu *cpu = (const bb_cpu *)(const void *)self;
    uint64_t element = 0;
    if (target->count == 0) return BB_OK;
    cpu->loops->elementwise->store_f64(target->dtype, 1, &value, &element);
    if (element == 0 && target->contiguous) {
        job j = {.target = target->data,
                 .target_bytes = (int64_t)bb_dtype_bytes((bb_dtype)target->dtype)};
        bb_cpu_for(cpu, target->count, GRAIN, zero_piece, &j);
        return BB_OK;
    }
    bb_tensor one = {.data = (char *)&element, .count = 1, .dtype = target->dtype};
    job j = make_job(cpu, &one, target);
    bb_cpu_for(cpu, target->count, GRAIN, convert_piece, &j);
    return BB_OK;
}

bb_status bb_cpu_cast(bb_call *call) {
    return bb_cpu_copy(call->ctx->backend[BB_CPU], call->in[0], call->out[0]);
}
bb_status bb_cpu_contiguous(bb_call *call) {
    return bb_cpu_copy(call->ctx->backend[BB_CPU], call->in[0], call->out[0]);
}
