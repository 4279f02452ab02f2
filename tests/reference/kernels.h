// The inner loops of the reference, once in plain C++ and once with AVX2 and FMA; both give the same bits.
#ifndef PHASEC_TESTS_REFERENCE_KERNELS_H
#define PHASEC_TESTS_REFERENCE_KERNELS_H

#include "tests/reference/reference.h"

#include <cstdint>
#include <functional>

namespace phasec_reference {

constexpr int64_t kLanes = 32;
constexpr int64_t kRowTile = 4;

struct Kernels {
  // Adds `blocks` whole blocks of 32 products to the lane chains of kRowTile rows and `tokens` tokens. Row r of the
  // weights starts at w + r * w_stride, token t of x at x + t * x_stride, its lanes at acc + (r * tokens + t) * 32.
  void (*chains)(float *acc, const float *w, int64_t w_stride, const float *x, int64_t x_stride, int64_t tokens,
                 int64_t blocks);
  // The same for one row and one token, lanes at acc.
  void (*chain)(float *acc, const float *w, const float *x, int64_t blocks);
  // Single products: lane (k mod 32) for k in [begin, end), w and x starting at k = begin.
  void (*partial)(float *acc, const float *w, const float *x, int64_t begin, int64_t end);
  // The xor butterfly 16, 8, 4, 2, 1.
  float (*butterfly)(const float *acc);
  // acc = fmaf(p, v, acc * scale), n elements.
  void (*rescale)(float *acc, const float *v, float p, float scale, int64_t n);
  // e2m1 * block scale; `blocks` blocks of 16.
  void (*nvfp4)(float *out, const uint8_t *codes, const float *scales, int64_t blocks);
  void (*bf16)(float *out, const uint8_t *codes, int64_t n);
  // A plain sum of products in double, any order.
  double (*dot64)(const float *w, const double *x, int64_t n);
};

const Kernels &genericKernels();
const Kernels *avx2Kernels(); // null where the CPU has no AVX2 or FMA
const Kernels *kernelsFor(Path path);

// The contract's segment value: lane chains over k in [begin, end), then the butterfly; a and b are indexed by k.
float chainValue(const Kernels &kernels, const float *a, const float *b, int64_t begin, int64_t end);

// Adds [begin, end) to the lanes of kRowTile rows by `tokens` tokens, whatever the alignment; w and x start at begin.
void addChains(const Kernels &kernels, float *acc, const float *w, int64_t w_stride, const float *x, int64_t x_stride,
               int64_t tokens, int64_t begin, int64_t end);

// Round to nearest with subnormals kept, for the life of the object.
class FloatEnvironment {
public:
  FloatEnvironment();
  ~FloatEnvironment();
  FloatEnvironment(const FloatEnvironment &) = delete;
  FloatEnvironment &operator=(const FloatEnvironment &) = delete;

private:
  uint64_t saved_;
};

// Calls fn(i) for i in [0, count) on several threads, each with the float environment above.
void parallelFor(int threads, int64_t count, const std::function<void(int64_t)> &fn);

} // namespace phasec_reference

#endif
