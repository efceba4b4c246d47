/* Attributes from and to JSON (tools/attrs.h). */
#include "tools/attrs.h"

#include <math.h>
#include <string.h>

/* One reader and one writer per bb_attr_type. */
typedef struct attr_kind {
    bool (*read)(const bb_attr *attr, bb_json value, void *field);
    void (*put)(bb_json_writer *w, const bb_attr *attr, const void *field);
    const char *expected;
} attr_kind;

static bool read_int(const bb_attr *attr, bb_json value, void *field) {
    (void)attr;
    return bb_json_int(value, INT64_MIN, INT64_MAX, field);
}
static void put_int(bb_json_writer *w, const bb_attr *attr, const void *field) {
    (void)attr;
    bb_json_put_int(w, *(const int64_t *)field);
}

static bool read_float(const bb_attr *attr, bb_json value, void *field) {
    (void)attr;
    if (bb_json_equals(value, "inf"))
        *(double *)field = INFINITY;
    else if (bb_json_equals(value, "-inf"))
        *(double *)field = -INFINITY;
    else
        return bb_json_number(value, field);
    return true;
}
static void put_float(bb_json_writer *w, const bb_attr *attr, const void *field) {
    (void)attr;
    double value = *(const double *)field;
    if (isfinite(value))
        bb_json_put_number(w, value);
    else
        bb_json_put_string(w, value > 0 ? "inf" : value < 0 ? "-inf" : "nan");
}

static bool read_bool(const bb_attr *attr, bb_json value, void *field) {
    (void)attr;
    return bb_json_bool(value, field);
}
static void put_bool(bb_json_writer *w, const bb_attr *attr, const void *field) {
    (void)attr;
    bb_json_put_bool(w, *(const bool *)field);
}

static bool read_ints(const bb_attr *attr, bb_json value, void *field) {
    (void)attr;
    bb_ints ints = {0, {0}};
    if (bb_json_kind_of(value) != BB_JSON_ARRAY) return false;
    for (bb_json_walk w = bb_json_begin(value); bb_json_next(&w); ints.n++)
        if (ints.n == BB_MAX_INTS || !bb_json_int(w.value, INT64_MIN, INT64_MAX, &ints.v[ints.n]))
            return false;
    memcpy(field, &ints, sizeof ints);
    return true;
}
static void put_ints(bb_json_writer *w, const bb_attr *attr, const void *field) {
    (void)attr;
    const bb_ints *ints = field;
    bb_json_begin_array(w);
    for (int i = 0; i < ints->n; i++) bb_json_put_int(w, ints->v[i]);
    bb_json_end_array(w);
}

/* The name of choice `index`; false past the last. */
static bool choice(const bb_attr *attr, int index, char name[64]) {
    const char *p = attr->choices;
    for (; index > 0 && p; index--) {
        p = strchr(p, '|');
        if (p) p++;
    }
    if (!p) return false;
    snprintf(name, 64, "%.*s", (int)strcspn(p, "|"), p);
    return true;
}
static bool read_choice(const bb_attr *attr, bb_json value, void *field) {
    char name[64];
    for (int i = 0; choice(attr, i, name); i++) {
        if (!bb_json_equals(value, name)) continue;
        *(int *)field = i;
        return true;
    }
    return false;
}
static void put_choice(bb_json_writer *w, const bb_attr *attr, const void *field) {
    char name[64];
    bb_json_put_string(w, choice(attr, *(const int *)field, name) ? name : "?");
}

static const attr_kind kinds[] = {
    [BB_ATTR_INT] = {read_int, put_int, "an integer"},
    [BB_ATTR_FLOAT] = {read_float, put_float, "a number, \"inf\" or \"-inf\""},
    [BB_ATTR_BOOL] = {read_bool, put_bool, "true or false"},
    [BB_ATTR_INTS] = {read_ints, put_ints, "an array of up to 16 integers"},
    [BB_ATTR_CHOICE] = {read_choice, put_choice, "one of "},
};

void bb_attr_put(bb_json_writer *w, const bb_attr *attr, const void *attrs) {
    kinds[attr->type].put(w, attr, (const char *)attrs + attr->offset);
}

static bb_status set(bb_context *ctx, const bb_op *op, bb_json key, bb_json value, void *attrs) {
    char quoted[BB_QUOTE_BYTES];
    for (const bb_attr *a = op->attrs; a->name; a++) {
        if (!bb_json_equals(key, a->name)) continue;
        if (kinds[a->type].read(a, value, (char *)attrs + a->offset)) return BB_OK;
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: %s: expected %s%s, got %s", op->name, a->name,
                       kinds[a->type].expected, a->type == BB_ATTR_CHOICE ? a->choices : "",
                       bb_quote(value.at, (size_t)(value.end - value.at), quoted));
    }
    return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: expected attributes that the op has, got %s",
                   op->name, bb_quote(key.at + 1, (size_t)(key.end - key.at) - 2, quoted));
}

bb_status bb_attrs_parse(bb_context *ctx, const bb_op *op, const char *text, bb_any_attrs *attrs) {
    bb_json root, value;
    if (op->attrs_bytes > sizeof attrs->bytes)
        return bb_fail(ctx, BB_ERR_UNSUPPORTED,
                       "%s: attributes: expected at most %zu bytes, got %zu", op->name,
                       sizeof attrs->bytes, op->attrs_bytes);
    bb_op_default_attrs(op, attrs);
    if (!text) text = "{}";
    bb_status status = bb_json_parse(ctx, "attributes", text, strlen(text), &root);
    if (status == BB_OK && bb_json_kind_of(root) != BB_JSON_OBJECT)
        status = bb_fail(ctx, BB_ERR_FORMAT, "attributes: expected an object, got %s",
                         bb_json_kind_name(bb_json_kind_of(root)));
    if (status != BB_OK) return status;
    for (bb_json_walk w = bb_json_begin(root); status == BB_OK && bb_json_next(&w);)
        status = set(ctx, op, w.key, w.value, attrs);
    for (const bb_attr *a = op->attrs; status == BB_OK && a->name; a++)
        if (a->required && !bb_json_get(root, a->name, &value))
            status = bb_fail(ctx, BB_ERR_ARGUMENT, "%s: %s: expected a value, got nothing",
                             op->name, a->name);
    return status;
}
