/* Makes a trainer out of flags. See tools/train_setup.h. */
#include "tools/train_setup.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/commands.h"
#include "tools/model.h"
#include "tools/device.h"

/* Rows in the order of this list: it numbers `given`. */
/* clang-format off */
enum { DATA = 1, MODEL, STEPS, BATCH, SEQ, SEED, DEVICE, DTYPE, OUT, RESUME, LR, MIN_LR, WARMUP,
       DECAY, CLIP, WEIGHT_DECAY };
/* clang-format on */
#define AT(field) offsetof(bb_train_options, field)
#define GIVEN(row) .given = offsetof(bb_train_options, given) + (row)
static const bb_flag flags[] = {
    {"data", BB_FLAG_TEXT, AT(data), GIVEN(DATA), .value = "FILE",
     .help = "any file; left out: little stories"},
    {"model", BB_FLAG_TEXT, AT(model), GIVEN(MODEL), .fallback = "small",
     .value = "tiny|small|baby|CONFIG.json|DIR",
     .help = "what to train; DIR: a saved model or one of Llama's family, to go on from"},
    {"steps", BB_FLAG_INT, AT(steps), GIVEN(STEPS), .fallback = "2000", .min = 1,
     .help = "optimizer steps in all"},
    {"batch", BB_FLAG_INT, AT(batch), GIVEN(BATCH), .fallback = "0", .max = 65536,
     .help = "windows a step; 0: the model's own"},
    {"seq", BB_FLAG_INT, AT(seq), GIVEN(SEQ), .fallback = "0", .max = 65536,
     .help = "tokens a window; 0: the model's own"},
    {"seed", BB_FLAG_INT, AT(seed), GIVEN(SEED), .fallback = "0",
     .help = "of the parameters and the batches"},
    {"device", BB_FLAG_CHOICE, AT(device), GIVEN(DEVICE), .choices = BB_DEVICE_CHOICES,
     .help = "where to compute"},
    {"dtype", BB_FLAG_CHOICE, AT(dtype), GIVEN(DTYPE), .choices = "f32|bf16",
     .help = "of the computation; parameters are kept in f32"},
    {"out", BB_FLAG_TEXT, AT(out), GIVEN(OUT), .value = "DIR",
     .help = "where results go; left out: runs/MODEL"},
    {"resume", BB_FLAG_TEXT, AT(resume), GIVEN(RESUME), .value = "DIR",
     .help = "go on with the run saved there"},
    {"lr", BB_FLAG_NUMBER, AT(lr), GIVEN(LR), .fallback = "0",
     .help = "highest learning rate; 0: 2e-3, less for models wider than 128"},
    {"min-lr", BB_FLAG_NUMBER, AT(min_lr), GIVEN(MIN_LR),
     .help = "last learning rate; left out: a twentieth of --lr"},
    {"warmup", BB_FLAG_INT, AT(warmup), GIVEN(WARMUP), .fallback = "100",
     .help = "steps up to --lr"},
    {"decay-steps", BB_FLAG_INT, AT(decay_steps), GIVEN(DECAY), .fallback = "0",
     .help = "steps down to --min-lr; 0: --steps, at least 2000"},
    {"clip", BB_FLAG_NUMBER, AT(clip), GIVEN(CLIP), .fallback = "1",
     .help = "largest gradient norm; 0: any"},
    {"weight-decay", BB_FLAG_NUMBER, AT(weight_decay), GIVEN(WEIGHT_DECAY), .fallback = "0.1",
     .help = "of AdamW"},
    {"eval-every", BB_FLAG_INT, AT(eval_every), .fallback = "200",
     .help = "steps between validations; 0: only at the end"},
    {"save-every", BB_FLAG_INT, AT(save_every), .fallback = "500",
     .help = "steps between checkpoints; 0: only at the end"},
    {"chain", BB_FLAG_SWITCH, AT(chain),
     .help = "projections, additions and norms of the residual stream fused"},
    {"threads", BB_FLAG_INT, AT(threads), .fallback = "0", .max = 1024, .help = "0: all cores"},
    {.name = NULL}};
static const bb_usage usage = {
    "train", "trains a transformer on the text of a file, or on little stories", flags};

/* What --resume DIR fixes; the file of --data may have moved, its bytes may not have changed. */
static const int fixed_by_resume[] = {MODEL,  BATCH,  SEQ,   SEED, DTYPE,       LR,
                                      MIN_LR, WARMUP, DECAY, CLIP, WEIGHT_DECAY};

static bool is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* The last part of a path without ".json": "a/b/my.json" is my, "runs/x/" is x. */
static void base_name(const char *path, char *name, size_t room) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    size_t length = end - begin;
    if (length > 5 && memcmp(path + end - 5, ".json", 5) == 0) length -= 5;
    if (length >= room) length = room - 1;
    memcpy(name, path + begin, length);
    name[length] = '\0';
}

/* --model: a name, a folder (then *model is loaded), or a configuration file. */
static bb_status choose_model(bb_setup *s, bb_context *ctx, bb_device device, bb_run *run,
                              bb_nn_transformer **model) {
    const char *word = s->options.model;
    char quoted[BB_QUOTE_BYTES];
    int64_t batch = 16;
    bool folder = is_folder(word);
    base_name(word, s->name, sizeof s->name - 8);
    if (bb_nn_config_named(word, &run->config, &batch)) {
        snprintf(s->name, sizeof s->name, "%s", word);
    } else if (folder) {
        *model = bb_model_load(ctx, device, word);
        if (*model) run->config = (*model)->config;
        if (*model) s->tokenizer = bb_tokenizer_of_folder(ctx, word);
        s->papers = word;
        strcat(s->name, "-more");
    } else if (access(word, F_OK) == 0) {
        bb_model_config_read(ctx, word, &run->config);
    } else {
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "--model: expected tiny, small, baby, a config.json or a model folder, got %s",
                bb_quote(word, strlen(word), quoted));
    }
    if (bb_error(ctx) != BB_OK) return bb_error(ctx);
    run->batch = s->options.batch ? s->options.batch : batch;
    run->seq = s->options.seq              ? s->options.seq
               : run->config.max_seq < 256 ? run->config.max_seq
                                           : 256;
    int64_t least = bb_tokenizer_size(s->tokenizer);
    if (run->config.vocab < least) {
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "--model: vocab_size: expected at least %lld, one for each %s, got %lld",
                       (long long)least, s->tokenizer ? "token of tokenizer.json" : "byte",
                       (long long)run->config.vocab);
    }
    if (run->seq > run->config.max_seq && folder) {
        return bb_fail(ctx, BB_ERR_ARGUMENT, "--seq: expected at most the model's %lld, got %lld",
                       (long long)run->config.max_seq, (long long)run->seq);
    }
    if (run->seq > run->config.max_seq) run->config.max_seq = run->seq;
    return BB_OK;
}

static bb_status open_corpus(bb_setup *s, bb_context *ctx, bb_run *run) {
    if (strlen(run->data) + 1 >= sizeof run->data)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "--data: the name is too long");
    /* A name that checkpoints could not hold must show now, not at the first of them. */
    bb_json_writer w;
    bb_json_open(&w, ctx, 0);
    bb_json_put_string(&w, run->data);
    bb_json_close(&w);
    return bb_corpus_open(ctx, *run->data ? run->data : NULL, run->seq, s->tokenizer, &s->corpus);
}

static bb_status open_new(bb_setup *s, bb_context *ctx, bb_device device) {
    const bb_train_options *o = &s->options;
    bb_nn_transformer *model = NULL;
    bb_run run = {.seed = o->seed,
                  .steps = o->steps,
                  .warmup = o->warmup,
                  .lr = o->lr,
                  .min_lr = o->min_lr,
                  .clip = o->clip,
                  .weight_decay = o->weight_decay,
                  .dtype = o->dtype == 1 ? BB_BF16 : BB_F32};
    /* Not --steps below 2000: then a short run is the beginning of a long one, and can be continued
     * into it. */
    run.decay_steps = o->decay_steps ? o->decay_steps : o->steps > 2000 ? o->steps : 2000;
    snprintf(run.data, sizeof run.data, "%s", o->data ? o->data : "");
    if (choose_model(s, ctx, device, &run, &model) != BB_OK || open_corpus(s, ctx, &run) != BB_OK)
        return bb_error(ctx);
    run.fingerprint = s->corpus.fingerprint;
    if (run.lr == 0) run.lr = 2e-3 * fmin(1, sqrt(128 / (double)run.config.dim));
    if (!o->given[MIN_LR]) run.min_lr = run.lr / 20;
    if (run.min_lr > run.lr)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "--min-lr: expected at most --lr %g, got %g", run.lr,
                       run.min_lr);
    s->out = o->out ? strdup(o->out) : bb_path_join(ctx, "runs", s->name);
    run.config.fused_chain = o->chain;
    return bb_trainer_open(&s->trainer, ctx, device, &run, &s->corpus, model);
}

static bb_status open_resumed(bb_setup *s, bb_context *ctx, bb_device device) {
    const bb_train_options *o = &s->options;
    bb_run run;
    bb_checkpoint state;
    double elapsed_s = 0;
    char *path = bb_path_join(ctx, o->resume, "checkpoint.safetensors");
    bb_safetensors *file = path ? bb_run_read(ctx, path, &run, &state, &elapsed_s) : NULL;
    free(path);
    if (!file) return bb_error(ctx);
    s->papers = o->resume;
    s->tokenizer = bb_tokenizer_of_folder(ctx, o->resume);
    if (o->given[STEPS]) run.steps = o->steps;
    if (o->data) snprintf(run.data, sizeof run.data, "%s", o->data);
    if (run.steps <= state.step) {
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "--resume %s: this run has finished its %lld steps; to go on, give more --steps",
                o->resume, (long long)state.step);
    } else if (open_corpus(s, ctx, &run) == BB_OK && run.fingerprint != s->corpus.fingerprint) {
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "--resume %s: expected the text that the run began with, got other bytes",
                o->resume);
    }
    run.config.fused_chain = o->chain;
    if (bb_error(ctx) == BB_OK) bb_trainer_open(&s->trainer, ctx, device, &run, &s->corpus, NULL);
    if (bb_error(ctx) != BB_OK) {
        bb_safetensors_close(file);
        return bb_error(ctx);
    }
    base_name(o->resume, s->name, sizeof s->name);
    s->out = strdup(o->out ? o->out : o->resume);
    s->former_metrics = bb_path_join(ctx, o->resume, "metrics.csv");
    if (s->former_metrics && access(s->former_metrics, F_OK) != 0) {
        fprintf(stderr, "%s is not there: a new one begins after step %lld\n", s->former_metrics,
                (long long)state.step);
        free(s->former_metrics);
        s->former_metrics = NULL;
    }
    return bb_trainer_restore(&s->trainer, file, &state, elapsed_s);
}

static int check_flags(const bb_train_options *o) {
    for (size_t i = 0; o->resume && i < sizeof fixed_by_resume / sizeof fixed_by_resume[0]; i++) {
        int row = fixed_by_resume[i];
        if (o->given[row])
            return bb_usage_error("train", "--%s: --resume goes on with the run's own",
                                  flags[row - 1].name);
    }
    return BB_ARGS_GO;
}

int bb_setup_open(bb_setup *s, int argc, char **argv) {
    memset(s, 0, sizeof *s);
    int code = bb_args_parse(&usage, argc, argv, &s->options);
    if (code == BB_ARGS_GO) code = check_flags(&s->options);
    if (code != BB_ARGS_GO) return code;
    const bb_options open = {.seed = (uint64_t)s->options.seed, .threads = (int)s->options.threads};
    bb_context *ctx = bb_open(&open);
    if (!ctx) return bb_report(NULL, "train");
    bb_device device = bb_choose_device(ctx, s->options.device);
    if (bb_error(ctx) == BB_OK && s->options.resume)
        open_resumed(s, ctx, device);
    else if (bb_error(ctx) == BB_OK)
        open_new(s, ctx, device);
    if (bb_error(ctx) == BB_OK && !s->out) bb_fail(ctx, BB_ERR_MEMORY, "--out: out of memory");
    s->trainer.ctx = ctx;
    if (bb_error(ctx) == BB_OK) return BB_ARGS_GO;
    code = bb_report_input(ctx, "train");
    bb_setup_close(s);
    return code;
}

void bb_setup_close(bb_setup *s) {
    bb_context *ctx = s->trainer.ctx;
    bb_trainer_close(&s->trainer);
    bb_corpus_close(&s->corpus);
    bb_tokenizer_close(s->tokenizer);
    free(s->out);
    free(s->former_metrics);
    bb_close(ctx);
}
