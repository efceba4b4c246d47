/* Memory that runs out during a case (checker.h): each allocation of forward and backward fails in
 * turn, once and from then on. The call must report it, or have made it good and give the same
 * bytes as ever; nothing may leak, and the same context must give those bytes again once there is
 * memory. f32, contiguous, each path of the op. One case per op: of those that want a gradient (of
 * all, if none does) the one with the fewest input elements, but some, since every run opens a new
 * context. */
#include "autograd/autograd.h"
#include "core/impl.h"
#include "tests/support/alloc.h"
#include "tests/support/checker.h"

enum { MANY_ALLOCATIONS = 5000 };

typedef struct memory_run {
    checker *k;
    const setup *s;
    const inputs *in;
    uint64_t expected; /* of an undisturbed run; 0: not known yet */
    bool refused;      /* the fused kernel does not take the case */
    bool other_values; /* a run reported no error and gave other bytes */
} memory_run;

/* FNV-1a over what the tensor holds; false: it could not be read. */
static bool add_values(bb_tensor *t, uint64_t *hash) {
    size_t bytes = (size_t)bb_count(t) * bb_dtype_bytes(bb_dtype_of(t));
    unsigned char *values = malloc(bytes + 1);
    bool ok = values && bb_read(t, values, bytes) == BB_OK;
    for (size_t i = 0; ok && i < bytes; i++) *hash = (*hash ^ values[i]) * 1099511628211u;
    free(values);
    return ok;
}

static void run(bb_context *ctx, void *user) {
    memory_run *m = user;
    checker k = *m->k;
    bb_tensor *leaf[CASE_MAX_INPUTS] = {NULL};
    uint64_t hash = 1469598103934665603u;
    k.ctx = ctx;
    bb_set_rng(ctx, (bb_rng){7, 0}); /* dropout draws the same each time */
    bb_set_path(ctx, m->s->path);
    for (int i = 0; i < k.c->n_in; i++) {
        leaf[i] = input_leaf(&k, m->s, m->in, i);
        if (leaf[i] && !k.c->no_grad && input_wants_grad(k.c, i))
            bb_set_requires_grad(leaf[i], true);
    }
    bb_tensor *out = bb_error(ctx) ? NULL : run_case(&k, leaf);
    if (bb_error(ctx) == BB_ERR_UNSUPPORTED) {
        m->refused = true;
        bb_clear_error(ctx);
        return;
    }
    bool ok = out && add_values(out, &hash);
    if (ok && bb_requires_grad(out)) {
        bb_backward(bb_sum_all(bb_mul(out, out)), NULL);
        for (int i = 0; i < k.c->n_in && bb_error(ctx) == BB_OK; i++)
            if (leaf[i] && bb_grad(leaf[i])) ok = ok && add_values(bb_grad(leaf[i]), &hash);
    }
    if (!ok || bb_error(ctx)) return;
    if (!m->expected) m->expected = hash;
    if (hash != m->expected) m->other_values = true;
}

/* New buffers hold NaN, as everywhere in the tests. */
static void prepare_nothing(bb_context *ctx) { ctx->poison = true; }

static void check_path(checker *k, bb_path path) {
    setup s = {BB_F32, path, CONTIGUOUS};
    inputs in;
    if (!inputs_draw(k, &s, &in)) return;
    memory_run m = {.k = k, .s = &s, .in = &in};
    alloc_subject subject = {prepare_nothing, run, &m};
    if (k->plan->prepare) subject.prepare = k->plan->prepare;
    char problem[ALLOC_PROBLEM];
    alloc_run_failing(&subject, MANY_ALLOCATIONS, true, problem); /* undisturbed: sets `expected` */
    for (int for_good = 0; for_good < 2 && !m.refused; for_good++) {
        bool reached = true;
        for (int64_t n = 1; reached && n < MANY_ALLOCATIONS; n++) {
            reached = alloc_run_failing(&subject, n, for_good, problem);
            expect(k, !problem[0], CHECK_MEMORY, &s, "allocation %lld%s: %s", (long long)n,
                   for_good ? " and all after it" : "", problem);
            expect(k, !m.other_values, CHECK_MEMORY, &s,
                   "allocation %lld%s: no error, but other values", (long long)n,
                   for_good ? " and all after it" : "");
            m.other_values = false;
        }
        expect(k, !reached && m.expected, CHECK_MEMORY, &s, "no run went through");
    }
    inputs_free(&in);
}

/* The case to run; -1: none has an element. */
static int smallest_case(const check_plan *plan) {
    int found = -1;
    bool found_grad = false;
    int64_t least = 0;
    for (int i = 0; i < plan->count; i++) {
        const op_case *c = &plan->cases[i];
        int64_t sum = 0, n = 0;
        bool grad = false;
        for (int j = 0; j < c->n_in; j++) {
            if (c->in[j].absent || !bb_shape_count(&c->in[j].shape, &n)) continue;
            sum += n;
            grad = grad || (!c->no_grad && input_wants_grad(c, j));
        }
        bool better = found < 0 || (grad && !found_grad) || (grad == found_grad && sum < least);
        if (!better || sum == 0) continue;
        found = i;
        found_grad = grad;
        least = sum;
    }
    return found;
}

void check_memory(const check_plan *plan, check_result *result) {
    int index = smallest_case(plan);
    if (index < 0) return;
    bb_context *ctx = test_open();
    if (bb_get_device(ctx) != BB_CPU) { /* its own tests do: these contexts are the CPU's */
        bb_close(ctx);
        return;
    }
    if (plan->prepare) plan->prepare(ctx);
    checker k = {.plan = plan,
                 .result = result,
                 .c = &plan->cases[index],
                 .index = index,
                 .ctx = ctx,
                 .op = bb_find_op(ctx, plan->op)};
    if (k.op) {
        bool composite = k.op->decompose != NULL;
        if (composite && bb_op_has_kernel(ctx, k.op, BB_CPU, false)) check_path(&k, BB_PATH_FUSED);
        check_path(&k, composite ? BB_PATH_COMPOSED : BB_PATH_AUTO);
    }
    bb_close(ctx);
}
