/* OpenBLAS as a bb_gemm, found at run time so that a program built with it runs without it.
 *
 * Only the OpenMP flavour is taken: the pthread flavour keeps a second pool of threads, which
 * fights with ours and costs up to half the speed of both. Handle and table are process-wide,
 * written once under pthread_once and constant afterwards. */
#include "backends/cpu/gemm.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_max_threads(void) { return 1; }
static int omp_in_parallel(void) { return 0; }
static void omp_set_num_threads(int n) { (void)n; }
#endif

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
enum { PARALLEL_OPENMP = 2 }; /* of openblas_get_parallel */

typedef void (*sgemm_fn)(int, int, int, int, int, int, float, const float *, int, const float *,
                         int, float, float *, int);
typedef void (*dgemm_fn)(int, int, int, int, int, int, double, const double *, int, const double *,
                         int, double, double *, int);

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const char *missing = "not loaded";
static sgemm_fn sgemm;
static dgemm_fn dgemm;

static const char *const paths[] = {
#ifdef BOBBIN_OPENBLAS_PATH
    BOBBIN_OPENBLAS_PATH,
#endif
#if defined(__x86_64__)
    "/usr/lib/x86_64-linux-gnu/openblas-openmp/libopenblas.so.0", /* Debian and its children */
#elif defined(__aarch64__)
    "/usr/lib/aarch64-linux-gnu/openblas-openmp/libopenblas.so.0",
#endif
    "libopenblaso.so.0", /* Fedora and its children */
    "libopenblas.so.0",
};

/* POSIX's way to turn dlsym's object pointer into a function pointer without a cast that ISO C
 * forbids. */
static bool find(void *library, const char *name, void *function) {
    void *symbol = dlsym(library, name);
    *(void **)function = symbol;
    return symbol != NULL;
}

static void load(void) {
    missing = "no OpenBLAS library found";
    for (size_t i = 0; i < sizeof paths / sizeof paths[0] && missing; i++) {
        void *library = *paths[i] ? dlopen(paths[i], RTLD_NOW | RTLD_LOCAL) : NULL;
        if (!library) continue;
        int (*parallel)(void);
        if (find(library, "openblas_get_parallel", &parallel) &&
            find(library, "cblas_sgemm", &sgemm) && find(library, "cblas_dgemm", &dgemm) &&
            parallel() == PARALLEL_OPENMP) {
            missing = NULL;
        } else {
            missing = "the OpenBLAS library found is not the OpenMP flavour";
            dlclose(library);
        }
    }
}

/* Its integers are 32-bit, and our loops start quicker on small products. */
static bool takes(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldc) {
    return m <= INT_MAX && n <= INT_MAX && k <= INT_MAX && lda <= INT_MAX && ldb <= INT_MAX &&
           ldc <= INT_MAX && m > 3 && (double)m * (double)n * (double)k > 32. * 32 * 32;
}

/* OpenBLAS uses as many threads as OpenMP would; the context's own number is set around the call.
 */
static int enter(int threads) {
    const int before = omp_get_max_threads();
    if (before != threads && !omp_in_parallel()) omp_set_num_threads(threads);
    return before;
}
static void leave(int before, int threads) {
    if (before != threads && !omp_in_parallel()) omp_set_num_threads(before);
}

static int trans(bool t) { return t ? TRANS : NO_TRANS; }

/* BLAS wants ld >= row length even where there is one row or none. */
static int leading(int64_t ld, int64_t row) { return (int)(ld > row ? ld : row > 1 ? row : 1); }

static void run_f32(int threads, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha,
                    const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                    int64_t ldc) {
    const int before = enter(threads);
    sgemm(ROW_MAJOR, trans(ta), trans(tb), (int)m, (int)n, (int)k, alpha, a,
          leading(lda, ta ? m : k), b, leading(ldb, tb ? k : n), beta, c, leading(ldc, n));
    leave(before, threads);
}

static void run_f64(int threads, bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha,
                    const double *a, int64_t lda, const double *b, int64_t ldb, double beta,
                    double *c, int64_t ldc) {
    const int before = enter(threads);
    dgemm(ROW_MAJOR, trans(ta), trans(tb), (int)m, (int)n, (int)k, alpha, a,
          leading(lda, ta ? m : k), b, leading(ldb, tb ? k : n), beta, c, leading(ldc, n));
    leave(before, threads);
}

static void threaded_f32(const bb_cpu *cpu, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                         float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                         float beta, float *c, int64_t ldc) {
    if (takes(m, n, k, lda, ldb, ldc))
        run_f32(cpu->threads, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    else
        bb_gemm_own.f32(cpu, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

static void threaded_f64(const bb_cpu *cpu, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                         double alpha, const double *a, int64_t lda, const double *b, int64_t ldb,
                         double beta, double *c, int64_t ldc) {
    if (takes(m, n, k, lda, ldb, ldc))
        run_f64(cpu->threads, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    else
        bb_gemm_own.f64(cpu, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

static void serial_f32(const bb_cpu *cpu, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                       float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                       float beta, float *c, int64_t ldc) {
    if (takes(m, n, k, lda, ldb, ldc))
        run_f32(1, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    else
        bb_gemm_own.f32_serial(cpu, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

static void serial_f64(const bb_cpu *cpu, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                       double alpha, const double *a, int64_t lda, const double *b, int64_t ldb,
                       double beta, double *c, int64_t ldc) {
    if (takes(m, n, k, lda, ldb, ldc))
        run_f64(1, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    else
        bb_gemm_own.f64_serial(cpu, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

static const bb_gemm table = {"openblas", threaded_f32, threaded_f64, serial_f32, serial_f64};

const bb_gemm *bb_gemm_openblas(const char **why) {
    pthread_once(&once, load);
    if (why) *why = missing;
    return missing ? NULL : &table;
}
