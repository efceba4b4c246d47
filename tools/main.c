/* The `bobbin` program: a table of commands. Each lives in tools/cmd_<name>.c. */
#include "bobbin.h"
#include "tools/commands.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} command;

static const command commands[] = {
    {"train", "trains a transformer and saves it", bb_cmd_train},
    {"sample", "continues a text with a trained model", bb_cmd_sample},
    {"ops", "lists every op", bb_cmd_ops},
    {"op", "runs one op on tensors from a file", bb_cmd_op},
    {"gradcheck", "holds gradients against finite differences", bb_cmd_gradcheck},
    {"export", "writes a trained model as ONNX", bb_cmd_export},
    {"bench", "measures ops and training", bb_cmd_bench},
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

static void print_help(void) {
    printf("usage: bobbin COMMAND [flags]\n\n");
    for (int i = 0; i < COMMANDS; i++)
        printf("  %-10s %s\n", commands[i].name, commands[i].summary);
    printf("\n`bobbin COMMAND --help` tells more; `bobbin --version` the version.\n");
}

/* GCC's OpenMP lets a waiting thread spin for milliseconds. Where something else wants its core,
 * that makes a training step twenty times slower; a shorter spin costs nothing measurable where
 * nothing does. The library reads the number before main. */
static void start_again_with_short_spins(char **argv) {
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    if (setenv("GOMP_SPINCOUNT", "2000", 1) == 0)
        execv("/proc/self/exe", argv); /* comes back only if it cannot */
}

int main(int argc, char **argv) {
    start_again_with_short_spins(argv);
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        print_help();
        return bb_flush_stdout("--help", BB_EXIT_OK);
    }
    if (strcmp(name, "--version") == 0) {
        printf("bobbin %s\n", BOBBIN_VERSION);
        return bb_flush_stdout("--version", BB_EXIT_OK);
    }
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0)
            return bb_flush_stdout(name, commands[i].run(argc - 1, argv + 1));
    if (argc < 2) return bb_usage_error(NULL, "expected a command (see bobbin --help)");
    return bb_usage_error(NULL, "unknown command '%s' (see bobbin --help)", name);
}
