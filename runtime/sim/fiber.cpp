// fiber.cpp: the switch itself, by hand for x86-64 and aarch64, by ucontext elsewhere.
#include "runtime/sim/fiber.h"

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#elif !defined(__aarch64__)
#include <ucontext.h>
#endif

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PHASEC_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define PHASEC_ASAN 1
#endif
#ifdef PHASEC_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace phasec::sim {

void forgetFrames([[maybe_unused]] void *low, [[maybe_unused]] size_t bytes) {
#ifdef PHASEC_ASAN
  __asan_unpoison_memory_region(low, bytes);
#endif
}

#if defined(__x86_64__)

// A return, not a jump: nearly all fibers stop in the same chain of calls, so the processor's return stack, though it
// was filled by another fiber, predicts this return and those after it.
asm(R"(
  .text
  .p2align 4
  .globl phasec_sim_switch
  .hidden phasec_sim_switch
  .type phasec_sim_switch, @function
phasec_sim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size phasec_sim_switch, .-phasec_sim_switch

  .p2align 4
  .globl phasec_sim_start
  .hidden phasec_sim_start
  .type phasec_sim_start, @function
phasec_sim_start:
  movq %r12, %rdi
  callq *%r13
  ud2
  .size phasec_sim_start, .-phasec_sim_start
)");
extern "C" __attribute__((visibility("hidden"))) void phasec_sim_start();

void *prepareFiber(void *low, size_t bytes, void (*entry)(void *), void *argument) {
  auto top = (reinterpret_cast<uintptr_t>(low) + bytes) & ~uintptr_t(15);
  auto *frame = reinterpret_cast<void **>(top) - 7; // r15 r14 r13 r12 rbx rbp, then where to go
  frame[0] = frame[1] = nullptr;
  frame[2] = reinterpret_cast<void *>(entry);
  frame[3] = argument;
  frame[4] = frame[5] = nullptr;
  frame[6] = reinterpret_cast<void *>(&phasec_sim_start);
  return frame;
}

IeeeMode::IeeeMode() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
IeeeMode::~IeeeMode() { _mm_setcsr(unsigned(saved_)); }

#elif defined(__aarch64__)

asm(R"(
  .text
  .p2align 4
  .globl phasec_sim_switch
  .hidden phasec_sim_switch
  .type phasec_sim_switch, %function
phasec_sim_switch:
  stp x29, x30, [sp, #-160]!
  stp x19, x20, [sp, #16]
  stp x21, x22, [sp, #32]
  stp x23, x24, [sp, #48]
  stp x25, x26, [sp, #64]
  stp x27, x28, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #16]
  ldp x21, x22, [sp, #32]
  ldp x23, x24, [sp, #48]
  ldp x25, x26, [sp, #64]
  ldp x27, x28, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x29, x30, [sp], #160
  ret
  .size phasec_sim_switch, .-phasec_sim_switch

  .p2align 4
  .globl phasec_sim_start
  .hidden phasec_sim_start
  .type phasec_sim_start, %function
phasec_sim_start:
  mov x0, x19
  blr x20
  brk #1
  .size phasec_sim_start, .-phasec_sim_start
)");
extern "C" __attribute__((visibility("hidden"))) void phasec_sim_start();

void *prepareFiber(void *low, size_t bytes, void (*entry)(void *), void *argument) {
  auto top = (reinterpret_cast<uintptr_t>(low) + bytes) & ~uintptr_t(15);
  auto *frame = reinterpret_cast<void **>(top) - 20;
  for (int i = 0; i < 20; i++) frame[i] = nullptr;
  frame[1] = reinterpret_cast<void *>(&phasec_sim_start); // x30
  frame[2] = argument;                                    // x19
  frame[3] = reinterpret_cast<void *>(entry);             // x20
  return frame;
}

IeeeMode::IeeeMode() {
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  asm volatile("msr fpcr, %0" ::"r"(0ull));
}
IeeeMode::~IeeeMode() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

#else

namespace {
void startFiber(unsigned entry_low, unsigned entry_high, unsigned argument_low, unsigned argument_high) {
  auto join = [](unsigned low, unsigned high) { return uintptr_t(uint64_t(high) << 32 | low); };
  reinterpret_cast<void (*)(void *)>(join(entry_low, entry_high))(
      reinterpret_cast<void *>(join(argument_low, argument_high)));
}
} // namespace

extern "C" void phasec_sim_switch(void **save, void *to) {
  ucontext_t here; // lives on the stack that stops, so it lives as long as it is needed
  *save = &here;
  swapcontext(&here, static_cast<ucontext_t *>(to));
}

void *prepareFiber(void *low, size_t bytes, void (*entry)(void *), void *argument) {
  size_t usable = (bytes - sizeof(ucontext_t)) & ~size_t(63);
  auto *context = reinterpret_cast<ucontext_t *>(static_cast<char *>(low) + usable);
  getcontext(context);
  context->uc_stack.ss_sp = low;
  context->uc_stack.ss_size = usable;
  context->uc_link = nullptr;
  uint64_t e = reinterpret_cast<uintptr_t>(entry), a = reinterpret_cast<uintptr_t>(argument);
  makecontext(context, reinterpret_cast<void (*)()>(startFiber), 4, unsigned(e), unsigned(e >> 32), unsigned(a),
              unsigned(a >> 32));
  return context;
}

IeeeMode::IeeeMode() = default; // such hosts keep IEEE defaults
IeeeMode::~IeeeMode() = default;

#endif

} // namespace phasec::sim
