/* A small network learns a function: y = sin(3 x) on [-1, 1]. Layers, an optimizer, a schedule.
 *
 *     build/examples/example_02_mlp */
#include <math.h>
#include <stdio.h>

#include "bobbin.h"

enum { POINTS = 64, HIDDEN = 32, STEPS = 400 };

typedef struct network {
    bb_nn_linear first, second, third;
} network;

static bb_tensor *predict(const network *net, bb_tensor *x) {
    x = bb_tanh(bb_nn_linear_forward(&net->first, x));
    x = bb_tanh(bb_nn_linear_forward(&net->second, x));
    return bb_nn_linear_forward(&net->third, x);
}

int main(void) {
    bb_context *ctx = bb_open(&(bb_options){.seed = 1});
    if (!ctx) return 1;

    float xs[POINTS], ys[POINTS];
    for (int i = 0; i < POINTS; i++) {
        xs[i] = -1 + 2 * (float)i / (POINTS - 1);
        ys[i] = sinf(3 * xs[i]);
    }
    /* bb_keep: these two are needed in every step, so they must outlive the first. */
    bb_tensor *x = bb_keep(bb_from(ctx, BB_F32, BB_SHAPE(POINTS, 1), xs));
    bb_tensor *y = bb_keep(bb_from(ctx, BB_F32, BB_SHAPE(POINTS, 1), ys));

    bb_params *params = bb_params_new(ctx, BB_CPU, BB_F32);
    network net = {bb_nn_linear_new(params, "first", 1, HIDDEN, true, 0),
                   bb_nn_linear_new(params, "second", HIDDEN, HIDDEN, true, 0),
                   bb_nn_linear_new(params, "third", HIDDEN, 1, true, 0)};
    bb_adamw *optimizer = bb_adamw_new(params, NULL);
    bb_schedule schedule = {.lr_max = 2e-2, .lr_min = 2e-4, .warmup = 10, .total = STEPS};
    printf("%lld parameters\n", (long long)bb_params_elements(params));

    double first = 0, last = 0;
    for (int step = 0; step < STEPS && !bb_error(ctx); step++) {
        bb_tensor *loss = bb_mean_all(bb_square(bb_sub(predict(&net, x), y)));
        bb_backward(loss, NULL);
        bb_adamw_step(optimizer, bb_schedule_lr(&schedule, step));
        bb_params_zero_grad(params);
        last = bb_item(loss);
        if (step == 0) first = last;
        if (step % 50 == 0 || step == STEPS - 1)
            printf("step %3d  mean squared error %.2e\n", step, last);
        bb_end_step(ctx);
    }
    if (bb_error(ctx)) fprintf(stderr, "%s\n", bb_error_message(ctx));

    bb_tensor *probe = bb_from(ctx, BB_F32, BB_SHAPE(1, 1), (const float[]){0.5f});
    printf("at 0.5: network %.4f, sin(1.5) %.4f\n", bb_item(predict(&net, probe)), sin(1.5));
    bool good = bb_error(ctx) == BB_OK && last < 1e-3 && last < first / 100;
    bb_close(ctx);
    return good ? 0 : 1;
}
