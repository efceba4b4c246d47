/* Dequantize on the CPU. Layouts: ops/quantize.c; loops: loops/quantize.c. The stored matrix is
 * (P, Q), which is the result's matrix or, for transposed columns, its transpose. */
#include <string.h>

#include "backends/cpu/kernels.h"
#include "backends/cpu/pack.h"
#include "backends/fp8.h"

/* A strip is 1 x WIDE, or SIDE x SIDE where it is turned. */
enum { WIDE = 1024, SIDE = 32, PIECE = 16384 };

typedef struct dequantize_job {
    const bb_loops *loops;
    const bb_dequantize_attrs *attrs;
    bb_recipe_form form;
    const uint8_t *data;
    const char *scale;
    bb_tensor *y;
    int64_t rows, columns; /* P, Q */
    int kind;
    float whole; /* nvfp4: what all scales are multiplied by; 1 */
    bool turned;
} dequantize_job;

static float scale_at(const dequantize_job *job, int64_t i) {
    uint8_t code = 0;
    float s;
    if (job->form.scale_dtype == BB_F32) {
        memcpy(&s, job->scale + 4 * i, 4);
        return s;
    }
    memcpy(&code, job->scale + i, 1);
    return job->form.packed ? bb_e4m3_to_f32(code) * job->whole : bb_e8m0_to_f32(code);
}

/* What elements [column, column + n) of stored row `row` are multiplied by. */
static void factors(const dequantize_job *job, int64_t row, int64_t column, int64_t n,
                    float *factor) {
    int64_t block = job->form.block;
    if (block == 0) {
        float s = scale_at(job, 0);
        for (int64_t i = 0; i < n; i++) factor[i] = s;
        return;
    }
    if (job->attrs->columns && !job->form.transposed) { /* a run goes down */
        for (int64_t i = 0; i < n; i++)
            factor[i] = scale_at(job, row / block * job->columns + column + i);
        return;
    }
    int64_t across = job->columns / block + (job->columns % block != 0);
    int64_t line = job->attrs->square && job->attrs->recipe == BB_FP8_BLOCK ? row / block : row;
    for (int64_t i = 0; i < n;) {
        int64_t b = (column + i) / block, end = (b + 1) * block - column;
        float s = scale_at(job, line * across + b);
        for (; i < n && i < end; i++) factor[i] = s;
    }
}

/* Elements [column, column + n) of stored row `row`, n <= WIDE; column is even. */
static void strip(const dequantize_job *job, int64_t row, int64_t column, int64_t n, float *y) {
    uint8_t open[WIDE];
    float factor[WIDE];
    const uint8_t *codes = job->data + row * job->columns + column;
    if (job->form.packed) {
        codes = job->data + (row * job->columns + column) / 2;
        for (int64_t i = 0; i < n; i++) open[i] = codes[i / 2] >> (i % 2 * 4) & 15;
        codes = open;
    }
    factors(job, row, column, n, factor);
    job->loops->quantize->decode_each(job->kind, n, codes, factor, y);
}

static void put(const dequantize_job *job, int64_t at, int64_t n, const float *values) {
    int dtype = job->y->dtype;
    job->loops->elementwise->store_f32(
        dtype, n, values, job->y->data + at * (int64_t)bb_dtype_bytes((bb_dtype)dtype));
}

static void plain_piece(void *user, int64_t first, int64_t last) {
    const dequantize_job *job = user;
    float y[WIDE];
    for (int64_t row = first; row < last; row++)
        for (int64_t at = 0; at < job->columns; at += WIDE) {
            int64_t n = job->columns - at < WIDE ? job->columns - at : WIDE;
            strip(job, row, at, n, y);
            put(job, row * job->columns + at, n, y);
        }
}

/* Items are SIDE stored rows, which are columns of the result. */
static void turned_piece(void *user, int64_t first, int64_t last) {
    const dequantize_job *job = user;
    float tile[SIDE * SIDE], line[SIDE];
    for (int64_t p = first * SIDE; p < last * SIDE && p < job->rows; p += SIDE) {
        int64_t m = job->rows - p < SIDE ? job->rows - p : SIDE;
        for (int64_t q = 0; q < job->columns; q += SIDE) {
            int64_t n = job->columns - q < SIDE ? job->columns - q : SIDE;
            for (int64_t i = 0; i < m; i++) strip(job, p + i, q, n, tile + i * SIDE);
            for (int64_t k = 0; k < n; k++) {
                for (int64_t i = 0; i < m; i++) line[i] = tile[i * SIDE + k];
                put(job, (q + k) * job->rows + p, m, line);
            }
        }
    }
}

static bb_status run(const bb_call *call, const bb_tensor *data, const bb_tensor *scale) {
    const bb_dequantize_attrs *a = call->attrs;
    const bb_cpu *cpu = bb_cpu_of(call->ctx);
    dequantize_job job = {.loops = cpu->loops,
                          .attrs = a,
                          .form = bb_recipe_forms[a->recipe],
                          .data = (const uint8_t *)data->data,
                          .scale = scale->data,
                          .y = call->out[0],
                          .rows = 1,
                          .columns = data->size[data->rank - 1]};
    for (int i = 0; i < data->rank - 1; i++) job.rows *= data->size[i];
    job.columns *= job.form.packed ? 2 : 1;
    job.kind = job.form.packed ? BB_CODE_E2M1 : a->format;
    job.turned = a->columns && job.form.transposed;
    job.whole =
        call->in[2] ? bb_nvfp4_whole_inv(*(const float *)(const void *)call->in[2]->data) : 1.0f;
    if (job.y->count == 0) return BB_OK;
    if (job.turned)
        bb_cpu_for(cpu, job.rows / SIDE + (job.rows % SIDE != 0),
                   bb_cpu_grain(SIDE * job.columns, PIECE), turned_piece, &job);
    else
        bb_cpu_for(cpu, job.rows, bb_cpu_grain(job.columns, PIECE), plain_piece, &job);
    return BB_OK;
}

bb_status bb_cpu_dequantize(bb_call *call) {
    bb_tensor *copies[2];
    const bb_tensor *data = bb_cpu_pack(call->in[0], call->in[0]->contiguous, BB_U8, &copies[0]);
    if (!data) return call->ctx->status;
    const bb_tensor *scale =
        bb_cpu_pack(call->in[1], call->in[1]->contiguous, (bb_dtype)call->in[1]->dtype, &copies[1]);
    bb_status status = scale ? run(call, data, scale) : call->ctx->status;
    bb_drop(copies[0]);
    bb_drop(copies[1]);
    return status;
}
