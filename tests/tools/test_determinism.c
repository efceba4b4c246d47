/* A short training run gives the same bytes when it is repeated, when it is resumed, and with 1, 2
 * and 4 threads: always with our own matrix products, and under BOBBIN_DETERMINISTIC=1 whatever was
 * asked for. */
#include "tests/tools/program.h"

#define RUN                                                                                        \
    "train --data text --model tiny --batch 8 --seq 48 --warmup 3 --eval-every 0 --save-every 0 "

static char *model_of(const scratch_folder *s, const char *out, size_t *bytes) {
    char name[64];
    snprintf(name, sizeof name, "%s/model.safetensors", out);
    return scratch_read(s, name, bytes);
}

static void check_same(test *t, const scratch_folder *s, const char *out, const char *what) {
    size_t a_bytes = 0, b_bytes = 1;
    char *a = model_of(s, "first", &a_bytes), *b = model_of(s, out, &b_bytes);
    CHECK_MSG(t, a && b && a_bytes == b_bytes && memcmp(a, b, a_bytes) == 0, "%s: other bytes",
              what);
    free(a);
    free(b);
}

/* Text with words in no order, so that sums are not round numbers. */
static void write_text(const scratch_folder *s) {
    enum { BYTES = 6000 };
    static char text[BYTES];
    uint64_t state = 3;
    for (int i = 0; i < BYTES; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        text[i] = "etaoin shrdlu\n.,"[state >> 60];
    }
    scratch_write(s, "text", text, sizeof text);
}

static void check_all(test *t, const char *dtype) {
    scratch_folder s;
    if (!scratch_open(t, &s)) return;
    write_text(&s);
    CHECK_INT(t, program_run(&s, RUN "--dtype %s --steps 8 --threads 1 --out first", dtype), 0);
    CHECK_INT(t, program_run(&s, RUN "--dtype %s --steps 8 --threads 1 --out again", dtype), 0);
    check_same(t, &s, "again", "repeated");
    for (int threads = 2; threads <= 4; threads += 2) {
        CHECK_INT(
            t, program_run(&s, RUN "--dtype %s --steps 8 --threads %d --out more", dtype, threads),
            0);
        check_same(t, &s, "more", threads == 2 ? "2 threads" : "4 threads");
    }
    CHECK_INT(t, program_run(&s, RUN "--dtype %s --steps 3 --threads 4 --out part", dtype), 0);
    CHECK_INT(t, program_run(&s, "train --resume part --steps 8 --threads 2"), 0);
    check_same(t, &s, "part", "resumed");
    CHECK_INT(t, program_run(&s, RUN "--dtype %s --steps 8 --seed 1 --out other", dtype), 0);
    size_t a_bytes = 0, b_bytes = 0; /* a comparison that can fail */
    char *a = model_of(&s, "first", &a_bytes), *b = model_of(&s, "other", &b_bytes);
    CHECK(t, a && b && a_bytes == b_bytes && memcmp(a, b, a_bytes) != 0);
    free(a);
    free(b);
    scratch_close(&s);
}

static void own_products(test *t) {
    setenv("BOBBIN_GEMM", "own", 1);
    check_all(t, "f32");
    check_all(t, "bf16");
    unsetenv("BOBBIN_GEMM");
}

static void asked_for(test *t) {
    setenv("BOBBIN_DETERMINISTIC", "1", 1);
    setenv("BOBBIN_GEMM", "openblas", 1);
    check_all(t, "f32");
    setenv("BOBBIN_ISA", "baseline", 1);
    unsetenv("BOBBIN_GEMM");
    check_all(t, "f32");
    unsetenv("BOBBIN_ISA");
    unsetenv("BOBBIN_DETERMINISTIC");
}

static const test_row rows[] = {{"own_products", own_products}, {"asked_for", asked_for}};
TEST_MAIN(rows)
