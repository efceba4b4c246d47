/* `bobbin export`: a model that was trained here, in all three modes, gives the same logits in
 * onnxruntime at batch sizes and lengths that were never recorded. */
#include "tests/io/graph_test.h"
#include "tests/io/onnx_test.h"
#include "tests/tools/shell.h"
#include "tools/model.h"

/* A few steps of training, saved as `bobbin train` saves. (Its own validation would take longer
 * than all the rest.) */
static void train(test *t, const scratch *s, const char *name) {
    bb_context *ctx = test_open();
    bb_nn_config config;
    CHECK(t, bb_nn_config_named(name, &config, NULL));
    bb_nn_transformer *model = bb_nn_transformer_new(ctx, BB_CPU, &config);
    bb_adamw *optimizer = model ? bb_adamw_new(model->params, NULL) : NULL;
    for (int step = 0; step < 5 && optimizer; step++) {
        bb_tensor *ids = graph_ids(ctx, 2, 17, 251);
        bb_backward(
            bb_nn_transformer_loss(model, bb_narrow(ids, 1, 0, 16), bb_narrow(ids, 1, 1, 16)),
            NULL);
        bb_adamw_step(optimizer, 1e-2);
        bb_params_zero_grad(model->params);
        bb_end_step(ctx);
    }
    if (model) bb_model_save(model, s->folder);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Ops by type in the file, all of its call's second inputs named *.weight. */
static void check_norms(test *t, scratch *s, int calls) {
    onnx_file f = onnx_read(scratch_path(s, "composite.onnx"));
    int functions = 0, named = 0;
    for (pb p = f.model; pb_find(&p, 25);) {
        pb function = pb_inside(&p), name = function;
        if (pb_find(&name, 1))
            functions += name.span.n >= 8 && !memcmp(name.span.at, "rms_norm", 8);
    }
    CHECK_INT(t, functions, 1);
    CHECK_INT(t, onnx_nodes(f.graph, 1, "rms_norm"), calls);
    for (pb p = f.graph; pb_find(&p, 1);) {
        pb node = pb_inside(&p), scale = node;
        if (!pb_text_is(node, 4, 0, "rms_norm")) continue;
        pb_find(&scale, 1);
        pb_find(&scale, 1);
        for (pb q = f.graph; pb_find(&q, 5);) {
            pb tensor = pb_inside(&q);
            if (pb_find(&tensor, 8))
                named += tensor.span.n == scale.span.n &&
                         memcmp(tensor.span.at, scale.span.at, scale.span.n) == 0;
        }
    }
    CHECK_INT(t, named, calls);
    onnx_close(&f);
}

static void test_small(test *t) {
    static const int64_t sizes[][2] = {{1, 1}, {3, 21}, {2, 100}};
    static said r;
    scratch trained = scratch_open(), s = scratch_open();
    train(t, &trained, "small");
    bb_context *ctx = test_open();
    bb_set_grad_enabled(ctx, false);
    bb_nn_transformer *model = bb_model_load(ctx, BB_CPU, trained.folder);
    for (int m = 0; m < ONNX_MODES; m++) {
        run_bobbin(&trained, &r, "export --model '%s' --mode %s --output '%s/%s.onnx'",
                   trained.folder, onnx_modes[m], s.folder, onnx_modes[m]);
        CHECK_MSG(t, r.code == 0 && !r.err[0] && !r.out[0], "%s%s", r.out, r.err);
        for (int k = 0; k < 3; k++) {
            bb_tensor *ids = graph_ids(ctx, sizes[k][0], sizes[k][1], 256);
            bb_tensor *logits = bb_nn_transformer_forward(model, ids);
            onnx_expect(&s, onnx_modes[m], k, &(bb_named){"ids", ids}, 1,
                        (bb_named){"logits", logits}, "1e-5", false);
        }
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
    check_norms(t, &s, 2 * 4 + 1);
    onnx_run_all(t, &s);
    scratch_close(&s);
    scratch_close(&trained);
}

static void test_dtypes(test *t) {
    static said r;
    scratch trained = scratch_open(), s = scratch_open();
    train(t, &trained, "tiny");
    static const char *const dtypes[] = {"f32", "f16", "bf16"};
    static const int numbers[] = {1, 10, 16};
    for (int i = 0; i < 3; i++) {
        run_bobbin(&trained, &r,
                   "export --model '%s' --dtype %s --external-data --output '%s/m.onnx'",
                   trained.folder, dtypes[i], s.folder);
        CHECK_MSG(t, r.code == 0, "%s", r.err);
        CHECK_INT(t, scratch_count(&s), 2);
        onnx_file f = onnx_read(scratch_path(&s, "m.onnx"));
        pb p = f.graph;
        CHECK(t, pb_find(&p, 5) && pb_number(pb_inside(&p), 2) == numbers[i]);
        onnx_close(&f);
    }
    run_bobbin(&trained, &r, "export --model '%s' --print --output '%s/m.onnx'", trained.folder,
               s.folder);
    CHECK(t, strstr(r.out, "blocks.0.attn_norm.rmsnorm_impl: f32(batch, time, 64) = RMSNormImpl("));
    scratch_close(&s);
    scratch_close(&trained);
}

static void test_refused(test *t) {
    static said r;
    scratch s = scratch_open();
    run_bobbin(&s, &r, "export --output m.onnx");
    CHECK_REFUSED(t, &r, 2, "--model");
    run_bobbin(&s, &r, "export --model '%s/none' --output m.onnx", s.folder);
    CHECK_REFUSED(t, &r, 2, "config.json: cannot open");
    run_bobbin(&s, &r, "export --model '%s' --mode best --output m.onnx", s.folder);
    CHECK_REFUSED(t, &r, 2, "--mode: expected one of composite|native|decomposed, got 'best'");
    train(t, &s, "tiny");
    run_bobbin(&s, &r, "export --model '%s' --output '%s/none/m.onnx'", s.folder, s.folder);
    CHECK_REFUSED(t, &r, 1, "none/m.onnx");
    scratch_close(&s);
}

static const test_row rows[] = {
    {"small", test_small}, {"dtypes", test_dtypes}, {"refused", test_refused}};
TEST_MAIN(rows)
