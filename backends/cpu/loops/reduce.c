/* Folds over rows and columns, running sums and argmax (loops/reduce.h). Elements are first brought
 * into one of three types, f32, f64 or i64, a block at a time; each fold is written once per type.
 */
#include "backends/cpu/loops/loops.h"

#include "core/core.h"

#include <math.h>

/* Elements of a row, rows of a column sum, that are added in f32. */
enum { BLOCK = 512, ROWS = 32 };

typedef union block {
    float f32[BLOCK];
    double f64[BLOCK];
    int64_t i64[BLOCK];
} block;

typedef float f32x16 __attribute__((vector_size(64)));
typedef float f32x16_loose __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef double f64x8 __attribute__((vector_size(64)));
typedef double f64x8_loose __attribute__((vector_size(64), aligned(8), may_alias));

/* ---- Loading: a pointer to n contiguous elements of the compute type, in x itself or in buffer */

static const float *load_f32(int dtype, int64_t n, const void *x, int64_t stride, float *buffer) {
    const uint16_t *half = x;
    const float *single = x;
    if (dtype == BB_F32) {
        if (stride == 1) return single;
        for (int64_t i = 0; i < n; i++) buffer[i] = single[i * stride];
    } else if (dtype == BB_F16) {
        if (stride == 1)
            for (int64_t i = 0; i < n; i++) buffer[i] = bb_f16_to_f32(half[i]);
        else
            for (int64_t i = 0; i < n; i++) buffer[i] = bb_f16_to_f32(half[i * stride]);
    } else {
        if (stride == 1)
            for (int64_t i = 0; i < n; i++) buffer[i] = bb_bf16_to_f32(half[i]);
        else
            for (int64_t i = 0; i < n; i++) buffer[i] = bb_bf16_to_f32(half[i * stride]);
    }
    return buffer;
}

static const double *load_f64(int64_t n, const double *x, int64_t stride, double *buffer) {
    if (stride == 1) return x;
    for (int64_t i = 0; i < n; i++) buffer[i] = x[i * stride];
    return buffer;
}

static const int64_t *load_i64(int dtype, int64_t n, const void *x, int64_t stride,
                               int64_t *buffer) {
    const int64_t *wide = x;
    const int32_t *word = x;
    const uint8_t *byte = x;
    if (dtype == BB_I64) {
        if (stride == 1) return wide;
        for (int64_t i = 0; i < n; i++) buffer[i] = wide[i * stride];
    } else if (dtype == BB_I32) {
        for (int64_t i = 0; i < n; i++) buffer[i] = word[i * stride];
    } else {
        for (int64_t i = 0; i < n; i++) buffer[i] = byte[i * stride];
    }
    return buffer;
}

/* ---- One value with another */

static inline double larger(double a, double b) { return b > a || b != b ? b : a; }
static inline double smaller(double a, double b) { return b < a || b != b ? b : a; }
static inline double fold_f64(bb_fold fold, double a, double b) {
    return fold == BB_FOLD_MAX ? larger(a, b) : fold == BB_FOLD_MIN ? smaller(a, b) : a + b;
}
static inline int64_t fold_i64(bb_fold fold, int64_t a, int64_t b) {
    if (fold == BB_FOLD_MAX) return b > a ? b : a;
    if (fold == BB_FOLD_MIN) return b < a ? b : a;
    return (int64_t)((uint64_t)a + (uint64_t)b);
}

static void start(bb_fold fold, bool integer, int64_t count, void *acc) {
    double *f = acc;
    int64_t *i = acc;
    const double value = fold == BB_FOLD_MAX   ? (double)-INFINITY
                         : fold == BB_FOLD_MIN ? (double)INFINITY
                                               : 0;
    const int64_t whole = fold == BB_FOLD_MAX ? INT64_MIN : fold == BB_FOLD_MIN ? INT64_MAX : 0;
    for (int64_t k = 0; !integer && k < count; k++) f[k] = value;
    for (int64_t k = 0; integer && k < count; k++) i[k] = whole;
}

static void join(bb_fold fold, bool integer, int64_t count, const void *part, void *acc) {
    const double *part_f = part;
    const int64_t *part_i = part;
    double *f = acc;
    int64_t *i = acc;
    for (int64_t k = 0; !integer && k < count; k++) f[k] = fold_f64(fold, f[k], part_f[k]);
    for (int64_t k = 0; integer && k < count; k++) i[k] = fold_i64(fold, i[k], part_i[k]);
}

/* ---- A block of one row: several independent sums, so that the adder is never waited for */

static float block_sum_f32(int64_t n, const float *x) {
    f32x16 s[4] = {{0}};
    int64_t i = 0;
    for (; i + 64 <= n; i += 64)
        for (int k = 0; k < 4; k++) s[k] += *(const f32x16_loose *)(x + i + 16 * k);
    for (; i + 16 <= n; i += 16) s[0] += *(const f32x16_loose *)(x + i);
    s[0] = (s[0] + s[1]) + (s[2] + s[3]);
    float total = 0;
    for (int k = 0; k < 16; k++) total += s[0][k];
    for (; i < n; i++) total += x[i];
    return total;
}

static float block_squares_f32(int64_t n, const float *x) {
    f32x16 s[4] = {{0}};
    int64_t i = 0;
    for (; i + 64 <= n; i += 64)
        for (int k = 0; k < 4; k++) {
            const f32x16 v = *(const f32x16_loose *)(x + i + 16 * k);
            s[k] += v * v;
        }
    s[0] = (s[0] + s[1]) + (s[2] + s[3]);
    float total = 0;
    for (int k = 0; k < 16; k++) total += s[0][k];
    for (; i < n; i++) total += x[i] * x[i];
    return total;
}

static double block_sum_f64(bool squares, int64_t n, const double *x) {
    f64x8 s[4] = {{0}};
    int64_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (int k = 0; k < 4; k++) {
            const f64x8 v = *(const f64x8_loose *)(x + i + 8 * k);
            s[k] += squares ? v * v : v;
        }
    s[0] = (s[0] + s[1]) + (s[2] + s[3]);
    double total = 0;
    for (int k = 0; k < 8; k++) total += s[0][k];
    for (; i < n; i++) total += squares ? x[i] * x[i] : x[i];
    return total;
}

/* Comparisons of vectors give masks; a NaN never wins one, so it is looked for apart. */
static float block_extreme_f32(bool max, int64_t n, const float *x) {
    float best = max ? -INFINITY : INFINITY;
    bool nan = false;
    int64_t i = 0;
    if (n >= 16) {
        f32x16 most = *(const f32x16_loose *)x;
        i32x16 nans = most != most;
        for (i = 16; i + 16 <= n; i += 16) {
            const f32x16 v = *(const f32x16_loose *)(x + i);
            const i32x16 wins = max ? v > most : v < most;
            nans |= v != v;
            most = (f32x16)((wins & (i32x16)v) | (~wins & (i32x16)most));
        }
        for (int k = 0; k < 16; k++) {
            best = (max ? most[k] > best : most[k] < best) ? most[k] : best;
            nan |= nans[k] != 0;
        }
    }
    for (; i < n; i++) {
        best = (max ? x[i] > best : x[i] < best) ? x[i] : best;
        nan |= x[i] != x[i];
    }
    return nan ? NAN : best;
}

static double row_f32(bb_fold fold, int64_t n, const float *x) {
    switch (fold) {
    case BB_FOLD_SUM: return (double)block_sum_f32(n, x);
    case BB_FOLD_SQUARES: return (double)block_squares_f32(n, x);
    default: return (double)block_extreme_f32(fold == BB_FOLD_MAX, n, x);
    }
}

static double row_f64(bb_fold fold, int64_t n, const double *x) {
    if (fold == BB_FOLD_SUM || fold == BB_FOLD_SQUARES)
        return block_sum_f64(fold == BB_FOLD_SQUARES, n, x);
    double best = x[0];
    for (int64_t i = 1; i < n; i++) best = fold_f64(fold, best, x[i]);
    return best;
}

static int64_t row_i64(bb_fold fold, int64_t n, const int64_t *x) {
    int64_t best = x[0];
    for (int64_t i = 1; i < n; i++) best = fold_i64(fold, best, x[i]);
    return best;
}

static bool is_integer(int dtype) { return dtype >= BB_I64; }
static int64_t bytes_of(int dtype) {
    return dtype == BB_F64 || dtype == BB_I64    ? 8
           : dtype == BB_F32 || dtype == BB_I32  ? 4
           : dtype == BB_F16 || dtype == BB_BF16 ? 2
                                                 : 1;
}

static void rows(bb_fold fold, int dtype, int64_t count, int64_t step, int64_t n, int64_t stride,
                 const void *x, void *acc) {
    const int64_t bytes = bytes_of(dtype);
    block buffer;
    double *f = acc;
    int64_t *whole = acc;
    for (int64_t i = 0; i < count; i++) {
        for (int64_t j = 0; j < n; j += BLOCK) {
            const int64_t part = n - j < BLOCK ? n - j : BLOCK;
            const void *at = (const char *)x + (i * step + j * stride) * bytes;
            if (is_integer(dtype))
                whole[i] =
                    fold_i64(fold, whole[i],
                             row_i64(fold, part, load_i64(dtype, part, at, stride, buffer.i64)));
            else if (dtype == BB_F64)
                f[i] = fold_f64(fold, f[i],
                                row_f64(fold, part, load_f64(part, at, stride, buffer.f64)));
            else
                f[i] = fold_f64(fold, f[i],
                                row_f32(fold, part, load_f32(dtype, part, at, stride, buffer.f32)));
        }
    }
}

/* ---- Columns: whole rows at a time, into one running row */

static void columns_f32(bb_fold fold, int dtype, int64_t count, int64_t n, int64_t step,
                        const void *x, double *acc) {
    const int64_t bytes = bytes_of(dtype);
    float buffer[BB_REDUCE_WIDTH], part[BB_REDUCE_WIDTH];
    for (int64_t i0 = 0; i0 < n; i0 += ROWS) {
        const int64_t end = n - i0 < ROWS ? n : i0 + ROWS;
        const char *row = (const char *)x + i0 * step * bytes;
        const float *first = load_f32(dtype, count, row, 1, buffer);
        for (int64_t j = 0; j < count; j++)
            part[j] = fold == BB_FOLD_SQUARES ? first[j] * first[j] : first[j];
        int64_t i = i0 + 1;
        if (fold == BB_FOLD_SUM && dtype == BB_F32) {
            for (; i + 3 < end; i += 4) {
                const float *a = (const float *)x + i * step, *b = a + step, *c = b + step,
                            *d = c + step;
#pragma omp simd
                for (int64_t j = 0; j < count; j++) part[j] += (a[j] + b[j]) + (c[j] + d[j]);
            }
        }
        for (; i < end; i++) {
            const float *v = load_f32(dtype, count, (const char *)x + i * step * bytes, 1, buffer);
            if (fold == BB_FOLD_SUM)
                for (int64_t j = 0; j < count; j++) part[j] += v[j];
            else if (fold == BB_FOLD_SQUARES)
                for (int64_t j = 0; j < count; j++) part[j] += v[j] * v[j];
            else if (fold == BB_FOLD_MAX)
                for (int64_t j = 0; j < count; j++)
                    part[j] = v[j] > part[j] || v[j] != v[j] ? v[j] : part[j];
            else
                for (int64_t j = 0; j < count; j++)
                    part[j] = v[j] < part[j] || v[j] != v[j] ? v[j] : part[j];
        }
        for (int64_t j = 0; j < count; j++) acc[j] = fold_f64(fold, acc[j], (double)part[j]);
    }
}

static void columns(bb_fold fold, int dtype, int64_t count, int64_t n, int64_t step, const void *x,
                    void *acc) {
    int64_t buffer[BB_REDUCE_WIDTH], *whole = acc;
    double *f = acc;
    if (!is_integer(dtype) && dtype != BB_F64) {
        columns_f32(fold, dtype, count, n, step, x, acc);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        const void *row = (const char *)x + i * step * bytes_of(dtype);
        const double *v = row;
        if (is_integer(dtype)) {
            const int64_t *u = load_i64(dtype, count, row, 1, buffer);
            for (int64_t j = 0; j < count; j++) whole[j] = fold_i64(fold, whole[j], u[j]);
        } else if (fold == BB_FOLD_SUM) {
            for (int64_t j = 0; j < count; j++) f[j] += v[j];
        } else {
            for (int64_t j = 0; j < count; j++)
                f[j] = fold_f64(fold, f[j], fold == BB_FOLD_SQUARES ? v[j] * v[j] : v[j]);
        }
    }
}

/* ---- Results */

static void finish(int dtype, int64_t count, const void *acc, double divisor, void *y,
                   int64_t step) {
    const double *f = acc;
    const int64_t *whole = acc;
    double *y64 = y;
    float *y32 = y;
    uint16_t *y16 = y;
    int64_t *y_i64 = y;
    int32_t *y_i32 = y;
    uint8_t *y_u8 = y;
    switch (dtype) {
    case BB_F64:
        for (int64_t i = 0; i < count; i++) y64[i * step] = f[i] / divisor;
        break;
    case BB_F32:
        for (int64_t i = 0; i < count; i++) y32[i * step] = (float)(f[i] / divisor);
        break;
    case BB_F16:
        for (int64_t i = 0; i < count; i++) y16[i * step] = bb_f32_to_f16((float)(f[i] / divisor));
        break;
    case BB_BF16:
        for (int64_t i = 0; i < count; i++) y16[i * step] = bb_f32_to_bf16((float)(f[i] / divisor));
        break;
    case BB_I64:
        for (int64_t i = 0; i < count; i++) y_i64[i * step] = whole[i];
        break;
    case BB_I32:
        for (int64_t i = 0; i < count; i++) y_i32[i * step] = (int32_t)whole[i];
        break;
    default:
        for (int64_t i = 0; i < count; i++) y_u8[i * step] = (uint8_t)whole[i];
        break;
    }
}

static void cumsum(int dtype, int64_t n, const void *x, int64_t x_stride, void *y,
                   int64_t y_stride) {
    const int64_t x_bytes = bytes_of(dtype), y_bytes = is_integer(dtype) ? 8 : x_bytes;
    block buffer;
    double sum[BLOCK], total = 0;
    int64_t whole[BLOCK], whole_total = 0;
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t part = n - i < BLOCK ? n - i : BLOCK;
        const void *from = (const char *)x + i * x_stride * x_bytes;
        void *to = (char *)y + i * y_stride * y_bytes;
        if (is_integer(dtype)) {
            const int64_t *v = load_i64(dtype, part, from, x_stride, buffer.i64);
            for (int64_t j = 0; j < part; j++)
                whole[j] = whole_total = fold_i64(BB_FOLD_SUM, whole_total, v[j]);
            finish(BB_I64, part, whole, 1, to, y_stride);
            continue;
        }
        if (dtype == BB_F64) {
            const double *v = load_f64(part, from, x_stride, buffer.f64);
            for (int64_t j = 0; j < part; j++) sum[j] = total += v[j];
        } else {
            const float *v = load_f32(dtype, part, from, x_stride, buffer.f32);
            for (int64_t j = 0; j < part; j++) sum[j] = total += (double)v[j];
        }
        finish(dtype, part, sum, 1, to, y_stride);
    }
}

/* Whether b beats a: larger, or the first NaN. */
static bool beats(double b, double a) { return b > a || (b != b && a == a); }

/* The best of each block is found by a vector fold; its place is looked up only where the best
 * improves. */
static int64_t argmax(int dtype, int64_t n, const void *x, int64_t stride) {
    const int64_t bytes = bytes_of(dtype);
    block buffer;
    int64_t at = -1, whole = 0;
    double best = 0;
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t part = n - i < BLOCK ? n - i : BLOCK;
        const void *from = (const char *)x + i * stride * bytes;
        int64_t j = 0;
        if (is_integer(dtype)) {
            const int64_t *v = load_i64(dtype, part, from, stride, buffer.i64),
                          m = row_i64(BB_FOLD_MAX, part, v);
            if (at >= 0 && m <= whole) continue;
            while (v[j] != m) j++;
            whole = m;
        } else if (dtype == BB_F64) {
            const double *v = load_f64(part, from, stride, buffer.f64),
                         m = row_f64(BB_FOLD_MAX, part, v);
            if (at >= 0 && !beats(m, best)) continue;
            while (m == m ? v[j] != m : v[j] == v[j]) j++;
            best = m;
        } else {
            const float *v = load_f32(dtype, part, from, stride, buffer.f32),
                        m = block_extreme_f32(true, part, v);
            if (at >= 0 && !beats((double)m, best)) continue;
            while (m == m ? v[j] != m : v[j] == v[j]) j++;
            best = (double)m;
        }
        at = i + j;
    }
    return at;
}

const bb_reduce_loops BB_ISA_NAME(bb_reduce_loops) = {
    .start = start,
    .rows = rows,
    .columns = columns,
    .join = join,
    .finish = finish,
    .cumsum = cumsum,
    .argmax = argmax,
};
