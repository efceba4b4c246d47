/* An op of your own: the same record as the built-in ones, with its shape rule, gradient rule and
 * kernel.
 *
 *     softplus(x) = log(1 + exp(beta x)) / beta        d softplus / dx = sigmoid(beta x)
 *
 *     build/examples/example_05_own_op */
#include <math.h>
#include <stddef.h>
#include <stdio.h>

#include "bobbin.h"

typedef struct softplus_attrs {
    double beta;
} softplus_attrs;

/* Checks the input and says what the output will be. */
static bb_status softplus_infer(bb_call *call) {
    bb_dtype dtype = bb_dtype_of(call->in[0]);
    const softplus_attrs *attrs = call->attrs;
    if (dtype != BB_F64 && dtype != BB_F32)
        return bb_fail_input(call, 0, "expected f64 or f32, got %s", bb_dtype_name(dtype));
    if (!(attrs->beta > 0))
        return bb_fail_attr(call, "beta", "expected more than 0, got %g", attrs->beta);
    call->meta[0] = (bb_meta){dtype, bb_shape_of(call->in[0])};
    return BB_OK;
}

/* Written with ops, so that it can be differentiated again. The tape adds; a rule only gives. */
static bb_status softplus_gradient(const bb_grad_call *grad) {
    const softplus_attrs *attrs = grad->call->attrs;
    if (!grad->want[0]) return BB_OK;
    bb_tensor *slope = bb_sigmoid(bb_mul_scalar(grad->call->in[0], attrs->beta));
    grad->grad_in[0] = bb_mul(grad->grad_out[0], slope);
    return grad->grad_in[0] ? BB_OK : bb_error(grad->call->ctx);
}

static double softplus(double x, double beta) {
    double z = beta * x;
    return (fmax(z, 0) + log1p(exp(-fabs(z)))) / beta; /* does not overflow */
}

/* Where element i (row-major) of t stands: inputs of a kernel may have any strides. */
static int64_t place(const bb_tensor *t, int64_t i) {
    int64_t at = 0;
    for (int axis = bb_rank(t) - 1; axis >= 0; axis--) {
        at += i % bb_size(t, axis) * bb_stride(t, axis);
        i /= bb_size(t, axis);
    }
    return at;
}

/* The CPU kernel. The output is there already, contiguous; all of it is written. */
static bb_status softplus_cpu(bb_call *call) {
    const softplus_attrs *attrs = call->attrs;
    bb_tensor *x = call->in[0], *y = call->out[0];
    const void *from = bb_data(x);
    void *to = bb_data(y);
    for (int64_t i = 0; i < bb_count(y); i++)
        if (bb_dtype_of(y) == BB_F64)
            ((double *)to)[i] = softplus(((const double *)from)[place(x, i)], attrs->beta);
        else
            ((float *)to)[i] = (float)softplus(((const float *)from)[place(x, i)], attrs->beta);
    return BB_OK;
}

static const bb_op softplus_op = {
    .name = "softplus",
    .doc = "log(1 + exp(beta x)) / beta",
    .inputs = {"x"},
    .outputs = {"y"},
    .attrs = {{"beta", BB_ATTR_FLOAT, offsetof(softplus_attrs, beta), .value = 1}},
    .attrs_bytes = sizeof(softplus_attrs),
    .saves_inputs = 1u << 0, /* the gradient rule reads x */
    .infer = softplus_infer,
    .gradient = softplus_gradient,
};
static const bb_kernel softplus_kernel = {.op = "softplus", .forward = softplus_cpu};

/* A function to check: softplus with beta 2. */
static bb_tensor *function(void *user, bb_tensor *const *inputs, int n) {
    (void)n;
    return bb_apply1(user, &softplus_op, inputs, 1, &(softplus_attrs){2});
}

int main(void) {
    bb_context *ctx = bb_open(NULL);
    if (!ctx) return 1;
    bb_register_op(ctx, &softplus_op);
    bb_register_kernel(ctx, BB_CPU, &softplus_kernel);

    bb_tensor *x = bb_from_f64(ctx, BB_F64, BB_SHAPE(5), (const double[]){-1000, -1, 0, 1, 1000});
    printf("softplus:\n");
    bb_print(bb_apply1(ctx, &softplus_op, &x, 1, NULL), stdout);

    bb_tensor *z = bb_set_requires_grad(bb_randn(ctx, BB_F64, BB_SHAPE(3, 4)), true);
    bb_gradcheck_report first = {0}, second = {0};
    bb_gradcheck(ctx, function, ctx, &z, 1, NULL, &first);
    bb_gradgradcheck(ctx, function, ctx, &z, 1, NULL, &second);
    printf("gradient check: %s (worst error %.3f of what is allowed)\n",
           first.passed ? "passed" : "FAILED", first.error);
    printf("gradient of the gradient: %s (%.3f)\n", second.passed ? "passed" : "FAILED",
           second.error);

    bool good = bb_error(ctx) == BB_OK && first.passed && second.passed;
    bb_apply1(ctx, &softplus_op, &x, 1, &(softplus_attrs){-1});
    printf("a bad attribute: %s\n", bb_error_message(ctx));
    good = good && bb_error(ctx) == BB_ERR_ARGUMENT;
    bb_close(ctx);
    return good ? 0 : 1;
}
