/* Sizes that change: what is found to be a sum of products of symbols, and what the recording would
 * have specialised, which must be an error that names the node. */
#include "tests/io/graph_test.h"
#include "tests/support/alloc.h"

typedef bb_tensor *(*body)(bb_context *ctx, bb_tensor *x);
static bb_status run_body(void *user, bb_tensor *const *in, bb_tensor **out) {
    bb_context *ctx = bb_context_of(in[0]);
    out[0] = (*(const body *)user)(ctx, in[0]);
    return bb_error(ctx);
}

/* x (batch, time, 6) in f32. */
static bb_graph *trace(bb_context *ctx, body fn) {
    static const bb_graph_arg x = {
        "x", BB_F32, 3, {{.symbol = "batch"}, {.symbol = "time"}, {.size = 6}}};
    static const char *const outputs[] = {"y"};
    static const bb_graph_signature s = {&x, 1, NULL, 0, outputs, 1, BB_CPU};
    return bb_graph_trace(ctx, run_body, &fn, &s);
}

/* Traces, expects `part` in the text, and the function's own numbers at sizes never recorded. */
static void check_traces(test *t, body fn, const char *part) {
    static const int64_t sizes[][2] = {{1, 1}, {4, 9}, {2, 2}, {5, 7}, {6, 1}, {1, 12}};
    bb_context *ctx = test_open();
    bb_graph *g = trace(ctx, fn);
    CHECK_OK(t, ctx);
    const char *text = printed(g);
    CHECK_MSG(t, strstr(text, part) != NULL, "expected \"%s\" in:\n%s", part, text);
    for (int i = 0; i < 6 && g; i++) {
        bb_tensor *x = graph_random(ctx, BB_F32, BB_SHAPE(sizes[i][0], sizes[i][1], 6), 7), *got;
        CHECK_INT(t, bb_graph_run(g, &x, 1, &got), BB_OK);
        CHECK_MSG(t, graph_same(got, fn(ctx, x)), "%s at %d", part, i);
    }
    CHECK_OK(t, ctx);
    bb_graph_free(g);
    bb_close(ctx);
}

static bb_tensor *rows(bb_context *ctx, bb_tensor *x) {
    (void)ctx;
    return bb_reshape(x, BB_SHAPE(bb_size(x, 0) * bb_size(x, 1), 2, 3));
}
static bb_tensor *shifted(bb_context *ctx, bb_tensor *x) {
    (void)ctx;
    return bb_pad(bb_narrow(x, 1, bb_size(x, 1) - 1, 1), BB_INTS(0, bb_size(x, 1), 0),
                  BB_INTS(0, 2 * bb_size(x, 1) + 3, 0), 1);
}
static bb_tensor *positions(bb_context *ctx, bb_tensor *x) {
    bb_tensor *t = bb_arange(ctx, BB_F32, 1, (double)bb_size(x, 1) + 1, 1);
    return bb_add(bb_mul_scalar(x, (double)bb_size(x, 0)), bb_unsqueeze(t, 1));
}
static bb_tensor *zeros(bb_context *ctx, bb_tensor *x) {
    bb_tensor *ones = bb_full(ctx, BB_F32, BB_SHAPE(bb_size(x, 1), 6), 1);
    return bb_where(bb_gt(x, bb_zeros_like(x)), x, ones);
}
static bb_tensor *attended(bb_context *ctx, bb_tensor *x) {
    (void)ctx;
    return bb_sdpa(x, bb_narrow(x, 1, 0, bb_size(x, 1)), x, NULL,
                   &(bb_sdpa_attrs){.is_causal = true});
}
static bb_tensor *dropped(bb_context *ctx, bb_tensor *x) {
    (void)ctx;
    return bb_apply1(ctx, bb_find_op(ctx, "dropout"), &x, 1,
                     &(bb_dropout_attrs){.p = 0.5, .seed = 3, .offset = 4});
}
static void test_sizes(test *t) {
    check_traces(t, rows, "f32(batch*time, 2, 3) = reshape(x) shape=[batch*time, 2, 3]");
    check_traces(t, shifted, "slice(x) axis=1 start=time - 1 stop=time step=1");
    check_traces(t, shifted, "before=[0, time, 0] after=[0, 2*time + 3, 0]");
    check_traces(t, positions, "arange() start=1 stop=time + 1 step=1");
    check_traces(t, positions, "mul_scalar(x) value=batch");
    check_traces(t, zeros, "full: f32(time, 6) = full() shape=[time, 6]");
    check_traces(t, attended, "SDPA(");
    check_traces(t, dropped, "dropout(x) p=0.5 seed=3 offset=4");
}

/* ---- What is specialised */

static void check_refused(test *t, body fn, const char *part) {
    bb_context *ctx = test_open();
    CHECK(t, !trace(ctx, fn));
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, "a size was specialised: ");
    trace(ctx, fn);
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, part);
    CHECK_INT(t, bb_get_path(ctx), BB_PATH_AUTO);
    bb_close(ctx);
}
static bb_tensor *average(bb_context *ctx, bb_tensor *x) {
    (void)ctx;
    return bb_mul_scalar(bb_sum(x, BB_INTS(1), false), 1.0 / (double)bb_size(x, 1));
}
static bb_tensor *squared(bb_context *ctx, bb_tensor *x) {
    return bb_add_scalar(x, (double)(bb_size(x, 1) * bb_size(x, 1)) + 0 * (double)bb_op_count(ctx));
}
static bb_tensor *branching(bb_context *ctx, bb_tensor *x) {
    bb_module here;
    bb_module_enter(ctx, &here, "Odd", "odd", -1);
    bb_tensor *y = bb_size(x, 1) % 2 ? bb_exp(x) : bb_neg(x);
    bb_module_leave(ctx, &here);
    return y;
}
/* The same ops, of other inputs. */
static bb_tensor *choosing(bb_context *ctx, bb_tensor *x) {
    (void)ctx;
    bb_tensor *y = bb_neg(x);
    return bb_add(y, bb_size(x, 1) % 2 ? x : y);
}
static bb_tensor *counted(bb_context *ctx, bb_tensor *x) {
    (void)ctx;
    for (int64_t i = 0; i < bb_size(x, 1); i++) x = bb_neg(x);
    return x;
}
static bb_tensor *host_mask(bb_context *ctx, bb_tensor *x) {
    double values[16];
    for (int i = 0; i < 16; i++) values[i] = i;
    return bb_add(x, bb_from_f64(ctx, BB_F32, BB_SHAPE(bb_size(x, 1), 1), values));
}
static bb_tensor *host_scale(bb_context *ctx, bb_tensor *x) {
    return bb_mul(x, bb_from_f64(ctx, BB_F32, BB_SHAPE(1), (double[]){(double)bb_size(x, 0)}));
}
/* Not a size, but a value that the host has read. */
static bb_tensor *host_value(bb_context *ctx, bb_tensor *x) {
    return bb_mul(x, bb_scalar(ctx, BB_F32, bb_item(bb_amax(x, (bb_ints){.n = 0}, false))));
}
static void test_specialised(test *t) {
    check_refused(t, average, "graph: node mul_scalar (mul_scalar): ");
    check_refused(t, average, "its attribute value is no sum of products of symbols");
    check_refused(t, squared, "its attribute value is no sum of products of symbols");
    check_refused(t, branching, "graph: node odd.neg (neg): ");
    check_refused(t, branching,
                  "at batch=2, time=3 another op or other inputs stand there (odd.exp)");
    check_refused(t, choosing, "graph: node add (add): ");
    check_refused(t, choosing, "another op or other inputs stand there (add)");
    check_refused(t, counted, "the number of nodes depends on it");
    check_refused(t, host_mask, "graph: node add (add): ");
    check_refused(t, host_mask, "the elements of a constant that it reads are not always the same");
    check_refused(t, host_scale,
                  "the elements of a constant that it reads are not always the same");
    check_refused(t, host_value,
                  "the elements of a constant that it reads are not always the same");
}

static bb_tensor *frozen(bb_context *ctx, bb_tensor *x) {
    bb_module here;
    bb_module_enter(ctx, &here, "Flat", "flat", 2);
    bb_tensor *y = bb_reshape(bb_neg(x), BB_SHAPE(4, 6));
    bb_module_leave(ctx, &here);
    return y;
}
/* A size that became a constant fails in the op that meets another one. */
static void test_refused_by_an_op(test *t) {
    bb_context *ctx = test_open();
    CHECK(t, !trace(ctx, frozen));
    CHECK_ERROR(
        t, ctx, BB_ERR_ARGUMENT,
        "graph: node flat.2.reshape (reshape): a size was specialised: it cannot run at "
        "batch=3, time=2: reshape: shape: expected a shape of the 36 elements of (3, 2, 6), "
        "got (4, 6)");
    bb_close(ctx);
}

static void test_signature(test *t) {
    bb_context *ctx = test_open();
    body fn = rows;
    static const char *const outputs[] = {"y"};
    bb_graph_arg x = {
        "x", BB_F32, 4, {{.symbol = "a"}, {.symbol = "b"}, {.symbol = "c"}, {.symbol = "d"}}};
    bb_graph_signature s = {&x, 1, NULL, 0, outputs, 1, BB_CPU};
    CHECK(t, !bb_graph_trace(ctx, run_body, &fn, &s));
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, "expected at most 3 symbols in all, got 'd' as well");
    s.n_outputs = 0;
    CHECK(t, !bb_graph_trace(ctx, run_body, &fn, &s));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected at least one output, got 0");
    CHECK(t, !bb_graph_trace(ctx, NULL, &fn, &s));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected a function and a signature, got NULL");
    /* Sizes that share a symbol must agree when the graph runs. */
    bb_graph *g = trace(ctx, rows);
    bb_tensor *flat = bb_ones(ctx, BB_F32, BB_SHAPE(2, 3, 5)), *out;
    bb_graph_run(g, &flat, 1, &out);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "bb_graph_run: x: expected f32(batch, time, 6), got f32(2, 3, 5)");
    CHECK_OK(t, ctx);
    bb_graph_free(g);
    bb_close(ctx);
}

static void trace_rows(bb_context *ctx) {
    bb_graph *g = trace(ctx, zeros);
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(1, 4, 6)), *out;
    if (g) bb_graph_run(g, &x, 1, &out);
    bb_graph_free(g);
}
static void test_memory(test *t) { alloc_failure_loop(t, trace_rows); }

static const test_row tests[] = {{"sizes", test_sizes},
                                 {"specialised", test_specialised},
                                 {"refused by an op", test_refused_by_an_op},
                                 {"signature", test_signature},
                                 {"memory", test_memory}};
TEST_MAIN(tests)
