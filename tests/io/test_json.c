/* io/json.c, io/json_value.c, io/json_write.c: what is JSON and what is not, values, walks,
 * writing. */
#include "tests/io/scratch.h"
#include "tests/support/alloc.h"

#include <locale.h>

static bool parses(bb_context *ctx, const char *text, bb_json *root) {
    return bb_json_parse(ctx, "text", text, strlen(text), root) == BB_OK;
}

static void accepts_json(test *t) {
    static const char *const texts[] = {"null",
                                        " true ",
                                        "false",
                                        "0",
                                        "-0",
                                        "-1.5e+10",
                                        "1E5",
                                        "\"\"",
                                        "[]",
                                        "{}",
                                        "[ ]",
                                        "{ }",
                                        "[1, [2, {\"a\": []}], \"x\"]",
                                        "{\"a\":1,\"b\":{\"a\":2}}",
                                        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\"",
                                        "\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\"",
                                        "\r\n\t[1]\n",
                                        "[\"]\", \"}\", \"\\\"\"]",
                                        "1e308",
                                        "\"\x7f\""};
    bb_context *ctx = test_open();
    bb_json root;
    for (int i = 0; i < COUNT(texts); i++) {
        CHECK_MSG(t, parses(ctx, texts[i], &root), "%s: %s", texts[i], bb_error_message(ctx));
        bb_clear_error(ctx);
    }
    bb_close(ctx);
}

static void refuses_what_is_not(test *t) {
    static const struct {
        const char *text, *expected;
    } rows[] = {
        {"", "byte 0: expected a value, got the end of the text"},
        {" ", "expected a value"},
        {"nul", "expected a value, got 'nul'"},
        {"True", "expected a value"},
        {"NaN", "expected a value"},
        {"Infinity", "expected a value"},
        {"+1", "expected a value"},
        {".5", "expected a value"},
        {"01", "expected the end of the text, got '1'"},
        {"1.", "expected a digit, got the end of the text"},
        {"1.e5", "expected a digit"},
        {"1e", "expected a digit"},
        {"-", "expected a digit"},
        {"-a", "expected a digit, got 'a'"},
        {"0x10", "expected the end of the text"},
        {"1e999", "expected a number within the range of a double"},
        {"-1e999", "expected a number within the range of a double"},
        {"1 2", "expected the end of the text, got '2'"},
        {"[1 2]", "expected ',' or ']'"},
        {"[1,]", "expected a value, got ']'"},
        {"[,1]", "expected a value"},
        {"[1", "expected ',' or ']', got the end of the text"},
        {"[1}", "expected ',' or ']', got '}'"},
        {"[", "expected a value"},
        {"]", "expected a value"},
        {"{", "expected a key in quotes"},
        {"{\"a\"}", "expected ':'"},
        {"{\"a\":}", "expected a value"},
        {"{\"a\":1,}", "expected a key in quotes, got '}'"},
        {"{a:1}", "expected a key in quotes"},
        {"{\"a\":1", "expected ',' or '}'"},
        {"{\"a\":1]", "expected ',' or '}'"},
        {"{1:2}", "expected a key in quotes"},
        {"[1] // no", "expected the end of the text"},
        {"'a'", "expected a value"},
        {"\"a", "expected the end of a string"},
        {"\"a\\\"", "expected the end of a string"},
        {"\"a\nb\"", "byte 2: expected an escape for a control character"},
        {"\"\\x41\"", "expected a valid escape"},
        {"\"\\u12\"", "expected a valid escape"},
        {"\"\\u12g4\"", "expected a valid escape"},
        {"\"\\ud800\"", "expected a valid escape"},
        {"\"\\udc00\"", "expected a valid escape"},
        {"\"\\ud800\\u0041\"", "expected a valid escape"},
        {"\"\\", "expected a valid escape"},
        {"\"\x80\"", "expected valid UTF-8"},
        {"\"\xC0\xAF\"", "expected valid UTF-8"},         /* overlong */
        {"\"\xE0\x80\xAF\"", "expected valid UTF-8"},     /* overlong */
        {"\"\xED\xA0\x80\"", "expected valid UTF-8"},     /* a surrogate */
        {"\"\xF4\x90\x80\x80\"", "expected valid UTF-8"}, /* above U+10FFFF */
        {"\"\xE2\x82\"", "expected valid UTF-8"},         /* cut short */
        {"\"\xF5\x80\x80\x80\"", "expected valid UTF-8"},
        {"\xEF\xBB\xBF{}", "expected a value"}, /* a byte order mark */
        {"{\"a\":1,\"a\":2}", "expected each key once in an object, got 'a' twice"},
        {"{\"a\":1,\"b\":3,\"\\u0061\":2}", "expected each key once in an object"},
        {"[{\"x\":{\"k\":1,\"\xC3\xA9\":2,\"\\u00e9\":3}}]", "expected each key once in an object"},
        {"{\"\":1,\"\":2}", "expected each key once in an object, got '' twice"},
    };
    bb_context *ctx = test_open();
    bb_json root;
    for (int i = 0; i < COUNT(rows); i++) {
        CHECK_MSG(t, !parses(ctx, rows[i].text, &root), "accepted: %s", rows[i].text);
        CHECK_ERROR(t, ctx, BB_ERR_FORMAT, rows[i].expected);
    }
    CHECK(t, bb_json_parse(ctx, "text", "[\0]", 3, &root) != BB_OK);
    CHECK_ERROR(t, ctx, BB_ERR_FORMAT, "expected a value");
    bb_close(ctx);
}

static void limits_nesting_and_numbers(test *t) {
    bb_context *ctx = test_open();
    bb_json root;
    char text[2 * BB_JSON_DEPTH + 3];
    memset(text, '[', BB_JSON_DEPTH);
    memset(text + BB_JSON_DEPTH, ']', BB_JSON_DEPTH);
    CHECK(t, bb_json_parse(ctx, "text", text, 2 * BB_JSON_DEPTH, &root) == BB_OK);
    memset(text, '[', BB_JSON_DEPTH + 1);
    memset(text + BB_JSON_DEPTH + 1, ']', BB_JSON_DEPTH + 1);
    CHECK(t, bb_json_parse(ctx, "text", text, 2 * BB_JSON_DEPTH + 2, &root) != BB_OK);
    CHECK_ERROR(t, ctx, BB_ERR_FORMAT, "at most 64 levels of nesting");
    size_t n = 1000000; /* depth that a recursive reader would not survive */
    char *deep = malloc(n);
    memset(deep, '[', n);
    CHECK(t, bb_json_parse(ctx, "text", deep, n, &root) != BB_OK);
    CHECK_ERROR(t, ctx, BB_ERR_FORMAT, "at most 64 levels of nesting");
    memset(deep, '1', BB_JSON_NUMBER_BYTES + 1);
    CHECK(t, bb_json_parse(ctx, "text", deep, BB_JSON_NUMBER_BYTES, &root) == BB_OK);
    CHECK(t, bb_json_parse(ctx, "text", deep, BB_JSON_NUMBER_BYTES + 1, &root) != BB_OK);
    CHECK_ERROR(t, ctx, BB_ERR_FORMAT, "a number of at most 128 characters");
    free(deep);
    bb_close(ctx);
}

static void reads_values(test *t) {
    bb_context *ctx = test_open();
    bb_json root, v;
    int64_t n = 7;
    double x = 7;
    bool flag = false;
    char text[16];
    CHECK(t, parses(ctx,
                    " {\"n\": -42, \"x\": 2.5e-3, \"t\": true, \"s\": \"\\u00e9\\ud83d\\ude00!\", "
                    "\"a\": [1,2], \"z\": null,"
                    " \"min\": -9223372036854775808, \"max\": 9223372036854775807, \"over\": "
                    "9223372036854775808,"
                    " \"under\": -9223372036854775809, \"f\": 1.0, \"nul\": \"a\\u0000b\"} ",
                    &root));
    CHECK(t, bb_json_kind_of(root) == BB_JSON_OBJECT);
    CHECK(t, bb_json_get(root, "n", &v) && bb_json_int(v, -42, 0, &n) && n == -42);
    CHECK(t, !bb_json_int(v, -41, 0, &n) && !bb_json_int(v, -100, -43, &n));
    CHECK(t, bb_json_get(root, "x", &v) && bb_json_number(v, &x) && x == 2.5e-3 &&
                 !bb_json_int(v, 0, 9, &n));
    CHECK(t,
          bb_json_get(root, "t", &v) && bb_json_bool(v, &flag) && flag && !bb_json_number(v, &x));
    CHECK(t, bb_json_get(root, "s", &v) && bb_json_string(v, text, sizeof text) == 7);
    CHECK_TEXT(t, text, "\xC3\xA9\xF0\x9F\x98\x80!");
    CHECK(t, bb_json_string(v, text, 3) == 7 && strcmp(text, "\xC3\xA9") == 0 &&
                 bb_json_string(v, NULL, 0) == 7);
    CHECK(t, bb_json_equals(v, "\xC3\xA9\xF0\x9F\x98\x80!") &&
                 !bb_json_equals(v, "\xC3\xA9\xF0\x9F\x98\x80") &&
                 !bb_json_equals(v, "\xC3\xA9\xF0\x9F\x98\x80!!"));
    CHECK(t, bb_json_get(root, "z", &v) && bb_json_kind_of(v) == BB_JSON_NULL);
    CHECK(t, bb_json_get(root, "min", &v) && bb_json_int(v, INT64_MIN, INT64_MAX, &n) &&
                 n == INT64_MIN);
    CHECK(t, bb_json_get(root, "max", &v) && bb_json_int(v, INT64_MIN, INT64_MAX, &n) &&
                 n == INT64_MAX);
    CHECK(t, bb_json_get(root, "over", &v) && !bb_json_int(v, INT64_MIN, INT64_MAX, &n) &&
                 bb_json_number(v, &x));
    CHECK(t, bb_json_get(root, "under", &v) && !bb_json_int(v, INT64_MIN, INT64_MAX, &n));
    CHECK(t, bb_json_get(root, "f", &v) && !bb_json_int(v, 0, 9, &n));
    CHECK(t, bb_json_get(root, "nul", &v) && bb_json_string(v, text, sizeof text) == 3 &&
                 !bb_json_equals(v, "a"));
    CHECK(t, !bb_json_get(root, "missing", &v) && !bb_json_get(v, "n", &v));
    CHECK_TEXT(t, bb_json_kind_name(BB_JSON_ARRAY), "an array");
    bb_close(ctx);
}

static void walks(test *t) {
    bb_context *ctx = test_open();
    bb_json root;
    char keys[64] = "";
    int64_t sum = 0, n, elements = 0;
    CHECK(t, parses(ctx, "{ \"a\" : [ 1 , 2,[3 ] ] , \"}\" : {\"x\":\"]\"},\"c\":4 }", &root));
    for (bb_json_walk w = bb_json_begin(root); bb_json_next(&w);) {
        char key[8];
        bb_json_string(w.key, key, sizeof key);
        strcat(keys, key);
        if (bb_json_int(w.value, 0, 9, &n)) sum += n;
        for (bb_json_walk v = bb_json_begin(w.value); bb_json_next(&v); elements++)
            if (bb_json_int(v.value, 0, 9, &n)) sum += n;
    }
    CHECK_TEXT(t, keys, "a}c");
    CHECK_INT(t, sum, 7);
    CHECK_INT(t, elements, 4);
    CHECK(t, parses(ctx, "[]", &root));
    bb_json_walk w = bb_json_begin(root);
    CHECK(t, !bb_json_next(&w));
    CHECK(t, parses(ctx, "5", &root));
    w = bb_json_begin(root);
    CHECK(t, !bb_json_next(&w));
    bb_close(ctx);
}

/* Many keys, also with one hash for many: found again when one comes twice, and at most twice the
 * text in memory. */
static void finds_a_duplicate_among_many(test *t) {
    enum { KEYS = 20000, ROOM = KEYS * 16 };
    bb_context *ctx = test_open();
    char *text = malloc(ROOM);
    bb_json root;
    for (int twice = 0; twice < 2; twice++) {
        size_t n = 0;
        text[n++] = '{';
        for (int i = 0; i < KEYS; i++) {
            int number = i * 7919 % KEYS;
            if (twice && i == KEYS - 1) number = 3 * 7919 % KEYS;
            n += (size_t)snprintf(text + n, ROOM - n, "\"%d\":0,", number);
        }
        text[n - 1] = '}';
        size_t before = bb_memory_stats(ctx).bytes_held;
        bb_status status = bb_json_parse(ctx, "text", text, n, &root);
        CHECK(t, bb_memory_stats(ctx).bytes_peak - before <= 2 * n + (1 << 20));
        CHECK_INT(t, bb_memory_stats(ctx).bytes_held, before);
        if (!twice)
            CHECK(t, status == BB_OK);
        else
            CHECK_ERROR(t, ctx, BB_ERR_FORMAT, "got '3757' twice");
    }
    free(text);
    bb_close(ctx);
}

static void writes(test *t) {
    bb_context *ctx = test_open();
    bb_json_writer w;
    for (int indent = 0; indent <= 2; indent += 2) {
        bb_json_open(&w, ctx, indent);
        bb_json_begin_object(&w);
        bb_json_key(&w, "a\"b");
        bb_json_begin_array(&w);
        bb_json_put_int(&w, INT64_MIN);
        bb_json_put_number(&w, 0.1);
        bb_json_put_bool(&w, true);
        bb_json_put_null(&w);
        bb_json_put_string(&w, "\n\x01/\xC3\xA9");
        bb_json_end_array(&w);
        bb_json_key(&w, "e");
        bb_json_begin_object(&w);
        bb_json_end_object(&w);
        bb_json_end_object(&w);
        CHECK_TEXT(
            t, w.text,
            indent
                ? "{\n  \"a\\\"b\": [\n    -9223372036854775808,\n    0.1,\n    true,\n    null,\n"
                  "    \"\\n\\u0001/\xC3\xA9\"\n  ],\n  \"e\": {}\n}"
                : "{\"a\\\"b\":[-9223372036854775808,0.1,true,null,\"\\n\\u0001/"
                  "\xC3\xA9\"],\"e\":{}}");
        bb_json root;
        CHECK(t, bb_json_parse(ctx, "text", w.text, w.bytes, &root) == BB_OK);
        bb_json_close(&w);
    }
    bb_json_open(&w, ctx, 0);
    bb_json_put_string(&w, "\xFF");
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "UTF-8");
    CHECK(t, w.failed);
    bb_json_close(&w);
    bb_json_open(&w, ctx, 0);
    bb_json_put_number(&w, NAN);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "finite");
    bb_json_close(&w);
    bb_json_open(&w, ctx, 0);
    for (int i = 0; i <= BB_JSON_DEPTH; i++) bb_json_begin_array(&w);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "64 levels");
    bb_json_close(&w);
    bb_json_open(&w, ctx, 0);
    bb_json_end_array(&w);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "to end");
    bb_json_close(&w);
    bb_close(ctx);
}

static void numbers_come_back(test *t) {
    static const double values[] = {
        0, -0.0, 1, 0.1, 1.0 / 3, 1e300, 5e-324, 1.7976931348623157e308, -123456789.125, 1e22};
    bb_context *ctx = test_open();
    bool comma = setlocale(LC_NUMERIC, "de_DE.UTF-8") ||
                 setlocale(LC_NUMERIC, "de_DE.utf8"); /* where there is one */
    for (int i = 0; i < COUNT(values); i++) {
        bb_json_writer w;
        bb_json root;
        double back = 7;
        bb_json_open(&w, ctx, 0);
        bb_json_put_number(&w, values[i]);
        CHECK(t, bb_json_parse(ctx, "text", w.text, w.bytes, &root) == BB_OK &&
                     bb_json_number(root, &back));
        CHECK_MSG(t, memcmp(&back, &values[i], sizeof back) == 0, "%s: %.17g is not %.17g", w.text,
                  back, values[i]);
        bb_json_close(&w);
    }
    if (comma) setlocale(LC_NUMERIC, "C");
    bb_close(ctx);
}

static void saves(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    bb_json_writer w;
    bb_json_open(&w, ctx, 0);
    bb_json_begin_array(&w);
    bb_json_end_array(&w);
    CHECK(t, bb_json_save(&w, scratch_path(&s, "a.json")) == BB_OK);
    CHECK(t, holds(s.path, "[]\n"));
    bb_json_close(&w);
    scratch_close(&s);
    bb_close(ctx);
}

static void read_and_write(bb_context *ctx) {
    static const char text[] = "{\"a\":1,\"b\":2}";
    bb_json root;
    bb_json_writer w;
    bb_json_open(&w, ctx, 0);
    bb_json_begin_array(&w);
    for (int i = 0; i < 2000; i++) bb_json_put_int(&w, i);
    bb_json_end_array(&w);
    bb_json_close(&w);
    bb_json_parse(ctx, "text", text, sizeof text - 1, &root);
}
static void survives_no_memory(test *t) { alloc_failure_loop(t, read_and_write); }

static const test_row rows[] = {
    {"accepts_json", accepts_json},
    {"refuses_what_is_not", refuses_what_is_not},
    {"limits_nesting_and_numbers", limits_nesting_and_numbers},
    {"reads_values", reads_values},
    {"walks", walks},
    {"finds_a_duplicate_among_many", finds_a_duplicate_among_many},
    {"writes", writes},
    {"numbers_come_back", numbers_come_back},
    {"saves", saves},
    {"survives_no_memory", survives_no_memory},
};
TEST_MAIN(rows)
