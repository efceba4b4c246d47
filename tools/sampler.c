/* Sampling with a key-value cache. See tools/sampler.h. */
#include "tools/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/random.h"

/* Room for one position's logits and their weights, n of each, and for the tokens so far. */
typedef struct sampler {
    bb_nn_transformer *model;
    bb_nn_cache *cache;
    const bb_sampling *sampling;
    int64_t n;
    double *logits, *weight;
    int32_t *ids; /* the prompt's, then those added */
    int64_t count;
} sampler;

/* The k-th largest of n values (k >= 1). A pass for each of them: far cheaper than the model. */
static double threshold(const double *logits, int64_t n, int64_t k) {
    double cut = INFINITY;
    for (int64_t seen = 0; seen < k;) {
        double next = -INFINITY;
        int64_t ties = 0;
        for (int64_t i = 0; i < n; i++) {
            if (logits[i] >= cut) continue;
            if (logits[i] > next) next = logits[i], ties = 0;
            ties += logits[i] == next;
        }
        if (ties == 0) break;
        cut = next;
        seen += ties;
    }
    return cut;
}

/* Weights that are not finite give logits that are not; there is nothing to choose from then. */
static bb_status check_logits(bb_context *ctx, const sampler *s) {
    double most = -INFINITY;
    for (int64_t i = 0; i < s->n && !isnan(most); i++)
        if (!(s->logits[i] <= most)) most = s->logits[i];
    return isfinite(most)
               ? bb_error(ctx)
               : bb_fail(ctx, BB_ERR_FORMAT,
                         "sampling: expected finite logits from the model, got %g", most);
}

static int32_t choose(const sampler *s, uint64_t counter) {
    const bb_sampling *o = s->sampling;
    const double *logits = s->logits;
    int64_t best = 0;
    for (int64_t i = 1; i < s->n; i++) best = logits[i] > logits[best] ? i : best;
    if (o->temperature == 0) return (int32_t)best;
    double cut = o->top_k > 0 && o->top_k < s->n ? threshold(logits, s->n, o->top_k) : -INFINITY,
           sum = 0;
    for (int64_t i = 0; i < s->n; i++) {
        s->weight[i] = logits[i] >= cut ? exp((logits[i] - logits[best]) / o->temperature) : 0;
        sum += s->weight[i];
    }
    double ticket = (double)(bb_random_bits(o->seed, counter) >> 11) * 0x1p-53 * sum;
    for (int64_t i = 0; i < s->n; i++) {
        if (ticket < s->weight[i]) return (int32_t)i;
        ticket -= s->weight[i];
    }
    return (int32_t)best;
}

/* Feeds the tokens from `begin` on to the model and reads the logits that follow the last one. */
static bb_status feed(sampler *s, int64_t begin) {
    bb_context *ctx = bb_context_of(s->model->embed.weight);
    int64_t count = s->count - begin;
    bb_tensor *input =
        bb_empty_on(ctx, bb_device_of(s->model->embed.weight), BB_I32, BB_SHAPE(1, count));
    bb_write(input, s->ids + begin, (size_t)count * sizeof *s->ids);
    bb_tensor *all = bb_nn_transformer_next(s->model, s->cache, input);
    bb_tensor *last = bb_narrow(bb_select(bb_select(all, 0, 0), 0, count - 1), 0, 0, s->n);
    bb_read_f64(last, s->logits, s->n);
    bb_end_step(ctx);
    return bb_error(ctx) ? bb_error(ctx) : check_logits(ctx, s);
}

static bool is_end(const bb_ints *ends, int32_t id) {
    for (int i = 0; ends && i < ends->n; i++)
        if (ends->v[i] == id) return true;
    return false;
}

static void extend(sampler *s, FILE *file) {
    const bb_sampling *o = s->sampling;
    bb_nn_cache *cache = s->cache;
    int64_t fed = s->count > cache->max ? s->count - cache->max : 0;
    for (int64_t i = 0; i < o->tokens && !ferror(file); i++) {
        if (cache->length + s->count - fed > cache->max) { /* full */
            bb_nn_cache_reset(cache);
            fed = s->count - (cache->max + 1) / 2;
        }
        if (feed(s, fed) != BB_OK) break;
        fed = s->count;
        int32_t id = choose(s, (uint64_t)i);
        if (is_end(o->ends, id)) break;
        s->ids[s->count++] = id;
        bb_tokenizer_write(o->tokenizer, id, file, o->plain);
        fflush(file);
    }
}

/* The numbers of the prompt, with room for what is added. */
static bb_status read_prompt(bb_context *ctx, sampler *s) {
    const bb_sampling *o = s->sampling;
    const bb_tokenizer *tokenizer = o->tokenizer;
    if (bb_tokenizer_encode(tokenizer, ctx, o->prompt, strlen(o->prompt), true, &s->ids, &s->count))
        return bb_error(ctx);
    if (s->count == 0) {
        free(s->ids);
        bb_tokenizer_encode(tokenizer, ctx, "\n", 1, true, &s->ids, &s->count);
    }
    int32_t *grown = realloc(s->ids, (size_t)(s->count + o->tokens + 1) * sizeof *grown);
    if (!grown) return bb_fail(ctx, BB_ERR_MEMORY, "sampling: out of memory");
    s->ids = grown;
    return bb_error(ctx);
}

bb_status bb_sample(bb_nn_transformer *model, const bb_sampling *o, FILE *file) {
    bb_context *ctx = bb_context_of(model->embed.weight);
    int64_t least = bb_tokenizer_size(o->tokenizer), vocab = model->config.vocab;
    if (vocab < least) {
        return bb_fail(ctx, BB_ERR_UNSUPPORTED,
                       "sampling: vocab_size: expected at least %lld, got %lld", (long long)least,
                       (long long)vocab);
    }
    bool former = bb_set_grad_enabled(ctx, false);
    sampler s = {.model = model, .sampling = o, .n = o->tokenizer ? vocab : least};
    s.logits = malloc((size_t)s.n * sizeof *s.logits);
    s.weight = malloc((size_t)s.n * sizeof *s.weight);
    if (!s.logits || !s.weight) bb_fail(ctx, BB_ERR_MEMORY, "sampling: out of memory");
    if (bb_error(ctx) == BB_OK && read_prompt(ctx, &s) == BB_OK) {
        int64_t length = s.count + o->tokens, max = model->config.max_seq;
        s.cache = bb_nn_cache_new(model, 1, length < max ? length : max);
    }
    if (s.cache) {
        fwrite(o->prompt, 1, strlen(o->prompt), file);
        extend(&s, file);
    }
    free(s.logits);
    free(s.weight);
    free(s.ids);
    bb_set_grad_enabled(ctx, former);
    return bb_error(ctx);
}
