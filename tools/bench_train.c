/* bobbin bench train: whole training steps of the named models on random bytes: batch, forward,
 * backward, clipping, AdamW. */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "tools/bench.h"
#include "tools/commands.h"
#include "tools/model.h"
#include "tools/progress.h"
#include "tools/random.h"
#include "tools/trainer.h"
#include "tools/device.h"

enum { WARMUP = 3, CORPUS_BYTES = 1 << 20 };

typedef struct train_figures {
    bb_spread ms;
    double first_done_s, first_loss, last_loss;
    uint64_t allocations; /* of the timed steps together */
    int64_t parameters;
} train_figures;

static double peak_mib(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024;
}

static bb_status time_steps(bb_trainer *t, const bb_bench_options *o, train_figures *f,
                            bb_samples *samples) {
    bb_step_report r = {0};
    samples->count = 0;
    for (int64_t i = 0; i < WARMUP + o->steps; i++) {
        if (i == WARMUP) f->allocations = bb_memory_stats(t->ctx).system_allocations;
        if (bb_trainer_step(t, &r) != BB_OK) return bb_error(t->ctx);
        if (i == 0) {
            f->first_done_s = bb_seconds() - o->begin;
            f->first_loss = r.loss;
        }
        if (i >= WARMUP && samples->count < BB_BENCH_SAMPLES)
            samples->at[samples->count++] = r.seconds * 1e3;
    }
    f->allocations = bb_memory_stats(t->ctx).system_allocations - f->allocations;
    f->last_loss = r.loss;
    f->ms = bb_samples_spread(samples);
    return BB_OK;
}

static void print_row(const bb_bench_options *o, const char *model, const bb_run *run,
                      const train_figures *f) {
    double rate = (double)(run->batch * run->seq) / f->ms.median * 1e3;
    if (o->json) {
        printf("{\"what\": \"bobbin\", \"model\": \"%s\", \"device\": \"%s\", \"dtype\": \"%s\", "
               "\"threads\": %d, \"parameters\": %lld, "
               "\"step_ms\": {\"min\": %.3f, \"median\": %.3f, \"max\": %.3f}, \"tokens_per_s\": "
               "%.1f, \"peak_rss_mib\": %.1f, "
               "\"first_step_done_s\": %.4f, \"first_loss\": %.6f, \"last_loss\": %.6f, "
               "\"system_allocations_per_step\": %g}\n",
               model, bb_device_word(o->device), run->dtype == BB_F32 ? "float32" : "bfloat16",
               bb_threads_used(o), (long long)f->parameters, f->ms.min, f->ms.median, f->ms.max,
               rate, peak_mib(), f->first_done_s, f->first_loss, f->last_loss,
               (double)f->allocations / (double)o->steps);
    } else {
        printf("train %-6s %-4s %8.2f ms a step (%.2f to %.2f)  %8.0f tokens/s  peak %.0f MiB  "
               "first step done after %.3f s  "
               "%g system allocations a step\n",
               model, bb_dtype_name(run->dtype), f->ms.median, f->ms.min, f->ms.max, rate,
               peak_mib(), f->first_done_s, (double)f->allocations / (double)o->steps);
    }
    fflush(stdout);
}

static int time_model(const bb_bench_options *o, const char *name, const bb_corpus *corpus,
                      bb_samples *samples) {
    int code;
    bb_run run = {
        .lr = 1e-3, .min_lr = 1e-3, .weight_decay = 0.1, .dtype = o->dtype == 1 ? BB_BF16 : BB_F32};
    if (!bb_nn_config_named(name, &run.config, &run.batch)) {
        return bb_usage_error("bench", "--model: expected tiny, small or baby, got '%s'", name);
    }
    run.seq = run.config.max_seq;
    run.config.fused_chain = o->chain;
    bb_context *ctx = bb_bench_open(o, &code);
    if (!ctx) return code;
    bb_trainer trainer;
    train_figures figures = {0};
    if (bb_trainer_open(&trainer, ctx, bb_bench_device(o), &run, corpus, NULL) == BB_OK) {
        figures.parameters = bb_params_elements(trainer.model->params);
        if (time_steps(&trainer, o, &figures, samples) == BB_OK) print_row(o, name, &run, &figures);
    }
    if (bb_error(ctx) != BB_OK) code = bb_report(ctx, "bench");
    bb_trainer_close(&trainer);
    bb_close(ctx);
    return code;
}

int bb_bench_train(const bb_bench_options *o) {
    static const char *const names[] = {
        "tiny", "small", "baby"}; /* ascending, so that the peak of memory is each one's own */
    bb_samples *samples = malloc(sizeof *samples);
    uint8_t *bytes = malloc(CORPUS_BYTES);
    int code = samples && bytes ? BB_EXIT_OK : BB_EXIT_SYSTEM;
    for (size_t i = 0; bytes && i < CORPUS_BYTES; i++) bytes[i] = (uint8_t)bb_random_bits(0, i);
    const bb_corpus corpus = {.bytes = bytes, .count = CORPUS_BYTES, .train_count = CORPUS_BYTES};
    if (code == BB_EXIT_OK && o->model) code = time_model(o, o->model, &corpus, samples);
    for (size_t i = 0; !o->model && code == BB_EXIT_OK && i < 3; i++)
        code = time_model(o, names[i], &corpus, samples);
    free(samples);
    free(bytes);
    return code;
}
