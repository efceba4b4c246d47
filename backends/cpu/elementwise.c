/* Elementwise ops on the CPU: from tensors of any dtype, stride and broadcast to the loops of
 * loops/elementwise.h.
 *
 * Three ways, fastest first:
 *   whole   all contiguous (or one element) and of the compute type: the loop runs on them directly
 *   rows    of the compute type, inner strides 0 or 1, long rows: the loop runs row by row
 *   chunks  anything else: 512 elements at a time are gathered, computed, and converted back
 * The op files are ops/unary.c, scalar.c, binary.c, compare.c. */
#include "backends/cpu/chunk.h"
#include "backends/cpu/copy.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/walk.h"

enum {
    CHUNK = 512,
    LONG_ROW = 64,    /* shorter ones gain from being gathered into chunks */
    GRAIN = 32768,    /* elements of a piece; 128 KiB of f32, so that several fit into L2 */
    GRAIN_SLOW = 8192 /* where an element costs tens of nanoseconds */
};

typedef struct job {
    const bb_elementwise_loops *loops;
    bb_span_fn fn;
    bb_span span; /* of all elements; pieces take parts of it */
    int n_in;
    int dtype[3], as[3]; /* of input k, and what the loop wants */
    int out_dtype, out_as;
    const bb_tensor *const *in;
    const bb_walk *walk;
} job;

static const bb_elementwise_loops *loops_of(const bb_call *call) {
    return bb_cpu_of(call->ctx)->loops->elementwise;
}

static size_t bytes_of(int dtype) { return bb_dtype_bytes((bb_dtype)dtype); }

/* ---- Whole */

static void whole_piece(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    bb_span s = j->span;
    s.n = end - begin;
    for (int k = 0; k < j->n_in; k++)
        s.x[k] = (const char *)s.x[k] + begin * s.stride[k] * (int64_t)bytes_of(j->as[k]);
    s.y = (char *)s.y + begin * (int64_t)bytes_of(j->out_as);
    j->fn(&s);
}

static bool is_whole(const bb_call *call, job *j) {
    const bb_tensor *out = call->out[0];
    if (j->out_dtype != j->out_as) return false;
    for (int k = 0; k < j->n_in; k++) {
        const bb_tensor *x = call->in[k];
        if (j->dtype[k] != j->as[k]) return false;
        if (x->contiguous && x->count == out->count)
            j->span.stride[k] = 1;
        else if (x->count == 1)
            j->span.stride[k] = 0;
        else
            return false;
    }
    return true;
}

/* ---- Rows */

static void row_piece(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    const bb_walk *w = j->walk;
    int64_t length = bb_walk_row(w), row = begin / length, at = begin % length;
    bb_cursor c;
    bb_walk_seek(w, row, &c);
    for (int64_t i = begin; i < end;) {
        bb_span s = j->span;
        s.n = length - at < end - i ? length - at : end - i;
        for (int k = 0; k < j->n_in; k++) {
            s.stride[k] = w->stride[k][w->rank - 1];
            s.x[k] = (const char *)s.x[k] +
                     (c.offset[k] + at * s.stride[k]) * (int64_t)bytes_of(j->as[k]);
        }
        s.y = (char *)s.y + i * (int64_t)bytes_of(j->out_as);
        j->fn(&s);
        i += s.n;
        at = 0;
        bb_walk_next(w, &c);
    }
}

static bool has_rows(const job *j) {
    const bb_walk *w = j->walk;
    if (j->out_dtype != j->out_as || bb_walk_row(w) < LONG_ROW) return false;
    for (int k = 0; k < j->n_in; k++) {
        int64_t stride = w->stride[k][w->rank - 1];
        if (j->dtype[k] != j->as[k] || (stride != 0 && stride != 1)) return false;
    }
    return true;
}

/* ---- Chunks */

/* Elements [begin, begin + n) of input k in the order of the output. */
static void gather(const job *j, int k, int64_t begin, int64_t n, char *y) {
    const bb_walk *w = j->walk;
    int64_t length = bb_walk_row(w), stride = w->stride[k][w->rank - 1], at = begin % length;
    int64_t bytes = (int64_t)bytes_of(j->dtype[k]), out_bytes = (int64_t)bytes_of(j->as[k]);
    bb_cursor c;
    bb_walk_seek(w, begin / length, &c);
    for (int64_t i = 0; i < n;) {
        int64_t m = length - at < n - i ? length - at : n - i;
        const char *x = (const char *)j->span.x[k] + (c.offset[k] + at * stride) * bytes;
        if (j->as[k] == BB_BOOL) /* a condition: bytes as they are */
            for (int64_t q = 0; q < m; q++) y[i + q] = x[q * stride];
        else
            bb_chunk_load(j->loops, j->as[k], j->dtype[k], m, x, stride, y + i * out_bytes);
        i += m;
        at = 0;
        bb_walk_next(w, &c);
    }
}

/* A large input whose innermost axis is far from contiguous would miss the cache at every element.
 * The copy of copy.c does not, and pays for itself. */
static bool is_transposed(const bb_tensor *x) {
    int last = x->rank - 1;
    return x->count >= 4096 && !x->contiguous && x->size[last] >= 8 && x->stride[last] > 1;
}

static bb_status pack(const bb_call *call, const bb_tensor *x, bb_tensor *packed,
                      bb_storage **scratch) {
    *scratch = bb_cpu_scratch(call, (size_t)x->count * bytes_of(x->dtype));
    if (!*scratch) return bb_error(call->ctx);
    *packed = *x;
    packed->data = (*scratch)->data;
    bb_set_strides(packed);
    return bb_cpu_copy(call->ctx->backend[BB_CPU], x, packed);
}

static void chunk_piece(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    uint64_t in[3][CHUNK], out[CHUNK];
    for (int64_t i = begin; i < end; i += CHUNK) {
        bb_span s = j->span;
        char *y = (char *)j->span.y + i * (int64_t)bytes_of(j->out_dtype);
        s.n = end - i < CHUNK ? end - i : CHUNK;
        for (int k = 0; k < j->n_in; k++) {
            gather(j, k, i, s.n, (char *)in[k]);
            s.x[k] = in[k];
            s.stride[k] = 1;
        }
        s.y = j->out_dtype == j->out_as ? (void *)y : (void *)out;
        j->fn(&s);
        if (j->out_dtype != j->out_as)
            bb_chunk_store(j->loops, j->out_as, j->out_dtype, s.n, out, y);
    }
}

static bb_status run_strided(bb_call *call, job *j, int64_t grain) {
    const bb_tensor *in[3];
    bb_tensor packed[3];
    bb_storage *scratch[3] = {NULL};
    bb_status status = BB_OK;
    bb_walk walk;
    for (int k = 0; k < j->n_in && status == BB_OK; k++) {
        in[k] = call->in[k];
        if (!is_transposed(in[k])) continue;
        status = pack(call, in[k], &packed[k], &scratch[k]);
        j->span.x[k] = packed[k].data;
        in[k] = &packed[k];
    }
    if (status == BB_OK) {
        bb_walk_make(&walk, call->out[0], j->n_in, in);
        j->walk = &walk;
        bb_cpu_for(bb_cpu_of(call->ctx), walk.count, grain, has_rows(j) ? row_piece : chunk_piece,
                   j);
    }
    for (int k = 0; k < j->n_in; k++) bb_storage_unref(scratch[k]);
    return status;
}

/* ---- The one way in */

typedef struct manner {
    double a, b; /* the op's numbers */
    int64_t grain;
    bool test;      /* the result is bool, whatever is compared */
    bool condition; /* input 0 is bool, whatever is chosen */
} manner;

static bb_status run(bb_call *call, const bb_map_loop *loop, manner m) {
    const bb_cpu *cpu = bb_cpu_of(call->ctx);
    const bb_tensor *out = call->out[0];
    int dtype = call->in[call->n_in - 1]->dtype, compute = bb_compute_dtype(dtype);
    job j = {.loops = cpu->loops->elementwise,
             .fn = bb_loop_for(loop, compute),
             .span = {.n = out->count, .y = out->data, .a = m.a, .b = m.b},
             .n_in = call->n_in,
             .out_dtype = out->dtype,
             .out_as = m.test ? BB_BOOL : compute};
    if (out->count == 0) return BB_OK;
    if (!j.fn)
        return bb_fail_input(call, 0, "expected a float dtype, got %s",
                             bb_dtype_name((bb_dtype)dtype));
    for (int k = 0; k < j.n_in; k++) {
        j.dtype[k] = call->in[k]->dtype;
        j.as[k] = m.condition && k == 0 ? BB_BOOL : compute;
        j.span.x[k] = call->in[k]->data;
    }
    if (is_whole(call, &j)) {
        if (out->count <= m.grain)
            j.fn(&j.span);
        else
            bb_cpu_for(cpu, out->count, m.grain, whole_piece, &j);
        return BB_OK;
    }
    return run_strided(call, &j, m.grain);
}

static bb_status map(bb_call *call, const bb_map_loop *loop) {
    return run(call, loop, (manner){.grain = GRAIN});
}
static bb_status slow(bb_call *call, const bb_map_loop *loop) {
    return run(call, loop, (manner){.grain = GRAIN_SLOW});
}
static bb_status test(bb_call *call, const bb_map_loop *loop) {
    return run(call, loop, (manner){.grain = GRAIN, .test = true});
}
static bb_status scalar(bb_call *call, const bb_map_loop *loop, int64_t grain) {
    const bb_scalar_attrs *attrs = call->attrs;
    return run(call, loop, (manner){.a = attrs->value, .grain = grain});
}

bb_status bb_cpu_neg(bb_call *call) { return map(call, &loops_of(call)->neg); }
bb_status bb_cpu_abs(bb_call *call) { return map(call, &loops_of(call)->abs); }
bb_status bb_cpu_sign(bb_call *call) { return map(call, &loops_of(call)->sign); }
bb_status bb_cpu_exp(bb_call *call) { return slow(call, &loops_of(call)->exp); }
bb_status bb_cpu_log(bb_call *call) { return slow(call, &loops_of(call)->log); }
bb_status bb_cpu_sqrt(bb_call *call) { return map(call, &loops_of(call)->sqrt); }
bb_status bb_cpu_rsqrt(bb_call *call) { return map(call, &loops_of(call)->rsqrt); }
bb_status bb_cpu_sin(bb_call *call) { return slow(call, &loops_of(call)->sin); }
bb_status bb_cpu_cos(bb_call *call) { return slow(call, &loops_of(call)->cos); }
bb_status bb_cpu_tanh(bb_call *call) { return slow(call, &loops_of(call)->tanh); }
bb_status bb_cpu_sigmoid(bb_call *call) { return slow(call, &loops_of(call)->sigmoid); }
bb_status bb_cpu_relu(bb_call *call) { return map(call, &loops_of(call)->relu); }
bb_status bb_cpu_erf(bb_call *call) { return slow(call, &loops_of(call)->erf); }
bb_status bb_cpu_square(bb_call *call) { return map(call, &loops_of(call)->square); }
bb_status bb_cpu_reciprocal(bb_call *call) { return map(call, &loops_of(call)->reciprocal); }
bb_status bb_cpu_add(bb_call *call) { return map(call, &loops_of(call)->add); }
bb_status bb_cpu_sub(bb_call *call) { return map(call, &loops_of(call)->sub); }
bb_status bb_cpu_mul(bb_call *call) { return map(call, &loops_of(call)->mul); }
bb_status bb_cpu_div(bb_call *call) { return map(call, &loops_of(call)->div); }
bb_status bb_cpu_maximum(bb_call *call) { return map(call, &loops_of(call)->maximum); }
bb_status bb_cpu_minimum(bb_call *call) { return map(call, &loops_of(call)->minimum); }
bb_status bb_cpu_eq(bb_call *call) { return test(call, &loops_of(call)->eq); }
bb_status bb_cpu_ne(bb_call *call) { return test(call, &loops_of(call)->ne); }
bb_status bb_cpu_lt(bb_call *call) { return test(call, &loops_of(call)->lt); }
bb_status bb_cpu_le(bb_call *call) { return test(call, &loops_of(call)->le); }
bb_status bb_cpu_gt(bb_call *call) { return test(call, &loops_of(call)->gt); }
bb_status bb_cpu_ge(bb_call *call) { return test(call, &loops_of(call)->ge); }

bb_status bb_cpu_pow(bb_call *call) { return scalar(call, &loops_of(call)->pow, GRAIN_SLOW); }
bb_status bb_cpu_add_scalar(bb_call *call) {
    return scalar(call, &loops_of(call)->add_scalar, GRAIN);
}
bb_status bb_cpu_mul_scalar(bb_call *call) {
    return scalar(call, &loops_of(call)->mul_scalar, GRAIN);
}
bb_status bb_cpu_clamp(bb_call *call) {
    const bb_clamp_attrs *attrs = call->attrs;
    return run(call, &loops_of(call)->clamp,
               (manner){.a = attrs->min, .b = attrs->max, .grain = GRAIN});
}
bb_status bb_cpu_where(bb_call *call) {
    return run(call, &loops_of(call)->where, (manner){.grain = GRAIN, .condition = true});
}
