/* RMSNormImpl is one op: it can run fused, as one kernel with one node on the tape, or composed, as
 * the primitives it stands for. Both give the same numbers and the same gradients.
 *
 *     build/examples/example_03_rms_norm
 *     BOBBIN_TRACE=1 build/examples/example_03_rms_norm      (says how each call ran) */
#include <math.h>
#include <stdio.h>

#include "bobbin.h"

enum { ROWS = 64, DIM = 768 };

typedef struct result {
    float y[ROWS * DIM], dx[ROWS * DIM], dscale[DIM];
} result;

/* The same numbers each time: the generator is set back first. */
static bool run(bb_context *ctx, bb_path path, result *r) {
    bb_set_rng(ctx, (bb_rng){7, 0});
    bb_set_path(ctx, path);
    bb_tensor *x = bb_set_requires_grad(bb_randn(ctx, BB_F32, BB_SHAPE(ROWS, DIM)), true);
    bb_tensor *scale = bb_set_requires_grad(bb_rand(ctx, BB_F32, BB_SHAPE(DIM)), true);
    bb_tensor *cotangent = bb_randn(ctx, BB_F32, BB_SHAPE(ROWS, DIM));

    bb_tensor *y = bb_rms_norm(x, scale, 1e-5);
    printf("%-8s  %2d node%s on the tape:", path == BB_PATH_FUSED ? "fused" : "composed",
           bb_tape_length(ctx), bb_tape_length(ctx) == 1 ? "" : "s");
    for (int i = 0; i < bb_tape_length(ctx); i++) printf(" %s", bb_tape_op(ctx, i)->name);
    printf("\n");
    bb_backward(y, cotangent);
    bb_read(y, r->y, sizeof r->y);
    bb_read(bb_grad(x), r->dx, sizeof r->dx);
    bb_read(bb_grad(scale), r->dscale, sizeof r->dscale);
    bb_end_step(ctx);
    return bb_error(ctx) == BB_OK;
}

/* The largest difference, in units of the largest value. */
static double difference(const float *a, const float *b, int n) {
    double most = 0, top = 0;
    for (int i = 0; i < n; i++) {
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
        top = fmax(top, fabs((double)a[i]));
    }
    return most / top;
}

/* The layer owns its scale. With n_heads, one op norms all query and key heads, each with a scale
 * of its own. */
static bool layers(bb_context *ctx) {
    bb_params *params = bb_params_new(ctx, BB_CPU, BB_F32);
    bb_nn_rms_norm norm = bb_nn_rms_norm_new(params, "norm", 64, 1e-5, 0);
    bb_nn_rms_norm qk_norm = bb_nn_rms_norm_new(params, "qk_norm", 16, 1e-5, 12);
    bb_params_build(params);
    bb_tensor *y = bb_nn_rms_norm_forward(&norm, bb_randn(ctx, BB_F32, BB_SHAPE(2, 8, 64)));
    bb_tensor *qk = bb_nn_rms_norm_forward(&qk_norm, bb_randn(ctx, BB_F32, BB_SHAPE(2, 12, 8, 16)));
    printf("norm.weight:    ");
    bb_print(norm.weight, stdout);
    printf("qk_norm.weight: one scale of 16 for each of 12 heads, %lld elements\n",
           (long long)bb_count(qk_norm.weight));
    double square = bb_item(bb_mean_all(bb_square(y)));
    printf("mean square after the norm: %.6f\n", square);
    return qk && fabs(square - 1) < 1e-3;
}

int main(void) {
    static result fused, composed;
    bb_context *ctx = bb_open(NULL);
    if (!ctx) return 1;
    bool good = run(ctx, BB_PATH_FUSED, &fused) && run(ctx, BB_PATH_COMPOSED, &composed);
    double y = difference(fused.y, composed.y, ROWS * DIM),
           dx = difference(fused.dx, composed.dx, ROWS * DIM);
    double dscale = difference(fused.dscale, composed.dscale, DIM);
    printf("fused against composed: y %.1e, dx %.1e, dscale %.1e\n", y, dx, dscale);
    good = good && y < 1e-6 && dx < 2e-6 && dscale < 2e-6;
    bb_set_path(ctx, BB_PATH_AUTO);
    good = layers(ctx) && good;
    if (bb_error(ctx)) fprintf(stderr, "%s\n", bb_error_message(ctx));
    bb_close(ctx);
    return good ? 0 : 1;
}
