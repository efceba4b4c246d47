/* Fusible ops: RMSNorm called with a context of the caller's own, and a chain that norms, quantizes
 * and trains.
 *
 *     build/examples/example_06_fusible
 *     BOBBIN_TRACE=1 build/examples/example_06_fusible      (says which fusions ran) */
#include <math.h>
#include <stdio.h>

#include "bobbin.h"

enum { ROWS = 32, DIM = 64 };

/* Forward and backward by hand. The context keeps what backward reads; the norm writes fp8 itself,
 * because the quantizer says that it may. */
static bool by_hand(bb_context *ctx) {
    bb_params *params = bb_params_new(ctx, BB_CPU, BB_BF16);
    bb_fusible_op *norm =
        bb_fusible_rms_norm(params, "norm", BB_SHAPE(DIM),
                            &(bb_fusible_norm_options){.eps = 1e-5, .zero_centered_gamma = true});
    bb_quantizer *quantizer =
        bb_quantizer_new(ctx, BB_CPU, &(bb_quantizer_options){.recipe = BB_FP8_CURRENT});
    bb_op_context context = {.requires_grad = true};
    bb_tensor *x = bb_randn(ctx, BB_BF16, BB_SHAPE(ROWS, DIM));

    bb_link y = bb_fusible_forward(norm, &context, bb_link_of(x), NULL, quantizer);
    bb_tensor *dweight, *values = bb_dequantize(y.quantized);
    bb_link dx = bb_fusible_backward(norm, &context, bb_link_of(values), &dweight);

    double square = bb_item(bb_mean_all(bb_square(bb_cast(values, BB_F32))));
    printf("quantized norm: mean square %.4f, %lld bytes for %lld elements\n", square,
           (long long)bb_count(y.quantized->data), (long long)bb_count(x));
    printf("dx %s, dweight %s of %lld\n", bb_dtype_name(bb_dtype_of(dx.tensor)),
           bb_dtype_name(bb_dtype_of(dweight)), (long long)bb_count(dweight));
    bb_end_step(ctx);
    return bb_error(ctx) == BB_OK && fabs(square - 1) < 0.05;
}

/* A norm and a quantizer in a row: what comes out is quantized. */
static bool norm_and_quantize(bb_context *ctx) {
    bb_params *params = bb_params_new(ctx, BB_CPU, BB_F32);
    bb_quantizer *quantizer =
        bb_quantizer_new(ctx, BB_CPU, &(bb_quantizer_options){.recipe = BB_MXFP8});
    bb_chain *chain = bb_chain_new(ctx, "norm");
    bb_chain_append(chain, bb_fusible_rms_norm(params, "norm", BB_SHAPE(DIM), NULL));
    bb_chain_append(chain, bb_fusible_quantize(ctx, quantizer, NULL));
    bb_link y =
        bb_chain_forward_link(chain, bb_link_of(bb_randn(ctx, BB_F32, BB_SHAPE(ROWS, DIM))));
    printf("chain: %s\n", y.quantized ? bb_quantizer_name(y.quantized->quantizer) : "a tensor");
    bb_end_step(ctx);
    return y.quantized != NULL;
}

/* x + down(swiglu(up(norm(x)))) with fp8 products, one node on the tape. */
static bool train(bb_context *ctx) {
    bb_params *params = bb_params_new(ctx, BB_CPU, BB_BF16);
    bb_chain *mlp = bb_chain_new(ctx, "mlp");
    bb_chain_append(mlp, bb_fusible_rms_norm(params, "norm", BB_SHAPE(DIM), NULL));
    bb_chain_append(mlp, bb_fusible_linear(params, "up", DIM, 4 * DIM, 0));
    bb_chain_append(mlp, bb_fusible_activation(ctx, BB_ACT_SWIGLU));
    bb_chain_append(mlp, bb_fusible_linear(params, "down", 2 * DIM, DIM, 0));
    bb_chain_append(mlp, bb_fusible_add_extra_input(ctx));
    bb_chain_set_recipe(mlp, BB_CPU, &(bb_chain_recipe){.recipe = BB_FP8_DELAYED});
    bb_adamw *optimizer = bb_adamw_new(params, NULL);
    double first = 0, last = 0;
    for (int step = 0; step < 60; step++) {
        bb_set_rng(ctx, (bb_rng){1, 0});
        bb_tensor *x = bb_randn(ctx, BB_BF16, BB_SHAPE(ROWS, DIM));
        bb_tensor *target = bb_randn(ctx, BB_F32, BB_SHAPE(ROWS, DIM));
        bb_tensor *y = bb_chain_forward_with(mlp, x, &x, 1, NULL, 0);
        bb_tensor *loss = bb_mean_all(bb_square(bb_sub(bb_cast(y, BB_F32), target)));
        bb_backward(loss, NULL);
        last = bb_item(loss);
        if (step == 0) first = last;
        bb_adamw_step(optimizer, 1e-2);
        bb_chain_update_quantizers(mlp); /* delayed scaling looks at what this step saw */
        bb_params_zero_grad(params);
        bb_end_step(ctx);
    }
    printf("trained in fp8: loss %.4f, then %.4f\n", first, last);
    return bb_error(ctx) == BB_OK && last < first / 4;
}

int main(void) {
    bb_context *ctx = bb_open(NULL);
    if (!ctx) return 1;
    bool ok = by_hand(ctx) && norm_and_quantize(ctx) && train(ctx);
    if (!ok) fprintf(stderr, "06_fusible: %s\n", bb_error_message(ctx));
    bb_close(ctx);
    return ok ? 0 : 1;
}
