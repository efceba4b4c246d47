/* The CUDA backend as core sees it: memory, copies between device and host, capture, and the
 * module's entry. Copies on the device are copy.cu, kernels are listed in table.cu. */
#include <stdio.h>
#include <string.h>

#include "backends/cuda/bandwidth.h"
#include "backends/cuda/blas.h"
#include "backends/cuda/copy.h"

static bb_cuda *cuda_of(bb_backend *self) { return reinterpret_cast<bb_cuda *>(self); }

bb_status bb_cuda_fail(bb_cuda *cuda, const char *what, const char *why) {
    return cuda->host->fail(cuda->base.ctx, BB_ERR_DEVICE, "%s: cuda: %s: %s",
                            cuda->op ? cuda->op : "backend", what, why);
}

static bb_status check(bb_cuda *cuda, const char *what, const char *why) {
    return why ? bb_cuda_fail(cuda, what, why) : BB_OK;
}

static void *count(bb_memory *memory, void *block, size_t bytes) {
    memory->system_allocations++;
    if (!block) return NULL;
    memory->bytes_held += bytes;
    if (memory->bytes_held > memory->bytes_peak) memory->bytes_peak = memory->bytes_held;
    return block;
}

static void *allocate(bb_backend *self, size_t bytes) {
    bb_memory *memory = &self->ctx->memory;
    void *block = count(memory, bb_runtime_allocate(cuda_of(self)->runtime, bytes), bytes);
    if (block) memory->accelerator_held += bytes;
    if (memory->accelerator_held > memory->accelerator_peak)
        memory->accelerator_peak = memory->accelerator_held;
    return block;
}

static void release(bb_backend *self, void *block, size_t bytes) {
    bb_runtime_free(cuda_of(self)->runtime, block);
    self->ctx->memory.bytes_held -= bytes;
    self->ctx->memory.accelerator_held -= bytes;
}

/* What kernels could only leave behind becomes an error now. */
static bb_status report_fault(bb_cuda *cuda) {
    const bb_fault fault = *cuda->fault;
    if (!fault.raised) return BB_OK;
    const bb_op *op = reinterpret_cast<const bb_op *>((uintptr_t)fault.op);
    cuda->fault->raised = 0;
    return cuda->host->fail(cuda->base.ctx, BB_ERR_ARGUMENT,
                            "%s: %s: expected 0 to %lld, got %lld at position %lld "
                            "(found on the device, some calls ago)",
                            op->name, op->inputs[1], (long long)fault.limit - 1,
                            (long long)fault.got, (long long)fault.position);
}

static bb_status synchronize(bb_backend *self) {
    bb_cuda *cuda = cuda_of(self);
    bb_status status = check(cuda, "waiting for the device", bb_runtime_synchronize(cuda->runtime));
    return status ? status : report_fault(cuda);
}

static void poison(bb_backend *self, void *block, size_t bytes) {
    bb_runtime_set(cuda_of(self)->runtime, block, 0xFF, bytes);
}

/* ---- Copies */

/* A contiguous header of t's shape over memory that somebody else owns. */
static bb_tensor header_over(const bb_tensor *t, int dtype, bb_device device, void *data) {
    bb_tensor h = *t;
    h.storage = NULL;
    h.data = static_cast<char *>(data);
    h.dtype = (uint8_t)dtype;
    h.device = (uint8_t)device;
    h.contiguous = true;
    int64_t stride = 1;
    for (int a = h.rank - 1; a >= 0; a--) {
        h.stride[a] = stride;
        stride *= h.size[a];
    }
    return h;
}

static size_t bytes_of(const bb_tensor *t) {
    static const unsigned char bytes[BB_DTYPE_COUNT] = {8, 4, 2, 2, 8, 4, 1, 1};
    return (size_t)t->count * bytes[t->dtype];
}

const void *bb_cuda_contiguous_data(bb_cuda *cuda, const bb_tensor *t, bb_storage **held) {
    *held = NULL;
    if (t->contiguous) return t->data;
    *held = bb_cuda_scratch(cuda, bytes_of(t));
    if (!*held) return NULL;
    bb_tensor copy = header_over(t, t->dtype, BB_CUDA, (*held)->data);
    if (bb_cuda_copy_elements(cuda, t, &copy) == BB_OK) return copy.data;
    bb_cuda_release(cuda, *held);
    *held = NULL;
    return NULL;
}

/* Host memory from the pool: a steady step that reads its loss asks the system for nothing. */
static bb_storage *host_scratch(bb_cuda *cuda, size_t bytes) {
    return cuda->host->storage_new(cuda->base.ctx, BB_CPU, bytes);
}

/* Waits, unless the bytes land where the caller wants them: bb_read waits itself. */
static bb_status to_host(bb_cuda *cuda, const bb_tensor *source, bb_tensor *target) {
    bb_backend *cpu = cuda->base.ctx->backend[BB_CPU];
    bb_storage *held;
    const void *data = bb_cuda_contiguous_data(cuda, source, &held);
    if (!data) return cuda->base.ctx->status;
    const size_t bytes = bytes_of(source);
    const bool direct = target->contiguous && target->dtype == source->dtype;
    bb_storage *host = direct ? NULL : host_scratch(cuda, bytes);
    void *landing = direct ? target->data : host ? host->data : NULL;
    bb_status status = landing
                           ? check(cuda, "copying to the host",
                                   bb_runtime_copy(cuda->runtime, landing, data, bytes, BB_TO_HOST))
                           : cuda->base.ctx->status;
    bb_cuda_release(cuda, held);
    if (!status && (!direct || target->storage)) status = synchronize(&cuda->base);
    if (!status && !direct) {
        const bb_tensor there = header_over(source, source->dtype, BB_CPU, landing);
        status = cpu->copy(cpu, &there, target);
    }
    bb_cuda_release(cuda, host);
    return status;
}

static bb_status to_device(bb_cuda *cuda, const bb_tensor *source, bb_tensor *target) {
    bb_backend *cpu = cuda->base.ctx->backend[BB_CPU];
    const size_t bytes = bytes_of(target);
    const bool ready = source->contiguous && source->dtype == target->dtype;
    bb_storage *host = ready ? NULL : host_scratch(cuda, bytes);
    void *staged = ready ? source->data : host ? host->data : NULL;
    bb_storage *held = NULL;
    bb_status status = staged ? BB_OK : cuda->base.ctx->status;
    if (!status && !ready) {
        bb_tensor there = header_over(target, target->dtype, BB_CPU, staged);
        status = cpu->copy(cpu, source, &there);
    }
    if (!status && !target->contiguous) {
        held = bb_cuda_scratch(cuda, bytes);
        if (!held) status = cuda->base.ctx->status;
    }
    void *landing = held ? held->data : target->data;
    if (!status)
        status = check(cuda, "copying to the device",
                       bb_runtime_copy(cuda->runtime, landing, staged, bytes, BB_TO_DEVICE));
    if (!status && held) {
        const bb_tensor there = header_over(target, target->dtype, BB_CUDA, landing);
        status = bb_cuda_copy_elements(cuda, &there, target);
    }
    bb_cuda_release(cuda, held);
    bb_cuda_release(cuda, host);
    return status;
}

static bb_status copy(bb_backend *self, const bb_tensor *source, bb_tensor *target) {
    bb_cuda *cuda = cuda_of(self);
    cuda->op = "copy";
    if (source->device == BB_CPU) return to_device(cuda, source, target);
    if (target->device == BB_CPU) return to_host(cuda, source, target);
    if (source->contiguous && target->contiguous && source->dtype == target->dtype)
        return check(cuda, "copying",
                     bb_runtime_copy(cuda->runtime, target->data, source->data, bytes_of(source),
                                     BB_ON_DEVICE));
    return bb_cuda_copy_elements(cuda, source, target);
}

/* ---- Copies beside the work */

static void *pinned_allocate(bb_backend *self, size_t bytes) {
    return count(&self->ctx->memory, bb_runtime_allocate_pinned(cuda_of(self)->runtime, bytes),
                 bytes);
}

static void pinned_release(bb_backend *self, void *block, size_t bytes) {
    bb_runtime_free_pinned(cuda_of(self)->runtime, block);
    self->ctx->memory.bytes_held -= bytes;
}

static bb_status side_begin(bb_backend *self) {
    bb_cuda *cuda = cuda_of(self);
    cuda->op = "offload";
    return check(cuda, "beginning copies beside the work", bb_runtime_side_begin(cuda->runtime));
}

static bb_status side_copy(bb_backend *self, void *target, const void *source, size_t bytes,
                           bool to_host) {
    bb_cuda *cuda = cuda_of(self);
    cuda->op = "offload";
    return check(cuda, to_host ? "copying to the host" : "copying to the device",
                 bb_runtime_side_copy(cuda->runtime, target, source, bytes,
                                      to_host ? BB_TO_HOST : BB_TO_DEVICE));
}

static bb_status side_end(bb_backend *self, uint64_t *ticket) {
    bb_cuda *cuda = cuda_of(self);
    cuda->op = "offload";
    return check(cuda, "ending copies beside the work", bb_runtime_side_end(cuda->runtime, ticket));
}

static bb_status side_wait(bb_backend *self, uint64_t ticket) {
    bb_cuda *cuda = cuda_of(self);
    cuda->op = "offload";
    return check(cuda, "waiting for copies", bb_runtime_side_wait(cuda->runtime, ticket));
}

/* ---- Graphs */

static bb_status capture_begin(bb_backend *self) {
    bb_cuda *cuda = cuda_of(self);
    cuda->op = "capture";
    return check(cuda, "beginning", bb_runtime_capture_begin(cuda->runtime));
}

static void *capture_end(bb_backend *self) {
    bb_cuda *cuda = cuda_of(self);
    const char *why = NULL;
    void *graph = bb_runtime_capture_end(cuda->runtime, &why);
    cuda->op = "capture";
    if (why) bb_cuda_fail(cuda, "ending", why);
    return graph;
}

static bb_status replay(bb_backend *self, void *graph) {
    bb_cuda *cuda = cuda_of(self);
    cuda->op = "capture";
    return check(cuda, "replaying", bb_runtime_replay(cuda->runtime, graph));
}

static void graph_free(bb_backend *self, void *graph) {
    bb_runtime_graph_free(cuda_of(self)->runtime, graph);
}

static void close(bb_backend *self) {
    bb_cuda *cuda = cuda_of(self);
    bb_blas_close(cuda);
    bb_runtime_free_shared(cuda->runtime, cuda->fault);
    bb_runtime_close(cuda->runtime);
    cuda->host->release(self->ctx, cuda, sizeof *cuda);
}

/* ---- The module's entry */

extern "C" __attribute__((visibility("default"))) bb_backend *
bb_module_open(const bb_host *host, bb_context *ctx, const char **why) {
    if (host->abi != BB_BACKEND_ABI || host->layout != BB_HOST_LAYOUT) {
        *why = "its module was built for another version of bobbin";
        return NULL;
    }
    bb_cuda *cuda = static_cast<bb_cuda *>(host->allocate(ctx, sizeof *cuda));
    if (!cuda) return NULL;
    memset(cuda, 0, sizeof *cuda);
    cuda->host = host;
    cuda->runtime = bb_runtime_open(&cuda->info, why);
    if (cuda->runtime) {
        cuda->fault =
            static_cast<bb_fault *>(bb_runtime_allocate_shared(cuda->runtime, sizeof *cuda->fault));
        if (!cuda->fault) {
            *why = "out of page-locked memory";
            bb_runtime_close(cuda->runtime);
        }
    }
    if (!cuda->fault) {
        host->release(ctx, cuda, sizeof *cuda);
        return NULL;
    }
    memset(cuda->fault, 0, sizeof *cuda->fault);
    bb_backend *b = &cuda->base;
    b->abi = BB_BACKEND_ABI;
    b->name = "cuda";
    b->device = BB_CUDA;
    b->allocate = allocate;
    b->release = release;
    b->copy = copy;
    b->fill = bb_cuda_fill;
    b->add = bb_cuda_accumulate;
    b->synchronize = synchronize;
    b->poison = poison;
    b->capture_begin = capture_begin;
    b->capture_end = capture_end;
    b->replay = replay;
    b->graph_free = graph_free;
    b->bandwidth = bb_cuda_bandwidth;
    b->pinned_allocate = pinned_allocate;
    b->pinned_release = pinned_release;
    b->side_begin = side_begin;
    b->side_copy = side_copy;
    b->side_end = side_end;
    b->side_wait = side_wait;
    b->hardware = cuda->info.name;
    b->simulated = cuda->info.simulated;
    b->kernels = bb_cuda_kernels;
    b->close = close;
    b->ctx = ctx;
    return b;
}
