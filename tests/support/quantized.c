/* The slow quantizer (quantized.h). */
#include "tests/support/quantized.h"

double ref_decode(int kind, int code) {
    static const int mantissas[] = {3, 2, 1}, biases[] = {7, 15, 1}, signs[] = {7, 7, 3};
    int m = mantissas[kind], sign = code >> signs[kind], rest = code & ((1 << signs[kind]) - 1);
    int exponent = rest >> m, fraction = rest & ((1 << m) - 1);
    double v = exponent ? ldexp(1 + ldexp(fraction, -m), exponent - biases[kind])
                        : ldexp(fraction, 1 - biases[kind] - m);
    if (kind == REF_E4M3 && rest == 0x7F) v = NAN;
    if (kind == REF_E5M2 && rest == 0x7C) v = INFINITY;
    if (kind == REF_E5M2 && rest > 0x7C) v = NAN;
    return sign ? -v : v;
}

double ref_decode_e8m0(int code) { return code == 255 ? NAN : ldexp(1, code - 127); }

/* The positive finite values of each kind, in order of their codes. */
static const double *values_of(int kind) {
    static double table[3][128];
    if (table[kind][1] == 0)
        for (int code = 127; code >= 0; code--)
            table[kind][code] = ref_decode(kind, kind == REF_E2M1 ? code & 7 : code);
    return table[kind];
}

int ref_encode(int kind, float x) {
    static const int lasts[] = {0x7E, 0x7B, 7}, nans[] = {0x7F, 0x7E, 0}, signs[] = {0x80, 0x80, 8};
    const double *value = values_of(kind), v = fabs((double)x);
    int sign = signbit(x) ? signs[kind] : 0, below = 0, above = lasts[kind];
    if (isnan(x)) return kind == REF_E2M1 ? sign ^ 8 : nans[kind] | sign;
    if (v >= value[above]) return above | sign;
    while (above - below > 1) {
        int middle = (below + above) / 2;
        if (value[middle] <= v)
            below = middle;
        else
            above = middle;
    }
    double down = v - value[below], up = value[above] - v;
    return (down < up || (down == up && below % 2 == 0) ? below : above) | sign;
}

static float largest(const float *v, int64_t n, int64_t step) {
    float most = 0;
    for (int64_t i = 0; i < n; i++) {
        float a = fabsf(v[i * step]);
        if (isnan(a) || isnan(most)) return NAN;
        most = a > most ? a : most;
    }
    return most;
}

/* ---- A scale for a maximum: what is stored (`bytes` of it), and what multiplies. */

typedef struct ref_scale {
    uint8_t stored[4];
    int bytes;
    float multiplier;
} ref_scale;

static ref_scale scale_f32(const bb_quantize_attrs *a, float amax) {
    float most = a->format ? 57344 : 448, scale = 1, inverse;
    bool two = a->scales == BB_SCALES_AUTO ? a->recipe == BB_FP8_BLOCK
                                           : a->scales == BB_SCALES_POWER_OF_TWO;
    if (amax < (float)a->amax_floor) amax = (float)a->amax_floor;
    if (isfinite(amax) && amax != 0) {
        scale = most / amax;
        if (isinf(scale)) scale = 3.40282347e38f;
        int exponent;
        frexp((double)scale, &exponent);
        if (two) scale = (float)ldexp(1, exponent - 1);
    }
    ref_scale s = {.bytes = 4, .multiplier = scale};
    inverse = 1 / scale;
    memcpy(s.stored, &inverse, 4);
    return s;
}

static ref_scale scale_e8m0(const bb_quantize_attrs *a, float amax) {
    float x = amax * (1 / (a->format ? 57344.0f : 448.0f));
    int code = 0;
    if (isnan(x))
        code = 255;
    else if (isinf(x))
        code = 254;
    else
        while (code < 254 && ref_decode_e8m0(code) < (double)x) code++;
    ref_scale s = {.bytes = 1, .multiplier = code == 255 ? 1 : (float)ldexp(1, 127 - code)};
    s.stored[0] = (uint8_t)code;
    return s;
}

static float whole_of(float amax) {
    if (!isfinite(amax) || amax == 0) return 1;
    float s = 2688 / amax;
    return isinf(s) ? 3.40282347e38f : s;
}

static ref_scale scale_nvfp4(float whole, float amax) {
    int code = ref_encode(REF_E4M3, amax * whole / 6);
    float by = (float)ref_decode(REF_E4M3, code), m = by == 0 ? 0 : isnan(by) ? 1 : whole / by;
    ref_scale s = {.bytes = 1, .multiplier = isinf(m) ? 3.40282347e38f : m};
    s.stored[0] = (uint8_t)code;
    return s;
}

/* ---- All of it */

static ref_scale block_scale(const bb_quantize_attrs *a, float whole, float amax) {
    return a->recipe == BB_MXFP8   ? scale_e8m0(a, amax)
           : a->recipe == BB_NVFP4 ? scale_nvfp4(whole, amax)
                                   : scale_f32(a, amax);
}

static void put(ref_scale s, uint8_t *to, int64_t i) {
    memcpy(to + i * s.bytes, s.stored, (size_t)s.bytes);
}
static void put_code(bool packed, uint8_t *to, int64_t i, int code) {
    if (!packed)
        to[i] = (uint8_t)code;
    else if (i % 2 == 0)
        to[i / 2] = (uint8_t)code;
    else
        to[i / 2] |= (uint8_t)(code << 4);
}

typedef struct ref_job {
    const bb_quantize_attrs *a;
    const float *z;
    int64_t rows, columns;
    float whole;
    ref_scale one; /* of recipes with one scale */
    int kind;
} ref_job;

/* Runs of `block` along the lines of a matrix of `lines` lines of n elements; element (l, i) is
 * z[l * line + i * step]. Codes go to `to` at l * to_line + i * to_step, scales in order, lines
 * first unless `across`. */
static void runs(const ref_job *job, int64_t lines, int64_t n, int64_t line, int64_t step,
                 uint8_t *to, int64_t to_line, int64_t to_step, uint8_t *scales, bool across) {
    int64_t block = bb_recipe_forms[job->a->recipe].block, blocks = 0;
    bool packed = bb_recipe_forms[job->a->recipe].packed;
    if (block) blocks = n / block + (n % block != 0);
    for (int64_t l = 0; l < lines; l++)
        for (int64_t b = 0; b < (block ? blocks : 1); b++) {
            int64_t first = block ? b * block : 0, last = block ? first + block : n;
            if (last > n) last = n;
            const float *z = job->z + l * line + first * step;
            ref_scale s = job->one;
            if (block) s = block_scale(job->a, job->whole, largest(z, last - first, step));
            if (block) put(s, scales, across ? b * lines + l : l * blocks + b);
            for (int64_t i = first; i < last; i++)
                put_code(packed, to, l * to_line + i * to_step,
                         ref_encode(job->kind, job->z[l * line + i * step] * s.multiplier));
        }
}

static void squares(const ref_job *job, const ref_parts *p) {
    int64_t across = (job->columns + 127) / 128, down = (job->rows + 127) / 128;
    for (int64_t r = 0; r < job->rows; r += 128)
        for (int64_t c = 0; c < job->columns; c += 128) {
            int64_t h = job->rows - r < 128 ? job->rows - r : 128;
            int64_t w = job->columns - c < 128 ? job->columns - c : 128;
            float amax = 0;
            for (int64_t i = 0; i < h && !isnan(amax); i++) {
                float row = largest(job->z + (r + i) * job->columns + c, w, 1);
                if (!(row <= amax)) amax = row;
            }
            ref_scale s = scale_f32(job->a, amax);
            if (job->a->rows) put(s, p->scale_inv, r / 128 * across + c / 128);
            if (job->a->columns) put(s, p->columns_scale_inv, c / 128 * down + r / 128);
            for (int64_t i = r; i < r + h; i++)
                for (int64_t k = c; k < c + w; k++) {
                    int code = ref_encode(job->kind, job->z[i * job->columns + k] * s.multiplier);
                    if (job->a->rows) p->data[i * job->columns + k] = (uint8_t)code;
                    if (job->a->columns) p->columns[k * job->rows + i] = (uint8_t)code;
                }
        }
}

ref_parts ref_quantize(const bb_quantize_attrs *a, const float *z, int64_t rows, int64_t columns,
                       float scale) {
    const bb_recipe_form *form = &bb_recipe_forms[a->recipe];
    int64_t n = rows * columns, bytes = form->packed ? n / 2 : n;
    size_t room = (size_t)n * 4 + 64;
    ref_parts p = {.amax = largest(z, n, 1)};
    p.data = calloc(1, room), p.columns = calloc(1, room);
    p.scale_inv = calloc(1, room), p.columns_scale_inv = calloc(1, room);
    ref_job job = {
        a, z, rows, columns, whole_of(p.amax), {.bytes = 4}, form->packed ? 2 : a->format};
    int64_t wide = form->scale_dtype == BB_F32 ? 4 : 1, block = form->block;
    if (block == 0) {
        float inverse = 1 / scale;
        job.one.multiplier = scale;
        memcpy(job.one.stored, &inverse, 4);
        if (a->recipe == BB_FP8_CURRENT) job.one = scale_f32(a, p.amax);
        memcpy(p.scale_inv, job.one.stored, 4);
        memcpy(p.columns_scale_inv, job.one.stored, 4);
        p.scale_bytes = p.columns_scale_bytes = 4;
    } else if (a->square && a->recipe == BB_FP8_BLOCK) {
        p.scale_bytes = p.columns_scale_bytes = (rows + 127) / 128 * ((columns + 127) / 128) * 4;
        squares(&job, &p);
    } else {
        p.scale_bytes = rows * ((columns + block - 1) / block) * wide;
        p.columns_scale_bytes = columns * ((rows + block - 1) / block) * wide;
    }
    p.data_bytes = p.columns_bytes = bytes;
    if (a->square && a->recipe == BB_FP8_BLOCK) return p;
    runs(&job, rows, columns, columns, 1, p.data, columns, 1, p.scale_inv, false);
    if (form->transposed)
        runs(&job, columns, rows, 1, columns, p.columns, rows, 1, p.columns_scale_inv, false);
    else
        runs(&job, columns, rows, 1, columns, p.columns, 1, columns, p.columns_scale_inv, true);
    return p;
}

void ref_free(ref_parts *p) {
    free(p->data), free(p->columns), free(p->scale_inv), free(p->columns_scale_inv);
}

void ref_dequantize(const bb_quantize_attrs *a, const ref_parts *p, bool of_columns, int64_t rows,
                    int64_t columns, float *y) {
    const bb_recipe_form *form = &bb_recipe_forms[a->recipe];
    const uint8_t *data = of_columns ? p->columns : p->data,
                  *scales = of_columns ? p->columns_scale_inv : p->scale_inv;
    int kind = form->packed ? REF_E2M1 : a->format;
    int64_t block = form->block ? form->block : 1;
    int64_t across = (columns + block - 1) / block, down = (rows + block - 1) / block;
    bool square = a->square && a->recipe == BB_FP8_BLOCK;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            int64_t at = of_columns && form->transposed ? c * rows + r : r * columns + c;
            int code = form->packed ? data[at / 2] >> (at % 2 * 4) & 15 : data[at];
            int64_t i = !form->block           ? 0
                        : square && of_columns ? c / block * down + r / block
                        : square               ? r / block * across + c / block
                        : !of_columns          ? r * across + c / block
                        : form->transposed     ? c * down + r / block
                                               : r / block * columns + c;
            float s;
            if (form->scale_dtype == BB_F32)
                memcpy(&s, scales + 4 * i, 4);
            else if (form->packed)
                s = (float)ref_decode(REF_E4M3, scales[i]) *
                    (isfinite(p->amax) && p->amax != 0 ? p->amax / 2688 : 1);
            else
                s = (float)ref_decode_e8m0(scales[i]);
            y[r * columns + c] = (float)ref_decode(kind, code) * s;
        }
}

/* ---- Checks */

void check_bytes(test *t, bb_tensor *got, const void *expected, int64_t bytes, const char *what) {
    if (!CHECK_MSG(t, got != NULL, "%s: no tensor", what)) return;
    int64_t n = bb_count(got) * (int64_t)bb_dtype_bytes(bb_dtype_of(got)), bad = 0, first = -1;
    CHECK_MSG(t, n == bytes, "%s: %lld bytes, expected %lld", what, (long long)n, (long long)bytes);
    if (n != bytes) return;
    uint8_t *read = malloc((size_t)n + 1);
    bb_read(got, read, (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        if (read[i] == ((const uint8_t *)expected)[i]) continue;
        if (bad++ == 0) first = i;
    }
    CHECK_MSG(t, bad == 0, "%s: %lld of %lld bytes differ, the first at %lld: %02x, expected %02x",
              what, (long long)bad, (long long)n, (long long)first, bad ? read[first] : 0,
              bad ? ((const uint8_t *)expected)[first] : 0);
    free(read);
}

static void check_part(test *t, bb_tensor *got, bool wanted, const void *expected, int64_t bytes,
                       const char *what, const char *part) {
    char text[256];
    snprintf(text, sizeof text, "%s: %s", what, part);
    if (wanted)
        check_bytes(t, got, expected, bytes, text);
    else
        CHECK_MSG(t, got == NULL, "%s: there, but not asked for", text);
}

void check_parts(test *t, const bb_quantized_parts *got, const ref_parts *e,
                 const bb_quantize_attrs *a, const char *what) {
    check_part(t, got->data, a->rows, e->data, e->data_bytes, what, "data");
    check_part(t, got->scale_inv, a->rows, e->scale_inv, e->scale_bytes, what, "scale_inv");
    check_part(t, got->columns, a->columns, e->columns, e->columns_bytes, what, "columns");
    check_part(t, got->columns_scale_inv, a->columns, e->columns_scale_inv, e->columns_scale_bytes,
               what, "columns_scale_inv");
    bool measures = bb_recipe_forms[a->recipe].measures;
    if (measures && isnan(e->amax))
        CHECK_MSG(t, got->amax && isnan(bb_item(got->amax)), "%s: amax: expected NaN", what);
    else
        check_part(t, got->amax, measures, &e->amax, 4, what, "amax");
}

float *read_f32(bb_tensor *t) {
    int64_t n = bb_count(t);
    double *wide = malloc((size_t)(n + 1) * sizeof *wide);
    float *y = malloc((size_t)(n + 1) * sizeof *y);
    bb_read_f64(t, wide, n);
    for (int64_t i = 0; i < n; i++) y[i] = (float)wide[i];
    free(wide);
    return y;
}

#define BOTH .rows = true, .columns = true
const quantize_case quantize_cases[] = {
    {"delayed", {.recipe = BB_FP8_DELAYED, BOTH}},
    {"delayed rows", {.recipe = BB_FP8_DELAYED, .rows = true}},
    {"delayed e5m2 rows", {.recipe = BB_FP8_DELAYED, .format = BB_E5M2, .rows = true}},
    {"delayed columns", {.recipe = BB_FP8_DELAYED, .columns = true}},
    {"current", {.recipe = BB_FP8_CURRENT, BOTH}},
    {"current rows", {.recipe = BB_FP8_CURRENT, .rows = true}},
    {"current pow2 e5m2",
     {.recipe = BB_FP8_CURRENT, .format = BB_E5M2, BOTH, .scales = BB_SCALES_POWER_OF_TWO}},
    {"current floor", {.recipe = BB_FP8_CURRENT, BOTH, .amax_floor = 100}},
    {"mxfp8", {.recipe = BB_MXFP8, BOTH}},
    {"mxfp8 e5m2 rows", {.recipe = BB_MXFP8, .format = BB_E5M2, .rows = true}},
    {"mxfp8 columns", {.recipe = BB_MXFP8, .columns = true}},
    {"block", {.recipe = BB_FP8_BLOCK, BOTH}},
    {"block rows any e5m2",
     {.recipe = BB_FP8_BLOCK, .format = BB_E5M2, .rows = true, .scales = BB_SCALES_ANY}},
    {"block square", {.recipe = BB_FP8_BLOCK, BOTH, .square = true}},
    {"block square rows floor",
     {.recipe = BB_FP8_BLOCK, .rows = true, .square = true, .amax_floor = 2}},
    {"nvfp4", {.recipe = BB_NVFP4, BOTH}},
    {"nvfp4 rows", {.recipe = BB_NVFP4, .rows = true}},
    {"nvfp4 columns", {.recipe = BB_NVFP4, .columns = true}},
};
const int quantize_case_count = COUNT(quantize_cases);
