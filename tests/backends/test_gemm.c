/* The matrix products of backends/cpu/gemm.h: ours at every ISA level and OpenBLAS's, threaded and
 * serial, against a product in double: all dtypes and transposes, sizes around the blocks, long
 * rows, what the sums begin from, NaN in C where C is not read. */
#include "backends/cpu/gemm.h"
#include "backends/cpu/isa.h"
#include "backends/half.h"
#include "tests/support/test.h"

static uint64_t state;
static double draw(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(state >> 11) * 0x1p-52 - 1;
}

typedef enum adding { NOTHING, START, START_IN_C, BIAS, BOTH, ADDINGS } adding;

typedef struct setting {
    bb_dtype dtype;
    bool ta, tb, serial;
    int64_t m, n, k, slack; /* slack: elements between rows */
    adding adding;
} setting;

/* n numbers of a dtype, from doubles and back. */
static void pack(bb_dtype dtype, int64_t n, const double *x, void *y) {
    for (int64_t i = 0; i < n; i++) {
        if (dtype == BB_F64) ((double *)y)[i] = x[i];
        if (dtype == BB_F32) ((float *)y)[i] = (float)x[i];
        if (dtype == BB_F16) ((uint16_t *)y)[i] = bb_f32_to_f16((float)x[i]);
        if (dtype == BB_BF16) ((uint16_t *)y)[i] = bb_f32_to_bf16((float)x[i]);
    }
}
static double unpack(bb_dtype dtype, const void *x, int64_t i) {
    if (dtype == BB_F64) return ((const double *)x)[i];
    if (dtype == BB_F32) return (double)((const float *)x)[i];
    const uint16_t u = ((const uint16_t *)x)[i];
    return (double)(dtype == BB_F16 ? bb_f16_to_f32(u) : bb_bf16_to_f32(u));
}

/* `count` numbers that the dtype has, in `x` and packed. */
static void *make(bb_dtype dtype, int64_t count, double *x) {
    void *packed = malloc((size_t)count * bb_dtype_bytes(dtype) + 1);
    for (int64_t i = 0; i < count; i++) x[i] = draw();
    pack(dtype, count, x, packed);
    for (int64_t i = 0; i < count; i++) x[i] = unpack(dtype, packed, i);
    return packed;
}

/* Sums are of f32 or f64; the result is rounded once more where it has 16 bits. */
static double allowed(const setting *s, double value) {
    const double unit = s->dtype == BB_F64 ? 1e-15 : 5e-7, sums = unit * (4 + (double)s->k / 4);
    const double half = s->dtype == BB_F16 ? 0x1p-11 : s->dtype == BB_BF16 ? 0x1p-8 : 0;
    return sums + half * fabs(value);
}

static void check(test *t, const bb_gemm *gemm, bb_cpu *cpu, const setting *s) {
    const bb_dtype dtype = s->dtype;
    const int64_t lda = (s->ta ? s->m : s->k) + s->slack, ldb = (s->tb ? s->k : s->n) + s->slack,
                  ldc = s->n + s->slack;
    const int64_t a_count = (s->ta ? s->k : s->m) * lda, b_count = (s->tb ? s->n : s->k) * ldb,
                  c_count = s->m * ldc;
    double *a = malloc((size_t)(a_count + b_count + 2 * c_count + s->n + 1) * sizeof *a),
           *b = a + a_count, *start = b + b_count, *bias = start + c_count, *before = bias + s->n;
    void *pa = make(dtype, a_count, a), *pb = make(dtype, b_count, b),
         *pstart = make(dtype, c_count, start), *pbias = make(dtype, s->n, bias),
         *pc = make(dtype, c_count, before);
    const bool has_start = s->adding == START || s->adding == START_IN_C || s->adding == BOTH,
               has_bias = s->adding == BIAS || s->adding == BOTH;
    if (s->adding == START_IN_C) pack(dtype, c_count, start, pc);
    for (int64_t i = 0; i < c_count; i++) {
        const double nan = NAN;
        const size_t at = (size_t)i * bb_dtype_bytes(dtype);
        if (i % ldc < s->n && s->adding != START_IN_C) pack(dtype, 1, &nan, (char *)pc + at);
    }
    const bb_product p = {.ta = s->ta,
                          .tb = s->tb,
                          .m = s->m,
                          .n = s->n,
                          .k = s->k,
                          .a = pa,
                          .b = pb,
                          .c = pc,
                          .lda = lda,
                          .ldb = ldb,
                          .ldc = ldc,
                          .start = !has_start                ? NULL
                                   : s->adding == START_IN_C ? pc
                                                             : pstart,
                          .start_ld = ldc,
                          .bias = has_bias ? pbias : NULL};
    (s->serial ? gemm->serial : gemm->run)(cpu, dtype, &p);
    double worst = 0;
    int touched = 0;
    for (int64_t i = 0; i < s->m; i++)
        for (int64_t j = 0; j < ldc; j++) {
            const int64_t at = i * ldc + j;
            const double got = unpack(dtype, pc, at);
            if (j >= s->n) {
                touched += got != (s->adding == START_IN_C ? start : before)[at];
                continue;
            }
            double sum = (has_start ? start[at] : 0) + (has_bias ? bias[j] : 0);
            for (int64_t q = 0; q < s->k; q++)
                sum += a[s->ta ? q * lda + i : i * lda + q] * b[s->tb ? j * ldb + q : q * ldb + j];
            const double off = fabs(sum - got) / allowed(s, sum);
            worst = off > worst || off != off ? off : worst;
        }
    CHECK_MSG(t, worst <= 1 && touched == 0,
              "%s %s %s %c%c (%d, %d, %d) slack %d adding %d %s: off by %g of what is allowed, %d "
              "touched between rows",
              gemm->name, cpu->isa, bb_dtype_name(dtype), s->ta ? 'T' : 'N', s->tb ? 'T' : 'N',
              (int)s->m, (int)s->n, (int)s->k, (int)s->slack, (int)s->adding,
              s->serial ? "serial" : "threads", worst, touched);
    free(a), free(pa), free(pb), free(pstart), free(pbias), free(pc);
}

static const int64_t sizes[][3] = {
    {1, 1, 1},     {1, 70, 9},   {2, 5, 300},  {3, 129, 17},   {4, 4, 4},       {5, 31, 7},
    {6, 16, 8},    {7, 33, 9},   {11, 32, 15}, {12, 64, 16},   {13, 63, 255},   {24, 8, 256},
    {25, 65, 257}, {48, 17, 31}, {64, 64, 64}, {63, 65, 64},   {97, 255, 5},    {1, 1, 0},
    {5, 7, 0},     {0, 4, 3},    {4, 0, 3},    {193, 257, 40}, {200, 300, 260}, {9, 513, 33},
    {1, 700, 200}, {3, 700, 99}, {100, 70, 1}, {97, 70, 600},
};

/* Products that share a panel, or all. */
static void check_all(test *t, const bb_gemm *gemm, bb_cpu *cpu, bool large) {
    static const bb_dtype dtypes[] = {BB_F32, BB_F64, BB_F16, BB_BF16};
    state = 42;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (large && sizes[i][0] * sizes[i][1] * sizes[i][2] < 64 * 64 * 64) continue;
        for (int d = 0; d < (gemm->half ? 4 : 2); d++)
            for (int bits = 0; bits < 8; bits++)
                for (int slack = 0; slack < 2; slack++) {
                    const setting s = {dtypes[d],
                                       bits & 1,
                                       bits & 2,
                                       bits & 4,
                                       sizes[i][0],
                                       sizes[i][1],
                                       sizes[i][2],
                                       slack * 3,
                                       (adding)((i + (size_t)(bits + slack + d)) % ADDINGS)};
                    if (!large || !s.serial) check(t, gemm, cpu, &s);
                }
    }
}

/* The backend of a context at one level. */
static bb_cpu at_level(bb_context *ctx, const bb_isa *isa) {
    bb_cpu_panel(bb_cpu_of(ctx)); /* so that the context owns it */
    bb_cpu cpu = *bb_cpu_of(ctx);
    cpu.loops = isa->loops;
    cpu.bf16 = isa->bf16;
    cpu.isa = isa->name;
    return cpu;
}

/* Panels that hold everything, some columns, or too little to be worth it. */
static void test_own(test *t) {
    bb_context *ctx = test_open();
    const size_t panels[] = {bb_cpu_of(ctx)->panel_bytes, 300 << 10, 64 << 10};
    for (int i = 0; bb_isa_at(i); i++) {
        if (!bb_isa_at(i)->usable()) continue;
        bb_cpu cpu = at_level(ctx, bb_isa_at(i));
        for (size_t j = 0; j < sizeof panels / sizeof panels[0]; j++) {
            cpu.panel_bytes = panels[j];
            check_all(t, &bb_gemm_own, &cpu, j > 0);
        }
    }
    bb_close(ctx);
}

static void test_openblas(test *t) {
    const char *why = "";
    const bb_gemm *gemm = bb_gemm_openblas(&why);
    if (!gemm) {
        test_skip(t, why);
        return;
    }
    bb_context *ctx = test_open();
    check_all(t, gemm, bb_cpu_of(ctx), false);
    bb_close(ctx);
}

/* The same bytes for any number of threads, shared panel or not, and on one thread. */
static void test_threads(test *t) {
    bb_context *ctx = test_open();
    static const bb_dtype dtypes[] = {BB_F32, BB_F64, BB_F16, BB_BF16};
    enum { M = 393, N = 330, K = 300 };
    double *x = malloc((M * K + K * N + N) * sizeof *x);
    for (int level = 0; bb_isa_at(level); level++) {
        if (!bb_isa_at(level)->usable()) continue;
        for (int d = 0; d < 4; d++) {
            void *a = make(dtypes[d], M * K, x), *b = make(dtypes[d], K * N, x),
                 *bias = make(dtypes[d], N, x);
            const size_t bytes = M * N * bb_dtype_bytes(dtypes[d]);
            char *c = malloc(2 * bytes), *other = c + bytes;
            for (int bits = 0; bits < 8; bits++) {
                bb_cpu cpu = at_level(ctx, bb_isa_at(level));
                bb_product p = {bits & 1, bits & 2, M, N, K, a, b, .c = c};
                p.lda = p.ta ? M : K, p.ldb = p.tb ? K : N, p.ldc = N;
                p.bias = bits & 4 ? bias : NULL;
                cpu.threads = 1;
                bb_gemm_own.run(&cpu, dtypes[d], &p);
                p.c = other;
                cpu.threads = 3;
                bb_gemm_own.run(&cpu, dtypes[d], &p);
                CHECK(t, memcmp(c, other, bytes) == 0);
                cpu.panel_bytes = 1000;
                bb_gemm_own.run(&cpu, dtypes[d], &p);
                CHECK(t, memcmp(c, other, bytes) == 0);
                bb_gemm_own.serial(&cpu, dtypes[d], &p);
                CHECK(t, memcmp(c, other, bytes) == 0);
            }
            free(a), free(b), free(bias), free(c);
        }
    }
    free(x);
    bb_close(ctx);
}

static void test_choice(test *t) {
    bb_context *ctx = test_open();
    const char *before = getenv("BOBBIN_GEMM");
    char *kept = before ? strdup(before) : NULL;
    setenv("BOBBIN_GEMM", "own", 1);
    CHECK_TEXT(t, bb_gemm_choose(bb_cpu_of(ctx)->loops)->name, "own");
    setenv("BOBBIN_GEMM", "openblas", 1);
    CHECK_TEXT(t, bb_gemm_choose(bb_cpu_of(ctx)->loops)->name,
               bb_gemm_openblas(NULL) ? "openblas" : "own");
    unsetenv("BOBBIN_GEMM"); /* wide vectors: ours */
    for (int i = 0; bb_isa_at(i); i++)
        if (bb_isa_at(i)->loops->gemm->f32->lanes >= 8)
            CHECK_TEXT(t, bb_gemm_choose(bb_isa_at(i)->loops)->name, "own");
    if (kept) setenv("BOBBIN_GEMM", kept, 1);
    free(kept);
    bb_close(ctx);
}

/* Levels with a fused multiply-add use it: half of the work of a product, and what it rounds. A
 * build once gave all levels the flags of the baseline. */
static void test_contraction(test *t) {
    const float small = 1 + 0x1p-12f, minus_square = -(1 + 0x1p-11f); /* small^2 is 2^-24 more */
    float a[4 * 2], b[2] = {1, small}, c[4];
    for (int i = 0; i < 4; i++) a[2 * i] = minus_square, a[2 * i + 1] = small;
    for (int level = 0; bb_isa_at(level); level++) {
        const bb_isa *isa = bb_isa_at(level);
        if (!isa->usable()) continue;
        isa->loops->gemm->f32->product(&(bb_product){
            .m = 4, .n = 1, .k = 2, .a = a, .b = b, .lda = 2, .ldb = 1, .c = c, .ldc = 1});
        bool fused = c[0] == 0x1p-24f;
        CHECK_MSG(t, fused || c[0] == 0, "%s: got %g", isa->name, (double)c[0]);
        if (isa->loops->gemm->f32->lanes >= 8)
            CHECK_MSG(t, fused, "%s multiplies and adds in two roundings", isa->name);
        if (strcmp(isa->name, "baseline") == 0) CHECK_MSG(t, !fused, "baseline contracts");
    }
}

/* The smallest bf16 numbers count, but where the processor's own product takes them for zero. */
static void test_subnormal(test *t) {
    bb_context *ctx = test_open();
    uint16_t a[4 * 2], b[2], c[4];
    for (int i = 0; i < 4; i++) a[2 * i] = bb_f32_to_bf16(0x1p-130f), a[2 * i + 1] = 0;
    b[0] = b[1] = bb_f32_to_bf16(0x1p+100f);
    for (int level = 0; bb_isa_at(level); level++) {
        if (!bb_isa_at(level)->usable()) continue;
        bb_cpu cpu = at_level(ctx, bb_isa_at(level));
        const bb_product p = {
            .m = 4, .n = 1, .k = 2, .a = a, .b = b, .lda = 2, .ldb = 1, .c = c, .ldc = 1};
        bb_gemm_own.serial(&cpu, BB_BF16, &p);
        const float want = cpu.bf16 ? 0 : 0x1p-30f, got = bb_bf16_to_f32(c[3]);
        CHECK_MSG(t, got == want, "%s: expected %g, got %g", cpu.isa, (double)want, (double)got);
    }
    bb_close(ctx);
}

static const test_row rows[] = {
    {"own", test_own},       {"openblas", test_openblas},       {"threads", test_threads},
    {"choice", test_choice}, {"contraction", test_contraction}, {"subnormal", test_subnormal},
};
TEST_MAIN(rows)
