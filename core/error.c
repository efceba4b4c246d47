/* The sticky error: the first one is kept with its message until bb_clear_error. */
#include <stdarg.h>
#include <string.h>

#include "core/impl.h"

const char *bb_status_name(bb_status status) {
    static const char *const names[] = {
        [BB_OK] = "ok",
        [BB_ERR_ARGUMENT] = "argument",
        [BB_ERR_STATE] = "state",
        [BB_ERR_FORMAT] = "format",
        [BB_ERR_UNSUPPORTED] = "unsupported",
        [BB_ERR_MEMORY] = "memory",
        [BB_ERR_IO] = "io",
        [BB_ERR_DEVICE] = "device",
    };
    return (unsigned)status < sizeof names / sizeof names[0] ? names[status] : "unknown";
}

bb_status bb_error(const bb_context *ctx) { return ctx ? ctx->status : BB_ERR_MEMORY; }
const char *bb_error_message(const bb_context *ctx) {
    return ctx ? ctx->message : "no context: bb_open returned NULL (out of memory)";
}

void bb_clear_error(bb_context *ctx) {
    if (!ctx || ctx->telling) return; /* the call that failed is still on its way out */
    ctx->status = BB_OK;
    ctx->message[0] = 0;
}

/* Wrong input names itself; memory and devices do not know what they were wanted for. */
static void name_running(bb_context *ctx) {
    const bb_call *call = ctx->running;
    char shape_text[BB_SHAPE_TEXT], *message = ctx->message;
    const size_t most = sizeof ctx->message;
    size_t at = strlen(message);
    at += (size_t)snprintf(message + at, most - at, " (%s%s on %s, inputs",
                           ctx->running_backward ? "backward of " : "", call->op->name,
                           ctx->backend[call->device]->name);
    for (int i = 0; i < call->n_in && at < most; i++) {
        const bb_tensor *t = call->in[i];
        const bb_shape shape = t ? bb_shape_of_tensor(t) : BB_SCALAR;
        at += (size_t)snprintf(message + at, most - at, " %s%s",
                               t ? bb_dtype_name((bb_dtype)t->dtype) : "-",
                               t ? bb_shape_text(&shape, shape_text) : "");
    }
    if (at < most) snprintf(message + at, most - at, ")");
}

static bb_status fail(bb_context *ctx, bb_status status, const char *prefix, const char *format,
                      va_list args) {
    if (ctx->status != BB_OK) return ctx->status;
    ctx->status = status == BB_OK ? BB_ERR_STATE : status;
    size_t at = strlen(prefix);
    if (at >= sizeof ctx->message) at = sizeof ctx->message - 1;
    memcpy(ctx->message, prefix, at);
    vsnprintf(ctx->message + at, sizeof ctx->message - at, format, args);
    if (ctx->running && (status == BB_ERR_MEMORY || status == BB_ERR_DEVICE)) name_running(ctx);
    for (char *c = ctx->message; *c; c++)
        if (*c == '\n' || *c == '\r') *c = ' '; /* one line, whatever a file name holds */
    ctx->telling = true;
    if (ctx->on_error) ctx->on_error(ctx->on_error_user, ctx->message);
    ctx->telling = false;
    return ctx->status;
}

bb_status bb_fail(bb_context *ctx, bb_status status, const char *format, ...) {
    if (!ctx) return status;
    va_list args;
    va_start(args, format);
    status = fail(ctx, status, "", format, args);
    va_end(args);
    return status;
}

enum { PREFIX = 160 };

static void name_input(const bb_call *call, int input, char prefix[PREFIX]) {
    int names = bb_op_input_count(call->op);
    const char *name = names ? call->op->inputs[input < names ? input : names - 1] : "input";
    if (call->op->variadic && input >= names - 1)
        snprintf(prefix, PREFIX, "%s: %s[%d]: ", call->op->name, name, input - (names - 1));
    else
        snprintf(prefix, PREFIX, "%s: %s: ", call->op->name, name);
}

bb_status bb_fail_lost_input(const bb_call *call, int input) {
    char prefix[PREFIX], text[BB_LOST_TEXT];
    name_input(call, input, prefix);
    return bb_fail(call->ctx, BB_ERR_STATE, "%s%s", prefix, bb_tensor_lost(call->in[input], text));
}

bb_status bb_fail_input(const bb_call *call, int input, const char *format, ...) {
    char prefix[PREFIX];
    name_input(call, input, prefix);
    va_list args;
    va_start(args, format);
    bb_status status = fail(call->ctx, BB_ERR_ARGUMENT, prefix, format, args);
    va_end(args);
    return status;
}

bb_status bb_fail_attr(const bb_call *call, const char *attr, const char *format, ...) {
    char prefix[PREFIX];
    snprintf(prefix, PREFIX, "%s: %s: ", call->op->name, attr);
    va_list args;
    va_start(args, format);
    bb_status status = fail(call->ctx, BB_ERR_ARGUMENT, prefix, format, args);
    va_end(args);
    return status;
}
