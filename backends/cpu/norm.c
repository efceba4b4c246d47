/* Shares the rows of a norm among threads. Loops: loops/{rms,layer}_norm.c; adapters: rms_norm.c,
 * add_rms_norm.c, layer_norm.c.
 *
 * The sums over rows that dscale and dbias are go through partial sums, one per chunk of rows,
 * which are added in order: the same bytes for any number of threads. */
#include "backends/cpu/norm.h"

#include <string.h>

#include "backends/cpu/rows.h"

/* Outputs from this size on would only push other data out of the caches. */
enum { STREAM_BYTES = 16 << 20 };

typedef struct norm_job {
    const bb_norm_pass *pass;
    bb_rows rows;
    bb_norm_run run;   /* what all runs have in common */
    size_t real;       /* bytes of the compute type */
    const char *scale; /* a row of n reals per group */
    const char *bias;
    char *dscale, *dbias; /* a row of n reals per chunk; NULL: not wanted */
} norm_job;

static void norm_run(const norm_job *job, int64_t item, int64_t group, int64_t rows,
                     const int64_t at[ROWS_OPERANDS]) {
    const bb_norm_pass *pass = job->pass;
    bb_norm_run run = job->run;
    size_t row_bytes = (size_t)run.n * job->real;
    int64_t place = at[ROWS_ORDER] * run.n; /* of the first row in what is contiguous */
    run.rows = rows;
    run.x = pass->x->data + at[ROWS_X] * (int64_t)bb_dtype_bytes((bb_dtype)pass->x->dtype);
    if (pass->dy)
        run.dy = pass->dy->data + at[ROWS_DY] * (int64_t)bb_dtype_bytes((bb_dtype)pass->dy->dtype);
    if (pass->y) run.y = pass->y->data + place * (int64_t)bb_dtype_bytes((bb_dtype)pass->y->dtype);
    if (pass->more)
        run.more = pass->more->data + place * (int64_t)bb_dtype_bytes((bb_dtype)pass->more->dtype);
    if (pass->sum)
        run.sum = pass->sum->data + place * (int64_t)bb_dtype_bytes((bb_dtype)pass->sum->dtype);
    if (pass->mean) run.mean = pass->mean->data + (size_t)at[ROWS_ORDER] * job->real;
    if (pass->rstd) run.rstd = pass->rstd->data + (size_t)at[ROWS_ORDER] * job->real;
    run.scale = job->scale + (size_t)group * row_bytes;
    if (job->bias) run.bias = job->bias + (size_t)group * row_bytes;
    if (job->dscale) run.dscale = job->dscale + (size_t)item * row_bytes;
    if (job->dbias) run.dbias = job->dbias + (size_t)item * row_bytes;
    pass->loop(&run);
}

static void norm_piece(void *user, int64_t first, int64_t last) {
    const norm_job *job = user;
    size_t row_bytes = (size_t)job->rows.n * job->real;
    for (int64_t item = first; item < last; item++) {
        int64_t group, row, end, at[ROWS_OPERANDS];
        bb_rows_item(&job->rows, item, &group, &row, &end);
        if (job->dscale) memset(job->dscale + (size_t)item * row_bytes, 0, row_bytes);
        if (job->dbias) memset(job->dbias + (size_t)item * row_bytes, 0, row_bytes);
        while (row < end && row_bytes > 0) {
            int64_t count = bb_rows_run(&job->rows, group, row, end, at);
            norm_run(job, item, group, count, at);
            row += count;
        }
    }
}

/* Whether the rows of a scale or bias lie one after the other as reals. */
static bool lies_ready(const norm_job *job, const bb_tensor *t) {
    if (!t || t->dtype != (job->real == sizeof(double) ? BB_F64 : BB_F32) || !t->contiguous)
        return false;
    return job->rows.n == 1 || (t->rank > 0 && t->size[t->rank - 1] == job->rows.n);
}

/* Makes them lie so in `table`. */
static void write_table(const norm_job *job, const bb_cpu *cpu, const bb_tensor *t, double absent,
                        void *table) {
    int64_t n = job->rows.n, groups = job->rows.groups;
    for (int64_t i = 0; !t && i < groups * n; i++) {
        if (job->real == sizeof(double))
            ((double *)table)[i] = absent;
        else
            ((float *)table)[i] = (float)absent;
    }
    for (int64_t group = 0; t && group < groups; group++) {
        int last = t->rank - 1;
        int64_t step = last >= 0 && t->size[last] != 1 ? t->stride[last] : 0, offset = 0,
                rest = group;
        for (int a = last - 1; a >= 0; a--) {
            offset += rest % t->size[a] * t->stride[a];
            rest /= t->size[a];
        }
        const char *source = t->data + offset * (int64_t)bb_dtype_bytes((bb_dtype)t->dtype);
        if (job->real == sizeof(double))
            cpu->loops->elementwise->load_f64(t->dtype, n, source, step,
                                              (double *)table + group * n);
        else
            cpu->loops->elementwise->load_f32(t->dtype, n, source, step,
                                              (float *)table + group * n);
    }
}

/* Adds a group's partial sums into its first one, in order. */
static void add_partials(const norm_job *job, char *partial) {
    int64_t n = job->rows.n;
    for (int64_t c = 1; c < job->rows.chunks; c++) {
        if (job->real == sizeof(double)) {
            double *total = (double *)(void *)partial, *more = total + c * n;
            for (int64_t i = 0; i < n; i++) total[i] += more[i];
        } else {
            float *total = (float *)(void *)partial, *more = total + c * n;
            for (int64_t i = 0; i < n; i++) total[i] += more[i];
        }
    }
}

/* Writes a gradient from its partial sums; where it has one element a row, from the row's sum. */
static void finish(const norm_job *job, const bb_cpu *cpu, char *partials, bb_tensor *gradient) {
    if (gradient->count == 0) return;
    bool one = gradient->rank == 0 || gradient->size[gradient->rank - 1] == 1;
    int64_t n = job->rows.n, width = one ? 1 : n;
    size_t bytes = bb_dtype_bytes((bb_dtype)gradient->dtype);
    for (int64_t group = 0; group < job->rows.groups; group++) {
        char *sums = partials + (size_t)(group * job->rows.chunks * n) * job->real;
        char *target = gradient->data + (size_t)(group * width) * bytes;
        double total = 0;
        add_partials(job, sums);
        for (int64_t i = 0; one && i < n; i++)
            total += job->real == sizeof(double) ? ((double *)(void *)sums)[i]
                                                 : (double)((float *)(void *)sums)[i];
        if (one)
            cpu->loops->elementwise->store_f64(gradient->dtype, 1, &total, target);
        else if (job->real == sizeof(double))
            cpu->loops->elementwise->store_f64(gradient->dtype, n, (double *)(void *)sums, target);
        else
            cpu->loops->elementwise->store_f32(gradient->dtype, n, (float *)(void *)sums, target);
    }
}

static bb_norm_run common_run(const bb_norm_pass *pass, const bb_rows *rows) {
    int last = pass->x->rank - 1;
    return (bb_norm_run){
        .n = rows->n,
        .x_row = bb_rows_step(rows, ROWS_X),
        .x_step = pass->x->stride[last],
        .dy_row = bb_rows_step(rows, ROWS_DY),
        .dy_step = pass->dy ? pass->dy->stride[last] : 0,
        .y_row = bb_rows_step(rows, ROWS_ORDER) * rows->n,
        .x_dtype = pass->x->dtype,
        .dy_dtype = pass->dy ? pass->dy->dtype : 0,
        .y_dtype = pass->y ? pass->y->dtype : 0,
        .statistic_row = bb_rows_step(rows, ROWS_ORDER),
        .eps = pass->eps,
        .round_first = pass->round_first,
        .stream = pass->y &&
                  (size_t)pass->y->count * bb_dtype_bytes((bb_dtype)pass->y->dtype) >= STREAM_BYTES,
    };
}

bb_status bb_cpu_norm(const bb_call *call, const bb_norm_pass *pass) {
    const bb_cpu *cpu = bb_cpu_of(call->ctx);
    const bb_tensor *affine = pass->scale ? pass->scale : pass->bias ? pass->bias : pass->dbias;
    norm_job job = {.pass = pass, .rows = bb_rows_of(pass->x, affine, pass->dy)};
    job.real = pass->x->dtype == BB_F64 ? sizeof(double) : sizeof(float);
    job.run = common_run(pass, &job.rows);

    /* Scale table, bias table, two sets of partial sums, as needed. None of the products overflows:
     * x is as large. */
    bool with_bias = pass->layer && !pass->dy, sums = pass->dscale || pass->dbias;
    size_t table = (size_t)(job.rows.groups * job.rows.n) * job.real;
    size_t partials = (size_t)(bb_rows_items(&job.rows) * job.rows.n) * job.real;
    bool own_scale = !lies_ready(&job, pass->scale),
         own_bias = with_bias && !lies_ready(&job, pass->bias);
    size_t bytes[4] = {own_scale ? table : 0, own_bias ? table : 0, sums ? partials : 0,
                       sums && pass->layer ? partials : 0};
    bb_storage *scratch = bb_cpu_scratch(call, bytes[0] + bytes[1] + bytes[2] + bytes[3] + 1);
    if (!scratch) return call->ctx->status;
    char *at = scratch->data;
    job.scale = own_scale ? at : pass->scale->data;
    if (own_scale) write_table(&job, cpu, pass->scale, 1, at);
    at += bytes[0];
    if (with_bias) job.bias = own_bias ? at : pass->bias->data;
    if (own_bias) write_table(&job, cpu, pass->bias, 0, at);
    at += bytes[1];
    if (sums) job.dscale = at;
    if (sums && pass->layer) job.dbias = at + partials;

    bb_cpu_for(cpu, bb_rows_items(&job.rows), bb_rows_grain(&job.rows), norm_piece, &job);
    if (pass->dscale) finish(&job, cpu, job.dscale, pass->dscale);
    if (pass->dbias) finish(&job, cpu, job.dbias, pass->dbias);
    bb_storage_unref(scratch);
    return BB_OK;
}

bool bb_cpu_norm_fits(const bb_tensor *x, const bb_ints *axes, const bb_tensor *scale) {
    if (axes->n != 1 || (axes->v[0] != -1 && axes->v[0] != x->rank - 1)) return false;
    if (!scale) return true;
    if (scale->rank > x->rank) return false;
    for (int a = 0; a < scale->rank; a++) {
        if (scale->size[a] != 1 && scale->size[a] != x->size[x->rank - scale->rank + a])
            return false;
    }
    /* One scale per row: a table of whole rows would be as large as x. */
    bool grouped = false, one = scale->rank == 0 || scale->size[scale->rank - 1] == 1;
    for (int a = 0; a < scale->rank - 1; a++) grouped |= scale->size[a] != 1;
    if (one && grouped && x->size[x->rank - 1] != 1) return false;
    /* f64 gradients must not pass through f32 sums. */
    return scale->dtype != BB_F64 || x->dtype == BB_F64;
}
