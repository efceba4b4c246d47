/* Runs the blocks of a launch: the scheduler of the simulation. See sim.h for what it catches. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <vector>

#include "backends/cuda/sim/fiber.h"
#include "backends/cuda/sim/sim.h"

__thread bb_sim_place bb_sim_here;

namespace {

enum { MAX_THREADS = 1024, WARP = 32, GUARD = 64, MAX_SHARED = 232448, TEXT = 512 };

enum state : uint8_t { READY, AT_BARRIER, IN_EXCHANGE, ENDED };

struct async_copy {
    void *target;
    const void *source;
    size_t bytes;
    int group;
};

struct sim_thread {
    bb_fiber *fiber;
    dim3 index;
    state at;
    int line;            /* of the barrier it waits at */
    int kind;            /* of the exchange it waits in */
    unsigned mask;       /* of that exchange */
    unsigned generation; /* exchanges so far: picks one of two sets of slots */
    int group;           /* asynchronous copies committed so far */
    std::vector<async_copy> copies;
};

struct warp {
    unsigned char slots[2][WARP * BB_SIM_SLOT_BYTES];
};

struct shared_block {
    const void *site;
    unsigned char *memory;
    size_t bytes;
};

struct block_state {
    sim_thread threads[MAX_THREADS];
    warp warps[MAX_THREADS / WARP];
    std::vector<bb_fiber *> spare;
    std::vector<shared_block> shared;
    std::vector<int> ready;
    const bb_sim_kernel *kernel;
    uint8_t rank[MAX_THREADS / WARP]; /* which warps are ahead of others */
    int count, current, alive;
    uint64_t random;
    bool failed;
    char text[TEXT];
    bb_sim_counts counts;
};

__thread block_state *mine;
struct cleaner {
    bool needed = false;
    ~cleaner() {
        if (!mine) return;
        for (bb_fiber *f : mine->spare) bb_fiber_free(f);
        delete mine;
        mine = nullptr;
    }
};
thread_local cleaner at_thread_exit;

uint64_t next_random(block_state *s) {
    s->random = s->random * 6364136223846793005u + 1442695040888963407u;
    return s->random >> 33;
}
/* 0 to count - 1; a division would be felt. */
size_t draw(block_state *s, size_t count) { return next_random(s) * count >> 31; }

uint64_t seed() {
    static const uint64_t value =
        getenv("BOBBIN_SIM_SEED") ? strtoull(getenv("BOBBIN_SIM_SEED"), nullptr, 10) : 1;
    return value;
}

void fail(block_state *s, const sim_thread *t, const char *format, ...) {
    if (s->failed) return;
    s->failed = true;
    char what[TEXT / 2];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    const dim3 &b = bb_sim_here.block, &i = t->index;
    snprintf(s->text, sizeof s->text,
             "block (%u, %u, %u), thread (%u, %u, %u): %s (BOBBIN_SIM_SEED=%llu)", b.x, b.y, b.z,
             i.x, i.y, i.z, what, (unsigned long long)seed());
}

void run_thread(void *user) {
    const bb_sim_kernel *kernel = static_cast<const bb_sim_kernel *>(user);
    kernel->run(kernel->arguments);
}

void make_ready(block_state *s, int i) {
    s->threads[i].at = READY;
    s->ready.push_back(i);
}

/* All of a warp's lanes of the mask are in the same exchange: they may go on. */
void release_exchange(block_state *s, int i) {
    const sim_thread &t = s->threads[i];
    const int first = i / WARP * WARP;
    for (int lane = 0; lane < WARP; lane++) {
        if (!(t.mask >> lane & 1)) continue;
        if (first + lane >= s->count) continue;
        const sim_thread &other = s->threads[first + lane];
        if (other.at != IN_EXCHANGE || other.kind != t.kind || other.mask != t.mask) return;
    }
    const unsigned mask = t.mask;
    s->counts.exchanges++;
    for (int lane = 0; lane < WARP; lane++)
        if ((mask >> lane & 1) && first + lane < s->count) make_ready(s, first + lane);
}

/* Until the next barrier, warps get ahead of each other: a warp that is far ahead, or far behind,
 * is what shows that a barrier is missing, and threads that all take equal turns never are. */
void rank_warps(block_state *s) {
    for (uint8_t &r : s->rank) r = (uint8_t)next_random(s);
}

/* A thread that can run: of four drawn at random, one of the warp with the highest rank. */
size_t pick_ready(block_state *s) {
    size_t best = draw(s, s->ready.size());
    for (int i = 0; i < 3; i++) {
        const size_t other = draw(s, s->ready.size());
        if (s->rank[s->ready[other] / WARP] > s->rank[s->ready[best] / WARP]) best = other;
    }
    return best;
}

/* Nobody can run. Either everybody waits at one barrier, or something is wrong. */
void release_barrier(block_state *s) {
    const sim_thread *waiting = nullptr;
    for (int i = 0; i < s->count; i++) {
        const sim_thread *t = &s->threads[i];
        if (t->at == IN_EXCHANGE) {
            fail(s, t, "a warp exchange (mask %08x) waits for a lane that ended or waits elsewhere",
                 t->mask);
            return;
        }
        if (t->at == AT_BARRIER && !waiting) waiting = t;
    }
    for (int i = 0; i < s->count; i++) {
        const sim_thread *t = &s->threads[i];
        if (t->at == ENDED)
            fail(s, t, "divergent barrier: it ended, but others wait at the barrier of line %d",
                 waiting->line);
        else if (t->line != waiting->line)
            fail(s, t, "divergent barrier: it waits at line %d, others at line %d", t->line,
                 waiting->line);
    }
    if (s->failed) return;
    s->counts.barriers++;
    rank_warps(s);
    for (int i = 0; i < s->count; i++) make_ready(s, i);
}

void run_one(block_state *s, int i) {
    sim_thread *t = &s->threads[i];
    if (!t->fiber) {
        if (s->spare.empty()) {
            bb_fiber *made = bb_fiber_new();
            if (!made) {
                fail(s, t, "out of memory for its stack");
                return;
            }
            s->spare.push_back(made);
        }
        t->fiber = s->spare.back();
        s->spare.pop_back();
        bb_fiber_start(t->fiber, run_thread, const_cast<bb_sim_kernel *>(s->kernel));
    }
    s->current = i;
    bb_sim_here.thread = t->index;
    if (bb_fiber_resume(t->fiber)) return;
    s->spare.push_back(t->fiber);
    t->fiber = nullptr;
    t->at = ENDED;
    s->alive--;
}

void check_guards(block_state *s) {
    for (const shared_block &b : s->shared)
        for (size_t k = 0; k < GUARD; k++)
            if (b.memory[b.bytes + k] != 0xA5) {
                fail(s, &s->threads[0], "a write past the end of %zu bytes of shared memory",
                     b.bytes);
                return;
            }
}

void poison_shared(block_state *s) {
    for (const shared_block &b : s->shared) memset(b.memory, 0xFF, b.bytes);
}

void free_shared(block_state *s) {
    for (const shared_block &b : s->shared) free(b.memory);
    s->shared.clear();
}

void run_block(block_state *s) {
    const dim3 size = bb_sim_here.block_size;
    s->count = (int)(size.x * size.y * size.z);
    s->alive = s->count;
    s->ready.clear();
    rank_warps(s);
    poison_shared(s);
    for (int i = 0; i < s->count; i++) {
        sim_thread *t = &s->threads[i];
        const unsigned u = (unsigned)i;
        t->index = dim3(u % size.x, u / size.x % size.y, u / (size.x * size.y));
        t->generation = 0;
        t->group = 0;
        t->copies.clear();
        make_ready(s, i);
    }
    while (s->alive > 0 && !s->failed) {
        if (s->ready.empty()) {
            release_barrier(s);
            continue;
        }
        const size_t pick = pick_ready(s);
        const int i = s->ready[pick];
        s->ready[pick] = s->ready.back();
        s->ready.pop_back();
        run_one(s, i);
    }
    check_guards(s);
    for (int i = 0; i < s->count; i++) /* abandoned by a failure */
        if (s->threads[i].fiber) {
            bb_fiber_free(s->threads[i].fiber);
            s->threads[i].fiber = nullptr;
        }
    s->counts.blocks++;
    s->counts.threads += s->count;
}

const char dynamic_site = 0;

} // namespace

uint64_t bb_sim_ends() {
    const char *text = getenv("BOBBIN_SIM_ENDS");
    return text ? strtoull(text, nullptr, 10) : 0;
}

const char *bb_sim_run(dim3 grid, dim3 block, size_t shared_bytes, const bb_sim_kernel &kernel) {
    if (!mine) {
        mine = new block_state();
        at_thread_exit.needed = true; /* a mention makes it exist */
    }
    block_state *s = mine;
    const int64_t threads = (int64_t)block.x * block.y * block.z;
    s->failed = false;
    s->kernel = &kernel;
    s->random = seed() * 0x9E3779B97F4A7C15u + (uint64_t)s->counts.launches;
    s->counts.launches++;
    if (threads < 1 || threads > MAX_THREADS || block.z > 64 || grid.x > 0x7fffffffu ||
        grid.y > 65535 || grid.z > 65535 || shared_bytes > MAX_SHARED) {
        snprintf(
            s->text, sizeof s->text,
            "impossible launch: grid (%u, %u, %u), block (%u, %u, %u), %zu bytes of shared memory",
            grid.x, grid.y, grid.z, block.x, block.y, block.z, shared_bytes);
        return s->text;
    }
    bb_sim_here.block_size = block;
    bb_sim_here.grid_size = grid;
    if (shared_bytes) {
        unsigned char *memory = static_cast<unsigned char *>(
            aligned_alloc(128, (shared_bytes + GUARD + 127) / 128 * 128));
        memset(memory + shared_bytes, 0xA5, GUARD);
        s->shared.push_back({&dynamic_site, memory, shared_bytes});
    }
    const uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    const uint64_t ends = bb_sim_ends();
    for (uint64_t b = 0; b < blocks && !s->failed; b++) {
        if (ends && b == ends && blocks > 2 * ends) b = blocks - ends;
        bb_sim_here.block = dim3((unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y),
                                 (unsigned)(b / ((uint64_t)grid.x * grid.y)));
        run_block(s);
    }
    free_shared(s);
    return s->failed ? s->text : nullptr;
}

bb_sim_counts bb_sim_count() { return mine ? mine->counts : bb_sim_counts(); }

/* ---- What a running thread calls */

void bb_sim_barrier(int line) {
    sim_thread *t = &mine->threads[mine->current];
    t->at = AT_BARRIER;
    t->line = line;
    bb_fiber_yield();
}

int bb_sim_lane() { return mine->current % WARP; }

const unsigned char *bb_sim_exchange(bb_sim_exchange_kind kind, unsigned mask, const void *value,
                                     size_t bytes) {
    block_state *s = mine;
    const int i = s->current, lane = i % WARP;
    sim_thread *t = &s->threads[i];
    if (!(mask >> lane & 1))
        bb_sim_fault("a warp exchange whose mask %08x leaves out its own lane %d", mask, lane);
    unsigned char *slots = s->warps[i / WARP].slots[t->generation++ & 1];
    memcpy(slots + lane * BB_SIM_SLOT_BYTES, value, bytes);
    t->at = IN_EXCHANGE;
    t->kind = kind;
    t->mask = mask;
    release_exchange(s, i);
    bb_fiber_yield();
    return slots;
}

unsigned __ballot_sync(unsigned mask, int predicate) {
    const unsigned char bit = predicate != 0;
    const unsigned char *slots = bb_sim_exchange(BB_SIM_BALLOT, mask, &bit, 1);
    unsigned votes = 0;
    for (int lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1) votes |= (unsigned)(slots[lane * BB_SIM_SLOT_BYTES] != 0) << lane;
    return votes;
}

void *bb_sim_shared(const void *site, size_t bytes) {
    block_state *s = mine;
    for (const shared_block &b : s->shared)
        if (b.site == site) return b.memory;
    unsigned char *memory =
        static_cast<unsigned char *>(aligned_alloc(128, (bytes + GUARD + 127) / 128 * 128));
    memset(memory, 0xFF, bytes);
    memset(memory + bytes, 0xA5, GUARD);
    s->shared.push_back({site, memory, bytes});
    return memory;
}

void *bb_sim_dynamic_shared() {
    for (const shared_block &b : mine->shared)
        if (b.site == &dynamic_site) return b.memory;
    bb_sim_fault("dynamic shared memory is used, but the launch asked for none");
}

void bb_sim_fault(const char *format, ...) {
    char what[TEXT / 2];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    block_state *s = mine;
    fail(s, &s->threads[s->current], "%s", what);
    bb_fiber_exit();
}

void bb_sim_async_copy(void *target, const void *source, size_t bytes) {
    sim_thread *t = &mine->threads[mine->current];
    t->copies.push_back({target, source, bytes, t->group});
}
void bb_sim_async_commit() { mine->threads[mine->current].group++; }
void bb_sim_async_wait(int groups_left) {
    sim_thread *t = &mine->threads[mine->current];
    std::vector<async_copy> left;
    for (const async_copy &c : t->copies) {
        if (c.group < t->group - groups_left)
            memcpy(c.target, c.source, c.bytes);
        else
            left.push_back(c);
    }
    t->copies.swap(left);
}
