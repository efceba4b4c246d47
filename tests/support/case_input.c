/* Values and layouts of a case's inputs (checker.h). A layout is made with view ops on a leaf, so a
 * gradient check of the leaf covers the layout too. */
#include "ops/ops.h"
#include "tests/support/checker.h"

/* ---- Numbers */

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t draw_bits(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double draw_uniform(uint64_t *state) { return (double)(draw_bits(state) >> 11) * 0x1p-53; }

double draw_normal(uint64_t *state) {
    double u = 1 - draw_uniform(state), v = draw_uniform(state);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

uint64_t case_seed(const checker *k) {
    uint64_t h = 1469598103934665603u;
    for (const char *p = k->plan->op; *p; p++)
        h = (h ^ (uint64_t)(unsigned char)*p) * 1099511628211u;
    return (h ^ (uint64_t)k->index) % 1000000007u;
}

typedef struct float_format {
    int digits, min_exponent; /* significand bits; of the smallest normal, as frexp counts */
    double max;
} float_format;

static const float_format *format_of(bb_dtype dtype) {
    static const float_format f64 = {53, -1021, 1.7976931348623157e308},
                              f32 = {24, -125, 3.4028234663852886e38}, f16 = {11, -13, 65504},
                              bf16 = {8, -125, 3.3895313892515355e38};
    return dtype == BB_F32 ? &f32 : dtype == BB_F16 ? &f16 : dtype == BB_BF16 ? &bf16 : &f64;
}

/* Round to nearest, ties to even, on our own: the library's conversion is under test. */
double round_to(bb_dtype dtype, double x) {
    const float_format *f = format_of(dtype);
    if (dtype == BB_F64 || x == 0 || !isfinite(x)) return x;
    int exponent;
    frexp(x, &exponent);
    if (exponent < f->min_exponent) exponent = f->min_exponent;
    double quantum = ldexp(1, exponent - f->digits), r = nearbyint(x / quantum) * quantum;
    return fabs(r) > f->max ? copysign(INFINITY, x) : r;
}

double dtype_epsilon(bb_dtype dtype) {
    return bb_dtype_is_float(dtype) ? ldexp(1, 1 - format_of(dtype)->digits) : 0;
}

double error_bound(const op_case *c, bb_dtype dtype, double scale) {
    double tolerance = c->tolerance > 0 ? c->tolerance : 4;
    if (!bb_dtype_is_float(dtype)) return 0;
    if (dtype == BB_F64) return 1e-12 * fmax(1, tolerance / 4) * scale + 1e-300;
    double smallest = ldexp(1, format_of(dtype)->min_exponent - (dtype == BB_F16 ? 11 : 1));
    return tolerance * dtype_epsilon(dtype) * scale + smallest;
}

double largest(int64_t n, const double *x) {
    double m = 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(x[i]) && fabs(x[i]) > m) m = fabs(x[i]);
    return m;
}

/* ---- Layouts: where element `index` of the input lies in its leaf */

bool input_is_float(const case_input *in) {
    return in->fill != FILL_INDEX && in->fill != FILL_BOOL;
}

bool input_wants_grad(const op_case *c, int i) {
    return !c->in[i].absent && !c->in[i].no_grad && input_is_float(&c->in[i]);
}

/* The axis that is repeated with stride 0; -1: none. Odd inputs take the last one, even ones the
 * first. */
static int broadcast_axis(const bb_shape *shape, int input) {
    int found = -1;
    for (int a = 0; a < shape->rank; a++) {
        if (shape->size[a] < 2) continue;
        found = a;
        if (input % 2 == 0) break;
    }
    return found;
}

static bool layout_changes(const case_input *in, layout l, int i) {
    if (in->absent) return false;
    switch (l) {
    case CONTIGUOUS: return true;
    case TRANSPOSED: return in->shape.rank >= 2;
    case SLICED: return in->shape.rank >= 1;
    case BROADCAST: return broadcast_axis(&in->shape, i) >= 0;
    default: return false;
    }
}

bool layout_applies(const op_case *c, layout l) {
    for (int i = 0; i < c->n_in; i++)
        if (layout_changes(&c->in[i], l, i)) return true;
    return l == CONTIGUOUS;
}

static bb_shape leaf_shape(const bb_shape *shape, layout l, int input) {
    bb_shape leaf = *shape;
    for (int a = 0; a < shape->rank; a++) {
        if (l == TRANSPOSED) leaf.size[a] = shape->size[shape->rank - 1 - a];
        if (l == SLICED)
            leaf.size[a] = a == shape->rank - 1 ? 2 * shape->size[a] + 1 : shape->size[a] + 1;
        if (l == BROADCAST && a == broadcast_axis(shape, input)) leaf.size[a] = 1;
    }
    return leaf;
}

static int64_t leaf_offset(const bb_shape *shape, layout l, int input, int64_t flat) {
    int64_t index[BB_MAX_RANK] = {0}, moved[BB_MAX_RANK] = {0};
    bb_shape leaf = leaf_shape(shape, l, input);
    ref_unravel(shape, flat, index);
    for (int a = 0; a < shape->rank; a++) {
        moved[a] = index[a];
        if (l == TRANSPOSED) moved[a] = index[shape->rank - 1 - a];
        if (l == SLICED) moved[a] = a == shape->rank - 1 ? 2 * index[a] + 1 : index[a] + 1;
        if (l == BROADCAST && leaf.size[a] == 1) moved[a] = 0;
    }
    return ref_offset(&leaf, moved);
}

static double draw(const case_input *in, int input, int64_t i, int64_t n, const int64_t *shuffled,
                   uint64_t *state) {
    double x;
    switch (in->fill) {
    case FILL_POSITIVE: return 0.5 + 1.5 * draw_uniform(state);
    case FILL_UNIT: return 0.95 * (2 * draw_uniform(state) - 1);
    case FILL_APART: x = draw_normal(state); return x + copysign(0.1, x);
    case FILL_DISTINCT: return 0.5 * (double)(shuffled[i] - n / 2) + 0.125 * input;
    case FILL_INDEX: return floor(draw_uniform(state) * (double)in->limit);
    case FILL_BOOL: return i < 2 ? (double)i : (double)(draw_bits(state) >> 63);
    default: return draw_normal(state);
    }
}

static bool draw_input(const checker *k, const setup *s, int i, inputs *in) {
    const case_input *c = &k->c->in[i];
    int64_t n = 0;
    bb_shape_count(&c->shape, &n);
    double *value = malloc((size_t)(n + 1) * sizeof *value);
    int64_t *shuffled = malloc((size_t)(n + 1) * sizeof *shuffled);
    if (!value || !shuffled) {
        free(value);
        free(shuffled);
        return false;
    }
    uint64_t state = case_seed(k) * 64 + (uint64_t)i;
    for (int64_t j = 0; j < n; j++) shuffled[j] = j;
    for (int64_t j = n - 1; j > 0; j--) {
        int64_t other = (int64_t)(draw_bits(&state) % (uint64_t)(j + 1)), held = shuffled[j];
        shuffled[j] = shuffled[other];
        shuffled[other] = held;
    }
    for (int64_t j = 0; j < n; j++) {
        double x = draw(c, i, j, n, shuffled, &state);
        value[j] = input_is_float(c) ? round_to(s->dtype, x) : x;
    }
    int axis = s->layout == BROADCAST ? broadcast_axis(&c->shape, i) : -1;
    for (int64_t j = 0; axis >= 0 && j < n; j++) {
        int64_t index[BB_MAX_RANK];
        ref_unravel(&c->shape, j, index);
        index[axis] = 0;
        value[j] = value[ref_offset(&c->shape, index)];
    }
    free(shuffled);
    in->value[i] = value;
    in->count[i] = n;
    return true;
}

bool inputs_draw(const checker *k, const setup *s, inputs *in) {
    memset(in, 0, sizeof *in);
    for (int i = 0; i < k->c->n_in; i++) {
        if (k->c->in[i].absent || draw_input(k, s, i, in)) continue;
        inputs_free(in);
        return false;
    }
    return true;
}

void inputs_free(inputs *in) {
    for (int i = 0; i < CASE_MAX_INPUTS; i++) free(in->value[i]);
    memset(in, 0, sizeof *in);
}

/* What lies around a slice must not be read: NaN, or an index out of every range. */
bb_tensor *input_leaf(const checker *k, const setup *s, const inputs *in, int i) {
    const case_input *c = &k->c->in[i];
    if (c->absent) return NULL;
    layout l = layout_changes(c, s->layout, i) ? s->layout : CONTIGUOUS;
    bb_shape shape = leaf_shape(&c->shape, l, i);
    int64_t n = 0;
    bb_shape_count(&shape, &n);
    double *value = malloc((size_t)(n + 1) * sizeof *value);
    if (!value) return NULL;
    for (int64_t j = 0; j < n; j++)
        value[j] = input_is_float(c) ? NAN : c->fill == FILL_INDEX ? -12345 : 1;
    for (int64_t j = 0; j < in->count[i]; j++)
        value[leaf_offset(&c->shape, l, i, j)] = in->value[i][j];
    bb_dtype dtype = input_is_float(c) ? s->dtype : c->fill == FILL_INDEX ? BB_I64 : BB_BOOL;
    bb_tensor *leaf = bb_from_f64(k->ctx, dtype, shape, value);
    free(value);
    return leaf;
}

bb_tensor *input_view(const checker *k, layout l, bb_tensor *leaf, int i) {
    const case_input *c = &k->c->in[i];
    if (!leaf || !layout_changes(c, l, i)) return leaf;
    int rank = c->shape.rank;
    if (l == TRANSPOSED) {
        bb_ints axes = {.n = rank};
        for (int a = 0; a < rank; a++) axes.v[a] = rank - 1 - a;
        return bb_permute(leaf, axes);
    }
    if (l == BROADCAST) return bb_expand(leaf, c->shape);
    bb_tensor *view = leaf;
    for (int a = 0; l == SLICED && a < rank; a++) {
        int64_t step = a == rank - 1 ? 2 : 1;
        view = bb_slice(view, a, 1, 1 + step * c->shape.size[a], step);
    }
    return view;
}

bb_tensor *run_case(const checker *k, bb_tensor *const *in) {
    bb_tensor *out[BB_MAX_OUTPUTS] = {NULL};
    if (bb_apply(k->ctx, k->op, in, k->c->n_in, k->c->attrs, out) != BB_OK) return NULL;
    return out[0];
}
