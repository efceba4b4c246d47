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
#include <string.h>
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
static bool takes(const bb_product *p) {
    return p->m <= INT_MAX && p->n <= INT_MAX && p->k <= INT_MAX && p->lda <= INT_MAX &&
           p->ldb <= INT_MAX && p->ldc <= INT_MAX && p->m > 3 &&
           (double)p->m * (double)p->n * (double)p->k > 32. * 32 * 32;
}

/* BLAS adds to what C holds. */
static void prime(bb_dtype dtype, const bb_product *p) {
    const size_t element = bb_dtype_bytes(dtype);
    for (int64_t i = 0; i < p->m; i++) {
        char *c = (char *)p->c + (size_t)(i * p->ldc) * element;
        const char *from =
            p->start ? (const char *)p->start + (size_t)(i * p->start_ld) * element : p->bias;
        if (from != c) memcpy(c, from, (size_t)p->n * element);
        for (int64_t j = 0; p->start && p->bias && j < p->n; j++) {
            if (dtype == BB_F64)
                ((double *)(void *)c)[j] += ((const double *)p->bias)[j];
            else
                ((float *)(void *)c)[j] += ((const float *)p->bias)[j];
        }
    }
}

static int trans(bool t) { return t ? TRANS : NO_TRANS; }

/* BLAS wants ld >= row length even where there is one row or none. */
static int leading(int64_t ld, int64_t row) { return (int)(ld > row ? ld : row > 1 ? row : 1); }

/* OpenBLAS uses as many threads as OpenMP would; the context's own number is set around the call.
 */
static void call(int threads, bb_dtype dtype, const bb_product *p) {
    const int before = omp_get_max_threads(), m = (int)p->m, n = (int)p->n, k = (int)p->k;
    const int lda = leading(p->lda, p->ta ? m : k), ldb = leading(p->ldb, p->tb ? k : n),
              ldc = leading(p->ldc, n);
    const bool set = before != threads && !omp_in_parallel(), add = p->start || p->bias;
    if (add) prime(dtype, p);
    if (set) omp_set_num_threads(threads);
    if (dtype == BB_F64)
        dgemm(ROW_MAJOR, trans(p->ta), trans(p->tb), m, n, k, 1, p->a, lda, p->b, ldb, add, p->c,
              ldc);
    else
        sgemm(ROW_MAJOR, trans(p->ta), trans(p->tb), m, n, k, 1, p->a, lda, p->b, ldb, add, p->c,
              ldc);
    if (set) omp_set_num_threads(before);
}

static void threaded(bb_cpu *cpu, bb_dtype dtype, const bb_product *p) {
    if (takes(p))
        call(cpu->threads, dtype, p);
    else
        bb_gemm_own.run(cpu, dtype, p);
}

static void serial(bb_cpu *cpu, bb_dtype dtype, const bb_product *p) {
    if (takes(p))
        call(1, dtype, p);
    else
        bb_gemm_own.serial(cpu, dtype, p);
}

static const bb_gemm table = {"openblas", false, threaded, serial};

const bb_gemm *bb_gemm_openblas(const char **why) {
    pthread_once(&once, load);
    if (why) *why = missing;
    return missing ? NULL : &table;
}
