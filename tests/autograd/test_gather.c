/* autograd/gather.c: gradients that are written part by part, through windows of one tensor. What
 * is gathered otherwise: test_walk.c, test_walk_buffers.c. */
#include "core/impl.h"
#include "tests/support/test.h"

enum { A = 3, B = 4, C = 5, ALL = A * B * C };

static uint64_t state;
static int below(int n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int)((state >> 33) % (unsigned)n);
}

/* Blocks that the pool gives next hold NaN. */
static void dirty(bb_context *ctx) {
    bb_scope scope = bb_scope_begin(ctx);
    for (int i = 0; i < 4; i++) bb_full(ctx, BB_F64, BB_SHAPE(A, B, C), NAN);
    bb_scope_end(ctx, scope, NULL);
}

/* A loss that reads `windows` random windows of h (most along one axis), and h itself where `whole`
 * says when; the gradient that h should have is added to `want`. */
static bb_tensor *random_loss(bb_context *ctx, bb_tensor *h, int windows, int whole, double *want) {
    const int64_t size[] = {A, B, C};
    const int usual = below(3);
    bb_tensor *loss = bb_scalar(ctx, BB_F64, 0);
    for (int i = 0; i < windows; i++) {
        const int axis = below(4) ? usual : below(3), step = below(4) ? 1 : 2;
        const int64_t from = below((int)size[axis]),
                      to = from + 1 + below((int)(size[axis] - from)), factor = 1 + below(9);
        bb_tensor *part = bb_slice(h, axis, from, to, step);
        if (i == whole) part = h;
        loss = bb_add(loss, bb_mul_scalar(bb_sum_all(part), (double)factor));
        for (int k = 0; k < ALL; k++) {
            const int64_t at[] = {k / (B * C), k / C % B, k % C}, j = at[axis];
            const bool in = j >= from && j < to && (j - from) % step == 0;
            want[k] += in || i == whole ? (double)factor : 0;
        }
    }
    return loss;
}

static void test_random_windows(test *t) {
    bb_context *ctx = test_open();
    state = 7;
    for (int round = 0; round < 600; round++) {
        double want[ALL] = {0}, got[ALL];
        bb_tensor *x = bb_set_requires_grad(bb_ones(ctx, BB_F64, BB_SHAPE(A, B, C)), true);
        bb_tensor *h = round % 3 ? bb_mul_scalar(x, 1) : x, *g;
        bb_tensor *loss = random_loss(ctx, h, 1 + below(5), below(8), want);
        dirty(ctx);
        CHECK_INT(t, bb_gradients(loss, NULL, round % 2 ? &h : &x, 1, false, &g), BB_OK);
        CHECK_INT(t, bb_read_f64(g, got, ALL), BB_OK);
        for (int k = 0; k < ALL; k++)
            if (got[k] != want[k]) {
                CHECK_MSG(t, false, "round %d, element %d: expected %g, got %g", round, k, want[k],
                          got[k]);
                break;
            }
        bb_end_step(ctx);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static struct {
    bb_status (*fill)(bb_backend *, bb_tensor *, double);
    bb_status (*add)(bb_backend *, const bb_tensor *, bb_tensor *);
    int64_t filled, added; /* elements */
} counted;
static bb_status counting_fill(bb_backend *self, bb_tensor *target, double value) {
    counted.filled += target->count;
    return counted.fill(self, target, value);
}
static bb_status counting_add(bb_backend *self, const bb_tensor *source, bb_tensor *target) {
    counted.added += target->count;
    return counted.add(self, source, target);
}

/* What is cut along one axis and put together again is copied once: nothing is zeroed and nothing
 * added but what needs it. */
static void check_parts(test *t, int axis) {
    enum { SIZE = 4, BESIDE = 15 };
    const bb_shape shape = axis == 0   ? BB_SHAPE(SIZE, 3, 5)
                           : axis == 1 ? BB_SHAPE(3, SIZE, 5)
                                       : BB_SHAPE(3, 5, SIZE);
    static const struct {
        int64_t cut[3][2]; /* along the axis; (0, 0): none */
        int64_t filled, added;
        bool step; /* every second one of the last */
    } cases[] = {
        {{{0, 1}, {1, 4}}, 0, 0, false}, /* both ways */
        {{{1, 4}, {0, 1}}, 0, 0, false},
        {{{2, 4}, {1, 2}, {0, 1}}, 0, 0, false},
        {{{1, 2}, {2, 3}}, 2 * BESIDE, 0, false}, /* the rest, once it is read */
        {{{3, 4}}, 3 * BESIDE, 0, false},
        {{{0, 2}, {1, 3}}, 2 * BESIDE, 2 * BESIDE, false}, /* overlapping */
        {{{0, 1}, {3, 4}}, 3 * BESIDE, BESIDE, false},     /* apart */
        {{{0, 2}, {0, 4}}, SIZE * BESIDE, 4 * BESIDE, true},
    };
    bb_context *ctx = test_open();
    bb_backend *backend = ctx->backend[bb_get_device(ctx)];
    counted.fill = backend->fill, backend->fill = counting_fill;
    counted.add = backend->add, backend->add = counting_add;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bb_tensor *x = bb_set_requires_grad(bb_ones(ctx, BB_F64, shape), true);
        bb_tensor *h = bb_mul_scalar(x, 1), *part[3], *g[3];
        int n = 0;
        for (; n < 3 && cases[i].cut[n][1]; n++) {
            part[n] = bb_slice(h, axis, cases[i].cut[n][0], cases[i].cut[n][1],
                               cases[i].step && !cases[i].cut[n + 1][1] ? 2 : 1);
            g[n] = bb_ones_like(part[n]);
        }
        counted.filled = counted.added = 0;
        bb_tensor *loss = bb_sum_all(bb_mul(part[0], g[0]));
        for (int k = 1; k < n; k++) loss = bb_add(loss, bb_sum_all(bb_mul(part[k], g[k])));
        counted.filled = counted.added = 0;
        CHECK_INT(t, bb_backward(loss, bb_scalar(ctx, BB_F64, 1)), BB_OK);
        CHECK_MSG(t, counted.filled == cases[i].filled && counted.added == cases[i].added,
                  "axis %d, case %d: expected %lld zeroed and %lld added, got %lld and %lld", axis,
                  (int)i, (long long)cases[i].filled, (long long)cases[i].added,
                  (long long)counted.filled, (long long)counted.added);
        bb_end_step(ctx);
    }
    backend->fill = counted.fill, backend->add = counted.add;
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_parts(test *t) {
    for (int axis = 0; axis < 3; axis++) check_parts(t, axis);
}

/* A leaf's gradient lives as long as the leaf; one that was dropped comes again, in full size. */
static void test_leaf(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *kept = bb_set_requires_grad(bb_keep(bb_ones(ctx, BB_F64, BB_SHAPE(1000))), true);
    for (int round = 0; round < 2; round++) {
        CHECK_INT(t, bb_backward(bb_sum_all(bb_slice(kept, 0, 0, 10, 1)), NULL), BB_OK);
        CHECK(t, bb_grad(kept) && bb_grad(kept)->storage->bytes >= 1000 * sizeof(double));
        CHECK(t, (uintptr_t)bb_grad(kept)->data % 64 == 0);
        bb_drop(bb_grad(kept));
    }
    bb_end_step(ctx);
    bb_end_step(ctx);
    const int64_t before = bb_memory_stats(ctx).live_tensors;
    bb_tensor *x = bb_set_requires_grad(bb_ones(ctx, BB_F64, BB_SHAPE(8)), true);
    CHECK_INT(t, bb_backward(bb_sum_all(bb_slice(x, 0, 0, 4, 1)), NULL), BB_OK);
    bb_end_step(ctx);
    CHECK_INT(t, bb_memory_stats(ctx).live_tensors, before);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"random windows", test_random_windows}, {"parts", test_parts}, {"leaf", test_leaf}};
TEST_MAIN(rows)
