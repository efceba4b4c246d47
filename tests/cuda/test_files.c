/* Files where the context makes its tensors on the device: what is read comes where it was asked
 * for, whatever else the context does. */
#include "io/io.h"
#include "tests/io/scratch.h"

static void test_read(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    float got[3] = {0};
    bb_tensor *x = bb_from(ctx, BB_F32, BB_SHAPE(3), (const float[]){1, 2, 3});
    bb_named named = {"x", x};
    for (int device = BB_CPU; device <= BB_CUDA; device++)
        for (int npy = 0; npy < 2; npy++) {
            bb_tensor *back;
            if (npy) {
                CHECK_INT(t, bb_npy_save(ctx, scratch_path(&s, "x.npy"), x, NULL), BB_OK);
                back = bb_npy_load(ctx, s.path, (bb_device)device);
            } else {
                scratch_path(&s, "x.safetensors");
                CHECK_INT(t, bb_safetensors_save(ctx, s.path, &named, 1, NULL, 0, NULL), BB_OK);
                bb_safetensors *file = bb_safetensors_open(ctx, s.path);
                back = bb_safetensors_load(file, "x", (bb_device)device);
                bb_safetensors_close(file);
            }
            CHECK_INT(t, bb_read(back, got, sizeof got), BB_OK);
            CHECK(t, got[0] == 1 && got[2] == 3);
            CHECK_INT(t, bb_device_of(back), device);
        }
    CHECK_OK(t, ctx);
    scratch_close(&s);
    bb_close(ctx);
}

static const test_row rows[] = {{"read", test_read}};
TEST_MAIN(rows)
