/* Random graphs of up to 30 ops (shared nodes, dead branches, broadcasting, views) against finite
 * differences, and the ways to ask for a gradient against each other. A value that is changed in
 * place must be refused or not matter. A failure prints the seed of its graph; run
 * `autograd.test_random_graphs` under BOBBIN_GRAPH=seed for that one alone, under
 * BOBBIN_GRAPHS=10000 for so many. */
#include "tests/support/test.h"

/* Fewer on a device: what graphs add to the case tables is the tape's work, which is the same on
 * all, and the simulated GPU takes fifty times as long for one. */
enum { GRAPHS = 1500, DEVICE_GRAPHS = 300, MAX_OPS = 30, LEAVES = 3 };

typedef struct generator {
    uint64_t state;
} generator;

static uint32_t draw(generator *g, uint32_t below) {
    g->state = g->state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(g->state >> 33) % below;
}

static bb_tensor *unary(generator *g, bb_tensor *x) {
    switch (draw(g, 19)) {
    case 12: return bb_log(bb_add_scalar(bb_square(x), 1));
    case 13: return bb_sqrt(bb_add_scalar(bb_square(x), 0.5));
    case 14: return bb_reciprocal(bb_add_scalar(bb_pow(x, 2), 1));
    case 15: return bb_gelu(x, BB_GELU_TANH);
    case 16: return bb_contiguous(bb_alias(x));
    case 17: return bb_where(bb_ge(bb_detach(x), bb_mul_scalar(bb_detach(x), 2)), bb_neg(x), x);
    case 18: return bb_mul_scalar(bb_sum_squares(x), 0.1);
    case 0: return bb_tanh(x);
    case 1: return bb_sin(x);
    case 2: return bb_cos(x);
    case 3: return bb_sigmoid(x);
    case 4: return bb_square(x);
    case 5: return bb_exp(bb_neg(bb_square(x)));
    case 6: return bb_silu(x);
    case 7: return bb_gelu(x, BB_GELU_ERF);
    case 8: return bb_rsqrt(bb_add_scalar(bb_square(x), 1));
    case 9: return bb_mul_scalar(x, -0.7);
    case 10: return bb_erf(x);
    default: return bb_relu(bb_add_scalar(x, 0.3));
    }
}

/* Some axis of x; x has at least one. */
static int axis_of(generator *g, bb_tensor *x) { return (int)draw(g, (uint32_t)bb_rank(x)); }

static bb_tensor *along_axis(generator *g, bb_tensor *x) {
    int axis = axis_of(g, x);
    int64_t n = bb_size(x, axis);
    switch (draw(g, 10)) {
    case 0: return bb_softmax(x, axis);
    case 1: return bb_sum(x, (bb_ints){1, {axis}}, true);
    case 2: return bb_mean(x, (bb_ints){1, {axis}}, draw(g, 2) == 0 || bb_rank(x) < 2);
    case 3: return bb_cumsum(x, axis);
    case 4: return bb_slice(x, axis, 0, n > 1 ? n - 1 : n, 1);
    case 5: return bb_slice(x, axis, n > 1 ? 1 : 0, n, 2);
    case 6: return bb_cat((bb_tensor *[]){x, bb_slice(x, axis, 0, 1, 1)}, 2, axis);
    case 7: return bb_rank(x) > 1 ? bb_select(x, axis, n - 1) : bb_unsqueeze(x, 0);
    case 8:
        return bb_rms_norm(x,
                           bb_slice(bb_select(bb_reshape(x, BB_SHAPE(-1, bb_size(x, -1))), 0, 0), 0,
                                    0, bb_size(x, -1), 1),
                           0.1);
    default: return bb_transpose(x, 0, axis);
    }
}

/* i64 tensor of numbers below n, the same for the same graph. */
static bb_tensor *indices(generator *g, bb_tensor *like, bb_shape shape, int64_t n) {
    double value[64];
    int64_t count = 0;
    bb_shape_count(&shape, &count);
    for (int64_t i = 0; i < count; i++) value[i] = (double)draw(g, (uint32_t)n);
    return bb_from_f64(bb_context_of(like), BB_I64, shape, value);
}

/* Copies, views and composites that move or mix whole rows. x has an axis and up to 60 elements. */
static bb_tensor *reshaping(generator *g, bb_tensor *x) {
    int axis = axis_of(g, x), rank = bb_rank(x);
    int64_t n = bb_size(x, axis);
    bb_shape shape = bb_shape_of(x);
    bb_ints before = {.n = rank}, after = {.n = rank};
    switch (draw(g, 12)) {
    case 0: return bb_reshape(x, BB_SHAPE(-1));
    case 1:
        if (rank < 4) shape.rank++;
        for (int a = shape.rank - 1; a > 0 && shape.rank > rank; a--)
            shape.size[a] = shape.size[a - 1];
        if (shape.rank > rank) shape.size[0] = 2;
        return bb_expand(x, shape);
    case 2: return bb_stack((bb_tensor *[]){x, bb_neg(x), x}, 3, axis);
    case 3:
        before.v[axis] = 1;
        after.v[0] = 2;
        return bb_pad(x, before, after, 0.3);
    case 4: return bb_index_select(x, axis, indices(g, x, BB_SHAPE(3), n));
    case 5: return bb_gather(x, axis, indices(g, x, shape, n));
    case 6: return bb_scatter_add(x, axis, indices(g, x, shape, n), bb_sin(x));
    case 7: return bb_layer_norm(x, NULL, NULL, 0.1);
    case 8: return bb_log_softmax(x, axis);
    case 9: return bb_size(x, -1) % 2 == 0 && rank > 1 ? bb_rope(x, NULL) : bb_cumsum(x, axis);
    case 10: return rank == 2 ? bb_sdpa(x, x, bb_sin(x), NULL, NULL) : bb_softmax(x, axis);
    default: return rank == 2 ? bb_linear(x, bb_cos(x), NULL) : bb_square(x);
    }
}

static bb_tensor *binary(generator *g, bb_tensor *a, bb_tensor *b) {
    bb_shape sa = bb_shape_of(a), sb = bb_shape_of(b), both;
    if (bb_rank(a) == 2 && bb_rank(b) == 2 && draw(g, 2)) {
        if (bb_size(a, 1) == bb_size(b, 0)) return bb_matmul(a, b);
        if (bb_size(a, 1) == bb_size(b, 1)) return bb_matmul(a, bb_transpose(b, 0, 1));
    }
    if (!bb_shape_broadcast(&sa, &sb, &both)) b = bb_mean_all(b);
    switch (draw(g, 6)) {
    case 0: return bb_add(a, b);
    case 1: return bb_sub(a, b);
    case 2: return bb_mul(a, b);
    case 3: return bb_div(a, bb_add_scalar(bb_square(b), 1));
    case 4: return bb_maximum(a, bb_add_scalar(b, 0.01));
    default: return bb_swiglu(bb_add(a, b), bb_sub(bb_mul_scalar(a, 0.1), b));
    }
}

/* The graph depends on the seed and on shapes only, so that it is the same function for each value.
 * node[] gets every value that was made, the leaves first; returns how many through *made. */
static bb_tensor *build(uint64_t seed, bb_tensor *const *in, int n, bb_tensor **node, int *made) {
    generator g = {seed};
    int count = n, ops = 1 + (int)draw(&g, MAX_OPS);
    for (int i = 0; i < n; i++) node[i] = in[i];
    for (int i = 0; i < ops; i++) {
        /* Recent nodes more often, so that graphs grow deep as well as wide. */
        bb_tensor *a = draw(&g, 2) ? node[count - 1] : node[draw(&g, (uint32_t)count)],
                  *b = node[draw(&g, (uint32_t)count)];
        uint32_t kind = draw(&g, 10);
        bb_tensor *y = kind < 3                     ? unary(&g, a)
                       : kind < 5 && bb_rank(a) > 0 ? along_axis(&g, a)
                       : kind < 7 && bb_rank(a) > 0 ? reshaping(&g, a)
                                                    : binary(&g, a, b);
        if (bb_count(y) > 60) y = bb_mean_all(y);
        node[count++] =
            draw(&g, 3) ? bb_sin(y) : bb_tanh(y); /* bounded, so that chains do not run away */
    }
    *made = count;
    bb_tensor *rest = bb_add(bb_mean_all(node[count / 2]), bb_mean_all(in[draw(&g, (uint32_t)n)]));
    return bb_add(node[count - 1], rest);
}

static bb_tensor *graph(void *user, bb_tensor *const *in, int n) {
    bb_tensor *node[LEAVES + MAX_OPS];
    int made;
    return build(*(const uint64_t *)user, in, n, node, &made);
}

static void make_leaves(bb_context *ctx, uint64_t seed, bb_tensor *leaf[LEAVES]) {
    generator g = {seed ^ 0x5eed};
    const bb_shape shapes[LEAVES] = {BB_SHAPE(3, 4), draw(&g, 2) ? BB_SHAPE(4) : BB_SHAPE(4, 2),
                                     draw(&g, 2) ? BB_SHAPE(3, 1) : BB_SCALAR};
    for (int i = 0; i < LEAVES; i++) {
        double values[12];
        for (int j = 0; j < 12; j++) values[j] = ((double)draw(&g, 1u << 20) / (1 << 20) - 0.5) * 3;
        leaf[i] = bb_set_requires_grad(bb_from_f64(ctx, BB_F64, shapes[i], values), true);
    }
}

/* tolerance 0: the same bits. */
static void check_against(test *t, uint64_t seed, const char *what, bb_tensor *got,
                          bb_tensor *expected, double tolerance) {
    double a[12] = {0}, b[12] = {0};
    int64_t n = bb_count(expected);
    if (got) bb_read_f64(got, a, n);
    bb_read_f64(expected, b, n);
    for (int64_t i = 0; i < n; i++)
        CHECK_MSG(t, fabs(a[i] - b[i]) <= tolerance * (1 + fabs(b[i])),
                  "graph %llu: %s: element %lld: got %.17g, expected %.17g",
                  (unsigned long long)seed, what, (long long)i, a[i], b[i]);
}

/* Overwrites some value of the graph before backward: it is refused, or was not needed and changes
 * nothing. Returns whether it was refused. */
static bool check_in_place(test *t, bb_context *ctx, uint64_t seed, bb_tensor *const *leaf,
                           bb_tensor *cotangent, bb_tensor *const *plain) {
    bb_tensor *node[LEAVES + MAX_OPS];
    double noise[64];
    generator g = {seed ^ 0xabcde};
    int made = 0;
    bb_tensor *y = build(seed, leaf, LEAVES, node, &made);
    bb_tensor *victim = node[LEAVES + (int)draw(&g, (uint32_t)(made - LEAVES))];
    for (int i = 0; i < 64; i++) noise[i] = draw(&g, 1000) / 100.0;
    bool refused = bb_write(victim, noise, (size_t)bb_count(victim) * sizeof noise[0]) != BB_OK ||
                   bb_backward(y, cotangent) == BB_ERR_STATE;
    if (refused)
        bb_clear_error(ctx);
    else
        for (int i = 0; i < LEAVES; i++)
            if (plain[i]) check_against(t, seed, "changed in place", bb_grad(leaf[i]), plain[i], 0);
    for (int i = 0; i < LEAVES; i++) bb_zero_grad(leaf[i]);
    return refused;
}

static int refusals;

static void check_graph(test *t, bb_context *ctx, uint64_t seed) {
    bb_tensor *leaf[LEAVES], *plain[LEAVES], *again[LEAVES];
    bb_gradcheck_report report;
    bb_set_path(ctx, seed % 3 ? BB_PATH_AUTO : BB_PATH_COMPOSED);
    make_leaves(ctx, seed, leaf);
    CHECK_MSG(t, bb_gradcheck(ctx, graph, &seed, leaf, LEAVES, NULL, &report) == BB_OK,
              "graph %llu: %s", (unsigned long long)seed, bb_error_message(ctx));
    CHECK_MSG(t, report.passed, "graph %llu: input %d element %lld: analytic %.9g, numeric %.9g",
              (unsigned long long)seed, report.input, (long long)report.element, report.analytic,
              report.numeric);

    /* bb_gradients, with and without a graph of its own, bb_backward and bb_recompute agree. */
    bb_tensor *y = graph(&seed, leaf, LEAVES), *cotangent = bb_cos(bb_detach(y));
    CHECK_INT(t, bb_gradients(y, cotangent, leaf, LEAVES, false, plain), BB_OK);
    y = graph(&seed, leaf, LEAVES);
    CHECK_INT(t, bb_gradients(y, cotangent, leaf, LEAVES, true, again), BB_OK);
    for (int i = 0; i < LEAVES; i++)
        if (plain[i]) check_against(t, seed, "create_graph", again[i], plain[i], 1e-10);
    CHECK_INT(t, bb_backward(graph(&seed, leaf, LEAVES), cotangent), BB_OK);
    for (int i = 0; i < LEAVES; i++)
        if (plain[i]) check_against(t, seed, "bb_backward", bb_grad(leaf[i]), plain[i], 0);
    for (int i = 0; i < LEAVES; i++) bb_zero_grad(leaf[i]);
    CHECK_INT(t, bb_backward(bb_recompute(ctx, graph, &seed, leaf, LEAVES), cotangent), BB_OK);
    for (int i = 0; i < LEAVES; i++)
        if (plain[i]) check_against(t, seed, "bb_recompute", bb_grad(leaf[i]), plain[i], 0);
    CHECK_MSG(t, bb_error(ctx) == BB_OK, "graph %llu: %s", (unsigned long long)seed,
              bb_error_message(ctx));
    for (int i = 0; i < LEAVES; i++) bb_zero_grad(leaf[i]);
    if (bb_error(ctx) == BB_OK) refusals += check_in_place(t, ctx, seed, leaf, cotangent, plain);
    bb_clear_error(ctx);
    bb_end_step(ctx);
}

static void test_graphs(test *t) {
    bb_context *ctx = test_open();
    const char *only = getenv("BOBBIN_GRAPH"), *count = getenv("BOBBIN_GRAPHS");
    uint64_t first = only ? strtoull(only, NULL, 10) : 1, last = first;
    uint64_t usual = bb_get_device(ctx) == BB_CPU ? GRAPHS : DEVICE_GRAPHS;
    if (!only) last = count ? strtoull(count, NULL, 10) : usual;
    refusals = 0;
    for (uint64_t seed = first; seed <= last; seed++) check_graph(t, ctx, seed);
    uint64_t graphs = last - first + 1;
    CHECK_MSG(t, only || (refusals > (int)(graphs / 4) && refusals < (int)graphs),
              "%d of %llu changes in place refused", refusals, (unsigned long long)graphs);
    bb_close(ctx);
}

static const test_row rows[] = {{"graphs", test_graphs}};
TEST_MAIN(rows)
