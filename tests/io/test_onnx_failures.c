/* ONNX files whose parameters lie beside them, and those that cannot be: what has no form in ONNX,
 * what is too large, system calls and allocations that fail. A failure leaves no file. */
#include "core/impl.h"
#include "tests/io/graph_test.h"
#include "tests/io/onnx_test.h"
#include "tests/support/alloc.h"

/* ---- Parameters beside the model */

static void test_external_data(test *t) {
    scratch s = scratch_open();
    bb_context *ctx = test_open();
    bb_nn_transformer *model = graph_model(ctx, BB_F32, false, false);
    bb_graph *g = graph_of_model(model);
    const bb_onnx_options how = {.external_data = true};
    CHECK_INT(t, bb_onnx_save(g, scratch_path(&s, "m.onnx"), &how), BB_OK);
    CHECK_INT(t, scratch_count(&s), 2);
    onnx_file f = onnx_read(s.path), data = onnx_read(scratch_path(&s, "m.onnx.data"));
    int tensors = 0;
    for (pb p = f.graph; pb_find(&p, 5);) {
        pb tensor = pb_inside(&p), entry = tensor;
        long long offset = -1, length = -1;
        char name[64] = "";
        tensors++;
        CHECK_INT(t, pb_number(tensor, 14), 1);
        CHECK_INT(t, pb_count(tensor, 9), 0);
        CHECK_INT(t, pb_count(tensor, 13), 3);
        while (pb_find(&entry, 13)) {
            pb pair = pb_inside(&entry), value = pair;
            pb_find(&value, 2);
            char text[64];
            snprintf(text, sizeof text, "%.*s", (int)value.span.n, (const char *)value.span.at);
            if (pb_text_is(pair, 1, 0, "location")) CHECK_TEXT(t, text, "m.onnx.data");
            if (pb_text_is(pair, 1, 0, "offset")) offset = atoll(text);
            if (pb_text_is(pair, 1, 0, "length")) length = atoll(text);
        }
        pb named = tensor;
        if (pb_find(&named, 8))
            snprintf(name, sizeof name, "%.*s", (int)named.span.n, (const char *)named.span.at);
        bb_tensor *param = bb_params_find(model->params, name);
        CHECK_MSG(t,
                  param && length == bb_count(param) * 4 && offset % 64 == 0 && offset >= 0 &&
                      (size_t)(offset + length) <= data.n &&
                      memcmp(data.bytes + offset, bb_data(param), (size_t)length) == 0,
                  "%s at %lld, %lld bytes", name, offset, length);
    }
    CHECK_INT(t, tensors, 17);
    onnx_close(&f);
    onnx_close(&data);
    CHECK_OK(t, ctx);
    bb_graph_free(g);
    bb_close(ctx);
    scratch_close(&s);
}

/* Beyond 2 GiB parameters go beside the model unasked. The first write fails, so nothing of that
 * size is ever touched. */
static void test_too_large(test *t) {
    scratch s = scratch_open();
    bb_context *ctx = bb_open(NULL);
    const bb_shape shape = BB_SHAPE(600000000);
    bb_tensor *w = bb_tensor_context(ctx, BB_CPU, BB_F32, &shape), *x;
    if (!w) {
        test_skip(t, "no 2.4 GB of address space here");
        bb_close(ctx);
        scratch_close(&s);
        return;
    }
    x = bb_ones(ctx, BB_F32, BB_SHAPE(3));
    bb_graph *g = bb_graph_begin(ctx);
    bb_graph_input(g, "x", x);
    bb_graph_param(g, "w", w);
    bb_tensor *few = bb_narrow(w, 0, 0, 3);
    bb_write(few, (float[]){1, 2, 3}, 12);
    bb_graph_output(g, "y", bb_add(x, few));
    bb_graph_end(g);
    fault f;
    fault_init(&f, 1, EIO, 0);
    const bb_onnx_options how = {.calls = &f.calls};
    bb_onnx_save(g, scratch_path(&s, "m.onnx"), &how);
    CHECK_ERROR(t, ctx, BB_ERR_IO, "m.onnx.data: cannot write");
    CHECK_INT(t, scratch_count(&s), 0);
    bb_graph_free(g);
    bb_close(ctx);
    scratch_close(&s);
}

/* ---- Failures */

static bb_graph *small_graph(bb_context *ctx, bb_tensor *(*fn)(bb_tensor *x)) {
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(2, 3));
    bb_graph *g = bb_graph_begin(ctx);
    bb_module here;
    bb_graph_input(g, "x", x);
    bb_module_enter(ctx, &here, "Layer", "layer", 4);
    bb_tensor *y = fn(x);
    bb_module_leave(ctx, &here);
    bb_graph_output(g, "y", y);
    bb_graph_end(g);
    return g;
}
static bb_tensor *noisy(bb_tensor *x) { return bb_dropout(x, 0.5); }
static bb_tensor *normed(bb_tensor *x) {
    return bb_rms_norm(x, bb_ones(bb_context_of(x), BB_F32, BB_SHAPE(3)), 1e300);
}
static bb_tensor *weighted(bb_tensor *x) {
    bb_tensor *w = bb_keep_value(bb_ones(bb_context_of(x), BB_F32, BB_SHAPE(3)));
    return bb_rms_norm(x, w, 1e-5);
}
static bb_tensor *stepped(bb_tensor *x) {
    bb_context *ctx = bb_context_of(x);
    bb_tensor *p = bb_keep_value(x), *lr = bb_scalar(ctx, BB_F32, 1);
    bb_sgd_(p, x, NULL, lr, NULL, NULL);
    return bb_neg(x);
}

static void test_no_form(test *t) {
    scratch s = scratch_open();
    bb_context *ctx = test_open();
    bb_graph *g = small_graph(ctx, noisy);
    bb_onnx_save(g, scratch_path(&s, "m.onnx"), NULL);
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED,
                "onnx: node layer.4.dropout (dropout): ONNX has no form for this op");
    bb_graph_free(g);
    g = small_graph(ctx, normed);
    bb_onnx_save(g, s.path, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "node layer.4.rmsnorm_impl (RMSNormImpl): attribute eps: Unsupported value");
    bb_graph_free(g);
    g = small_graph(ctx, stepped);
    bb_onnx_save(g, s.path, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, "node layer.4.sgd_ (sgd_): ONNX has no form");
    bb_graph_free(g);
    CHECK_INT(t, scratch_count(&s), 0);
    g = small_graph(ctx, weighted);
    bb_onnx_save(g, NULL, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_onnx_save: path: expected a name, got NULL");
    bb_onnx_options how = {.mode = (bb_onnx_mode)7};
    bb_onnx_save(g, s.path, &how);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected composite, native or decomposed, got 7");
    bb_externalize(g, NULL, 0, NULL, NULL);
    how.mode = BB_ONNX_DECOMPOSED;
    bb_onnx_save(g, s.path, &how);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "externalized already");
    CHECK_INT(t, scratch_count(&s), 0);
    bb_graph_free(g);
    bb_close(ctx);
    scratch_close(&s);
}

/* Every system call fails in turn: an error, and no file or the old ones. */
static void test_writer_failures(test *t) {
    scratch s = scratch_open();
    for (int external = 0; external < 2; external++)
        for (int fail_at = 1;; fail_at++) {
            bb_context *ctx = test_open();
            bb_graph *g = small_graph(ctx, weighted);
            fault f;
            fault_init(&f, fail_at, ENOSPC, 0);
            const bb_onnx_options how = {.external_data = external, .calls = &f.calls};
            bb_status status = bb_onnx_save(g, scratch_path(&s, "m.onnx"), &how);
            bool done = !f.failed;
            if (!done) CHECK_INT(t, status, BB_ERR_IO);
            if (!done && !f.renamed) CHECK_INT(t, scratch_count(&s), 0);
            if (done) CHECK_INT(t, scratch_count(&s), external ? 2 : 1);
            bb_clear_error(ctx);
            bb_graph_free(g);
            bb_close(ctx);
            scratch_walk(&s, true);
            if (done) break;
            CHECK_MSG(t, fail_at < 60, "it never ends");
        }
    scratch_close(&s);
}

static char target[600];
static void save_once(bb_context *ctx) {
    bb_graph *g = small_graph(ctx, weighted);
    if (g) bb_onnx_save(g, target, NULL);
    bb_graph_free(g);
}
static void test_memory(test *t) {
    scratch s = scratch_open();
    snprintf(target, sizeof target, "%s", scratch_path(&s, "m.onnx"));
    alloc_failure_loop(t, save_once);
    scratch_close(&s);
}

static const test_row rows[] = {{"external data", test_external_data},
                                {"too large", test_too_large},
                                {"no form, no file", test_no_form},
                                {"writer failures", test_writer_failures},
                                {"memory", test_memory}};
TEST_MAIN(rows)
