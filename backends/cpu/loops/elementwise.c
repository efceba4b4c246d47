/* One loop per elementwise op and compute type (loops/elementwise.h), compiled once per ISA level.
 * Formulas that need care are in math.h, conversions in convert.h; map.h turns the formula of one
 * element into a loop over a span. Adapters: backends/cpu/elementwise.c. */
#include "backends/cpu/loops/elementwise.h"

#include "backends/cpu/loops/convert.h"
#include "backends/cpu/loops/loops.h"
#include "backends/cpu/loops/map.h"
#include "backends/cpu/loops/math.h"

enum { PACK = 256 };

/* ---- Loads of any stride: packed first, then converted as a contiguous run. */

static size_t dtype_bytes(int dtype) {
    return dtype == BB_F64 || dtype == BB_I64   ? 8
           : dtype == BB_F32 || dtype == BB_I32 ? 4
           : dtype >= BB_U8                     ? 1
                                                : 2;
}

static void load_f32(int dtype, int64_t n, const void *x, int64_t stride, float *y) {
    uint64_t packed[PACK];
    size_t bytes = dtype_bytes(dtype);
    if (stride == 1) {
        load_f32_run(dtype, n, x, y);
        return;
    }
    for (int64_t i = 0; i < n; i += PACK) {
        int64_t m = n - i < PACK ? n - i : PACK;
        pack_run(bytes, m, (const char *)x + i * stride * (int64_t)bytes, stride, packed);
        load_f32_run(dtype, m, packed, y + i);
    }
}

static void load_f64(int dtype, int64_t n, const void *x, int64_t stride, double *y) {
    uint64_t packed[PACK];
    size_t bytes = dtype_bytes(dtype);
    if (stride == 1) {
        load_f64_run(dtype, n, x, y);
        return;
    }
    for (int64_t i = 0; i < n; i += PACK) {
        int64_t m = n - i < PACK ? n - i : PACK;
        pack_run(bytes, m, (const char *)x + i * stride * (int64_t)bytes, stride, packed);
        load_f64_run(dtype, m, packed, y + i);
    }
}

static void load_i64(int dtype, int64_t n, const void *x, int64_t stride, int64_t *y) {
    uint64_t packed[PACK];
    size_t bytes = dtype_bytes(dtype);
    if (stride == 1) {
        load_i64_run(dtype, n, x, y);
        return;
    }
    for (int64_t i = 0; i < n; i += PACK) {
        int64_t m = n - i < PACK ? n - i : PACK;
        pack_run(bytes, m, (const char *)x + i * stride * (int64_t)bytes, stride, packed);
        load_i64_run(dtype, m, packed, y + i);
    }
}

/* ---- One input. Integers wrap: they are computed unsigned. */

static inline float neg1_f32(float x) { return -x; }
static void neg_f32(const bb_span *s) { map1_f32(s, neg1_f32); }
static inline double neg1_f64(double x) { return -x; }
static void neg_f64(const bb_span *s) { map1_f64(s, neg1_f64); }
static inline int64_t neg1_i64(int64_t x) { return (int64_t)(0 - (uint64_t)x); }
static void neg_i64(const bb_span *s) { map1_i64(s, neg1_i64); }

static void abs_f32(const bb_span *s) { map1_f32(s, fabsf); }
static void abs_f64(const bb_span *s) { map1_f64(s, fabs); }
static inline int64_t abs1_i64(int64_t x) { return x < 0 ? (int64_t)(0 - (uint64_t)x) : x; }
static void abs_i64(const bb_span *s) { map1_i64(s, abs1_i64); }

static inline float sign1_f32(float x) { return (float)((x > 0) - (x < 0)); }
static void sign_f32(const bb_span *s) { map1_f32(s, sign1_f32); }
static inline double sign1_f64(double x) { return (x > 0) - (x < 0); }
static void sign_f64(const bb_span *s) { map1_f64(s, sign1_f64); }
static inline int64_t sign1_i64(int64_t x) { return (x > 0) - (x < 0); }
static void sign_i64(const bb_span *s) { map1_i64(s, sign1_i64); }

static void exp_f32(const bb_span *s) { map1_f32(s, bb_expf); }
static void exp_f64(const bb_span *s) { map1_f64(s, exp); }

static void log_f32(const bb_span *s) { map1_f32(s, bb_logf); }
static void log_f64(const bb_span *s) { map1_f64(s, log); }

static void sqrt_f32(const bb_span *s) { map1_f32(s, sqrtf); }
static void sqrt_f64(const bb_span *s) { map1_f64(s, sqrt); }

static inline float rsqrt1_f32(float x) { return 1.0f / sqrtf(x); }
static void rsqrt_f32(const bb_span *s) { map1_f32(s, rsqrt1_f32); }
static inline double rsqrt1_f64(double x) { return 1.0 / sqrt(x); }
static void rsqrt_f64(const bb_span *s) { map1_f64(s, rsqrt1_f64); }

static void sin_f32(const bb_span *s) { map1_f32(s, sinf); }
static void sin_f64(const bb_span *s) { map1_f64(s, sin); }

static void cos_f32(const bb_span *s) { map1_f32(s, cosf); }
static void cos_f64(const bb_span *s) { map1_f64(s, cos); }

static void tanh_f32(const bb_span *s) { map1_f32(s, bb_tanhf); }
static void tanh_f64(const bb_span *s) { map1_f64(s, tanh); }

static void sigmoid_f32(const bb_span *s) { map1_f32(s, bb_sigmoidf); }
static inline double sigmoid1_f64(double x) {
    return (x < 0 ? exp(x) : 1.0) / (1.0 + exp(-fabs(x)));
}
static void sigmoid_f64(const bb_span *s) { map1_f64(s, sigmoid1_f64); }

static inline float relu1_f32(float x) { return x < 0 ? 0 : x; }
static void relu_f32(const bb_span *s) { map1_f32(s, relu1_f32); }
static inline double relu1_f64(double x) { return x < 0 ? 0 : x; }
static void relu_f64(const bb_span *s) { map1_f64(s, relu1_f64); }
static inline int64_t relu1_i64(int64_t x) { return x < 0 ? 0 : x; }
static void relu_i64(const bb_span *s) { map1_i64(s, relu1_i64); }

static void erf_f32(const bb_span *s) { map1_f32(s, bb_erff); }
static void erf_f64(const bb_span *s) { map1_f64(s, erf); }

static inline float square1_f32(float x) { return x * x; }
static void square_f32(const bb_span *s) { map1_f32(s, square1_f32); }
static inline double square1_f64(double x) { return x * x; }
static void square_f64(const bb_span *s) { map1_f64(s, square1_f64); }
static inline int64_t square1_i64(int64_t x) { return (int64_t)((uint64_t)x * (uint64_t)x); }
static void square_i64(const bb_span *s) { map1_i64(s, square1_i64); }

static inline float reciprocal1_f32(float x) { return 1.0f / x; }
static void reciprocal_f32(const bb_span *s) { map1_f32(s, reciprocal1_f32); }
static inline double reciprocal1_f64(double x) { return 1.0 / x; }
static void reciprocal_f64(const bb_span *s) { map1_f64(s, reciprocal1_f64); }

/* ---- Two inputs. maximum and minimum give NaN where either is NaN. */

static inline float add2_f32(float x, float y) { return x + y; }
static void add_f32(const bb_span *s) { map2_f32(s, add2_f32); }
static inline double add2_f64(double x, double y) { return x + y; }
static void add_f64(const bb_span *s) { map2_f64(s, add2_f64); }
static inline int64_t add2_i64(int64_t x, int64_t y) {
    return (int64_t)((uint64_t)x + (uint64_t)y);
}
static void add_i64(const bb_span *s) { map2_i64(s, add2_i64); }

static inline float sub2_f32(float x, float y) { return x - y; }
static void sub_f32(const bb_span *s) { map2_f32(s, sub2_f32); }
static inline double sub2_f64(double x, double y) { return x - y; }
static void sub_f64(const bb_span *s) { map2_f64(s, sub2_f64); }
static inline int64_t sub2_i64(int64_t x, int64_t y) {
    return (int64_t)((uint64_t)x - (uint64_t)y);
}
static void sub_i64(const bb_span *s) { map2_i64(s, sub2_i64); }

static inline float mul2_f32(float x, float y) { return x * y; }
static void mul_f32(const bb_span *s) { map2_f32(s, mul2_f32); }
static inline double mul2_f64(double x, double y) { return x * y; }
static void mul_f64(const bb_span *s) { map2_f64(s, mul2_f64); }
static inline int64_t mul2_i64(int64_t x, int64_t y) {
    return (int64_t)((uint64_t)x * (uint64_t)y);
}
static void mul_i64(const bb_span *s) { map2_i64(s, mul2_i64); }

static inline float div2_f32(float x, float y) { return x / y; }
static void div_f32(const bb_span *s) { map2_f32(s, div2_f32); }
static inline double div2_f64(double x, double y) { return x / y; }
static void div_f64(const bb_span *s) { map2_f64(s, div2_f64); }

static inline float maximum2_f32(float x, float y) { return ((x > y) | (x != x)) ? x : y; }
static void maximum_f32(const bb_span *s) { map2_f32(s, maximum2_f32); }
static inline double maximum2_f64(double x, double y) { return ((x > y) | (x != x)) ? x : y; }
static void maximum_f64(const bb_span *s) { map2_f64(s, maximum2_f64); }
static inline int64_t maximum2_i64(int64_t x, int64_t y) { return x > y ? x : y; }
static void maximum_i64(const bb_span *s) { map2_i64(s, maximum2_i64); }

static inline float minimum2_f32(float x, float y) { return ((x < y) | (x != x)) ? x : y; }
static void minimum_f32(const bb_span *s) { map2_f32(s, minimum2_f32); }
static inline double minimum2_f64(double x, double y) { return ((x < y) | (x != x)) ? x : y; }
static void minimum_f64(const bb_span *s) { map2_f64(s, minimum2_f64); }
static inline int64_t minimum2_i64(int64_t x, int64_t y) { return x < y ? x : y; }
static void minimum_i64(const bb_span *s) { map2_i64(s, minimum2_i64); }

/* ---- One input and numbers */

static void add_scalar_f32(const bb_span *s) { mapa_f32(s, add2_f32); }
static void add_scalar_f64(const bb_span *s) { mapa_f64(s, add2_f64); }
static void add_scalar_i64(const bb_span *s) { mapa_i64(s, add2_i64); }
static void mul_scalar_f32(const bb_span *s) { mapa_f32(s, mul2_f32); }
static void mul_scalar_f64(const bb_span *s) { mapa_f64(s, mul2_f64); }
static void mul_scalar_i64(const bb_span *s) { mapa_i64(s, mul2_i64); }

/* The exponents of which a multiplication or division gives exactly pow's special values. */
static inline float cube1_f32(float x) { return x * x * x; }
static void pow_f32(const bb_span *s) {
    if (s->a == 2) {
        square_f32(s);
    } else if (s->a == 3) {
        map1_f32(s, cube1_f32);
    } else if (s->a == -1) {
        reciprocal_f32(s);
    } else {
        mapa_f32(s, powf);
    }
}
static void pow_f64(const bb_span *s) {
    if (s->a == 2) {
        square_f64(s);
    } else if (s->a == -1) {
        reciprocal_f64(s);
    } else {
        mapa_f64(s, pow);
    }
}
/* Wraps like repeated multiplication; the exponent is not negative. */
static inline int64_t pow2_i64(int64_t x, int64_t exponent) {
    uint64_t power = 1, base = (uint64_t)x;
    for (uint64_t e = (uint64_t)exponent; e; e >>= 1, base *= base)
        if (e & 1) power *= base;
    return (int64_t)power;
}
static void pow_i64(const bb_span *s) { mapa_i64(s, pow2_i64); }

/* NaN stays NaN; where min > max the result is max. */
static void clamp_f32(const bb_span *s) {
    const float *x = s->x[0], low = (float)s->a, high = (float)s->b;
    float *y = s->y;
    int64_t stride = s->stride[0];
#pragma omp simd
    for (int64_t i = 0; i < s->n; i++) {
        float t = x[i * stride] < low ? low : x[i * stride];
        y[i] = t > high ? high : t;
    }
}
static void clamp_f64(const bb_span *s) {
    const double *x = s->x[0], low = s->a, high = s->b;
    double *y = s->y;
    int64_t stride = s->stride[0];
    for (int64_t i = 0; i < s->n; i++) {
        double t = x[i * stride] < low ? low : x[i * stride];
        y[i] = t > high ? high : t;
    }
}
static void clamp_i64(const bb_span *s) {
    const int64_t *x = s->x[0], low = f64_to_i64(ceil(s->a)), high = f64_to_i64(floor(s->b));
    int64_t *y = s->y, stride = s->stride[0];
    for (int64_t i = 0; i < s->n; i++) {
        int64_t t = x[i * stride] < low ? low : x[i * stride];
        y[i] = t > high ? high : t;
    }
}

/* ---- Comparisons */

static inline bool is_eq_f32(float x, float y) { return x == y; }
static void eq_f32(const bb_span *s) { test_f32(s, is_eq_f32); }
static inline bool is_eq_f64(double x, double y) { return x == y; }
static void eq_f64(const bb_span *s) { test_f64(s, is_eq_f64); }
static inline bool is_eq_i64(int64_t x, int64_t y) { return x == y; }
static void eq_i64(const bb_span *s) { test_i64(s, is_eq_i64); }

static inline bool is_ne_f32(float x, float y) { return x != y; }
static void ne_f32(const bb_span *s) { test_f32(s, is_ne_f32); }
static inline bool is_ne_f64(double x, double y) { return x != y; }
static void ne_f64(const bb_span *s) { test_f64(s, is_ne_f64); }
static inline bool is_ne_i64(int64_t x, int64_t y) { return x != y; }
static void ne_i64(const bb_span *s) { test_i64(s, is_ne_i64); }

static inline bool is_lt_f32(float x, float y) { return x < y; }
static void lt_f32(const bb_span *s) { test_f32(s, is_lt_f32); }
static inline bool is_lt_f64(double x, double y) { return x < y; }
static void lt_f64(const bb_span *s) { test_f64(s, is_lt_f64); }
static inline bool is_lt_i64(int64_t x, int64_t y) { return x < y; }
static void lt_i64(const bb_span *s) { test_i64(s, is_lt_i64); }

static inline bool is_le_f32(float x, float y) { return x <= y; }
static void le_f32(const bb_span *s) { test_f32(s, is_le_f32); }
static inline bool is_le_f64(double x, double y) { return x <= y; }
static void le_f64(const bb_span *s) { test_f64(s, is_le_f64); }
static inline bool is_le_i64(int64_t x, int64_t y) { return x <= y; }
static void le_i64(const bb_span *s) { test_i64(s, is_le_i64); }

static inline bool is_gt_f32(float x, float y) { return x > y; }
static void gt_f32(const bb_span *s) { test_f32(s, is_gt_f32); }
static inline bool is_gt_f64(double x, double y) { return x > y; }
static void gt_f64(const bb_span *s) { test_f64(s, is_gt_f64); }
static inline bool is_gt_i64(int64_t x, int64_t y) { return x > y; }
static void gt_i64(const bb_span *s) { test_i64(s, is_gt_i64); }

static inline bool is_ge_f32(float x, float y) { return x >= y; }
static void ge_f32(const bb_span *s) { test_f32(s, is_ge_f32); }
static inline bool is_ge_f64(double x, double y) { return x >= y; }
static void ge_f64(const bb_span *s) { test_f64(s, is_ge_f64); }
static inline bool is_ge_i64(int64_t x, int64_t y) { return x >= y; }
static void ge_i64(const bb_span *s) { test_i64(s, is_ge_i64); }

/* ---- where: x[0] ? x[1] : x[2] */

static void where_f32(const bb_span *s) {
    const uint8_t *c = s->x[0];
    const float *x = s->x[1], *y = s->x[2];
    float *z = s->y;
    int64_t n = s->n, sc = s->stride[0], sx = s->stride[1], sy = s->stride[2];
    if (sc == 1 && sx == 1 && sy == 0) {
        const float y0 = *y;
#pragma omp simd
        for (int64_t i = 0; i < n; i++) z[i] = c[i] ? x[i] : y0;
    } else if (sc == 1 && sx == 1 && sy == 1) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) z[i] = c[i] ? x[i] : y[i];
    } else {
        for (int64_t i = 0; i < n; i++) z[i] = c[i * sc] ? x[i * sx] : y[i * sy];
    }
}
static void where_f64(const bb_span *s) {
    const uint8_t *c = s->x[0];
    const double *x = s->x[1], *y = s->x[2];
    double *z = s->y;
    int64_t sc = s->stride[0], sx = s->stride[1], sy = s->stride[2];
    for (int64_t i = 0; i < s->n; i++) z[i] = c[i * sc] ? x[i * sx] : y[i * sy];
}
static void where_i64(const bb_span *s) {
    const uint8_t *c = s->x[0];
    const int64_t *x = s->x[1], *y = s->x[2];
    int64_t *z = s->y, sc = s->stride[0], sx = s->stride[1], sy = s->stride[2];
    for (int64_t i = 0; i < s->n; i++) z[i] = c[i * sc] ? x[i * sx] : y[i * sy];
}

const bb_elementwise_loops BB_ISA_NAME(bb_elementwise_loops) = {
    .load_f32 = load_f32,
    .load_f64 = load_f64,
    .load_i64 = load_i64,
    .store_f32 = store_f32,
    .store_f64 = store_f64,
    .store_i64 = store_i64,
    .neg = {neg_f32, neg_f64, neg_i64},
    .abs = {abs_f32, abs_f64, abs_i64},
    .sign = {sign_f32, sign_f64, sign_i64},
    .exp = {exp_f32, exp_f64, NULL},
    .log = {log_f32, log_f64, NULL},
    .sqrt = {sqrt_f32, sqrt_f64, NULL},
    .rsqrt = {rsqrt_f32, rsqrt_f64, NULL},
    .sin = {sin_f32, sin_f64, NULL},
    .cos = {cos_f32, cos_f64, NULL},
    .tanh = {tanh_f32, tanh_f64, NULL},
    .sigmoid = {sigmoid_f32, sigmoid_f64, NULL},
    .relu = {relu_f32, relu_f64, relu_i64},
    .erf = {erf_f32, erf_f64, NULL},
    .square = {square_f32, square_f64, square_i64},
    .reciprocal = {reciprocal_f32, reciprocal_f64, NULL},
    .pow = {pow_f32, pow_f64, pow_i64},
    .add_scalar = {add_scalar_f32, add_scalar_f64, add_scalar_i64},
    .mul_scalar = {mul_scalar_f32, mul_scalar_f64, mul_scalar_i64},
    .clamp = {clamp_f32, clamp_f64, clamp_i64},
    .add = {add_f32, add_f64, add_i64},
    .sub = {sub_f32, sub_f64, sub_i64},
    .mul = {mul_f32, mul_f64, mul_i64},
    .div = {div_f32, div_f64, NULL},
    .maximum = {maximum_f32, maximum_f64, maximum_i64},
    .minimum = {minimum_f32, minimum_f64, minimum_i64},
    .eq = {eq_f32, eq_f64, eq_i64},
    .ne = {ne_f32, ne_f64, ne_i64},
    .lt = {lt_f32, lt_f64, lt_i64},
    .le = {le_f32, le_f64, le_i64},
    .gt = {gt_f32, gt_f64, gt_i64},
    .ge = {ge_f32, ge_f64, ge_i64},
    .where = {where_f32, where_f64, where_i64},
};
