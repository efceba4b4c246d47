/* What the parts of `bobbin bench` share: timing in interleaved rounds, and rows that read well or
 * as JSON. Machines change speed from second to second, so cases that are to be compared are timed
 * in turns, and a figure is a median with the fastest and the slowest sample beside it. */
#ifndef BOBBIN_TOOLS_BENCH_H
#define BOBBIN_TOOLS_BENCH_H

#include "bobbin.h"

typedef struct bb_bench_options {
    const char *what, *model;
    int64_t steps, rounds, threads;
    double budget; /* seconds a case, over all rounds */
    int device, dtype;
    bool json;
    double begin; /* when the program began */
} bb_bench_options;

enum { BB_BENCH_SAMPLES = 4000 };
typedef struct bb_samples {
    double at[BB_BENCH_SAMPLES];
    int count;
} bb_samples;
typedef struct bb_spread {
    double min, median, max;
} bb_spread;
bb_spread bb_samples_spread(bb_samples *samples); /* sorts them; NaN if there is none */

/* One thing to time. run does it once; a sample is the mean of as many runs as fill 200 us. */
typedef struct bb_bench_case {
    bb_context *ctx;
    void (*run)(void *user);
    void *user;
    bb_samples us;
    int64_t repeat;
} bb_bench_case;

/* Times all cases in turns. The context's first error ends it. */
bb_status bb_bench_run(bb_bench_case *cases, int count, const bb_bench_options *options);

/* Opens a context as the flags say; NULL with a line printed and *code set. */
bb_context *bb_bench_open(const bb_bench_options *options, int *code);
bb_device bb_bench_device(const bb_bench_options *options);
int bb_threads_used(const bb_bench_options *options);

/* A context tensor on device, from a normal distribution. */
bb_tensor *bb_bench_tensor(bb_context *ctx, bb_device device, bb_dtype dtype, bb_shape shape);

/* The benchmarks, each one an entry of cmd_bench.c's table. They return an exit code. */
int bb_bench_rms_norm(const bb_bench_options *options);
int bb_bench_add_rms_norm(const bb_bench_options *options);
int bb_bench_gpu(const bb_bench_options *options);
int bb_bench_train(const bb_bench_options *options);
int bb_bench_op(const bb_bench_options *options);
int bb_bench_start(const bb_bench_options *options);

#endif
