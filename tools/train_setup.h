/* From the command line of `bobbin train` to a trainer that is ready to run: flags, named models,
 * configuration files and model folders, --resume. The run itself is in tools/cmd_train.c. */
#ifndef BOBBIN_TOOLS_TRAIN_SETUP_H
#define BOBBIN_TOOLS_TRAIN_SETUP_H

#include "tools/args.h"
#include "tools/trainer.h"

enum { BB_TRAIN_FLAGS = 20 };

typedef struct bb_train_options {
    const char *data, *model, *out, *resume;
    int64_t steps, batch, seq, seed, warmup, decay_steps, eval_every, save_every, threads;
    double lr, min_lr, clip, weight_decay;
    int device, dtype;
    bool chain;
    bool given[BB_TRAIN_FLAGS + 1]; /* by row of the flag table, from 1 */
} bb_train_options;

typedef struct bb_setup {
    bb_train_options options;
    char name[64];        /* of the model, for people */
    char *out;            /* folder */
    char *former_metrics; /* of the run that is resumed; NULL: none */
    const char *papers;   /* the folder that has the model's tokenizer and the like; NULL: none */
    bb_tokenizer *tokenizer; /* NULL: bytes */
    bb_corpus corpus;
    bb_trainer trainer;
} bb_setup;

/* BB_ARGS_GO: ready; close it after the run. Otherwise an exit code, with its line printed and
 * nothing left open. */
int bb_setup_open(bb_setup *s, int argc, char **argv);
void bb_setup_close(bb_setup *s);

#endif
