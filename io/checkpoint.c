/* A training run in one file: a safetensors file whose metadata say where the run stands. Atomic
 * because bb_safetensors_save is. The manual is io/io.h. */
#include "core/impl.h"
#include "io/io.h"

#include <string.h>

/* The keys of our own, in the order of `numbers` below. */
static const char *const keys[] = {"format", "step", "data_position", "rng_seed", "rng_offset"};
static const char format[] = "bobbin checkpoint 1";
enum { KEYS = 5, NUMBERS = KEYS - 1, NUMBER_TEXT = 24 };

/* Decimal digits below 2^64, nothing else. */
static bool read_number(const char *text, uint64_t max, uint64_t *number) {
    uint64_t n = 0;
    if (*text == '\0') return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9') return false;
        uint64_t digit = (uint64_t)(*text - '0');
        if (n > (max - digit) / 10) return false;
        n = n * 10 + digit;
    }
    *number = n;
    return true;
}

static bb_status check_save(bb_context *ctx, const bb_checkpoint *state, const bb_text *extra,
                            int64_t extra_count) {
    if (!state || state->step < 0 || state->data_position < 0)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "bb_checkpoint_save: state: expected step and data_position >= 0, got %s",
                       state ? "a negative one" : "NULL");
    if (!extra && extra_count > 0)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "bb_checkpoint_save: extra: expected a list, got NULL");
    for (int64_t i = 0; i < extra_count; i++)
        for (int k = 0; k < KEYS; k++)
            if (extra[i].key && strcmp(extra[i].key, keys[k]) == 0)
                return bb_fail(ctx, BB_ERR_ARGUMENT,
                               "bb_checkpoint_save: extra: the key '%s' is the checkpoint's own",
                               keys[k]);
    return BB_OK;
}

bb_status bb_checkpoint_save(bb_context *ctx, const char *path, const bb_checkpoint *state,
                             const bb_named *tensors, int64_t count, const bb_text *extra,
                             int64_t extra_count, const bb_file_calls *calls) {
    size_t bytes = 0;
    if (bb_error(ctx) || check_save(ctx, state, extra, extra_count)) return bb_error(ctx);
    if (extra_count < 0 || !bb_checked_mul((size_t)extra_count + KEYS, sizeof(bb_text), &bytes))
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "bb_checkpoint_save: extra_count: expected >= 0, got %lld",
                       (long long)extra_count);
    bb_text *metadata = bb_host_allocate(ctx, bytes);
    if (!metadata) return bb_error(ctx);
    uint64_t numbers[NUMBERS] = {(uint64_t)state->step, (uint64_t)state->data_position,
                                 state->rng.seed, state->rng.offset};
    char text[NUMBERS][NUMBER_TEXT];
    metadata[0] = (bb_text){keys[0], format};
    for (int i = 0; i < NUMBERS; i++) {
        snprintf(text[i], NUMBER_TEXT, "%llu", (unsigned long long)numbers[i]);
        metadata[i + 1] = (bb_text){keys[i + 1], text[i]};
    }
    if (extra_count) memcpy(metadata + KEYS, extra, (size_t)extra_count * sizeof *extra);
    bb_status status =
        bb_safetensors_save(ctx, path, tensors, count, metadata, extra_count + KEYS, calls);
    bb_host_release(ctx, metadata, bytes);
    return status;
}

static bb_status read_state(bb_context *ctx, const bb_safetensors *file, bb_checkpoint *state) {
    const char *path = bb_safetensors_path(file), *got = bb_safetensors_metadata(file, keys[0]);
    char quoted[BB_QUOTE_BYTES];
    if (!got || strcmp(got, format) != 0)
        return bb_fail(ctx, BB_ERR_FORMAT, "%s: format: expected '%s', got %s", path, format,
                       got ? bb_quote(got, strlen(got), quoted) : "nothing");
    uint64_t numbers[NUMBERS];
    for (int i = 0; i < NUMBERS; i++) {
        bool is_signed = i < 2; /* step and data_position are int64_t */
        got = bb_safetensors_metadata(file, keys[i + 1]);
        if (!got || !read_number(got, is_signed ? INT64_MAX : UINT64_MAX, &numbers[i]))
            return bb_fail(ctx, BB_ERR_FORMAT,
                           "%s: %s: expected an integer from 0 to 2^%d - 1, got %s", path,
                           keys[i + 1], is_signed ? 63 : 64,
                           got ? bb_quote(got, strlen(got), quoted) : "nothing");
    }
    *state = (bb_checkpoint){(int64_t)numbers[0], (int64_t)numbers[1], {numbers[2], numbers[3]}};
    return BB_OK;
}

bb_safetensors *bb_checkpoint_open(bb_context *ctx, const char *path, bb_checkpoint *state) {
    bb_safetensors *file = bb_safetensors_open(ctx, path);
    if (file && read_state(ctx, file, state) != BB_OK) {
        bb_safetensors_close(file);
        file = NULL;
    }
    return file;
}
