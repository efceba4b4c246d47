/* What the tests of externalizing share: a recorded function of one norm or more, its declarations
 * and warnings as text. A test is named after the row of the contract that it shows, E1 to E21. */
#ifndef BOBBIN_TESTS_IO_EXTERNALIZE_TEST_H
#define BOBBIN_TESTS_IO_EXTERNALIZE_TEST_H

#include "tests/io/graph_test.h"

static const char *const norm_attrs[] = {"axes", "eps", NULL};
static const bb_externalize_spec rms_norm = {"RMSNormImpl", "rms_norm", norm_attrs};

static char warnings[4096];
static int warned;
static inline void keep_warning(void *user, const char *line) {
    (void)user;
    warned++;
    snprintf(warnings + strlen(warnings), sizeof warnings - strlen(warnings), "%s\n", line);
}
static inline bb_status externalize(bb_graph *g, const bb_externalize_spec *specs, int n) {
    warned = 0;
    warnings[0] = 0;
    return bb_externalize(g, specs, n, keep_warning, NULL);
}

static char declared[1024];
static inline const char *declaration(const bb_graph *g, int i) {
    bb_external_declaration(bb_external_at(g, i), declared, sizeof declared);
    return declared;
}

/* y = f(x) of one input (rows, 8), with parameters w (8) and v (1). */
typedef bb_tensor *(*body)(bb_context *ctx, bb_tensor *x, bb_tensor *w);
typedef struct fixture {
    bb_context *ctx;
    bb_tensor *w;
    body fn;
    bb_graph *g;
} fixture;
static inline bb_status run_body(void *user, bb_tensor *const *in, bb_tensor **out) {
    fixture *f = user;
    out[0] = f->fn(f->ctx, in[0], f->w);
    return bb_error(f->ctx);
}
static inline fixture record(body fn, bb_dtype dtype) {
    fixture f = {.ctx = test_open(), .fn = fn};
    f.w = bb_keep(graph_random(f.ctx, dtype, BB_SHAPE(8), 1));
    const bb_graph_arg x = {"x", dtype, 2, {{.symbol = "rows"}, {.size = 8}}};
    const bb_named params[] = {{"norm.weight", f.w}};
    static const char *const outputs[] = {"y"};
    const bb_graph_signature s = {&x, 1, params, 1, outputs, 1, BB_CPU};
    f.g = bb_graph_trace(f.ctx, run_body, &f, &s);
    return f;
}
static inline void finish(test *t, fixture *f) {
    CHECK_OK(t, f->ctx);
    bb_graph_free(f->g);
    bb_close(f->ctx);
}

static inline bb_tensor *norm(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    bb_module here;
    bb_module_enter(ctx, &here, "RMSNorm", "norm", -1);
    bb_tensor *y = bb_rms_norm(x, w, 1e-5);
    bb_module_leave(ctx, &here);
    return y;
}

static inline bb_tensor *layered(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    bb_module here;
    bb_module_enter(ctx, &here, "Block", "blocks", 3);
    bb_tensor *y = bb_add(x, norm(ctx, x, w));
    bb_module_leave(ctx, &here);
    return bb_mul_scalar(y, 2);
}

#endif
