/* Quantize on the CPU, and what RMSNormQuantize adds to it. Rules: ops/quantize.c, backends/fp8.h;
 * loops: loops/quantize.c; back again: dequantize.c.
 *
 * The matrix (R, C) is cut into bands of rows: single rows, or as many as one scale spans where
 * columns are wanted. A band is fetched, normalized if a norm stands in front, in tiles of f32 that
 * stay in the nearest caches, and what a recipe makes of a tile is a row of the table below. Each
 * element is read once and each byte written once. Recipes with one scale for all, made of the
 * tensor's own amax, go over all bands twice. An amax is a maximum of integers: no order of threads
 * changes it. */
#include "backends/cpu/quantize.h"

#include <math.h>
#include <string.h>

#include "backends/cpu/kernels.h"
#include "backends/cpu/loops/stream.h"
#include "backends/cpu/pack.h"
#include "backends/fp8.h"

/* A tile is 1 x WIDE or up to 128 x 128; both sides are multiples of every block. */
enum {
    WIDE = 1024,
    LEAST_BLOCK = 16,
    SIDE = 128,
    TILE_FLOATS = SIDE * SIDE,
    COLUMN_BAND = 32,
    PIECE = 16384
};
/* Data from this size on would only push other data out of the caches. */
enum { STREAM_BYTES = 16 << 20 };

typedef struct quantize_job {
    const bb_quantize_loops *loops;
    const bb_tensor *x;
    const bb_quantize_attrs *attrs;
    const bb_quantize_norm *norm;
    bb_quantize_source source;
    bb_recipe_form form;
    const struct recipe *recipe;
    bb_scale_rule rule;
    int kind;
    int64_t rows, columns, band; /* R, C; rows of a band */
    float multiplier;            /* of recipes with one scale */
    bool stream;
    bb_tensor *const *out;
    int32_t *most; /* amax of each piece */
    int64_t grain; /* bands of a piece */
} quantize_job;

/* rows x columns from (row, column) on. */
typedef struct tile {
    int64_t row, column, rows, columns;
    const float *z; /* z[r * columns + c] */
    uint8_t *codes; /* room for as many */
} tile;

typedef struct recipe {
    bool whole; /* needs the amax of all before the first byte */
    int32_t (*make)(const quantize_job *job, const tile *t); /* gives its amax, or 0 */
    bb_block_scale (*scale)(const bb_scale_rule *rule, float amax);
} recipe;

/* ---- Writing */

static void put_scale(bb_tensor *t, int64_t i, bb_block_scale s) {
    if (t->dtype == BB_F32)
        memcpy(t->data + 4 * i, &s.stored, 4);
    else
        t->data[i] = (char)s.stored;
}

/* n codes to data[at], two a byte if packed. */
static void put_codes(const quantize_job *job, bb_tensor *data, int64_t at, int64_t n,
                      const uint8_t *codes) {
    uint8_t *to = (uint8_t *)data->data;
    if (job->form.packed)
        job->loops->pack(n, codes, to + at / 2);
    else if (job->stream)
        stream_bytes(to + at, codes, (size_t)n);
    else
        memcpy(to + at, codes, (size_t)n);
}

static void put_rows(const quantize_job *job, const tile *t) {
    for (int64_t r = 0; r < t->rows; r++)
        put_codes(job, job->out[0], (t->row + r) * job->columns + t->column, t->columns,
                  t->codes + r * t->columns);
}

/* The column-wise copy, transposed or not. */
static void put_columns(const quantize_job *job, const tile *t) {
    uint8_t line[SIDE];
    if (!job->form.transposed) {
        for (int64_t r = 0; r < t->rows; r++)
            put_codes(job, job->out[2], (t->row + r) * job->columns + t->column, t->columns,
                      t->codes + r * t->columns);
        return;
    }
    for (int64_t c = 0; c < t->columns; c++) {
        for (int64_t r = 0; r < t->rows; r++) line[r] = t->codes[r * t->columns + c];
        put_codes(job, job->out[2], (t->column + c) * job->rows + t->row, t->rows, line);
    }
}

/* ---- Recipes */

static int64_t blocks_of(int64_t n, int64_t block) { return n / block + (n % block != 0); }

static int32_t make_tensor(const quantize_job *job, const tile *t) {
    int64_t n = t->rows * t->columns;
    int32_t most = job->loops->amax(n, t->z);
    job->loops->encode(job->kind, n, t->z, job->multiplier, most, t->codes);
    if (job->attrs->rows) put_rows(job, t);
    if (job->attrs->columns) put_columns(job, t);
    return most;
}

static bb_block_scale scale_of(const quantize_job *job, int32_t amax) {
    return job->recipe->scale(&job->rule, bb_fp8_float(amax));
}

static bool are_finite(int64_t n, const int32_t *most) {
    int32_t all = 0;
    for (int64_t i = 0; i < n; i++) all = most[i] > all ? most[i] : all;
    return all < BB_F32_INFINITY;
}

static void make_runs(const quantize_job *job, const tile *t) {
    int64_t block = job->form.block, across = blocks_of(job->columns, block);
    int64_t blocks = blocks_of(t->columns, block), first = t->column / block;
    int32_t most[WIDE / LEAST_BLOCK];
    float multiplier[WIDE];
    for (int64_t r = 0; r < t->rows; r++) {
        const float *z = t->z + r * t->columns;
        job->loops->amax_runs(t->columns, block, z, most);
        for (int64_t b = 0; b < blocks; b++) {
            int64_t end = b + 1 < blocks ? (b + 1) * block : t->columns;
            bb_block_scale s = scale_of(job, most[b]);
            put_scale(job->out[1], (t->row + r) * across + first + b, s);
            for (int64_t i = b * block; i < end; i++) multiplier[i] = s.multiplier;
        }
        job->loops->encode_each(job->kind, are_finite(blocks, most), t->columns, z, multiplier,
                                t->codes + r * t->columns);
    }
    put_rows(job, t);
}

/* The tile is one block high. */
static void make_column_runs(const quantize_job *job, const tile *t) {
    int32_t most[SIDE] = {0};
    float multiplier[SIDE];
    int64_t block = job->form.block, down = blocks_of(job->rows, block);
    for (int64_t r = 0; r < t->rows; r++)
        job->loops->amax_each(t->columns, t->z + r * t->columns, most);
    int64_t strip = t->row / block;
    for (int64_t c = 0; c < t->columns; c++) {
        bb_block_scale s = scale_of(job, most[c]);
        multiplier[c] = s.multiplier;
        put_scale(job->out[3],
                  job->form.transposed ? (t->column + c) * down + strip
                                       : strip * job->columns + t->column + c,
                  s);
    }
    bool finite = are_finite(t->columns, most);
    for (int64_t r = 0; r < t->rows; r++)
        job->loops->encode_each(job->kind, finite, t->columns, t->z + r * t->columns, multiplier,
                                t->codes + r * t->columns);
    put_columns(job, t);
}

static int32_t make_blocks(const quantize_job *job, const tile *t) {
    if (job->attrs->rows) make_runs(job, t);
    if (job->attrs->columns) make_column_runs(job, t);
    return 0;
}

static int32_t make_squares(const quantize_job *job, const tile *t) {
    if (!job->attrs->square) return make_blocks(job, t);
    int64_t block = job->form.block, n = t->rows * t->columns;
    int64_t across = blocks_of(job->columns, block), down = blocks_of(job->rows, block);
    int32_t most = job->loops->amax(n, t->z);
    bb_block_scale s = scale_of(job, most);
    job->loops->encode(job->kind, n, t->z, s.multiplier, most, t->codes);
    if (job->attrs->rows) {
        put_scale(job->out[1], t->row / block * across + t->column / block, s);
        put_rows(job, t);
    }
    if (job->attrs->columns) {
        put_scale(job->out[3], t->column / block * down + t->row / block, s);
        put_columns(job, t);
    }
    return 0;
}

static const recipe recipes[BB_RECIPE_COUNT] = {
    [BB_FP8_DELAYED] = {false, make_tensor, NULL},
    [BB_FP8_CURRENT] = {true, make_tensor, bb_scale_f32},
    [BB_MXFP8] = {false, make_blocks, bb_scale_e8m0},
    [BB_FP8_BLOCK] = {false, make_squares, bb_scale_f32},
    [BB_NVFP4] = {true, make_blocks, bb_scale_nvfp4},
};

/* ---- Bands */

static const void *row_of(const quantize_job *job, int64_t row) {
    int64_t offset = bb_cpu_row_offset(job->x, job->x->rank - 1, row);
    return job->x->data + offset * (int64_t)bb_dtype_bytes((bb_dtype)job->x->dtype);
}

static float rstd_of(const quantize_job *job, int64_t row) {
    return job->norm ? job->norm->rstd[row] : 1.0f;
}

static void band_statistics(const quantize_job *job, int64_t row, int64_t end) {
    for (; row < end; row++) {
        float sum = job->loops->squares(job->source.dtype, job->columns, row_of(job, row),
                                        job->source.step);
        job->norm->rstd[row] = 1.0f / sqrtf(sum / (float)job->columns + (float)job->norm->eps);
    }
}

/* One tensor-wide scale, rows only: from x's dtype to the byte in one loop. The row at `next` comes
 * from memory meanwhile: encoding leaves the memory idle, and the statistic of a row computes
 * nothing that it could wait behind. */
static int32_t row_direct(const quantize_job *job, int64_t row, const char *next) {
    uint8_t codes[WIDE];
    const void *x = row_of(job, row);
    int32_t most = 0;
    int64_t bytes =
        job->source.step == 1 ? (int64_t)bb_dtype_bytes((bb_dtype)job->source.dtype) : 0;
    for (int64_t at = 0; at < job->columns; at += WIDE) {
        int64_t n = job->columns - at < WIDE ? job->columns - at : WIDE;
        stream_ahead(next + at * bytes, (size_t)(n * bytes));
        uint8_t *to = (uint8_t *)job->out[0]->data + row * job->columns + at;
        int32_t here =
            job->loops->fetch_encode(&job->source, job->kind, at, n, x, rstd_of(job, row),
                                     job->multiplier, job->stream ? codes : to);
        most = here > most ? here : most;
        if (job->stream) stream_bytes(to, codes, (size_t)n);
    }
    return most;
}

static int32_t row_measure(const quantize_job *job, int64_t row) {
    return job->loops->fetch_amax(&job->source, 0, job->columns, row_of(job, row),
                                  rstd_of(job, row));
}

/* The band from `row` on, tile by tile; gives the largest amax. */
static int32_t band_tiles(const quantize_job *job, int64_t row, int64_t end) {
    float z[TILE_FLOATS];
    uint8_t codes[TILE_FLOATS];
    int64_t width = job->band == 1 ? WIDE : SIDE;
    int32_t most = 0;
    tile t = {.row = row, .rows = end - row, .z = z, .codes = codes};
    for (t.column = 0; t.column < job->columns; t.column += width) {
        t.columns = job->columns - t.column < width ? job->columns - t.column : width;
        for (int64_t r = 0; r < t.rows; r++)
            job->loops->fetch(&job->source, t.column, t.columns, row_of(job, row + r),
                              rstd_of(job, row + r), z + r * t.columns);
        int32_t here = job->recipe->make(job, &t);
        most = here > most ? here : most;
    }
    return most;
}

static void piece(const quantize_job *job, int64_t first, int64_t last, bool measure) {
    int32_t most = 0;
    bool direct = job->form.block == 0 && !job->attrs->columns;
    for (int64_t band = first; band < last; band++) {
        int64_t row = band * job->band, end = row + job->band;
        if (end > job->rows) end = job->rows;
        if (job->norm && measure == job->recipe->whole) band_statistics(job, row, end);
        int32_t here = 0;
        if (!measure)
            here = direct ? row_direct(job, row, row_of(job, end < job->rows ? end : row))
                          : band_tiles(job, row, end);
        for (; measure && row < end; row++) {
            int32_t one = row_measure(job, row);
            here = one > here ? one : here;
        }
        most = here > most ? here : most;
    }
    if (job->stream && !measure) stream_end();
    job->most[first / job->grain] = most;
}
static void measure_piece(void *user, int64_t first, int64_t last) {
    piece(user, first, last, true);
}
static void make_piece(void *user, int64_t first, int64_t last) { piece(user, first, last, false); }

/* ---- The whole */

static int32_t most_of(const quantize_job *job, int64_t bands) {
    int32_t most = 0;
    for (int64_t i = 0; i * job->grain < bands; i++)
        most = job->most[i] > most ? job->most[i] : most;
    return most;
}

static void put_f32(bb_tensor *t, float value) {
    if (t->count) memcpy(t->data, &value, sizeof value);
}

/* Sets what follows from the one scale of a tensor. */
static void set_scale(quantize_job *job, float multiplier, float inverse) {
    job->multiplier = multiplier;
    put_f32(job->out[1], inverse);
    put_f32(job->out[3], inverse);
}

/* Between the passes: the tensor's amax is known. */
static void use_amax(quantize_job *job, float amax) {
    put_f32(job->out[4], amax);
    if (job->form.block) {
        job->rule.whole = bb_nvfp4_whole(amax);
        return;
    }
    bb_block_scale s = job->recipe->scale(&job->rule, amax);
    set_scale(job, s.multiplier, bb_fp8_float((int32_t)s.stored));
}

static quantize_job job_of(const bb_call *call, const bb_quantize_attrs *a,
                           const bb_quantize_norm *norm) {
    const bb_tensor *x = call->in[0];
    quantize_job job = {.loops = bb_cpu_of(call->ctx)->loops->quantize,
                        .x = x,
                        .attrs = a,
                        .norm = norm,
                        .form = bb_recipe_forms[a->recipe],
                        .recipe = &recipes[a->recipe],
                        .out = call->out,
                        .rows = 1,
                        .columns = x->size[x->rank - 1]};
    for (int i = 0; i < x->rank - 1; i++) job.rows *= x->size[i];
    bool wide = a->recipe == BB_FP8_DELAYED;
    job.source = (bb_quantize_source){.dtype = x->dtype,
                                      .step = x->stride[x->rank - 1],
                                      .weight = norm ? norm->weight : NULL,
                                      .even = norm ? norm->apart : NULL,
                                      .odd = norm ? norm->apart + (job.columns + 1) / 2 : NULL,
                                      .round = wide ? BB_F32 : x->dtype};
    job.kind = job.form.packed ? BB_CODE_E2M1 : a->format;
    job.rule.most = bb_fp8_most(a->format);
    job.rule.most_inv = 1.0f / job.rule.most;
    job.rule.amax_floor = (float)a->amax_floor;
    job.rule.power_of_two =
        a->scales == BB_SCALES_AUTO ? job.form.block != 0 : a->scales == BB_SCALES_POWER_OF_TWO;
    bool square = a->square && a->recipe == BB_FP8_BLOCK;
    job.band = !a->columns && !square ? 1 : job.form.block ? job.form.block : COLUMN_BAND;
    job.stream = job.rows * job.columns >= STREAM_BYTES;
    return job;
}

bb_status bb_cpu_quantize_with(const bb_call *call, const bb_quantize_attrs *attrs,
                               const bb_tensor *scale, const bb_quantize_norm *norm) {
    const bb_cpu *cpu = bb_cpu_of(call->ctx);
    quantize_job job = job_of(call, attrs, norm);
    int64_t bands = blocks_of(job.rows, job.band);
    job.grain = bb_cpu_grain(job.band * job.columns, PIECE);
    bb_storage *scratch = bb_cpu_scratch(call, (size_t)(bands / job.grain + 1) * sizeof *job.most);
    if (!scratch) return call->ctx->status;
    job.most = scratch->data;
    if (scale) {
        float s = *(const float *)(const void *)scale->data;
        set_scale(&job, s, 1.0f / s);
    }
    if (job.recipe->whole) {
        bb_cpu_for(cpu, bands, job.grain, measure_piece, &job);
        use_amax(&job, bb_fp8_float(most_of(&job, bands)));
    }
    bb_cpu_for(cpu, bands, job.grain, make_piece, &job);
    if (scale) put_f32(job.out[4], bb_fp8_float(most_of(&job, bands)));
    bb_storage_unref(scratch);
    return BB_OK;
}

bb_status bb_cpu_quantize(bb_call *call) {
    return bb_cpu_quantize_with(call, call->attrs, call->in[1], NULL);
}

bb_status bb_cpu_update_scale(bb_call *call) {
    const bb_update_scale_attrs *a = call->attrs;
    float *scale = (float *)(void *)call->in[0]->data,
          *history = (float *)(void *)call->in[1]->data;
    float amax = *(const float *)(const void *)call->in[2]->data, most = amax;
    if (bb_magnitude(amax) >= BB_F32_INFINITY) return BB_OK;
    int64_t n = call->in[1]->count;
    memmove(history + 1, history, (size_t)(n - 1) * sizeof *history);
    history[0] = amax;
    for (int64_t i = 1; i < n && !a->most_recent; i++) most = history[i] > most ? history[i] : most;
    *scale = bb_delayed_scale(*scale, most, ldexpf(bb_fp8_most(a->format), -(int)a->margin));
    return BB_OK;
}
