/* backends/fp8.h and the loops over it: every f16 and bf16 number and the hard f32 ones against a
 * search over the decoded codes, the same codes as ml_dtypes gives (hashes of what it gave, made by
 * tests/reference/quantize.py), and each ISA level against the single functions. */
#include "backends/cpu/isa.h"
#include "backends/fp8.h"
#include "backends/half.h"
#include "core/core.h"
#include "tests/support/quantized.h"

static uint8_t encode(int kind, float x) {
    return kind == REF_E4M3   ? bb_f32_to_e4m3(x)
           : kind == REF_E5M2 ? bb_f32_to_e5m2(x)
                              : bb_f32_to_e2m1(x);
}
static float decode(int kind, int code) {
    return kind == REF_E4M3   ? bb_e4m3_to_f32((uint8_t)code)
           : kind == REF_E5M2 ? bb_e5m2_to_f32((uint8_t)code)
                              : bb_e2m1_to_f32((uint8_t)code);
}
static const int codes_of[] = {256, 256, 16};
static const char *const names[] = {"e4m3", "e5m2", "e2m1"};

static bool same(double a, double b) {
    return isnan(a) ? isnan(b) : a == b && signbit(a) == signbit(b);
}

static void test_decode(test *t) {
    for (int kind = 0; kind < 3; kind++)
        for (int code = 0; code < codes_of[kind]; code++)
            CHECK_MSG(t, same((double)decode(kind, code), ref_decode(kind, code)), "%s %02x: %g",
                      names[kind], code, (double)decode(kind, code));
    for (int code = 0; code < 256; code++)
        CHECK_MSG(t, same((double)bb_e8m0_to_f32((uint8_t)code), ref_decode_e8m0(code)),
                  "e8m0 %02x", code);
}

/* A code is the code of its value; the sign of NaN stays. */
static void test_round_trip(test *t) {
    for (int kind = 0; kind < 3; kind++)
        for (int code = 0; code < codes_of[kind]; code++) {
            float v = decode(kind, code);
            if (isnan(v) || isinf(v)) continue;
            CHECK_MSG(t, encode(kind, v) == code, "%s %02x: %02x", names[kind], code,
                      encode(kind, v));
        }
    CHECK_INT(t, encode(REF_E4M3, bb_f32_of_bits(0xFFC00000)), 0xFF);
    CHECK_INT(t, encode(REF_E5M2, bb_f32_of_bits(0x7F800001)), 0x7E);
    CHECK_INT(t, encode(REF_E2M1, bb_f32_of_bits(0x7FC00000)), 8);
    CHECK_INT(t, encode(REF_E2M1, bb_f32_of_bits(0xFFC00000)), 0);
}

/* 65536 numbers of f16 (which 0) or bf16 (1), then the hard ones of f32 (2): every value of a code,
 * every middle between two, and the floats beside them. */
enum { HARD = 256 * 2 * 3 * 2 };
static int numbers(int which, int kind, float *x) {
    if (which < 2) {
        for (int i = 0; i < 65536; i++)
            x[i] = which ? bb_bf16_to_f32((uint16_t)i) : bb_f16_to_f32((uint16_t)i);
        return 65536;
    }
    int n = 0;
    for (int code = 0; code < codes_of[kind]; code++) {
        double here = ref_decode(kind, code), next = ref_decode(kind, (code + 1) % codes_of[kind]);
        const double v[2] = {here, (here + next) / 2};
        for (int k = 0; k < 2; k++) {
            x[n++] = (float)v[k];
            x[n++] = nextafterf((float)v[k], INFINITY);
            x[n++] = nextafterf((float)v[k], -INFINITY);
        }
    }
    return n;
}

static float x[65536], y[65536], factor[65536];
static uint8_t codes[65536];

static void test_encode(test *t) {
    for (int kind = 0; kind < 3; kind++)
        for (int which = 0; which < 3; which++) {
            int n = numbers(which, kind, x), bad = 0;
            float first = 0;
            for (int i = 0; i < n; i++) {
                if (encode(kind, x[i]) == ref_encode(kind, x[i])) continue;
                if (bad++ == 0) first = x[i];
            }
            CHECK_MSG(t, bad == 0, "%s of set %d: %d differ, the first is %a", names[kind], which,
                      bad, (double)first);
        }
}

/* FNV-1a over the codes of all numbers of f16 and of bf16, as ml_dtypes encodes them after clipping
 * to the largest finite number. */
static void test_ml_dtypes(test *t) {
    static const uint32_t expected[3][2] = {
        {0x1FA338C5, 0x8C477945}, {0xEA090DC5, 0xE5321FE5}, {0xDAC107C5, 0x28DA1B05}};
    for (int kind = 0; kind < 3; kind++)
        for (int which = 0; which < 2; which++) {
            uint32_t hash = 2166136261u;
            int n = numbers(which, kind, x);
            for (int i = 0; i < n; i++) hash = (hash ^ encode(kind, x[i])) * 16777619u;
            CHECK_MSG(t, hash == expected[kind][which], "%s of %s: %08x, expected %08x",
                      names[kind], which ? "bf16" : "f16", hash, expected[kind][which]);
        }
}

static void check_level(test *t, const bb_isa *isa, int kind) {
    const bb_quantize_loops *loops = isa->loops->quantize;
    int n = numbers(0, kind, x), wrong = 0, wrong_each = 0, wrong_back = 0;
    int32_t most = 0;
    for (int inside = 0; inside < 2; inside++) { /* the second time nothing is beyond the range */
        float last = inside ? (float)ref_decode(kind, codes_of[kind] / 2 - 5) : INFINITY;
        for (int i = 0; i < n; i++) y[i] = fabsf(x[i]) <= last || !inside ? x[i] : -last;
        loops->encode(kind, n, y, 0.75f, loops->amax(n, y), codes);
        for (int i = 0; i < n; i++) wrong += codes[i] != encode(kind, y[i] * 0.75f);
    }
    for (int i = 0; i < n; i++) factor[i] = 0.5f + (float)(i % 7);
    loops->encode_each(kind, false, n, x, factor, codes);
    for (int i = 0; i < n; i++) wrong_each += codes[i] != encode(kind, x[i] * factor[i]);
    loops->decode_each(kind, n, codes, factor, y);
    for (int i = 0; i < n; i++)
        wrong_back += !same((double)y[i], (double)(decode(kind, codes[i]) * factor[i]));
    for (int i = 0; i < n; i++) most = bb_magnitude(x[i]) > most ? bb_magnitude(x[i]) : most;
    CHECK_MSG(t, !wrong && !wrong_each && !wrong_back, "%s, %s: %d, %d, %d differ", isa->name,
              names[kind], wrong, wrong_each, wrong_back);
    CHECK_INT(t, loops->amax(n, x), most);
    CHECK_MSG(t, most > BB_F32_INFINITY, "a NaN is the largest of all");
}

static void test_levels(test *t) {
    for (int level = 0; bb_isa_at(level); level++)
        for (int kind = 0; kind < 3 && bb_isa_at(level)->usable(); kind++)
            check_level(t, bb_isa_at(level), kind);
}

/* The contract's corners of e8m0: 0, subnormals, powers of two and one above, inf, NaN. */
static void test_e8m0(test *t) {
    static const struct {
        float x;
        int code;
    } rows[] = {{0, 0},         {0x1p-149f, 0},   {0x1p-127f, 0},    {0x1.000004p-127f, 1},
                {0x1p-126f, 1}, {0x1.8p-126f, 2}, {1, 127},          {0x1.000002p0f, 128},
                {0.75f, 127},   {0x1p127f, 254},  {0x1.8p127f, 254}, {INFINITY, 254},
                {NAN, 255}};
    for (int i = 0; i < COUNT(rows); i++)
        CHECK_MSG(t, bb_e8m0_above(rows[i].x) == rows[i].code, "%a: %d, expected %d",
                  (double)rows[i].x, bb_e8m0_above(rows[i].x), rows[i].code);
    for (int code = 0; code < 255; code++)
        CHECK(t, bb_e8m0_inverse(code) * bb_e8m0_to_f32((uint8_t)code) == 1);
    CHECK(t, isnan(bb_e8m0_inverse(255)));
}

static const test_row rows[] = {
    {"decode", test_decode},       {"round trip", test_round_trip}, {"encode", test_encode},
    {"ml_dtypes", test_ml_dtypes}, {"ISA levels", test_levels},     {"e8m0", test_e8m0},
};
TEST_MAIN(rows)
