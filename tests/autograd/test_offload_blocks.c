/* Offloading in a transformer (offload_blocks, nn/transformer.c, nn/stream.c): the bits of a run
 * without, and less device memory. On the CPU nothing goes. */
#include "tests/autograd/offload_test.h"

/* ---- A transformer, with and without --------------------------------------------------------- */

typedef struct setup {
    int64_t blocks, min_elements, layers; /* layers 0: 6 */
    bool recompute, captured, retain, chains;
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
    c.fused_chain = how->chains;
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
        {"chains", {.blocks = 5, .min_elements = 1, .chains = true, .dtype = BB_F32, .steps = 3}},
        {"chains, all",
         {.blocks = 6, .min_elements = 1, .chains = true, .dtype = BB_BF16, .steps = 3}},
        {"chains, one",
         {.blocks = 1, .min_elements = 1, .chains = true, .dtype = BB_F32, .steps = 3}},
        {"chains, retain",
         {.blocks = 5,
          .min_elements = 1,
          .chains = true,
          .retain = true,
          .dtype = BB_F32,
          .steps = 2}},
        {"chains, captured",
         {.blocks = 5,
          .min_elements = 1,
          .chains = true,
          .captured = true,
          .dtype = BB_F32,
          .steps = 4}},
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
    for (int i = 0; i < COUNT(rows); i++) {
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
static void check_memory(test *t, const setup *how) {
    outcome without, with;
    compare(t, "memory", how, &without, &with);
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

static void test_memory(test *t) {
    check_memory(t, &(setup){.blocks = 5, .min_elements = 256, .dtype = BB_F32, .steps = 2});
}
static void test_memory_of_chains(test *t) {
    check_memory(
        t, &(setup){.blocks = 5, .min_elements = 256, .chains = true, .dtype = BB_F32, .steps = 2});
}

static const test_row rows[] = {{"same bits", test_same_bits},
                                {"memory", test_memory},
                                {"memory of chains", test_memory_of_chains}};
TEST_MAIN(rows)
