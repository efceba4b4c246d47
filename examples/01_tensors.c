/* Tensors, ops, gradients and errors in one page.
 *
 *     build/examples/example_01_tensors */
#include <math.h>
#include <stdio.h>

#include "bobbin.h"

/* Everything between here and bb_end_step lives in one step; nothing is freed by hand. */
static bool gradients(bb_context *ctx) {
    bb_tensor *w = bb_from(ctx, BB_F32, BB_SHAPE(2, 3), (const float[]){1, 2, 3, 4, 5, 6});
    bb_tensor *x = bb_from(ctx, BB_F32, BB_SHAPE(3), (const float[]){0.1f, 0.2f, 0.3f});
    bb_set_requires_grad(w, true);

    bb_tensor *y = bb_tanh(bb_matmul(w, x)); /* (2, 3) times (3) is (2) */
    bb_tensor *loss = bb_sum_all(bb_square(y));
    bb_backward(loss, NULL);

    printf("y = tanh(w x):\n");
    bb_print(y, stdout);
    printf("loss = sum of y^2: %.6f\ndloss/dw:\n", bb_item(loss));
    bb_print(bb_grad(w), stdout);

    /* By hand: dloss/dw[0][2] = 2 y (1 - y^2) x[2] with y = tanh(1.4). */
    double by_hand = 2 * tanh(1.4) * (1 - tanh(1.4) * tanh(1.4)) * 0.3;
    double got = bb_item(bb_select(bb_select(bb_grad(w), 0, 0), 0, 2));
    printf("dloss/dw[0][2] by hand: %.6f, by the tape: %.6f\n\n", by_hand, got);
    return fabs(got - by_hand) < 1e-6;
}

/* Views share storage: a transpose or a slice copies nothing. Shapes broadcast. */
static bool views(bb_context *ctx) {
    bb_tensor *table = bb_reshape(bb_arange(ctx, BB_F32, 0, 12, 1), BB_SHAPE(3, 4));
    bb_tensor *columns =
        bb_slice(bb_transpose(table, 0, 1), 0, 1, 3, 1); /* columns 1 and 2, as rows */
    bb_tensor *centered = bb_sub(columns, bb_mean(columns, BB_INTS(1), true));
    printf("columns 1 and 2 of a (3, 4) table, each minus its mean:\n");
    bb_print(centered, stdout);
    printf("\n");
    return bb_data(table) != NULL && (float *)bb_data(columns) == (float *)bb_data(table) + 1;
}

/* The first error sticks; later calls give NULL, so one check at the end of a step is enough. */
static bool errors(bb_context *ctx) {
    bb_tensor *a = bb_ones(ctx, BB_F32, BB_SHAPE(2, 3)), *b = bb_ones(ctx, BB_F32, BB_SHAPE(4, 5));
    bb_tensor *c = bb_exp(bb_matmul(a, b));
    bool caught = c == NULL && bb_error(ctx) == BB_ERR_ARGUMENT;
    printf("a mistake says what and where: %s\n", bb_error_message(ctx));
    bb_clear_error(ctx);
    return caught;
}

int main(void) {
    bb_context *ctx = bb_open(NULL);
    if (!ctx) return 1;
    bool good = gradients(ctx);
    good = views(ctx) && good;
    bb_end_step(ctx);
    good = errors(ctx) && good;
    good = good && bb_error(ctx) == BB_OK;
    bb_close(ctx);
    return good ? 0 : 1;
}
