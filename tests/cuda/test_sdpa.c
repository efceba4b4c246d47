/* SDPA's kernels on the device against plain loops in double, forward and backward: sizes around
 * every tile, widths around every kernel, windows, masks, grouped heads, views, and the kernels of
 * devices without tensor cores. The case tables of tests/ops/test_sdpa.c cover the rest. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/test.h"

enum mask { NONE, ROWS, KEYS, ADDED };   /* bool (T, S) with blind rows, bool (B, 1, 1, S), float */
enum layout { PLAIN, BY_ROWS, SHIFTED }; /* (B, H, T, D); (B, T, H, D); rows of D + 1, cut by one */

typedef struct shape {
    int64_t b, h, hk, t, s, d, e;
    bool causal;
    int64_t window;
    enum mask mask;
    enum layout layout;
    double scale;
} shape;

enum { Q, K, V, DY, MASK, TENSORS };
typedef struct problem {
    shape z;
    double *in[TENSORS], *out, *lse, *d[3];
} problem;

static uint64_t state;
static double draw(void) {
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(state >> 33) / 2147483648.0 - 0.5;
    }
    return sum * 1.7;
}

static int64_t rows_of(const shape *z, int i) {
    return z->b * (i == K || i == V ? z->hk * z->s : z->h * z->t);
}
static int64_t width_of(const shape *z, int i) { return i == Q || i == K ? z->d : z->e; }
static int64_t count_of(const shape *z, int i) {
    if (i != MASK) return rows_of(z, i) * width_of(z, i);
    return z->mask == ROWS ? z->t * z->s : z->mask == KEYS ? z->b * z->s : z->h * z->s;
}

/* What the mask adds to the score; -inf where a key is not seen. */
static double bias(const problem *p, int64_t b, int64_t h, int64_t t, int64_t s) {
    const shape *z = &p->z;
    const int64_t distance = t + z->s - z->t - s;
    if ((z->causal && distance < 0) || (z->window && distance >= z->window)) return -INFINITY;
    switch (z->mask) {
    case ROWS: return p->in[MASK][t * z->s + s] != 0 ? 0 : -INFINITY;
    case KEYS: return p->in[MASK][b * z->s + s] != 0 ? 0 : -INFINITY;
    case ADDED: return p->in[MASK][h * z->s + s];
    default: return 0;
    }
}

static double dot(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* One query: its output, and what it adds to the gradients. */
static void attend(problem *p, int64_t b, int64_t h, int64_t t, double *w) {
    const shape *z = &p->z;
    const int64_t row = (b * z->h + h) * z->t + t, base = (b * z->hk + h / (z->h / z->hk)) * z->s;
    const double scale = z->scale != 0 ? z->scale : 1 / sqrt((double)z->d);
    const double *q = p->in[Q] + row * z->d, *dy = p->in[DY] + row * z->e;
    double max = -INFINITY, sum = 0, delta = 0;
    for (int64_t s = 0; s < z->s; s++) {
        w[s] = bias(p, b, h, t, s);
        if (w[s] != -INFINITY) w[s] += scale * dot(q, p->in[K] + (base + s) * z->d, z->d);
        max = fmax(max, w[s]);
    }
    for (int64_t s = 0; s < z->s; s++) sum += w[s] = w[s] == -INFINITY ? 0 : exp(w[s] - max);
    for (int64_t s = 0; s < z->s && sum > 0; s++) {
        w[s] /= sum;
        for (int64_t e = 0; e < z->e; e++)
            p->out[row * z->e + e] += w[s] * p->in[V][(base + s) * z->e + e];
        for (int64_t e = 0; e < z->e; e++) p->d[V][(base + s) * z->e + e] += w[s] * dy[e];
        delta += w[s] * dot(dy, p->in[V] + (base + s) * z->e, z->e);
    }
    for (int64_t s = 0; s < z->s; s++) {
        if (w[s] == 0) continue;
        const double ds = scale * w[s] * (dot(dy, p->in[V] + (base + s) * z->e, z->e) - delta);
        for (int64_t d = 0; d < z->d; d++) {
            p->d[Q][row * z->d + d] += ds * p->in[K][(base + s) * z->d + d];
            p->d[K][(base + s) * z->d + d] += ds * q[d];
        }
    }
}

/* Shape and values of a leaf in the layout, from (B, H, T, D) values; back: the other way. */
static void arrange(const shape *z, int i, double *plain, double *leaf, bool back) {
    const int64_t heads = i == K || i == V ? z->hk : z->h, n = i == K || i == V ? z->s : z->t,
                  d = width_of(z, i), ld = d + (z->layout == SHIFTED);
    for (int64_t b = 0; b < z->b; b++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t t = 0; t < n; t++)
                for (int64_t x = 0; x < d; x++) {
                    const int64_t row =
                        z->layout == BY_ROWS ? (b * n + t) * heads + h : (b * heads + h) * n + t;
                    double *from = plain + ((b * heads + h) * n + t) * d + x,
                           *to = leaf + row * ld + x + (z->layout == SHIFTED);
                    if (back)
                        *from = *to;
                    else
                        *to = *from;
                }
}
static bb_t make_leaf(bb_context *ctx, bb_dtype dtype, const shape *z, int i, double *plain) {
    const int64_t heads = i == K || i == V ? z->hk : z->h, n = i == K || i == V ? z->s : z->t,
                  d = width_of(z, i), ld = d + (z->layout == SHIFTED);
    double *leaf = calloc((size_t)(z->b * heads * n * ld) + 1, sizeof *leaf);
    if (!leaf) return NULL;
    arrange(z, i, plain, leaf, false);
    bb_t t = bb_from_f64(
        ctx, dtype,
        z->layout == BY_ROWS ? BB_SHAPE(z->b, n, heads, ld) : BB_SHAPE(z->b, heads, n, ld), leaf);
    free(leaf);
    return t;
}
static bb_t view_of(const shape *z, bb_t leaf) {
    if (z->layout == BY_ROWS) return bb_transpose(leaf, 1, 2);
    return z->layout == SHIFTED ? bb_slice(leaf, 3, 1, bb_size(leaf, 3), 1) : leaf;
}

static void fill(problem *p, const shape *z) {
    memset(p, 0, sizeof *p);
    p->z = *z;
    state = (uint64_t)(z->t * 1000003 + z->s * 10007 + z->d * 101 + z->e);
    for (int i = 0; i < TENSORS; i++) {
        const int64_t n = count_of(z, i);
        p->in[i] = calloc((size_t)n + 1, sizeof(double));
        for (int64_t at = 0; at < n && p->in[i]; at++) p->in[i][at] = draw();
    }
    for (int64_t at = 0; at < count_of(z, MASK) && p->in[MASK] && z->mask != ADDED; at++)
        p->in[MASK][at] = p->in[MASK][at] > -0.4 && !(z->mask == ROWS && at / z->s % 7 == 2);
    for (int i = 0; i < 3; i++) p->d[i] = calloc((size_t)count_of(z, i) + 1, sizeof(double));
    p->out = calloc((size_t)count_of(z, DY) + 1, sizeof(double));
}
static void solve(problem *p) {
    const shape *z = &p->z;
    double *w = calloc((size_t)z->s + 1, sizeof *w);
    for (int64_t i = 0; i < z->b * z->h * z->t && w; i++)
        attend(p, i / z->t / z->h, i / z->t % z->h, i % z->t, w);
    free(w);
}
static void clean(problem *p) {
    for (int i = 0; i < TENSORS; i++) free(p->in[i]);
    for (int i = 0; i < 3; i++) free(p->d[i]);
    free(p->out);
}

static void compare(test *t, const shape *z, bb_dtype dtype, const char *what, int64_t n,
                    const double *got, const double *expected) {
    static const double tolerance[] = {1e-13, 4e-6, 4e-3, 3e-2}; /* f64, f32, f16, bf16 */
    double largest = 1, off = 0;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(expected[i]));
    for (int64_t i = 0; i < n; i++)
        off = isnan(got[i]) ? INFINITY : fmax(off, fabs(got[i] - expected[i]));
    CHECK_MSG(t, off <= tolerance[dtype] * largest,
              "%s: %s: off by %g of %g: b %d h %d/%d t %d s %d d %d e %d causal %d window %d "
              "mask %d layout %d",
              bb_dtype_name(dtype), what, off, largest, (int)z->b, (int)z->h, (int)z->hk, (int)z->t,
              (int)z->s, (int)z->d, (int)z->e, z->causal, (int)z->window, z->mask, z->layout);
}

static bb_t mask_of(bb_context *ctx, bb_dtype dtype, const problem *p) {
    const shape *z = &p->z;
    switch (z->mask) {
    case ROWS: return bb_from_f64(ctx, BB_BOOL, BB_SHAPE(z->t, z->s), p->in[MASK]);
    case KEYS: return bb_from_f64(ctx, BB_BOOL, BB_SHAPE(z->b, 1, 1, z->s), p->in[MASK]);
    case ADDED: return bb_from_f64(ctx, dtype, BB_SHAPE(z->h, 1, z->s), p->in[MASK]);
    default: return NULL;
    }
}

/* Rounds the values to what a tensor of the dtype holds. */
static void round_values(bb_context *ctx, bb_dtype dtype, double *values, int64_t n) {
    if (n) bb_read_f64(bb_from_f64(ctx, dtype, BB_SHAPE(n), values), values, n);
}

static void check(test *t, bb_context *ctx, bb_dtype dtype, const shape *z) {
    problem p;
    bb_t leaf[4];
    fill(&p, z);
    for (int i = 0; i < TENSORS; i++) round_values(ctx, dtype, p.in[i], count_of(z, i));
    solve(&p);
    for (int i = 0; i < 4; i++) leaf[i] = make_leaf(ctx, dtype, z, i, p.in[i]);
    for (int i = 0; i < 3; i++) bb_set_requires_grad(leaf[i], true);
    bb_set_path(ctx, BB_PATH_FUSED);
    bb_t y = bb_sdpa(view_of(z, leaf[Q]), view_of(z, leaf[K]), view_of(z, leaf[V]),
                     mask_of(ctx, dtype, &p), &(bb_sdpa_attrs){z->scale, z->causal, z->window});
    bb_set_path(ctx, BB_PATH_AUTO);
    bb_backward(y, view_of(z, leaf[DY]));
    double *got = calloc(
               (size_t)(count_of(z, Q) + count_of(z, K) + count_of(z, V) + count_of(z, DY)) * 2 + 1,
               sizeof *got),
           *plain = calloc((size_t)(count_of(z, Q) + count_of(z, K) + count_of(z, V)) + 1,
                           sizeof *plain);
    if (CHECK(t, got && plain)) {
        bb_read_f64(y, got, count_of(z, DY));
        compare(t, z, dtype, "output", count_of(z, DY), got, p.out);
        for (int i = 0; i < 3; i++) {
            bb_read_f64(bb_grad(leaf[i]), got, bb_count(leaf[i]));
            arrange(z, i, plain, got, true);
            compare(t, z, dtype,
                    i == Q   ? "dquery"
                    : i == K ? "dkey"
                             : "dvalue",
                    count_of(z, i), plain, p.d[i]);
        }
    }
    CHECK_OK(t, ctx);
    bb_clear_error(ctx);
    free(got);
    free(plain);
    clean(&p);
    for (int i = 0; i < 3; i++) bb_set_requires_grad(leaf[i], false);
    bb_end_step(ctx);
}

/* Around tiles of 16 to 128 queries and 16 to 64 keys. */
static const shape sizes[] = {
    {1, 1, 1, 1, 1, 16, 16, .causal = true},      {1, 1, 1, 15, 17, 16, 16, .causal = true},
    {1, 1, 1, 17, 15, 16, 16, .causal = true},    {1, 1, 1, 31, 33, 16, 16, .causal = false},
    {1, 1, 1, 33, 31, 16, 16, .causal = true},    {1, 1, 1, 32, 32, 16, 16, .causal = true},
    {1, 1, 1, 63, 65, 16, 16, .causal = true},    {1, 1, 1, 65, 63, 16, 16, .causal = true},
    {1, 1, 1, 64, 64, 16, 16, .causal = true},    {1, 2, 1, 127, 129, 16, 16, .causal = true},
    {1, 1, 1, 129, 127, 16, 16, .causal = false}, {1, 1, 1, 128, 128, 16, 16, .causal = true},
    {1, 1, 1, 1, 130, 16, 16, .causal = true},    {1, 1, 1, 130, 1, 16, 16, .causal = true},
    {2, 1, 1, 3, 0, 16, 16, .causal = false},
};
/* Around the widths of the kernels. */
static const shape widths[] = {
    {1, 1, 1, 9, 20, 1, 1, .causal = false},      {1, 1, 1, 9, 20, 8, 8, .causal = false},
    {1, 1, 1, 9, 20, 31, 32, .causal = false},    {1, 1, 1, 9, 20, 33, 5, .causal = false},
    {1, 1, 1, 40, 36, 40, 40, .causal = false},   {1, 1, 1, 9, 20, 63, 64, .causal = false},
    {1, 1, 1, 9, 20, 64, 65, .causal = false},    {1, 1, 1, 70, 66, 80, 80, .causal = false},
    {1, 1, 1, 9, 20, 96, 96, .causal = false},    {1, 1, 1, 9, 20, 127, 128, .causal = false},
    {1, 1, 1, 66, 34, 128, 72, .causal = false},  {1, 1, 1, 9, 20, 129, 8, .causal = false},
    {1, 1, 1, 66, 34, 256, 256, .causal = false}, {1, 1, 1, 9, 20, 8, 255, .causal = false},
};
static const shape patterns[] = {
    {1, 1, 1, 70, 90, 16, 16, .window = 1},
    {1, 1, 1, 70, 90, 16, 16, .window = 20},
    {1, 1, 1, 70, 90, 16, 16, .causal = true, .window = 1},
    {1, 1, 1, 140, 140, 16, 16, .causal = true, .window = 63},
    {1, 1, 1, 140, 140, 16, 16, .causal = true, .window = 64},
    {1, 1, 1, 140, 140, 16, 16, .causal = true, .window = 65},
    {1, 1, 1, 90, 70, 16, 16, .causal = true, .window = 10},
    {1, 1, 1, 70, 70, 16, 16, .scale = -0.4},
    {2, 4, 2, 35, 40, 16, 16, .causal = true},
    {2, 3, 1, 35, 40, 16, 16, .causal = false},
    {2, 2, 2, 70, 70, 16, 16, .mask = ROWS},
    {2, 2, 1, 20, 70, 16, 16, .mask = KEYS, .causal = true},
    {2, 4, 2, 20, 33, 16, 16, .mask = ADDED},
    {2, 4, 2, 35, 40, 16, 16, .causal = true, .layout = BY_ROWS},
    {2, 2, 1, 35, 40, 24, 16, .layout = SHIFTED},
    {2, 2, 1, 35, 40, 7, 9, .layout = BY_ROWS},
};

static void run(test *t, bb_dtype dtype, const shape *shapes, size_t n) {
    bb_context *ctx = test_open();
    for (size_t i = 0; i < n; i++) check(t, ctx, dtype, &shapes[i]);
    bb_close(ctx);
}
#define RUN(t, dtype, shapes) run(t, dtype, shapes, sizeof(shapes) / sizeof((shapes)[0]))

static void test_sizes(test *t) {
    for (int d = BB_F64; d <= BB_BF16; d++) RUN(t, (bb_dtype)d, sizes);
}
static void test_widths(test *t) {
    for (int d = BB_F64; d <= BB_BF16; d++) RUN(t, (bb_dtype)d, widths);
}
static void test_patterns(test *t) {
    for (int d = BB_F64; d <= BB_BF16; d++) RUN(t, (bb_dtype)d, patterns);
}

/* As on devices with less shared memory, or without tensor cores for the dtype. The real device is
 * what it is, and runs the same again. */
static void test_older_devices(test *t) {
    static const char *const capability[] = {"75", "86"};
    for (int i = 0; i < 2; i++) {
        setenv("BOBBIN_SIM_CAPABILITY", capability[i], 1);
        RUN(t, BB_F16, widths);
        RUN(t, BB_BF16, widths);
        RUN(t, BB_BF16, patterns);
    }
    unsetenv("BOBBIN_SIM_CAPABILITY");
}

/* The same bits every time, though the simulation runs threads in another order. */
static void test_determinism(test *t) {
    enum { H = 4, T = 70, D = 16, N = H * T * D };
    static float bits[2][4][N];
    for (int d = BB_F32; d <= BB_BF16; d++) {
        memset(bits, 0, sizeof bits);
        bb_context *ctx = test_open();
        for (int i = 0; i < 2; i++) {
            problem p;
            const shape z = {1, H, 2, T, T, D, D, .causal = true};
            bb_t leaf[4];
            fill(&p, &z);
            for (int x = 0; x < 4; x++) leaf[x] = make_leaf(ctx, (bb_dtype)d, &z, x, p.in[x]);
            for (int x = 0; x < 3; x++) bb_set_requires_grad(leaf[x], true);
            bb_t y = bb_sdpa(leaf[Q], leaf[K], leaf[V], NULL, &(bb_sdpa_attrs){0, true, 0});
            bb_backward(y, leaf[DY]);
            bb_read(y, bits[i][3], (size_t)N * (d == BB_F32 ? 4 : 2));
            for (int x = 0; x < 3; x++)
                bb_read(bb_grad(leaf[x]), bits[i][x],
                        (size_t)count_of(&z, x) * (d == BB_F32 ? 4 : 2));
            CHECK_OK(t, ctx);
            clean(&p);
            for (int x = 0; x < 3; x++) bb_set_requires_grad(leaf[x], false);
            bb_end_step(ctx);
        }
        CHECK(t, memcmp(bits[0], bits[1], sizeof bits[0]) == 0 && bits[0][0][8] != 0);
        bb_close(ctx);
    }
}

static const test_row rows[] = {
    {"sizes", test_sizes},
    {"widths", test_widths},
    {"patterns", test_patterns},
    {"older_devices", test_older_devices},
    {"determinism", test_determinism},
};
TEST_MAIN(rows)
