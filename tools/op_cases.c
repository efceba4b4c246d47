/* The table of tools/op_cases.h and the drawing of its inputs. */
#include "tools/op_cases.h"

#include <math.h>

/* clang-format off */
#define S(...)                                                                                     \
    {                                                                                              \
        sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t), { __VA_ARGS__ }                  \
    }
#define NORMAL(...)                                                                                \
    { BB_DRAW_NORMAL, S(__VA_ARGS__), 0 }
#define POSITIVE(...)                                                                              \
    { BB_DRAW_POSITIVE, S(__VA_ARGS__), 0 }
#define APART(...)                                                                                 \
    { BB_DRAW_APART, S(__VA_ARGS__), 0 }
#define DISTINCT(...)                                                                              \
    { BB_DRAW_DISTINCT, S(__VA_ARGS__), 0 }
#define INDEX(limit, ...)                                                                          \
    { BB_DRAW_INDEX, S(__VA_ARGS__), limit }
#define BOOL(...)                                                                                  \
    { BB_DRAW_BOOL, S(__VA_ARGS__), 0 }
#define STATE(...)                                                                                 \
    { BB_DRAW_STATE, S(__VA_ARGS__), 0 }
#define BYTE(...)                                                                                  \
    { BB_DRAW_BYTE, S(__VA_ARGS__), 0 }
#define ONE                                                                                        \
    { BB_DRAW_ONE, S(1), 0 }
#define ABSENT                                                                                     \
    { BB_DRAW_ABSENT, {0, {0}}, 0 }
#define SCALAR                                                                                     \
    { BB_DRAW_NORMAL, {0, {0}}, 0 }

const bb_op_case bb_op_cases[] = {
    {"full", "{\"shape\": [2, 3], \"value\": 1.5}", 0, {{0}}},
    {"arange", "{\"start\": 0, \"stop\": 5, \"step\": 1}", 0, {{0}}},
    {"rand", "{\"shape\": [2, 3], \"seed\": 1, \"offset\": 0}", 0, {{0}}},
    {"randn", "{\"shape\": [2, 3], \"seed\": 1, \"offset\": 0}", 0, {{0}}},
    {"dropout", "{\"p\": 0.4, \"seed\": 7, \"offset\": 0}", 1, {NORMAL(3, 4)}},

    {"neg", NULL, 1, {NORMAL(2, 3)}},
    {"abs", NULL, 1, {APART(2, 3)}},
    {"sign", NULL, 1, {APART(2, 3)}},
    {"exp", NULL, 1, {NORMAL(2, 3)}},
    {"log", NULL, 1, {POSITIVE(2, 3)}},
    {"sqrt", NULL, 1, {POSITIVE(2, 3)}},
    {"rsqrt", NULL, 1, {POSITIVE(2, 3)}},
    {"sin", NULL, 1, {NORMAL(2, 3)}},
    {"cos", NULL, 1, {NORMAL(2, 3)}},
    {"tanh", NULL, 1, {NORMAL(2, 3)}},
    {"sigmoid", NULL, 1, {NORMAL(2, 3)}},
    {"relu", NULL, 1, {APART(2, 3)}},
    {"erf", NULL, 1, {NORMAL(2, 3)}},
    {"square", NULL, 1, {NORMAL(2, 3)}},
    {"square", NULL, 1, {SCALAR}},
    {"reciprocal", NULL, 1, {APART(2, 3)}},
    {"pow", "{\"value\": 2.5}", 1, {POSITIVE(2, 3)}},
    {"pow", "{\"value\": 3}", 1, {APART(2, 3)}},
    {"add_scalar", "{\"value\": 0.7}", 1, {NORMAL(2, 3)}},
    {"mul_scalar", "{\"value\": -1.3}", 1, {NORMAL(2, 3)}},
    {"clamp", "{\"min\": -0.5, \"max\": 0.6}", 1, {NORMAL(3, 4)}},
    {"cast", "{\"dtype\": \"f64\"}", 1, {NORMAL(2, 3)}},
    {"contiguous", NULL, 1, {NORMAL(2, 3)}},

    {"add", NULL, 2, {NORMAL(2, 3), NORMAL(3)}},
    {"sub", NULL, 2, {NORMAL(2, 1), NORMAL(2, 3)}},
    {"mul", NULL, 2, {NORMAL(2, 3), NORMAL(3)}},
    {"mul", NULL, 2, {NORMAL(2, 3), SCALAR}},
    {"div", NULL, 2, {NORMAL(2, 3), APART(2, 1)}},
    {"maximum", NULL, 2, {NORMAL(2, 3), NORMAL(3)}},
    {"minimum", NULL, 2, {NORMAL(2, 3), NORMAL(2, 1)}},
    {"eq", NULL, 2, {NORMAL(2, 3), NORMAL(3)}},
    {"ne", NULL, 2, {NORMAL(2, 3), NORMAL(3)}},
    {"lt", NULL, 2, {NORMAL(2, 3), NORMAL(3)}},
    {"le", NULL, 2, {NORMAL(2, 3), NORMAL(3)}},
    {"gt", NULL, 2, {NORMAL(2, 3), NORMAL(3)}},
    {"ge", NULL, 2, {NORMAL(2, 3), NORMAL(3)}},
    {"where", NULL, 3, {BOOL(2, 3), NORMAL(2, 3), NORMAL(3)}},

    {"sum", NULL, 1, {NORMAL(2, 3)}},
    {"sum", "{\"axes\": [0, -1], \"keepdim\": true}", 1, {NORMAL(2, 3, 4)}},
    {"mean", NULL, 1, {NORMAL(2, 3)}},
    {"mean", "{\"axes\": [1]}", 1, {NORMAL(2, 3, 4)}},
    {"amax", "{\"axes\": [1]}", 1, {DISTINCT(2, 3, 4)}},
    {"amin", "{\"axes\": [-1], \"keepdim\": true}", 1, {DISTINCT(3, 4)}},
    {"argmax", NULL, 1, {DISTINCT(3, 4)}},
    {"cumsum", "{\"axis\": 0}", 1, {NORMAL(3, 4)}},
    {"sum_squares", NULL, 1, {NORMAL(3, 4)}},
    {"matmul", NULL, 2, {NORMAL(2, 3), NORMAL(3, 4)}},
    {"matmul", NULL, 2, {NORMAL(2, 2, 3), NORMAL(3, 2)}},
    {"matmul", NULL, 2, {NORMAL(3), NORMAL(3, 2)}},

    {"reshape", "{\"shape\": [3, -1]}", 1, {NORMAL(2, 6)}},
    {"permute", "{\"axes\": [2, 0, 1]}", 1, {NORMAL(2, 3, 4)}},
    {"transpose", NULL, 1, {NORMAL(2, 3, 4)}},
    {"expand", "{\"shape\": [4, 2, 3]}", 1, {NORMAL(2, 1)}},
    {"slice", "{\"axis\": 1, \"start\": 1, \"stop\": 6, \"step\": 2}", 1, {NORMAL(2, 7)}},
    {"select", "{\"axis\": 1, \"index\": 2}", 1, {NORMAL(2, 3, 2)}},
    {"alias", NULL, 1, {NORMAL(2, 3)}},

    {"cat", "{\"axis\": 1}", 3, {NORMAL(2, 3), NORMAL(2, 1), NORMAL(2, 2)}},
    {"stack", "{\"axis\": 1}", 2, {NORMAL(2, 3), NORMAL(2, 3)}},
    {"pad", "{\"before\": [1, 0], \"after\": [0, 2], \"value\": 0.5}", 1, {NORMAL(2, 3)}},
    {"gather", "{\"axis\": 0}", 2, {NORMAL(3, 4), INDEX(3, 2, 4)}},
    {"index_select", "{\"axis\": 1}", 2, {NORMAL(3, 4), INDEX(4, 5)}},
    {"scatter_add", "{\"axis\": 0}", 3, {NORMAL(3, 4), INDEX(3, 5, 4), NORMAL(5, 4)}},
    {"embedding", NULL, 2, {NORMAL(5, 3), INDEX(5, 2, 4)}},

    {"RMSNormImpl", NULL, 2, {NORMAL(3, 5), POSITIVE(5)}},
    {"AddRMSNorm", NULL, 3, {NORMAL(3, 5), NORMAL(3, 5), POSITIVE(5)}},
    {"RMSNormImpl", "{\"axes\": [0, -1], \"eps\": 0.1}", 2, {NORMAL(2, 3, 4), POSITIVE(3, 4)}},
    {"LayerNorm", NULL, 3, {NORMAL(3, 5), POSITIVE(5), NORMAL(5)}},
    {"LayerNorm", NULL, 3, {NORMAL(3, 5), ABSENT, ABSENT}},
    {"softmax", NULL, 1, {NORMAL(3, 5)}},
    {"softmax", "{\"axis\": 0}", 1, {NORMAL(3, 4)}},
    {"log_softmax", NULL, 1, {NORMAL(3, 5)}},
    {"cross_entropy", NULL, 2, {NORMAL(4, 5), INDEX(5, 4)}},
    {"cross_entropy",
     "{\"reduction\": \"none\", \"ignore_index\": 1}",
     2,
     {NORMAL(6, 3), INDEX(3, 6)}},
    {"silu", NULL, 1, {NORMAL(2, 3)}},
    {"gelu", NULL, 1, {NORMAL(2, 3)}},
    {"gelu", "{\"approximate\": \"tanh\"}", 1, {NORMAL(2, 3)}},
    {"swiglu", NULL, 2, {NORMAL(2, 3), NORMAL(2, 3)}},
    {"RoPE", NULL, 1, {NORMAL(2, 3, 4)}},
    {"RoPE", "{\"dims\": 4, \"offset\": 2, \"interleaved\": true}", 1, {NORMAL(3, 6)}},
    {"SDPA",
     "{\"is_causal\": true}",
     4,
     {NORMAL(1, 2, 3, 4), NORMAL(1, 2, 3, 4), NORMAL(1, 2, 3, 4), ABSENT}},
    {"SDPA",
     "{\"scale\": 0.3}",
     4,
     {NORMAL(2, 2, 3), NORMAL(2, 4, 3), NORMAL(2, 4, 3), BOOL(2, 4)}},
    {"linear", NULL, 3, {NORMAL(2, 3), NORMAL(4, 3), NORMAL(4)}},
    {"linear", NULL, 3, {NORMAL(2, 3), NORMAL(4, 3), ABSENT}},
    {"LinearActivation", NULL, 3, {NORMAL(2, 3), NORMAL(4, 3), NORMAL(4)}},
    {"LinearActivation", "{\"activation\": \"silu\"}", 3, {NORMAL(2, 3), NORMAL(4, 3), ABSENT}},
    {"LinearAdd", NULL, 4, {NORMAL(2, 3), NORMAL(4, 3), NORMAL(4), NORMAL(2, 4)}},

    {"Quantize", NULL, 2, {NORMAL(3, 5), ONE}},
    {"Quantize", "{\"recipe\": \"fp8_block\", \"columns\": true}", 2, {NORMAL(3, 5), ABSENT}},
    {"Dequantize", NULL, 3, {BYTE(3, 5), ONE, ABSENT}},
    {"RMSNormQuantize", NULL, 3, {NORMAL(3, 5), STATE(5), ONE}},
    {"QuantizedLinear",
     NULL,
     7,
     {BYTE(3, 5), ONE, ABSENT, BYTE(4, 5), ONE, ABSENT, ABSENT}},
    {"update_scale_", NULL, 3, {ONE, STATE(4), ONE}},

    {"adamw_", NULL, 7, {NORMAL(4), NORMAL(4), STATE(4), STATE(4), ONE, ONE, ABSENT}},
    {"sgd_", NULL, 5, {NORMAL(4), NORMAL(4), STATE(4), ONE, ABSENT}},
};
/* clang-format on */
const int bb_op_case_count = sizeof bb_op_cases / sizeof bb_op_cases[0];

bool bb_draw_is_float(bb_draw draw) { return draw <= BB_DRAW_DISTINCT; }

/* SplitMix64 (Steele, Lea, Flood 2014). */
static double draw_uniform(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static double draw_normal(uint64_t *state) {
    double u = 1 - draw_uniform(state), v = draw_uniform(state);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

enum { MAX_ELEMENTS = 64 };

static void draw_values(const bb_op_case_input *in, uint64_t *state, int64_t n, double *x) {
    for (int64_t k = 0; k < n; k++) {
        double z = draw_normal(state), u = draw_uniform(state);
        switch (in->draw) {
        case BB_DRAW_STATE:
        case BB_DRAW_POSITIVE: x[k] = 0.5 + 1.5 * u; break;
        case BB_DRAW_APART: x[k] = z + (z < 0 ? -0.1 : 0.1); break;
        case BB_DRAW_DISTINCT:
            x[k] = (double)((k * 37 + 11) % 61) / 8 - 3;
            break; /* 61 is a prime: no two alike */
        case BB_DRAW_INDEX: x[k] = floor(u * (double)in->limit); break;
        case BB_DRAW_BOOL: x[k] = k % 3 != 1; break;
        case BB_DRAW_ONE: x[k] = 1; break;
        case BB_DRAW_BYTE: x[k] = floor(u * 120) + (z < 0 ? 128 : 0); break;
        default: x[k] = z; break;
        }
    }
}

bb_tensor *bb_op_case_input_tensor(bb_context *ctx, const bb_op_case *c, int i, bb_dtype dtype) {
    const bb_op_case_input *in = &c->in[i];
    double values[MAX_ELEMENTS];
    int64_t n = 0;
    if (in->draw == BB_DRAW_ABSENT) return NULL;
    if (!bb_shape_count(&in->shape, &n) || n > MAX_ELEMENTS) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "%s: case: expected at most %d elements", c->op,
                MAX_ELEMENTS);
        return NULL;
    }
    uint64_t state = (uint64_t)(i + 1) * 1000003u + (unsigned char)c->op[0];
    draw_values(in, &state, n, values);
    if (in->draw == BB_DRAW_BYTE && dtype != BB_U8) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "%s: case: bytes are u8", c->op);
        return NULL;
    }
    if (in->draw == BB_DRAW_INDEX) dtype = BB_I64;
    if (in->draw == BB_DRAW_BOOL) dtype = BB_BOOL;
    if (in->draw == BB_DRAW_ONE && dtype != BB_F64) dtype = BB_F32;
    if (in->draw == BB_DRAW_STATE && dtype != BB_F64) dtype = BB_F32;
    return bb_from_f64(ctx, dtype, in->shape, values);
}
