/* The matrix products of backends/cpu/gemm.h: ours at every ISA level and OpenBLAS's, threaded and
 * serial, against a product in double: all transposes, sizes around the blocks, long rows, alpha
 * and beta, NaN in C with beta 0. */
#include "backends/cpu/gemm.h"
#include "backends/cpu/isa.h"
#include "tests/support/test.h"

static uint64_t state;
static double draw(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(state >> 11) * 0x1p-52 - 1;
}

typedef struct setting {
    bool ta, tb, serial, wide; /* wide: f64 */
    int64_t m, n, k, slack;    /* slack: elements between rows */
    double alpha, beta;
} setting;

/* A, B and C as doubles; the result in `got`. */
static void run(const bb_gemm *gemm, const bb_cpu *cpu, const setting *s, const double *a,
                int64_t lda, int64_t a_count, const double *b, int64_t ldb, int64_t b_count,
                double *c, int64_t ldc, int64_t c_count) {
    if (s->wide) {
        (s->serial ? gemm->f64_serial : gemm->f64)(cpu, s->ta, s->tb, s->m, s->n, s->k, s->alpha, a,
                                                   lda, b, ldb, s->beta, c, ldc);
        return;
    }
    float *x = malloc((size_t)(a_count + b_count + c_count + 1) * sizeof *x), *y = x + a_count,
          *z = y + b_count;
    for (int64_t i = 0; i < a_count; i++) x[i] = (float)a[i];
    for (int64_t i = 0; i < b_count; i++) y[i] = (float)b[i];
    for (int64_t i = 0; i < c_count; i++) z[i] = (float)c[i];
    (s->serial ? gemm->f32_serial : gemm->f32)(cpu, s->ta, s->tb, s->m, s->n, s->k, (float)s->alpha,
                                               x, lda, y, ldb, (float)s->beta, z, ldc);
    for (int64_t i = 0; i < c_count; i++) c[i] = (double)z[i];
    free(x);
}

static void check(test *t, const bb_gemm *gemm, const bb_cpu *cpu, const setting *s) {
    const int64_t lda = (s->ta ? s->m : s->k) + s->slack, ldb = (s->tb ? s->k : s->n) + s->slack,
                  ldc = s->n + s->slack;
    const int64_t a_count = (s->ta ? s->k : s->m) * lda, b_count = (s->tb ? s->n : s->k) * ldb,
                  c_count = s->m * ldc;
    double *a = malloc((size_t)(a_count + b_count + 2 * c_count + 1) * sizeof *a), *b = a + a_count,
           *c = b + b_count, *before = c + c_count;
    for (int64_t i = 0; i < a_count + b_count + c_count; i++) a[i] = (double)(float)draw();
    for (int64_t i = 0; s->beta == 0 && i < c_count; i++)
        if (i % ldc < s->n) c[i] = NAN;
    memcpy(before, c, (size_t)c_count * sizeof *c);
    run(gemm, cpu, s, a, lda, a_count, b, ldb, b_count, c, ldc, c_count);
    double worst = 0;
    int touched = 0;
    for (int64_t i = 0; i < s->m; i++)
        for (int64_t j = 0; j < ldc; j++) {
            const int64_t at = i * ldc + j;
            double sum = 0;
            if (j >= s->n) {
                touched += c[at] != before[at];
                continue;
            }
            for (int64_t p = 0; p < s->k; p++)
                sum += a[s->ta ? p * lda + i : i * lda + p] * b[s->tb ? j * ldb + p : p * ldb + j];
            const double off =
                fabs(s->alpha * sum + (s->beta == 0 ? 0 : s->beta * before[at]) - c[at]);
            worst = off > worst || off != off ? off : worst;
        }
    const double tolerance =
        (s->wide ? 1e-15 : 5e-7) * (4 + (double)s->k / 4) * (fabs(s->alpha) + fabs(s->beta));
    CHECK_MSG(t, worst <= tolerance && touched == 0,
              "%s %s %s%c%c (%d, %d, %d) slack %d alpha %g beta %g %s: off by %g (allowed %g), %d "
              "touched between rows",
              gemm->name, cpu->isa, s->wide ? "f64 " : "f32 ", s->ta ? 'T' : 'N', s->tb ? 'T' : 'N',
              (int)s->m, (int)s->n, (int)s->k, (int)s->slack, s->alpha, s->beta,
              s->serial ? "serial" : "threads", worst, tolerance, touched);
    free(a);
}

static const int64_t sizes[][3] = {
    {1, 1, 1},     {1, 70, 9},   {2, 5, 300},  {3, 129, 17},   {4, 4, 4},       {5, 31, 7},
    {6, 16, 8},    {7, 33, 9},   {11, 32, 15}, {12, 64, 16},   {13, 63, 255},   {24, 8, 256},
    {25, 65, 257}, {48, 17, 31}, {64, 64, 64}, {63, 65, 64},   {97, 255, 5},    {1, 1, 0},
    {5, 7, 0},     {0, 4, 3},    {4, 0, 3},    {193, 257, 40}, {200, 300, 260}, {9, 513, 33},
};

static void check_all(test *t, const bb_gemm *gemm, const bb_cpu *cpu) {
    static const double scales[][2] = {{1, 0}, {1, 1}, {-0.5, 2}};
    state = 42;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int bits = 0; bits < 16; bits++)
            for (int slack = 0; slack < 2; slack++) {
                const size_t scale = (i + (size_t)bits + (size_t)slack) % 3;
                const setting s = {bits & 1,         bits & 2,        bits & 4,    bits & 8,
                                   sizes[i][0],      sizes[i][1],     sizes[i][2], slack * 3,
                                   scales[scale][0], scales[scale][1]};
                check(t, gemm, cpu, &s);
            }
}

static void test_own(test *t) {
    bb_context *ctx = test_open();
    bb_cpu cpu = *bb_cpu_of(ctx);
    for (int i = 0; bb_isa_at(i); i++) {
        if (!bb_isa_at(i)->usable()) continue;
        cpu.loops = bb_isa_at(i)->loops;
        cpu.isa = bb_isa_at(i)->name;
        check_all(t, &bb_gemm_own, &cpu);
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
    check_all(t, gemm, bb_cpu_of(ctx));
    bb_close(ctx);
}

static void test_threads(test *t) {
    bb_context *ctx = test_open();
    bb_cpu cpu = *bb_cpu_of(ctx);
    enum { M = 300, N = 330, K = 300 };
    float *a = malloc((M * K + K * N + 2 * M * N) * sizeof *a), *b = a + M * K, *c = b + K * N,
          *d = c + M * N;
    for (int i = 0; i < M * K + K * N; i++) a[i] = (float)draw();
    for (int bits = 0; bits < 4; bits++) {
        const bool ta = bits & 1, tb = bits & 2;
        cpu.threads = 1;
        bb_gemm_own.f32(&cpu, ta, tb, M, N, K, 1, a, ta ? M : K, b, tb ? K : N, 0, c, N);
        cpu.threads = 3;
        bb_gemm_own.f32(&cpu, ta, tb, M, N, K, 1, a, ta ? M : K, b, tb ? K : N, 0, d, N);
        CHECK(t, memcmp(c, d, M * N * sizeof *c) == 0);
        bb_gemm_own.f32_serial(&cpu, ta, tb, M, N, K, 1, a, ta ? M : K, b, tb ? K : N, 0, d, N);
        CHECK(t, memcmp(c, d, M * N * sizeof *c) == 0);
    }
    free(a);
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
        if (bb_isa_at(i)->loops->gemm->lanes >= 8)
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
        isa->loops->gemm->f32(false, false, 4, 1, 2, 1, a, 2, b, 1, 0, c, 1);
        bool fused = c[0] == 0x1p-24f;
        CHECK_MSG(t, fused || c[0] == 0, "%s: got %g", isa->name, (double)c[0]);
        if (isa->loops->gemm->lanes >= 8)
            CHECK_MSG(t, fused, "%s multiplies and adds in two roundings", isa->name);
        if (strcmp(isa->name, "baseline") == 0) CHECK_MSG(t, !fused, "baseline contracts");
    }
}

static const test_row rows[] = {
    {"own", test_own},       {"openblas", test_openblas},       {"threads", test_threads},
    {"choice", test_choice}, {"contraction", test_contraction},
};
TEST_MAIN(rows)
