/* `bobbin train` as a person runs it, on settings that take a moment: what it leaves behind, that
 * it learns, that a resumed run is the same run, that a signal ends it well, and that wrong use is
 * one line and exit code 2. */
#include "tests/tools/events_reader.h"

#include <time.h>

/* A tiny model and few bytes a step. */
static const char quick[] = "--model tiny --batch 4 --seq 32 --eval-every 0";

static void write_text(const scratch_folder *f, const char *name) {
    char text[8192];
    size_t n = 0;
    while (n + 40 < sizeof text)
        n += (size_t)snprintf(text + n, sizeof text - n, "the cat sat on the mat %d. ",
                              (int)(n % 7));
    scratch_write(f, name, text, n);
}

static bool same_file(const scratch_folder *f, const char *a, const char *b) {
    size_t a_bytes = 0, b_bytes = 0;
    char *x = scratch_read(f, a, &a_bytes), *y = scratch_read(f, b, &b_bytes);
    bool same = x && y && a_bytes == b_bytes && memcmp(x, y, a_bytes) == 0;
    free(x);
    free(y);
    return same;
}

/* The loss of the first row of a split at or after `step`; NaN: none. */
static double loss_at(const scratch_folder *f, const char *csv, const char *split, long step) {
    char *text = scratch_read(f, csv, NULL), word[8];
    double loss = NAN, found = NAN;
    long at;
    for (char *row = text; row && *row && isnan(found);
         row = strchr(row, '\n') ? strchr(row, '\n') + 1 : NULL) {
        if (sscanf(row, "%ld,%7[a-z],%lf", &at, word, &loss) == 3 && at >= step &&
            strcmp(word, split) == 0)
            found = loss;
    }
    free(text);
    return found;
}

static int count_rows(const scratch_folder *f, const char *csv, const char *part) {
    char *text = scratch_read(f, csv, NULL);
    int n = 0;
    for (char *at = text; at && (at = strstr(at, part)); at++) n++;
    free(text);
    return n;
}

static void files_and_learning(test *t) {
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    write_text(&f, "text");
    int code = program_run(
        &f, "train --data text %s --steps 60 --warmup 10 --eval-every 20 --out deep/run", quick);
    char *out = scratch_read(&f, "out.txt", NULL),
         *csv = scratch_read(&f, "deep/run/metrics.csv", NULL);
    char *config = scratch_read(&f, "deep/run/config.json", NULL),
         *svg = scratch_read(&f, "deep/run/loss.svg", NULL);
    CHECK_INT(t, code, 0);
    if (CHECK(t, out && csv && config && svg)) {
        CHECK(t, strstr(out, "nats/byte") && strstr(out, "deep/run") && strstr(out, "loss.svg"));
        CHECK(t, strstr(out, "more     " BOBBIN_BIN " sample --model deep/run\n"));
        CHECK(t, !strstr(out, "entropy"));
        CHECK(t, strncmp(csv, "step,split,loss,lr,grad_norm,tokens_per_s,elapsed_s\n", 51) == 0);
        CHECK(t,
              strstr(config, "\"hidden_size\": 64") && strstr(config, "\"model_type\": \"llama\""));
        CHECK_INT(t, count_rows(&f, "deep/run/metrics.csv", ",train,"), 60);
        CHECK_INT(t, count_rows(&f, "deep/run/metrics.csv", ",val,"), 3);
        double first = loss_at(&f, "deep/run/metrics.csv", "train", 1),
               last = loss_at(&f, "deep/run/metrics.csv", "val", 60);
        CHECK_NEAR(t, first, log(256), 0.7);
        CHECK_MSG(t, last < first - 2, "loss went from %g to %g", first, last);
    }
    free(out);
    free(csv);
    free(config);
    free(svg);
    scratch_close(&f);
}

/* 20 steps at once, 10 and then 10 more, and 7 with a checkpoint that is older than the end. */
static void resumed_is_the_same(test *t) {
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    write_text(&f, "text");
    CHECK_INT(t, program_run(&f, "train --data text %s --steps 20 --out whole", quick), 0);
    CHECK_INT(t, program_run(&f, "train --data text %s --steps 10 --out half", quick), 0);
    CHECK(t, !same_file(&f, "whole/model.safetensors", "half/model.safetensors"));
    CHECK_INT(t, program_run(&f, "train --resume half --steps 20 --out other"), 0);
    CHECK_INT(t, program_run(&f, "train --resume half --steps 20"), 0);
    CHECK_MSG(t, same_file(&f, "whole/model.safetensors", "half/model.safetensors"),
              "20 steps are not 10 and 10 more");
    CHECK_MSG(t, same_file(&f, "whole/model.safetensors", "other/model.safetensors"),
              "another --out changes numbers");
    CHECK_INT(t, count_rows(&f, "half/metrics.csv", ",train,"), 20);
    CHECK_INT(t, count_rows(&f, "other/metrics.csv", ",train,"), 20);
    for (long step = 1; step <= 20; step++) {
        double a = loss_at(&f, "whole/metrics.csv", "train", step),
               b = loss_at(&f, "half/metrics.csv", "train", step);
        if (!CHECK_MSG(t, a == b, "step %ld: %g, resumed %g", step, a, b)) break;
    }
    /* TensorBoard's files say what metrics.csv says; the resumed run has two, the second counts. */
    read_events events;
    CHECK_INT(t, read_event_folder(&f, "whole", &events), 1);
    CHECK_INT(t, read_event_folder(&f, "half", &events), 2);
    for (long step = 1; step <= 20; step++)
        CHECK_NEAR(t, event_value(&events, "loss/train", step),
                   loss_at(&f, "half/metrics.csv", "train", step), 1e-5);
    CHECK_NEAR(t, event_value(&events, "loss/val", 20), loss_at(&f, "half/metrics.csv", "val", 20),
               1e-5);
    CHECK(t, event_value(&events, "grad_norm", 20) > 0 && event_value(&events, "lr", 20) > 0);
    scratch_close(&f);
}

static void seeds(test *t) {
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    write_text(&f, "text");
    CHECK_INT(t, program_run(&f, "train --data text %s --steps 3 --out a --seed 5", quick), 0);
    CHECK_INT(
        t,
        program_run(&f,
                    "train --data text %s --steps 3 --out b --seed 5 --save-every 1 --eval-every 1",
                    quick),
        0);
    CHECK_INT(t, program_run(&f, "train --data text %s --steps 3 --out c --seed 6", quick), 0);
    CHECK(t, same_file(&f, "a/model.safetensors", "b/model.safetensors"));
    CHECK(t, !same_file(&f, "a/model.safetensors", "c/model.safetensors"));
    scratch_close(&f);
}

static void wait_a_little(void) { nanosleep(&(struct timespec){0, 20000000}, NULL); }

static void interrupt(test *t, int signal_number) {
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    write_text(&f, "text");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (chdir(f.path) != 0 || !freopen("out.txt", "w", stdout) ||
            !freopen("err.txt", "w", stderr))
            _exit(99);
        execl(BOBBIN_BIN, "bobbin", "train", "--data", "text", "--model", "tiny", "--batch", "4",
              "--seq", "32", "--steps", "1000000", "--eval-every", "0", "--out", "run",
              (char *)NULL);
        _exit(98);
    }
    if (!CHECK(t, child > 0)) return;
    /* A line comes every 50 steps: the first one tells that training is under way. */
    for (int i = 0; i < 3000 && count_rows(&f, "err.txt", "loss") == 0; i++) wait_a_little();
    kill(child, signal_number);
    int status = 0;
    waitpid(child, &status, 0);
    CHECK_MSG(t, WIFEXITED(status) && WEXITSTATUS(status) == 128 + signal_number, "status %d",
              status);
    char *err = scratch_read(&f, "err.txt", NULL);
    char *last = err ? strstr(err, "stopped after step ") : NULL;
    long step = 0;
    if (CHECK(t, last && sscanf(last, "stopped after step %ld", &step) == 1 &&
                     strstr(last, "--resume run"))) {
        CHECK(t, step >= 50);
        CHECK_INT(t, count_rows(&f, "run/metrics.csv", ",train,"), step);
        CHECK_INT(t, program_run(&f, "train --resume run --steps %ld", step + 5), 0);
        CHECK_INT(t, count_rows(&f, "run/metrics.csv", ",train,"), step + 5);
        CHECK_INT(t,
                  program_run(&f,
                              "train --data text %s --steps %ld --decay-steps 1000000 --out whole",
                              quick, step + 5),
                  0);
        CHECK_MSG(t, same_file(&f, "whole/model.safetensors", "run/model.safetensors"),
                  "an interruption changes numbers");
    }
    free(err);
    scratch_close(&f);
}

static void interrupted_by_sigint(test *t) { interrupt(t, SIGINT); }
static void interrupted_by_sigterm(test *t) { interrupt(t, SIGTERM); }
static void interrupted_by_sighup(test *t) { interrupt(t, SIGHUP); }

static void models(test *t) {
    static const char config[] =
        "{\"hidden_size\": 32, \"num_hidden_layers\": 1, \"num_attention_heads\": 4, "
        "\"num_key_value_heads\": 2,"
        "\"intermediate_size\": 48, \"max_position_embeddings\": 32, \"vocab_size\": 256,"
        "\"tie_word_embeddings\": true, \"rope_theta\": 5000.0, \"rope_scaling\": null}";
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    write_text(&f, "text");
    scratch_write(&f, "my.json", config, strlen(config));
    CHECK_INT(t, program_run(&f, "train --data text --model my.json --batch 2 --steps 2"), 0);
    char *saved = scratch_read(&f, "runs/my/config.json", NULL);
    if (CHECK(t, saved))
        CHECK(t,
              strstr(saved, "\"rope_theta\": 5000") && strstr(saved, "\"num_key_value_heads\": 2"));
    free(saved);
    CHECK_INT(t, program_run(&f, "train --data text --model runs/my --batch 2 --steps 2"), 0);
    CHECK_INT(
        t,
        program_run(
            &f, "train --data text --model runs/my-more/config.json --batch 2 --steps 1 --out c"),
        0);
    CHECK_INT(
        t,
        program_run(
            &f, "train --data text --model my.json --batch 2 --steps 2 --dtype bf16 --out half"),
        0);
    CHECK(t, !same_file(&f, "runs/my/model.safetensors", "half/model.safetensors"));
    scratch_close(&f);
}

static void default_text_has_an_entropy(test *t) {
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    CHECK_INT(t, program_run(&f, "train --model tiny --batch 2 --seq 16 --steps 2"), 0);
    char *out = scratch_read(&f, "out.txt", NULL),
         *svg = scratch_read(&f, "runs/tiny/loss.svg", NULL);
    if (CHECK(t, out && svg))
        CHECK(t, strstr(out, "the source's entropy is 0.") && strstr(svg, "entropy of the source"));
    free(out);
    free(svg);
    scratch_close(&f);
}

static void wrong_use(test *t) {
    static const struct {
        const char *arguments, *part;
        int code;
    } cases[] = {
        {"--data missing", "missing", 2},
        {"--data .", "folder", 2},
        {"--data empty", "expected at least", 2},
        {"--data short", "expected at least", 2},
        {"--data '\xff'", "UTF-8", 2},
        {"--data text --steps 0", "--steps", 2},
        {"--data text --steps x", "--steps", 2},
        {"--data text --lr 0.1 --min-lr 0.2", "--min-lr", 2},
        {"--data text --model huge", "--model", 2},
        {"--data text --model bad.json", "bad.json", 2},
        {"--data text --model few.json", "intermediate_size", 2},
        {"--data text --model act.json", "hidden_act", 2},
        {"--data text --model key.json", "no_such_key", 2},
        {"--data text --model .", "config.json", 2},
        {"--data text --frobnicate", "frobnicate", 2},
        {"--resume missing", "missing", 2},
        {"--resume run", "finished", 2},
        {"--resume run --steps 9 --batch 3", "--batch", 2},
        {"--resume run --steps 9 --data other", "text", 2},
        {"--data text --model tiny --steps 1 --out text", "text", 1},
    };
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    write_text(&f, "text");
    scratch_write(&f, "other", "abcdefgh", 8);
    scratch_write(&f, "empty", "", 0);
    scratch_write(&f, "short", "abc", 3);
    scratch_write(&f, "\xff", "a name that a checkpoint cannot hold", 36);
    scratch_write(&f, "bad.json", "{", 1);
#define CONFIG                                                                                     \
    "{\"hidden_size\": 32, \"num_hidden_layers\": 1, \"num_attention_heads\": 4, "                 \
    "\"max_position_embeddings\": 32, \"vocab_size\": 256"
    scratch_write(&f, "few.json", CONFIG "}", sizeof CONFIG);
#define WIDE CONFIG ", \"intermediate_size\": 48"
    scratch_write(&f, "act.json", WIDE ", \"hidden_act\": \"relu6\"}",
                  strlen(WIDE ", \"hidden_act\": \"relu6\"}"));
    scratch_write(&f, "key.json", WIDE ", \"no_such_key\": 1}",
                  strlen(WIDE ", \"no_such_key\": 1}"));
    CHECK_INT(t, program_run(&f, "train --data text %s --steps 2 --out run", quick), 0);
    char *other = scratch_read(&f, "text", NULL);
    if (other) {
        other[100] ^= 1;
        scratch_write(&f, "other", other, strlen(other));
    }
    free(other);
    for (int i = 0; i < COUNT(cases); i++) {
        int code = program_run(&f, "train %s", cases[i].arguments);
        check_refused(t, &f, code, cases[i].code, cases[i].part);
    }
    scratch_close(&f);
}

static void device_that_is_not_there(test *t) {
    scratch_folder f;
    const char *why = NULL;
    bb_context *ctx = test_open();
    bool there = bb_device_available(ctx, BB_CUDA, &why);
    bb_close(ctx);
    if (there) {
        test_skip(t, "there is a CUDA device");
        return;
    }
    if (!scratch_open(t, &f)) return;
    check_refused(t, &f, program_run(&f, "train --steps 1 --device cuda"), 1, "--device");
    scratch_close(&f);
}

/* The CUDA backend in the host simulation: recorded steps, and the CPU's losses but for the order
 * of sums, within `bound` nats. */
static void check_simulated(test *t, const scratch_folder *f, const char *dtype, double bound) {
    static const char arguments[] =
        "--data text --model small.json --batch 2 --seq 16 --steps 20 --lr 1e-3 --warmup 2";
    CHECK_INT(t, program_run(f, "train %s --dtype %s --device cpu --out cpu", arguments, dtype), 0);
    CHECK_INT(
        t, program_run(f, "train %s --dtype %s --device cuda-sim --out cuda", arguments, dtype), 0);
    for (long step = 10; step <= 20; step += 10)
        CHECK_NEAR(t, loss_at(f, "cuda/metrics.csv", "train", step),
                   loss_at(f, "cpu/metrics.csv", "train", step), bound);
    CHECK_NEAR(t, loss_at(f, "cuda/metrics.csv", "val", 20),
               loss_at(f, "cpu/metrics.csv", "val", 20), bound);
    CHECK(t, loss_at(f, "cpu/metrics.csv", "val", 20) < loss_at(f, "cpu/metrics.csv", "train", 10));
}

static void simulated_gpu(test *t) {
    static const char config[] =
        "{\"hidden_size\": 16, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
        "\"max_position_embeddings\": 16, \"vocab_size\": 256, \"intermediate_size\": 24}";
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    write_text(&f, "text");
    scratch_write(&f, "small.json", config, sizeof config - 1);
    check_simulated(t, &f, "f32", 1e-4);
    check_simulated(t, &f, "bf16", 1e-2);
    scratch_close(&f);
}

static const test_row rows[] = {
    {"files_and_learning", files_and_learning},
    {"resumed_is_the_same", resumed_is_the_same},
    {"seeds", seeds},
    {"interrupted_by_sigint", interrupted_by_sigint},
    {"interrupted_by_sigterm", interrupted_by_sigterm},
    {"interrupted_by_sighup", interrupted_by_sighup},
    {"models", models},
    {"default_text_has_an_entropy", default_text_has_an_entropy},
    {"wrong_use", wrong_use},
    {"simulated_gpu", simulated_gpu},
    {"device_that_is_not_there", device_that_is_not_there},
};
TEST_MAIN(rows)
