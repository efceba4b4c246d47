/* bobbin bench rms_norm: RMSNormImpl, fused and composed, forward and forward + backward. GB/s at
 * the median count the least bytes that the work needs: forward reads x and writes y; backward
 * reads x and dy and writes dx. */
#include <stdlib.h>

#include "tools/bench.h"
#include "tools/commands.h"
#include "tools/device.h"

static const int64_t shapes[][2] = {{1, 64},    {16, 128},    {128, 768},  {512, 768},
                                    {8192, 64}, {2048, 4096}, {8192, 1024}};
static const double epsilon = 1e-5;

typedef struct norm_case {
    bb_context *ctx;
    bb_tensor *x, *scale, *cotangent;
    bb_path path;
    bool backward;
} norm_case;

static void run(void *user) {
    norm_case *c = user;
    bb_set_path(c->ctx, c->path);
    bb_set_grad_enabled(c->ctx, c->backward);
    bb_tensor *y = bb_rms_norm(c->x, c->scale, epsilon);
    if (c->backward) {
        bb_backward(y, c->cotangent);
        bb_zero_grad(c->x);
        bb_zero_grad(c->scale);
    }
    bb_end_step(c->ctx);
}

enum { FORMS = 4 };
static const struct form {
    const char *name, *direction;
    bb_path path;
    bool backward;
} forms[FORMS] = {{"fused", "fwd", BB_PATH_FUSED, false},
                  {"composed", "fwd", BB_PATH_COMPOSED, false},
                  {"fused", "fwd+bwd", BB_PATH_FUSED, true},
                  {"composed", "fwd+bwd", BB_PATH_COMPOSED, true}};

static void print_row(const bb_bench_options *o, const struct form *form, const int64_t *shape,
                      bb_dtype dtype, bb_spread us) {
    double bytes =
        (double)(shape[0] * shape[1]) * (double)bb_dtype_bytes(dtype) * (form->backward ? 5 : 2);
    double rate = bytes / us.median * 1e-3;
    if (o->json) {
        printf("{\"what\": \"bobbin %s\", \"direction\": \"%s\", \"rows\": %lld, \"dim\": %lld, "
               "\"dtype\": \"%s\", \"device\": \"%s\", "
               "\"threads\": %d, \"us\": {\"min\": %.3f, \"median\": %.3f, \"max\": %.3f}, "
               "\"gb_per_s\": %.3f}\n",
               form->name, form->direction, (long long)shape[0], (long long)shape[1],
               dtype == BB_F32 ? "float32" : "bfloat16", bb_device_word(o->device),
               bb_threads_used(o), us.min, us.median, us.max, rate);
    } else {
        printf("rms_norm %5lld x %-5lld %-4s %-8s %-7s %10.2f us (%.2f to %.2f)  %.2f GB/s\n",
               (long long)shape[0], (long long)shape[1], bb_dtype_name(dtype), form->name,
               form->direction, us.median, us.min, us.max, rate);
    }
    fflush(stdout);
}

static bb_status time_shape(bb_context *ctx, const bb_bench_options *o, const int64_t *shape,
                            bb_dtype dtype, bb_bench_case *cases) {
    bb_device device = bb_bench_device(o);
    bb_shape rows = BB_SHAPE(shape[0], shape[1]), row = BB_SHAPE(shape[1]);
    norm_case norm = {.ctx = ctx,
                      .x = bb_bench_tensor(ctx, device, dtype, rows),
                      .scale = bb_bench_tensor(ctx, device, dtype, row),
                      .cotangent = bb_bench_tensor(ctx, device, dtype, rows)},
              each[FORMS];
    bb_set_requires_grad(norm.x, true);
    bb_set_requires_grad(norm.scale, true);
    for (int i = 0; i < FORMS; i++) {
        each[i] = norm;
        each[i].path = forms[i].path;
        each[i].backward = forms[i].backward;
        cases[i] = (bb_bench_case){.ctx = ctx, .run = run, .user = &each[i]};
    }
    if (bb_bench_run(cases, FORMS, o) != BB_OK) return bb_error(ctx);
    for (int i = 0; i < FORMS; i++)
        print_row(o, &forms[i], shape, dtype, bb_samples_spread(&cases[i].us));
    return BB_OK;
}

int bb_bench_rms_norm(const bb_bench_options *o) {
    static const bb_dtype dtypes[] = {BB_F32, BB_BF16};
    bb_bench_case *cases = malloc(FORMS * sizeof *cases);
    int code = cases ? BB_EXIT_OK : BB_EXIT_SYSTEM;
    for (size_t i = 0; code == BB_EXIT_OK && i < sizeof shapes / sizeof shapes[0]; i++) {
        for (int d = 0; code == BB_EXIT_OK && d < 2; d++) {
            bb_context *ctx =
                bb_bench_open(o, &code); /* its own, so that no shape pays for another's memory */
            if (!ctx) break;
            if (time_shape(ctx, o, shapes[i], dtypes[d], cases) != BB_OK)
                code = bb_report(ctx, "bench");
            bb_close(ctx);
        }
    }
    free(cases);
    return code;
}
