/* `bobbin sample`: what it writes, that a seed repeats it, that the cache changes nothing, and what
 * it refuses. */
#include "tools/sampler.h"

#include "tests/tools/program.h"

static char *sample(test *t, const scratch_folder *f, const char *arguments, size_t *bytes) {
    CHECK_INT(t, program_run(f, "sample --model run %s", arguments), 0);
    return scratch_read(f, "out.txt", bytes);
}

static bool train_a_model(test *t, const scratch_folder *f) {
    char text[4096];
    for (size_t i = 0; i < sizeof text; i++) text[i] = "abcdefgh"[i % 8];
    scratch_write(f, "text", text, sizeof text);
    return CHECK_INT(
        t,
        program_run(
            f, "train --data text --model tiny --batch 8 --seq 32 --steps 60 --warmup 5 --lr 3e-3 "
               "--eval-every 0 --out run"),
        0);
}

static void writes_what_it_learned(test *t) {
    scratch_folder f;
    size_t bytes = 0;
    if (!scratch_open(t, &f)) return;
    if (train_a_model(t, &f)) {
        /* More than a window (64), so that the cache fills up and is fed again. */
        char *text = sample(t, &f, "--prompt cdefghab --tokens 200 --temperature 0", &bytes);
        CHECK_INT(t, bytes, 208);
        for (size_t i = 0; text && i < bytes; i++) {
            if (!CHECK_MSG(t, text[i] == "cdefghab"[i % 8], "byte %d of: %s", (int)i, text)) break;
        }
        free(text);
    }
    scratch_close(&f);
}

static void seeds_and_bounds(test *t) {
    scratch_folder f;
    size_t a_bytes = 0, b_bytes = 0, none = 1;
    if (!scratch_open(t, &f)) return;
    if (train_a_model(t, &f)) {
        char *a = sample(t, &f, "--tokens 100 --temperature 3 --seed 1", &a_bytes);
        char *b = sample(t, &f, "--tokens 100 --temperature 3 --seed 1", &b_bytes);
        char *c = sample(t, &f, "--tokens 100 --temperature 3 --seed 2", NULL);
        char *sharp = sample(t, &f, "--tokens 100 --temperature 0 --seed 1", NULL);
        char *one = sample(t, &f, "--tokens 100 --temperature 3 --top-k 1 --seed 3", NULL);
        if (CHECK(t, a && b && c && sharp && one)) {
            CHECK_INT(t, a_bytes, 100);
            CHECK(t, a_bytes == b_bytes && memcmp(a, b, 100) == 0);
            CHECK(t, memcmp(a, c, 100) != 0);
            CHECK(t, memcmp(sharp, one, 100) == 0);
        }
        free(sample(t, &f, "--tokens 0", &none));
        CHECK_INT(t, none, 0);
        free(a);
        free(b);
        free(c);
        free(sharp);
        free(one);
    }
    scratch_close(&f);
}

static void wrong_use(test *t) {
    static const struct {
        const char *arguments, *part;
    } cases[] = {{"", "--model"},
                 {"--model missing", "missing"},
                 {"--model .", "config.json"},
                 {"--model run --tokens -1", "--tokens"},
                 {"--model run --temperature -1", "--temperature"},
                 {"--model torn", "model.safetensors"}};
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    if (train_a_model(t, &f)) {
        size_t bytes = 0;
        char *config = scratch_read(&f, "run/config.json", &bytes), torn[256];
        snprintf(torn, sizeof torn, "%s/torn", f.path);
        if (CHECK(t, config && mkdir(torn, 0777) == 0)) {
            scratch_write(&f, "torn/config.json", config, bytes);
            scratch_write(&f, "torn/model.safetensors", "not a model", 11);
        }
        free(config);
        for (int i = 0; i < COUNT(cases); i++) {
            check_refused(t, &f, program_run(&f, "sample %s", cases[i].arguments), 2,
                          cases[i].part);
        }
    }
    scratch_close(&f);
}

/* Weights that are not numbers: an error, not bytes of nothing. */
static void not_a_number(test *t) {
    scratch_folder f;
    char folder[256];
    size_t bytes = 0, n = 0, header = 0;
    if (!scratch_open(t, &f)) return;
    snprintf(folder, sizeof folder, "%s/nan", f.path);
    if (train_a_model(t, &f) && CHECK(t, mkdir(folder, 0777) == 0)) {
        char *config = scratch_read(&f, "run/config.json", &n),
             *model = scratch_read(&f, "run/model.safetensors", &bytes);
        for (int i = 7; model && i >= 0; i--) header = header << 8 | (unsigned char)model[i];
        if (CHECK(t, config && model && 8 + header < bytes)) {
            memset(model + 8 + header, 0xff, bytes - 8 - header);
            scratch_write(&f, "nan/config.json", config, n);
            scratch_write(&f, "nan/model.safetensors", model, bytes);
        }
        free(config);
        free(model);
        check_refused(t, &f, program_run(&f, "sample --model nan --tokens 6"), 2,
                      "expected finite logits from the model, got");
        check_refused(t, &f, program_run(&f, "sample --model nan --tokens 6 --temperature 0"), 2,
                      "expected finite logits from the model, got");
    }
    scratch_close(&f);
}

static const test_row rows[] = {
    {"writes_what_it_learned", writes_what_it_learned},
    {"seeds_and_bounds", seeds_and_bounds},
    {"wrong_use", wrong_use},
    {"not_a_number", not_a_number},
};
TEST_MAIN(rows)
