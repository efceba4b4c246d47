/* autograd/offload.c: what a segment saves goes to the host and comes back, with the bits of a run
 * without and less device memory. On the CPU it does nothing, and says so. In the simulation the
 * copies run as late as they may, so a missing wait shows as other bits. */
#include "core/impl.h"
#include "tests/support/alloc.h"

static bool can_offload(bb_context *ctx) {
    return bb_offload_available(ctx, bb_get_device(ctx), NULL);
}

/* ---- A transformer, with and without --------------------------------------------------------- */

typedef struct setup {
    int64_t blocks, min_elements, layers; /* layers 0: 6 */
    bool recompute, captured, retain;
    bb_path path;
    bb_dtype dtype;
    int steps;
} setup;
typedef struct outcome {
    double loss[8];
    float *values; /* all parameters after the last step, then its gradients */
    size_t bytes;
    bb_memory memory;
    bb_offload_report report;
    uint64_t late_allocations; /* of the system, after the second step */
} outcome;
typedef struct run {
    const setup *how;
    bb_nn_transformer *model;
    bb_adamw *optimizer;
    bb_tensor *ids, *targets, *loss;
} run;

enum { B = 2, T = 32 };
static const bb_nn_config config = {.vocab = 32,
                                    .dim = 16,
                                    .layers = 6,
                                    .heads = 2,
                                    .kv_heads = 1,
                                    .hidden = 32,
                                    .max_seq = T,
                                    .dtype = BB_F32};

static bb_status step(void *user) {
    run *r = user;
    bb_tensor *loss = bb_nn_transformer_loss(r->model, r->ids, r->targets);
    bb_params_zero_grad(r->model->params);
    if (r->how->retain) {
        bb_backward_retain(loss, NULL);
        bb_params_zero_grad(r->model->params);
    }
    bb_backward(loss, NULL);
    bb_adamw_apply(r->optimizer);
    return bb_assign(r->loss, loss);
}

static void write_batch(run *r, int number) {
    int32_t ids[B * T], targets[B * T];
    for (int i = 0; i < B * T; i++) {
        ids[i] = (i * 7 + number * 5 + i * i) % 32;
        targets[i] = (i * 3 + number) % 32;
    }
    bb_write(r->ids, ids, sizeof ids);
    bb_write(r->targets, targets, sizeof targets);
    bb_adamw_set_lr(r->optimizer, 1e-3);
}

static void train(test *t, const setup *how, outcome *o) {
    bb_context *ctx = test_open();
    bb_nn_config c = config;
    run r = {.how = how};
    *o = (outcome){.bytes = 0};
    c.dtype = how->dtype;
    if (how->layers) c.layers = how->layers;
    bb_set_path(ctx, how->path);
    r.model = bb_nn_transformer_new(ctx, bb_get_device(ctx), &c);
    r.model->recompute = how->recompute;
    r.model->offload_blocks = how->blocks;
    r.model->offload_min_elements = how->min_elements;
    r.optimizer = bb_adamw_new(r.model->params, NULL);
    r.ids = bb_keep(bb_zeros(ctx, BB_I32, BB_SHAPE(B, T)));
    r.targets = bb_keep(bb_zeros(ctx, BB_I32, BB_SHAPE(B, T)));
    r.loss = bb_keep(bb_zeros(ctx, c.dtype, BB_SCALAR));
    bb_end_step(ctx);
    bb_capture *capture = how->captured ? bb_capture_step(ctx, bb_get_device(ctx), step, &r) : NULL;
    for (int i = 0; i < how->steps; i++) {
        write_batch(&r, i);
        if (capture) {
            bb_capture_run(capture);
        } else {
            step(&r);
            bb_end_step(ctx);
        }
        o->loss[i] = bb_item(r.loss);
        if (i == 1) o->late_allocations = bb_memory_stats(ctx).system_allocations;
    }
    CHECK_OK(t, ctx);
    o->late_allocations = bb_memory_stats(ctx).system_allocations - o->late_allocations;
    bb_tensor *all[] = {bb_params_values(r.model->params), bb_params_grads(r.model->params)};
    size_t half = (size_t)bb_count(all[0]) * bb_dtype_bytes(c.dtype);
    o->bytes = 2 * half;
    o->values = malloc(o->bytes);
    for (int k = 0; k < 2; k++) bb_read(all[k], (char *)o->values + (size_t)k * half, half);
    CHECK_OK(t, ctx);
    o->memory = bb_memory_stats(ctx);
    o->report = bb_offload_stats(ctx);
    bb_close(ctx);
}

/* The same bits; the outcome of the run with offloading is left in *with. */
static void compare(test *t, const char *what, const setup *how, outcome *without, outcome *with) {
    setup plain = *how;
    plain.blocks = 0;
    train(t, &plain, without);
    train(t, how, with);
    CHECK_MSG(t,
              with->bytes == without->bytes && with->bytes > 0 &&
                  memcmp(with->values, without->values, with->bytes) == 0,
              "%s: other parameters or gradients", what);
    CHECK_MSG(t, memcmp(with->loss, without->loss, sizeof with->loss) == 0, "%s: other losses",
              what);
    CHECK(t, isfinite(with->loss[how->steps - 1]) &&
                 (how->dtype == BB_BF16 || with->loss[0] != with->loss[how->steps - 1]));
    free(without->values);
    free(with->values);
}

static void test_same_bits(test *t) {
    static const struct {
        const char *name;
        setup how;
    } rows[] = {
        {"all but the last", {.blocks = 5, .min_elements = 1, .dtype = BB_F32, .steps = 3}},
        {"all", {.blocks = 6, .min_elements = 1, .dtype = BB_F32, .steps = 3}},
        {"one", {.blocks = 1, .min_elements = 1, .dtype = BB_F32, .steps = 3}},
        {"large ones", {.blocks = 5, .min_elements = B * T * 32, .dtype = BB_F32, .steps = 3}},
        {"bf16", {.blocks = 5, .min_elements = 1, .dtype = BB_BF16, .steps = 3}},
        {"recompute",
         {.blocks = 5, .min_elements = 1, .recompute = true, .dtype = BB_F32, .steps = 3}},
        {"retain", {.blocks = 5, .min_elements = 1, .retain = true, .dtype = BB_F32, .steps = 2}},
        {"composed",
         {.blocks = 5, .min_elements = 1, .path = BB_PATH_COMPOSED, .dtype = BB_F32, .steps = 2}},
        {"captured",
         {.blocks = 5, .min_elements = 1, .captured = true, .dtype = BB_F32, .steps = 6}},
        {"captured, a single segment", /* whose copies nothing waits for but the end of the step */
         {.blocks = 1,
          .layers = 1,
          .min_elements = 1,
          .captured = true,
          .dtype = BB_F32,
          .steps = 4}},
        {"captured, all",
         {.blocks = 6, .min_elements = 1, .captured = true, .dtype = BB_F32, .steps = 6}},
    };
    bb_context *ctx = test_open();
    bool can = can_offload(ctx);
    bb_close(ctx);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        outcome without, with;
        compare(t, rows[i].name, &rows[i].how, &without, &with);
        bool back = can && rows[i].how.layers != 1;
        CHECK_MSG(t, (with.report.storages > 0) == can && (with.report.to_device > 0) == back,
                  "%s: %lld storages went, %zu bytes came back", rows[i].name,
                  (long long)with.report.storages, with.report.to_device);
        CHECK_INT(t, without.report.storages, 0);
        /* A steady step asks the system for nothing: its blocks and page-locked memory are pooled.
         */
        if (!rows[i].how.captured) CHECK_INT(t, with.late_allocations, without.late_allocations);
    }
}

/* Peak device memory: that of the step, since the model itself is small against it. */
static void test_memory(test *t) {
    static const setup how = {.blocks = 5, .min_elements = 256, .dtype = BB_F32, .steps = 2};
    outcome without, with;
    compare(t, "memory", &how, &without, &with);
    bb_context *ctx = test_open();
    bool can = can_offload(ctx);
    bb_close(ctx);
    if (!can) { /* the CPU: the same memory, and nothing is reported as moved */
        CHECK_INT(t, with.memory.accelerator_peak, 0);
        CHECK_INT(t, with.report.values + (int64_t)with.report.pinned, 0);
        return;
    }
    size_t a = without.memory.accelerator_peak, b = with.memory.accelerator_peak;
    if (getenv("BOBBIN_SHOW"))
        printf("peak device memory %zu bytes, with offloading %zu; %lld values in %lld storages, "
               "%zu bytes to the host, %zu back, %zu page-locked\n",
               a, b, (long long)with.report.values, (long long)with.report.storages,
               with.report.to_host, with.report.to_device, with.report.pinned);
    CHECK_MSG(t, a - b >= with.report.pinned / 2 && b < a,
              "peak %zu bytes, with offloading %zu, while %zu went to the host", a, b,
              with.report.pinned);
    CHECK_INT(t, with.report.to_host, with.report.to_device);
    CHECK_INT(t, with.report.to_host, 2 * with.report.pinned); /* of two equal steps */
    CHECK(t, with.report.values > with.report.storages); /* queries and keys are one storage */
}

/* ---- What goes and what stays ---------------------------------------------------------------- */

static void test_what_goes(test *t) {
    bb_context *ctx = test_open();
    bool can = can_offload(ctx);
    bb_tensor *w = bb_set_requires_grad(bb_keep(bb_full(ctx, BB_F32, BB_SHAPE(512, 512), 1)), true);
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(512, 512), 1), true);
    CHECK_INT(t, bb_offload_begin(ctx, NULL), BB_OK);
    bb_tensor *h = bb_mul_scalar(x, 2);   /* saves nothing */
    bb_tensor *a = bb_mul(h, w);          /* h goes; w is a parameter */
    bb_square(bb_transpose(h, 0, 1));     /* h has gone */
    bb_mul(a, bb_transpose(w, 0, 1));     /* a goes; a view of a parameter stays */
    bb_square(x);                         /* a leaf stays */
    bb_square(bb_slice(h, 0, 0, 511, 1)); /* too few elements */
    CHECK_INT(t, bb_offload_stats(ctx).values, can ? 3 : 0);
    CHECK_INT(t, bb_offload_stats(ctx).storages, can ? 2 : 0);
    CHECK_INT(t, bb_offload_stats(ctx).to_host, can ? 2 * 512 * 512 * 4 : 0);
    CHECK_INT(t, bb_offload_end(ctx), BB_OK);
    bb_square(a); /* after the segment */
    CHECK_INT(t, bb_offload_stats(ctx).values, can ? 3 : 0);
    /* A step that ends before backward; a segment that is open across it. */
    bb_end_step(ctx);
    CHECK_INT(t, bb_offload_begin(ctx, NULL), BB_OK);
    bb_end_step(ctx);
    h = bb_mul_scalar(w, 2);
    a = bb_square(h);
    CHECK_INT(t, bb_backward(a, bb_ones_like(a)), BB_OK);
    CHECK_INT(t, bb_offload_end(ctx), BB_OK);
    CHECK_NEAR(t, bb_item(bb_select(bb_select(bb_grad(w), 0, 511), 0, 511)), 8, 0);
    CHECK_INT(t, bb_offload_stats(ctx).storages, can ? 3 : 0);
    CHECK_INT(t, bb_offload_stats(ctx).to_device, 0); /* it was still there */
    CHECK_INT(t, bb_offload_stats(ctx).pinned, can ? 2 * 512 * 512 * 4 : 0);
    bb_end_step(ctx);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* An op that does nothing but look at how much has come back when the walk passes it. */
static size_t seen[8];
static int n_seen;
static bb_status look(const bb_grad_call *grad) {
    seen[n_seen++] = bb_offload_stats(grad->call->ctx).to_device;
    grad->grad_in[0] = grad->grad_out[0];
    return BB_OK;
}
static bb_status same_infer(bb_call *call) {
    call->meta[0] = (bb_meta){bb_dtype_of(call->in[0]), bb_shape_of(call->in[0])};
    return BB_OK;
}
static bb_status same_view(bb_call *call) {
    call->out[0] = bb_reshape(call->in[0], bb_shape_of(call->in[0]));
    return bb_error(call->ctx);
}
static const bb_op looking = {.name = "looking",
                              .doc = "x",
                              .inputs = {"x"},
                              .outputs = {"y"},
                              .infer = same_infer,
                              .view = same_view,
                              .gradient = look};

/* While a walk is in one segment, the one before it is on its way, and no other. */
static void test_one_ahead(test *t) {
    bb_context *ctx = test_open();
    bool can = can_offload(ctx);
    bb_register_op(ctx, &looking);
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(32, 32), 1), true);
    bb_tensor *h = bb_mul_scalar(x, 1);
    for (int i = 0; i < 4; i++) {
        h = bb_apply1(ctx, &looking, &h, 1, NULL);
        bb_offload_begin(ctx, &(bb_offload_options){1});
        h = bb_square(bb_mul_scalar(h, 1));
        bb_offload_end(ctx);
    }
    bb_offload_settle(ctx);
    h = bb_apply1(ctx, &looking, &h, 1, NULL);
    n_seen = 0;
    bb_backward(h, bb_ones_like(h));
    const size_t bytes = can ? 32 * 32 * 4 : 0, back[] = {0, 2, 3, 4, 4};
    CHECK_INT(t, n_seen, 5);
    for (int i = 0; i < 5; i++) CHECK_INT(t, seen[i], back[i] * bytes);
    CHECK_NEAR(t, bb_item(bb_select(bb_select(bb_grad(x), 0, 31), 0, 31)), 16, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_available(test *t) {
    bb_context *ctx = test_open();
    const char *why = "";
    CHECK(t, !bb_offload_available(ctx, BB_CPU, &why));
    CHECK_TEXT(t, why, "the memory of the cpu is the host's own: nothing is offloaded");
    CHECK(t, !bb_offload_available(ctx, (bb_device)7, &why));
    CHECK_TEXT(t, why, "no such device");
    if (bb_get_device(ctx) != BB_CPU) {
        CHECK(t, bb_offload_available(ctx, bb_get_device(ctx), &why));
        CHECK(t, !why);
    }
    bb_close(ctx);
}

/* ---- Wrong use, and values that change ------------------------------------------------------- */

static bb_status pack_nothing(void *user, bb_tensor *value, void **packed) {
    (void)user, (void)value, (void)packed;
    return BB_OK;
}
static bb_tensor *unpack_nothing(void *user, void *packed) {
    (void)user, (void)packed;
    return NULL;
}

static void test_wrong_use(test *t) {
    bb_context *ctx = test_open();
    CHECK_INT(t, bb_offload_begin(NULL, NULL), BB_ERR_ARGUMENT);
    CHECK_INT(t, bb_offload_end(NULL), BB_ERR_ARGUMENT);
    CHECK_INT(t, bb_offload_end(ctx), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_offload_end: expected an open segment, got none");
    CHECK_INT(t, bb_offload_begin(ctx, &(bb_offload_options){-1}), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "bb_offload_begin: min_elements: expected 0 or more, got -1");
    CHECK_INT(t, bb_offload_begin(ctx, NULL), BB_OK);
    CHECK_INT(t, bb_offload_begin(ctx, NULL), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "expected no open segment, got one inside another");
    const bb_saved_hooks others = {pack_nothing, unpack_nothing, NULL, NULL};
    bb_saved_hooks_push(ctx, &others);
    if (can_offload(ctx)) {
        CHECK_INT(t, bb_offload_end(ctx), BB_ERR_STATE);
        CHECK_ERROR(t, ctx, BB_ERR_STATE, "got others that were pushed since");
    }
    bb_saved_hooks_pop(ctx);
    CHECK_INT(t, bb_offload_end(ctx), BB_OK);
    bb_close(ctx);
}

/* In place after the segment's copies are done: the walk reads what was saved. Before that: nobody
 * knows which values were copied, so it is an error. Without offloading both are. */
static void test_changed(test *t) {
    for (int when = 0; when < 3; when++) { /* 2: after the copies are done */
        bb_context *ctx = test_open();
        bool can = can_offload(ctx);
        bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(4), 3), true);
        bb_offload_begin(ctx, &(bb_offload_options){1});
        bb_tensor *h = bb_mul_scalar(x, 2), *y = bb_square(h);
        bb_offload_end(ctx);
        if (when == 2) bb_offload_settle(ctx);
        bb_write(h, (float[4]){0}, 16);
        if (when == 1) bb_offload_settle(ctx);
        bb_status status = bb_backward(y, bb_ones_like(y));
        if (can && when == 2) {
            CHECK_INT(t, status, BB_OK);
            CHECK_NEAR(t, bb_item(bb_select(bb_grad(x), 0, 2)), 24, 0);
        } else {
            CHECK_INT(t, status, BB_ERR_STATE);
            CHECK_ERROR(t, ctx, BB_ERR_STATE, "changed in place");
        }
        bb_close(ctx);
    }
}

/* A step that stops in the middle of backward, with copies under way in both directions: what the
 * next one makes in the same memory is its own. */
static bb_status fails_in_backward(const bb_grad_call *grad) {
    return bb_fail(grad->call->ctx, BB_ERR_STATE, "on purpose");
}
static const bb_op faulty = {.name = "faulty",
                             .doc = "x, until backward",
                             .inputs = {"x"},
                             .outputs = {"y"},
                             .infer = same_infer,
                             .view = same_view,
                             .gradient = fails_in_backward};

static void test_interrupted(test *t) {
    bb_context *ctx = test_open();
    CHECK_INT(t, bb_register_op(ctx, &faulty), BB_OK);
    for (int round = 0; round < 3; round++) {
        bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(64, 64), 3), true);
        bb_tensor *h = x;
        for (int i = 0; i < 4; i++) {
            bb_offload_begin(ctx, &(bb_offload_options){1});
            bb_tensor *next = bb_square(bb_mul_scalar(h, 0.5));
            bb_offload_end(ctx);
            h = i == 1 && round < 2 ? bb_apply1(ctx, &faulty, &next, 1, NULL) : next;
        }
        bb_status status = bb_backward(bb_sum_all(h), NULL);
        if (round < 2) {
            CHECK_INT(t, status, BB_ERR_STATE);
            CHECK_ERROR(t, ctx, BB_ERR_STATE, "on purpose");
        } else {
            CHECK_INT(t, status, BB_OK);
        }
        bb_end_step(ctx);
        bb_tensor *mine[12];
        for (int i = 0; i < 12; i++) mine[i] = bb_full(ctx, BB_F32, BB_SHAPE(64, 64), i);
        bb_offload_begin(ctx, &(bb_offload_options){1});
        bb_offload_end(ctx);
        for (int i = 0; i < 12; i++) CHECK_NEAR(t, bb_item(bb_mean_all(mine[i])), i, 0);
        CHECK_OK(t, ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

/* The device's module is loaded before memory runs out: what could not be loaded is not tried
 * again. */
static void to_device(bb_context *ctx) {
    const char *device = getenv("BOBBIN_TEST_DEVICE");
    if (device && strcmp(device, "cuda") == 0) bb_set_device(ctx, BB_CUDA);
}
/* What was sent for, and is then let go of in the middle of a walk: a branch that the output of a
 * recomputed piece does not depend on. The copy must not land in what the memory is used for next.
 */
static bb_tensor *with_dead_branch(void *user, bb_tensor *const *in, int n) {
    bb_context *ctx = bb_context_of(in[0]);
    (void)user, (void)n;
    for (int i = 0; i < 2; i++) {
        bb_offload_begin(ctx, &(bb_offload_options){1});
        bb_tensor *y = bb_square(bb_mul_scalar(in[0], 0.5));
        bb_offload_end(ctx);
        if (i == 1) return y;
    }
    return NULL;
}
static void test_dead_branch(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(64, 64), 3), true);
    bb_tensor *h = bb_mul_scalar(x, 1);
    bb_tensor *y = bb_sum_all(bb_recompute(ctx, with_dead_branch, NULL, &h, 1));
    CHECK_INT(t, bb_backward(y, NULL), BB_OK);
    bb_tensor *mine[12];
    for (int i = 0; i < 12; i++) mine[i] = bb_full(ctx, BB_F32, BB_SHAPE(64, 64), i);
    bb_offload_begin(ctx, NULL);
    bb_offload_end(ctx);
    bb_offload_settle(ctx); /* whatever was still under way has landed */
    for (int i = 0; i < 12; i++) CHECK_NEAR(t, bb_item(bb_mean_all(mine[i])), i, 0);
    CHECK_NEAR(t, bb_item(bb_mean_all(bb_grad(x))), 1.5, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void with_offloading(bb_context *ctx, void *user) {
    (void)user;
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(16, 8), 0.5), true), *h = x;
    for (int i = 0; i < 3; i++) {
        bb_status begun = bb_offload_begin(ctx, &(bb_offload_options){1});
        bb_scope scope = bb_scope_begin(ctx);
        h = bb_scope_end(ctx, scope, bb_tanh(bb_square(bb_mul_scalar(h, 0.5))));
        if (begun == BB_OK) bb_offload_end(ctx);
    }
    bb_offload_settle(ctx);
    bb_backward(bb_sum_all(h), NULL);
}
static void test_memory_runs_out(test *t) {
    const alloc_subject subject = {.prepare = to_device, .run = with_offloading};
    char problem[ALLOC_PROBLEM];
    int64_t tried = 0;
    for (int for_good = 0; for_good < 2; for_good++) {
        int64_t n = 1;
        for (; alloc_run_failing(&subject, n, for_good, problem); n++)
            CHECK_MSG(t, !problem[0], "allocation %lld, for good %d: %s", (long long)n, for_good,
                      problem);
        CHECK_MSG(t, !problem[0], "%s", problem);
        tried += n;
    }
    CHECK_MSG(t, tried > 20, "%lld allocations", (long long)tried);
}

/* ---- Memory of the device itself that runs out: an error, no leak, and another try works ------
 */

static bb_context *open_limited(int kib) {
    char limit[32];
    snprintf(limit, sizeof limit, "%d", kib * 1024);
    setenv("BOBBIN_SIM_MEMORY", limit, 1);
    bb_context *ctx = test_open();
    unsetenv("BOBBIN_SIM_MEMORY");
    return ctx;
}

/* Six segments of 32 KiB each, of which device memory holds two at a time. */
static bb_tensor *six_segments(bb_context *ctx) {
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(64, 64), 0.5), true);
    bb_tensor *h = bb_mul_scalar(x, 1);
    for (int i = 0; i < 6; i++) {
        bb_offload_begin(ctx, &(bb_offload_options){1});
        bb_scope scope = bb_scope_begin(ctx);
        bb_tensor *y = bb_mul(bb_mul_scalar(h, 1), bb_mul_scalar(h, 1));
        bb_scope_end(ctx, scope, y);
        bb_offload_end(ctx);
        bb_drop(h);
        h = y;
    }
    return bb_sum_all(h);
}

static void check_empty(test *t, bb_context *ctx) {
    bb_end_step(ctx);
    CHECK_INT(t, bb_memory_stats(ctx).bytes_in_use, 0);
    bb_close(ctx);
}

static void test_device_memory_runs_out(test *t) {
    bb_context *ctx = test_open();
    const bb_backend *backend = ctx->backend[bb_get_device(ctx)];
    bool simulated = backend->simulated;
    CHECK(t, can_offload(ctx) == (backend->device != BB_CPU));
    bb_close(ctx);
    if (!simulated) return; /* nobody limits the memory of a real device, and the CPU has none */
    int failed = 0, fitted = 0;
    for (int kib = 40; kib <= 320; kib += 8) {
        ctx = open_limited(kib);
        bb_backward(six_segments(ctx), NULL);
        bb_status status = bb_error(ctx);
        failed += status == BB_ERR_MEMORY;
        fitted += status == BB_OK;
        CHECK_MSG(t, status == BB_OK || status == BB_ERR_MEMORY, "%d KiB: %s", kib,
                  bb_error_message(ctx));
        bb_clear_error(ctx);
        check_empty(t, ctx);
    }
    CHECK_MSG(t, failed > 2 && fitted > 2, "%d sizes were too little, %d enough", failed, fitted);
    /* A walk that cannot bring its segments back for lack of memory, and then can. */
    ctx = open_limited(400);
    bb_tensor *loss = six_segments(ctx), *hog[128];
    int hogs = 0;
    while (hogs < 128 && (hog[hogs] = bb_empty(ctx, BB_U8, BB_SHAPE(4096)))) hogs++;
    bb_clear_error(ctx);
    for (int more = 0; more < 4; more++) { /* it fails later and later */
        CHECK_INT(t, bb_backward_retain(loss, NULL), BB_ERR_MEMORY);
        CHECK_ERROR(t, ctx, BB_ERR_MEMORY, "out of cuda memory");
        for (int i = 0; i < 2; i++) bb_drop(hog[--hogs]);
    }
    while (hogs) bb_drop(hog[--hogs]);
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    CHECK_OK(t, ctx);
    check_empty(t, ctx);
}

static const test_row rows[] = {
    {"same bits", test_same_bits},
    {"memory", test_memory},
    {"what goes", test_what_goes},
    {"one ahead", test_one_ahead},
    {"available", test_available},
    {"wrong use", test_wrong_use},
    {"changed", test_changed},
    {"interrupted", test_interrupted},
    {"dead branch", test_dead_branch},
    {"memory runs out", test_memory_runs_out},
    {"device memory runs out", test_device_memory_runs_out},
};
TEST_MAIN(rows)
