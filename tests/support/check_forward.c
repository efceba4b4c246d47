/* Forward of a case, in each dtype, path and layout, against its reference; fused against composed
 * (checker.h). */
#include "tests/support/checker.h"

/* Runs the case once and reads its first output. Returns a malloc'd array, or NULL. */
static double *forward(checker *k, const setup *s, const inputs *in, bb_shape *shape,
                       bb_dtype *dtype) {
    bb_tensor *view[CASE_MAX_INPUTS] = {NULL};
    double *got = NULL;
    bb_set_path(k->ctx, BB_PATH_AUTO);
    for (int i = 0; i < k->c->n_in; i++)
        view[i] = input_view(k, s->layout, input_leaf(k, s, in, i), i);
    bb_set_path(k->ctx, s->path);
    bb_tensor *out = run_case(k, view);
    if (s->path == BB_PATH_FUSED && bb_error(k->ctx) == BB_ERR_UNSUPPORTED) {
        bb_clear_error(k->ctx); /* the kernel said that it does not take this call */
    } else if (!out) {
        expect_no_error(k, CHECK_FORWARD, s);
        expect(k, false, CHECK_FORWARD, s, "no output");
    } else {
        *shape = bb_shape_of(out);
        *dtype = bb_dtype_of(out);
        got = malloc((size_t)(bb_count(out) + 1) * sizeof *got);
        if (got) bb_read_f64(out, got, bb_count(out));
        expect_no_error(k, CHECK_FORWARD, s);
        if (s->path == BB_PATH_FUSED) k->result->fused_runs++;
    }
    bb_end_step(k->ctx);
    return got;
}

/* The same case on each path that the op has; reference first. */
static void check_paths(checker *k, bb_dtype dtype, layout l) {
    setup s = {dtype, BB_PATH_AUTO, l};
    inputs in;
    if (!inputs_draw(k, &s, &in)) return;
    double *kept = NULL; /* the fused result, to hold against the composed one */
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path++) {
        if ((path == BB_PATH_AUTO) != (k->op->decompose == NULL)) continue;
        if (path == BB_PATH_FUSED && !k->has_fused) continue;
        s.path = (bb_path)path;
        bb_shape shape;
        bb_dtype out_dtype;
        double *got = forward(k, &s, &in, &shape, &out_dtype);
        if (!got) continue;
        int64_t n = 0;
        bb_shape_count(&shape, &n);
        double *reference = malloc((size_t)(n + 1) * sizeof *reference);
        if (reference) {
            const double *const value[CASE_MAX_INPUTS] = {in.value[0], in.value[1], in.value[2],
                                                          in.value[3], in.value[4], in.value[5]};
            k->plan->reference(k->c, value, &shape, reference);
            /* Beyond the type's largest number the right answer is infinity. */
            for (int64_t i = 0; bb_dtype_is_float(out_dtype) && i < n; i++)
                if (isinf(round_to(out_dtype, reference[i])))
                    reference[i] = round_to(out_dtype, reference[i]);
            double bound = error_bound(k->c, out_dtype, largest(n, reference));
            expect_close(k, CHECK_FORWARD, &s, "forward", n, got, reference, bound);
            if (kept) expect_close(k, CHECK_PATHS, &s, "composed and fused", n, got, kept, bound);
        }
        free(reference);
        if (path == BB_PATH_FUSED)
            kept = got;
        else
            free(got);
    }
    free(kept);
    inputs_free(&in);
}

void check_forward(checker *k) {
    static const bb_dtype dtypes[] = {BB_F64, BB_F32, BB_F16, BB_BF16};
    for (int d = 0; d < COUNT(dtypes); d++)
        for (int l = 0; l < LAYOUTS; l++)
            if (layout_applies(k->c, (layout)l)) check_paths(k, dtypes[d], (layout)l);
}
