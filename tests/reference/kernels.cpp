// Plain C++ inner loops, the choice of path, threads and the float environment.
#include "tests/reference/kernels.h"

#include "tests/reference/formats.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace phasec_reference {

namespace {

void chain(float *acc, const float *w, const float *x, int64_t blocks) {
  for (int64_t block = 0; block < blocks; ++block, w += kLanes, x += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) acc[lane] = std::fmaf(w[lane], x[lane], acc[lane]);
}

void chains(float *acc, const float *w, int64_t w_stride, const float *x, int64_t x_stride, int64_t tokens,
            int64_t blocks) {
  for (int64_t row = 0; row < kRowTile; ++row)
    for (int64_t token = 0; token < tokens; ++token)
      chain(acc + (row * tokens + token) * kLanes, w + row * w_stride, x + token * x_stride, blocks);
}

void partial(float *acc, const float *w, const float *x, int64_t begin, int64_t end) {
  for (int64_t k = begin; k < end; ++k) acc[k % kLanes] = std::fmaf(w[k - begin], x[k - begin], acc[k % kLanes]);
}

float butterfly(const float *acc) {
  float lanes[kLanes], next[kLanes];
  std::memcpy(lanes, acc, sizeof(lanes));
  for (int64_t mask = 16; mask > 0; mask /= 2) {
    for (int64_t lane = 0; lane < kLanes; ++lane) next[lane] = lanes[lane] + lanes[lane ^ mask];
    std::memcpy(lanes, next, sizeof(lanes));
  }
  return lanes[0];
}

void rescale(float *acc, const float *v, float p, float scale, int64_t n) {
  for (int64_t i = 0; i < n; ++i) acc[i] = std::fmaf(p, v[i], acc[i] * scale);
}

void nvfp4(float *out, const uint8_t *codes, const float *scales, int64_t blocks) {
  for (int64_t k = 0; k < blocks * 16; ++k) out[k] = e2m1ToF32((codes[k / 2] >> (k % 2 * 4)) & 15) * scales[k / 16];
}

void bf16(float *out, const uint8_t *codes, int64_t n) {
  for (int64_t k = 0; k < n; ++k) out[k] = bf16ToF32(uint16_t(codes[2 * k] | codes[2 * k + 1] << 8));
}

double dot64(const float *w, const double *x, int64_t n) {
  double sums[4] = {0, 0, 0, 0};
  int64_t k = 0;
  for (; k + 4 <= n; k += 4)
    for (int64_t i = 0; i < 4; ++i) sums[i] += double(w[k + i]) * x[k + i];
  for (; k < n; ++k) sums[0] += double(w[k]) * x[k];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

} // namespace

const Kernels &genericKernels() {
  static const Kernels kKernels = {chains, chain, partial, butterfly, rescale, nvfp4, bf16, dot64};
  return kKernels;
}

const Kernels *kernelsFor(Path path) {
  const Kernels *avx2 = path == Path::kGeneric ? nullptr : avx2Kernels();
  return avx2 || path == Path::kAvx2 ? avx2 : &genericKernels();
}

float chainValue(const Kernels &kernels, const float *a, const float *b, int64_t begin, int64_t end) {
  float acc[kLanes] = {};
  int64_t head = std::min((begin + kLanes - 1) / kLanes * kLanes, end);
  int64_t blocks = (end - head) / kLanes, tail = head + blocks * kLanes;
  kernels.partial(acc, a + begin, b + begin, begin, head);
  kernels.chain(acc, a + head, b + head, blocks);
  kernels.partial(acc, a + tail, b + tail, tail, end);
  return kernels.butterfly(acc);
}

void addChains(const Kernels &kernels, float *acc, const float *w, int64_t w_stride, const float *x, int64_t x_stride,
               int64_t tokens, int64_t begin, int64_t end) {
  int64_t head = std::min((begin + kLanes - 1) / kLanes * kLanes, end);
  int64_t blocks = (end - head) / kLanes, tail = head + blocks * kLanes;
  auto rest = [&](int64_t from, int64_t to) {
    for (int64_t row = 0; from < to && row < kRowTile; ++row)
      for (int64_t token = 0; token < tokens; ++token)
        kernels.partial(acc + (row * tokens + token) * kLanes, w + row * w_stride + from - begin,
                        x + token * x_stride + from - begin, from, to);
  };
  rest(begin, head);
  if (blocks > 0) kernels.chains(acc, w + head - begin, w_stride, x + head - begin, x_stride, tokens, blocks);
  rest(tail, end);
}

#if defined(__x86_64__)
FloatEnvironment::FloatEnvironment() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
FloatEnvironment::~FloatEnvironment() { _mm_setcsr(uint32_t(saved_)); }
#elif defined(__aarch64__)
FloatEnvironment::FloatEnvironment() {
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  asm volatile("msr fpcr, %0" : : "r"(uint64_t(0)));
}
FloatEnvironment::~FloatEnvironment() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
#else
#error "the reference does not know this machine's floating-point control register"
#endif

void parallelFor(int threads, int64_t count, const std::function<void(int64_t)> &fn) {
  int64_t wanted = threads > 0 ? threads : std::max(1u, std::thread::hardware_concurrency());
  wanted = std::min(wanted, count);
  std::atomic<int64_t> next{0};
  auto work = [&] {
    FloatEnvironment environment;
    for (int64_t i = next++; i < count; i = next++) fn(i);
  };
  std::vector<std::thread> workers;
  for (int64_t i = 1; i < wanted; ++i) workers.emplace_back(work);
  work();
  for (std::thread &worker : workers) worker.join();
}

} // namespace phasec_reference
