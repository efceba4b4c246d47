/* The host simulation itself: it runs right kernels right, and catches each fault it claims to
 * (backends/cuda/sim/sim.h). A kernel with a planted fault must fail its launch with the words that
 * name the fault. */
#include <stdarg.h>

#include "backends/cuda/async.h"
#include "backends/cuda/cuda.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

extern "C" {
#include "tests/support/test.h"
}

/* Launches without a module: bb_sim_run is what a launch ends in. */
template <typename K>
static const char *run(K kernel, dim3 grid, dim3 block, size_t shared_bytes = 0) {
    return bb_sim_run(grid, block, shared_bytes, bb_sim_kernel_of(kernel));
}

static void check_fault(test *t, const char *got, const char *expected) {
    CHECK_MSG(t, got && strstr(got, expected), "expected a fault with \"%s\", got \"%s\"", expected,
              got ? got : "(none)");
}

static void test_indices(test *t) {
    static int seen[2][3][4][5];
    memset(seen, 0, sizeof seen);
    const char *fault = run([] { seen[blockIdx.y][blockIdx.x][threadIdx.y][threadIdx.x]++; },
                            dim3(3, 2), dim3(5, 4));
    int right = 0;
    for (int *p = &seen[0][0][0][0]; p < &seen[0][0][0][0] + 120; p++) right += *p == 1;
    CHECK_MSG(t, !fault, "%s", fault);
    CHECK_INT(t, right, 120);
}

static void test_exchanges(test *t) {
    static float sum[64], down[64], up[64], first[64];
    static unsigned votes[64];
    const char *fault = run(
        [] {
            const int i = (int)threadIdx.x;
            sum[i] = bb_warp_sum((float)i);
            down[i] = __shfl_down_sync(BB_ALL_LANES, (float)i, 3);
            up[i] = __shfl_up_sync(BB_ALL_LANES, (float)i, 3);
            first[i] = __shfl_sync(BB_ALL_LANES, (float)i, 1, 8);
            votes[i] = __ballot_sync(BB_ALL_LANES, i % 3 == 0);
        },
        1, 64);
    CHECK_MSG(t, !fault, "%s", fault);
    unsigned expected[2] = {0, 0};
    for (int i = 0; i < 64; i++) expected[i / 32] |= (unsigned)(i % 3 == 0) << i % 32;
    for (int i = 0; i < 64; i++) {
        const int warp = i / 32 * 32, lane = i % 32;
        CHECK_NEAR(t, sum[i], 496 + 32 * warp, 0);
        CHECK_NEAR(t, down[i], lane + 3 < 32 ? i + 3 : i, 0);
        CHECK_NEAR(t, up[i], lane >= 3 ? i - 3 : i, 0);
        CHECK_NEAR(t, first[i], i / 8 * 8 + 1, 0);
        CHECK_INT(t, votes[i], expected[i / 32]);
    }
}

static void test_block_sum(test *t) {
    static double total[3][96];
    const bb_sim_counts before = bb_sim_count();
    const char *fault = run(
        [] {
            BB_SHARED(double, slots, 32);
            total[blockIdx.x][threadIdx.x] =
                bb_block_sum((double)(threadIdx.x + blockIdx.x), slots);
        },
        3, 96);
    CHECK_MSG(t, !fault, "%s", fault);
    for (int b = 0; b < 3; b++)
        for (int i = 0; i < 96; i++) CHECK_NEAR(t, total[b][i], 96 * 95 / 2 + 96 * b, 0);
    CHECK_INT(t, bb_sim_count().barriers - before.barriers, 3);
    CHECK_INT(t, bb_sim_count().threads - before.threads, 3 * 96);
}

static void test_divergent_barriers(test *t) {
    check_fault(t,
                run(
                    [] {
                        if (threadIdx.x < 32) __syncthreads();
                    },
                    1, 64),
                "divergent barrier: it ended");
    check_fault(t,
                run(
                    [] {
                        if (threadIdx.x < 32)
                            __syncthreads();
                        else
                            __syncthreads();
                    },
                    1, 64),
                "divergent barrier: it waits at line");
}

static void test_lost_lanes(test *t) {
    check_fault(t,
                run(
                    [] {
                        if (threadIdx.x != 5) bb_warp_sum(1.0f);
                    },
                    1, 32),
                "waits for a lane");
    check_fault(
        t, run([] { bb_warp_sum(threadIdx.x == 5 ? __shfl_xor_sync(1u, 1.0f, 1) : 1.0f); }, 1, 32),
        "leaves out its own lane 5");
}

/* Without the barrier some order of the threads reads what is not written yet: NaN. */
static void test_missing_barrier(test *t) {
    static float got[64];
    const char *fault = run(
        [] {
            BB_SHARED(float, values, 64);
            values[threadIdx.x] = 1;
            got[threadIdx.x] = values[63 - threadIdx.x];
        },
        1, 64);
    int poisoned = 0;
    for (int i = 0; i < 64; i++) poisoned += isnan(got[i]);
    CHECK_MSG(t, !fault, "%s", fault);
    CHECK(t, poisoned > 0);
}

static void test_shared_memory(test *t) {
#if !defined(__SANITIZE_ADDRESS__)
    check_fault(t,
                run(
                    [] {
                        BB_SHARED(int, values, 32);
                        values[32 + (int)(threadIdx.x == 0)] = 7;
                    },
                    1, 32),
                "past the end of 128 bytes of shared memory");
#endif
    check_fault(t,
                run(
                    [] {
                        BB_DYNAMIC_SHARED(int, values);
                        values[0] = 0;
                    },
                    1, 32),
                "asked for none");
    static int ok;
    const char *fault = run(
        [] {
            BB_DYNAMIC_SHARED(int, values);
            values[threadIdx.x] = (int)threadIdx.x;
            __syncthreads();
            if (threadIdx.x == 0) ok = values[31];
        },
        1, 32, 32 * sizeof(int));
    CHECK_MSG(t, !fault, "%s", fault);
    CHECK_INT(t, ok, 31);
}

static void test_limits(test *t) {
    check_fault(t, run([] {}, 1, 1025), "impossible launch");
    check_fault(t, run([] {}, dim3(1, 65536), 1), "impossible launch");
    check_fault(t, run([] {}, 1, 1, 240 << 10), "impossible launch");
}

static void test_alignment(test *t) {
    alignas(16) static float values[8];
    check_fault(t, run([] { bb_load16(values + 1); }, 1, 1), "misaligned access of 16 bytes");
}

static void test_async_copies(test *t) {
    alignas(16) static float source[4] = {1, 2, 3, 4};
    static float early, late;
    const char *fault = run(
        [] {
            BB_SHARED(float, values, 4);
            bb_async_copy16(values, source);
            bb_async_commit();
            early = values[2];
            bb_async_wait<0>();
            late = values[2];
        },
        1, 1);
    CHECK_MSG(t, !fault, "%s", fault);
    CHECK(t, isnan(early));
    CHECK_NEAR(t, late, 3, 0);
}

/* A launch is refused where a pointer among its arguments, or in one of them, is not the device's.
 */
static char refusal[256];
static bb_status keep_refusal(bb_context *, bb_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(refusal, sizeof refusal, format, arguments);
    va_end(arguments);
    return status;
}
struct holder {
    int n;
    float *inside;
    template <typename F> void each_pointer(F &f) const { f(inside); }
};
static void write_one(int n, float *to) { *to = (float)n; }
static void write_held(holder h) { *h.inside = (float)h.n; }

static void test_foreign_memory(test *t) {
    const char *why = nullptr;
    bb_host host = {};
    bb_cuda cuda = {};
    host.fail = keep_refusal;
    cuda.host = &host;
    cuda.runtime = bb_runtime_open(&cuda.info, &why);
    float *own = static_cast<float *>(bb_runtime_allocate(cuda.runtime, 64)), foreign = 0, got = 0;
    CHECK_INT(t, BB_LAUNCH(&cuda, (write_one), 1, 1, 0, 3, own), BB_OK);
    CHECK_INT(t, BB_LAUNCH(&cuda, (write_held), 1, 1, 0, (holder{4, own + 1})), BB_OK);
    CHECK(t, !bb_runtime_copy(cuda.runtime, &got, own + 1, sizeof got, BB_TO_HOST) && got == 4);
    CHECK_INT(t, BB_LAUNCH(&cuda, (write_one), 1, 1, 0, 3, &foreign), BB_ERR_DEVICE);
    CHECK_MSG(t, strstr(refusal, "argument 1 of the kernel points to memory that is not"), "%s",
              refusal);
    CHECK_INT(t, BB_LAUNCH(&cuda, (write_held), 1, 1, 0, (holder{4, &foreign})), BB_ERR_DEVICE);
    CHECK_MSG(t, strstr(refusal, "argument 0 of the kernel points to memory that is not"), "%s",
              refusal);
    CHECK_NEAR(t, foreign, 0, 0);
    bb_runtime_free(cuda.runtime, own);
    CHECK_INT(t, BB_LAUNCH(&cuda, (write_one), 1, 1, 0, 3, own), BB_ERR_DEVICE);
    bb_runtime_close(cuda.runtime);
}

/* Work can touch the blocks that it has a pointer into, and nobody any other. */
#if defined(__SANITIZE_ADDRESS__)
static void test_access(test *t) {
    bb_device_info info;
    const char *why = nullptr;
    bb_runtime *r = bb_runtime_open(&info, &why);
    char *given = static_cast<char *>(bb_runtime_allocate(r, 1024));
    char *other = static_cast<char *>(bb_runtime_allocate(r, 1024));
    {
        bb_sim_access open;
        open(given + 512);
        CHECK(t, !__asan_region_is_poisoned(given, 1024));
        CHECK(t, __asan_address_is_poisoned(other));
    }
    CHECK(t, __asan_address_is_poisoned(given) && __asan_address_is_poisoned(given + 1023));
    bb_runtime_free(r, given);
    bb_runtime_free(r, other);
    bb_runtime_close(r);
}
#endif

/* A copy beside the work runs when it is waited for, and whoever waits for too little is told. */
static void test_copies_beside(test *t) {
    bb_device_info info;
    const char *why = nullptr;
    bb_runtime *r = bb_runtime_open(&info, &why);
    char *device = static_cast<char *>(bb_runtime_allocate(r, 256)), ordinary[64] = {0};
    char *host = static_cast<char *>(bb_runtime_allocate_pinned(r, 64));
    uint64_t first, second;
    memset(host, 7, 64);
    CHECK(t, !bb_runtime_set(r, device, 1, 256));
    check_fault(t, bb_runtime_side_copy(r, host, device, 64, BB_TO_HOST), "does not wait for it");
    CHECK(t, !bb_runtime_side_begin(r));
    check_fault(t, bb_runtime_side_copy(r, ordinary, device, 64, BB_TO_HOST), "not page-locked");
    check_fault(t, bb_runtime_side_copy(r, host, device, 65, BB_TO_HOST), "not page-locked");
    check_fault(t, bb_runtime_side_copy(r, ordinary, host, 64, BB_TO_DEVICE), "not the device's");
    CHECK(t, !bb_runtime_side_copy(r, host, device, 64, BB_TO_HOST));
    CHECK(t, !bb_runtime_side_end(r, &first));
    CHECK(t, !bb_runtime_side_copy(r, device + 128, host, 64, BB_TO_DEVICE));
    CHECK(t, !bb_runtime_side_end(r, &second));
    CHECK(t, !bb_runtime_set(r, device, 2, 256)); /* before the copy, for all it knows */
    CHECK_INT(t, host[0], 7);
    CHECK(t, !bb_runtime_side_wait(r, first));
    CHECK_INT(t, host[0], 2);
    host[0] = 9;
    CHECK(t, !bb_runtime_side_wait(r, second));
    CHECK(t, !bb_runtime_copy(r, ordinary, device + 128, 2, BB_TO_HOST));
    CHECK_INT(t, ordinary[0], 9);
    CHECK_INT(t, ordinary[1], 2);
    /* In a captured step. */
    CHECK(t, !bb_runtime_capture_begin(r));
    check_fault(t, bb_runtime_side_wait(r, first), "from before the captured step");
    CHECK(t, !bb_runtime_side_begin(r));
    CHECK(t, !bb_runtime_side_copy(r, host, device, 64, BB_TO_HOST));
    CHECK(t, !bb_runtime_side_end(r, &first));
    CHECK(t, !bb_runtime_capture_end(r, &why));
    check_fault(t, why, "does not wait for the copies beside it");
    check_fault(t, bb_runtime_side_wait(r, first), "of a captured step outside of it");
    CHECK(t, !bb_runtime_capture_begin(r));
    CHECK(t, !bb_runtime_side_begin(r));
    CHECK(t, !bb_runtime_side_copy(r, host, device, 64, BB_TO_HOST));
    CHECK(t, !bb_runtime_side_end(r, &first));
    CHECK(t, !bb_runtime_set(r, device, 5, 256));
    CHECK(t, !bb_runtime_side_wait(r, first));
    void *graph = bb_runtime_capture_end(r, &why);
    CHECK_MSG(t, graph && !why, "%s", why ? why : "");
    for (int i = 0; i < 2; i++) {
        host[0] = 9;
        CHECK(t, !bb_runtime_replay(r, graph));
        CHECK_INT(t, host[0], 5);
    }
    bb_runtime_graph_free(r, graph);
    bb_runtime_free_pinned(r, host);
    bb_runtime_free(r, device);
    bb_runtime_close(r);
}

/* A failed launch leaves nothing behind that a later one would notice. */
static void test_after_a_fault(test *t) {
    check_fault(t, run([] { bb_sim_fault("on purpose %d", 1); }, 4, 64), "on purpose 1");
    test_block_sum(t);
}

static const test_row rows[] = {
    {"indices", test_indices},
    {"exchanges", test_exchanges},
    {"block_sum", test_block_sum},
    {"divergent_barriers", test_divergent_barriers},
    {"lost_lanes", test_lost_lanes},
    {"missing_barrier", test_missing_barrier},
    {"shared_memory", test_shared_memory},
    {"limits", test_limits},
    {"alignment", test_alignment},
    {"async_copies", test_async_copies},
    {"foreign_memory", test_foreign_memory},
#if defined(__SANITIZE_ADDRESS__)
    {"access", test_access},
#endif
    {"copies_beside", test_copies_beside},
    {"after_a_fault", test_after_a_fault},
};
TEST_MAIN(rows)
