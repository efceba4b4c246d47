/* bobbin bench quantize: the norm in front of a linear layer and the quantizing that follows it, as
 * the one op RMSNormQuantize and as RMSNormImpl and Quantize; from bf16, rows only, as inference
 * and the forward half of training do it. */
#include <stdio.h>

#include "tools/bench.h"
#include "tools/commands.h"
#include "tools/device.h"

static const int64_t shapes[][2] = {{512, 1024}, {2048, 4096}, {8192, 4096}};
static const char *const recipes[BB_RECIPE_COUNT] = {"fp8_delayed", "fp8_current", "mxfp8",
                                                     "fp8_block", "nvfp4"};

typedef struct quantize_case {
    bb_context *ctx;
    bb_tensor *x, *weight, *scale;
    bb_rms_norm_quantize_attrs attrs;
    bool one;
} quantize_case;

static void run(void *user) {
    quantize_case *c = user;
    bb_quantized_parts parts;
    bb_tensor *rstd, *scale = c->attrs.quantize.recipe == BB_FP8_DELAYED ? c->scale : NULL;
    const bb_rms_norm_attrs norm = {{1, {-1}}, c->attrs.eps, BB_SCALE_THEN_ROUND};
    if (c->one)
        bb_rms_norm_quantize_parts(c->x, c->weight, scale, &c->attrs, &parts, &rstd);
    else
        bb_quantize_parts(bb_rms_norm_with(c->x, c->weight, &norm), scale, &c->attrs.quantize,
                          &parts);
    bb_end_step(c->ctx);
}

/* A scale as delayed scaling would keep it: brings products of two normal numbers close below 448,
 * but not over it. */
static bb_tensor *in_range(bb_context *ctx, bb_device device) {
    const float scale = 16;
    bb_tensor *t = bb_bench_tensor(ctx, device, BB_F32, BB_SHAPE(1));
    if (t) bb_write(t, &scale, sizeof scale);
    return t;
}

enum { FORMS = 2 };
static const char *const forms[FORMS] = {"one op", "two ops"};

static void print_row(const bb_bench_options *o, int recipe, int form, const int64_t *shape,
                      bb_spread us) {
    const long long rows = (long long)shape[0], dim = (long long)shape[1];
    if (o->json)
        printf("{\"what\": \"quantize %s %s\", \"rows\": %lld, \"dim\": %lld, \"dtype\": "
               "\"bfloat16\", \"device\": \"%s\", \"threads\": %d, "
               "\"us\": {\"min\": %.3f, \"median\": %.3f, \"max\": %.3f}}\n",
               recipes[recipe], forms[form], rows, dim, bb_device_word(o->device),
               bb_threads_used(o), us.min, us.median, us.max);
    else
        printf("quantize %5lld x %-5lld %-11s %-7s %10.2f us (%.2f to %.2f)\n", rows, dim,
               recipes[recipe], forms[form], us.median, us.min, us.max);
    fflush(stdout);
}

static bb_status time_shape(bb_context *ctx, const bb_bench_options *o, const int64_t *shape) {
    static bb_bench_case cases[FORMS * BB_RECIPE_COUNT];
    quantize_case each[FORMS * BB_RECIPE_COUNT];
    bb_device device = bb_bench_device(o);
    const quantize_case common = {
        .ctx = ctx,
        .x = bb_bench_tensor(ctx, device, BB_BF16, BB_SHAPE(shape[0], shape[1])),
        .weight = bb_bench_tensor(ctx, device, BB_F32, BB_SHAPE(shape[1])),
        .scale = in_range(ctx, device),
        .attrs = {{.rows = true}, 1e-5}};
    for (int i = 0; i < FORMS * BB_RECIPE_COUNT; i++) {
        each[i] = common;
        each[i].one = i % FORMS == 0;
        each[i].attrs.quantize.recipe = i / FORMS;
        cases[i] = (bb_bench_case){.ctx = ctx, .run = run, .user = &each[i]};
    }
    if (bb_bench_run(cases, FORMS * BB_RECIPE_COUNT, o)) return bb_error(ctx);
    for (int i = 0; i < FORMS * BB_RECIPE_COUNT; i++)
        print_row(o, i / FORMS, i % FORMS, shape, bb_samples_spread(&cases[i].us));
    return BB_OK;
}

int bb_bench_quantize(const bb_bench_options *o) {
    int code = BB_EXIT_OK;
    for (size_t i = 0; code == BB_EXIT_OK && i < sizeof shapes / sizeof shapes[0]; i++) {
        bb_context *ctx = bb_bench_open(o, &code);
        if (!ctx) break;
        if (time_shape(ctx, o, shapes[i])) code = bb_report(ctx, "bench");
        bb_close(ctx);
    }
    return code;
}
