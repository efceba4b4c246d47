/* Tokenizers against the package `tokenizers` (fixtures:
 * tests/reference/models/tokenizers/make.py), and files that are refused. */
#include "io/io.h"
#include "tests/tools/program.h"
#include "tools/tokenizer_parts.h"
#include "tools/unicode.h"

#define ROOT BOBBIN_SOURCE_DIR "/tests/reference/models/tokenizers/"
static const char *const kinds[] = {"gpt2", "llama3", "qwen", "digits"};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

static bb_tokenizer *open_kind(bb_context *ctx, const char *kind) {
    char path[512];
    snprintf(path, sizeof path, ROOT "%s.json", kind);
    return bb_tokenizer_open(ctx, path);
}

static char *slurp(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    char *text = calloc(1 << 20, 1);
    *bytes = file && text ? fread(text, 1, 1 << 20, file) : 0;
    if (file) fclose(file);
    return text;
}

static void check_ids(test *t, bb_context *ctx, const char *kind, const char *name,
                      const int32_t *ids, int64_t count) {
    char path[512];
    snprintf(path, sizeof path, ROOT "%s.safetensors", kind);
    bb_safetensors *file = bb_safetensors_open(ctx, path);
    bb_stored expected = {0};
    if (!CHECK(t, file && bb_safetensors_find(file, name, &expected))) return;
    CHECK_INT(t, count, expected.shape.size[0]);
    for (int64_t i = 0; i < count && i < expected.shape.size[0]; i++) {
        int32_t want;
        memcpy(&want, (const char *)expected.data + 4 * i, 4);
        if (want == ids[i]) continue;
        CHECK_MSG(t, false, "%s: %s[%lld]: got %d, expected %d", kind, name, (long long)i, ids[i],
                  want);
        break;
    }
    bb_safetensors_close(file);
}

static void same_as_the_package(test *t) {
    static const char hello[] = "Hello, world<|endof|>";
    bb_context *ctx = test_open();
    size_t bytes;
    char *text = slurp(ROOT "text.txt", &bytes);
    CHECK(t, bytes > 20000);
    for (int k = 0; k < KINDS; k++) {
        int32_t *ids = NULL;
        int64_t count = 0;
        bb_tokenizer *tokenizer = open_kind(ctx, kinds[k]);
        CHECK_MSG(t, tokenizer != NULL, "%s", bb_error_message(ctx));
        CHECK_INT(t, bb_tokenizer_encode(tokenizer, ctx, text, bytes, false, &ids, &count), BB_OK);
        check_ids(t, ctx, kinds[k], "ids", ids, count);
        if (strcmp(kinds[k], "qwen") != 0) { /* which normalizes */
            char *back = NULL;
            size_t length = 0, n = 0;
            FILE *memory = open_memstream(&back, &length);
            for (int64_t i = 0; i < count; i++)
                n += bb_tokenizer_write(tokenizer, ids[i], memory, false);
            fclose(memory);
            CHECK(t, n == bytes && length == bytes && memcmp(back, text, bytes) == 0);
            free(back);
        }
        free(ids);
        bb_tokenizer_encode(tokenizer, ctx, hello, sizeof hello - 1, true, &ids, &count);
        check_ids(t, ctx, kinds[k], "special", ids, count);
        free(ids);
        bb_tokenizer_close(tokenizer);
    }
    free(text);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Where each way to cut cuts the text, whatever the model would make of the pieces. */
static void pieces(test *t) {
    static const char *const names[] = {[BB_SPLIT_GPT2] = "gpt2",
                                        [BB_SPLIT_LLAMA3] = "llama3",
                                        [BB_SPLIT_QWEN] = "qwen",
                                        [BB_SPLIT_DIGITS] = "digits",
                                        [BB_SPLIT_EACH_DIGIT] = "each_digit"};
    bb_context *ctx = test_open();
    size_t bytes;
    char *text = slurp(ROOT "text.txt", &bytes);
    int32_t *length = malloc((bytes + 1) * sizeof *length);
    for (int k = 0; k < 5; k++) {
        int64_t n = 0;
        for (size_t at = 0; at < bytes; at += (size_t)length[n++])
            length[n] = (int32_t)bb_split_next((bb_splitter)k, text + at, bytes - at);
        check_ids(t, ctx, "pieces", names[k], length, n);
    }
    free(length);
    free(text);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void bytes(test *t) {
    bb_context *ctx = test_open();
    int32_t *ids = NULL;
    int64_t count = 0;
    CHECK_INT(t, bb_tokenizer_encode(NULL, ctx, "a\0\xff", 3, true, &ids, &count), BB_OK);
    CHECK(t, count == 3 && ids[0] == 'a' && ids[1] == 0 && ids[2] == 255);
    CHECK_INT(t, bb_tokenizer_size(NULL), 256);
    free(ids);
    bb_tokenizer *gpt2 = open_kind(ctx, "gpt2");
    CHECK_INT(t, bb_tokenizer_encode(gpt2, ctx, "", 0, true, &ids, &count), BB_OK);
    CHECK_INT(t, count, 0);
    free(ids);
    CHECK_INT(t, bb_tokenizer_encode(gpt2, ctx, "ab\xc3", 3, false, &ids, &count), BB_ERR_FORMAT);
    CHECK(t, ids == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_FORMAT, "text: expected UTF-8, got byte 0xc3 at 2");
    bb_tokenizer_close(gpt2);
    bb_close(ctx);
}

/* A word of one letter, which merges pairwise: the time must not grow with the square. */
static void long_word(test *t) {
    enum { BYTES = 1 << 20 };
    bb_context *ctx = test_open();
    bb_tokenizer *tokenizer = open_kind(ctx, "llama3");
    char *text = malloc(BYTES);
    int32_t *ids = NULL;
    int64_t count = 0;
    for (int i = 0; i < BYTES; i++) text[i] = "an"[i & 1];
    CHECK_INT(t, bb_tokenizer_encode(tokenizer, ctx, text, BYTES, false, &ids, &count), BB_OK);
    CHECK(t, count > 0 && count <= BYTES);
    free(ids);
    free(text);
    bb_tokenizer_close(tokenizer);
    bb_close(ctx);
}

static void normal_form(test *t) {
    static const char *const pairs[][2] = {
        {"e\u0301", "\u00e9"},
        {"a\u0307\u0323", "\u1ea1\u0307"},
        {"\u1e9b\u0323", "\u1e9b\u0323"},
        {"\u212b", "\u00c5"},
        {"\u0958", "\u0915\u093c"}, /* excluded from composition */
        {"\u1112\u1161\u11ab", "\ud55c"},
        {"\uac00\u11a8", "\uac01"},
        {"\u0344", "\u0308\u0301"},
        {"o\u0302\u0301", "\u1ed1"},
        {"a\u0310\u0301", "a\u0310\u0301"}, /* blocked by a mark of its class */
        {"plain", "plain"},
    };
    for (int i = 0; i < COUNT(pairs); i++) {
        char out[64];
        size_t n = 0;
        CHECK(t, bb_unicode_nfc(pairs[i][0], strlen(pairs[i][0]), out, &n));
        out[n] = 0;
        CHECK_TEXT(t, out, pairs[i][1]);
    }
}

/* One change of a good file each, and the words of the refusal. */
static const struct {
    const char *kind, *from, *to, *part;
} wrong[] = {
    {"gpt2", "\"type\": \"BPE\"", "\"type\": \"Unigram\"", "model.type: expected \"BPE\", got"},
    {"gpt2", "\"type\": \"BPE\",", "", "model.type: expected \"BPE\", got '{"},
    {"gpt2", "\"id\": 0", "\"id\": 3000000", "expected ids and merges in proportion to a file of"},
    {"gpt2", "\"dropout\": null", "\"dropout\": 0.1", "model.dropout: expected null, got"},
    {"gpt2", "\"dropout\": null", "\"surprise\": null", "model: expected only the keys"},
    {"gpt2", "\"end_of_word_suffix\": null", "\"end_of_word_suffix\": \"</w>\"",
     "end_of_word_suffix: expected null (model), got"},
    {"gpt2", "\"truncation\": null", "\"truncation\": {}", "truncation: expected null, got"},
    {"gpt2", "\"padding\": null", "\"filling\": null", "tokenizer: expected only the keys"},
    {"gpt2", "\"normalizer\": null", "\"normalizer\": {\"type\": \"Lowercase\"}",
     "normalizer: expected null or NFC, got"},
    {"gpt2", "\"add_prefix_space\": false", "\"add_prefix_space\": true",
     "pre_tokenizer ByteLevel: expected add_prefix_space false"},
    {"gpt2", "\"type\": \"ByteLevel\"", "\"type\": \"Metaspace\"",
     "pre_tokenizer: expected ByteLevel"},
    {"gpt2", "\"lstrip\": false", "\"lstrip\": true", "lstrip: expected false (added_tokens), got"},
    {"gpt2", "\"rstrip\": false", "\"flavor\": false", "added_tokens: expected only the keys"},
    {"gpt2", "\"id\": 0", "\"id\": 5", "added_tokens: expected texts and ids that come once"},
    {"gpt2", "\"id\": 0", "\"id\": 99999999", "expected ids from 0 to 4194303"},
    {"gpt2", "\"merges\": [", "\"merges\": [\"a\",", "model.merges: expected pairs of tokens, got"},
    {"gpt2", "\"merges\": [", "\"merges\": [\"q zq\",",
     "model.merges: expected two tokens of the vocabulary that make a third"},
    {"gpt2",
     "\"A\": ", "\"AAAA\": ", "model.vocab: expected a token for each byte, got none for 0x41"},
    {"gpt2", "\"!\": 1,", "\"!\": 1, \"!!!\": 1,",
     "model.vocab: expected texts and ids that come once"},
    {"llama3", "\\\\p{N}{1,3}", "\\\\p{N}{1,2}",
     "pre_tokenizer Split.pattern.Regex: expected the pattern of GPT-2, Llama 3 or Qwen, got"},
    {"llama3", "\"Isolated\"", "\"Removed\"",
     "pre_tokenizer Split: expected behavior \"Isolated\""},
    {"llama3", "\"SpecialToken\"", "\"Other\"", "post_processor TemplateProcessing.single"},
    {"llama3", "\"TemplateProcessing\"", "\"BertProcessing\"", "post_processor: expected"},
    {"llama3", "\"single\"", "\"double\"", "post_processor TemplateProcessing: expected only"},
};

static void refused(test *t) {
    scratch_folder s;
    bb_context *ctx = test_open();
    if (!scratch_open(t, &s)) return;
    for (int i = 0; i < COUNT(wrong); i++) {
        char path[512];
        size_t n;
        snprintf(path, sizeof path, ROOT "%s.json", wrong[i].kind);
        char *good = slurp(path, &n), *at = strstr(good, wrong[i].from);
        if (!CHECK_MSG(t, at != NULL, "no %s in %s", wrong[i].from, wrong[i].kind)) continue;
        char *bad = calloc(n + 200, 1);
        sprintf(bad, "%.*s%s%s", (int)(at - good), good, wrong[i].to, at + strlen(wrong[i].from));
        scratch_write(&s, "tokenizer.json", bad, strlen(bad));
        snprintf(path, sizeof path, "%s/tokenizer.json", s.path);
        CHECK(t, !bb_tokenizer_open(ctx, path));
        CHECK_ERROR(t, ctx, BB_ERR_FORMAT, wrong[i].part);
        free(good);
        free(bad);
    }
    scratch_close(&s);
    CHECK(t, !bb_tokenizer_of_folder(ctx, s.path)); /* none there is no error */
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Cut short, or with a byte changed, anywhere: opened or refused, and nothing worse. What still
 * opens must still encode. */
static void damaged(test *t) {
    scratch_folder s;
    bb_context *ctx = test_open();
    char path[512];
    size_t n;
    uint64_t state = 1;
    if (!scratch_open(t, &s)) return;
    char *good = slurp(ROOT "llama3.json", &n);
    snprintf(path, sizeof path, "%s/tokenizer.json", s.path);
    for (int i = 0; i < 400; i++) {
        char *bad = malloc(n);
        memcpy(bad, good, n);
        state = state * 6364136223846793005u + 1442695040888963407u;
        size_t at = (size_t)(state >> 33) % n, length = i % 4 ? n : at;
        if (i % 4) bad[at] = "\"{}[],:0e\\\xff"[state >> 20 & 7];
        scratch_write(&s, "tokenizer.json", bad, length);
        bb_tokenizer *tokenizer = bb_tokenizer_open(ctx, path);
        CHECK(t, (tokenizer == NULL) == (bb_error(ctx) != BB_OK));
        if (tokenizer) {
            int32_t *ids = NULL;
            int64_t count;
            bb_tokenizer_encode(tokenizer, ctx, good, n, true, &ids, &count);
            CHECK(t, count > 0);
            free(ids);
        }
        bb_tokenizer_close(tokenizer);
        bb_clear_error(ctx);
        free(bad);
    }
    free(good);
    scratch_close(&s);
    bb_close(ctx);
}

static const test_row rows[] = {{"same_as_the_package", same_as_the_package},
                                {"pieces", pieces},
                                {"bytes", bytes},
                                {"long_word", long_word},
                                {"normal_form", normal_form},
                                {"refused", refused},
                                {"damaged", damaged}};
TEST_MAIN(rows)
