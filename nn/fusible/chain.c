/* The container: a list of ops and functions, in which neighbouring ops form segments (segment.c).
 */
#include <string.h>

#include "nn/fusible/internal.h"

typedef struct member {
    bb_fusible_op *op; /* NULL: a function */
    bb_segment_fn fn;
    void *user;
} member;

struct bb_chain {
    bb_context *ctx;
    const char *name;
    member *at;
    int n, capacity;
    bool fusion, autocast;
    bb_dtype autocast_dtype;
};

bb_chain *bb_chain_new(bb_context *ctx, const char *name) {
    if (!ctx || ctx->status) return NULL;
    bb_chain *chain = bb_nn_allocate(ctx, sizeof *chain);
    size_t bytes = name ? strlen(name) + 1 : 1;
    char *own = chain ? bb_nn_allocate(ctx, bytes) : NULL;
    if (!own) return NULL;
    if (name) memcpy(own, name, bytes);
    *chain = (bb_chain){.ctx = ctx, .name = own, .fusion = true};
    return chain;
}

/* ---- The list -------------------------------------------------------------------------------- */

static bool make_room(bb_chain *chain) {
    if (chain->n < chain->capacity) return true;
    int capacity = chain->capacity ? 2 * chain->capacity : 8;
    member *more = bb_nn_allocate(chain->ctx, (size_t)capacity * sizeof *more);
    if (!more) return false;
    if (chain->n) memcpy(more, chain->at, (size_t)chain->n * sizeof *more);
    bb_nn_release(chain->ctx, chain->at);
    chain->at = more;
    chain->capacity = capacity;
    return true;
}

static bb_status put(bb_chain *chain, int index, member m) {
    if (m.op && m.op->ctx != chain->ctx)
        return bb_fail(chain->ctx, BB_ERR_ARGUMENT,
                       "chain %s: %s: expected an op of this context, got one of another",
                       chain->name, m.op->kind->name);
    if (chain->ctx->status || !make_room(chain)) return chain->ctx->status;
    memmove(chain->at + index + 1, chain->at + index, (size_t)(chain->n - index) * sizeof m);
    chain->at[index] = m;
    chain->n++;
    return BB_OK;
}

/* false: an error that names the range. `end` is a legal index too if `insertion`. */
static bool find(const bb_chain *chain, const char *who, int *index, bool insertion) {
    int n = chain->n + insertion, i = *index < 0 ? *index + chain->n : *index;
    if (chain->ctx->status) return false;
    if (i < 0 || i >= n) {
        bb_fail(chain->ctx, BB_ERR_ARGUMENT, "%s: index: expected %d to %d, got %d", who, -chain->n,
                n - 1, *index);
        return false;
    }
    *index = i;
    return true;
}

bb_status bb_chain_append(bb_chain *chain, bb_fusible_op *op) {
    return chain && op ? put(chain, chain->n, (member){.op = op}) : BB_ERR_ARGUMENT;
}

bb_status bb_chain_append_function(bb_chain *chain, bb_segment_fn fn, void *user) {
    if (!chain) return BB_ERR_ARGUMENT;
    if (!fn)
        return bb_fail(chain->ctx, BB_ERR_ARGUMENT,
                       "bb_chain_append_function: fn: expected a function, got NULL");
    return put(chain, chain->n, (member){.fn = fn, .user = user});
}

bb_status bb_chain_insert(bb_chain *chain, int index, bb_fusible_op *op) {
    if (!chain || !op) return BB_ERR_ARGUMENT;
    if (!find(chain, "bb_chain_insert", &index, true)) return chain->ctx->status;
    return put(chain, index, (member){.op = op});
}

bb_fusible_op *bb_chain_pop(bb_chain *chain, int index) {
    if (!chain || !find(chain, "bb_chain_pop", &index, false)) return NULL;
    bb_fusible_op *op = chain->at[index].op;
    chain->n--;
    memmove(chain->at + index, chain->at + index + 1,
            (size_t)(chain->n - index) * sizeof *chain->at);
    return op;
}

bb_fusible_op *bb_chain_get(const bb_chain *chain, int index) {
    return chain && find(chain, "bb_chain_get", &index, false) ? chain->at[index].op : NULL;
}

int bb_chain_length(const bb_chain *chain) { return chain ? chain->n : 0; }

static bb_chain *like(const bb_chain *chain) {
    bb_chain *copy = bb_chain_new(chain->ctx, chain->name);
    if (!copy) return NULL;
    copy->fusion = chain->fusion;
    copy->autocast = chain->autocast;
    copy->autocast_dtype = chain->autocast_dtype;
    return copy;
}

bb_chain *bb_chain_slice(const bb_chain *chain, int start, int stop) {
    if (!chain || !find(chain, "bb_chain_slice", &start, true) ||
        !find(chain, "bb_chain_slice", &stop, true))
        return NULL;
    bb_chain *part = like(chain);
    for (int i = start; part && i < stop; i++)
        if (put(part, part->n, chain->at[i])) return NULL;
    return part;
}

bb_chain *bb_chain_concat(const bb_chain *a, const bb_chain *b) {
    bb_chain *both = a && b ? like(a) : NULL;
    for (int i = 0; both && i < a->n; i++)
        if (put(both, both->n, a->at[i])) return NULL;
    for (int i = 0; both && i < b->n; i++)
        if (put(both, both->n, b->at[i])) return NULL;
    return both;
}

void bb_chain_set_fusion(bb_chain *chain, bool on) {
    if (chain) chain->fusion = on;
}

void bb_chain_set_autocast(bb_chain *chain, bool on, bb_dtype dtype) {
    if (!chain) return;
    chain->autocast = on;
    chain->autocast_dtype = dtype;
}

/* ---- Running it ------------------------------------------------------------------------------ */

static bb_tensor *call_function(const bb_chain *chain, const member *m, bb_tensor *x) {
    bb_tensor *y = m->fn(m->user, &x, 1);
    if (!y)
        bb_fail(chain->ctx, BB_ERR_STATE, "chain %s: a function: expected a tensor, got NULL",
                chain->name);
    return y;
}

/* The members from `at` on that are ops. */
static int ops_from(const bb_chain *chain, int at, bb_fusible_op **op, int *extra_in,
                    int *extra_out) {
    int n = 0;
    *extra_in = *extra_out = 0;
    for (int i = at; i < chain->n && chain->at[i].op; i++) {
        op[n++] = chain->at[i].op;
        *extra_in += chain->at[i].op->kind->extra_input;
        *extra_out += chain->at[i].op->kind->extra_output;
    }
    return n;
}

static bb_status check_extras(const bb_chain *chain, bb_tensor *const *extra_in, int n_in,
                              bb_tensor **extra_out, int n_out) {
    int in = 0, out = 0;
    for (int i = 0; i < chain->n; i++) {
        if (!chain->at[i].op) continue;
        in += chain->at[i].op->kind->extra_input;
        out += chain->at[i].op->kind->extra_output;
    }
    bool given = (!in || extra_in) && (!out || extra_out);
    if (in == n_in && out == n_out && given) return BB_OK;
    if (in == n_in && out == n_out)
        return bb_fail(chain->ctx, BB_ERR_ARGUMENT,
                       "chain %s: extra %s: expected an array, got NULL", chain->name,
                       in && !extra_in ? "inputs" : "outputs");
    return bb_fail(chain->ctx, BB_ERR_ARGUMENT,
                   "chain %s: expected %d extra inputs and %d extra outputs, got %d and %d",
                   chain->name, in, out, n_in, n_out);
}

static bb_link run(bb_chain *chain, bb_link x, bb_tensor *const *extra_in, int n_in,
                   bb_tensor **extra_out, int n_out, bool tensor_wanted) {
    bb_context *ctx = chain->ctx;
    const bb_link none = {NULL, NULL};
    if (ctx->status || check_extras(chain, extra_in, n_in, extra_out, n_out)) return none;
    if (x.tensor && x.tensor->ctx != ctx) {
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "chain %s: x: expected a tensor of this context, got one of another", chain->name);
        return none;
    }
    for (int i = 0; i < n_in; i++)
        if (!extra_in[i] || extra_in[i]->ctx != ctx || !bb_tensor_usable(extra_in[i])) {
            bb_fail(ctx, BB_ERR_ARGUMENT,
                    "chain %s: extra input %d: expected a tensor of this context, got %s",
                    chain->name, i, extra_in[i] ? "one of another" : "NULL");
            return none;
        }
    bb_fusible_op **op =
        bb_arena_allocate(ctx, &ctx->arena, ((size_t)chain->n + 1) * sizeof(bb_fusible_op *));
    if (!op) return none;
    bb_module here;
    bb_nn_enter(ctx, &here, "Chain", *chain->name ? chain->name : NULL);
    for (int i = 0; i < chain->n && !ctx->status;) {
        int in, out, n = ops_from(chain, i, op, &in, &out);
        if (n) {
            bb_segment s = {
                ctx, chain->name, op, n, chain->fusion, chain->autocast, chain->autocast_dtype};
            x = bb_segment_forward(&s, x, extra_in, extra_out, tensor_wanted || i + n < chain->n);
            extra_in += in, extra_out += out, i += n;
        } else {
            x = bb_link_of(call_function(chain, &chain->at[i++], x.tensor));
        }
    }
    bb_module_leave(ctx, &here);
    return ctx->status ? none : x;
}

bb_tensor *bb_chain_forward_with(bb_chain *chain, bb_tensor *x, bb_tensor *const *extra_in,
                                 int n_extra_in, bb_tensor **extra_out, int n_extra_out) {
    for (int i = 0; extra_out && i < n_extra_out; i++) extra_out[i] = NULL;
    if (!chain || !x || chain->ctx->status || !bb_tensor_usable(x)) return NULL;
    return run(chain, bb_link_of(x), extra_in, n_extra_in, extra_out, n_extra_out, true).tensor;
}

bb_tensor *bb_chain_forward(bb_chain *chain, bb_tensor *x) {
    return bb_chain_forward_with(chain, x, NULL, 0, NULL, 0);
}

bb_link bb_chain_forward_link(bb_chain *chain, bb_link x) {
    const bb_link none = {NULL, NULL};
    if (!chain || chain->ctx->status || (!x.tensor && !x.quantized)) return none;
    bool before = bb_set_grad_enabled(chain->ctx, false);
    bb_link y = run(chain, x, NULL, 0, NULL, 0, false);
    bb_set_grad_enabled(chain->ctx, before);
    return y;
}
