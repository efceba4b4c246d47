/* Parameter sets: names, handles, the two blocks, initial values, errors, failing memory. */
#include "tests/nn/nn_test.h"
#include "tests/support/alloc.h"

static void names(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    bb_tensor *a = bb_params_add(params, "a.weight", BB_SHAPE(3, 5), BB_INIT_NORMAL, 0.5);
    bb_tensor *b = bb_params_add(params, "a.bias", BB_SHAPE(3), BB_INIT_ZEROS, 0);
    CHECK_INT(t, bb_params_count(params), 2);
    CHECK_INT(t, bb_params_elements(params), 18);
    CHECK(t, bb_params_at(params, 0) == a && bb_params_at(params, 1) == b);
    CHECK(t, !bb_params_at(params, 2) && !bb_params_at(params, -1) && !bb_params_name(params, 2));
    CHECK_TEXT(t, bb_params_name(params, 1), "a.bias");
    CHECK(t, bb_params_find(params, "a.bias") == b && !bb_params_find(params, "bias"));
    int n = 0;
    const bb_named *list = bb_params_list(params, &n);
    CHECK_INT(t, n, 2);
    CHECK_TEXT(t, list[0].name, "a.weight");
    CHECK(t, list[1].tensor == b);
    CHECK(t, !bb_params_values(params) && !bb_params_grads(params));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Handles from before the build, more of them than one growth of the table holds, in place in both
 * blocks. */
static void blocks(test *t) {
    enum { N = 37 };
    bb_context *ctx = test_open_host();
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    bb_tensor *handle[N];
    char name[32];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "p%d", i);
        if (i % 3 == 0)
            handle[i] = bb_params_add(params, name, BB_SHAPE(i + 1, 3), BB_INIT_NORMAL, 1);
        if (i % 3 == 1) handle[i] = bb_params_add(params, name, BB_SHAPE(i), BB_INIT_ZEROS, 0);
        if (i % 3 == 2) handle[i] = bb_params_add(params, name, BB_SHAPE(2, 1, i), BB_INIT_ONES, 0);
    }
    CHECK_INT(t, bb_params_build(params), BB_OK);
    CHECK_INT(t, bb_params_build(params), BB_OK);
    char *values = bb_data(bb_params_values(params)), *grads = bb_data(bb_params_grads(params));
    int64_t total = bb_count(bb_params_values(params)), decayed = bb_params_decayed(params);
    CHECK_INT(t, bb_count(bb_params_grads(params)), total);
    CHECK_INT(t, decayed % 16, 0);
    bool *used = calloc((size_t)total, 1);
    for (int i = 0; i < N; i++) {
        bb_tensor *p = handle[i];
        int64_t at = ((char *)p->data - values) / 4;
        CHECK(t, p == bb_params_at(params, i) && bb_requires_grad(p) && bb_is_contiguous(p));
        CHECK_INT(t, (uintptr_t)p->data % 64, 0);
        CHECK_INT(t, (char *)p->grad->data - grads, at * 4);
        CHECK(t, bb_grad(p) == NULL); /* the place is there, a gradient is not */
        CHECK_MSG(t, i % 3 == 0 ? at + bb_count(p) <= decayed : at >= decayed, "p%d at %lld", i,
                  (long long)at);
        for (int64_t k = 0; k < bb_count(p); k++) {
            CHECK_MSG(t, at + k < total && !used[at + k], "p%d overlaps or leaves the block", i);
            if (at + k < total) used[at + k] = true;
        }
    }
    for (int64_t k = 0; k < total; k++)
        if (!used[k] && (((float *)values)[k] != 0 || ((float *)grads)[k] != 0))
            CHECK_MSG(t, false, "padding at %lld", (long long)k);
    free(used);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void initial_values(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    bb_tensor *normal = bb_params_add(params, "n", BB_SHAPE(200, 100), BB_INIT_NORMAL, 0.25);
    bb_tensor *ones = bb_params_add(params, "o", BB_SHAPE(7), BB_INIT_ONES, 0);
    bb_tensor *zeros = bb_params_add(params, "z", BB_SHAPE(5), BB_INIT_ZEROS, 0);
    bb_tensor *other = bb_params_add(params, "m", BB_SHAPE(200, 100), BB_INIT_NORMAL, 0.25);
    bb_params_build(params);
    double *n = values_of(t, normal), *o = values_of(t, ones), *z = values_of(t, zeros), sum = 0,
           squares = 0;
    for (int i = 0; i < 20000; i++) sum += n[i], squares += n[i] * n[i];
    CHECK_NEAR(t, sum / 20000, 0, 0.01);
    CHECK_NEAR(t, sqrt(squares / 20000), 0.25, 0.01);
    for (int i = 0; i < 7; i++) CHECK_NEAR(t, o[i], 1, 0);
    for (int i = 0; i < 5; i++) CHECK_NEAR(t, z[i], 0, 0);
    CHECK(t, !same_bytes(normal, other));
    /* The same seed gives the same values, another one others. */
    bb_context *again = bb_open(&(bb_options){.seed = bb_get_rng(ctx).seed}),
               *seeded = bb_open(&(bb_options){.seed = 99});
    bb_context *both[2] = {again, seeded};
    for (int i = 0; i < 2; i++) {
        bb_params *p = bb_params_new(both[i], bb_get_device(both[i]), BB_F32);
        bb_tensor *x = bb_params_add(p, "n", BB_SHAPE(200, 100), BB_INIT_NORMAL, 0.25);
        bb_params_build(p);
        CHECK_INT(t, same_bytes(x, normal), i == 0);
    }
    free(n), free(o), free(z);
    CHECK_OK(t, ctx);
    bb_close(ctx), bb_close(again), bb_close(seeded);
}

static void gradients(test *t) {
    bb_context *ctx = test_open_host();
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F64);
    bb_tensor *a = bb_params_add(params, "a", BB_SHAPE(3), BB_INIT_ONES, 0);
    bb_params_build(params);
    for (int round = 0; round < 2;
         round++) { /* the second round writes, it does not add to the first */
        for (int i = 1; i <= 2; i++) {
            bb_backward(bb_sum_all(bb_mul_scalar(a, 5)), NULL);
            double *g = values_of(t, bb_grad(a));
            CHECK_NEAR(t, g[2], 5 * i, 0);
            free(g);
            CHECK(t, bb_data(bb_grad(a)) == bb_data(bb_params_grads(params)));
            bb_end_step(ctx);
        }
        bb_params_zero_grad(params);
        CHECK(t, bb_grad(a) == NULL);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* A parameter's gradient stands in the block of its set: one that was dropped has its place again
 * after bb_params_zero_grad, and counts as zero until then. */
static void dropped_gradient(test *t) {
    bb_context *ctx = test_open_host();
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F64);
    bb_tensor *a = bb_params_add(params, "a", BB_SHAPE(3), BB_INIT_ONES, 0);
    bb_tensor *b = bb_params_add(params, "b", BB_SHAPE(3), BB_INIT_ONES, 0);
    bb_sgd *sgd = bb_sgd_new(params, NULL);
    for (int round = 0; round < 3; round++) {
        bb_backward(bb_sum_all(bb_add(bb_mul_scalar(a, 5), b)), NULL);
        bb_drop(bb_grad(a));
        CHECK(t, !bb_grad(a) && bb_grad(b));
        if (round == 0) {
            CHECK_INT(t, bb_backward(bb_sum_all(a), NULL), BB_ERR_STATE);
            CHECK_ERROR(t, ctx, BB_ERR_STATE,
                        "the gradient of a parameter was dropped (bb_drop): expected "
                        "bb_params_zero_grad");
            CHECK_INT(t, bb_backward(bb_sum_all(bb_slice(a, 0, 0, 1, 1)), NULL), BB_ERR_STATE);
            CHECK_ERROR(t, ctx, BB_ERR_STATE, "was dropped");
        } else {
            CHECK_NEAR(t, bb_clip_grad_norm(params, 100), sqrt(3), 1e-12);
        }
        if (round == 2) CHECK_INT(t, bb_sgd_step(sgd, 0.5), BB_OK);
        bb_params_zero_grad(params);
        CHECK(t, !bb_grad(a) && !bb_grad(b));
        bb_backward(bb_sum_all(bb_mul_scalar(a, 7)), NULL);
        CHECK(t, bb_data(bb_grad(a)) == bb_data(bb_params_grads(params)));
        double *g = values_of(t, bb_grad(a)), *values = values_of(t, b);
        CHECK_NEAR(t, g[2], 7, 0);
        CHECK_NEAR(t, values[2], round == 2 ? 0.5 : 1, 0);
        free(g);
        free(values);
        bb_params_zero_grad(params);
    }
    CHECK_NEAR(t, bb_item(bb_select(a, 0, 0)), 1, 0);
    bb_backward(bb_sum_all(bb_add(a, b)), NULL);
    bb_drop(bb_grad(a));
    bb_drop(a);
    CHECK_INT(t, bb_sgd_step(sgd, 0.5), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "dropped");
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void errors(test *t) {
    bb_context *ctx = test_open();
    char longest[BB_NAME_BYTES + 1];
    memset(longest, 'x', BB_NAME_BYTES);
    longest[BB_NAME_BYTES] = 0;
    CHECK(t, !bb_params_new(ctx, bb_get_device(ctx), BB_I64));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected f64, f32, f16 or bf16, got i64");
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    CHECK(t, !bb_params_add(params, longest, BB_SHAPE(1), BB_INIT_ONES, 0));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected 1 to 127 bytes, got 128");
    CHECK(t, !bb_params_add(params, "", BB_SHAPE(1), BB_INIT_ONES, 0));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected 1 to 127 bytes, got 0");
    CHECK(t, !bb_nn_linear_new(params, longest, 1, 1, true, 0).weight);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected fewer than 128 bytes, got 135");
    CHECK(t, !bb_params_add(params, "a", BB_SHAPE(-1), BB_INIT_ONES, 0));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "a: expected a shape");
    bb_tensor *a = bb_params_add(params, "a", BB_SHAPE(1), BB_INIT_ONES, 0);
    CHECK(t, !bb_params_add(params, "a", BB_SHAPE(1), BB_INIT_ONES, 0));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected a new one, got a again");
    CHECK(t, !bb_exp(a)); /* no values yet */
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "not built");
    bb_params_build(params);
    CHECK(t, bb_exp(a));
    CHECK(t, !bb_params_add(params, "b", BB_SHAPE(1), BB_INIT_ONES, 0));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "b: expected a set that is not built yet");
    CHECK_INT(t, bb_params_count(params), 1);
    /* NULL goes through without a second error. */
    CHECK(t,
          !bb_params_add(NULL, "a", BB_SHAPE(1), BB_INIT_ONES, 0) && !bb_params_list(NULL, NULL));
    CHECK_INT(t, bb_params_build(NULL), BB_ERR_ARGUMENT);
    bb_params_zero_grad(NULL);
    CHECK_INT(t, bb_params_count(NULL), 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* A set without parameters or with parameters without elements. */
static void empty(test *t) {
    bb_context *ctx = test_open();
    bb_params *none = bb_params_new(ctx, bb_get_device(ctx), BB_F32),
              *hollow = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    CHECK_INT(t, bb_params_build(none), BB_OK);
    bb_tensor *x = bb_params_add(hollow, "x", BB_SHAPE(0, 3), BB_INIT_NORMAL, 1);
    CHECK_INT(t, bb_params_build(hollow), BB_OK);
    CHECK_INT(t, bb_count(x), 0);
    CHECK_INT(t, bb_params_elements(hollow), 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void layer_names(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    static const char *const cases[][2] = {
        {"norm", "norm"},           {"blocks.0.attn_norm", "attn_norm"},
        {"blocks.12", "blocks.12"}, {"model.blocks.12", "blocks.12"},
        {"layer2", "layer2"},       {"7", "7"}};
    for (int i = 0; i < 6; i++)
        CHECK_TEXT(t, bb_nn_linear_new(params, cases[i][0], 2, 3, false, 0).name, cases[i][1]);
    CHECK(t, !bb_nn_linear_new(params, "", 2, 3, false, 0).name);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void build_all(bb_context *ctx) {
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    bb_nn_linear_new(params, "a", 5, 7, true, 0);
    bb_nn_rms_norm_new(params, "b", 5, 1e-5, 2);
    bb_params_build(params);
}
static void failing_memory(test *t) { alloc_failure_loop(t, build_all); }

static const test_row rows[] = {
    {"names", names},
    {"blocks", blocks},
    {"initial_values", initial_values},
    {"gradients", gradients},
    {"dropped_gradient", dropped_gradient},
    {"errors", errors},
    {"empty", empty},
    {"layer_names", layer_names},
    {"failing_memory", failing_memory},
};
TEST_MAIN(rows)
