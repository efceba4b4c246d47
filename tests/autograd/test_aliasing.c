/* Backward where buffers are the same: the cotangent is an input, the output, or the gradient that
 * is about to be written; one tensor is several inputs. Every op, on each path, against the same
 * call with copies. Some library's backward kernels wrote over what they still had to read. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/test.h"
#include "tools/attrs.h"
#include "tools/op_cases.h"

enum { MAX_VALUES = 64 };

typedef struct results {
    double grad[BB_MAX_INPUTS][MAX_VALUES];
    bool there[BB_MAX_INPUTS];
} results;

/* What the cotangent is. */
typedef enum source { A_COPY_OF_THE_OUTPUT, THE_OUTPUT, A_COPY_OF_THE_INPUT, THE_INPUT } source;

static bool differentiable(const bb_op *op, const bb_op_case *c) {
    return op && op->gradient != bb_no_gradient && c->n > 0;
}

static bb_tensor *copy_of(bb_tensor *t) {
    char bytes[8 * MAX_VALUES];
    bb_read(t, bytes, (size_t)bb_count(t) * bb_dtype_bytes(bb_dtype_of(t)));
    return bb_from(bb_context_of(t), bb_dtype_of(t), bb_shape_of(t), bytes);
}

static bool same_form(const bb_tensor *a, const bb_tensor *b) {
    bb_shape x = bb_shape_of(a), y = bb_shape_of(b);
    return bb_shape_equal(&x, &y) && bb_dtype_of(a) == bb_dtype_of(b);
}

/* Runs the case; false: it has no input like its output (for THE_INPUT). */
static bool run(test *t, bb_context *ctx, const bb_op *op, const bb_op_case *c, bb_dtype dtype,
                source from, results *r) {
    bb_tensor *in[BB_MAX_INPUTS] = {NULL}, *out[BB_MAX_OUTPUTS] = {NULL}, *like = NULL;
    bb_any_attrs attrs;
    memset(r, 0, sizeof *r);
    bb_attrs_parse(ctx, op, c->attrs, &attrs);
    for (int i = 0; i < c->n; i++) {
        in[i] = bb_op_case_input_tensor(ctx, c, i, dtype);
        if (in[i] && bb_dtype_is_float(bb_dtype_of(in[i]))) bb_set_requires_grad(in[i], true);
    }
    bb_status status = bb_apply(ctx, op, in, c->n, op->attrs_bytes ? &attrs : NULL, out);
    for (int i = 0; status == BB_OK && i < c->n && !like; i++)
        if (in[i] && same_form(in[i], out[0])) like = in[i];
    bool by_input = from >= A_COPY_OF_THE_INPUT;
    if (status != BB_OK || !bb_requires_grad(out[0]) || (by_input && !like)) {
        bb_clear_error(ctx); /* f64 where the op has its own idea, or the kernel says no */
        bb_end_step(ctx);
        return false;
    }
    bb_tensor *seed = by_input ? like : out[0];
    if (!bb_is_contiguous(seed)) { /* its copy would be summed in another order */
        bb_end_step(ctx);
        return false;
    }
    bb_backward(out[0], from % 2 == 0 ? copy_of(seed) : seed);
    CHECK_MSG(t, bb_error(ctx) == BB_OK, "%s: %s", op->name, bb_error_message(ctx));
    for (int i = 0; i < c->n; i++) {
        bb_tensor *g = in[i] ? bb_grad(in[i]) : NULL;
        r->there[i] = g != NULL;
        if (g) bb_read_f64(g, r->grad[i], bb_count(g));
    }
    bb_clear_error(ctx);
    bb_end_step(ctx);
    return true;
}

static void test_cotangent_is_an_operand(test *t) {
    static const bb_dtype dtypes[] = {BB_F64, BB_F32, BB_BF16};
    bb_context *ctx = test_open();
    int compared = 0;
    for (int k = 0; k < bb_op_case_count; k++) {
        const bb_op_case *c = &bb_op_cases[k];
        const bb_op *op = bb_find_op(ctx, c->op);
        for (int d = 0; d < 3 && differentiable(op, c); d++) {
            for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
                for (int from = A_COPY_OF_THE_OUTPUT; from <= THE_INPUT; from += 2) {
                    results copied, same;
                    bb_set_path(ctx, (bb_path)path);
                    if (!run(t, ctx, op, c, dtypes[d], (source)from, &copied)) continue;
                    run(t, ctx, op, c, dtypes[d], (source)(from + 1), &same);
                    CHECK_MSG(
                        t, memcmp(&copied, &same, sizeof same) == 0,
                        "%s %s, case %d, path %d: other gradients when the cotangent is the %s",
                        op->name, bb_dtype_name(dtypes[d]), k, path, from ? "input" : "output");
                    compared++;
                }
            }
        }
    }
    CHECK_MSG(t, compared > 400, "%d comparisons", compared);
    bb_close(ctx);
}

/* op(x, x): the sum of the gradients that two copies of x get. */
static void test_one_tensor_is_two_inputs(test *t) {
    bb_context *ctx = test_open();
    int compared = 0;
    for (int k = 0; k < bb_op_case_count; k++) {
        const bb_op_case *c = &bb_op_cases[k];
        const bb_op *op = bb_find_op(ctx, c->op);
        bb_any_attrs attrs;
        if (!differentiable(op, c) || bb_attrs_parse(ctx, op, c->attrs, &attrs) != BB_OK) continue;
        for (int i = 0; i < c->n; i++) {
            for (int j = i + 1; j < c->n; j++) {
                bb_shape a = c->in[i].shape, b = c->in[j].shape;
                if (!bb_shape_equal(&a, &b) || !bb_draw_is_float(c->in[i].draw) ||
                    !bb_draw_is_float(c->in[j].draw))
                    continue;
                for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
                    bb_tensor *in[BB_MAX_INPUTS] = {NULL}, *out[BB_MAX_OUTPUTS], *seed = NULL;
                    double one[MAX_VALUES], two[MAX_VALUES], more[MAX_VALUES];
                    bb_set_path(ctx, (bb_path)path);
                    for (int same = 0; same < 2; same++) {
                        for (int m = 0; m < c->n; m++)
                            in[m] = bb_op_case_input_tensor(ctx, c, m, BB_F64);
                        bb_tensor *x = bb_set_requires_grad(in[i], true);
                        in[j] = same ? x : bb_set_requires_grad(copy_of(x), true);
                        bb_apply(ctx, op, in, c->n, op->attrs_bytes ? &attrs : NULL, out);
                        seed = bb_cos(bb_detach(out[0]));
                        bb_backward(out[0], seed);
                        CHECK_OK(t, ctx);
                        bb_read_f64(bb_grad(x), same ? two : one, bb_count(x));
                        if (!same) bb_read_f64(bb_grad(in[j]), more, bb_count(x));
                    }
                    int64_t n = bb_count(in[i]);
                    for (int64_t e = 0; e < n; e++)
                        CHECK_MSG(t, fabs(two[e] - one[e] - more[e]) <= 1e-13 * (1 + fabs(two[e])),
                                  "%s, inputs %d and %d, path %d: [%lld]: %g, expected %g + %g",
                                  op->name, i, j, path, (long long)e, two[e], one[e], more[e]);
                    compared++;
                    bb_end_step(ctx);
                }
            }
        }
    }
    CHECK_MSG(t, compared > 10, "%d comparisons", compared);
    bb_close(ctx);
}

/* ---- A leaf's own gradient as an operand */

static bb_tensor *leaf_with_gradient(bb_context *ctx, const double *values, const double *grad) {
    bb_tensor *w = bb_from_f64(ctx, BB_F64, BB_SHAPE(3), values);
    bb_set_requires_grad(w, true);
    bb_backward(bb_mul_scalar(w, 1), bb_from_f64(ctx, BB_F64, BB_SHAPE(3), grad));
    return w;
}

/* The cotangent is the gradient that the walk adds into, while other branches still read it. */
static void test_cotangent_is_the_leafs_gradient(test *t) {
    static const double values[] = {1, -2, 3}, grad[] = {0.5, 0.25, -1};
    bb_context *ctx = test_open();
    double got[3], v_grad[3];
    for (int zeroed = 0; zeroed < 2; zeroed++) {
        bb_tensor *w = leaf_with_gradient(ctx, values, grad);
        bb_tensor *v = bb_set_requires_grad(bb_from_f64(ctx, BB_F64, BB_SHAPE(3), values), true);
        bb_tensor *seed = bb_grad(w);
        if (zeroed) bb_zero_grad(w);
        /* The walk meets the last node first: w gets its gradient before v's is computed. */
        bb_tensor *first = bb_mul_scalar(v, 3), *last = bb_mul_scalar(w, 2);
        bb_backward(bb_add(first, last), seed);
        CHECK_OK(t, ctx);
        bb_read_f64(bb_grad(w), got, 3);
        bb_read_f64(bb_grad(v), v_grad, 3);
        for (int i = 0; i < 3; i++) {
            CHECK_NEAR(t, got[i], (zeroed ? 2 : 3) * grad[i], 1e-15);
            CHECK_NEAR(t, v_grad[i], 3 * grad[i], 1e-15);
        }
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

/* A fused kernel writes straight into a leaf's empty gradient, and that is its cotangent. */
static void test_cotangent_is_what_the_kernel_writes(test *t) {
    static const double values[] = {1, -2, 3}, grad[] = {0.5, 0.25, -1};
    bb_context *ctx = test_open();
    double got[3], expected[3];
    bb_tensor *scale = bb_full(ctx, BB_F64, BB_SHAPE(3), 1.5);
    bb_tensor *x = bb_set_requires_grad(bb_from_f64(ctx, BB_F64, BB_SHAPE(3), values), true);
    bb_backward(bb_rms_norm(x, scale, 1e-5), bb_from_f64(ctx, BB_F64, BB_SHAPE(3), grad));
    bb_read_f64(bb_grad(x), expected, 3);
    bb_tensor *w = leaf_with_gradient(ctx, values, grad), *seed = bb_grad(w);
    bb_zero_grad(w);
    bb_backward(bb_rms_norm(w, scale, 1e-5), seed);
    CHECK_OK(t, ctx);
    bb_read_f64(bb_grad(w), got, 3);
    for (int i = 0; i < 3; i++) CHECK_NEAR(t, got[i], expected[i], 1e-15);
    bb_close(ctx);
}

/* A gradient that an op has saved changes under the walk: an error, never a wrong number. */
static void test_saved_gradient_that_changes(test *t) {
    static const double values[] = {1, -2, 3}, grad[] = {0.5, 0.25, -1};
    bb_context *ctx = test_open();
    bb_tensor *w = leaf_with_gradient(ctx, values, grad), *g = bb_grad(w);
    /* The second product is walked first and adds into g, which the first one has saved. */
    bb_tensor *v = bb_set_requires_grad(bb_from_f64(ctx, BB_F64, BB_SHAPE(3), values), true);
    bb_tensor *first = bb_mul(v, g), *y = bb_add(first, bb_mul_scalar(w, 2));
    CHECK(t, bb_backward(y, bb_ones_like(y)) == BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "mul: a tensor it saved was changed in place");
    bb_close(ctx);
}

static const test_row rows[] = {
    {"cotangent_is_an_operand", test_cotangent_is_an_operand},
    {"one_tensor_is_two_inputs", test_one_tensor_is_two_inputs},
    {"cotangent_is_the_leafs_gradient", test_cotangent_is_the_leafs_gradient},
    {"cotangent_is_what_the_kernel_writes", test_cotangent_is_what_the_kernel_writes},
    {"saved_gradient_that_changes", test_saved_gradient_that_changes},
};
TEST_MAIN(rows)
