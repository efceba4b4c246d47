/* See fiber.h. */
#include "backends/cuda/sim/fiber.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#endif
#endif
#if defined(FIBER_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
enum { STACK_BYTES = 256 * 1024 };
#else
enum { STACK_BYTES = 64 * 1024 };
#endif
enum { GUARD_BYTES = 4096 };

struct bb_fiber {
#if defined(__x86_64__)
    void *stack_pointer;
#else
    ucontext_t context;
#endif
    char *memory, *stack;
    void (*entry)(void *user);
    void *user;
    bool ended, torn; /* torn: frames were left on the stack, with their poison */
    void *fake_stack;
};

namespace {

/* The scheduler's side of the switch; one per system thread. */
struct scheduler {
#if defined(__x86_64__)
    void *stack_pointer;
#else
    ucontext_t context;
#endif
    bb_fiber *running;
    const void *stack;
    size_t stack_bytes;
    void *fake_stack;
};
thread_local scheduler host;

#if defined(__x86_64__)
/* Saves what a called function must preserve, stores the stack pointer in *from, takes up `to`. */
extern "C" void bb_fiber_switch_stacks(void **from, void *to);
__asm__(".text\n"
        ".p2align 4\n"
        ".globl bb_fiber_switch_stacks\n"
        ".hidden bb_fiber_switch_stacks\n"
        ".type bb_fiber_switch_stacks,@function\n"
        "bb_fiber_switch_stacks:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size bb_fiber_switch_stacks,.-bb_fiber_switch_stacks\n");
#endif

void switch_to_host(bb_fiber *fiber) {
#if defined(FIBER_ASAN)
    __sanitizer_start_switch_fiber(fiber->ended ? nullptr : &fiber->fake_stack, host.stack,
                                   host.stack_bytes);
#endif
#if defined(__x86_64__)
    bb_fiber_switch_stacks(&fiber->stack_pointer, host.stack_pointer);
#else
    swapcontext(&fiber->context, &host.context);
#endif
#if defined(FIBER_ASAN)
    __sanitizer_finish_switch_fiber(fiber->fake_stack, &host.stack, &host.stack_bytes);
#endif
}

void trampoline() {
#if defined(FIBER_ASAN)
    __sanitizer_finish_switch_fiber(nullptr, &host.stack, &host.stack_bytes);
#endif
    bb_fiber *self = host.running;
    self->entry(self->user);
    self->ended = true;
    /* Not bb_fiber_exit: before a call that does not return AddressSanitizer clears all of the
     * stack. */
    for (;;) switch_to_host(self);
}

} // namespace

bb_fiber *bb_fiber_new() {
    bb_fiber *fiber = static_cast<bb_fiber *>(calloc(1, sizeof *fiber));
    if (!fiber) return nullptr;
    void *memory = mmap(nullptr, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        free(fiber);
        return nullptr;
    }
    mprotect(memory, GUARD_BYTES, PROT_NONE);
    fiber->memory = static_cast<char *>(memory);
    fiber->stack = fiber->memory + GUARD_BYTES;
    fiber->torn = true; /* by whoever had these addresses before */
    return fiber;
}

void bb_fiber_free(bb_fiber *fiber) {
    if (!fiber) return;
    munmap(fiber->memory, STACK_BYTES + GUARD_BYTES);
    free(fiber);
}

void bb_fiber_start(bb_fiber *fiber, void (*entry)(void *user), void *user) {
    fiber->entry = entry;
    fiber->user = user;
    fiber->ended = false;
    fiber->fake_stack = nullptr;
#if defined(FIBER_ASAN)
    if (fiber->torn) __asan_unpoison_memory_region(fiber->stack, STACK_BYTES);
#endif
    fiber->torn = false;
#if defined(__x86_64__)
    /* Six registers, the address that `ret` takes, and one word so that the stack is aligned as
     * after a call. */
    void **top = reinterpret_cast<void **>(fiber->stack + STACK_BYTES);
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(trampoline);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fiber->stack_pointer = top;
#else
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, trampoline, 0);
#endif
}

bool bb_fiber_resume(bb_fiber *fiber) {
    bb_fiber *outer = host.running;
    host.running = fiber;
#if defined(FIBER_ASAN)
    __sanitizer_start_switch_fiber(&host.fake_stack, fiber->stack, STACK_BYTES);
#endif
#if defined(__x86_64__)
    bb_fiber_switch_stacks(&host.stack_pointer, fiber->stack_pointer);
#else
    swapcontext(&host.context, &fiber->context);
#endif
#if defined(FIBER_ASAN)
    __sanitizer_finish_switch_fiber(host.fake_stack, nullptr, nullptr);
#endif
    host.running = outer;
    return !fiber->ended;
}

void bb_fiber_yield() { switch_to_host(host.running); }

void bb_fiber_exit() {
    bb_fiber *self = host.running;
    self->ended = self->torn = true;
    for (;;) switch_to_host(self); /* once is enough: an ended fiber is not resumed */
}
