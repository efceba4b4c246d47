/* A training run without its user interface: what defines it (bb_run), its state (bb_trainer), one
 * step, one evaluation, and checkpoints from which it continues bit for bit. tools/cmd_train.c
 * drives it, tools/bench_train.c times it. */
#ifndef BOBBIN_TOOLS_TRAINER_H
#define BOBBIN_TOOLS_TRAINER_H

#include "bobbin.h"
#include "tools/data.h"

enum { BB_RUN_PATH_BYTES = 4096 };

/* All that decides which numbers a run computes, except its length; stored in its checkpoints. */
typedef struct bb_run {
    char data[BB_RUN_PATH_BYTES]; /* "": the default text */
    uint64_t fingerprint;         /* of the text */
    bb_nn_config config;
    int64_t batch, seq, seed, warmup, decay_steps, steps;
    double lr, min_lr, clip, weight_decay;
    bb_dtype dtype; /* of the computation; parameters and optimizer state are f32 */
} bb_run;

typedef struct bb_trainer {
    bb_context *ctx;
    bb_device device;
    bb_run run;
    const bb_corpus *corpus;
    bb_nn_transformer *model;
    bb_adamw *optimizer;
    bb_schedule schedule;
    int64_t step;              /* optimizer steps done */
    double elapsed_s;          /* of training, earlier sittings included */
    int64_t *inputs, *targets; /* (batch, seq) */
    double *losses;            /* the same */
    bb_nn_block *cast_blocks;  /* for bb_model_cast; NULL: dtype is f32 */
    bb_capture *capture;       /* forward, backward, clipping and optimizer */
    bb_tensor *batch_inputs, *batch_targets,
        *loss; /* on the device: what a step reads, and leaves */
} bb_trainer;

typedef struct bb_step_report {
    double loss, lr, grad_norm, seconds;
} bb_step_report;

/* model NULL: a new one from run->config. The corpus must outlive the trainer. */
bb_status bb_trainer_open(bb_trainer *t, bb_context *ctx, bb_device device, const bb_run *run,
                          const bb_corpus *corpus, bb_nn_transformer *model);
void bb_trainer_close(bb_trainer *t);

/* One optimizer step on the next batch. Reading its loss and norm for the report waits for the
 * device; report NULL does not. A loss or gradient that is not finite changes no parameter and is
 * an error, as soon as it is read. */
bb_status bb_trainer_step(bb_trainer *t, bb_step_report *report);

/* The held-out text is cut into windows as long as those of training. A model sees nothing of what
 * came before its window, so `loss` over all bytes is a little too high for it; `late_loss` is that
 * of the later halves. */
typedef struct bb_evaluation {
    int64_t bytes;          /* how many were read */
    double loss, late_loss; /* nats per byte */
} bb_evaluation;

/* Reads at most `bytes` of the held-out text, in windows spread evenly over it. */
bb_status bb_trainer_evaluate(bb_trainer *t, int64_t bytes, bb_evaluation *evaluation);

bb_status bb_trainer_save(bb_trainer *t, const char *path);
/* Opens a checkpoint and reads what run it is of; then open the corpus and the trainer, and restore
 * (which closes it). */
bb_safetensors *bb_run_read(bb_context *ctx, const char *path, bb_run *run, bb_checkpoint *state,
                            double *elapsed_s);
bb_status bb_trainer_restore(bb_trainer *t, bb_safetensors *file, const bb_checkpoint *state,
                             double elapsed_s);

#endif
