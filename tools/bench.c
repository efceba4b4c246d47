/* Timing in interleaved rounds. See tools/bench.h. */
#include "tools/bench.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "tools/commands.h"
#include "tools/progress.h"
#include "tools/device.h"

static const double sample_seconds = 200e-6;

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bb_spread bb_samples_spread(bb_samples *s) {
    if (s->count == 0) return (bb_spread){NAN, NAN, NAN};
    qsort(s->at, (size_t)s->count, sizeof s->at[0], ascending);
    return (bb_spread){s->at[0], s->at[s->count / 2], s->at[s->count - 1]};
}

/* Waits for an accelerator: an element read back comes after all that was asked of it before. */
static void wait_for(bb_context *ctx, bb_device device) {
    if (device == BB_CPU) return;
    float value;
    bb_tensor *one = bb_empty_on(ctx, device, BB_F32, BB_SHAPE(1));
    bb_read(one, &value, sizeof value);
    bb_end_step(ctx);
}

static double timed(const bb_bench_case *c, int64_t repeat, bb_device device) {
    double begin = bb_seconds();
    for (int64_t i = 0; i < repeat; i++) c->run(c->user);
    wait_for(c->ctx, device);
    return (bb_seconds() - begin) / (double)repeat;
}

bb_status bb_bench_run(bb_bench_case *cases, int count, const bb_bench_options *o) {
    bb_device device = bb_bench_device(o);
    for (int i = 0; i < count; i++) {
        timed(&cases[i], 2, device);
        cases[i].repeat =
            (int64_t)fmax(1, sample_seconds / fmax(timed(&cases[i], 1, device), 1e-8));
        cases[i].us.count = 0;
    }
    for (int64_t round = 0; round < o->rounds; round++) {
        for (int i = 0; i < count; i++) {
            bb_bench_case *c = &cases[i];
            double end = bb_seconds() + o->budget / (double)o->rounds;
            do {
                double us = timed(c, c->repeat, device) * 1e6;
                if (c->us.count < BB_BENCH_SAMPLES) c->us.at[c->us.count++] = us;
            } while (bb_seconds() < end);
            if (bb_error(c->ctx) != BB_OK) return bb_error(c->ctx);
        }
    }
    return BB_OK;
}

bb_device bb_bench_device(const bb_bench_options *o) { return o->device ? BB_CUDA : BB_CPU; }

int bb_threads_used(const bb_bench_options *o) {
    return o->threads ? (int)o->threads : omp_get_max_threads();
}

bb_context *bb_bench_open(const bb_bench_options *o, int *code) {
    const bb_options open = {.threads = (int)o->threads};
    bb_context *ctx = bb_open(&open);
    *code = BB_EXIT_OK;
    if (ctx) bb_choose_device(ctx, o->device);
    if (ctx && bb_error(ctx) == BB_OK) return ctx;
    *code = bb_report(ctx, "bench");
    bb_close(ctx);
    return NULL;
}

bb_tensor *bb_bench_tensor(bb_context *ctx, bb_device device, bb_dtype dtype, bb_shape shape) {
    int64_t count = 1;
    bb_shape_count(&shape, &count);
    bb_tensor *values = bb_cast(bb_randn(ctx, BB_F32, shape), dtype), *t = values;
    if (device != BB_CPU) {
        t = bb_empty_on(ctx, device, dtype, shape);
        if (values) bb_write(t, bb_data(values), (size_t)count * bb_dtype_bytes(dtype));
    }
    t = bb_keep(t);
    bb_end_step(ctx);
    return t;
}
