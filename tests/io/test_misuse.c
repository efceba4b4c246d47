/* Handles that a failed call has left NULL or half made, in the calls that come next; lists that
 * are not there; tensors of another context. None may crash, and none may go unsaid. */
#include "tests/io/graph_test.h"
#include "tests/io/scratch.h"

/* ---- Files */

static void no_safetensors(test *t) {
    bb_context *ctx = test_open();
    bb_stored stored;
    bb_safetensors *file = bb_safetensors_open(ctx, "/nowhere/missing");
    CHECK_ERROR(t, ctx, BB_ERR_IO, "missing: cannot open");
    CHECK(t, !file && !bb_safetensors_load(file, "w", BB_CPU));
    CHECK_INT(t, bb_safetensors_restore(file, NULL, 0, true), BB_ERR_ARGUMENT);
    CHECK_INT(t, bb_safetensors_count(file), 0);
    CHECK_INT(t, bb_safetensors_metadata_count(file), 0);
    CHECK(t, !bb_safetensors_path(file) && !bb_safetensors_metadata(file, "k"));
    CHECK(t, !bb_safetensors_find(file, "w", &stored));
    CHECK(t, !bb_safetensors_at(file, 0).name && !bb_safetensors_metadata_at(file, 0).key);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void no_such_tensor(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    const char *path = scratch_path(&s, "f");
    bb_named row = {"w", bb_ones(ctx, BB_F32, BB_SHAPE(2))};
    bb_stored stored;
    CHECK_INT(t, bb_safetensors_save(ctx, path, &row, 1, NULL, 0, NULL), BB_OK);
    bb_safetensors *file = bb_safetensors_open(ctx, path);
    CHECK_TEXT(t, bb_safetensors_at(file, 0).name, "w");
    CHECK(t, !bb_safetensors_at(file, 1).name && !bb_safetensors_at(file, -1).name);
    CHECK(t, !bb_safetensors_metadata_at(file, 0).key && !bb_safetensors_metadata(file, NULL));
    CHECK(t, !bb_safetensors_find(file, NULL, &stored));
    CHECK(t, !bb_safetensors_load(file, NULL, BB_CPU));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_safetensors_load: name: expected one, got NULL");
    bb_safetensors_close(file);
    CHECK_INT(t, bb_safetensors_save(ctx, path, &row, 1, NULL, 2, NULL), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "metadata: expected a list of texts, got 2 at NULL");
    scratch_close(&s);
    bb_close(ctx);
}

static void no_writer(test *t) {
    bb_context *ctx = test_open();
    bb_writer *w = bb_writer_open(ctx, "/nowhere/x", NULL);
    CHECK_ERROR(t, ctx, BB_ERR_IO, "cannot create a file beside it");
    CHECK_INT(t, bb_writer_add(w, "a", 1), BB_ERR_STATE);
    CHECK_INT(t, bb_writer_commit(w), BB_ERR_STATE);
    bb_file_unmap(NULL);
    bb_close(ctx);
}

static void foreign_tensor(test *t) {
    bb_context *ctx = test_open(), *other = test_open();
    scratch s = scratch_open();
    bb_tensor *x = bb_ones(other, BB_F32, BB_SHAPE(2));
    bb_npy_save(ctx, scratch_path(&s, "x.npy"), x, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_npy_save: t: expected a tensor of this context");
    CHECK_INT(t, scratch_count(&s), 0);
    scratch_close(&s);
    bb_close(other);
    bb_close(ctx);
}

/* ---- Graphs */

/* A graph that did not end well, with the error cleared. */
static void check_unfinished(test *t, bb_context *ctx, bb_graph *g, bb_tensor *x, scratch *s) {
    const char *path = scratch_path(s, "g.onnx");
    bb_tensor *out[2] = {x, x};
    bb_graph_run(g, &x, 1, out);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_graph_run: the graph failed to end");
    CHECK(t, !out[0] || bb_graph_output_count(g) == 0);
    bb_onnx_save(g, path, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_onnx_save: the graph failed to end");
    CHECK_INT(t, scratch_count(s), 0);
    bb_externalize(g, NULL, 0, NULL, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_externalize: the graph failed to end");
    bb_graph_lower(g, true);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_graph_lower: the graph failed to end");
    FILE *file = tmpfile();
    bb_graph_print(g, file);
    CHECK_INT(t, ftell(file), 0);
    fclose(file);
    bb_graph_free(g);
}

static void failed_graphs(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(2, 3));
    bb_graph *g = bb_graph_begin(ctx);
    bb_graph_input(g, "x", x);
    bb_tensor *y = bb_silu(x);
    bb_graph_output(g, "y", y);
    bb_graph_output(g, "y", y);
    bb_graph_end(g);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "output y: expected a name that nothing else has");
    check_unfinished(t, ctx, g, x, &s);
    g = bb_graph_begin(ctx);
    bb_graph_input(g, "x", x);
    bb_graph_end(g);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected an output, got none");
    check_unfinished(t, ctx, g, x, &s);
    /* An op that cannot be recorded, its error cleared before the end. */
    g = bb_graph_begin(ctx);
    bb_graph_input(g, "x", x);
    y = bb_silu(x);
    bb_write(x, (float[6]){0}, 24);
    CHECK(t, !bb_silu(x));
    bb_clear_error(ctx);
    bb_graph_output(g, "y", y);
    bb_clear_error(ctx);
    bb_graph_end(g);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_graph_end: an op that it recorded has failed");
    check_unfinished(t, ctx, g, x, &s);
    scratch_close(&s);
    bb_close(ctx);
}

static bb_status identity(void *user, bb_tensor *const *in, bb_tensor **out) {
    (void)user;
    out[0] = bb_silu(in[0]);
    return BB_OK;
}

static void missing_lists(test *t) {
    bb_context *ctx = test_open();
    const bb_graph_arg x = {"x", BB_F32, 1, {{NULL, 3}}};
    const char *const names[] = {"y"};
    const struct {
        bb_graph_signature signature;
        const char *part;
    } cases[] = {
        {{NULL, 1, NULL, 0, names, 1, BB_CPU}, "inputs: expected a list of 1, got NULL"},
        {{&x, 1, NULL, 2, names, 1, BB_CPU}, "params: expected a list of 2, got NULL"},
        {{&x, 1, NULL, 0, NULL, 1, BB_CPU}, "outputs: expected a list of 1, got NULL"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        CHECK(t, !bb_graph_trace(ctx, identity, NULL, &cases[i].signature));
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, cases[i].part);
    }
    bb_graph_signature good = {&x, 1, NULL, 0, names, 1, BB_CPU};
    bb_graph *g = bb_graph_trace(ctx, identity, NULL, &good);
    bb_tensor *in = bb_ones(ctx, BB_F32, BB_SHAPE(3)), *out;
    bb_graph_run(g, NULL, 1, &out);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_graph_run: inputs: expected an array of 1, got NULL");
    bb_graph_run(g, &in, 1, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_graph_run: outputs: expected an array of 1, got NULL");
    bb_graph_free(g);
    bb_close(ctx);
}

/* Where a result goes, or comes from, and is not there. */
static void not_given(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    bb_json root;
    bb_json_writer w;
    CHECK_INT(t, bb_file_map(ctx, "/dev/null", NULL), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_file_map: file: expected one, got NULL");
    CHECK_INT(t, bb_json_parse(ctx, "j", "1", 1, NULL), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_json_parse: root: expected one, got NULL");
    CHECK_INT(t, bb_json_parse(ctx, "j", NULL, 1, &root), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_json_parse: text: expected one, got NULL");
    CHECK_INT(t, bb_json_parse(ctx, "j", "{\"a\": \"bc\"}", 11, &root), BB_OK);
    CHECK(t, bb_json_get(root, "a", NULL) && !bb_json_get(root, NULL, &root));
    CHECK(t, bb_json_get(root, "a", &root) && bb_json_string(root, NULL, 2) == 2);
    for (int key = 0; key < 2; key++) {
        bb_json_open(&w, ctx, 0);
        bb_json_begin_object(&w);
        key ? bb_json_key(&w, NULL) : bb_json_put_string(&w, NULL);
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "JSON: expected a string, got NULL");
        bb_json_close(&w);
    }
    const char *path = scratch_path(&s, "c");
    CHECK_INT(t, bb_checkpoint_save(ctx, path, &(bb_checkpoint){0}, NULL, 0, NULL, 1, NULL),
              BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_checkpoint_save: extra: expected a list, got NULL");
    CHECK_OK(t, ctx);
    scratch_close(&s);
    bb_close(ctx);
}

static const test_row rows[] = {{"no safetensors", no_safetensors},
                                {"no such tensor", no_such_tensor},
                                {"no writer", no_writer},
                                {"foreign tensor", foreign_tensor},
                                {"failed graphs", failed_graphs},
                                {"missing lists", missing_lists},
                                {"not given", not_given}};
TEST_MAIN(rows)
