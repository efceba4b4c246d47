/* Replays tests/corpus: files that readers have met or may meet. ok-* must be read; bad-* must be
 * refused with one line that names the file. Neither may take more memory than promised, or keep
 * any. The same readers run under libFuzzer (tests/fuzz). */
#include "core/impl.h"
#include "tests/fuzz/readers.h"
#include "tests/io/scratch.h"
#include "tests/support/alloc.h"

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

/* ---- Work in proportion to the file: twice the file takes no more than twice the memory and twice
 * the calls for it, within what is promised, and files this large end at all: a reader that looks
 * at each entry for each other one does some 10^10 steps here. */

enum { SOME = 100000 };

static void write_json(FILE *f, int n) {
    fputc('{', f);
    for (int i = 0; i < n; i++) fprintf(f, "%s\"%d\": [%d]", i ? "," : "", i, i);
    fputc('}', f);
}
static void write_index(FILE *f, int n) {
    fputs("{\"weight_map\": {", f);
    for (int i = 0; i < n; i++)
        fprintf(f, "%s\"t%d\": \"model-%d.safetensors\"", i ? "," : "", i, i % 500);
    fputs("}}", f);
}
static void write_npy(FILE *f, int n) {
    char header[118];
    memset(header, ' ', sizeof header);
    int length = snprintf(header, sizeof header,
                          "{'descr': '<i4', 'fortran_order': False, 'shape': (%d,), }", n);
    header[length] = ' ';
    header[sizeof header - 1] = '\n';
    fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, f);
    fwrite(header, 1, sizeof header, f);
    for (int32_t i = 0; i < n; i++) fwrite(&i, sizeof i, 1, f);
}
static void write_tensors(FILE *f, int n, bool checkpoint) {
    size_t room = (size_t)n * 80 + 400, at = 0;
    char *header = malloc(room);
    if (!header) return;
    header[at++] = '{';
    if (checkpoint)
        at +=
            (size_t)snprintf(header + at, room - at,
                             "\"__metadata__\":{\"format\":\"bobbin checkpoint 1\",\"step\":\"1\","
                             "\"data_position\":\"2\",\"rng_seed\":\"3\",\"rng_offset\":\"4\"},");
    for (int i = 0; i < n; i++)
        at +=
            (size_t)snprintf(header + at, room - at,
                             "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                             i ? "," : "", i, i, i + 1);
    header[at++] = '}';
    while (at % 8) header[at++] = ' ';
    uint64_t bytes = at;
    fwrite(&bytes, sizeof bytes, 1, f);
    fwrite(header, 1, at, f);
    for (int i = 0; i < n; i++) fputc(i, f);
    free(header);
}
static void write_safetensors(FILE *f, int n) { write_tensors(f, n, false); }
static void write_checkpoint(FILE *f, int n) { write_tensors(f, n, true); }

/* A vocabulary as dense as it can be: all bytes, pairs of them, and the merges that make these. */
static int spell(int byte, char out[3]) {
    int c = byte, shift = 0;
    if (byte < 33) c = 256 + byte;
    if (byte > 126 && byte < 161) c = 256 + 33 + (byte - 127);
    if (byte == 173) c = 256 + 33 + 34;
    if (c < 128) {
        if (c == '"' || c == '\\') out[shift++] = '\\';
        out[shift++] = (char)c;
        return shift;
    }
    out[0] = (char)(0xC0 | c >> 6), out[1] = (char)(0x80 | (c & 63));
    return 2;
}
static int repeated; /* the first merge, so often */
static void write_tokenizer(FILE *f, int n) {
    char a[3], b[3];
    int pairs = n / 2 < 256 * 256 ? n / 2 : 256 * 256;
    fputs("{\"model\":{\"type\":\"BPE\",\"vocab\":{", f);
    for (int i = 0; i < 256; i++) fprintf(f, "%s\"%.*s\":%d", i ? "," : "", spell(i, a), a, i);
    for (int i = 0; i < pairs; i++) {
        int first = spell(i / 256, a), second = spell(i % 256, b);
        fprintf(f, ",\"%.*s%.*s\":%d", first, a, second, b, 256 + i);
    }
    fputs("},\"merges\":[", f);
    for (int i = 0; i < pairs; i++) {
        int first = spell(i / 256, a), second = spell(i % 256, b);
        fprintf(f, "%s\"%.*s %.*s\"", i ? "," : "", first, a, second, b);
    }
    for (int i = 0; i < repeated; i++) fputs(",\"! !\"", f);
    fputs("]},\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
          "\"trim_offsets\":true,\"use_regex\":true},"
          "\"decoder\":{\"type\":\"ByteLevel\"}}",
          f);
}

static const struct {
    const char *reader;
    void (*write)(FILE *f, int n);
} growing[] = {
    {"json", write_json},
    {"index", write_index},
    {"npy", write_npy},
    {"safetensors", write_safetensors},
    {"checkpoint", write_checkpoint},
    {"tokenizer", write_tokenizer},
};

static void test_proportion(test *t) {
    scratch s = scratch_open();
    for (size_t k = 0; k < sizeof growing / sizeof growing[0]; k++) {
        const reader *r = find_reader(growing[k].reader);
        uint64_t calls[2];
        size_t bytes[2];
        for (int twice = 0; twice < 2; twice++) {
            const char *path = scratch_path(&s, "large");
            FILE *f = fopen(path, "wb");
            growing[k].write(f, twice ? SOME : SOME / 2);
            fclose(f);
            bb_context *ctx = open_used();
            bb_memory before = bb_memory_stats(ctx);
            r->read(ctx, path);
            CHECK_MSG(t, bb_error(ctx) == BB_OK, "%s: %s", r->name, bb_error_message(ctx));
            bb_memory after = bb_memory_stats(ctx);
            calls[twice] = after.system_allocations - before.system_allocations;
            bytes[twice] = after.bytes_peak - before.bytes_held;
            CHECK_MSG(t, bytes[twice] <= reader_memory(file_size(path)),
                      "%s: took %zu bytes of %zu", r->name, bytes[twice], file_size(path));
            bb_close(ctx);
        }
        CHECK_MSG(t, calls[1] <= 2 * calls[0] + 8 && bytes[1] <= 2 * bytes[0] + (1 << 16),
                  "%s: %llu calls and %zu bytes, for a file of twice the size %llu and %zu",
                  r->name, (unsigned long long)calls[0], bytes[0], (unsigned long long)calls[1],
                  bytes[1]);
    }
    /* The same merge again and again, in as few bytes as it takes. */
    const char *path = scratch_path(&s, "repeated");
    FILE *f = fopen(path, "wb");
    repeated = 200000;
    write_tokenizer(f, 2 * 34 * 256); /* has "!!" */
    repeated = 0;
    fclose(f);
    bb_context *ctx = open_used();
    size_t before = bb_memory_stats(ctx).bytes_held;
    find_reader("tokenizer")->read(ctx, path);
    CHECK(t, bb_memory_stats(ctx).bytes_peak - before <= reader_memory(file_size(path)));
    CHECK_OK(t, ctx);
    bb_close(ctx);
    scratch_close(&s);
}

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
    {"proportion", test_proportion},
};

static void test_all(test *t) {
    for (int i = 0; i < reader_count; i++) {
        bool found = false;
        for (size_t k = 0; k < sizeof rows / sizeof rows[0]; k++)
            found = found || strcmp(rows[k].name, readers[i].name) == 0;
        CHECK_MSG(t, found, "%s is not replayed", readers[i].name);
    }
}
TEST_MAIN(rows)
