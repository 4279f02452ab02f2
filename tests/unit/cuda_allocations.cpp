// cuda_allocations.cpp: replaces operator new in this program, to count what the launch path must not do. In a file of
// its own, where the compiler cannot inline one half of a pair.
#include "tests/unit/cuda_stub_driver.h"

#include <cstdlib>
#include <new>

namespace {
thread_local long count = 0;
}

long phasec::test::allocationCount() { return count; }

void *operator new(size_t bytes) {
  count++;
  if (void *memory = std::malloc(bytes ? bytes : 1)) return memory;
  std::abort();
}
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, size_t) noexcept { std::free(memory); }
