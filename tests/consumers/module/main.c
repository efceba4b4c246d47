/* Says whether there is a GPU, and why not. */
#include <bobbin.h>

int main(void) {
    bb_context *ctx = bb_open(NULL);
    const char *why = NULL;
    bool available = bb_device_available(ctx, BB_CUDA, &why);
    printf("available %d: %s\n", available, why ? why : "");
    bb_close(ctx);
    return 0;
}
