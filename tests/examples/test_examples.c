/* Every example builds, succeeds and has something to say. */
#include <sys/wait.h>

#include "tests/support/test.h"

static void run(test *t, const char *name, const char *part) {
    char command[1024], text[16384];
    snprintf(command, sizeof command, "OMP_WAIT_POLICY=passive \"%s/examples/example_%s\" 2>&1",
             BOBBIN_BINARY_DIR, name);
    FILE *pipe = popen(command, "r");
    if (!pipe) {
        CHECK_MSG(t, false, "cannot start %s", command);
        return;
    }
    size_t n = fread(text, 1, sizeof text - 1, pipe);
    text[n] = 0;
    while (fgetc(pipe) != EOF) {}
    int status = pclose(pipe);
    CHECK_MSG(t, WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: status %d, output:\n%s", name,
              status, text);
    CHECK_MSG(t, strstr(text, part) != NULL, "%s: \"%s\" is not in its output:\n%s", name, part,
              text);
}

static void tensors(test *t) { run(t, "01_tensors", "by hand: 0.1"); }
static void mlp(test *t) { run(t, "02_mlp", "step 399"); }
static void rms_norm(test *t) {
    run(t, "03_rms_norm", "fused      1 node on the tape: RMSNormImpl");
}
static void tiny_lm(test *t) { run(t, "04_tiny_lm", "buckle my shoe"); }
static void own_op(test *t) { run(t, "05_own_op", "gradient check: passed"); }

static const test_row rows[] = {
    {"01_tensors", tensors}, {"02_mlp", mlp},       {"03_rms_norm", rms_norm},
    {"04_tiny_lm", tiny_lm}, {"05_own_op", own_op},
};
TEST_MAIN(rows)
