/* ONNX files of RMSNormImpl where other exporters go wrong: f16, scales of other ranks, several
 * axes, a zero-centred scale, a tiny eps; in each mode, against onnxruntime. */
#include "core/impl.h"
#include "tests/io/graph_test.h"
#include "tests/io/onnx_test.h"

static const char *const modes[] = {"composite", "native", "decomposed"};

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
    static const char *const names[] = {"x", "scale"}, *const out_name[] = {"y"};
    scratch s = scratch_open();
    for (size_t i = 0; i < sizeof traps / sizeof traps[0]; i++) {
        const trap *c = &traps[i];
        bb_context *ctx = test_open();
        bb_tensor *in[2], *y;
        in[0] = bb_cast(
            bb_mul_scalar(bb_clamp(graph_random(ctx, BB_F32, c->x_shape, 3), -2, 2), c->size),
            c->x);
        in[1] = bb_cast(
            bb_mul_scalar(graph_random(ctx, BB_F32, c->scale_shape, 4), c->zero_centred ? 3e-4 : 1),
            c->scale);
        bb_graph *g = bb_graph_begin(ctx);
        for (int k = 0; k < 2; k++) bb_graph_input(g, names[k], in[k]);
        /* 1 + gamma is taken in f32: in f16 a gamma this small would vanish. */
        bb_tensor *scale = c->zero_centred ? bb_add_scalar(bb_cast(in[1], BB_F32), 1) : in[1];
        y = bb_rms_norm_with(in[0], scale, &c->attrs);
        bb_graph_output(g, "y", y);
        bb_graph_end(g);
        for (int m = 0; m < 3; m++) {
            char name[64];
            const bb_onnx_options how = {.mode = (bb_onnx_mode)m};
            snprintf(name, sizeof name, "%s_%s.onnx", c->name, modes[m]);
            CHECK_INT(t, bb_onnx_save(g, scratch_path(&s, name), &how), BB_OK);
            onnx_file f = onnx_read(s.path);
            CHECK_MSG(t, onnx_nodes(f.graph, 1, "RMSNormalization") == (m == 1 && c->native), "%s",
                      name);
            CHECK_MSG(t, onnx_nodes(f.graph, 1, "rms_norm") == (m == 0 || (m == 1 && !c->native)),
                      "%s", name);
            onnx_close(&f);
            name[strlen(name) - 5] = 0;
            onnx_expect(ctx, &s, name, 0, names, in, 2, out_name, &y, 1, c->tolerance, false);
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
