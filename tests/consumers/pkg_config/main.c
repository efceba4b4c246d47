/* Bobbin from plain C11 with what pkg-config says; headers by their folders' names. */
#include <stdio.h>

#include "autograd/autograd.h"
#include "core/core.h"
#include "io/io.h"
#include "nn/nn.h"
#include "ops/ops.h"

int main(void) {
    bb_context *ctx = bb_open(NULL);
    bb_tensor *x =
        bb_set_requires_grad(bb_from_f64(ctx, BB_F32, BB_SHAPE(3), (double[]){1, 2, 3}), true);
    bb_backward(bb_sum_all(bb_square(x)), NULL);
    double gradient[3] = {0};
    bb_read_f64(bb_grad(x), gradient, 3);
    int fine = bb_error(ctx) == BB_OK && gradient[0] == 2 && gradient[1] == 4 && gradient[2] == 6;
    bb_close(ctx);
    printf("C %s\n", fine ? "fine" : "wrong");
    return fine ? 0 : 1;
}
