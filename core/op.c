/* The registry: op records and their kernels, found by record address in one probe. */
#include <string.h>

#include "core/impl.h"

bb_status bb_no_gradient(const bb_grad_call *grad) {
    (void)grad;
    return BB_OK;
}

int bb_op_input_count(const bb_op *op) {
    int n = 0;
    while (op && n < BB_MAX_INPUTS && op->inputs[n]) n++;
    return n;
}
int bb_op_output_count(const bb_op *op) {
    int n = 0;
    while (op && n < BB_MAX_OUTPUTS && op->outputs[n]) n++;
    return n;
}

static size_t slot_of(const bb_context *ctx, const bb_op *op) {
    return (size_t)(((uintptr_t)op >> 4) * (uintptr_t)0x9E3779B97F4A7C15u >> 32) &
           (size_t)(ctx->entry_index_size - 1);
}

const bb_entry *bb_find_entry(const bb_context *ctx, const bb_op *op) {
    if (!ctx->entry_index_size) return NULL;
    for (size_t i = slot_of(ctx, op);; i = (i + 1) & (size_t)(ctx->entry_index_size - 1)) {
        int at = ctx->entry_index[i];
        if (at < 0) return NULL;
        if (ctx->entries[at].op == op) return &ctx->entries[at];
    }
}

static void index_entry(bb_context *ctx, int at) {
    size_t i = slot_of(ctx, ctx->entries[at].op);
    while (ctx->entry_index[i] >= 0) i = (i + 1) & (size_t)(ctx->entry_index_size - 1);
    ctx->entry_index[i] = at;
}

static bb_status grow(bb_context *ctx) {
    int capacity = ctx->entry_capacity ? ctx->entry_capacity * 2 : 128;
    bb_entry *entries = bb_host_allocate(ctx, (size_t)capacity * sizeof *entries);
    if (!entries) return ctx->status;
    int *index = bb_host_allocate(ctx, (size_t)capacity * 4 * sizeof *index);
    if (!index) {
        bb_host_release(ctx, entries, (size_t)capacity * sizeof *entries);
        return ctx->status;
    }
    if (ctx->entry_count) memcpy(entries, ctx->entries, (size_t)ctx->entry_count * sizeof *entries);
    bb_host_release(ctx, ctx->entries, (size_t)ctx->entry_capacity * sizeof *entries);
    bb_host_release(ctx, ctx->entry_index, (size_t)ctx->entry_index_size * sizeof *index);
    ctx->entries = entries;
    ctx->entry_capacity = capacity;
    ctx->entry_index = index;
    ctx->entry_index_size = capacity * 4;
    for (int i = 0; i < ctx->entry_index_size; i++) index[i] = -1;
    for (int i = 0; i < ctx->entry_count; i++) index_entry(ctx, i);
    return BB_OK;
}

static bb_status check_attrs(bb_context *ctx, const bb_op *op) {
    static const size_t bytes[] = {
        [BB_ATTR_INT] = sizeof(int64_t), [BB_ATTR_FLOAT] = sizeof(double),
        [BB_ATTR_BOOL] = sizeof(bool),   [BB_ATTR_INTS] = sizeof(bb_ints),
        [BB_ATTR_CHOICE] = sizeof(int),
    };
    for (const bb_attr *a = op->attrs; a->name; a++) {
        if ((unsigned)a->type >= sizeof bytes / sizeof bytes[0] ||
            a->offset + bytes[a->type] > op->attrs_bytes)
            return bb_fail(ctx, BB_ERR_ARGUMENT,
                           "op %s: attribute %s: expected to lie within attrs_bytes %zu, got type "
                           "%d at offset %zu",
                           op->name, a->name, op->attrs_bytes, (int)a->type, a->offset);
        if (a->type == BB_ATTR_CHOICE && !a->choices)
            return bb_fail(ctx, BB_ERR_ARGUMENT,
                           "op %s: attribute %s: expected a list of choices, got NULL", op->name,
                           a->name);
    }
    return BB_OK;
}

bb_status bb_register_op(bb_context *ctx, const bb_op *op) {
    if (!ctx) return BB_ERR_ARGUMENT;
    if (ctx->status) return ctx->status;
    if (!op || !op->name || !op->name[0])
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "bb_register_op: op: expected a record with a name, got %s",
                       op ? "one without" : "NULL");
    if (!op->infer)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "op %s: infer: expected a function, got NULL",
                       op->name);
    if (op->decompose ? op->gradient && op->gradient != bb_no_gradient : !op->gradient)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "op %s: expected exactly one of gradient and decompose, got %s", op->name,
                       op->decompose ? "both" : "neither");
    if (op->variadic && bb_op_input_count(op) == 0)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "op %s: inputs: expected a name at least, as it is variadic, got none",
                       op->name);
    if (op->hidden < 0 || op->hidden > bb_op_output_count(op))
        return bb_fail(ctx, BB_ERR_ARGUMENT, "op %s: hidden: expected 0 to %d, its outputs, got %d",
                       op->name, bb_op_output_count(op), op->hidden);
    if (check_attrs(ctx, op)) return ctx->status;
    if (bb_find_op(ctx, op->name))
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "op %s: name: expected a new one, got one already registered", op->name);
    if (ctx->entry_count == ctx->entry_capacity && grow(ctx)) return ctx->status;
    bb_entry *e = &ctx->entries[ctx->entry_count];
    bool checks_attrs = false;
    for (const bb_attr *a = op->attrs; a->name; a++)
        checks_attrs |=
            a->type == BB_ATTR_CHOICE || a->type == BB_ATTR_BOOL || a->type == BB_ATTR_INTS;
    *e = (bb_entry){.op = op,
                    .checks_attrs = checks_attrs,
                    .n_inputs = (uint8_t)bb_op_input_count(op),
                    .n_outputs = (uint8_t)bb_op_output_count(op)};
    index_entry(ctx, ctx->entry_count++);
    return BB_OK;
}

const bb_op *bb_find_op(const bb_context *ctx, const char *name) {
    for (int i = 0; ctx && name && i < ctx->entry_count; i++)
        if (strcmp(ctx->entries[i].op->name, name) == 0) return ctx->entries[i].op;
    return NULL;
}
int bb_op_count(const bb_context *ctx) { return ctx ? ctx->entry_count : 0; }
const bb_op *bb_op_at(const bb_context *ctx, int index) {
    return ctx && index >= 0 && index < ctx->entry_count ? ctx->entries[index].op : NULL;
}
bool bb_op_has_kernel(const bb_context *ctx, const bb_op *op, bb_device device, bool backward) {
    const bb_entry *e = ctx && op ? bb_find_entry(ctx, op) : NULL;
    if (!e || (unsigned)device >= BB_DEVICE_COUNT) return false;
    return backward ? e->kernel[device].backward != NULL : e->kernel[device].forward != NULL;
}

bb_status bb_register_kernel(bb_context *ctx, bb_device device, const bb_kernel *kernel) {
    if (!ctx) return BB_ERR_ARGUMENT;
    if (ctx->status) return ctx->status;
    if ((unsigned)device >= BB_DEVICE_COUNT)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "bb_register_kernel: device: expected 0 to %d, got %d",
                       BB_DEVICE_COUNT - 1, (int)device);
    if (!kernel || !kernel->op || !kernel->forward)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "bb_register_kernel: kernel: expected an op name and a forward, got %s",
                       !kernel      ? "NULL"
                       : kernel->op ? "no forward"
                                    : "no op name");
    const bb_op *op = bb_find_op(ctx, kernel->op);
    if (!op)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "bb_register_kernel: op: no op is named %s",
                       kernel->op);
    bb_entry *e = &ctx->entries[bb_find_entry(ctx, op) - ctx->entries];
    e->kernel[device] = *kernel;
    return BB_OK;
}

bb_status bb_registry_check(bb_context *ctx) {
    for (int i = 0; i < ctx->entry_count; i++) {
        const bb_entry *e = &ctx->entries[i];
        for (int d = 0; d < BB_DEVICE_COUNT; d++)
            if (ctx->backend[d] && !e->op->decompose && !e->op->view && !e->kernel[d].forward)
                return bb_fail(ctx, BB_ERR_UNSUPPORTED, "op %s: primitive without a kernel on %s",
                               e->op->name, ctx->backend[d]->name);
    }
    return BB_OK;
}

void bb_op_default_attrs(const bb_op *op, void *attrs) {
    if (!op || !attrs) return;
    if (op->attrs_bytes) memset(attrs, 0, op->attrs_bytes);
    for (const bb_attr *a = op->attrs; a->name; a++) {
        char *field = (char *)attrs + a->offset;
        switch (a->type) {
        case BB_ATTR_INT: memcpy(field, &(int64_t){(int64_t)a->value}, sizeof(int64_t)); break;
        case BB_ATTR_FLOAT: memcpy(field, &a->value, sizeof(double)); break;
        case BB_ATTR_BOOL: memcpy(field, &(bool){a->value != 0}, sizeof(bool)); break;
        case BB_ATTR_INTS: memcpy(field, &a->ints, sizeof(bb_ints)); break;
        case BB_ATTR_CHOICE: memcpy(field, &(int){(int)a->value}, sizeof(int)); break;
        }
    }
}
