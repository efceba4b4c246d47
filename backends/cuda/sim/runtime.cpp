/* The simulation's runtime (runtime.h): device memory is host memory of its own that only kernels
 * may touch; under AddressSanitizer it is poisoned but for what the running kernel was given.
 * Graphs are lists of what was enqueued. Work runs when it is given; a copy beside it as late as it
 * may: when somebody waits for it. So whoever forgets to wait reads what was there before, or has
 * the copy land in memory that is another's by then. */
#include "backends/cuda/runtime.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <deque>
#include <map>
#include <new>
#include <vector>

#include "backends/cuda/cuda.h"
#include "core/impl.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

namespace {
typedef std::function<const char *()> work;
/* Copies beside the work that are not done yet. */
struct side_copy {
    uint64_t ticket;
    work run;
};
typedef std::deque<side_copy> side_queue;
struct graph {
    std::vector<work> nodes;
    side_queue side;
    uint64_t first_ticket;
    bool unjoined; /* copies that the work does not wait for yet */
};
/* Blocks of all devices of this thread, for the check of pointer arguments. */
struct owned_block {
    size_t bytes;
    bool shared; /* with the host: always open */
};
thread_local std::map<uintptr_t, owned_block> owned;

/* The block that p points into, or at the end of. */
std::map<uintptr_t, owned_block>::iterator block_of(const void *p) {
    auto it = owned.upper_bound((uintptr_t)p);
    if (it == owned.begin()) return owned.end();
    --it;
    return (uintptr_t)p <= it->first + it->second.bytes ? it : owned.end();
}
thread_local std::map<uintptr_t, size_t> pinned; /* page-locked memory of the host */

const char *run_until(side_queue &side, uint64_t ticket) {
    for (; !side.empty() && side.front().ticket <= ticket; side.pop_front())
        if (const char *error = side.front().run()) return error;
    return nullptr;
}
} // namespace

struct bb_runtime {
    graph *recording;
    int64_t launches, refused_launch, lost_launch; /* 0: never */
    bool lost;
    size_t limit, used; /* bytes of device memory; BOBBIN_SIM_MEMORY sets the limit */
    uint64_t given;     /* pieces of work so far */
    uint64_t waited;    /* of those the next copy beside them waits for */
    side_queue side;
    uint64_t ticket;                     /* of the copies that are given now */
    uint64_t captured_from, captured_to; /* tickets of the last captured step */
};

static int64_t number_of(const char *name) {
    const char *text = getenv(name);
    return text ? strtoll(text, nullptr, 10) : 0;
}

static const char lost_device[] = "the device is lost (BOBBIN_SIM_LOST_AT)";

bb_runtime *bb_runtime_open(bb_device_info *info, const char **why) {
    if (const char *missing = getenv("BOBBIN_SIM_MISSING")) {
        *why = missing;
        return nullptr;
    }
    bb_runtime *r = new (std::nothrow) bb_runtime();
    if (!r) {
        *why = "out of memory";
        return nullptr;
    }
    const char *limit = getenv("BOBBIN_SIM_MEMORY");
    r->ticket = 1;
    r->limit = limit ? strtoull(limit, nullptr, 10) : (size_t)16 << 30;
    r->refused_launch = number_of("BOBBIN_SIM_REFUSED_AT");
    r->lost_launch = number_of("BOBBIN_SIM_LOST_AT");
    snprintf(info->name, sizeof info->name, "host simulation");
    /* Few, so that small cases already go through several blocks' partial sums and more than one
     * turn of grid loops. */
    const char *sms = getenv("BOBBIN_SIM_SMS");
    info->multiprocessors = sms && atoi(sms) > 0 ? atoi(sms) : 4;
    const char *capability = getenv("BOBBIN_SIM_CAPABILITY"); /* "75": as such a device; 90 */
    const int number = capability ? atoi(capability) : 90;
    info->major = number / 10;
    info->minor = number % 10;
    info->shared_bytes = number < 80    ? 65536
                         : number == 80 ? 166912
                         : number < 90  ? 101376
                                        : 232448;
    info->memory_bytes = r->limit;
    info->simulated = true;
    return r;
}

void bb_runtime_close(bb_runtime *r) { delete r; }

namespace {
const char *run_or_record(bb_runtime *r, const work &w) {
    if (r->lost) return lost_device;
    r->given++;
    if (r->recording) {
        r->recording->nodes.push_back(w);
        return nullptr;
    }
    return w();
}

void finish_side(bb_runtime *r) { run_until(r->side, UINT64_MAX); }
} // namespace

/* Zeros that the system provides when they are touched. */
static void *map_memory(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : p;
}
static bool is_mapped(size_t bytes) { return bytes > (size_t)1 << 30; }

void *bb_runtime_allocate(bb_runtime *r, size_t bytes) {
    if (r->lost || bytes > r->limit - r->used) return nullptr;
    void *p = is_mapped(bytes) ? map_memory(bytes) : aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!p) return nullptr;
    if (!is_mapped(bytes)) memset(p, 0xFF, bytes);
    owned[(uintptr_t)p] = {bytes, is_mapped(bytes)}; /* open: to close it would take an eighth */
    r->used += bytes;
    if (!is_mapped(bytes)) ASAN_POISON_MEMORY_REGION(p, bytes);
    return p;
}

void bb_runtime_free(bb_runtime *r, void *block) {
    auto it = owned.find((uintptr_t)block);
    if (it == owned.end()) return;
    finish_side(r); /* CUDA waits for the whole device */
    r->used -= it->second.bytes;
    const size_t bytes = it->second.bytes;
    owned.erase(it);
    if (is_mapped(bytes)) {
        munmap(block, bytes);
        return;
    }
    ASAN_UNPOISON_MEMORY_REGION(block, bytes);
    free(block);
}

void *bb_runtime_allocate_shared(bb_runtime *r, size_t bytes) {
    void *p = bb_runtime_allocate(r, bytes);
    if (!p) return nullptr;
    owned[(uintptr_t)p].shared = true;
    ASAN_UNPOISON_MEMORY_REGION(p, bytes);
    return p;
}

void bb_runtime_free_shared(bb_runtime *r, void *block) { bb_runtime_free(r, block); }

const char *bb_sim_pointer_fault(const void *p) {
    return !p || block_of(p) != owned.end() ? nullptr : "points to memory that is not the device's";
}

void bb_sim_access::operator()(const void *p) {
#if defined(__SANITIZE_ADDRESS__)
    auto it = p ? block_of(p) : owned.end();
    if (it == owned.end() || it->second.shared) return;
    blocks.push_back({it->first, it->second.bytes});
    ASAN_UNPOISON_MEMORY_REGION((void *)it->first, it->second.bytes);
#else
    (void)p;
#endif
}
bb_sim_access::~bb_sim_access() {
    for (auto &b : blocks) ASAN_POISON_MEMORY_REGION((void *)b.first, b.second);
}

bb_status bb_sim_enqueue(bb_cuda *cuda, const char *name, work w) {
    const char *error = run_or_record(cuda->runtime, w);
    return error ? bb_cuda_fail(cuda, name, error) : BB_OK;
}

bb_status bb_sim_refuse(bb_cuda *cuda, const char *name, int argument, const char *why) {
    char text[160];
    snprintf(text, sizeof text, "argument %d of the kernel %s", argument, why);
    return bb_cuda_fail(cuda, name, text);
}

void bb_sim_pointers::operator()(const void *p) { at.push_back({argument, p}); }

static const char *run_kernel(dim3 grid, dim3 block, size_t shared_bytes,
                              const bb_sim_pointers &pointers, const bb_sim_kernel &kernel) {
    bb_sim_access open;
    for (auto &p : pointers.at) open(p.second);
    return bb_sim_run(grid, block, shared_bytes, kernel);
}

/* NULL, or why the next launch fails. */
static const char *begin_launch(bb_runtime *r) {
    r->launches++;
    if (r->launches == r->refused_launch) return "a launch is refused (BOBBIN_SIM_REFUSED_AT)";
    r->lost = r->lost || r->launches == r->lost_launch;
    return r->lost ? lost_device : nullptr;
}

bb_status bb_sim_enqueue_kernel(bb_cuda *cuda, const char *name, dim3 grid, dim3 block,
                                size_t shared_bytes, const bb_sim_pointers &pointers,
                                const bb_sim_kernel &kernel) {
    for (auto &p : pointers.at)
        if (const char *why = bb_sim_pointer_fault(p.second))
            return bb_sim_refuse(cuda, name, p.first, why);
    if (shared_bytes > cuda->info.shared_bytes)
        return bb_cuda_fail(cuda, name, "more shared memory than the device has");
    if (const char *why = begin_launch(cuda->runtime)) return bb_cuda_fail(cuda, name, why);
    if (!cuda->runtime->recording) {
        const char *error = run_kernel(grid, block, shared_bytes, pointers, kernel);
        return error ? bb_cuda_fail(cuda, name, error) : BB_OK;
    }
    std::vector<max_align_t> held(kernel.bytes / sizeof(max_align_t) + 1);
    memcpy(held.data(), kernel.arguments, kernel.bytes);
    const bb_sim_kernel recorded = kernel;
    cuda->runtime->recording->nodes.push_back([=]() -> const char * {
        return run_kernel(grid, block, shared_bytes, pointers,
                          {recorded.run, held.data(), recorded.bytes});
    });
    return BB_OK;
}

static void move_bytes(void *target, const void *source, size_t bytes) {
    const size_t end = (size_t)1 << 20;
    if (is_mapped(bytes) && bb_sim_ends()) {
        memmove(target, source, end);
        target = static_cast<char *>(target) + bytes - end;
        source = static_cast<const char *>(source) + bytes - end;
        bytes = end;
    }
    memmove(target, source, bytes);
}

const char *bb_runtime_copy(bb_runtime *r, void *target, const void *source, size_t bytes,
                            bb_direction direction) {
    if (r->recording && direction != BB_ON_DEVICE)
        return "a copy from or to the host inside a captured step";
    const void *device = direction == BB_TO_DEVICE ? target : source;
    if (const char *fault = bb_sim_pointer_fault(device)) return fault;
    return run_or_record(r, [=]() -> const char * {
        bb_sim_access open;
        open(target), open(source);
        move_bytes(target, source, bytes);
        return nullptr;
    });
}

const char *bb_runtime_set(bb_runtime *r, void *target, int byte, size_t bytes) {
    if (const char *fault = bb_sim_pointer_fault(target)) return fault;
    return run_or_record(r, [=]() -> const char * {
        bb_sim_access open;
        open(target);
        memset(target, byte, bytes);
        return nullptr;
    });
}

const char *bb_runtime_synchronize(bb_runtime *r) {
    if (r->lost) return lost_device;
    return r->recording ? "a wait for the device inside a captured step" : nullptr;
}

/* ---- Copies beside the work */

void *bb_runtime_allocate_pinned(bb_runtime *r, size_t bytes) {
    (void)r;
    void *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!p) return nullptr;
    memset(p, 0xFF, bytes);
    pinned[(uintptr_t)p] = bytes;
    return p;
}

void bb_runtime_free_pinned(bb_runtime *r, void *block) {
    finish_side(r);
    pinned.erase((uintptr_t)block);
    free(block);
}

const char *bb_runtime_side_begin(bb_runtime *r) {
    r->waited = r->given;
    if (r->recording) r->recording->unjoined = true;
    return nullptr;
}

const char *bb_runtime_side_copy(bb_runtime *r, void *target, const void *source, size_t bytes,
                                 bb_direction direction) {
    const void *host = direction == BB_TO_HOST ? target : source;
    if (const char *fault = bb_sim_pointer_fault(direction == BB_TO_HOST ? source : target))
        return fault;
    auto it = pinned.upper_bound((uintptr_t)host);
    if (it == pinned.begin() || (--it)->first + it->second < (uintptr_t)host + bytes)
        return "a copy beside the work from or to host memory that is not page-locked";
    if (r->waited != r->given) return "a copy beside the work that does not wait for it";
    const side_copy copy = {r->ticket, [=]() -> const char * {
                                bb_sim_access open;
                                open(target), open(source);
                                memmove(target, source, bytes);
                                return nullptr;
                            }};
    graph *g = r->recording;
    if (!g) {
        r->side.push_back(copy);
        return nullptr;
    }
    g->unjoined = true;
    g->nodes.push_back([=]() -> const char * {
        g->side.push_back(copy);
        return nullptr;
    });
    return nullptr;
}

const char *bb_runtime_side_end(bb_runtime *r, uint64_t *ticket) {
    *ticket = r->ticket++;
    return nullptr;
}

const char *bb_runtime_side_wait(bb_runtime *r, uint64_t ticket) {
    graph *g = r->recording;
    if (!g) {
        if (ticket >= r->captured_from && ticket < r->captured_to)
            return "a wait for a copy of a captured step outside of it";
        return run_or_record(r, [=]() { return run_until(r->side, ticket); });
    }
    if (ticket < g->first_ticket) return "a wait for a copy from before the captured step";
    if (ticket + 1 == r->ticket) g->unjoined = false;
    return run_or_record(r, [=]() { return run_until(g->side, ticket); });
}

/* ---- Graphs */

const char *bb_runtime_capture_begin(bb_runtime *r) {
    if (r->recording) return "a capture is already under way";
    r->recording = new (std::nothrow) graph();
    if (r->recording) r->recording->first_ticket = r->ticket;
    return r->recording ? nullptr : "out of memory";
}
void *bb_runtime_capture_end(bb_runtime *r, const char **why) {
    graph *g = r->recording;
    r->recording = nullptr;
    *why = !g            ? "no capture is under way"
           : g->unjoined ? "a captured step that does not wait for the copies beside it"
                         : nullptr;
    if (g) r->captured_from = g->first_ticket, r->captured_to = r->ticket;
    if (!*why) return g;
    delete g;
    return nullptr;
}
const char *bb_runtime_replay(bb_runtime *r, void *captured) {
    if (r->lost) return lost_device;
    r->given++;
    for (const work &w : static_cast<graph *>(captured)->nodes)
        if (const char *error = w()) return error;
    return nullptr;
}
void bb_runtime_graph_free(bb_runtime *r, void *captured) {
    (void)r;
    delete static_cast<graph *>(captured);
}
