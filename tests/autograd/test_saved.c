/* autograd/saved.c: hooks on saved values. What a lossless pair packs gives the bits of a run
 * without hooks, wherever values are saved; what is packed, unpacked and released how often; a pair
 * that keeps less. What goes wrong: test_saved_faults.c. */
#include "tests/autograd/saved_test.h"
#include "tests/support/alloc.h"

/* ---- Programs whose gradients must not change ------------------------------------------------ */

typedef bb_tensor *(*program)(bb_tensor *const *in);

static bb_tensor *in_scopes(bb_tensor *const *in) {
    bb_context *ctx = bb_context_of(in[0]);
    bb_tensor *h = in[0];
    for (int i = 0; i < 3; i++) {
        bb_scope scope = bb_scope_begin(ctx);
        h = bb_scope_end(ctx, scope, bb_add(composite((bb_tensor *[]){h, in[1], in[2]}), h));
    }
    return h;
}
static bb_tensor *segment(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)n;
    return composite((bb_tensor *[]){bb_dropout(in[0], 0.3), in[1], in[2]});
}
static bb_tensor *again(bb_tensor *const *in) {
    bb_tensor *h = bb_recompute(bb_context_of(in[0]), segment, NULL, in, 3);
    return bb_recompute(bb_context_of(in[0]), segment, NULL, (bb_tensor *[]){h, in[0], in[2]}, 3);
}
static bb_tensor *many_inputs(bb_tensor *const *in) {
    enum { MANY = 100 };
    bb_tensor *many[MANY];
    for (int i = 0; i < MANY; i++) many[i] = bb_square(in[i % 2]);
    return bb_sum(bb_stack(many, MANY, 0), BB_INTS(0), false);
}

static const struct {
    const char *name;
    program run;
} programs[] = {{"plain", plain},
                {"composite", composite},
                {"scopes", in_scopes},
                {"recompute", again},
                {"many inputs", many_inputs}};

typedef enum manner { ONCE, RETAIN, SECOND_ORDER } manner;

/* Runs a program and reads its gradients; hooks NULL: without. */
static void gradients(test *t, program run, bb_path path, manner how, bb_dtype dtype, store *s,
                      double out[MOST * N]) {
    bb_context *ctx = test_open();
    bb_tensor *in[MOST];
    memset(out, 0, MOST * N * sizeof *out);
    make_inputs(ctx, dtype, in);
    bb_set_path(ctx, path);
    const bb_saved_hooks hooks = store_hooks(s);
    if (s) {
        s->ctx = ctx;
        CHECK_INT(t, bb_saved_hooks_push(ctx, &hooks), BB_OK);
    }
    bb_tensor *y = run(in), *loss = bb_sum_all(bb_mul(y, bb_cos(bb_detach(y))));
    if (how == SECOND_ORDER) {
        bb_tensor *g[MOST];
        bb_gradients(loss, NULL, in, MOST, true, g);
        loss = bb_sum_all(bb_square(g[0]));
        if (g[1]) loss = bb_add(loss, bb_sum_all(bb_mul(g[1], g[1])));
    }
    if (s) bb_saved_hooks_pop(ctx);
    if (how == RETAIN) CHECK_INT(t, bb_backward_retain(loss, NULL), BB_OK);
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    for (int k = 0; k < MOST; k++)
        if (bb_grad(in[k])) bb_read_f64(bb_grad(in[k]), out + k * N, bb_count(in[k]));
    CHECK_OK(t, ctx);
    if (s && how != SECOND_ORDER) CHECK_INT(t, s->live, 0); /* all that was walked */
    bb_end_step(ctx);
    if (s) CHECK_INT(t, s->live, 0);
    if (s) CHECK_INT(t, s->packs, s->releases);
    if (s) CHECK_INT(t, s->recorded, 0);
    bb_close(ctx);
}

static void test_same_bits(test *t) {
    for (int p = 0; p < COUNT(programs); p++)
        for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2)
            for (int how = ONCE; how <= SECOND_ORDER; how++)
                for (int dtype = BB_F64; dtype <= BB_F32; dtype++) {
                    static double without[MOST * N], with[MOST * N];
                    store s = {0};
                    /* a fused RoPE drops its input, so a second order runs composed anyway */
                    if (how == SECOND_ORDER && path == BB_PATH_AUTO) continue;
                    gradients(t, programs[p].run, (bb_path)path, (manner)how, (bb_dtype)dtype, NULL,
                              without);
                    gradients(t, programs[p].run, (bb_path)path, (manner)how, (bb_dtype)dtype, &s,
                              with);
                    CHECK_MSG(t, memcmp(with, without, sizeof with) == 0 && s.packs > 0,
                              "%s, path %d, manner %d: other gradients (%d packed)",
                              programs[p].name, path, how, s.packs);
                    double sum = 0;
                    for (int i = 0; i < MOST * N; i++) sum += fabs(without[i]);
                    CHECK(t, sum > 0.1 && isfinite(sum));
                }
}

/* ---- What is asked how often ----------------------------------------------------------------- */

static void test_calls(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *in[MOST];
    make_inputs(ctx, BB_F32, in);
    store s = {.ctx = ctx}, inner = {.ctx = ctx};
    const bb_saved_hooks hooks = store_hooks(&s), others = store_hooks(&inner);
    bb_tensor *before = bb_square(in[0]); /* not theirs */
    bb_saved_hooks_push(ctx, &hooks);
    bb_tensor *y = bb_mul(in[0], in[1]); /* saves both */
    CHECK_INT(t, s.packs, 2);
    bb_square(in[0]); /* the same value again: packed for all of them */
    CHECK_INT(t, s.packs, 2);
    bb_square(bb_transpose(in[0], 0, 1)); /* other strides */
    CHECK_INT(t, s.packs, 3);
    bb_saved_hooks_push(ctx, NULL);
    bb_square(in[1]);
    bb_saved_hooks_push(ctx, &others);
    bb_square(in[1]); /* only the innermost pair is asked */
    CHECK_INT(t, s.packs, 3);
    CHECK_INT(t, inner.packs, 1);
    bb_saved_hooks_pop(ctx);
    bb_saved_hooks_pop(ctx);
    bb_tensor *no_gradient = bb_detach(in[0]);
    bb_square(no_gradient); /* nothing is saved */
    s.smallest = 7;
    bb_mul(in[2], in[2]); /* 6 elements: left to the tape */
    CHECK_INT(t, s.packs, 3);
    bb_saved_hooks_pop(ctx);
    bb_saved_hooks_pop(ctx); /* one too many is ignored */
    bb_square(in[0]);
    CHECK_INT(t, s.packs, 3);
    bb_backward(bb_add(bb_sum_all(y), bb_sum_all(before)), NULL);
    CHECK_INT(t, s.unpacks, 2);
    CHECK_INT(t, s.releases, 1); /* in[0] is still needed by the square */
    CHECK_INT(t, s.live, 2);
    bb_end_step(ctx);
    CHECK_INT(t, s.live, 0);
    CHECK_INT(t, inner.live, 0);
    make_inputs(ctx, BB_F32, in);
    s = (store){.ctx = ctx};
    bb_saved_hooks_push(ctx, &hooks);
    bb_backward(bb_sum_all(bb_mul(in[0], in[0])), NULL); /* once, and once back */
    bb_saved_hooks_pop(ctx);
    CHECK_INT(t, s.packs, 1);
    CHECK_INT(t, s.unpacks, 1);
    CHECK_OK(t, ctx);
    /* The next value in the same bytes is another value. */
    make_inputs(ctx, BB_F32, in);
    bb_saved_hooks_push(ctx, &hooks);
    bb_tensor *h = bb_mul_scalar(in[0], 2), *hh = bb_square(h);
    float two[N];
    for (int i = 0; i < N; i++) two[i] = 2;
    bb_write(h, two, sizeof two);
    bb_tensor *both = bb_add(hh, bb_square(h));
    bb_saved_hooks_pop(ctx);
    bb_backward(bb_sum_all(both), NULL); /* 2 (2 (2x)) + 2 (2 * 2): both as they were packed */
    double got[N], x[N];
    bb_read_f64(bb_grad(in[0]), got, N);
    bb_read_f64(in[0], x, N);
    for (int i = 0; i < N; i++) CHECK_NEAR(t, got[i], 8 * x[i] + 8, 1e-5);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* More pairs within each other than the first piece of memory for them holds. */
static void test_levels(test *t) {
    enum { LEVELS = 11 };
    test_allocator memory;
    test_allocator_init(&memory);
    bb_context *ctx = bb_open(&(bb_options){.allocator = &memory.base});
    store s[LEVELS];
    for (int i = 0; i < LEVELS; i++) {
        const bb_saved_hooks hooks = store_hooks(&s[i]);
        s[i] = (store){.ctx = ctx};
        CHECK_INT(t, bb_saved_hooks_push(ctx, &hooks), BB_OK);
    }
    for (int i = LEVELS - 1; i >= 0; i--) {
        bb_square(bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(3)), true));
        for (int k = 0; k < LEVELS; k++) CHECK_INT(t, s[k].packs, k >= i);
        bb_saved_hooks_pop(ctx);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
    for (int i = 0; i < LEVELS; i++) CHECK_INT(t, s[i].live, 0);
    CHECK(t, memory.live == 0 && memory.misuses == 0);
}

/* What is unpacked has strides of its own; handles have theirs back when the rule has run, and a
 * gradient with history reads the unpacked bytes as they lie. */
static void test_strides(test *t) {
    float got[2][3][16], values[16];
    for (int i = 0; i < 16; i++) values[i] = 0.3f * (float)(i + 1);
    for (int packed = 0; packed < 2; packed++) {
        bb_context *ctx = test_open();
        store s = {.ctx = ctx};
        const bb_saved_hooks hooks = store_hooks(&s);
        bb_tensor *x = bb_set_requires_grad(bb_from(ctx, BB_F32, BB_SHAPE(4, 4), values), true);
        bb_tensor *turned = bb_transpose(x, 0, 1), *g;
        if (packed) bb_saved_hooks_push(ctx, &hooks);
        bb_tensor *y = bb_square(bb_mul(bb_square(x), turned)); /* x, turned: one storage */
        if (packed) bb_saved_hooks_pop(ctx);
        bb_gradients(y, bb_from(ctx, BB_F32, BB_SHAPE(4, 4), values), &x, 1, true, &g);
        bb_read(turned, got[packed][0], sizeof got[0][0]);
        bb_read(g, got[packed][1], sizeof got[0][0]);
        bb_backward(bb_sum_all(bb_mul(g, turned)), NULL);
        bb_read(bb_grad(x), got[packed][2], sizeof got[0][0]);
        CHECK_OK(t, ctx);
        CHECK_INT(t, s.packs, packed ? 4 : 0);
        bb_close(ctx);
    }
    CHECK(t, memcmp(got[0], got[1], sizeof got[0]) == 0);
    CHECK_NEAR(t, got[0][0][1], values[4], 0);
}

/* ---- Half the bytes: tensors of the library as what is packed -------------------------------- */

static void test_half_the_bytes(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(64, 64), 1.0 / 3), true);
    size_t held[2];
    for (int packed = 0; packed < 2; packed++) {
        if (packed) bb_saved_hooks_push(ctx, &narrow);
        size_t before = bb_memory_stats(ctx).bytes_in_use;
        bb_scope scope = bb_scope_begin(ctx);
        bb_tensor *h = bb_mul_scalar(x, 1);
        for (int i = 0; i < 8; i++) h = bb_exp(bb_mul_scalar(h, -1));
        bb_tensor *loss = bb_scope_end(ctx, scope, bb_sum_all(h));
        held[packed] = bb_memory_stats(ctx).bytes_in_use - before;
        if (packed) bb_saved_hooks_pop(ctx);
        bb_zero_grad(x);
        CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
        CHECK(t, bb_item(bb_sum_all(bb_grad(x))) != 0);
    }
    CHECK_OK(t, ctx);
    CHECK_MSG(t, held[1] <= held[0] * 6 / 10, "%zu bytes held, %zu without hooks", held[1],
              held[0]);
    /* What the rule reads is what was unpacked, also while the handle still has the value. */
    bb_tensor *w = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(1), 1), true);
    bb_tensor *third = bb_full(ctx, BB_F32, BB_SHAPE(1), 1.0 / 3);
    int64_t live = bb_memory_stats(ctx).live_tensors;
    bb_saved_hooks_push(ctx, &narrow);
    bb_tensor *y = bb_mul(w, third);
    bb_saved_hooks_pop(ctx);
    CHECK_INT(t, bb_memory_stats(ctx).live_tensors, live + 3); /* y and what is packed */
    bb_backward(y, NULL);
    CHECK_NEAR(t, bb_item(bb_grad(w)), 0.333251953125, 0); /* 1/3 in f16 */
    CHECK_NEAR(t, bb_item(third), (float)(1.0 / 3), 0);
    /* So does a gradient of that gradient. */
    bb_tensor *seed = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(1), 1), true), *g;
    bb_saved_hooks_push(ctx, &narrow);
    y = bb_mul(w, third);
    bb_saved_hooks_pop(ctx);
    bb_gradients(y, seed, &w, 1, true, &g);
    bb_backward(g, NULL);
    CHECK_NEAR(t, bb_item(bb_grad(seed)), 0.333251953125, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"same bits", test_same_bits},
    {"calls", test_calls},
    {"levels", test_levels},
    {"strides", test_strides},
    {"half the bytes", test_half_the_bytes},
};
TEST_MAIN(rows)
