/* ONNX files of RMSNormImpl where other exporters go wrong: f16, scales of other ranks, several
 * axes, a zero-centred scale, a tiny eps; in each mode, against onnxruntime. */
#include "core/impl.h"
#include "tests/io/graph_test.h"
#include "tests/io/onnx_test.h"

typedef struct trap {
    const char *name;
    bb_dtype x, scale;
    bb_shape x_shape, scale_shape;
    bb_rms_norm_attrs attrs;
    bool zero_centred;
    bool native; /* RMSNormalization means exactly this */
    double size; /* of x */
    const char *tolerance;
} trap;

/* clang-format off */
static const trap traps[] = {
    {"plain", BB_F32, BB_F32, {2, {3, 8}}, {1, {8}},
     {{1, {-1}}, 1e-6, 0}, false, true, 1, "1e-5"},
    {"last_two", BB_F32, BB_F32, {3, {3, 4, 8}}, {2, {4, 8}},
     {{2, {1, 2}}, 1e-3, 0}, false, true, 1, "1e-5"},
    {"first_axes", BB_F32, BB_F32, {3, {3, 4, 8}}, {3, {3, 4, 1}},
     {{2, {0, 1}}, 1e-3, 0}, false, false, 1, "1e-5"},
    {"low_rank", BB_F32, BB_F32, {3, {3, 4, 8}}, {1, {8}},
     {{2, {1, 2}}, 1e-3, 0}, false, false, 1, "1e-5"},
    {"low_rank_square", BB_F32, BB_F32, {3, {3, 8, 8}}, {1, {8}}, /* fits either axis */
     {{2, {1, 2}}, 1e-3, 0}, false, false, 1, "1e-5"},
    {"heads", BB_F32, BB_F32, {4, {2, 3, 4, 8}}, {3, {3, 1, 8}},
     {{1, {-1}}, 1e-5, 0}, false, false, 1, "1e-5"},
    {"grown", BB_F32, BB_F32, {4, {2, 1, 4, 8}}, {3, {3, 1, 8}},
     {{1, {-1}}, 1e-5, 0}, false, false, 1, "1e-5"},
    {"one", BB_F32, BB_F32, {2, {3, 8}}, {1, {1}},
     {{1, {-1}}, 1e-5, 0}, false, false, 1, "1e-5"},
    {"f16_large", BB_F16, BB_F16, {2, {3, 8}}, {1, {8}},
     {{1, {-1}}, 1e-5, 0}, false, true, 30000, "2e-3"},
    {"f16_mixed", BB_F16, BB_F32, {2, {3, 8}}, {1, {8}},
     {{1, {-1}}, 1e-5, 0}, false, false, 1, "2e-3"},
    {"f16_last", BB_F16, BB_F16, {2, {3, 8}}, {1, {8}},
     {{1, {-1}}, 1e-5, 2}, false, false, 1, "2e-3"},
    {"f64", BB_F64, BB_F64, {2, {3, 8}}, {1, {8}},
     {{1, {-1}}, 1e-9, 0}, false, false, 1, "1e-12"},
    {"zero_centred", BB_F16, BB_F16, {2, {3, 8}}, {1, {8}},
     {{1, {-1}}, 1e-5, 0}, true, false, 1, "1e-3"},
    {"tiny_eps", BB_F32, BB_F32, {2, {3, 8}}, {1, {8}},
     {{1, {-1}}, 1e-12, 0}, false, true, 1e-5, "1e-4"},
};
/* clang-format on */

static void test_traps(test *t) {
    scratch s = scratch_open();
    for (int i = 0; i < COUNT(traps); i++) {
        const trap *c = &traps[i];
        bb_context *ctx = test_open();
        bb_tensor *x = bb_cast(
            bb_mul_scalar(bb_clamp(graph_random(ctx, BB_F32, c->x_shape, 3), -2, 2), c->size),
            c->x);
        bb_tensor *scale = bb_cast(
            bb_mul_scalar(graph_random(ctx, BB_F32, c->scale_shape, 4), c->zero_centred ? 3e-4 : 1),
            c->scale);
        bb_graph *g = bb_graph_begin(ctx);
        const bb_named in[] = {{"x", x}, {"scale", scale}};
        for (int k = 0; k < 2; k++) bb_graph_input(g, in[k].name, in[k].tensor);
        /* 1 + gamma is taken in f32: in f16 a gamma this small would vanish. */
        if (c->zero_centred) scale = bb_add_scalar(bb_cast(scale, BB_F32), 1);
        bb_tensor *y = bb_rms_norm_with(x, scale, &c->attrs);
        bb_graph_output(g, "y", y);
        bb_graph_end(g);
        for (int m = 0; m < ONNX_MODES; m++) {
            char name[ONNX_NAME];
            const bb_onnx_options how = {.mode = (bb_onnx_mode)m};
            CHECK_INT(t, onnx_save_as(g, &s, c->name, &how, name), BB_OK);
            onnx_file f = onnx_read(s.path);
            CHECK_MSG(t, onnx_nodes(f.graph, 1, "RMSNormalization") == (m == 1 && c->native), "%s",
                      name);
            CHECK_MSG(t, onnx_nodes(f.graph, 1, "rms_norm") == (m == 0 || (m == 1 && !c->native)),
                      "%s", name);
            onnx_close(&f);
            onnx_expect(&s, name, 0, in, 2, (bb_named){"y", y}, c->tolerance, false);
        }
        CHECK_OK(t, ctx);
        bb_graph_free(g);
        bb_close(ctx);
    }
    onnx_run_all(t, &s);
    scratch_close(&s);
}

static const test_row rows[] = {{"traps", test_traps}};
TEST_MAIN(rows)
