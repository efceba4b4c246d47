/* full, arange, rand, randn and dropout on the CPU. Which random number an element reads is laid
 * down in ops/create.c; it depends on the element's index only, so that any cut of the work gives
 * the same numbers. */
#include <math.h>
#include <string.h>

#include "backends/cpu/copy.h"
#include "backends/cpu/kernels.h"

/* CHUNK is a multiple of 4: chunks start at a Philox block. */
enum { CHUNK = 512, GRAIN = 8192 };

typedef struct job {
    const bb_elementwise_loops *loops;
    uint64_t seed, offset;
    double start, step, p; /* of arange, of dropout */
    const char *x;
    char *y;
    int dtype;
    int64_t bytes;
} job;

static job make_job(const bb_call *call) {
    const bb_tensor *out = call->out[0];
    return (job){.loops = bb_cpu_of(call->ctx)->loops->elementwise,
                 .y = out->data,
                 .dtype = out->dtype,
                 .bytes = (int64_t)bb_dtype_bytes((bb_dtype)out->dtype)};
}

bb_status bb_cpu_full(bb_call *call) {
    const bb_full_attrs *a = call->attrs;
    return bb_cpu_fill(call->ctx->backend[BB_CPU], call->out[0], a->value);
}

static void arange_piece(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    double chunk[CHUNK];
    for (int64_t i = begin; i < end; i += CHUNK) {
        int64_t n = end - i < CHUNK ? end - i : CHUNK;
        for (int64_t k = 0; k < n; k++) chunk[k] = j->start + (double)(i + k) * j->step;
        j->loops->store_f64(j->dtype, n, chunk, j->y + i * j->bytes);
    }
}

bb_status bb_cpu_arange(bb_call *call) {
    const bb_arange_attrs *a = call->attrs;
    job j = make_job(call);
    j.start = a->start;
    j.step = a->step;
    bb_cpu_for(bb_cpu_of(call->ctx), call->out[0]->count, GRAIN, arange_piece, &j);
    return BB_OK;
}

/* ---- Uniform numbers of elements [begin, begin + n); begin is a multiple of 4 */

static void uniform_f32(const job *j, int64_t begin, int64_t n, float *u) {
    for (int64_t k = 0; k < n; k += 4) {
        uint32_t lane[4];
        bb_philox(j->seed, j->offset + (uint64_t)(begin + k) / 4, lane);
        for (int64_t i = 0; i < 4; i++) u[k + i] = (float)(lane[i] >> 8) * 0x1p-24f;
    }
}

static void uniform_f64(const job *j, int64_t begin, int64_t n, double *u) {
    for (int64_t k = 0; k < n; k += 2) {
        uint32_t lane[4];
        bb_philox(j->seed, j->offset + (uint64_t)(begin + k) / 2, lane);
        u[k] = (double)(((uint64_t)lane[1] << 32 | lane[0]) >> 11) * 0x1p-53;
        u[k + 1] = (double)(((uint64_t)lane[3] << 32 | lane[2]) >> 11) * 0x1p-53;
    }
}

/* ---- rand, randn */

static void rand_piece(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    /* Rounding must not reach 1. */
    const float largest = j->dtype == BB_F16    ? 1.0f - 0x1p-11f
                          : j->dtype == BB_BF16 ? 1.0f - 0x1p-8f
                                                : 1.0f;
    for (int64_t i = begin; i < end; i += CHUNK) {
        int64_t n = end - i < CHUNK ? end - i : CHUNK;
        float chunk[CHUNK];
        uniform_f32(j, i, n, chunk);
        for (int64_t k = 0; k < n; k++) chunk[k] = chunk[k] > largest ? largest : chunk[k];
        j->loops->store_f32(j->dtype, n, chunk, j->y + i * j->bytes);
    }
}

static void rand_f64_piece(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    for (int64_t i = begin; i < end; i += CHUNK) {
        int64_t n = end - i < CHUNK ? end - i : CHUNK;
        double chunk[CHUNK];
        uniform_f64(j, i, n, chunk);
        memcpy(j->y + i * j->bytes, chunk, (size_t)n * sizeof *chunk);
    }
}

static void randn_piece(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    for (int64_t i = begin; i < end; i += CHUNK) {
        int64_t n = end - i < CHUNK ? end - i : CHUNK;
        float chunk[CHUNK];
        uniform_f32(j, i, n, chunk);
        for (int64_t k = 0; k < n; k += 2) {
            float r = sqrtf(-2.0f * logf(1.0f - chunk[k])), angle = 6.28318531f * chunk[k + 1];
            chunk[k] = r * cosf(angle);
            chunk[k + 1] = r * sinf(angle);
        }
        j->loops->store_f32(j->dtype, n, chunk, j->y + i * j->bytes);
    }
}

static void randn_f64_piece(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    for (int64_t i = begin; i < end; i += CHUNK) {
        int64_t n = end - i < CHUNK ? end - i : CHUNK;
        double chunk[CHUNK];
        uniform_f64(j, i, n, chunk);
        for (int64_t k = 0; k < n; k += 2) {
            double r = sqrt(-2.0 * log(1.0 - chunk[k])), angle = 6.283185307179586 * chunk[k + 1];
            chunk[k] = r * cos(angle);
            chunk[k + 1] = r * sin(angle);
        }
        memcpy(j->y + i * j->bytes, chunk, (size_t)n * sizeof *chunk);
    }
}

static bb_status random_op(bb_call *call, bb_piece_fn f32, bb_piece_fn f64) {
    const bb_random_attrs *a = call->attrs;
    job j = make_job(call);
    j.seed = (uint64_t)a->seed;
    j.offset = (uint64_t)a->offset;
    bb_cpu_for(bb_cpu_of(call->ctx), call->out[0]->count, GRAIN, j.dtype == BB_F64 ? f64 : f32, &j);
    return BB_OK;
}

bb_status bb_cpu_rand(bb_call *call) { return random_op(call, rand_piece, rand_f64_piece); }
bb_status bb_cpu_randn(bb_call *call) { return random_op(call, randn_piece, randn_f64_piece); }

/* ---- dropout */

/* p = 1 drops everything: u < 1 always, and 1/(1-p) is not used. */
static void dropout_piece(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    for (int64_t i = begin; i < end; i += CHUNK) {
        int64_t n = end - i < CHUNK ? end - i : CHUNK;
        float u[CHUNK], y[CHUNK];
        float p = (float)j->p, scale = (float)(1.0 / (1.0 - j->p));
        uniform_f32(j, i, n, u);
        j->loops->load_f32(j->dtype, n, j->x + i * j->bytes, 1, y);
        for (int64_t k = 0; k < n; k++) y[k] = u[k] < p ? 0.0f : y[k] * scale;
        j->loops->store_f32(j->dtype, n, y, j->y + i * j->bytes);
    }
}

static void dropout_f64_piece(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    const double *x = (const double *)(const void *)j->x;
    double *y = (double *)(void *)j->y, scale = 1.0 / (1.0 - j->p);
    float p = (float)j->p;
    for (int64_t i = begin; i < end; i += CHUNK) {
        int64_t n = end - i < CHUNK ? end - i : CHUNK;
        float u[CHUNK];
        uniform_f32(j, i, n, u);
        for (int64_t k = 0; k < n; k++) y[i + k] = u[k] < p ? 0.0 : x[i + k] * scale;
    }
}

/* A strided x is made contiguous in y first; the pieces then work in place. */
bb_status bb_cpu_dropout(bb_call *call) {
    const bb_dropout_attrs *a = call->attrs;
    const bb_tensor *x = call->in[0];
    job j = make_job(call);
    j.seed = (uint64_t)a->seed;
    j.offset = (uint64_t)a->offset;
    j.p = a->p;
    j.x = x->data;
    if (!x->contiguous) {
        bb_status status = bb_cpu_copy(call->ctx->backend[BB_CPU], x, call->out[0]);
        if (status) return status;
        j.x = call->out[0]->data;
    }
    bb_cpu_for(bb_cpu_of(call->ctx), x->count, GRAIN,
               j.dtype == BB_F64 ? dropout_f64_piece : dropout_piece, &j);
    return BB_OK;
}
