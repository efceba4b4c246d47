/* bobbin bench op: what one call costs beside its arithmetic, by adding two single elements; and
 * bobbin bench start: how long it takes until a program can compute. */
#include <stdlib.h>

#include "tools/bench.h"
#include "tools/commands.h"
#include "tools/progress.h"

enum { CALLS = 100 }; /* a step, so that the end of a step counts little, as in real ones */

typedef struct op_case {
    bb_context *ctx;
    bb_tensor *a, *b;
} op_case;

static void add(void *user) {
    const op_case *c = user;
    bb_set_grad_enabled(c->ctx, false);
    for (int i = 0; i < CALLS; i++) bb_add(c->a, c->b);
    bb_end_step(c->ctx);
}

static void add_and_back(void *user) {
    const op_case *c = user;
    bb_set_grad_enabled(c->ctx, true);
    for (int i = 0; i < CALLS; i++) {
        bb_backward(bb_add(c->a, c->b), NULL);
        bb_zero_grad(c->a);
    }
    bb_end_step(c->ctx);
}

static void print_row(const bb_bench_options *o, const char *what, bb_spread us,
                      double allocations) {
    if (o->json) {
        printf("{\"what\": \"bobbin %s\", \"us\": {\"min\": %.4f, \"median\": %.4f, \"max\": "
               "%.4f}, \"system_allocations\": %g}\n",
               what, us.min, us.median, us.max, allocations);
    } else {
        printf("%-28s %8.3f us (%.3f to %.3f)  %g system allocations\n", what, us.median, us.min,
               us.max, allocations);
    }
}

static bb_spread scaled(bb_spread s, double by) {
    return (bb_spread){s.min * by, s.median * by, s.max * by};
}

int bb_bench_op(const bb_bench_options *o) {
    int code;
    bb_context *ctx = bb_bench_open(o, &code);
    if (!ctx) return code;
    op_case c = {ctx, NULL, NULL};
    c.a = bb_keep(bb_empty_on(ctx, bb_bench_device(o), BB_F32, BB_SHAPE(1)));
    c.b = bb_keep(bb_empty_on(ctx, bb_bench_device(o), BB_F32, BB_SHAPE(1)));
    const float one = 1;
    bb_write(c.a, &one, sizeof one);
    bb_write(c.b, &one, sizeof one);
    bb_set_requires_grad(c.a, true);
    bb_end_step(ctx);
    bb_bench_case *cases = malloc(2 * sizeof *cases);
    if (cases) {
        cases[0] = (bb_bench_case){.ctx = ctx, .run = add, .user = &c};
        cases[1] = (bb_bench_case){.ctx = ctx, .run = add_and_back, .user = &c};
        bb_bench_run(cases, 2, o);
        uint64_t before = bb_memory_stats(ctx).system_allocations;
        add(&c);
        add_and_back(&c);
        double allocations = (double)(bb_memory_stats(ctx).system_allocations - before);
        if (bb_error(ctx) == BB_OK) {
            print_row(o, "add of one element", scaled(bb_samples_spread(&cases[0].us), 1.0 / CALLS),
                      allocations);
            print_row(o, "add, with gradient, backward",
                      scaled(bb_samples_spread(&cases[1].us), 1.0 / CALLS), allocations);
        }
    }
    if (!cases) bb_fail(ctx, BB_ERR_MEMORY, "bench: out of memory");
    free(cases);
    if (bb_error(ctx) != BB_OK) code = bb_report(ctx, "bench");
    bb_close(ctx);
    return code;
}

int bb_bench_start(const bb_bench_options *o) {
    enum { TIMES = 30 };
    bb_samples *samples = malloc(sizeof *samples);
    if (!samples) return BB_EXIT_SYSTEM;
    samples->count = 0;
    int code = BB_EXIT_OK;
    double first = 0;
    for (int i = 0; i < TIMES && code == BB_EXIT_OK; i++) {
        double begin = bb_seconds();
        bb_context *ctx = bb_bench_open(o, &code);
        if (!ctx) break;
        bb_tensor *two = bb_add(bb_scalar(ctx, BB_F32, 1), bb_scalar(ctx, BB_F32, 1));
        if (bb_item(two) != 2) code = bb_report(ctx, "bench");
        if (i == 0) first = (bb_seconds() - o->begin) * 1e6;
        samples->at[samples->count++] = (bb_seconds() - begin) * 1e6;
        bb_close(ctx);
    }
    if (code == BB_EXIT_OK) {
        print_row(o, "from start to 1 + 1 = 2", (bb_spread){first, first, first}, 0);
        print_row(o, "another context, 1 + 1 = 2", bb_samples_spread(samples), 0);
    }
    free(samples);
    return code;
}
