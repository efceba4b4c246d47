/* A libFuzzer target for one reader of readers.h: compiled once per reader with BOBBIN_READER set,
 * by -DBOBBIN_FUZZ=ON with clang. Beside what the sanitizers see it checks that a reader leaves
 * right or refuses with one line, takes no more memory than it promises and gives all of it back.
 *
 * Files are not written: the linker turns bb_file_map and bb_file_unmap into the two below, which
 * hand out a block of exactly the file's size, so that a read past its end is caught. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/impl.h"
#include "tests/fuzz/readers.h"

static const uint8_t *input;
static size_t input_bytes, live, peak;

bb_status __wrap_bb_file_map(bb_context *ctx, const char *path, bb_file *file);
void __wrap_bb_file_unmap(bb_file *file);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

bb_status __wrap_bb_file_map(bb_context *ctx, const char *path, bb_file *file) {
    (void)path;
    char *copy = malloc(input_bytes ? input_bytes : 1);
    if (!copy) return bb_fail(ctx, BB_ERR_MEMORY, "out of memory");
    if (input_bytes) memcpy(copy, input, input_bytes);
    *file = (bb_file){copy, input_bytes};
    return bb_error(ctx);
}

void __wrap_bb_file_unmap(bb_file *file) {
    free((void *)(uintptr_t)file->data);
    *file = (bb_file){"", 0};
}

static void *allocate(void *user, size_t bytes) {
    (void)user;
    void *block = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (block) live += bytes;
    if (live > peak) peak = live;
    return block;
}

static void release(void *user, void *block, size_t bytes) {
    (void)user;
    live -= bytes;
    free(block);
}

static void require(bool ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "%s: %s\n", BOBBIN_READER, what);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const bb_allocator allocator = {allocate, release, NULL};
    static bb_context *ctx;
    static const reader *target;
    if (!ctx) {
        ctx = bb_open(&(bb_options){.allocator = &allocator});
        target = find_reader(BOBBIN_READER);
        require(ctx && target, "cannot begin");
        for (int i = 0; i < 2; i++) { /* the first tensors of a context, which no reader pays for */
            bb_empty(ctx, BB_F32, BB_SCALAR);
            bb_end_step(ctx);
        }
        bb_pool_free(ctx);
    }
    input = data;
    input_bytes = bytes;
    size_t before = peak = live;
    target->read(ctx, BOBBIN_READER);
    bb_status status = bb_error(ctx);
    require(status == BB_OK || status == BB_ERR_FORMAT || status == BB_ERR_UNSUPPORTED ||
                status == BB_ERR_ARGUMENT,
            bb_error_message(ctx));
    require(!strchr(bb_error_message(ctx), '\n'), "an error of several lines");
    require(peak - before <= reader_memory(bytes), "more memory than promised");
    bb_clear_error(ctx);
    bb_end_step(ctx);
    bb_pool_free(ctx);
    if (live > before) { /* kept for the next step, or lost */
        bb_close(ctx);
        ctx = NULL;
        require(live == 0, "memory was not given back");
    }
    return 0;
}
