/* Which neighbours run as one: a table of patterns, one row each, the longer before the shorter. A
 * row's forward leaves in every member's context what that member's own backward reads, and a row's
 * backward reads what the members' own forwards leave. So each direction is chosen by itself, and a
 * chain may run fused one way and op by op the other.
 *
 * A row for a new fusion: its members' kinds, the two functions (NULL: not in this direction), and
 * in `fits` what must hold of the input beyond that. The first row that matches is taken. */
#include "nn/fusible/internal.h"

#define ADD &bb_kind_add_extra_input
#define OUT &bb_kind_make_extra_output
#define NORM &bb_kind_rms_norm
#define LINEAR &bb_kind_linear
#define BIAS &bb_kind_bias
#define QUANTIZE &bb_kind_quantize
#define ACT &bb_kind_activation

/* One dtype all through: no cast between addition and norm is left out. */
static bool sum_has_dtype(const bb_fusible_run *run) {
    const bb_tensor *x = run->input.tensor, *extra = run->extra_input[0];
    const bb_fusible_op *norm = run->op[run->n - 1];
    bb_dtype dtype =
        run->c[0].autocast ? run->c[0].autocast_dtype : (bb_dtype)norm->param[0]->dtype;
    bb_shape a = bb_shape_of(x), b = bb_shape_of(extra);
    return x && extra && bb_dtype_of(x) == dtype && bb_dtype_of(extra) == dtype &&
           bb_shape_equal(&a, &b);
}

/* The op's own product has the type and shape of what is added to it. */
static bool adds_to_product(const bb_fusible_run *run) {
    const bb_fusible_op *linear = run->op[0];
    const bb_tensor *extra = run->extra_input[run->n - 1], *x = run->input.tensor;
    if (!extra || !x || x->rank < 1) return false;
    bb_dtype dtype =
        run->c[0].autocast ? run->c[0].autocast_dtype : (bb_dtype)linear->param[0]->dtype;
    bb_shape want = bb_shape_of(x), got = bb_shape_of(extra);
    want.size[want.rank - 1] = linear->param[0]->size[0];
    return bb_dtype_of(extra) == dtype && bb_shape_equal(&want, &got);
}

/* A product, what is added to it, and the norm of the sum, in one dtype. */
static bool adds_and_normalizes(const bb_fusible_run *run) {
    const bb_fusible_op *norm = run->op[run->n - 1];
    bb_fusible_run head = *run;
    for (head.n = 2; head.op[head.n - 1]->kind != ADD;) head.n++;
    return adds_to_product(&head) &&
           (run->c[0].autocast || norm->param[0]->dtype == run->op[0]->param[0]->dtype);
}

/* The norm can write what the quantizer makes. */
static bool is_written_by_norm(const bb_fusible_run *run) {
    return bb_quantizer_in_norm(run->op[1]->kind->input_quantizer(run->op[1]));
}

/* A product that is added and normalized leaves the addition to the norm: it then writes its result
 * once, instead of reading what it is added to. */
static const bb_fusion fusions[] = {
    {"LinearBiasAddRMSNorm",
     5,
     {LINEAR, BIAS, ADD, OUT, NORM},
     adds_and_normalizes,
     bb_fused_linear_add_rms_norm,
     NULL},
    {"LinearAddRMSNorm",
     4,
     {LINEAR, ADD, OUT, NORM},
     adds_and_normalizes,
     bb_fused_linear_add_rms_norm,
     NULL},
    {"LinearBiasAddRMSNorm",
     4,
     {LINEAR, BIAS, ADD, NORM},
     adds_and_normalizes,
     bb_fused_linear_add_rms_norm,
     NULL},
    {"LinearAddRMSNorm",
     3,
     {LINEAR, ADD, NORM},
     adds_and_normalizes,
     bb_fused_linear_add_rms_norm,
     NULL},
    {"LinearBiasActivation", 3, {LINEAR, BIAS, ACT}, NULL, bb_fused_linear, NULL},
    {"LinearBiasAdd", 3, {LINEAR, BIAS, ADD}, adds_to_product, bb_fused_linear, NULL},
    {"AddRMSNorm",
     3,
     {ADD, OUT, NORM},
     sum_has_dtype,
     bb_fused_add_rms_norm,
     bb_fused_add_rms_norm_backward},
    {"LinearBias", 2, {LINEAR, BIAS}, NULL, bb_fused_linear, NULL},
    {"LinearAdd", 2, {LINEAR, ADD}, adds_to_product, bb_fused_linear, NULL},
    {"AddRMSNorm", 2, {ADD, NORM}, sum_has_dtype, bb_fused_add_rms_norm, NULL},
    {"RMSNormQuantize", 2, {NORM, QUANTIZE}, is_written_by_norm, bb_fused_rms_norm_quantize, NULL},
    {"BackwardAddRMSNorm", 2, {OUT, NORM}, NULL, NULL, bb_fused_add_rms_norm_backward},
};
enum { FUSIONS = sizeof fusions / sizeof fusions[0] };

const bb_fusion *bb_fusion_at(int index) {
    return index >= 0 && index < FUSIONS ? &fusions[index] : NULL;
}

static bool matches(const bb_fusion *f, bb_fusible_op *const *op) {
    for (int i = 0; i < f->n; i++)
        if (op[i]->kind != f->member[i]) return false;
    return true;
}

const bb_fusion *bb_fusion_forward(bb_fusible_run *run, int left) {
    int before = run->n;
    for (int i = 0; i < FUSIONS; i++) {
        const bb_fusion *f = &fusions[i];
        if (!f->forward || f->n > left || !matches(f, run->op)) continue;
        run->n = f->n;
        if (!f->fits || f->fits(run)) return f;
    }
    run->n = before;
    return NULL;
}

const bb_fusion *bb_fusion_backward(bb_fusible_op *const *op, int at) {
    for (int i = 0; i < FUSIONS; i++) {
        const bb_fusion *f = &fusions[i];
        if (f->backward && f->n <= at + 1 && matches(f, op + at + 1 - f->n)) return f;
    }
    return NULL;
}
