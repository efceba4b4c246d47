/* The machine behind cases.h: runs a table of cases and counts the problems, without failing a
 * test, so that the canary (test_canary.c) can show that each mode catches a planted fault.
 *
 * - cases.c: the loop over cases, run_op_cases, index arithmetic for references
 * - case_input.c: values, layouts, rounding to a dtype
 * - check_forward.c: forward against the reference, fused against composed
 * - check_gradient.c: everything about gradients
 * - check_memory.c: allocations that fail */
#ifndef BOBBIN_TESTS_CHECKER_H
#define BOBBIN_TESTS_CHECKER_H

#include "tests/support/cases.h"

typedef enum check_mode {
    CHECK_FORWARD = 0,  /* output against the reference, by dtype, path and layout */
    CHECK_PATHS,        /* fused against composed: outputs and gradients */
    CHECK_GRADIENT,     /* bb_gradcheck in f64, by path and layout */
    CHECK_SECOND,       /* bb_gradgradcheck */
    CHECK_COMBINATIONS, /* each requires_grad combination gives the gradients that passed
                           CHECK_GRADIENT */
    CHECK_SAVED, /* inputs and outputs dropped before backward: saves_inputs, saves_outputs */
    CHECK_LOW_GRADIENT, /* gradients in f32, f16, bf16 against f64 */
    CHECK_MEMORY,       /* each allocation of the smallest case failed in turn */
    CHECK_MODES
} check_mode;
extern const char *const check_mode_names[CHECK_MODES];

typedef enum layout { CONTIGUOUS = 0, TRANSPOSED, SLICED, BROADCAST, LAYOUTS } layout;

typedef struct check_plan {
    const char *op;
    const op_case *cases;
    int count;
    case_reference reference;
    void (*prepare)(bb_context *ctx); /* NULL, or registers ops and kernels in a new context */
    void (*tell)(void *user, const char *problem); /* NULL: silent */
    void *user;
} check_plan;
typedef struct check_result {
    int problems[CHECK_MODES];
    int64_t checks;
    int fused_runs; /* calls that a fused kernel took */
} check_result;

/* Returns the number of problems. */
int count_op_problems(const check_plan *plan, check_result *result);

/* ---- Inside: one case being checked. */
typedef struct checker {
    const check_plan *plan;
    check_result *result;
    const op_case *c;
    int index; /* of the case */
    bb_context *ctx;
    const bb_op *op;
    bool has_fused, has_fused_backward;
} checker;

/* How a case is run. */
typedef struct setup {
    bb_dtype dtype;
    bb_path path;
    layout layout;
} setup;

typedef struct inputs {
    double *value[CASE_MAX_INPUTS]; /* row-major, as the op sees them; NULL: absent */
    int64_t count[CASE_MAX_INPUTS];
} inputs;

/* Counts a check, and a problem if it is not ok. */
bool expect(checker *k, bool ok, check_mode mode, const setup *s, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* An op failed: reports the context's error as a problem and clears it. */
void expect_no_error(checker *k, check_mode mode, const setup *s);
/* |got - expected| <= bound for all elements (equal infinities, NaN for NaN). */
bool expect_close(checker *k, check_mode mode, const setup *s, const char *what, int64_t n,
                  const double *got, const double *expected, double bound);

/* Draws the values of the case, rounded to the dtype, for the layout. False: no memory. */
bool inputs_draw(const checker *k, const setup *s, inputs *in);
void inputs_free(inputs *in);
bool input_is_float(const case_input *in);
bool input_wants_grad(const op_case *c, int i);
bool layout_applies(const op_case *c, layout l); /* some input looks different in it */
/* The tensor that holds input i in this layout, and the view of it that the op sees. */
bb_tensor *input_leaf(const checker *k, const setup *s, const inputs *in, int i);
bb_tensor *input_view(const checker *k, layout l, bb_tensor *leaf, int i);
/* Applies the case's op; the first output, or NULL. */
bb_tensor *run_case(const checker *k, bb_tensor *const *in);

double round_to(bb_dtype dtype, double x);
double dtype_epsilon(bb_dtype dtype); /* distance from 1 to the next number; 0: integers */
/* What a result of this dtype may be off, given the largest magnitude that mattered. */
double error_bound(const op_case *c, bb_dtype dtype, double scale);
double largest(int64_t n, const double *x); /* finite magnitude */
/* A deterministic stream: the same key gives the same numbers. */
double draw_uniform(uint64_t *state); /* [0, 1) */
double draw_normal(uint64_t *state);
uint64_t case_seed(const checker *k);

void check_forward(checker *k);
void check_gradient(checker *k);
void check_memory(const check_plan *plan, check_result *result);

#endif
