/* RMSNormImpl over the shapes, dtypes and eps that the test suites of the libraries it follows go
 * through (coreai-torch's composite op, TransformerEngine's layer), as cases of our own: output and
 * both gradients against f64, at bounds in ulps instead of their tolerances. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/checker.h"

typedef enum fill { NORMAL, UNIT, WIDE, ONES, LARGE } fill; /* WIDE: [-2, 1) */

typedef struct list_case {
    const char *what;
    bb_shape x, scale;
    double eps;
    fill fill;
    bool transposed; /* x is a transposed view */
    bool f32_scale;  /* whatever x's dtype */
    bool f32_only;   /* large: one dtype suffices */
} list_case;

static void draw(fill f, bb_dtype dtype, uint64_t seed, int64_t n, double *value) {
    for (int64_t i = 0; i < n; i++) {
        double u = draw_uniform(&seed);
        value[i] = f == UNIT    ? u
                   : f == WIDE  ? 3 * u - 2
                   : f == ONES  ? 1
                   : f == LARGE ? (u < 0.5 ? -60000 : 60000)
                                : draw_normal(&seed);
        value[i] = round_to(dtype, value[i]);
    }
}

typedef struct problem {
    int64_t rows, n, count, scale_count;
    double *x, *scale, *dy;                          /* given */
    double *y, *dx, *dscale, *dx_size, *dscale_size; /* results and the size of their terms */
} problem;

static bool make_problem(problem *p, const list_case *c) {
    bb_shape_count(&c->x, &p->count);
    bb_shape_count(&c->scale, &p->scale_count);
    p->n = c->x.size[c->x.rank - 1];
    p->rows = p->n ? p->count / p->n : 0;
    double **field[] = {&p->x,       &p->dy,    &p->y,      &p->dx,
                        &p->dx_size, &p->scale, &p->dscale, &p->dscale_size};
    bool ok = true;
    for (int i = 0; i < 8; i++) {
        *field[i] = calloc((size_t)(i < 5 ? p->count : p->scale_count) + 1, sizeof(double));
        ok = ok && *field[i];
    }
    return ok;
}

static void free_problem(problem *p) {
    double *field[] = {p->x, p->dy, p->y, p->dx, p->dx_size, p->scale, p->dscale, p->dscale_size};
    for (int i = 0; i < 8; i++) free(field[i]);
}

/* y = xhat g; dx = rstd (dy g - xhat mean(dy g xhat)), dscale = sum(dy xhat): the definition. */
static void solve(problem *p, const list_case *c) {
    for (int64_t r = 0; r < p->rows; r++) {
        const double *x = p->x + r * p->n, *dy = p->dy + r * p->n;
        int64_t index[BB_MAX_RANK] = {0};
        ref_unravel(&c->x, r * p->n, index);
        double squares = 0, back = 0, size = 0;
        for (int64_t i = 0; i < p->n; i++) squares += x[i] * x[i];
        double rstd = 1 / sqrt(squares / (double)p->n + c->eps);
        for (int64_t i = 0; i < p->n; i++) {
            index[c->x.rank - 1] = i;
            double term = dy[i] * p->scale[ref_broadcast_offset(&c->scale, &c->x, index)] * x[i];
            back += term * rstd / (double)p->n;
            size += fabs(term * rstd) / (double)p->n;
        }
        for (int64_t i = 0; i < p->n; i++) {
            index[c->x.rank - 1] = i;
            int64_t s = ref_broadcast_offset(&c->scale, &c->x, index), at = r * p->n + i;
            double xhat = x[i] * rstd, g = p->scale[s];
            p->y[at] = xhat * g;
            p->dx[at] = rstd * (dy[i] * g - xhat * back);
            p->dx_size[at] = rstd * (fabs(dy[i] * g) + fabs(xhat) * size);
            p->dscale[s] += dy[i] * xhat;
            p->dscale_size[s] += fabs(dy[i] * xhat);
        }
    }
}

/* Within `ulps` of the largest term, and the f32 sum's share of it. */
static void check(test *t, const list_case *c, const char *what, bb_tensor *got,
                  const double *expected, const double *size, double ulps, int64_t terms) {
    if (!CHECK_MSG(t, got != NULL, "%s: %s is missing", c->what, what)) return;
    int64_t n = bb_count(got), bad = 0, first = 0;
    double *value = malloc((size_t)(n + 1) * sizeof *value);
    bb_dtype dtype = bb_dtype_of(got);
    bb_read_f64(got, value, n);
    for (int64_t i = 0; i < n; i++) {
        double magnitude = fmax(fabs(expected[i]), size ? size[i] : 0);
        double bound = ulps * dtype_epsilon(dtype) * magnitude +
                       (4 + 2 * sqrt((double)terms)) * 0x1p-24 * magnitude +
                       (dtype == BB_F16 ? 0x1p-24 : 1e-38);
        if (fabs(value[i] - round_to(dtype, expected[i])) <= bound) continue;
        if (!bad++) first = i;
    }
    CHECK_MSG(t, bad == 0, "%s, %s, eps %g: %s: %lld wrong, [%lld]: got %.9g, expected %.9g",
              c->what, bb_dtype_name(dtype), c->eps, what, (long long)bad, (long long)first,
              value[first], expected[first]);
    free(value);
}

static void check_case(test *t, const list_case *c, bb_dtype dtype) {
    problem p;
    bb_dtype scale_dtype = c->f32_scale ? BB_F32 : dtype;
    if (!CHECK(t, make_problem(&p, c))) return;
    draw(c->fill, dtype, 31, p.count, p.x);
    draw(c->fill == ONES || c->fill == LARGE ? ONES : NORMAL, scale_dtype, 32, p.scale_count,
         p.scale);
    draw(NORMAL, dtype, 33, p.count, p.dy);
    solve(&p, c);
    bool narrow = dtype != BB_F32;
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        bb_context *ctx = test_open();
        bb_tensor *x = bb_from_f64(ctx, dtype, c->x, p.x);
        if (c->transposed) x = bb_contiguous(bb_transpose(x, -2, -1));
        bb_set_requires_grad(x, true);
        bb_tensor *scale =
            bb_set_requires_grad(bb_from_f64(ctx, scale_dtype, c->scale, p.scale), true);
        bb_set_path(ctx, (bb_path)path);
        bb_tensor *y = bb_rms_norm(c->transposed ? bb_transpose(x, -2, -1) : x, scale, c->eps);
        CHECK_MSG(t, y && bb_dtype_of(y) == dtype, "%s: %s", c->what, bb_error_message(ctx));
        bb_backward(y, bb_from_f64(ctx, dtype, c->x, p.dy));
        bb_set_path(ctx, BB_PATH_AUTO);
        bb_tensor *dx = bb_grad(x);
        /* Rounded first and last, or last alone; gradients round dy g on the composed path. */
        check(t, c, "y", y, p.y, NULL, narrow ? (c->f32_scale ? 1 : 2) : 1, p.n);
        check(t, c, "dx", c->transposed && dx ? bb_transpose(dx, -2, -1) : dx, p.dx, p.dx_size,
              narrow ? 3 : 2, p.n);
        check(t, c, "dscale", bb_grad(scale), p.dscale, p.dscale_size,
              narrow && !c->f32_scale ? 2
              : narrow                ? 0
                                      : 1,
              p.rows);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
    free_problem(&p);
}

#define ROW(label, x, scale, eps, fill)                                                            \
    { label, x, scale, eps, fill, false, false, false }

static void run_list(test *t, const list_case *cases, size_t count) {
    static const bb_dtype dtypes[] = {BB_F32, BB_F16, BB_BF16};
    for (size_t i = 0; i < count; i++)
        for (int d = 0; d < (cases[i].f32_only ? 1 : 3); d++) check_case(t, &cases[i], dtypes[d]);
}

static void test_layer_list(test *t) {
    /* clang-format off */
    const list_case cases[] = {
        ROW("vector of 19", SH(19), SH(19), 0.3, UNIT),
        ROW("(6, 16, 19)", SH(6, 16, 19), SH(19), 0.3, UNIT),
        ROW("vector of 64", SH(64), SH(64), 0.3, UNIT),
        ROW("(6, 16, 64)", SH(6, 16, 64), SH(64), 0.3, UNIT),
        ROW("(71, 229)", SH(71, 229), SH(229), 1e-5, WIDE),
        ROW("(29, 541)", SH(29, 541), SH(541), 1e-5, WIDE),
        {"(768, 6144)", SH(768, 6144), SH(6144), 1e-5, WIDE, false, false, true},
        {"(256, 12288)", SH(256, 12288), SH(12288), 1e-5, WIDE, false, false, true},
        {"(2048, 1, 768), eps 0.1", SH(2048, 1, 768), SH(768), 1e-1, NORMAL, false, false, true},
        ROW("(128, 2, 768), eps 0.1", SH(128, 2, 768), SH(768), 1e-1, NORMAL),
        ROW("(128, 2, 768), eps 1e-3", SH(128, 2, 768), SH(768), 1e-3, NORMAL),
        ROW("(128, 2, 768), eps 1e-5", SH(128, 2, 768), SH(768), 1e-5, NORMAL),
        ROW("(128, 2, 768), eps 1e-7", SH(128, 2, 768), SH(768), 1e-7, NORMAL),
        {"128 x 256 transposed", SH(256, 128), SH(128), 1e-5, NORMAL, true, false, false},
        ROW("(16, 128)", SH(16, 128), SH(128), 1e-5, NORMAL),
        ROW("ones (4, 64, 256)", SH(4, 64, 256), SH(256), 1e-5, ONES),
        ROW("(256, 128), eps 0.01", SH(256, 128), SH(128), 1e-2, NORMAL),
        ROW("(128, 256), eps 1e-6", SH(128, 256), SH(256), 1e-6, NORMAL),
    };
    /* clang-format on */
    run_list(t, cases, sizeof cases / sizeof cases[0]);
}

static void test_composite_list(test *t) {
    /* clang-format off */
    const list_case cases[] = {
        /* Longer than the kernel's buffer, which f16 and strided rows pass through. */
        ROW("long rows (5, 2500)", SH(5, 2500), SH(2500), 1e-5, NORMAL),
        {"long rows, transposed", SH(5, 2500), SH(2500), 1e-5, NORMAL, true, false, false},
        ROW("(2, 32)", SH(2, 32), SH(32), 1e-5, NORMAL),
        ROW("8 heads: (2, 8, 16, 32)", SH(2, 8, 16, 32), SH(8, 1, 32), 1e-5, NORMAL),
        ROW("rows of 423", SH(24, 31, 423), SH(423), 1e-5, NORMAL),
        {"rows of 423, f32 scale", SH(24, 31, 423), SH(423), 1e-5, NORMAL, false, true, false},
        ROW("60000 (2, 64)", SH(2, 64), SH(64), 1e-5, LARGE),
        ROW("decoder (2, 10, 64), eps 1e-5", SH(2, 10, 64), SH(64), 1e-5, NORMAL),
        ROW("decoder (2, 10, 64), eps 1e-6", SH(2, 10, 64), SH(64), 1e-6, NORMAL),
        {"decoder (2, 10, 64), f32 scale", SH(2, 10, 64), SH(64), 1e-6, NORMAL, false, true, false},
        ROW("(2, 3, 4)", SH(2, 3, 4), SH(4), 1e-5, NORMAL),
        ROW("one element", SH(1), SH(1), 1e-5, ONES),
        ROW("(1, 8, 64)", SH(1, 8, 64), SH(64), 1e-5, NORMAL),
        ROW("(2, 16, 64)", SH(2, 16, 64), SH(64), 1e-5, NORMAL),
        {"(3, 32), f32 scale", SH(3, 32), SH(32), 1e-5, NORMAL, false, true, false},
    };
    /* clang-format on */
    run_list(t, cases, sizeof cases / sizeof cases[0]);
}

static const test_row rows[] = {
    {"layer_list", test_layer_list},
    {"composite_list", test_composite_list},
};
TEST_MAIN(rows)
