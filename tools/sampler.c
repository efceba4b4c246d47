/* Sampling with a key-value cache. See tools/sampler.h. */
#include "tools/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/random.h"

enum { BYTES = 256 };

/* The k-th largest of n values (k >= 1). n is small and this is far cheaper than the model. */
static double threshold(const double *logits, int64_t k) {
    double cut = INFINITY;
    for (int64_t seen = 0; seen < k;) {
        double next = -INFINITY;
        int64_t ties = 0;
        for (int i = 0; i < BYTES; i++) {
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

static int choose(const double *logits, const bb_sampling *s, uint64_t counter) {
    int best = 0;
    for (int i = 1; i < BYTES; i++) best = logits[i] > logits[best] ? i : best;
    if (s->temperature == 0) return best;
    double cut = s->top_k > 0 && s->top_k < BYTES ? threshold(logits, s->top_k) : -INFINITY,
           weight[BYTES], sum = 0;
    for (int i = 0; i < BYTES; i++) {
        weight[i] = logits[i] >= cut ? exp((logits[i] - logits[best]) / s->temperature) : 0;
        sum += weight[i];
    }
    double ticket = (double)(bb_random_bits(s->seed, counter) >> 11) * 0x1p-53 * sum;
    for (int i = 0; i < BYTES; i++) {
        if (ticket < weight[i]) return i;
        ticket -= weight[i];
    }
    return best;
}

/* Feeds bytes to the model and reads the logits that follow the last one. */
static bb_status feed(bb_nn_transformer *model, bb_nn_cache *cache, const unsigned char *bytes,
                      int64_t count, double *logits) {
    bb_context *ctx = bb_context_of(model->embed.weight);
    int64_t *ids = malloc((size_t)count * sizeof *ids);
    if (!ids) return bb_fail(ctx, BB_ERR_MEMORY, "sampling: out of memory");
    for (int64_t i = 0; i < count; i++) ids[i] = bytes[i];
    bb_tensor *input =
        bb_empty_on(ctx, bb_device_of(model->embed.weight), BB_I64, BB_SHAPE(1, count));
    bb_write(input, ids, (size_t)count * sizeof *ids);
    free(ids);
    bb_tensor *all = bb_nn_transformer_next(model, cache, input);
    bb_tensor *last = bb_narrow(bb_select(bb_select(all, 0, 0), 0, count - 1), 0, 0, BYTES);
    bb_read_f64(last, logits, BYTES);
    bb_end_step(ctx);
    return bb_error(ctx);
}

static bb_status extend(bb_nn_transformer *model, bb_nn_cache *cache, unsigned char *text,
                        int64_t count, const bb_sampling *s, FILE *file) {
    bb_context *ctx = bb_context_of(model->embed.weight);
    double logits[BYTES];
    int64_t fed = count > cache->max ? count - cache->max : 0;
    for (int64_t i = 0; i < s->tokens && !ferror(file); i++) {
        if (cache->length + count - fed >
            cache->max) { /* full: go on from the later half of what it holds */
            bb_nn_cache_reset(cache);
            fed = count - (cache->max + 1) / 2;
        }
        if (feed(model, cache, text + fed, count - fed, logits) != BB_OK) break;
        fed = count;
        text[count] = (unsigned char)choose(logits, s, (uint64_t)i);
        unsigned char byte = text[count++];
        bool control = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f;
        fputc(s->plain && control ? '?' : byte, file);
        fflush(file);
    }
    return bb_error(ctx);
}

bb_status bb_sample(bb_nn_transformer *model, const bb_sampling *s, FILE *file) {
    bb_context *ctx = bb_context_of(model->embed.weight);
    if (model->config.vocab < BYTES) {
        return bb_fail(ctx, BB_ERR_UNSUPPORTED,
                       "sampling: vocab_size: expected at least 256, got %lld",
                       (long long)model->config.vocab);
    }
    bool former = bb_set_grad_enabled(ctx, false);
    size_t prompt = strlen(s->prompt);
    unsigned char *text = malloc(prompt + (size_t)s->tokens + 1);
    if (!text) bb_fail(ctx, BB_ERR_MEMORY, "sampling: out of memory");
    bb_nn_cache *cache = text ? bb_nn_cache_new(model, 1, model->config.max_seq) : NULL;
    if (cache) {
        text[0] = '\n';
        memcpy(text, s->prompt, prompt);
        fwrite(s->prompt, 1, prompt, file);
        extend(model, cache, text, prompt ? (int64_t)prompt : 1, s, file);
    }
    free(text);
    bb_set_grad_enabled(ctx, former);
    return bb_error(ctx);
}
