// Bobbin from C++: all public headers in one translation unit, templates behind BB_SHAPE,
// gradients, an error.
#include <bobbin.h>

#include <cmath>
#include <cstdio>
#include <cstring>

int main() {
    bb_context *ctx = bb_open(nullptr);
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F64, BB_SHAPE(2, 3), 2), true);
    bb_tensor *scale = bb_full(ctx, BB_F64, BB_SHAPE(3), 1.5);
    bb_tensor *loss = bb_sum(bb_rms_norm(x, scale, 0), BB_INTS(0, 1), false);
    bb_backward(loss, nullptr);
    double value = bb_item(loss), gradient = 1;
    bb_read_f64(bb_slice(bb_reshape(bb_grad(x), BB_SHAPE(6)), 0, 0, 1, 1), &gradient, 1);
    bool fine =
        bb_error(ctx) == BB_OK && std::fabs(value - 9) < 1e-12 && std::fabs(gradient) < 1e-12;
    bb_matmul(x, x); // (2, 3) by (2, 3)
    fine = fine && bb_error(ctx) == BB_ERR_ARGUMENT && std::strstr(bb_error_message(ctx), "matmul");
    fine = fine && std::strcmp(bb_version(), BOBBIN_VERSION) == 0;
    bb_close(ctx);
    std::printf("C++ %s\n", fine ? "fine" : "wrong");
    return fine ? 0 : 1;
}
