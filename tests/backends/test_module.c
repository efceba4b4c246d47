/* The module of an accelerator: what a machine without one is told, and that a module of another
 * version is not used. Whatever is wrong with it, the CPU works on. */

#include <dlfcn.h>
#include <limits.h>

#include "core/impl.h"
#include "tests/support/test.h"

#define SIMULATED BOBBIN_BINARY_DIR "/cuda-sim/libbobbin_cuda.so"

/* Asks for the device where BOBBIN_BACKEND_PATH says `path`. */
static void check_missing(test *t, const char *path, const char *expected) {
    const char *why = NULL;
    setenv("BOBBIN_BACKEND_PATH", path, 1);
    bb_context *ctx = bb_open(NULL);
    CHECK(t, !bb_device_available(ctx, BB_CUDA, &why));
    CHECK_MSG(t, why && strstr(why, expected), "%.40s: expected \"%s\", got \"%s\"", path, expected,
              why ? why : "(nothing)");
    CHECK_OK(t, ctx);
    CHECK_INT(t, bb_set_device(ctx, BB_CUDA), BB_ERR_DEVICE);
    CHECK_ERROR(t, ctx, BB_ERR_DEVICE, expected);
    CHECK_NEAR(t, bb_item(bb_sum_all(bb_ones(ctx, BB_F32, BB_SHAPE(3)))), 3, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
    unsetenv("BOBBIN_BACKEND_PATH");
}

static void test_missing(test *t) {
    static char long_path[PATH_MAX + 10];
    memset(long_path, 'x', sizeof long_path - 1);
    check_missing(t, "/nowhere/at/all", "its module could not be loaded: ");
    check_missing(t, "/", "its module could not be loaded: ");
    check_missing(t, "libm.so.6", "libm.so.6: not a module of bobbin");
    check_missing(t, long_path, "BOBBIN_BACKEND_PATH is too long");
}

/* The module is handed a table of another version, or of structs of other sizes. */
static void test_other_version(test *t) {
    bb_context *ctx = bb_open(NULL);
    void *module = dlopen(SIMULATED, RTLD_NOW | RTLD_LOCAL);
    if (!CHECK_MSG(t, module, "%s", dlerror())) return;
    bb_module_open_fn open;
    void *symbol = dlsym(module, BB_MODULE_OPEN);
    memcpy(&open, &symbol, sizeof open);
    for (int i = 0; i < 2 && CHECK(t, symbol); i++) {
        const char *why = NULL;
        const bb_host host = {.abi = BB_BACKEND_ABI + (i == 0),
                              .layout = BB_HOST_LAYOUT + (i == 1)};
        CHECK(t, !open(&host, ctx, &why));
        CHECK_TEXT(t, why, "its module was built for another version of bobbin");
    }
    bb_close(ctx);
}

static void test_there(test *t) {
    const char *why = NULL;
    setenv("BOBBIN_BACKEND_PATH", SIMULATED, 1);
    bb_context *ctx = bb_open(NULL);
    CHECK_MSG(t, bb_device_available(ctx, BB_CUDA, &why), "%s", why);
    bb_close(ctx);
    unsetenv("BOBBIN_BACKEND_PATH");
}

static const test_row rows[] = {
    {"missing", test_missing}, {"other_version", test_other_version}, {"there", test_there}};
TEST_MAIN(rows)
