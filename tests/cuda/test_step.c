/* A whole training step of a transformer on the device: captured and replayed it gives the same
 * bits as without, whatever the dtype and the path; and nobody waits for the device or copies from
 * or to it, until the loss is asked for. */
#include "core/impl.h"
#include "tests/support/test.h"

enum { BATCH = 2, LENGTH = 12, STEPS = 5, MOST_PARAMETERS = 20000 };

typedef struct trainer {
    bb_context *ctx;
    bb_nn_transformer *model;
    bb_adamw *optimizer;
    bb_tensor *ids, *targets, *loss;
} trainer;

static const struct {
    const char *name;
    bb_dtype dtype;
    bool fused_chain, recompute, qk_norm;
} kinds[] = {{"f32", BB_F32, false, false, false},
             {"bf16", BB_BF16, false, false, true},
             {"bf16, chains", BB_BF16, true, false, false},
             {"f32, recomputing", BB_F32, false, true, false}};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

static bool open_trainer(test *t, trainer *r, int kind) {
    const bb_nn_config config = {.vocab = 40,
                                 .dim = 32,
                                 .layers = 2,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .hidden = 48,
                                 .max_seq = LENGTH,
                                 .dtype = kinds[kind].dtype,
                                 .qk_norm = kinds[kind].qk_norm,
                                 .fused_chain = kinds[kind].fused_chain};
    *r = (trainer){.ctx = test_open()};
    r->model = bb_nn_transformer_new(r->ctx, bb_get_device(r->ctx), &config);
    if (!CHECK_MSG(t, r->model, "%s", bb_error_message(r->ctx))) return false;
    r->model->recompute = kinds[kind].recompute;
    r->optimizer = bb_adamw_new(r->model->params, NULL);
    r->ids = bb_keep(bb_zeros(r->ctx, BB_I64, BB_SHAPE(BATCH, LENGTH)));
    r->targets = bb_keep(bb_zeros(r->ctx, BB_I64, BB_SHAPE(BATCH, LENGTH)));
    r->loss = bb_keep(bb_zeros(r->ctx, BB_F32, BB_SCALAR));
    bb_end_step(r->ctx);
    return true;
}

/* What the host gives a step: the next batch and the learning rate. */
static void feed(trainer *r, int step) {
    int64_t ids[BATCH * LENGTH], targets[BATCH * LENGTH];
    for (int i = 0; i < BATCH * LENGTH; i++) {
        ids[i] = (i * 7 + step * 3) % 40;
        targets[i] = ids[i] * 5 % 40;
    }
    bb_write(r->ids, ids, sizeof ids);
    bb_write(r->targets, targets, sizeof targets);
    bb_adamw_set_lr(r->optimizer, 1e-2 / (1 + step));
}

static bb_status step(void *user) {
    trainer *r = user;
    bb_tensor *loss = bb_nn_transformer_loss(r->model, r->ids, r->targets);
    bb_backward(loss, NULL);
    bb_clip_grads(r->model->params, 0.5);
    bb_adamw_apply(r->optimizer);
    bb_params_zero_grad(r->model->params);
    return bb_assign(r->loss, bb_cast(loss, BB_F32));
}

static void check_same_bits(test *t, int kind) {
    static double values[2][MOST_PARAMETERS];
    double loss[2][STEPS];
    int64_t count = 0;
    for (int captured = 0; captured < 2; captured++) {
        trainer r;
        if (!open_trainer(t, &r, kind)) return;
        bb_capture *c = captured ? bb_capture_step(r.ctx, bb_get_device(r.ctx), step, &r) : NULL;
        for (int i = 0; i < STEPS; i++) {
            feed(&r, i);
            if (captured)
                bb_capture_run(c);
            else
                step(&r), bb_end_step(r.ctx);
            loss[captured][i] = bb_item(r.loss);
        }
        CHECK_OK(t, r.ctx);
        CHECK_INT(t, bb_capture_replays(c), captured);
        count = bb_params_elements(r.model->params);
        CHECK(t, count <= MOST_PARAMETERS);
        bb_read_f64(bb_params_values(r.model->params), values[captured],
                    bb_count(bb_params_values(r.model->params)));
        CHECK_OK(t, r.ctx);
        bb_close(r.ctx);
    }
    for (int i = 0; i < STEPS; i++)
        CHECK_MSG(t, loss[0][i] == loss[1][i], "%s: step %d: %.17g plain, %.17g captured",
                  kinds[kind].name, i, loss[0][i], loss[1][i]);
    CHECK_MSG(t, memcmp(values[0], values[1], (size_t)count * sizeof(double)) == 0,
              "%s: other parameters", kinds[kind].name);
    CHECK_MSG(t, loss[0][STEPS - 1] < loss[0][0], "%s: learns nothing", kinds[kind].name);
}

static void test_same_bits(test *t) {
    for (int kind = 0; kind < KINDS; kind++) check_same_bits(t, kind);
}

/* Counts what goes by on its way to the backend. */
static struct {
    bb_status (*synchronize)(bb_backend *);
    bb_status (*copy)(bb_backend *, const bb_tensor *, bb_tensor *);
    int waits, copies;
} counted;
static bb_status counting_synchronize(bb_backend *self) {
    counted.waits++;
    return counted.synchronize(self);
}
static bb_status counting_copy(bb_backend *self, const bb_tensor *source, bb_tensor *target) {
    counted.copies += source->device == BB_CPU || target->device == BB_CPU;
    return counted.copy(self, source, target);
}

static void check_no_waits(test *t, int kind) {
    trainer r;
    if (!open_trainer(t, &r, kind)) return;
    bb_backend *backend = r.ctx->backend[bb_get_device(r.ctx)];
    feed(&r, 0);
    for (int i = 0; i < 2; i++) step(&r), bb_end_step(r.ctx);
    counted.synchronize = backend->synchronize, backend->synchronize = counting_synchronize;
    counted.copy = backend->copy, backend->copy = counting_copy;
    counted.waits = counted.copies = 0;
    const int64_t before = bb_memory_stats(r.ctx).system_allocations;
    for (int i = 0; i < 3; i++) step(&r), bb_end_step(r.ctx);
    CHECK_OK(t, r.ctx);
    CHECK_MSG(t, counted.waits == 0 && counted.copies == 0,
              "%s: %d waits and %d copies from or to the host in three steps", kinds[kind].name,
              counted.waits, counted.copies);
    CHECK_INT(t, bb_memory_stats(r.ctx).system_allocations - before, 0);
    CHECK(t, bb_item(r.loss) > 0);
    CHECK_MSG(t, counted.waits == 1 && counted.copies == 1, "the loss: %d waits, %d copies",
              counted.waits, counted.copies);
    backend->synchronize = counted.synchronize, backend->copy = counted.copy;
    bb_close(r.ctx);
}

static void test_no_waits(test *t) {
    for (int kind = 0; kind < KINDS; kind++) check_no_waits(t, kind);
}

static const test_row rows[] = {{"same_bits", test_same_bits}, {"no_waits", test_no_waits}};
TEST_MAIN(rows)
