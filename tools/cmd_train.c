/* bobbin train: trains a transformer on any bytes or tokens, shows how it goes, and leaves a model
 * folder behind. Flags and the order of things are here; the numbers are made in tools/trainer.c,
 * the flags' meaning for a run in tools/train_setup.c. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/commands.h"
#include "tools/metrics.h"
#include "tools/model.h"
#include "tools/plot.h"
#include "tools/progress.h"
#include "tools/sampler.h"
#include "tools/train_setup.h"

enum { LINE_EVERY = 50, SAMPLE_BYTES = 400 };
/* How much of the held-out text an evaluation on the way and the one at the end read. */
enum { EVALUATE_BYTES = 32 << 10, EVALUATE_LAST_BYTES = 256 << 10 };

static volatile sig_atomic_t interrupted; /* the signal; 0: none */
static volatile sig_atomic_t saving;      /* files are being written */

/* The first signal asks for an orderly end. A second one ends the program at once, unless it is
 * writing files: it ends after them anyway. */
static void on_signal(int number) {
    if (!interrupted) {
        interrupted = number;
    } else if (!saving) {
        signal(number, SIG_DFL);
        raise(number);
    }
}

/* What whoever started us has chosen to ignore (nohup does) stays ignored. */
static void catch_signals(void) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action, former;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (sigaction(numbers[i], NULL, &former) == 0 && former.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
}

/* The files under --out. */
typedef struct output {
    char *checkpoint, *metrics, *plot;
    int lock;   /* the folder, held against a second run */
    bool saved; /* this run has */
} output;

static bb_status make_folder(bb_context *ctx, const char *path) {
    char *part = strdup(path);
    if (!part) return bb_fail(ctx, BB_ERR_MEMORY, "--out: out of memory");
    struct stat info;
    for (char *slash = part + 1; bb_error(ctx) == BB_OK; slash++) {
        slash += strcspn(slash, "/");
        char end = *slash;
        *slash = '\0';
        if (mkdir(part, 0777) != 0 &&
            !(errno == EEXIST && stat(part, &info) == 0 && S_ISDIR(info.st_mode))) {
            bb_fail(ctx, BB_ERR_IO, "--out: cannot make folder %s: %s", part,
                    strerror(errno == EEXIST ? ENOTDIR : errno));
        }
        *slash = end;
        if (!end) break;
    }
    free(part);
    return bb_error(ctx);
}

/* Two runs in one folder would mix their files. The system gives the lock back when the program
 * ends, however it ends. A file system that has no locks is used without. */
static bb_status lock_folder(bb_context *ctx, const char *folder, output *out) {
    out->lock = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (out->lock < 0 || flock(out->lock, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
        return BB_OK;
    return bb_fail(ctx, BB_ERR_STATE, "--out: %s: another bobbin train is writing there", folder);
}

static bb_status open_output(bb_context *ctx, const char *folder, output *out) {
    if (make_folder(ctx, folder) != BB_OK || lock_folder(ctx, folder, out) != BB_OK)
        return bb_error(ctx);
    out->checkpoint = bb_path_join(ctx, folder, "checkpoint.safetensors");
    out->metrics = bb_path_join(ctx, folder, "metrics.csv");
    out->plot = bb_path_join(ctx, folder, "loss.svg");
    return bb_error(ctx);
}

static void close_output(output *out) {
    free(out->checkpoint);
    free(out->metrics);
    free(out->plot);
    if (out->lock >= 0) close(out->lock);
}

static const char *unit_of(const bb_setup *s) { return s->tokenizer ? "token" : "byte"; }

static void introduce(const bb_setup *s, FILE *file) {
    const bb_run *run = &s->trainer.run;
    const bb_nn_config *c = &run->config;
    fprintf(file,
            "model %s: %.2f M parameters, dim %" PRId64 ", %" PRId64 " layers, %" PRId64
            " heads; batch %" PRId64 " x %" PRId64 " %ss, %s on %s\n",
            s->name, (double)bb_params_elements(s->trainer.model->params) * 1e-6, c->dim, c->layers,
            c->heads, run->batch, run->seq, unit_of(s), bb_dtype_name(run->dtype),
            s->trainer.device == BB_CUDA ? "cuda" : "cpu");
    fprintf(file, "text %s: %.2f MB, the last tenth held out",
            *run->data ? run->data : "of little stories", (double)s->corpus.text_bytes * 1e-6);
    if (s->tokenizer) fprintf(file, "; %.2f M tokens", (double)s->corpus.count * 1e-6);
    if (s->corpus.entropy > 0) fprintf(file, "; its entropy is %.4f nats/byte", s->corpus.entropy);
    fprintf(file, "\n");
}

static bb_status evaluate(bb_setup *s, bb_metrics *metrics, int64_t bytes, bb_evaluation *e) {
    bb_trainer *t = &s->trainer;
    double begin = bb_seconds(), lr = bb_schedule_lr(&t->schedule, t->step - 1);
    bb_status status = bb_trainer_evaluate(t, bytes, e);
    double seconds = bb_seconds() - begin;
    t->elapsed_s += seconds;
    if (status != BB_OK) return status;
    bb_metrics_add(metrics, &(bb_metrics_row){t->step, "val", e->loss, lr, -1,
                                              (double)e->bytes / seconds, t->elapsed_s});
    return bb_metrics_flush(t->ctx, metrics);
}

/* Reading a loss makes an accelerator wait for the host, so it is asked for every tenth only, and
 * where something else happens after the step. */
static bool is_reported(const bb_setup *s) {
    enum { REPORT_EVERY = 10 };
    const bb_trainer *t = &s->trainer;
    const int64_t step = t->step + 1, eval = s->options.eval_every, save = s->options.save_every;
    return t->device == BB_CPU || step % REPORT_EVERY == 0 || step == t->run.steps ||
           (eval > 0 && step % eval == 0) || (save > 0 && step % save == 0);
}

/* A checkpoint with the metrics up to it. The first one takes the place of what another run has
 * left in the folder, so a run that fails before it has changed nothing there. */
static bb_status save_checkpoint(bb_setup *s, output *out, bb_metrics *metrics) {
    bb_context *ctx = s->trainer.ctx;
    if (bb_metrics_flush(ctx, metrics) != BB_OK) return bb_error(ctx);
    if (!out->saved && s->papers && bb_model_copy_papers(ctx, s->papers, s->out) != BB_OK)
        return bb_error(ctx);
    if (bb_trainer_save(&s->trainer, out->checkpoint) != BB_OK) return bb_error(ctx);
    out->saved = true;
    return bb_metrics_settle(ctx, metrics);
}

/* Trains until --steps or a signal. The last evaluation is left to finish(). */
static bb_status train(bb_setup *s, output *out, bb_metrics *metrics, bb_progress *progress) {
    bb_trainer *t = &s->trainer;
    const bb_train_options *o = &s->options;
    double tokens = (double)(t->run.batch * t->run.seq), shown_loss = 0, shown_rate = 0;
    double since = bb_seconds(); /* the last report */
    int64_t unreported = 0;      /* steps since then */
    bb_evaluation e;
    while (t->step < t->run.steps && !interrupted) {
        bb_step_report r;
        if (!is_reported(s)) {
            if (bb_trainer_step(t, NULL) != BB_OK) return bb_error(t->ctx);
            unreported++;
            continue;
        }
        double begin = unreported ? since : bb_seconds();
        if (bb_trainer_step(t, &r) != BB_OK) return bb_error(t->ctx);
        since = bb_seconds();
        t->elapsed_s += since - begin;
        r.seconds = (since - begin) / (double)(unreported + 1);
        unreported = 0;
        shown_loss = shown_loss == 0 ? r.loss : 0.9 * shown_loss + 0.1 * r.loss;
        shown_rate =
            shown_rate == 0 ? tokens / r.seconds : 0.95 * shown_rate + 0.05 * tokens / r.seconds;
        bb_metrics_add(metrics, &(bb_metrics_row){t->step, "train", r.loss, r.lr, r.grad_norm,
                                                  tokens / r.seconds, t->elapsed_s});
        bb_progress_step(progress, t->step, shown_loss, shown_rate);
        bool last = t->step == t->run.steps;
        if (!last && o->eval_every > 0 && t->step % o->eval_every == 0) {
            if (evaluate(s, metrics, EVALUATE_BYTES, &e) != BB_OK) return bb_error(t->ctx);
            bb_progress_note(progress, "step %" PRId64 "  validation loss %.4f", t->step, e.loss);
        }
        if (!last && o->save_every > 0 && t->step % o->save_every == 0) {
            saving = 1;
            bb_status status = save_checkpoint(s, out, metrics);
            saving = 0;
            if (status != BB_OK) return status;
        }
    }
    return bb_error(t->ctx);
}

static bb_status save_all(bb_setup *s, output *out, bb_metrics *metrics) {
    bb_context *ctx = s->trainer.ctx;
    char title[160];
    saving = 1;
    snprintf(title, sizeof title, "%.40s on %.100s", s->name,
             *s->trainer.run.data ? s->trainer.run.data : "little stories");
    if (save_checkpoint(s, out, metrics) == BB_OK &&
        bb_model_save(s->trainer.model, s->out) == BB_OK)
        bb_plot_loss(ctx,
                     &(bb_plot){title, out->metrics, out->plot, s->corpus.entropy, unit_of(s)});
    saving = 0;
    return bb_error(ctx);
}

static void say_where(const bb_setup *s, const output *out) {
    printf("\nmodel    %s\nmetrics  %s\nplot     %s\n", s->out, out->metrics, out->plot);
    /* As the caller named the program: run.sh's is not on the PATH. */
    printf("more     %s sample --model %s\n", program_invocation_name, s->out);
}

/* After the last step: the loss that counts, all files, a sample, and where things are. */
static bb_status finish(bb_setup *s, output *out, bb_metrics *metrics) {
    bb_trainer *t = &s->trainer;
    const bb_sampling sampling = {.prompt = "",
                                  .tokens = SAMPLE_BYTES,
                                  .temperature = 0.8,
                                  .seed = (uint64_t)t->run.seed,
                                  .plain = true,
                                  .tokenizer = s->tokenizer};
    bb_evaluation e;
    if (evaluate(s, metrics, EVALUATE_LAST_BYTES, &e) != BB_OK) return bb_error(t->ctx);
    if (save_all(s, out, metrics) != BB_OK) return bb_error(t->ctx);
    printf("loss %.4f nats/%s on held-out text", e.loss, unit_of(s));
    if (s->corpus.entropy > 0) printf(", the source's entropy is %.4f", s->corpus.entropy);
    printf("\n(%.4f on %ss with %" PRId64 " or more before them in the window; %" PRId64
           " steps, %.0f s)\n\na sample:\n",
           e.late_loss, unit_of(s), t->run.seq / 2, t->step, t->elapsed_s);
    fflush(stdout);
    if (bb_sample(t->model, &sampling, stdout) != BB_OK) return bb_error(t->ctx);
    printf("\n");
    say_where(s, out);
    return BB_OK;
}

static bb_status run(bb_setup *s, int *code) {
    output out = {.lock = -1};
    bb_metrics metrics = {0};
    bb_progress progress;
    bb_context *ctx = s->trainer.ctx;
    const char *former = s->former_metrics;
    if (open_output(ctx, s->out, &out) == BB_OK)
        bb_metrics_open(ctx, &metrics, out.metrics, former, s->trainer.step, s->trainer.elapsed_s);
    if (bb_error(ctx) == BB_OK) {
        introduce(s, stderr);
        bb_progress_begin(&progress, stderr, s->trainer.step, s->trainer.run.steps, LINE_EVERY);
        catch_signals();
        train(s, &out, &metrics, &progress);
        bb_progress_end(&progress);
        bool stopped = interrupted && s->trainer.step < s->trainer.run.steps;
        if (bb_error(ctx) == BB_OK && stopped) {
            if (s->trainer.step > 0) save_all(s, &out, &metrics);
            *code = 128 + interrupted;
        } else if (bb_error(ctx) == BB_OK) {
            finish(s, &out, &metrics);
        }
    }
    bb_metrics_close(ctx, &metrics);
    if (bb_error(ctx) == BB_OK && *code != BB_EXIT_OK && out.saved)
        fprintf(stderr, "stopped after step %" PRId64 "; to go on: bobbin train --resume %s\n",
                s->trainer.step, s->out);
    else if (bb_error(ctx) == BB_OK && *code != BB_EXIT_OK)
        fprintf(stderr, "stopped before the first step: nothing was saved\n");
    close_output(&out);
    return bb_error(ctx);
}

int bb_cmd_train(int argc, char **argv) {
    bb_setup setup;
    int code = bb_setup_open(&setup, argc, argv);
    if (code != BB_ARGS_GO) return code;
    code = BB_EXIT_OK;
    if (run(&setup, &code) != BB_OK) {
        bb_report(setup.trainer.ctx, "train");
        code = BB_EXIT_SYSTEM; /* the command line was all right: what it names was read, and the
                                  run began */
    }
    bb_setup_close(&setup);
    return code;
}
