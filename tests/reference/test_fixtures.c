/* The committed fixtures: every op and dtype, forward and all gradients, as PyTorch in f64 gives
 * them, at the bounds of bounds.py, on each path and through views that are not contiguous.
 * tests/reference/reference.py wrote them (fixtures.py says what is in a file); README.md there
 * has the bounds. Needs no Python. */
#include "tests/support/sha256.h"
#include "tests/support/test.h"
#include "tools/attrs.h"

#include <stdarg.h>

#define FOLDER BOBBIN_SOURCE_DIR "/tests/reference"

enum { MAX_INPUTS = 12, NAME_BYTES = 96 };

/* How a case's inputs lie in memory. */
typedef enum layout { PLAIN = 0, TRANSPOSED, SLICED, LAYOUTS } layout;
static const char *const layout_names[] = {"contiguous", "transposed", "sliced"};
static const char *const path_names[] = {"auto", "fused", "composed"};

typedef struct run {
    test *t;
    bb_context *ctx;
    const bb_op *op;
    bb_safetensors *file;
    int number; /* of the case */
    bb_path path;
    layout layout;
    int n_in;
    bb_tensor *leaf[MAX_INPUTS], *in[MAX_INPUTS]; /* in: the view of the leaf that the op sees */
    bb_tensor *out[BB_MAX_OUTPUTS];
} run;

typedef struct tally {
    int runs, fused, compared, gradients;
    int runs_of[BB_DTYPE_COUNT];
} tally;

static const char *name_of(const run *r, char name[NAME_BYTES], const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static const char *name_of(const run *r, char name[NAME_BYTES], const char *format, ...) {
    va_list arguments;
    int n = snprintf(name, NAME_BYTES, "%d.", r->number);
    va_start(arguments, format);
    vsnprintf(name + n, NAME_BYTES - (size_t)n, format, arguments);
    va_end(arguments);
    return name;
}

static const char *input_name(const bb_op *op, int i, char name[NAME_BYTES]) {
    int last = bb_op_input_count(op) - 1;
    if (op->variadic && i >= last)
        snprintf(name, NAME_BYTES, "%s.%d", op->inputs[last], i - last);
    else
        snprintf(name, NAME_BYTES, "%s", op->inputs[i]);
    return name;
}

static bool wrong(run *r, const char *what, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static bool wrong(run *r, const char *what, const char *format, ...) {
    char detail[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);
    test_check(r->t, false, __FILE__, __LINE__, "%s case %d, %s, %s, %s: %s", r->op->name,
               r->number, path_names[r->path], layout_names[r->layout], what, detail);
    return false;
}

/* ---- Layouts */

static bb_ints every_axis(int rank, int64_t value) {
    bb_ints list = {.n = rank};
    for (int a = 0; a < rank; a++) list.v[a] = value;
    return list;
}

static bb_tensor *reversed(bb_tensor *t) {
    bb_ints axes = {.n = bb_rank(t)};
    for (int a = 0; a < axes.n; a++) axes.v[a] = axes.n - 1 - a;
    return bb_permute(t, axes);
}

/* Everything but a border of one element. */
static bb_tensor *inside(bb_tensor *t) {
    for (int a = 0; t && a < bb_rank(t); a++) t = bb_slice(t, a, 1, bb_size(t, a) - 1, 1);
    return t;
}

/* What lies around a slice must not be read: NaN, or an index out of every range. */
static bb_tensor *make_leaf(layout l, bb_tensor *t) {
    bb_dtype dtype = bb_dtype_of(t);
    if (bb_rank(t) == 0 || l == PLAIN) return t;
    if (l == TRANSPOSED) return bb_contiguous(reversed(t));
    double around = bb_dtype_is_float(dtype) ? (double)NAN : dtype > BB_I32 ? 1 : -12345;
    bb_ints one = every_axis(bb_rank(t), 1);
    return bb_pad(t, one, one, around);
}

static bb_tensor *make_view(layout l, bb_tensor *leaf) {
    if (!leaf || bb_rank(leaf) == 0 || l == PLAIN) return leaf;
    return l == TRANSPOSED ? reversed(leaf) : inside(leaf);
}

/* ---- Comparing */

static double *read_all(bb_tensor *t) {
    double *value = calloc((size_t)bb_count(t) + 1, sizeof *value);
    if (value) bb_read_f64(t, value, bb_count(t));
    return value;
}

static bool close_enough(double got, double expected, double bound) {
    if (got == expected || (isnan(got) && isnan(expected))) return true;
    return fabs(got - expected) <= bound;
}

/* Whether `got` is what the file expects under the name `result`. `worsen`: with twice the bound
 * and an ulp added, to show that the comparison sees it. */
static int64_t count_wrong(run *r, const char *result, bb_tensor *got, bool worsen, bool tell) {
    char name[NAME_BYTES];
    bb_tensor *expected =
        bb_safetensors_load(r->file, name_of(r, name, "expect.%s", result), BB_CPU);
    bb_stored stored;
    bb_tensor *bound = NULL;
    if (bb_safetensors_find(r->file, name_of(r, name, "bound.%s", result), &stored))
        bound = bb_safetensors_load(r->file, name, BB_CPU);
    if (!expected || !got) return 1 + 0 * wrong(r, result, "%s", bb_error_message(r->ctx));
    bb_shape shape = bb_shape_of(got), wanted = bb_shape_of(expected);
    if (!bb_shape_equal(&shape, &wanted) || bb_dtype_of(got) != bb_dtype_of(expected))
        return 1 +
               0 * wrong(r, result, "wrong shape, or dtype %s", bb_dtype_name(bb_dtype_of(got)));
    double *a = read_all(got), *b = read_all(expected), *c = bound ? read_all(bound) : NULL;
    int64_t bad = 0;
    for (int64_t i = 0; a && b && i < bb_count(got); i++) {
        double limit = c ? c[i] : 0;
        if (worsen) a[i] += 2.1 * limit + 1e-3 * fabs(a[i]) + 1e-30;
        if (close_enough(a[i], b[i], limit)) continue;
        if (tell && bad++ == 0)
            wrong(r, result, "[%lld]: got %.17g, expected %.17g within %.3g", (long long)i, a[i],
                  b[i], limit);
        else
            bad += !tell;
    }
    free(a);
    free(b);
    free(c);
    return bad;
}

/* ---- One case */

static bool load(run *r, bool gradient) {
    char name[NAME_BYTES], input[NAME_BYTES];
    bb_stored stored;
    r->n_in = bb_op_input_count(r->op);
    while (r->op->variadic && r->n_in < MAX_INPUTS &&
           bb_safetensors_find(r->file, name_of(r, name, "%s", input_name(r->op, r->n_in, input)),
                               &stored))
        r->n_in++;
    for (int i = 0; i < r->n_in; i++) {
        r->leaf[i] = r->in[i] = NULL;
        name_of(r, name, "%s", input_name(r->op, i, input));
        if (!bb_safetensors_find(r->file, name, &stored)) continue; /* optional */
        r->leaf[i] = make_leaf(r->layout, bb_safetensors_load(r->file, name, BB_CPU));
        if (gradient && r->leaf[i] && bb_dtype_is_float(bb_dtype_of(r->leaf[i])))
            bb_set_requires_grad(r->leaf[i], true);
        r->in[i] = make_view(r->layout, r->leaf[i]);
    }
    return bb_error(r->ctx) == BB_OK || wrong(r, "inputs", "%s", bb_error_message(r->ctx));
}

static void check_results(run *r, bool gradient, tally *sum) {
    char result[NAME_BYTES + 8], input[NAME_BYTES];
    int visible = bb_op_output_count(r->op) - r->op->hidden;
    for (int i = 0; i < visible; i++) {
        count_wrong(r, r->op->outputs[i], r->out[i], false, true);
        sum->compared++;
    }
    for (int i = 0; i < r->n_in; i++) {
        if (!r->in[i]) continue;
        input_name(r->op, i, input);
        if (r->op->mutates >> i & 1) {
            count_wrong(r, input, r->in[i], false, true);
            sum->compared++;
        }
        if (!gradient || !bb_dtype_is_float(bb_dtype_of(r->in[i]))) continue;
        bb_tensor *g = bb_grad(r->leaf[i]);
        if (!g) g = bb_zeros_like(r->leaf[i]);
        snprintf(result, sizeof result, "grad.%s", input);
        count_wrong(r, result, make_view(r->layout, g), false, true);
        sum->gradients++;
    }
}

static void run_case(run *r, tally *sum) {
    char name[NAME_BYTES];
    bb_any_attrs attrs;
    bb_stored stored;
    snprintf(name, sizeof name, "%d", r->number);
    bool gradient = bb_safetensors_find(r->file, name_of(r, name, "grad.%s", "output"), &stored);
    snprintf(name, sizeof name, "%d", r->number);
    if (bb_attrs_parse(r->ctx, r->op, bb_safetensors_metadata(r->file, name), &attrs) != BB_OK)
        wrong(r, "attributes", "%s", bb_error_message(r->ctx));
    bb_set_path(r->ctx, BB_PATH_AUTO);
    if (bb_error(r->ctx) == BB_OK && load(r, gradient)) {
        bb_set_path(r->ctx, r->path);
        bb_status status =
            bb_apply(r->ctx, r->op, r->in, r->n_in, r->op->attrs_bytes ? &attrs : NULL, r->out);
        bb_set_path(r->ctx, BB_PATH_AUTO);
        if (status == BB_OK && gradient)
            bb_backward(r->out[0],
                        bb_safetensors_load(r->file, name_of(r, name, "grad.output"), BB_CPU));
        if (status == BB_ERR_UNSUPPORTED && r->path == BB_PATH_FUSED) {
            bb_clear_error(r->ctx); /* a call that the kernel leaves to the decomposition */
        } else if (bb_error(r->ctx) != BB_OK) {
            wrong(r, "call", "%s", bb_error_message(r->ctx));
        } else {
            check_results(r, gradient, sum);
            sum->runs++;
            sum->fused += r->path == BB_PATH_FUSED;
            bb_tensor *first = r->n_in ? r->in[0] : r->out[0];
            if (first) sum->runs_of[bb_dtype_of(first)]++;
        }
    }
    bb_clear_error(r->ctx);
    bb_end_step(r->ctx);
}

static bb_safetensors *open_fixture(bb_context *ctx, const bb_op *op) {
    char path[512];
    snprintf(path, sizeof path, FOLDER "/fixtures/%s.safetensors", op->name);
    return bb_safetensors_open(ctx, path);
}

static int cases_in(const bb_safetensors *file) {
    const char *cases = bb_safetensors_metadata(file, "cases");
    return cases ? atoi(cases) : 0;
}

/* Ops whose first input is never of this dtype. */
static bool lacks(const bb_op *op, bb_dtype dtype) {
    static const struct {
        const char *op;
        unsigned has; /* bit of a dtype */
    } rows[] = {{"where", 0},
                {"Quantize", 1u << BB_F32 | 1u << BB_F16 | 1u << BB_BF16},
                {"RMSNormQuantize", 1u << BB_F32 | 1u << BB_F16 | 1u << BB_BF16},
                {"Dequantize", 0},
                {"QuantizedLinear", 0},
                {"update_scale_", 1u << BB_F32}};
    for (int i = 0; i < COUNT(rows); i++)
        if (strcmp(op->name, rows[i].op) == 0) return !(rows[i].has >> dtype & 1u);
    return false;
}

static void check_op(test *t, bb_context *ctx, const bb_op *op) {
    tally sum = {0};
    run r = {.t = t, .ctx = ctx, .op = op, .file = open_fixture(ctx, op)};
    if (!CHECK_MSG(t, r.file != NULL, "%s: %s", op->name, bb_error_message(ctx))) {
        bb_clear_error(ctx);
        return;
    }
    bool fused = op->decompose && bb_op_has_kernel(ctx, op, BB_CPU, false);
    for (r.number = 0; r.number < cases_in(r.file); r.number++) {
        for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path++) {
            if ((path == BB_PATH_AUTO) != (op->decompose == NULL)) continue;
            if (path == BB_PATH_FUSED && !fused) continue;
            for (int l = PLAIN; l < (op->mutates ? TRANSPOSED : LAYOUTS); l++) {
                r.path = (bb_path)path;
                r.layout = (layout)l;
                run_case(&r, &sum);
            }
        }
    }
    bb_safetensors_close(r.file);
    CHECK_MSG(t, sum.runs > 0 && sum.compared > 0, "%s: nothing was compared", op->name);
    CHECK_MSG(t, !fused || sum.fused > 0, "%s: the fused kernel took no case", op->name);
    /* A file has one cotangent: gradients of several results are in the op's own test. */
    bool several = bb_op_output_count(op) - op->hidden > 1;
    bool has_gradient = op->gradient != bb_no_gradient && !several;
    CHECK_MSG(t, !has_gradient || sum.gradients > 0, "%s: no gradient was compared", op->name);
    for (int d = BB_F64; d <= BB_BF16; d++)
        CHECK_MSG(t, sum.runs_of[d] > 0 || lacks(op, (bb_dtype)d), "%s: no case in %s", op->name,
                  bb_dtype_name((bb_dtype)d));
}

static void test_all_ops(test *t) {
    bb_context *ctx = test_open();
    for (int i = 0; i < bb_op_count(ctx); i++) check_op(t, ctx, bb_op_at(ctx, i));
    bb_close(ctx);
}

static bool any_finite(bb_tensor *t) {
    double *value = read_all(t);
    bool found = false;
    for (int64_t i = 0; value && i < bb_count(t); i++) found |= isfinite(value[i]) != 0;
    free(value);
    return found;
}

/* A result that is off by more than its bound must be seen, in every op. */
static void test_wrong_numbers_are_seen(test *t) {
    bb_context *ctx = test_open();
    for (int i = 0; i < bb_op_count(ctx); i++) {
        const bb_op *op = bb_op_at(ctx, i);
        run r = {.t = t, .ctx = ctx, .op = op, .file = open_fixture(ctx, op)};
        int seen = 0, of = 0;
        for (r.number = 0; r.file && r.number < cases_in(r.file); r.number++) {
            char name[NAME_BYTES];
            bb_stored stored;
            const char *result = op->outputs[0] ? op->outputs[0] : op->inputs[0];
            if (!bb_safetensors_find(r.file, name_of(&r, name, "expect.%s", result), &stored))
                continue;
            bb_tensor *right = bb_safetensors_load(r.file, name, BB_CPU);
            if (!right || !any_finite(right)) continue;
            of++;
            seen += count_wrong(&r, result, right, true, false) > 0;
            CHECK_INT(t, count_wrong(&r, result, right, false, false), 0);
            bb_end_step(ctx);
        }
        CHECK_MSG(t, of > 0 && seen == of, "%s: %d of %d wrong results seen", op->name, seen, of);
        bb_safetensors_close(r.file);
        bb_clear_error(ctx);
    }
    bb_close(ctx);
}

/* The files are those that were written, of every op and no other, and together small. */
static void test_hashes(test *t) {
    char digest[SHA256_TEXT];
    int64_t bytes[3];
    bb_context *ctx = test_open();
    CHECK_INT(t, sha256_check_folder(t, FOLDER "/fixtures", &bytes[0]), bb_op_count(ctx));
    CHECK_INT(t, sha256_check_folder(t, FOLDER "/models", &bytes[1]), 12);
    CHECK_INT(t, sha256_check_folder(t, FOLDER "/models/tokenizers", &bytes[2]), 10);
    int64_t all = bytes[0] + bytes[1] + bytes[2];
    CHECK_MSG(t, all < 6000000, "%lld bytes of fixtures", (long long)all);
    bb_close(ctx);
    sha256_bytes("abc", 3, digest);
    CHECK_TEXT(t, digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static const test_row rows[] = {
    {"all_ops", test_all_ops},
    {"wrong_numbers_are_seen", test_wrong_numbers_are_seen},
    {"hashes", test_hashes},
};
TEST_MAIN(rows)
