/* How the readers' work grows with the file: eight times the file takes about eight times the
 * memory, the calls for it and the steps. Steps are counted, not timed: the readers are compiled
 * once more for this program, with a call at each basic block (CMakeLists.txt, bobbin_counted), and
 * what the C library does for them is counted by the bytes that it looks at. */
#include "core/impl.h"
#include "tests/fuzz/readers.h"
#include "tests/io/scratch.h"

/* ---- Counting */

static _Thread_local uint64_t steps;
static bool sorted_by_library; /* qsort of the C library may take memory that nobody counts */

void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_pc(void) { steps++; }

void *__real_memcpy(void *to, const void *from, size_t n);
void *__wrap_memcpy(void *to, const void *from, size_t n);
void *__wrap_memcpy(void *to, const void *from, size_t n) {
    steps += n;
    return __real_memcpy(to, from, n);
}
void *__real_memmove(void *to, const void *from, size_t n);
void *__wrap_memmove(void *to, const void *from, size_t n);
void *__wrap_memmove(void *to, const void *from, size_t n) {
    steps += n;
    return __real_memmove(to, from, n);
}
void *__real_memset(void *to, int c, size_t n);
void *__wrap_memset(void *to, int c, size_t n);
void *__wrap_memset(void *to, int c, size_t n) {
    steps += n;
    return __real_memset(to, c, n);
}
void *__real_memchr(const void *in, int c, size_t n);
void *__wrap_memchr(const void *in, int c, size_t n);
void *__wrap_memchr(const void *in, int c, size_t n) {
    char *found = __real_memchr(in, c, n);
    steps += found ? (size_t)(found - (const char *)in) : n;
    return found;
}
int __real_memcmp(const void *a, const void *b, size_t n);
int __wrap_memcmp(const void *a, const void *b, size_t n);
int __wrap_memcmp(const void *a, const void *b, size_t n) {
    const char *x = a, *y = b;
    for (size_t i = 0; i < n && x[i] == y[i]; i++) steps++;
    return __real_memcmp(a, b, n);
}
size_t __real_strlen(const char *text);
size_t __wrap_strlen(const char *text);
size_t __wrap_strlen(const char *text) {
    size_t n = __real_strlen(text);
    steps += n;
    return n;
}
int __real_strcmp(const char *a, const char *b);
int __wrap_strcmp(const char *a, const char *b);
int __wrap_strcmp(const char *a, const char *b) {
    for (size_t i = 0; a[i] && a[i] == b[i]; i++) steps++;
    return __real_strcmp(a, b);
}
void __real_qsort(void *items, size_t n, size_t bytes, int (*compare)(const void *, const void *));
void __wrap_qsort(void *items, size_t n, size_t bytes, int (*compare)(const void *, const void *));
void __wrap_qsort(void *items, size_t n, size_t bytes, int (*compare)(const void *, const void *)) {
    sorted_by_library = true;
    __real_qsort(items, n, bytes, compare);
}

/* ---- Files that grow: each way for a file to become long that might cost more than its length */

static void repeat(FILE *f, int n, const char *first, const char *further) {
    for (int i = 0; i < n; i++) fputs(i ? further : first, f);
}

static void json_keys(FILE *f, int n) {
    fputc('{', f);
    for (int i = 0; i < n; i++) fprintf(f, "%s\"%d\": [%d]", i ? "," : "", i, i);
    fputc('}', f);
}
static void json_long_keys(FILE *f, int n) { /* that differ at their end */
    fputc('{', f);
    for (int i = 0; i < n / 8; i++) fprintf(f, "%s\"%0100d\": {}", i ? "," : "", i);
    fputc('}', f);
}
static void json_nested(FILE *f, int n) { /* as deep as may be, and long there */
    repeat(f, 60, "{\"a\": ", "{\"a\": ");
    fputc('[', f);
    repeat(f, n, "1", ", 1");
    fputc(']', f);
    repeat(f, 60, "}", "}");
}
static void json_string(FILE *f, int n) {
    fputs("[\"", f);
    repeat(f, n, "\\u00e9\\n", "\\u00e9\\n");
    fputs("\"]", f);
}
static void json_spaces(FILE *f, int n) {
    fprintf(f, "[%*s1%*s,%*s2%*s]", n, "", n, "", n, "", n, "");
}

static void config(FILE *f, int n, const char *key, const char *first, const char *further,
                   const char *end) {
    fprintf(f,
            "{\"model_type\": \"qwen3\", \"vocab_size\": 8, \"hidden_size\": 8, "
            "\"num_hidden_layers\": %d, \"num_attention_heads\": 2, \"intermediate_size\": 8, "
            "\"max_position_embeddings\": 8, \"num_key_value_heads\": 2, \"%s\": ",
            n, key);
    repeat(f, n, first, further);
    fprintf(f, "%s}", end);
}
static void config_layers(FILE *f, int n) {
    config(f, n, "layer_types", "[\"full_attention\"", ", \"full_attention\"", "]");
}
static void config_name(FILE *f, int n) { config(f, n, "_name_or_path", "\"a", "\\u0061", "\""); }
static void config_list(FILE *f, int n) { config(f, n, "id2label", "[{}", ", {}", "]"); }
static void config_wrong(FILE *f, int n) {
    config(f, n, "hidden_act", "[\"gelu", "\",\"gelu", "\"]");
}

static void index_tensors(FILE *f, int n) {
    fputs("{\"weight_map\": {", f);
    for (int i = 0; i < n; i++)
        fprintf(f, "%s\"t%d\": \"model-%d.safetensors\"", i ? "," : "", i, i % 500);
    fputs("}}", f);
}
static void index_metadata(FILE *f, int n) {
    fputs("{\"metadata\": [", f);
    repeat(f, n, "{\"weight_map\": 1}", ", {\"weight_map\": 1}");
    fputs("], \"weight_map\": {\"t\": \"a\"}}", f);
}

static void npy(FILE *f, size_t spaces, int n) {
    char text[128];
    int length = snprintf(text, sizeof text,
                          "{'descr': '<i4', 'fortran_order': True, 'shape': (2, %d), }", n);
    size_t bytes = (size_t)length + spaces;
    fwrite("\x93NUMPY\x02", 1, 7, f);
    fputc(0, f);
    for (int i = 0; i < 4; i++) fputc((int)(bytes >> 8 * i & 0xFF), f);
    fprintf(f, "%s%*s", text, (int)spaces, "");
    for (int32_t i = 0; i < 2 * n; i++) fwrite(&i, sizeof i, 1, f);
}
static void npy_elements(FILE *f, int n) { npy(f, 10, n); }
static void npy_header(FILE *f, int n) { npy(f, (size_t)n * 8, 3); }

/* A safetensors file of n tensors of one byte, the last one first, and n texts. */
static void tensors(FILE *f, int n, int texts) {
    size_t room = (size_t)n * 80 + (size_t)texts * 24 + 400, at = 0;
    char *header = malloc(room);
    if (!header) return;
#define ADD(...) at += (size_t)snprintf(header + at, room - at, __VA_ARGS__)
    ADD("{\"__metadata__\":{\"format\":\"bobbin checkpoint 1\",\"step\":\"1\"");
    for (int i = 0; i < texts; i++) ADD(",\"m%d\":\"%d\"", i, i);
    ADD(",\"data_position\":\"2\",\"rng_seed\":\"3\",\"rng_offset\":\"4\"}");
    for (int i = n; i-- > 0;)
        ADD(",\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}", i, i, i + 1);
    ADD("}");
    while (at % 8) header[at++] = ' ';
#undef ADD
    uint64_t bytes = at;
    fwrite(&bytes, sizeof bytes, 1, f);
    fwrite(header, 1, at, f);
    for (int i = 0; i < n; i++) fputc(i, f);
    free(header);
}
static void many_tensors(FILE *f, int n) { tensors(f, n, 0); }
static void many_texts(FILE *f, int n) { tensors(f, 1, n); }

/* The character that spells a byte. */
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

/* Around what grows: "vocab" has begun with all bytes and the pair "!!", 256. */
static void tokenizer_begin(FILE *f) {
    char c[3];
    fputs("{\"model\":{\"type\":\"BPE\",\"vocab\":{", f);
    for (int i = 0; i < 256; i++) fprintf(f, "\"%.*s\":%d,", spell(i, c), c, i);
    fputs("\"!!\":256", f);
}
static void tokenizer_merges(FILE *f) { fputs("},\"merges\":[\"! !\"", f); }
static void tokenizer_added(FILE *f) { fputs("]},\"added_tokens\":[", f); }
static void tokenizer_frame(FILE *f) {
    fputs("],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
          "\"trim_offsets\":true,\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"},"
          "\"post_processor\":",
          f);
}
static void tokenizer_end(FILE *f) { fputs("null}", f); }

/* As dense as it can be: pairs of bytes, and the merges that make these. */
static void tokenizer_dense(FILE *f, int n) {
    char a[3], b[3];
    int pairs = n / 2 < 256 * 256 ? n / 2 : 256 * 256;
    tokenizer_begin(f);
    for (int i = 0; i < pairs; i++) {
        int first = spell(i / 256, a), second = spell(i % 256, b);
        if (i != 33 * 256 + 33) fprintf(f, ",\"%.*s%.*s\":%d", first, a, second, b, 257 + i);
    }
    tokenizer_merges(f);
    for (int i = 0; i < pairs; i++) {
        int first = spell(i / 256, a), second = spell(i % 256, b);
        fprintf(f, ",\"%.*s %.*s\"", first, a, second, b);
    }
    tokenizer_added(f), tokenizer_frame(f), tokenizer_end(f);
}
/* The same merge again and again, in as few bytes as it takes. */
static void tokenizer_repeated(FILE *f, int n) {
    tokenizer_begin(f), tokenizer_merges(f);
    repeat(f, n, ",\"! !\"", ",\"! !\"");
    tokenizer_added(f), tokenizer_frame(f), tokenizer_end(f);
}
static void tokenizer_many_added(FILE *f, int n) {
    tokenizer_begin(f), tokenizer_merges(f), tokenizer_added(f);
    for (int i = 0; i < n; i++)
        fprintf(f, "%s{\"id\":%d,\"content\":\"<%d>\"}", i ? "," : "", 257 + i, i);
    tokenizer_frame(f), tokenizer_end(f);
}
/* Texts that would all stand in the first slots of the table. */
static void tokenizer_colliding(FILE *f, int n) {
    uint64_t slots = (uint64_t)(n + 257) + (uint64_t)(n + 257) / 2 + 16;
    tokenizer_begin(f);
    for (uint64_t found = 0, i = 0; found < (uint64_t)n; i++) {
        char text[24];
        uint64_t hash = 0xcbf29ce484222325u;
        int length = snprintf(text, sizeof text, "%llx", (unsigned long long)i << 8);
        for (int k = 0; k < length; k++) hash = (hash ^ (unsigned char)text[k]) * 0x100000001b3u;
        if ((hash ^ hash >> 32) % slots >= 64) continue;
        fprintf(f, ",\"%s\":%llu", text, (unsigned long long)(257 + found++));
    }
    tokenizer_merges(f), tokenizer_added(f), tokenizer_frame(f), tokenizer_end(f);
}
/* Tokens around a text, without any ids. */
static void tokenizer_around(FILE *f, int n) {
    tokenizer_begin(f), tokenizer_merges(f), tokenizer_added(f), tokenizer_frame(f);
    fputs("{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\"}}", f);
    for (int i = 0; i < n; i++) fprintf(f, ",{\"SpecialToken\":{\"id\":\"%d\"}}", i);
    fputs("],\"special_tokens\":{\"\":0", f);
    for (int i = 0; i < n; i++) fprintf(f, ",\"%d\":{\"ids\":[]}", i);
    fputs("}}}", f);
}
static void tokenizer_nested(FILE *f, int n) {
    static const char sequence[] = "{\"type\":\"Sequence\",\"processors\":[";
    tokenizer_begin(f), tokenizer_merges(f), tokenizer_added(f), tokenizer_frame(f);
    repeat(f, 28, sequence, sequence);
    repeat(f, n / 8, "{\"type\":\"ByteLevel\"}", ",{\"type\":\"ByteLevel\"}");
    repeat(f, 28, "]}", "]}");
    fputc('}', f);
}

static const struct {
    const char *reader, *way;
    void (*write)(FILE *f, int n);
    const char *refused; /* part of the error; NULL: none */
} growing[] = {
    {"json", "keys", json_keys, NULL},
    {"json", "long keys", json_long_keys, NULL},
    {"json", "nested", json_nested, NULL},
    {"json", "a string", json_string, NULL},
    {"json", "spaces", json_spaces, NULL},
    {"config", "layers", config_layers, NULL},
    {"config", "a name", config_name, NULL},
    {"config", "a list", config_list, NULL},
    {"config", "a wrong value", config_wrong, "hidden_act: expected"},
    {"index", "tensors", index_tensors, NULL},
    {"index", "metadata", index_metadata, NULL},
    {"npy", "elements", npy_elements, NULL},
    {"npy", "spaces", npy_header, NULL},
    {"safetensors", "tensors", many_tensors, NULL},
    {"safetensors", "texts", many_texts, NULL},
    {"checkpoint", "tensors", many_tensors, NULL},
    {"checkpoint", "texts", many_texts, NULL},
    {"tokenizer", "dense", tokenizer_dense, NULL},
    {"tokenizer", "a merge, repeated", tokenizer_repeated, NULL},
    {"tokenizer", "added tokens", tokenizer_many_added, NULL},
    {"tokenizer", "colliding texts", tokenizer_colliding, "were not chosen to collide"},
    {"tokenizer", "tokens around", tokenizer_around, "one Sequence among few SpecialTokens"},
    {"tokenizer", "nested", tokenizer_nested, NULL},
};
enum { WAYS = sizeof growing / sizeof growing[0], SOME = 1500, TIMES = 8 };

/* ---- Measuring */

typedef struct cost {
    uint64_t steps, calls;
    size_t bytes, file;
} cost;

static cost measure(test *t, int way, const char *path, int n) {
    const reader *r = find_reader(growing[way].reader);
    const char *refused = growing[way].refused;
    FILE *f = fopen(path, "wb");
    growing[way].write(f, n);
    cost c = {.file = (size_t)ftell(f)};
    fclose(f);
    bb_context *ctx = test_open();
    for (int i = 0; i < 2; i++) { /* the first tensors of a context, which no reader pays for */
        bb_empty(ctx, BB_F32, BB_SCALAR);
        bb_end_step(ctx);
    }
    bb_pool_free(ctx);
    bb_memory before = bb_memory_stats(ctx);
    uint64_t begin = steps;
    sorted_by_library = false;
    r->read(ctx, path);
    c.steps = steps - begin;
    bb_memory after = bb_memory_stats(ctx);
    c.calls = after.system_allocations - before.system_allocations;
    c.bytes = after.bytes_peak - before.bytes_held;
    CHECK_MSG(t, !sorted_by_library, "%s, %s: calls qsort", r->name, growing[way].way);
    if (refused)
        CHECK_ERROR(t, ctx, BB_ERR_FORMAT, refused);
    else
        CHECK_MSG(t, bb_error(ctx) == BB_OK, "%s, %s: %s", r->name, growing[way].way,
                  bb_error_message(ctx));
    bb_close(ctx);
    return c;
}

/* Sorting makes it n log n: half as much again is more than that comes to here. n^2 would be eight
 * times as much again. */
static void test_growth(test *t) {
    scratch s = scratch_open();
    const char *path = scratch_path(&s, "growing");
    for (int way = 0; way < WAYS; way++) {
        cost a = measure(t, way, path, SOME), b = measure(t, way, path, TIMES * SOME);
        const char *name = growing[way].reader, *what = growing[way].way;
        if (getenv("BOBBIN_SHOW_WORK"))
            printf("%s, %s: %.1f steps a byte, %.1f\n", name, what,
                   (double)a.steps / (double)a.file, (double)b.steps / (double)b.file);
        CHECK_MSG(t, a.steps > a.file / 8, "%s, %s: %llu steps for %zu bytes: not counted", name,
                  what, (unsigned long long)a.steps, a.file);
        CHECK_MSG(t, b.steps * 2 <= a.steps * TIMES * 3,
                  "%s, %s: %llu steps, for a file of %d times the size %llu", name, what,
                  (unsigned long long)a.steps, TIMES, (unsigned long long)b.steps);
        CHECK_MSG(t, b.calls <= TIMES * a.calls + 8 && b.bytes <= TIMES * a.bytes + (1 << 16),
                  "%s, %s: %llu calls and %zu bytes, for a file of %d times the size %llu and %zu",
                  name, what, (unsigned long long)a.calls, a.bytes, TIMES,
                  (unsigned long long)b.calls, b.bytes);
        CHECK_MSG(t, b.bytes <= reader_memory(b.file), "%s, %s: took %zu bytes of %zu", name, what,
                  b.bytes, b.file);
    }
    scratch_close(&s);
}

/* Every reader grows above. */
static void test_all(test *t) {
    for (int i = 0; i < reader_count; i++) {
        bool found = false;
        for (int way = 0; way < WAYS; way++)
            found = found || strcmp(growing[way].reader, readers[i].name) == 0;
        CHECK_MSG(t, found, "%s does not grow", readers[i].name);
    }
}

static const test_row rows[] = {{"growth", test_growth}, {"all readers", test_all}};
TEST_MAIN(rows)
