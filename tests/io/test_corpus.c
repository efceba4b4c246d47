/* Replays tests/corpus: files that readers have met or may meet. ok-* must be read; bad-* must be
 * refused with one line that names the file. Neither may take more memory than promised, or keep
 * any. The same readers run under libFuzzer (tests/fuzz); how their work grows is test_work.c. */
#include "core/impl.h"
#include "tests/fuzz/readers.h"
#include "tests/io/scratch.h"

static size_t file_size(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 ? (size_t)info.st_size : 0;
}

/* With the first tensors behind it, which no reader pays for. */
static bb_context *open_used(void) {
    bb_context *ctx = test_open();
    for (int i = 0; i < 2; i++) {
        bb_empty(ctx, BB_F32, BB_SCALAR);
        bb_end_step(ctx);
    }
    bb_pool_free(ctx);
    return ctx;
}

static void replay(test *t, const reader *r, const char *path, bool good) {
    bb_context *ctx = open_used();
    size_t before = bb_memory_stats(ctx).bytes_held;
    r->read(ctx, path);
    bb_status status = bb_error(ctx);
    const char *message = bb_error_message(ctx);
    if (good) {
        CHECK_MSG(t, status == BB_OK, "%s: expected it to be read, got: %s", path, message);
    } else {
        CHECK_MSG(t, status == BB_ERR_FORMAT || status == BB_ERR_UNSUPPORTED,
                  "%s: expected it to be refused, got %s: %s", path, bb_status_name(status),
                  message);
        CHECK_MSG(t, strncmp(message, path, strlen(path)) == 0 && !strchr(message, '\n'),
                  "%s: expected one line that begins with the file, got: %s", path, message);
    }
    bb_memory memory = bb_memory_stats(ctx);
    CHECK_MSG(t, memory.bytes_peak - before <= reader_memory(file_size(path)), "%s: took %zu bytes",
              path, memory.bytes_peak - before);
    bb_clear_error(ctx);
    bb_end_step(ctx);
    bb_pool_free(ctx);
    CHECK_INT(t, bb_memory_stats(ctx).bytes_held, before);
    bb_close(ctx);
}

static void replay_folder(test *t, const char *name) {
    const reader *r = find_reader(name);
    char folder[512], path[1024];
    snprintf(folder, sizeof folder, "%s/tests/corpus/%s", BOBBIN_SOURCE_DIR, name);
    DIR *d = opendir(folder);
    if (!CHECK_MSG(t, r && d, "%s: no such reader, or no folder %s", name, folder)) return;
    int good = 0, bad = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        bool is_good = strncmp(e->d_name, "ok", 2) == 0;
        CHECK_MSG(t, is_good || strncmp(e->d_name, "bad-", 4) == 0, "%s: expected ok or bad- first",
                  e->d_name);
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        replay(t, r, path, is_good);
        *(is_good ? &good : &bad) += 1;
    }
    closedir(d);
    CHECK_MSG(t, good > 0 && bad > 4, "%s: %d good files, %d bad ones", name, good, bad);
}

static void test_json(test *t) { replay_folder(t, "json"); }
static void test_safetensors(test *t) { replay_folder(t, "safetensors"); }
static void test_checkpoint(test *t) { replay_folder(t, "checkpoint"); }
static void test_npy(test *t) { replay_folder(t, "npy"); }
static void test_config(test *t) { replay_folder(t, "config"); }
static void test_index(test *t) { replay_folder(t, "index"); }
static void test_tokenizer(test *t) { replay_folder(t, "tokenizer"); }

/* Every reader is replayed above. */
static void test_all(test *t);

static const test_row rows[] = {
    {"json", test_json},
    {"safetensors", test_safetensors},
    {"checkpoint", test_checkpoint},
    {"npy", test_npy},
    {"config", test_config},
    {"index", test_index},
    {"tokenizer", test_tokenizer},
    {"all readers", test_all},
};

static void test_all(test *t) {
    for (int i = 0; i < reader_count; i++) {
        bool found = false;
        for (int k = 0; k < COUNT(rows); k++)
            found = found || strcmp(rows[k].name, readers[i].name) == 0;
        CHECK_MSG(t, found, "%s is not replayed", readers[i].name);
    }
}
TEST_MAIN(rows)
