/* autograd/saved.c: hooks on saved values. What a lossless pair packs gives the bits of a run
 * without hooks, wherever values are saved; each packed object is released once; what goes wrong is
 * an error that names the op. */
#include "core/impl.h"
#include "tests/support/alloc.h"

/* ---- A pair that keeps bytes outside of the library, as a file would ------------------------- */

typedef struct store {
    bb_context *ctx;
    int packs, unpacks, releases, live;
    int64_t smallest; /* values of fewer elements stay with the tape */
    int fail_pack;    /* the nth pack fails */
} store;
typedef struct stored {
    bb_dtype dtype;
    bb_device device;
    bb_shape shape;
    size_t bytes;
    char values[];
} stored;

static bb_status store_pack(void *user, bb_tensor *value, void **packed) {
    store *s = user;
    if (bb_count(value) < s->smallest) return BB_OK;
    if (++s->packs == s->fail_pack) return bb_fail(s->ctx, BB_ERR_IO, "the disk is full");
    size_t bytes = (size_t)bb_count(value) * bb_dtype_bytes(bb_dtype_of(value));
    stored *p = malloc(sizeof *p + bytes);
    if (!p) return bb_fail(s->ctx, BB_ERR_MEMORY, "no memory");
    *p = (stored){bb_dtype_of(value), bb_device_of(value), bb_shape_of(value), bytes};
    if (bb_read(value, p->values, bytes)) {
        free(p);
        return bb_error(s->ctx);
    }
    s->live++;
    *packed = p;
    return BB_OK;
}
static bb_tensor *store_unpack(void *user, void *packed) {
    store *s = user;
    const stored *p = packed;
    s->unpacks++;
    bb_tensor *t = bb_empty_on(s->ctx, p->device, p->dtype, p->shape);
    return t && bb_write(t, p->values, p->bytes) == BB_OK ? t : NULL;
}
static void store_release(void *user, void *packed) {
    store *s = user;
    s->releases++;
    s->live--;
    memset(packed, 0xee, sizeof(stored)); /* whoever uses it again will notice */
    free(packed);
}
static bb_saved_hooks store_hooks(store *s) {
    return (bb_saved_hooks){store_pack, store_unpack, store_release, s};
}

/* ---- Programs whose gradients must not change ------------------------------------------------ */

enum { N = 24, MOST = 3 };
typedef bb_tensor *(*program)(bb_tensor *const *in); /* in: (4, 6) twice, (6,) */

static bb_tensor *plain(bb_tensor *const *in) {
    bb_tensor *h = bb_tanh(bb_mul(in[0], in[0])); /* one tensor twice; an output that is saved */
    h = bb_mul(bb_transpose(h, 0, 1), bb_exp(bb_transpose(in[1], 0, 1))); /* views */
    return bb_add(bb_mul(bb_transpose(h, 0, 1), in[2]), bb_slice(in[0], 0, 0, 1, 1));
}
static bb_tensor *composite(bb_tensor *const *in) {
    bb_tensor *h = bb_rms_norm(bb_add(in[0], in[1]), in[2], 1e-5); /* a hidden output */
    h = bb_swiglu(h, bb_layer_norm(h, in[2], NULL, 1e-5));
    bb_tensor *x = bb_reshape(h, BB_SHAPE(1, 1, 4, 6));
    return bb_reshape(bb_sdpa(x, bb_rope(x, NULL), x, NULL, &(bb_sdpa_attrs){.is_causal = true}),
                      BB_SHAPE(4, 6));
}
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
    bb_tensor *many[40];
    for (int i = 0; i < 40; i++) many[i] = bb_square(in[i % 2]);
    return bb_sum(bb_stack(many, 40, 0), BB_INTS(0), false);
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

static void make_inputs(bb_context *ctx, bb_dtype dtype, bb_tensor *in[MOST]) {
    double v[N];
    for (int k = 0; k < MOST; k++) {
        for (int i = 0; i < N; i++) v[i] = 0.9 * sin(1.7 * i + k) + 0.05;
        in[k] = bb_from_f64(ctx, dtype, k == 2 ? BB_SHAPE(6) : BB_SHAPE(4, 6), v);
        bb_set_requires_grad(in[k], true);
    }
}

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
    bb_close(ctx);
}

static void test_same_bits(test *t) {
    for (size_t p = 0; p < sizeof programs / sizeof programs[0]; p++)
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

static bb_status narrow_pack(void *user, bb_tensor *value, void **packed) {
    (void)user;
    if (bb_dtype_of(value) != BB_F32) return BB_OK;
    *packed = bb_hold(bb_cast(bb_mul_scalar(value, 1), BB_F16)); /* the product is dropped */
    return bb_error(bb_context_of(value));
}
static bb_tensor *narrow_unpack(void *user, void *packed) {
    (void)user;
    return bb_cast(packed, BB_F32);
}
static void narrow_release(void *user, void *packed) {
    (void)user;
    bb_drop(packed);
}
static const bb_saved_hooks narrow = {narrow_pack, narrow_unpack, narrow_release, NULL};

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

/* ---- What goes wrong ------------------------------------------------------------------------- */

typedef enum fault {
    WRITES,
    SHARES,
    WRONG_DTYPE,
    WRONG_SHAPE,
    NOTHING,
    SILENT,
    DROPPED,
    FAULTS
} fault;

static bb_status bad_pack(void *user, bb_tensor *value, void **packed) {
    fault f = *(fault *)user;
    if (f == WRITES) {
        static const float zeros[N];
        bb_write(value, zeros, sizeof zeros);
    }
    *packed = f == SHARES ? bb_hold(bb_reshape(value, bb_shape_of(value)))
                          : bb_hold(bb_mul_scalar(value, 1));
    return f == SILENT ? BB_ERR_IO : BB_OK;
}
static bb_tensor *bad_unpack(void *user, void *packed) {
    fault f = *(fault *)user;
    if (f == NOTHING) return NULL;
    if (f == WRONG_DTYPE) return bb_cast(packed, BB_F16);
    if (f == WRONG_SHAPE) return bb_reshape(packed, BB_SHAPE(6, 4));
    bb_tensor *t = bb_mul_scalar(packed, 1);
    if (f == DROPPED) bb_drop(t);
    return f == SHARES ? packed : t;
}
static int released;
static void bad_release(void *user, void *packed) {
    (void)user, (void)packed;
    released++;
}

static void test_faults(test *t) {
    static const char *const messages[FAULTS] = {
        [WRITES] = "square: pack: changed the value that it was to pack",
        [SHARES] =
            ("bb_backward: square: unpack: gave the value's own bytes, which were changed in "
             "place"),
        [WRONG_DTYPE] = "bb_backward: square: unpack: expected f32(4, 6) on",
        [WRONG_SHAPE] = "got f32(6, 4) on",
        [NOTHING] = "bb_backward: square: unpack: expected f32(4, 6), got NULL",
        [SILENT] = "square: pack: failed without a message",
        [DROPPED] =
            "bb_backward: square: unpack: expected f32(4, 6), got a tensor that was dropped",
    };
    for (int f = 0; f < FAULTS; f++) {
        bb_context *ctx = test_open();
        bb_tensor *in[MOST];
        fault kind = (fault)f;
        const bb_saved_hooks hooks = {bad_pack, bad_unpack, bad_release, &kind};
        released = 0;
        make_inputs(ctx, BB_F32, in);
        bb_tensor *x = bb_mul_scalar(in[0], 1);
        bb_saved_hooks_push(ctx, &hooks);
        bb_tensor *y = bb_square(x);
        bb_saved_hooks_pop(ctx);
        CHECK(t, (f == WRITES || f == SILENT) == !y);
        if (f == SHARES) bb_write(x, (float[N]){0}, N * sizeof(float));
        if (y) CHECK(t, bb_backward(y, bb_ones_like(y)) != BB_OK);
        CHECK_ERROR(t, ctx, f == SILENT ? BB_ERR_IO : BB_ERR_STATE, messages[f]);
        CHECK(t, !bb_grad(in[0]));
        bb_end_step(ctx);
        CHECK_INT(t, released, 1);
        /* And it works again. */
        make_inputs(ctx, BB_F32, in);
        CHECK_INT(t, bb_backward(bb_sum_all(bb_square(in[0])), NULL), BB_OK);
        bb_close(ctx);
    }
    bb_context *ctx = test_open();
    CHECK_INT(t, bb_saved_hooks_push(ctx, &(bb_saved_hooks){store_pack, NULL, NULL, NULL}),
              BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "bb_saved_hooks_push: hooks: expected pack and unpack, got NULL");
    CHECK_INT(t, bb_saved_hooks_push(NULL, NULL), BB_ERR_ARGUMENT);
    bb_saved_hooks_pop(NULL);
    bb_close(ctx);
}

/* A pack that fails in the middle of a node, a step that ends before backward, a walk that stops:
 * each object is released once, and the context works on. */
static void test_early_ends(test *t) {
    for (int fail = 0; fail < 9; fail++) {
        bb_context *ctx = test_open();
        bb_tensor *in[MOST];
        store s = {.ctx = ctx, .fail_pack = fail};
        const bb_saved_hooks hooks = store_hooks(&s);
        make_inputs(ctx, BB_F32, in);
        bb_saved_hooks_push(ctx, &hooks);
        bb_tensor *y = composite(in);
        CHECK(t, (fail == 0) == (y != NULL));
        if (fail) CHECK_ERROR(t, ctx, BB_ERR_IO, "the disk is full");
        bb_saved_hooks_pop(ctx);
        bb_end_step(ctx);
        CHECK_INT(t, s.live, 0);
        CHECK_INT(t, s.unpacks, 0);
        bb_close(ctx);
    }
}

static void with_hooks(bb_context *ctx) {
    bb_tensor *in[MOST], *g[MOST];
    bb_status pushed = bb_saved_hooks_push(ctx, &narrow);
    make_inputs(ctx, BB_F32, in);
    bb_tensor *y = bb_sum_all(plain(in));
    bb_gradients(y, NULL, in, MOST, true, g);
    bb_backward(bb_sum_all(composite(in)), NULL);
    if (pushed == BB_OK) bb_saved_hooks_pop(ctx);
}
static void test_memory_runs_out(test *t) { alloc_failure_loop(t, with_hooks); }

static const test_row rows[] = {
    {"same bits", test_same_bits},
    {"calls", test_calls},
    {"strides", test_strides},
    {"half the bytes", test_half_the_bytes},
    {"faults", test_faults},
    {"early ends", test_early_ends},
    {"memory runs out", test_memory_runs_out},
};
TEST_MAIN(rows)
