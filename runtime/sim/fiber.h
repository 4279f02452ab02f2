// fiber.h: switching stacks. A fiber is a saved stack pointer; switching saves the callee-saved registers of the C ABI
// and nothing else (the floating-point control word is the same for all fibers of a launch).
#pragma once

#include <cstddef>

namespace phasec::sim {

/// Readies `bytes` of stack at `low` so that the first switch to the result calls entry(argument), which must not
/// return.
void *prepareFiber(void *low, size_t bytes, void (*entry)(void *), void *argument);

/// Tells AddressSanitizer, when the library is built with it, that frames abandoned on these stacks are gone.
void forgetFrames(void *low, size_t bytes);

/// Saves the running context in *save and continues `to`, which a switch saved or prepareFiber made.
extern "C" __attribute__((visibility("hidden"))) void phasec_sim_switch(void **save, void *to);

/// Floating-point control of the calling thread: round to nearest, no flush to zero, no traps. Restored on destruction.
class IeeeMode {
public:
  IeeeMode();
  ~IeeeMode();
  IeeeMode(const IeeeMode &) = delete;
  IeeeMode &operator=(const IeeeMode &) = delete;

private:
  unsigned long long saved_ = 0;
};

} // namespace phasec::sim
