/* The kernels of RMSNormImpl and AddRMSNorm on the device, at the borders of each map of
 * backends/cuda/norm_forward.h and norm_backward.h, in every layout, and for any sm_margin. Values
 * are held against the definition; the case tables of tests/ops cover broadcasting and dtypes. */
#include "tests/cuda/norm_problem.h"
#include "tests/support/test.h"

/* Every 16-byte vector count around which a map ends, in elements of bf16, and the row lengths
 * between which elements are read one by one. */
static const int64_t dims[] = {1,   2,   3,   31,  32,  33,  56,   63,   64,   65,   72,  120,
                               127, 128, 129, 136, 248, 255, 256,  257,  264,  423,  504, 511,
                               512, 513, 520, 767, 768, 769, 1016, 1023, 1024, 1025, 1032};
static const int64_t long_dims[] = {4088, 4095, 4096, 4097,  4099,  4104,  8184, 8191,
                                    8192, 8193, 8200, 16376, 16384, 16392, 65537};

static void test_dimensions(test *t) {
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(dims); i++) {
        /* More than one step of a strip, where a step is of many rows. */
        const int64_t rows = dims[i] <= 72 ? 270 : dims[i] <= 264 ? 70 : 21;
        const norm_problem p = {RMS_NORM, PACKED,  BB_BF16, i % 2 ? BB_BF16 : BB_F32,
                                rows,     dims[i], 0};
        norm_check(t, ctx, &p);
    }
    bb_close(ctx);
}

static void test_long_rows(test *t) {
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(long_dims); i++) {
        const norm_problem p = {
            RMS_NORM,     PACKED, BB_BF16, i % 2 ? BB_BF16 : BB_F32, long_dims[i] > 5000 ? 3 : 9,
            long_dims[i], 0};
        norm_check(t, ctx, &p);
    }
    const norm_problem longest = {RMS_NORM, PACKED, BB_F16, BB_F16, 2, 262144, 0};
    norm_check(t, ctx, &longest);
    bb_close(ctx);
}

static void test_dtypes(test *t) {
    static const int64_t some[] = {5, 28, 32, 36, 64, 128, 260, 512, 516, 4096, 4100, 8196};
    static const bb_dtype types[] = {BB_F32, BB_F16, BB_BF16};
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(some); i++) {
        for (int k = 0; k < 9; k++) {
            const norm_problem p = {
                RMS_NORM, PACKED, types[k / 3], types[k % 3], some[i] > 4000 ? 2 : 19, some[i], 0};
            if (some[i] < 4000 || k == 0) norm_check(t, ctx, &p);
        }
        const norm_problem wide = {RMS_NORM, PACKED, BB_F64, BB_F64, 5, some[i], 0};
        norm_check(t, ctx, &wide);
    }
    bb_close(ctx);
}

static void test_layouts(test *t) {
    static const int64_t some[] = {8, 40, 64, 128, 264, 1032, 4104, 16392};
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(some); i++) {
        for (int way = SPACED; way <= HEADS; way++) {
            const int64_t rows = some[i] > 1000 ? 6 : 84; /* HEADS: 3 heads, 2 of a batch */
            const norm_problem p = {RMS_NORM, (norm_layout)way, BB_BF16, BB_BF16, rows, some[i], 0};
            norm_check(t, ctx, &p);
            const norm_problem q = {RMS_NORM, (norm_layout)way, BB_F32, BB_F32, rows, some[i], 0};
            norm_check(t, ctx, &q);
        }
    }
    bb_close(ctx);
}

static void test_addition(test *t) {
    static const int64_t some[] = {5,    64,   65,   128,  256,   512,  520,
                                   1024, 4104, 8192, 8200, 16384, 16392};
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(some); i++) {
        for (int way = PACKED; way <= SHIFTED; way++) {
            const norm_problem p = {ADD_RMS_NORM,
                                    (norm_layout)way,
                                    BB_BF16,
                                    way == SPACED ? BB_F32 : BB_BF16,
                                    some[i] > 4000 ? 3 : 40,
                                    some[i],
                                    0};
            norm_check(t, ctx, &p);
        }
    }
    const norm_problem p = {ADD_RMS_NORM, PACKED, BB_F32, BB_F32, 40, 96, 0};
    norm_check(t, ctx, &p);
    const norm_problem wide = {ADD_RMS_NORM, PACKED, BB_F64, BB_F64, 7, 96, 0};
    norm_check(t, ctx, &wide);
    bb_close(ctx);
}

/* The statistic that backward reads, against the CPU's: both round correctly, only the order of
 * their sums differs. */
static void test_rstd(test *t) {
    static const int64_t some[] = {3, 64, 423, 1024, 4096, 8200, 20000};
    bb_context *ctx = test_open(), *cpu = test_open();
    bb_set_device(cpu, BB_CPU);
    for (int i = 0; i < COUNT(some); i++) {
        const norm_problem p = {RMS_NORM, PACKED, BB_F32, BB_F32, 3, some[i], 0};
        double *value[NORM_TENSORS];
        norm_result a = norm_result_new(&p), b = norm_result_new(&p);
        norm_draw(&p, value);
        norm_run(ctx, &p, value, 1e-5, 1u << NORM_X, &a);
        norm_run(cpu, &p, value, 1e-5, 1u << NORM_X, &b);
        CHECK_OK(t, ctx);
        CHECK_OK(t, cpu);
        norm_compare(t, &p, "rstd", 3, a.rstd, b.rstd, 2 * dtype_epsilon(BB_F32));
        bb_end_step(ctx);
        bb_end_step(cpu);
        norm_result_free(&a);
        norm_result_free(&b);
        for (int k = 0; k < NORM_TENSORS; k++) free(value[k]);
    }
    bb_close(cpu);
    bb_close(ctx);
}

/* The same bytes again, and with any number of multiprocessors: the strips of the scale's gradient
 * depend on shapes alone, and their sums are added in order. The simulation has 4 multiprocessors
 * and shuffles its threads anew for every launch. */
static void test_margins(test *t) {
    static const norm_problem problems[] = {
        {RMS_NORM, PACKED, BB_BF16, BB_BF16, 1300, 64, 0},
        {RMS_NORM, HEADS, BB_F32, BB_F32, 600, 32, 0},
        {RMS_NORM, PACKED, BB_BF16, BB_F32, 90, 520, 0},
        {RMS_NORM, PACKED, BB_F32, BB_F32, 60, 777, 0},
        {RMS_NORM, PACKED, BB_BF16, BB_BF16, 6, 9000, 0},
        {ADD_RMS_NORM, PACKED, BB_F16, BB_F16, 70, 256, 0},
        /* Several steps in each strip; several tiles of long rows for each block. */
        {RMS_NORM, PACKED, BB_BF16, BB_BF16, 2100, 520, 0},
        {RMS_NORM, HEADS, BB_BF16, BB_BF16, 19200, 16, 64},
        {RMS_NORM, PACKED, BB_F32, BB_F32, 40, 1501, 0},
    };
    static const int margins[] = {0, 0, 1, 3, 1000};
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(problems); i++) {
        const norm_problem *p = &problems[i];
        const size_t all = (size_t)(p->rows * p->n) * sizeof(double);
        double *value[NORM_TENSORS];
        norm_result first = norm_result_new(p), again = norm_result_new(p);
        norm_draw(p, value);
        norm_check(t, ctx, p);
        for (int m = 0; m < COUNT(margins); m++) {
            norm_result *r = m ? &again : &first;
            bb_set_sm_margin(ctx, margins[m]);
            norm_run(ctx, p, value, 1e-5, 1u << NORM_X | 1u << NORM_MORE | 1u << NORM_SCALE, r);
            CHECK_OK(t, ctx);
            bb_end_step(ctx);
            if (m == 0) continue;
            CHECK_MSG(t, memcmp(r->y, first.y, all) == 0, "problem %d, margin %d: y", i,
                      margins[m]);
            CHECK_MSG(t, memcmp(r->dx, first.dx, all) == 0, "problem %d, margin %d: dx", i,
                      margins[m]);
            CHECK_MSG(t,
                      memcmp(r->dscale, first.dscale, (size_t)norm_scales(p) * sizeof(double)) == 0,
                      "problem %d, margin %d: dscale", i, margins[m]);
        }
        norm_result_free(&first);
        norm_result_free(&again);
        for (int k = 0; k < NORM_TENSORS; k++) free(value[k]);
    }
    bb_close(ctx);
}

/* One gradient wanted and not the other. */
static void test_wanted(test *t) {
    static const int64_t some[] = {48, 50, 1040, 20000};
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(some); i++) {
        const norm_problem p = {RMS_NORM, PACKED, BB_F32, BB_F32, 7, some[i], 0};
        double *value[NORM_TENSORS];
        norm_result both = norm_result_new(&p), one = norm_result_new(&p);
        norm_draw(&p, value);
        norm_run(ctx, &p, value, 1e-5, 1u << NORM_X | 1u << NORM_SCALE, &both);
        bb_end_step(ctx);
        norm_run(ctx, &p, value, 1e-5, 1u << NORM_X, &one);
        bb_end_step(ctx);
        norm_run(ctx, &p, value, 1e-5, 1u << NORM_SCALE, &one);
        bb_end_step(ctx);
        CHECK_OK(t, ctx);
        norm_compare(t, &p, "dx alone", p.rows * p.n, one.dx, both.dx, 0);
        norm_compare(t, &p, "dscale alone", p.n, one.dscale, both.dscale, 0);
        norm_result_free(&both);
        norm_result_free(&one);
        for (int k = 0; k < NORM_TENSORS; k++) free(value[k]);
    }
    bb_close(ctx);
}

static const test_row rows[] = {
    {"dimensions", test_dimensions}, {"long rows", test_long_rows}, {"dtypes", test_dtypes},
    {"layouts", test_layouts},       {"addition", test_addition},   {"rstd", test_rstd},
    {"margins", test_margins},       {"wanted", test_wanted},
};
TEST_MAIN(rows)
