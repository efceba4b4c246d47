/* See tools/device.h. */
#include "tools/device.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHOICE_CPU = 0, CHOICE_CUDA, CHOICE_SIMULATION };

const char *bb_device_word(int choice) {
    static const char *const words[] = {"cpu", "cuda", "cuda-sim"};
    return words[choice];
}

/* The simulation is a module of the same name in a folder beside the program. */
static void look_for_simulation(void) {
    char path[PATH_MAX];
    const ssize_t n = readlink("/proc/self/exe", path, sizeof path - sizeof "cuda-sim");
    if (n <= 0 || getenv("BOBBIN_BACKEND_PATH")) return;
    path[n] = '\0';
    char *slash = strrchr(path, '/');
    if (!slash) return;
    memcpy(slash + 1, "cuda-sim", sizeof "cuda-sim");
    setenv("BOBBIN_BACKEND_PATH", path, 0);
}

bb_device bb_choose_device(bb_context *ctx, int choice) {
    const char *why;
    if (choice == CHOICE_CPU || !ctx) return BB_CPU;
    if (choice == CHOICE_SIMULATION) look_for_simulation();
    if (bb_device_available(ctx, BB_CUDA, &why)) return BB_CUDA;
    bb_fail(ctx, BB_ERR_DEVICE, "--device: %s: %s", bb_device_word(choice), why);
    return BB_CPU;
}
