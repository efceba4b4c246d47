/* How a reduction is cut: axes, chunks and threads. For reduce.cu alone, whose kernels read it. */
#ifndef BOBBIN_BACKENDS_CUDA_REDUCE_PLAN_H
#define BOBBIN_BACKENDS_CUDA_REDUCE_PLAN_H

#include "backends/cuda/cuda.h"

namespace {

enum { THREADS = 256, IN_FLIGHT = 4, ROW_CHUNK = 1 << 14, COLUMN_CHUNK = 32, FEW = 1024 };

struct axis {
    int64_t size, x, y; /* strides in input and output; y unused on reduced axes */
};

struct plan {
    int kept_count, gone_count;
    axis kept[BB_MAX_RANK], gone[BB_MAX_RANK];
    int64_t outputs, n;    /* n elements fold into each output */
    int64_t chunk, chunks; /* elements of a chunk; chunks of an output */
    int64_t strips;        /* columns: blocks along the innermost kept axis */
    int width;             /* threads along an output's elements (rows), along outputs (columns) */
    bool packed, flip;
    int to;
    double divisor;
};

/* Inserts by falling stride; a broadcast axis counts as the outermost. */
void insert(axis *list, int *count, axis a) {
    int at = (*count)++;
    for (; at > 0 && list[at - 1].x != 0 && (a.x == 0 || list[at - 1].x < a.x); at--)
        list[at] = list[at - 1];
    list[at] = a;
}

void merge(axis *list, int *count, bool with_y) {
    int last = 0;
    for (int i = 1; i < *count; i++) {
        axis *outer = &list[last];
        if (outer->x == list[i].x * list[i].size &&
            (!with_y || outer->y == list[i].y * list[i].size))
            *outer = axis{outer->size * list[i].size, list[i].x, list[i].y};
        else
            list[++last] = list[i];
    }
    if (*count) *count = last + 1;
    if (*count == 0) list[(*count)++] = axis{1, 1, 1};
}

plan plan_of(const bb_tensor *x, unsigned mask) {
    plan p;
    memset(&p, 0, sizeof p);
    int64_t y_stride = 1;
    p.n = p.outputs = 1;
    for (int i = x->rank - 1; i >= 0; i--) {
        if (mask >> i & 1u) {
            p.n *= x->size[i];
            if (x->size[i] != 1) insert(p.gone, &p.gone_count, axis{x->size[i], x->stride[i], 0});
        } else {
            p.outputs *= x->size[i];
            if (x->size[i] != 1)
                insert(p.kept, &p.kept_count, axis{x->size[i], x->stride[i], y_stride});
            y_stride *= x->size[i];
        }
    }
    merge(p.kept, &p.kept_count, true);
    merge(p.gone, &p.gone_count, false);
    return p;
}

int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }
int power_of_two(int64_t at_least, int most) {
    int p = 1;
    while (p < at_least && p < most) p *= 2;
    return p;
}
/* Whether every offset that these axes lead to keeps x on 16 bytes. */
template <typename T> bool aligned(const axis *list, int count, const void *x) {
    bool all = (uintptr_t)x % 16 == 0;
    for (int i = 0; i < count; i++) all &= list[i].x % bb_pack<T>::N == 0;
    return all;
}

/* Chunks, if `blocks` is few for a device and the elements make several. */
void cut(plan *p, int64_t blocks, int64_t chunk) {
    p->chunks = blocks < FEW && p->n > 2 * chunk ? ceil_div(p->n, chunk) : 1;
    p->chunk = p->chunks > 1 ? chunk : p->n;
}

/* Narrow strips of short columns would leave most of a block idle. */
bool by_columns(const plan &p) {
    const axis *strip = &p.kept[p.kept_count - 1], *run = &p.gone[p.gone_count - 1];
    return strip->x == 1 && strip->size > 1 && (run->x != 1 || run->size == 1) &&
           (strip->size >= BB_WARP || strip->size * p.n >= 4 * THREADS);
}

template <typename T> int64_t plan_columns(plan *p, const void *x) {
    const axis strip = p->kept[p->kept_count - 1];
    const int N = bb_pack<T>::N;
    p->packed = sizeof(T) > 1 && strip.size % N == 0 && aligned<T>(p->kept, p->kept_count - 1, x) &&
                aligned<T>(p->gone, p->gone_count, x);
    const int64_t threads = p->packed ? strip.size / N : strip.size;
    const int shares = power_of_two(ceil_div(p->n, IN_FLIGHT), THREADS / BB_WARP);
    p->width = power_of_two(threads, THREADS / shares);
    p->strips = ceil_div(threads, p->width);
    const int64_t blocks = p->outputs / strip.size * p->strips;
    cut(p, blocks, (int64_t)COLUMN_CHUNK * (THREADS / p->width));
    return blocks * p->chunks;
}

template <typename T> int64_t plan_rows(plan *p, const void *x) {
    const int N = bb_pack<T>::N;
    p->packed = p->gone_count == 1 && p->gone[0].x == 1 && p->n % N == 0 &&
                aligned<T>(p->kept, p->kept_count, x);
    /* Where outputs lie side by side and their elements do not, a thread takes an output alone. */
    const bool alone = p->kept[p->kept_count - 1].x == 1 && p->gone[p->gone_count - 1].x != 1;
    p->width = alone                 ? 1
               : p->n > 64 * BB_WARP ? (int)THREADS
                                     : power_of_two(ceil_div(p->n, 8), BB_WARP);
    cut(p, p->width == THREADS ? p->outputs : (int64_t)FEW, ROW_CHUNK);
    return ceil_div(p->outputs * p->chunks, THREADS / p->width);
}

} // namespace

#endif
