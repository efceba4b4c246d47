/* The device's table of kernels is complete: each built-in primitive has one, and each fused
 * forward of the CPU has its counterpart, backward too. A module is loaded after the context was
 * opened and checked, so this is the check for it. */
#include "core/impl.h"
#include "tests/support/test.h"

static void test_complete(test *t) {
    bb_context *ctx = test_open();
    CHECK_INT(t, bb_get_device(ctx), BB_CUDA);
    CHECK_MSG(t, bb_registry_check(ctx) == BB_OK, "%s", bb_error_message(ctx));
    for (int i = 0; i < bb_op_count(ctx); i++) {
        const bb_op *op = bb_op_at(ctx, i);
        for (int backward = 0; backward < 2; backward++)
            CHECK_MSG(t,
                      !bb_op_has_kernel(ctx, op, BB_CPU, backward) ||
                          bb_op_has_kernel(ctx, op, BB_CUDA, backward),
                      "%s: %s kernel on the CPU only", op->name, backward ? "backward" : "forward");
    }
    bb_close(ctx);
}

static const test_row rows[] = {{"complete", test_complete}};
TEST_MAIN(rows)
