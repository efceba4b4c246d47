/* One training step and one evaluation. See tools/trainer.h; checkpoints are in
 * tools/trainer_state.c. */
#include "tools/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/model.h"
#include "tools/progress.h"

bb_status bb_trainer_open(bb_trainer *t, bb_context *ctx, bb_device device, const bb_run *run,
                          const bb_corpus *corpus, bb_nn_transformer *model) {
    *t = (bb_trainer){.ctx = ctx, .device = device, .run = *run, .corpus = corpus, .model = model};
    t->schedule = (bb_schedule){run->lr, run->min_lr, run->warmup, run->decay_steps};
    const bb_adamw_attrs adamw = {
        .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = run->weight_decay};
    if (!t->model) t->model = bb_nn_transformer_new(ctx, device, &run->config);
    if (t->model && run->config.fused_chain) bb_nn_transformer_fuse(t->model);
    if (t->model) t->optimizer = bb_adamw_new(t->model->params, &adamw);
    if (!t->optimizer) return bb_error(ctx);
    size_t count = (size_t)(run->batch * run->seq);
    t->inputs = malloc(count * sizeof *t->inputs);
    t->targets = malloc(count * sizeof *t->targets);
    t->losses = malloc(count * sizeof *t->losses);
    if (run->dtype != BB_F32)
        t->cast_blocks = malloc((size_t)run->config.layers * sizeof *t->cast_blocks);
    if (t->inputs && t->targets && t->losses && (run->dtype == BB_F32 || t->cast_blocks))
        return BB_OK;
    return bb_fail(ctx, BB_ERR_MEMORY, "training: out of memory for a batch");
}

void bb_trainer_close(bb_trainer *t) {
    free(t->inputs);
    free(t->targets);
    free(t->losses);
    free(t->cast_blocks);
    memset(t, 0, sizeof *t);
}

static bb_tensor *upload(const bb_trainer *t, const int64_t *values, bb_shape shape) {
    bb_tensor *tensor = bb_empty_on(t->ctx, t->device, BB_I64, shape);
    bb_write(tensor, values, (size_t)(shape.size[0] * shape.size[1]) * sizeof *values);
    return tensor;
}

/* Computed in f32 from the logits on, whatever the dtype: a mean rounded to bf16 would hide what a
 * step gained. */
static bb_tensor *forward(const bb_trainer *t, bb_tensor *inputs, bb_tensor *targets,
                          bb_reduction reduction) {
    bb_nn_transformer cast, *model = t->model;
    if (t->cast_blocks) model = bb_model_cast(t->model, &cast, t->cast_blocks, t->run.dtype);
    bb_scope scope = bb_scope_begin(t->ctx);
    bb_tensor *logits = bb_nn_transformer_forward(model, inputs);
    if (t->cast_blocks) logits = bb_cast(logits, BB_F32);
    return bb_scope_end(t->ctx, scope, bb_cross_entropy(logits, targets, -100, reduction));
}

/* What a device that can records once and replays. */
static bb_status step_on_device(void *user) {
    const bb_trainer *t = user;
    bb_tensor *loss = forward(t, t->batch_inputs, t->batch_targets, BB_REDUCE_MEAN);
    bb_backward(loss, NULL);
    bb_clip_grads(t->model->params, t->run.clip > 0 ? t->run.clip : INFINITY);
    bb_adamw_apply(t->optimizer);
    bb_params_zero_grad(t->model->params);
    return loss ? bb_assign(t->loss, loss) : bb_error(t->ctx);
}

static bb_status prepare(bb_trainer *t) {
    const bb_shape batch = BB_SHAPE(t->run.batch, t->run.seq);
    t->batch_inputs = bb_keep(bb_empty_on(t->ctx, t->device, BB_I64, batch));
    t->batch_targets = bb_keep(bb_empty_on(t->ctx, t->device, BB_I64, batch));
    t->loss = bb_keep(bb_empty_on(t->ctx, t->device, BB_F32, BB_SCALAR));
    t->capture = bb_capture_step(t->ctx, t->device, step_on_device, t);
    return bb_error(t->ctx);
}

static bb_status report_step(bb_trainer *t, bb_step_report *report) {
    report->loss = bb_item(t->loss);
    report->grad_norm = bb_grad_norm(t->model->params);
    if (bb_error(t->ctx) == BB_OK && !(isfinite(report->loss) && isfinite(report->grad_norm)))
        bb_fail(t->ctx, BB_ERR_STATE,
                "training: step %lld: expected a finite loss and gradient, got loss %g and norm %g",
                (long long)t->step + 1, report->loss, report->grad_norm);
    return bb_error(t->ctx);
}

bb_status bb_trainer_step(bb_trainer *t, bb_step_report *report) {
    const bb_run *run = &t->run;
    const size_t bytes = (size_t)(run->batch * run->seq) * sizeof *t->inputs;
    double begin = bb_seconds(), lr = bb_schedule_lr(&t->schedule, t->step);
    if (!t->capture && prepare(t) != BB_OK) return bb_error(t->ctx);
    bb_corpus_batch(t->corpus, (uint64_t)run->seed, t->step * run->batch, run->batch, run->seq,
                    t->inputs, t->targets);
    bb_write(t->batch_inputs, t->inputs, bytes);
    bb_write(t->batch_targets, t->targets, bytes);
    bb_adamw_set_lr(t->optimizer, lr);
    bb_capture_run(t->capture);
    if (report && report_step(t, report) == BB_OK) {
        report->lr = lr;
        report->seconds = bb_seconds() - begin;
    }
    if (bb_error(t->ctx) == BB_OK) t->step++;
    return bb_error(t->ctx);
}

bb_status bb_trainer_evaluate(bb_trainer *t, int64_t bytes, bb_evaluation *evaluation) {
    int64_t window = bb_corpus_validation_window(t->corpus, t->run.seq);
    int64_t all = bb_corpus_validation_count(t->corpus, t->run.seq);
    int64_t wanted = bytes / window, count = wanted < 1 ? 1 : wanted < all ? wanted : all;
    double early = 0, late = 0;
    bool former = bb_set_grad_enabled(t->ctx, false);
    for (int64_t done = 0; done < count && bb_error(t->ctx) == BB_OK;) {
        int64_t rows = count - done < t->run.batch ? count - done : t->run.batch;
        for (int64_t i = 0; i < rows; i++) {
            bb_corpus_validation(t->corpus, (done + i) * all / count, window,
                                 t->inputs + i * window, t->targets + i * window);
        }
        const bb_shape shape = BB_SHAPE(rows, window);
        bb_tensor *inputs = upload(t, t->inputs, shape), *targets = upload(t, t->targets, shape);
        bb_read_f64(forward(t, inputs, targets, BB_REDUCE_NONE), t->losses, rows * window);
        for (int64_t i = 0; bb_error(t->ctx) == BB_OK && i < rows * window; i++) {
            *(i % window < window / 2 ? &early : &late) += t->losses[i];
        }
        bb_end_step(t->ctx);
        done += rows;
    }
    bb_set_grad_enabled(t->ctx, former);
    evaluation->bytes = count * window;
    evaluation->loss = (early + late) / (double)(count * window);
    evaluation->late_loss = late / (double)(count * (window - window / 2));
    return bb_error(t->ctx);
}
