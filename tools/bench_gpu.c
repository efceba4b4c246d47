/* bobbin bench gpu: the norms of an accelerator against what its memory gives.
 *
 * Each kernel stands beside a yardstick that reads and writes the same bytes and does nothing else
 * (bb_backend.bandwidth): forward a copy, backward a triad (two read, one written), addition and
 * norm two read and two written, their backward three and two. Buffers take turns, so that none is
 * in a cache when it is used again; the calls are recorded as one graph and replayed, so the host
 * costs nothing; kernel and yardstick are timed in turns, a figure is a median. Bytes are the least
 * that the work needs; the scale, statistics and partial sums are not counted.
 *
 * On a simulated device the same calls run once, at small sizes, and nothing is measured. */
#include <stdlib.h>
#include <string.h>

#include "core/impl.h"
#include "ops/table.h"
#include "tools/bench.h"
#include "tools/commands.h"

enum { CACHE_BYTES = 200 << 20 }; /* more than any last-level cache a few times over */
static const double replay_bytes =
    12e9; /* some milliseconds: waiting for them then counts little */
enum { MOST_CALLS = 1000, MOST_SETS = 64 };

/* x, dy or residual, the residual's gradient; y or dx, sum or the second dx. */
enum { READ, READ_TOO, READ_MORE, WRITE, WRITE_TOO, BUFFERS };
typedef struct buffer_set {
    bb_tensor *at[BUFFERS];
} buffer_set;

static const struct direction {
    const char *op, *name;
    int reads, writes;
    bool backward;
} directions[] = {{"RMSNormImpl", "forward", 1, 1, false},
                  {"RMSNormImpl", "backward", 2, 1, true},
                  {"AddRMSNorm", "forward", 2, 2, false},
                  {"AddRMSNorm", "backward", 3, 2, true}};

static const struct shape {
    int64_t rows, n;
    bool f32_too;
} shapes[] = {{4096, 4096, true},   {8192, 4096, false},   {16384, 8192, true},
              {32768, 1024, true},  {1048576, 128, true},  {1048576, 64, false},
              {8192, 65536, false}, {2048, 262144, false}, {65536, 768, false}},
  small[] = {{64, 64, true}, {8, 1024, false}};

/* One kernel or yardstick over all sets. */
typedef struct gpu_case {
    bb_context *ctx;
    const struct direction *d;
    const bb_op *op;
    buffer_set set[MOST_SETS];
    int sets, calls;
    bb_tensor *scale, *dscale, *rstd;
    size_t bytes; /* of a buffer */
    bool yardstick;
    bb_capture *capture;
} gpu_case;

static bb_status call_kernel(gpu_case *c, const buffer_set *s) {
    const bool add = c->op == &bb_op_add_rms_norm;
    bb_rms_norm_attrs attrs = {{1, {-1}}, 1e-5, BB_ROUND_AUTO};
    bb_tensor *in[3] = {s->at[READ], add ? s->at[READ_TOO] : c->scale, c->scale};
    const bb_kernel *kernel = &bb_find_entry(c->ctx, c->op)->kernel[BB_CUDA];
    bb_call call = {.ctx = c->ctx, .op = c->op, .attrs = &attrs, .device = BB_CUDA};
    call.in = in;
    call.n_in = add ? 3 : 2;
    call.n_out = add ? 3 : 2;
    call.needs_grad = true;
    call.out[0] = s->at[WRITE];
    call.out[1] = add ? s->at[WRITE_TOO] : c->rstd;
    if (add) call.out[2] = c->rstd;
    if (!c->d->backward) return kernel->forward(&call);
    if (add) call.out[1] = s->at[READ]; /* the sum that forward left */
    bb_tensor *grad_out[2] = {s->at[READ_TOO], s->at[READ_MORE]};
    bb_tensor *grad_in[3] = {s->at[WRITE], add ? s->at[WRITE_TOO] : c->dscale, c->dscale};
    const bool want[3] = {true, true, true};
    const bb_grad_call grad = {&call, grad_out, want, grad_in};
    return kernel->backward(&grad);
}

static bb_status call_yardstick(gpu_case *c, const buffer_set *s) {
    bb_backend *backend = c->ctx->backend[BB_CUDA];
    const void *from[3] = {s->at[READ]->data, s->at[READ_TOO]->data, s->at[READ_MORE]->data};
    void *to[2] = {s->at[WRITE]->data, s->at[WRITE_TOO]->data};
    return backend->bandwidth(backend, from, c->d->reads, to, c->d->writes, c->bytes);
}

static bb_status all_calls(void *user) {
    gpu_case *c = user;
    bb_status status = BB_OK;
    for (int i = 0; i < c->calls && !status; i++) {
        const buffer_set *s = &c->set[i % c->sets];
        status = c->yardstick ? call_yardstick(c, s) : call_kernel(c, s);
    }
    return status;
}

static void replay(void *user) { bb_capture_run(((gpu_case *)user)->capture); }

/* Random values, of the context's lifetime. */
static bb_tensor *buffer(bb_context *ctx, bb_dtype dtype, bb_shape shape) {
    bb_tensor *t = bb_keep(bb_cast(bb_rand(ctx, BB_F32, shape), dtype));
    bb_end_step(ctx);
    return t;
}

static bb_status make_case(gpu_case *c, bb_context *ctx, const struct direction *d,
                           const struct shape *shape, bb_dtype dtype, bool simulated) {
    const int64_t rows = shape->rows, n = shape->n;
    memset(c, 0, sizeof *c);
    c->ctx = ctx;
    c->d = d;
    c->op = bb_find_op(ctx, d->op);
    c->bytes = (size_t)(rows * n) * bb_dtype_bytes(dtype);
    const double call_bytes = (double)c->bytes * (d->reads + d->writes);
    c->sets = (int)(CACHE_BYTES / call_bytes) + 1;
    if (c->sets > MOST_SETS || simulated) c->sets = simulated ? 2 : MOST_SETS;
    c->calls = (int)(replay_bytes / call_bytes) + 1;
    if (c->calls > MOST_CALLS) c->calls = MOST_CALLS;
    c->calls = simulated ? 2 : (c->calls + c->sets - 1) / c->sets * c->sets;
    for (int i = 0; i < c->sets; i++)
        for (int b = 0; b < BUFFERS; b++) {
            bool unused = b < WRITE ? b >= d->reads : b - WRITE >= d->writes;
            c->set[i].at[b] = unused ? c->set[i].at[READ] : buffer(ctx, dtype, BB_SHAPE(rows, n));
            if (bb_error(ctx)) return bb_error(ctx);
        }
    c->scale = buffer(ctx, dtype, BB_SHAPE(n));
    c->dscale = buffer(ctx, dtype, BB_SHAPE(n));
    c->rstd = buffer(ctx, BB_F32, BB_SHAPE(rows, 1));
    return bb_error(ctx);
}

static void drop_case(gpu_case *c) {
    for (int i = 0; i < c->sets; i++)
        for (int b = BUFFERS - 1; b >= 0; b--)
            if (b == READ || c->set[i].at[b] != c->set[i].at[READ]) bb_drop(c->set[i].at[b]);
    bb_drop(c->scale);
    bb_drop(c->dscale);
    bb_drop(c->rstd);
}

static bb_spread per_call(bb_samples *samples, int calls) {
    bb_spread s = bb_samples_spread(samples);
    return (bb_spread){s.min / calls, s.median / calls, s.max / calls};
}

static void print_row(const bb_bench_options *o, const gpu_case *c, const struct shape *shape,
                      bb_dtype dtype, int margin, bb_spread us, bb_spread yard) {
    const double bytes = (double)c->bytes * (c->d->reads + c->d->writes);
    const double rate = bytes / us.median * 1e-3, most = bytes / yard.median * 1e-3;
    if (o->json) {
        printf("{\"what\": \"bobbin %s\", \"direction\": \"%s\", \"rows\": %lld, \"dim\": %lld, "
               "\"dtype\": \"%s\", \"device\": \"%s\", \"sm_margin\": %d, \"us\": {\"min\": %.3f, "
               "\"median\": %.3f, \"max\": %.3f}, \"gb_per_s\": %.1f, \"yardstick\": \"%dR:%dW\", "
               "\"yardstick_gb_per_s\": %.1f}\n",
               c->d->op, c->d->name, (long long)shape->rows, (long long)shape->n,
               bb_dtype_name(dtype), c->ctx->backend[BB_CUDA]->hardware, margin, us.min, us.median,
               us.max, rate, c->d->reads, c->d->writes, most);
    } else {
        printf("%-11s %-8s %7lld x %-6lld %-4s margin %-2d %9.2f us (%.2f to %.2f)  %7.1f GB/s, "
               "%5.1f %% of %dR:%dW (%.1f GB/s)\n",
               c->d->op, c->d->name, (long long)shape->rows, (long long)shape->n,
               bb_dtype_name(dtype), margin, us.median, us.min, us.max, rate, 100 * rate / most,
               c->d->reads, c->d->writes, most);
    }
    fflush(stdout);
}

static void print_note(const bb_bench_options *o, const gpu_case *c, const struct shape *shape,
                       bb_dtype dtype, const char *note) {
    printf(o->json ? "{\"what\": \"bobbin %s\", \"direction\": \"%s\", \"rows\": %lld, \"dim\": "
                     "%lld, \"dtype\": \"%s\", \"not_measured\": \"%s\"}\n"
                   : "%-11s %-8s %7lld x %-6lld %-4s not measured: %s\n",
           c->d->op, c->d->name, (long long)shape->rows, (long long)shape->n, bb_dtype_name(dtype),
           note);
}

/* Kernel and yardstick in turns; in simulation once each, untimed. */
static bb_status time_case(const bb_bench_options *o, gpu_case pair[2], const struct shape *shape,
                           bb_dtype dtype, int margin, bb_bench_case timed[2]) {
    bb_context *ctx = pair[0].ctx;
    const bool simulated = ctx->backend[BB_CUDA]->simulated;
    bb_set_sm_margin(ctx, margin);
    for (int i = 0; i < 2; i++) {
        pair[i].yardstick = i == 1;
        pair[i].capture = bb_capture_step(ctx, BB_CUDA, all_calls, &pair[i]);
        timed[i] = (bb_bench_case){.ctx = ctx, .run = replay, .user = &pair[i]};
        for (int turn = 0; turn < 3; turn++) bb_capture_run(pair[i].capture);
    }
    if (simulated)
        print_note(o, &pair[0], shape, dtype, "a simulation; the calls ran");
    else if (bb_bench_run(timed, 2, o) == BB_OK)
        print_row(o, &pair[0], shape, dtype, margin, per_call(&timed[0].us, pair[0].calls),
                  per_call(&timed[1].us, pair[1].calls));
    for (int i = 0; i < 2; i++) bb_capture_free(pair[i].capture);
    bb_set_sm_margin(ctx, 0);
    return bb_error(ctx);
}

static bb_status time_shape(bb_context *ctx, const bb_bench_options *o, const struct shape *shape,
                            bb_dtype dtype, gpu_case pair[2], bb_bench_case timed[2]) {
    static const int margins[] = {0, 8, 16, 32};
    const bool simulated = ctx->backend[BB_CUDA]->simulated;
    const bool sweep = shape->rows == 16384 && dtype == BB_BF16;
    for (size_t d = 0; d < sizeof directions / sizeof directions[0]; d++) {
        bb_status status = make_case(&pair[0], ctx, &directions[d], shape, dtype, simulated);
        pair[1] = pair[0];
        for (int m = 0; m < (sweep ? 4 : 1) && !status; m++)
            status = time_case(o, pair, shape, dtype, margins[m], timed);
        drop_case(&pair[0]);
        if (status == BB_ERR_MEMORY) {
            bb_clear_error(ctx);
            print_note(o, &pair[0], shape, dtype, "not enough memory on the device");
        } else if (status) {
            return status;
        }
    }
    return BB_OK;
}

int bb_bench_gpu(const bb_bench_options *o) {
    int code;
    if (!o->device && !o->what)
        return BB_EXIT_OK; /* of all benchmarks, those that this device has */
    if (!o->device) return bb_usage_error("bench", "gpu: expected --device cuda, got cpu");
    bb_context *ctx = bb_bench_open(o, &code);
    if (!ctx) return code;
    gpu_case *pair = malloc(2 * sizeof *pair);
    bb_bench_case *timed = malloc(2 * sizeof *timed);
    if (pair && timed && bb_set_device(ctx, BB_CUDA) == BB_OK) {
        const bool simulated = ctx->backend[BB_CUDA]->simulated;
        const struct shape *list = simulated ? small : shapes;
        const size_t count =
            simulated ? sizeof small / sizeof small[0] : sizeof shapes / sizeof shapes[0];
        for (size_t i = 0; i < count && !bb_error(ctx); i++)
            for (int f32 = 0; f32 <= list[i].f32_too && !bb_error(ctx); f32++)
                time_shape(ctx, o, &list[i], f32 ? BB_F32 : BB_BF16, pair, timed);
    } else if (!bb_error(ctx)) {
        bb_fail(ctx, BB_ERR_MEMORY, "bench: out of memory");
    }
    if (bb_error(ctx) != BB_OK) code = bb_report(ctx, "bench");
    bb_close(ctx);
    free(pair);
    free(timed);
    return code;
}
