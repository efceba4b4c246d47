/* `bobbin bench`: that each benchmark runs and prints what tests/bench/table.py reads. No figure is
 * judged here. */
#include "tests/tools/program.h"

static void check_rows(test *t, const char *arguments, int rows, const char *const *parts) {
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    CHECK_INT(t, program_run(&f, "bench --json --rounds 1 --budget 0 %s", arguments), 0);
    char *out = scratch_read(&f, "out.txt", NULL);
    int lines = 0;
    for (const char *row = out; row && *row; row = strchr(row, '\n') + 1) {
        lines++;
        for (int i = 0; parts[i]; i++) {
            const char *at = strstr(row, parts[i]), *end = strchr(row, '\n');
            CHECK_MSG(t, at && at < end, "%s: expected %s in: %s", arguments, parts[i], row);
        }
        if (!CHECK(t, row[0] == '{' && strchr(row, '\n'))) break;
    }
    CHECK_INT(t, lines, rows);
    if (out) CHECK(t, !strstr(out, "nan") && !strstr(out, "inf"));
    free(out);
    scratch_close(&f);
}

static void each_benchmark(test *t) {
    static const char *const op[] = {"\"what\": \"bobbin ", "\"us\": {\"min\": ", "\"median\": ",
                                     "\"system_allocations\": 0}", NULL};
    static const char *const train[] = {"\"model\": \"tiny\"",
                                        "\"step_ms\": {\"min\": ",
                                        "\"peak_rss_mib\": ",
                                        "\"first_step_done_s\": ",
                                        "\"system_allocations_per_step\": 0}",
                                        NULL};
    check_rows(t, "start", 2, op);
    check_rows(t, "op", 2, op);
    check_rows(t, "train --model tiny --steps 3", 1, train);
    check_rows(t, "train --model tiny --steps 3 --dtype bf16", 1, train);
}

/* In simulation the calls run, and the rows say that nothing was measured. */
static void gpu_in_simulation(test *t) {
    static const char *const parts[] = {"\"what\": \"bobbin ",
                                        "\"rows\": ", "\"not_measured\": \"a simulation", NULL};
    check_rows(t, "gpu --device cuda-sim", 12, parts);
}

static void wrong_use(test *t) {
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    check_refused(t, &f, program_run(&f, "bench speed"), 2, "'speed'");
    check_refused(t, &f, program_run(&f, "bench train --model huge"), 2, "'huge'");
    check_refused(t, &f, program_run(&f, "bench gpu"), 2, "expected --device cuda");
    check_refused(t, &f, program_run(&f, "bench op --rounds 0"), 2, "--rounds");
    scratch_close(&f);
}

static const test_row rows[] = {
    {"each_benchmark", each_benchmark},
    {"gpu_in_simulation", gpu_in_simulation},
    {"wrong_use", wrong_use},
};
TEST_MAIN(rows)
