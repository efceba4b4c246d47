/* Reductions over any axes of any strides: sum, mean, amax, amin, sum_squares. Loops:
 * loops/reduce.c.
 *
 * Axes are sorted by stride and merged where they lie densely together. If the innermost kept axis
 * is contiguous, whole rows are folded into a row of accumulators (columns); otherwise each output
 * folds its own elements (rows). The work is cut by outputs, and where there are few outputs also
 * along the reduced elements (chunks), whose partial results are joined in order. All cuts depend
 * on the shape alone. */
#include "backends/cpu/kernels.h"

enum { PIECE = 1 << 15 }; /* elements worth a thread's while */

typedef struct axis {
    int64_t size, x, y; /* strides in input and output; y unused on reduced axes */
} axis;

typedef struct plan {
    const bb_cpu *cpu;
    bb_fold fold;
    bb_dtype from, to;
    bool columns;
    int kept_count, gone_count;
    axis kept[BB_MAX_RANK], gone[BB_MAX_RANK];
    int64_t outputs, n; /* n elements fold into each output */
    int64_t width;      /* outputs of an item, along the innermost kept axis */
    int64_t items, chunk, chunks;
    double divisor;
    const char *x;
    char *y;
    double *partial; /* [chunk][output]; NULL: one chunk */
} plan;

/* Inserts by falling stride; a broadcast axis counts as the outermost. */
static void insert(axis *list, int *count, axis a) {
    int at = (*count)++;
    for (; at > 0 && list[at - 1].x != 0 && (a.x == 0 || list[at - 1].x < a.x); at--)
        list[at] = list[at - 1];
    list[at] = a;
}

static void merge(axis *list, int *count, bool with_y) {
    int last = 0;
    for (int i = 1; i < *count; i++) {
        axis *outer = &list[last];
        if (outer->x == list[i].x * list[i].size &&
            (!with_y || outer->y == list[i].y * list[i].size))
            *outer = (axis){outer->size * list[i].size, list[i].x, list[i].y};
        else
            list[++last] = list[i];
    }
    if (*count) *count = last + 1;
    if (*count == 0) list[(*count)++] = (axis){1, 1, 1};
}

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static void make_plan(plan *p, const bb_tensor *x, unsigned mask) {
    int64_t y_stride = 1;
    p->n = p->outputs = 1;
    for (int i = x->rank - 1; i >= 0; i--) {
        if (mask >> i & 1u) {
            p->n *= x->size[i];
            if (x->size[i] != 1)
                insert(p->gone, &p->gone_count, (axis){x->size[i], x->stride[i], 0});
        } else {
            p->outputs *= x->size[i];
            if (x->size[i] != 1)
                insert(p->kept, &p->kept_count, (axis){x->size[i], x->stride[i], y_stride});
            y_stride *= x->size[i];
        }
    }
    merge(p->kept, &p->kept_count, true);
    merge(p->gone, &p->gone_count, false);
    const axis *strip = &p->kept[p->kept_count - 1], *run = &p->gone[p->gone_count - 1];
    p->columns = strip->x == 1 && strip->size > 1 && (run->x != 1 || run->size == 1);
    int64_t width = p->columns ? BB_REDUCE_WIDTH : PIECE / (p->n > 0 ? p->n : 1);
    if (width > BB_REDUCE_WIDTH) width = BB_REDUCE_WIDTH;
    if (width > strip->size) width = strip->size;
    p->width = width < 1 ? 1 : width;
    p->items = p->outputs / (strip->size > 0 ? strip->size : 1) * ceil_div(strip->size, p->width);
    p->chunk = p->n;
    p->chunks = 1;
    if (p->items < 64 && p->n > 2 * PIECE / p->width) {
        p->chunk = PIECE / p->width;
        p->chunks = ceil_div(p->n, p->chunk);
    }
}

/* Folds reduced elements [begin, end) of `count` outputs starting at x into acc, run by run. */
static void fold_range(const plan *p, const char *x, int64_t count, int64_t begin, int64_t end,
                       void *acc) {
    const bb_reduce_loops *loops = p->cpu->loops->reduce;
    const axis *strip = &p->kept[p->kept_count - 1], *run = &p->gone[p->gone_count - 1];
    const int64_t bytes = (int64_t)bb_dtype_bytes(p->from);
    while (begin < end) {
        const int64_t within = begin % run->size;
        int64_t n = run->size - within, outer = begin / run->size, offset = within * run->x;
        if (n > end - begin) n = end - begin;
        for (int i = p->gone_count - 2; i >= 0; i--) {
            offset += outer % p->gone[i].size * p->gone[i].x;
            outer /= p->gone[i].size;
        }
        if (p->columns)
            loops->columns(p->fold, (int)p->from, count, n, run->x, x + offset * bytes, acc);
        else
            loops->rows(p->fold, (int)p->from, count, strip->x, n, run->x, x + offset * bytes, acc);
        begin += n;
    }
}

/* Where item i stands: element offsets into x and y, and its number of outputs. */
static int64_t locate(const plan *p, int64_t item, int64_t *x, int64_t *y) {
    const axis *strip = &p->kept[p->kept_count - 1];
    const int64_t per_line = ceil_div(strip->size, p->width), at = item % per_line * p->width;
    int64_t line = item / per_line;
    *x = at * strip->x;
    *y = at * strip->y;
    for (int i = p->kept_count - 2; i >= 0; i--) {
        *x += line % p->kept[i].size * p->kept[i].x;
        *y += line % p->kept[i].size * p->kept[i].y;
        line /= p->kept[i].size;
    }
    return strip->size - at < p->width ? strip->size - at : p->width;
}

static void fold_items(void *user, int64_t begin, int64_t end) {
    const plan *p = user;
    const bb_reduce_loops *loops = p->cpu->loops->reduce;
    const bool integer = !bb_dtype_is_float(p->from);
    const int64_t x_bytes = (int64_t)bb_dtype_bytes(p->from),
                  y_bytes = (int64_t)bb_dtype_bytes(p->to);
    for (int64_t i = begin; i < end; i++) {
        const int64_t item = i % p->items, chunk = i / p->items;
        int64_t x, y, acc[BB_REDUCE_WIDTH];
        const int64_t count = locate(p, item, &x, &y), last = (chunk + 1) * p->chunk;
        void *sums = p->partial ? (void *)(p->partial + (chunk * p->items + item) * p->width) : acc;
        loops->start(p->fold, integer, count, sums);
        fold_range(p, p->x + x * x_bytes, count, chunk * p->chunk, last < p->n ? last : p->n, sums);
        if (!p->partial)
            loops->finish((int)p->to, count, sums, p->divisor, p->y + y * y_bytes,
                          p->kept[p->kept_count - 1].y);
    }
}

static void join_items(void *user, int64_t begin, int64_t end) {
    const plan *p = user;
    const bb_reduce_loops *loops = p->cpu->loops->reduce;
    for (int64_t item = begin; item < end; item++) {
        int64_t x, y;
        const int64_t count = locate(p, item, &x, &y);
        double *sums = p->partial + item * p->width;
        for (int64_t chunk = 1; chunk < p->chunks; chunk++)
            loops->join(p->fold, !bb_dtype_is_float(p->from), count,
                        sums + chunk * p->items * p->width, sums);
        loops->finish((int)p->to, count, sums, p->divisor,
                      p->y + y * (int64_t)bb_dtype_bytes(p->to), p->kept[p->kept_count - 1].y);
    }
}

static bb_status reduce(bb_call *call, bb_fold fold, unsigned mask, bool mean) {
    const bb_tensor *x = call->in[0];
    plan p = {.cpu = bb_cpu_of(call->ctx),
              .fold = fold,
              .from = (bb_dtype)x->dtype,
              .to = call->meta[0].dtype,
              .x = x->data,
              .y = call->out[0]->data};
    if (call->out[0]->count == 0) return BB_OK;
    make_plan(&p, x, mask);
    p.divisor = mean ? (double)p.n : 1;
    bb_storage *scratch = NULL;
    if (p.chunks > 1) {
        scratch = bb_cpu_scratch(call, (size_t)(p.chunks * p.items * p.width) * sizeof(double));
        if (!scratch) return bb_error(call->ctx);
        p.partial = scratch->data;
    }
    bb_cpu_for(p.cpu, p.items * p.chunks, bb_cpu_grain(p.width * p.chunk, PIECE), fold_items, &p);
    if (scratch) {
        bb_cpu_for(p.cpu, p.items, bb_cpu_grain(p.width * p.chunks, PIECE), join_items, &p);
        bb_storage_unref(scratch);
    }
    return BB_OK;
}

static unsigned mask_of(const bb_call *call) {
    const bb_ints *axes = &((const bb_reduce_attrs *)call->attrs)->axes;
    const int rank = call->in[0]->rank;
    unsigned mask = axes->n == 0 ? (1u << rank) - 1u : 0;
    for (int i = 0; i < axes->n; i++)
        mask |= 1u << (axes->v[i] < 0 ? axes->v[i] + rank : axes->v[i]);
    return mask;
}

bb_status bb_cpu_sum(bb_call *call) { return reduce(call, BB_FOLD_SUM, mask_of(call), false); }
bb_status bb_cpu_mean(bb_call *call) { return reduce(call, BB_FOLD_SUM, mask_of(call), true); }
bb_status bb_cpu_amax(bb_call *call) { return reduce(call, BB_FOLD_MAX, mask_of(call), false); }
bb_status bb_cpu_amin(bb_call *call) { return reduce(call, BB_FOLD_MIN, mask_of(call), false); }
bb_status bb_cpu_sum_squares(bb_call *call) {
    return reduce(call, BB_FOLD_SQUARES, (1u << call->in[0]->rank) - 1u, false);
}
