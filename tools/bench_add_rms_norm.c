/* bobbin bench add_rms_norm: a residual add and the norm that follows it, as the one op AddRMSNorm
 * and as two fused ops, forward and forward + backward. */
#include <stdio.h>

#include "tools/bench.h"
#include "tools/commands.h"
#include "tools/device.h"

static const int64_t shapes[][2] = {{512, 768}, {2048, 1024}, {2048, 4096}};

typedef struct pair_case {
    bb_context *ctx;
    bb_tensor *x, *residual, *scale, *cotangent;
    bool one, backward;
} pair_case;

/* Both results are used, as in a transformer: the normalized one by a layer, the sum past it. Here
 * an addition, which both forms do alike, stands for the layer. */
static void run(void *user) {
    pair_case *c = user;
    bb_tensor *sum = NULL, *y = NULL;
    bb_set_grad_enabled(c->ctx, c->backward);
    if (c->one) {
        y = bb_add_rms_norm(c->x, c->residual, c->scale, 1e-5, &sum);
    } else {
        sum = bb_add(c->x, c->residual);
        y = bb_rms_norm(sum, c->scale, 1e-5);
    }
    if (c->backward) {
        bb_backward(bb_add(y, sum), c->cotangent);
        bb_zero_grad(c->x);
        bb_zero_grad(c->residual);
        bb_zero_grad(c->scale);
    }
    bb_end_step(c->ctx);
}

enum { FORMS = 4 };
static const struct form {
    const char *name, *direction;
    bool one, backward;
} forms[FORMS] = {{"one op", "fwd", true, false},
                  {"two ops", "fwd", false, false},
                  {"one op", "fwd+bwd", true, true},
                  {"two ops", "fwd+bwd", false, true}};

static void print_row(const bb_bench_options *o, const struct form *form, const int64_t *shape,
                      bb_dtype dtype, bb_spread us) {
    const long long rows = (long long)shape[0], dim = (long long)shape[1];
    if (o->json)
        printf("{\"what\": \"add_rms_norm %s\", \"direction\": \"%s\", \"rows\": %lld, \"dim\": "
               "%lld, \"dtype\": \"%s\", \"device\": \"%s\", \"threads\": %d, "
               "\"us\": {\"min\": %.3f, \"median\": %.3f, \"max\": %.3f}}\n",
               form->name, form->direction, rows, dim, dtype == BB_F32 ? "float32" : "bfloat16",
               bb_device_word(o->device), bb_threads_used(o), us.min, us.median, us.max);
    else
        printf("add_rms_norm %5lld x %-5lld %-4s %-7s %-7s %10.2f us (%.2f to %.2f)\n", rows, dim,
               bb_dtype_name(dtype), form->name, form->direction, us.median, us.min, us.max);
    fflush(stdout);
}

static bb_tensor *leaf(bb_context *ctx, const bb_bench_options *o, bb_dtype dtype, bb_shape shape) {
    return bb_set_requires_grad(bb_bench_tensor(ctx, bb_bench_device(o), dtype, shape), true);
}

static bb_status time_shape(bb_context *ctx, const bb_bench_options *o, const int64_t *shape,
                            bb_dtype dtype) {
    static bb_bench_case cases[FORMS];
    bb_shape rows = BB_SHAPE(shape[0], shape[1]);
    pair_case each[FORMS],
        common = {.ctx = ctx,
                  .x = leaf(ctx, o, dtype, rows),
                  .residual = leaf(ctx, o, dtype, rows),
                  .scale = leaf(ctx, o, dtype, BB_SHAPE(shape[1])),
                  .cotangent = bb_bench_tensor(ctx, bb_bench_device(o), dtype, rows)};
    for (int i = 0; i < FORMS; i++) {
        each[i] = common;
        each[i].one = forms[i].one;
        each[i].backward = forms[i].backward;
        cases[i] = (bb_bench_case){.ctx = ctx, .run = run, .user = &each[i]};
    }
    if (bb_bench_run(cases, FORMS, o)) return bb_error(ctx);
    for (int i = 0; i < FORMS; i++)
        print_row(o, &forms[i], shape, dtype, bb_samples_spread(&cases[i].us));
    return BB_OK;
}

int bb_bench_add_rms_norm(const bb_bench_options *o) {
    static const bb_dtype dtypes[] = {BB_F32, BB_BF16};
    int code = BB_EXIT_OK;
    for (size_t i = 0; code == BB_EXIT_OK && i < 2 * sizeof shapes / sizeof shapes[0]; i++) {
        bb_context *ctx = bb_bench_open(o, &code);
        if (!ctx) break;
        if (time_shape(ctx, o, shapes[i / 2], dtypes[i % 2])) code = bb_report(ctx, "bench");
        bb_close(ctx);
    }
    return code;
}
