/* CUDA's runtime behind runtime.h: one device, one stream, and one for the copies beside it. */
#include "backends/cuda/runtime.h"

#include <stdio.h>
#include <string.h>

#include <new>

/* A copy from ordinary host memory would first wait for everything in the stream. So small ones go
 * through pinned memory: a ring of two halves, each free again when the event that closed it has
 * passed. */
enum { HALF_BYTES = 1 << 20, STAGED_BYTES = HALF_BYTES / 4 };
struct staging {
    char *memory;
    size_t used; /* of the current half */
    int half;
    cudaEvent_t free[2];
};

/* The second stream. A ticket stands for an event of a ring; one whose event was recorded again
 * since waits for a later ticket, which in one stream is only longer. */
enum { SIDE_EVENTS = 64 };
struct side_stream {
    cudaStream_t stream; /* NULL: not opened yet */
    cudaEvent_t work;    /* what the copies wait for */
    cudaEvent_t done[SIDE_EVENTS];
    uint64_t tickets;
};

struct bb_runtime {
    cudaStream_t stream;
    staging ring;
    side_stream side;
};

static const char *text_of(cudaError_t error) {
    return error == cudaSuccess ? NULL : cudaGetErrorString(error);
}

static const char *no_device(cudaError_t error) {
    if (error == cudaErrorInsufficientDriver)
        return "the NVIDIA driver is missing or older than the CUDA toolkit this was built with";
    if (error == cudaErrorNoDevice || error == cudaSuccess) return "no NVIDIA GPU";
    return cudaGetErrorString(error);
}

static cudaError_t ring_open(staging *ring) {
    cudaError_t error = cudaMallocHost(reinterpret_cast<void **>(&ring->memory), 2 * HALF_BYTES);
    for (int i = 0; i < 2 && error == cudaSuccess; i++)
        error = cudaEventCreateWithFlags(&ring->free[i], cudaEventDisableTiming);
    return error;
}

static void ring_close(staging *ring) {
    for (int i = 0; i < 2; i++)
        if (ring->free[i]) cudaEventDestroy(ring->free[i]);
    if (ring->memory) cudaFreeHost(ring->memory);
}

/* Pinned memory for a copy that is about to be enqueued. */
static cudaError_t ring_take(bb_runtime *r, size_t bytes, void **place) {
    staging *ring = &r->ring;
    cudaError_t error = cudaSuccess;
    if (ring->used + bytes > HALF_BYTES) {
        error = cudaEventRecord(ring->free[ring->half], r->stream);
        ring->half ^= 1;
        ring->used = 0;
        if (error == cudaSuccess) error = cudaEventSynchronize(ring->free[ring->half]);
    }
    *place = ring->memory + ring->half * HALF_BYTES + ring->used;
    ring->used += (bytes + 255) / 256 * 256;
    return error;
}

static cudaError_t side_open(side_stream *side) {
    cudaError_t error = cudaEventCreateWithFlags(&side->work, cudaEventDisableTiming);
    for (int i = 0; i < SIDE_EVENTS && error == cudaSuccess; i++)
        error = cudaEventCreateWithFlags(&side->done[i], cudaEventDisableTiming);
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&side->stream, cudaStreamNonBlocking);
    return error;
}

static void side_close(side_stream *side) {
    if (side->stream) {
        cudaStreamSynchronize(side->stream);
        cudaStreamDestroy(side->stream);
    }
    if (side->work) cudaEventDestroy(side->work);
    for (int i = 0; i < SIDE_EVENTS; i++)
        if (side->done[i]) cudaEventDestroy(side->done[i]);
    *side = side_stream();
}

bb_runtime *bb_runtime_open(bb_device_info *info, const char **why) {
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    cudaDeviceProp properties;
    if (error != cudaSuccess || count == 0) {
        *why = no_device(error);
        cudaGetLastError(); /* it sticks otherwise */
        return NULL;
    }
    error = cudaGetDeviceProperties(&properties, 0);
    if (error == cudaSuccess) error = cudaSetDevice(0);
    bb_runtime *r = error == cudaSuccess ? new (std::nothrow) bb_runtime() : NULL;
    if (r) error = cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking);
    if (r && error == cudaSuccess) error = ring_open(&r->ring);
    if (!r || error != cudaSuccess) {
        *why = error == cudaSuccess ? "out of memory" : cudaGetErrorString(error);
        if (r) ring_close(&r->ring);
        delete r;
        return NULL;
    }
    snprintf(info->name, sizeof info->name, "%s", properties.name);
    info->multiprocessors = properties.multiProcessorCount;
    info->major = properties.major;
    info->minor = properties.minor;
    info->shared_bytes = properties.sharedMemPerBlockOptin;
    info->memory_bytes = properties.totalGlobalMem;
    return r;
}

void bb_runtime_close(bb_runtime *r) {
    if (!r) return;
    cudaStreamSynchronize(r->stream);
    side_close(&r->side);
    ring_close(&r->ring);
    cudaStreamDestroy(r->stream);
    delete r;
}

cudaStream_t bb_runtime_stream(bb_runtime *r) { return r->stream; }

/* While a step is captured, allocating is still right: what is allocated is not part of the graph.
 */
void *bb_runtime_allocate(bb_runtime *r, size_t bytes) {
    void *block = NULL;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    (void)r;
    cudaThreadExchangeStreamCaptureMode(&mode);
    const cudaError_t error = cudaMalloc(&block, bytes);
    cudaThreadExchangeStreamCaptureMode(&mode);
    if (error != cudaSuccess)
        cudaGetLastError(); /* the caller reports it; do not let a launch find it */
    return error == cudaSuccess ? block : NULL;
}

void bb_runtime_free(bb_runtime *r, void *block) {
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    (void)r;
    cudaThreadExchangeStreamCaptureMode(&mode);
    cudaFree(block);
    cudaThreadExchangeStreamCaptureMode(&mode);
}

/* Page-locked memory has one address on both sides (unified addressing). */
void *bb_runtime_allocate_shared(bb_runtime *r, size_t bytes) {
    void *block = NULL;
    (void)r;
    const cudaError_t error = cudaHostAlloc(&block, bytes, cudaHostAllocMapped);
    if (error != cudaSuccess) cudaGetLastError();
    return error == cudaSuccess ? block : NULL;
}

void bb_runtime_free_shared(bb_runtime *r, void *block) {
    (void)r;
    cudaFreeHost(block);
}

void *bb_runtime_allocate_pinned(bb_runtime *r, size_t bytes) {
    void *block = NULL;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    (void)r;
    cudaThreadExchangeStreamCaptureMode(&mode);
    const cudaError_t error = cudaHostAlloc(&block, bytes, cudaHostAllocDefault);
    cudaThreadExchangeStreamCaptureMode(&mode);
    if (error != cudaSuccess) cudaGetLastError();
    return error == cudaSuccess ? block : NULL;
}

void bb_runtime_free_pinned(bb_runtime *r, void *block) {
    if (r->side.stream) cudaStreamSynchronize(r->side.stream);
    cudaFreeHost(block);
}

const char *bb_runtime_side_begin(bb_runtime *r) {
    side_stream *side = &r->side;
    cudaError_t error = cudaSuccess;
    if (!side->stream) {
        cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
        cudaThreadExchangeStreamCaptureMode(&mode);
        error = side_open(side);
        cudaThreadExchangeStreamCaptureMode(&mode);
        if (error != cudaSuccess) side_close(side);
    }
    if (error == cudaSuccess) error = cudaEventRecord(side->work, r->stream);
    if (error == cudaSuccess) error = cudaStreamWaitEvent(side->stream, side->work, 0);
    return text_of(error);
}

const char *bb_runtime_side_copy(bb_runtime *r, void *target, const void *source, size_t bytes,
                                 bb_direction direction) {
    const cudaMemcpyKind kind =
        direction == BB_TO_HOST ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice;
    return text_of(cudaMemcpyAsync(target, source, bytes, kind, r->side.stream));
}

const char *bb_runtime_side_end(bb_runtime *r, uint64_t *ticket) {
    side_stream *side = &r->side;
    *ticket = ++side->tickets;
    if (!side->stream) return NULL; /* no copy was ever given */
    return text_of(cudaEventRecord(side->done[*ticket % SIDE_EVENTS], side->stream));
}

const char *bb_runtime_side_wait(bb_runtime *r, uint64_t ticket) {
    side_stream *side = &r->side;
    if (!side->stream) return NULL;
    return text_of(cudaStreamWaitEvent(r->stream, side->done[ticket % SIDE_EVENTS], 0));
}

const char *bb_runtime_copy(bb_runtime *r, void *target, const void *source, size_t bytes,
                            bb_direction direction) {
    static const cudaMemcpyKind kinds[] = {cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost,
                                           cudaMemcpyDeviceToDevice};
    if (direction == BB_TO_DEVICE && bytes <= STAGED_BYTES) {
        void *staged;
        const cudaError_t error = ring_take(r, bytes, &staged);
        if (error != cudaSuccess) return text_of(error);
        memcpy(staged, source, bytes);
        source = staged;
    }
    return text_of(cudaMemcpyAsync(target, source, bytes, kinds[direction], r->stream));
}
const char *bb_runtime_set(bb_runtime *r, void *target, int byte, size_t bytes) {
    return text_of(cudaMemsetAsync(target, byte, bytes, r->stream));
}
const char *bb_runtime_synchronize(bb_runtime *r) {
    return text_of(cudaStreamSynchronize(r->stream));
}

const char *bb_runtime_capture_begin(bb_runtime *r) {
    return text_of(cudaStreamBeginCapture(r->stream, cudaStreamCaptureModeThreadLocal));
}

void *bb_runtime_capture_end(bb_runtime *r, const char **why) {
    cudaGraph_t graph = NULL;
    cudaGraphExec_t executable = NULL;
    cudaError_t error = cudaStreamEndCapture(r->stream, &graph);
    if (error == cudaSuccess) error = cudaGraphInstantiate(&executable, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    if (error != cudaSuccess) cudaGetLastError();
    *why = text_of(error);
    return error == cudaSuccess ? executable : NULL;
}
const char *bb_runtime_replay(bb_runtime *r, void *graph) {
    return text_of(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), r->stream));
}
void bb_runtime_graph_free(bb_runtime *r, void *graph) {
    cudaStreamSynchronize(r->stream);
    cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
}
