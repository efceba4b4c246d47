/* The recorder: what becomes a node, what is dead, what things are called, and that a run gives
 * back the recorded computation. */
#include "tests/io/graph_test.h"
#include "tests/support/alloc.h"

static void test_small(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *w = bb_keep(graph_random(ctx, BB_F32, BB_SHAPE(4), 1));
    bb_tensor *x = graph_random(ctx, BB_F32, BB_SHAPE(3, 4), 2);
    bb_graph *g = bb_graph_begin(ctx);
    CHECK_INT(t, bb_graph_input(g, "x", x), BB_OK);
    CHECK_INT(t, bb_graph_param(g, "w", w), BB_OK);
    bb_tensor *h = bb_mul(bb_add_scalar(x, 1), w);
    bb_exp(h); /* nobody needs it */
    bb_tensor *y =
        bb_add(bb_rms_norm(h, w, 1e-5), bb_from_f64(ctx, BB_F32, BB_SHAPE(1), (double[]){2}));
    CHECK_INT(t, bb_graph_output(g, "y", y), BB_OK);
    CHECK_INT(t, bb_graph_end(g), BB_OK);
    CHECK_INT(t, bb_graph_node_count(g, NULL), 4);
    CHECK_INT(t, bb_graph_node_count(g, "exp"), 0);
    CHECK_INT(t, bb_graph_node_count(g, "RMSNormImpl"), 1);
    CHECK_TEXT(t, printed(g),
               "graph\n"
               "input x: f32(3, 4)\n"
               "param w: f32(4)\n"
               "add_scalar: f32(3, 4) = add_scalar(x) value=1\n"
               "mul: f32(3, 4) = mul(add_scalar, w)\n"
               "rmsnorm_impl: f32(3, 4) = RMSNormImpl(mul, w) axes=[-1] eps=1e-05 rounding=auto\n"
               "  rmsnorm_impl.mul: f32(3, 4) = mul(mul, mul)\n"
               "  rmsnorm_impl.mean: f32(3, 1) = mean(rmsnorm_impl.mul) axes=[-1] keepdim=true\n"
               "  rmsnorm_impl.add_scalar: f32(3, 1) = add_scalar(rmsnorm_impl.mean) "
               "value=9.99999975e-06\n"
               "  rmsnorm_impl.rsqrt: f32(3, 1) = rsqrt(rmsnorm_impl.add_scalar)\n"
               "  rmsnorm_impl.mul_2: f32(3, 4) = mul(mul, rmsnorm_impl.rsqrt)\n"
               "  rmsnorm_impl.mul_3: f32(3, 4) = mul(rmsnorm_impl.mul_2, w)\n"
               "y: f32(3, 4) = add(rmsnorm_impl, constant)\n"
               "output y = y\n");
    /* The constant outlives its step; the parameter is read when the graph runs. */
    bb_end_step(ctx);
    bb_write(w, (float[]){1, 2, 3, 4}, 16);
    bb_tensor *x2 = graph_random(ctx, BB_F32, BB_SHAPE(3, 4), 3), *got;
    bb_tensor *h2 = bb_mul(bb_add_scalar(x2, 1), w);
    bb_tensor *want = bb_add(bb_rms_norm(h2, w, 1e-5), bb_full(ctx, BB_F32, BB_SHAPE(1), 2));
    CHECK_INT(t, bb_graph_run(g, &x2, 1, &got), BB_OK);
    CHECK(t, graph_same(got, want));
    bb_graph_free(g);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* The same numbers at sizes that were never recorded, on each path, lowered or not; and only the
 * result stays. */
static void test_model(test *t) {
    for (int variant = 0; variant < 4; variant++) {
        bb_context *ctx = test_open();
        bb_nn_transformer *model =
            graph_model(ctx, variant == 3 ? BB_BF16 : BB_F32, variant & 1, variant & 2);
        bb_graph *g = graph_of_model(model);
        CHECK_OK(t, ctx);
        CHECK_INT(t, bb_graph_node_count(g, "RMSNormImpl"), 5 + (variant & 1) * 2);
        static const int64_t sizes[][2] = {{1, 1}, {4, 9}, {1, 13}, {3, 1}};
        for (int i = 0; i < 4 && g; i++)
            for (int path = 0; path < 3; path++) {
                bb_end_step(ctx);
                bb_set_grad_enabled(ctx, false);
                bool lowered = path == 2;
                bb_set_path(ctx, path ? BB_PATH_COMPOSED : BB_PATH_AUTO);
                bb_graph_lower(g, lowered);
                bb_tensor *ids = graph_ids(ctx, sizes[i][0], sizes[i][1], 19), *got;
                bb_tensor *want = bb_nn_transformer_forward(model, ids);
                size_t before = bb_memory_stats(ctx).bytes_in_use;
                CHECK_INT(t, bb_graph_run(g, &ids, 1, &got), BB_OK);
                size_t left = bb_memory_stats(ctx).bytes_in_use - before;
                CHECK_MSG(t, left < (size_t)bb_count(got) * 8 + 256, "%zu bytes are left", left);
                CHECK_MSG(t, graph_same(got, want), "variant %d, sizes %d, path %d", variant, i,
                          path);
                CHECK_OK(t, ctx);
            }
        bb_graph_free(g);
        bb_close(ctx);
    }
}

static void test_names(test *t) {
    bb_context *ctx = test_open();
    bb_graph *g = graph_of_model(graph_model(ctx, BB_F32, true, false));
    const char *all = printed(g);
    static const char *const lines[] = {
        "graph batch time\n",
        "input ids: i64(batch, time)\n",
        "param blocks.1.attn.qkv.weight: f32(48, 24)\n",
        "embed.embedding: f32(batch, time, 24) = embedding(embed.weight, ids)\n",
        "blocks.0.attn_norm.rmsnorm_impl: f32(batch, time, 24) = RMSNormImpl(embed.embedding, "
        "blocks.0.attn_norm.weight) axes=[-1] eps=1e-05 rounding=auto\n",
        "  blocks.0.attn.qkv.linear.reshape: f32(batch*time, 24) = ",
        "blocks.1.attn.qk_norm.rmsnorm_impl: f32(batch, 6, time, 6) = ",
        "blocks.1.attn.rope: ",
        "shape=[2*batch, 2, time, 6]\n",
        "blocks.1.mlp.swiglu: f32(batch, time, 40) = swiglu(blocks.1.mlp.gate.linear, "
        "blocks.1.mlp.up.linear)\n",
        "logits: f32(batch, time, 19) = linear(norm.rmsnorm_impl, head.weight, -)\n",
        "output logits = logits\n"};
    for (int i = 0; i < COUNT(lines); i++)
        CHECK_MSG(t, strstr(all, lines[i]), "expected the line %s in\n%.0s", lines[i], all);
    bb_graph_free(g);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* ---- A training step: forward, gradients, optimizer, as one graph that runs again */

static bb_tensor *step(bb_tensor *x, bb_tensor *w, bb_tensor *m, bb_tensor *v, bb_tensor *lr,
                       bb_tensor *count) {
    bb_tensor *loss = bb_mean_all(bb_square(bb_silu(bb_rms_norm(x, w, 1e-5)))), *g;
    bb_gradients(loss, NULL, &w, 1, true, &g);
    bb_adamw_(w, g, m, v, lr, count, NULL, NULL);
    return loss;
}

typedef struct state {
    bb_tensor *w, *m, *v, *lr, *count;
} state;

static state new_state(bb_context *ctx) {
    state s = {bb_keep(bb_ones(ctx, BB_F32, BB_SHAPE(8))),
               bb_keep(bb_zeros(ctx, BB_F32, BB_SHAPE(8))),
               bb_keep(bb_zeros(ctx, BB_F32, BB_SHAPE(8))), bb_keep(bb_scalar(ctx, BB_F32, 0.1)),
               bb_keep(bb_scalar(ctx, BB_F32, 1))};
    bb_set_requires_grad(s.w, true);
    return s;
}

static void test_training_step(test *t) {
    bb_context *ctx = test_open();
    bb_set_path(ctx, BB_PATH_COMPOSED);
    state a = new_state(ctx), b = new_state(ctx);
    bb_tensor *x = graph_random(ctx, BB_F32, BB_SHAPE(5, 8), 4), *loss;
    bb_graph *g = bb_graph_begin(ctx);
    bb_graph_input(g, "x", x);
    bb_graph_param(g, "w", a.w);
    bb_graph_output(g, "loss", step(x, a.w, a.m, a.v, a.lr, a.count));
    CHECK_INT(t, bb_graph_end(g), BB_OK);
    CHECK_INT(t, bb_graph_node_count(g, "adamw_"), 1);
    /* The backward pass reads what is inside silu: it cannot stay one node. */
    CHECK_INT(t, bb_graph_node_count(g, "silu"), 0);
    step(x, b.w, b.m, b.v, b.lr, b.count);
    CHECK(t, graph_same(a.w, b.w));
    for (int i = 0; i < 3; i++) {
        bb_end_step(ctx);
        bb_tensor *y = graph_random(ctx, BB_F32, BB_SHAPE(5, 8), 5 + (uint64_t)i);
        CHECK_INT(t, bb_graph_run(g, &y, 1, &loss), BB_OK);
        bb_tensor *want = step(y, b.w, b.m, b.v, b.lr, b.count);
        CHECK(t, graph_same(loss, want));
        CHECK(t, graph_same(a.w, b.w));
        CHECK(t, graph_same(a.v, b.v));
    }
    bb_graph_free(g);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* The same of a whole transformer: loss, gradients of all parameters, AdamW on each. */
enum { MOST_PARAMS = 32 };
typedef struct learner {
    bb_nn_transformer *model;
    bb_tensor *m[MOST_PARAMS], *v[MOST_PARAMS], *lr, *count;
} learner;

static learner new_learner(bb_context *ctx) {
    learner l = {.model = graph_model(ctx, BB_F32, true, false)};
    for (int i = 0; i < bb_params_count(l.model->params); i++) {
        bb_shape shape = bb_shape_of(bb_params_at(l.model->params, i));
        l.m[i] = bb_keep(bb_zeros(ctx, BB_F32, shape));
        l.v[i] = bb_keep(bb_zeros(ctx, BB_F32, shape));
    }
    l.lr = bb_keep(bb_scalar(ctx, BB_F32, 0.01));
    l.count = bb_keep(bb_scalar(ctx, BB_F32, 1));
    return l;
}

static bb_tensor *learn(learner *l, bb_tensor *ids, bb_tensor *targets) {
    bb_tensor *param[MOST_PARAMS], *g[MOST_PARAMS];
    int n = bb_params_count(l->model->params);
    for (int i = 0; i < n; i++) param[i] = bb_params_at(l->model->params, i);
    bb_tensor *loss = bb_nn_transformer_loss(l->model, ids, targets);
    bb_gradients(loss, NULL, param, n, true, g);
    for (int i = 0; i < n; i++)
        bb_adamw_(param[i], g[i], l->m[i], l->v[i], l->lr, l->count, NULL, NULL);
    return loss;
}

static bb_tensor *some_ids(bb_context *ctx, int by) {
    bb_tensor *ids = graph_ids(ctx, 2, 6, 19);
    int64_t *at = bb_data(ids);
    for (int i = 0; i < 12; i++) at[i] = (at[i] + i * by) % 19;
    return ids;
}

static void test_training_step_of_a_model(test *t) {
    bb_context *ctx = test_open();
    bb_set_path(ctx, BB_PATH_COMPOSED);
    learner a = new_learner(ctx), b = new_learner(ctx);
    bb_assign(bb_params_values(b.model->params), bb_params_values(a.model->params));
    bb_tensor *in[2] = {some_ids(ctx, 1), some_ids(ctx, 2)}, *loss;
    bb_graph *g = bb_graph_begin(ctx);
    bb_graph_input(g, "ids", in[0]);
    bb_graph_input(g, "targets", in[1]);
    int n = 0;
    const bb_named *listed = bb_params_list(a.model->params, &n);
    for (int i = 0; i < n; i++) bb_graph_param(g, listed[i].name, listed[i].tensor);
    bb_graph_output(g, "loss", learn(&a, in[0], in[1]));
    CHECK_INT(t, bb_graph_end(g), BB_OK);
    CHECK_OK(t, ctx);
    CHECK_INT(t, bb_graph_node_count(g, "adamw_"), n);
    learn(&b, in[0], in[1]);
    for (int step = 0; step < 4; step++) {
        CHECK(t, graph_same(bb_params_values(a.model->params), bb_params_values(b.model->params)));
        bb_end_step(ctx);
        in[0] = some_ids(ctx, 3 + step), in[1] = some_ids(ctx, 5 + step);
        CHECK_INT(t, bb_graph_run(g, in, 2, &loss), BB_OK);
        CHECK(t, graph_same(loss, learn(&b, in[0], in[1])));
        CHECK_OK(t, ctx);
    }
    bb_graph_free(g);
    bb_close(ctx);
}

/* By reference: a parameter that was not named, and a view of one that was made before. */
static void test_references(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *w = bb_keep(bb_ones(ctx, BB_F32, BB_SHAPE(2, 3))), *row = bb_select(w, 0, 1), *out;
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(3));
    bb_graph *g = bb_graph_begin(ctx);
    bb_graph_input(g, "x", x);
    bb_tensor *y = bb_add(bb_mul(x, row), bb_sum(w, BB_INTS(0), false));
    bb_graph_output(g, "y", bb_add(y, bb_detach(y))); /* detached: the same value */
    bb_graph_end(g);
    bb_end_step(ctx);
    bb_write(w, (float[]){1, 2, 3, 4, 5, 6}, 24);
    x = bb_from(ctx, BB_F32, BB_SHAPE(3), (float[]){1, 10, 100});
    CHECK_INT(t, bb_graph_run(g, &x, 1, &out), BB_OK);
    double got[3];
    bb_read_f64(out, got, 3);
    CHECK(t, got[0] == 2 * (4 + 5) && got[1] == 2 * (50 + 7) && got[2] == 2 * (600 + 9));
    CHECK_OK(t, ctx);
    bb_graph_free(g);
    bb_close(ctx);
}

/* What a graph cannot follow is an error, not a wrong graph. */
static void test_not_followed(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *w = bb_set_requires_grad(bb_keep(bb_ones(ctx, BB_F32, BB_SHAPE(3))), true);
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(3)), *lr = bb_scalar(ctx, BB_F32, 1);
    bb_graph *g = bb_graph_begin(ctx);
    bb_graph_input(g, "x", x);
    bb_backward(bb_sum_all(bb_mul(w, x)), NULL);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_backward: a graph is being recorded");
    bb_graph_free(g);
    g = bb_graph_begin(ctx);
    bb_sgd_(bb_from(ctx, BB_F32, BB_SHAPE(3), (float[3]){0}), x, NULL, lr, NULL, NULL);
    bb_graph_end(g);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "a graph that records cannot follow the change");
    bb_graph_free(g);
    g = bb_graph_begin(ctx);
    bb_assign(w, bb_mul(w, x));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_assign: a graph is being recorded: expected ops");
    bb_graph_free(g);
    for (int named = 0; named < 2; named++) { /* read, changed by the host, read */
        g = bb_graph_begin(ctx);
        if (named) bb_graph_param(g, "w", w);
        bb_write(w, (float[]){1, 2, 3}, 12); /* nobody has read it yet */
        bb_tensor *y = bb_mul(w, x);
        CHECK_OK(t, ctx);
        bb_write(w, (float[]){4, 5, 6}, 12);
        CHECK(t, !bb_mul(w, y));
        CHECK_ERROR(t, ctx, BB_ERR_STATE,
                    named ? "graph: w: expected changes by recorded ops alone"
                          : "graph: a tensor: expected changes by recorded");
        bb_graph_free(g);
    }
    bb_close(ctx);
}

static void test_wrong_use(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(2)), *out;
    bb_graph *g = bb_graph_begin(ctx);
    CHECK(t, !bb_graph_begin(ctx));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "a graph is being recorded already");
    bb_graph_input(g, "x", x);
    bb_graph_input(g, "again", x);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_graph_input: again: expected a tensor that is new");
    bb_graph_param(g, "p", bb_ones(ctx, BB_F32, BB_SHAPE(2)));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_graph_param: p: expected a tensor of the context");
    bb_graph_run(g, &x, 1, &out);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "still recording");
    bb_graph_output(g, "y", bb_neg(x));
    bb_graph_end(g);
    CHECK_INT(t, bb_get_path(ctx), BB_PATH_AUTO);
    bb_graph_end(g);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "it has ended before");
    bb_tensor *wide = bb_ones(ctx, BB_F32, BB_SHAPE(3));
    bb_graph_run(g, &wide, 1, &out);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_graph_run: x: expected f32(2), got f32(3");
    bb_graph_run(g, &wide, 0, &out);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_graph_run: inputs: expected 1, got 0");
    bb_graph_free(g);
    g = bb_graph_begin(ctx);
    bb_end_step(ctx);
    CHECK(t, !bb_ones(ctx, BB_F32, BB_SHAPE(2)));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "the step ended while it was recording");
    bb_graph_free(g);
    g = bb_graph_begin(ctx);
    bb_graph_end(g);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected an output, got none");
    bb_graph_free(g);
    bb_graph_free(NULL);
    bb_close(ctx);
}

static void record_and_run(bb_context *ctx) {
    bb_tensor *w = bb_keep(bb_ones(ctx, BB_F32, BB_SHAPE(4)));
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(2, 4)), *out;
    bb_graph *g = bb_graph_begin(ctx);
    bb_graph_input(g, "x", x);
    bb_graph_param(g, "w", w);
    bb_graph_output(g, "y", bb_softmax(bb_rms_norm(x, w, 1e-5), -1));
    bb_graph_end(g);
    if (g) bb_graph_run(g, &x, 1, &out);
    bb_graph_free(g);
}

static void test_memory(test *t) { alloc_failure_loop(t, record_and_run); }

static const test_row rows[] = {{"small", test_small},
                                {"model", test_model},
                                {"names", test_names},
                                {"training step", test_training_step},
                                {"training step of a model", test_training_step_of_a_model},
                                {"references", test_references},
                                {"not followed", test_not_followed},
                                {"wrong use", test_wrong_use},
                                {"memory", test_memory}};
TEST_MAIN(rows)
