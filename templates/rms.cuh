// rms.cuh: RMS normalisation in a written order (Zhang and Sennrich, 2019): segments of 512, each 32 lane chains and a
// butterfly, folded left.
#pragma once
#include "cta.cuh"

namespace rms {

enum : int { kSegment = 512 };

/// Sum of squares of X[begin, end). One warp; every lane gets the sum.
template <class X> PHASEC_DEVICE float squares(const Cta &cta, i64 begin, i64 end) {
  float acc = 0.0f;
  for (i64 k = begin + ptx::lane(); k < end; k += 32) {
    float v = load<X>(cta, k);
    acc = ptx::fma(v, v, acc);
  }
  return ptx::butterfly_sum(acc);
}

/// factor[token] = 1 / sqrt(mean(x^2) + eps) of each row of n. `partial` holds tokens * ceil(n / 512) floats of shared
/// memory. All threads call; ends with the factors visible.
template <class X, class L> PHASEC_DEVICE void factors(const Cta &cta, int n, float eps, float *partial, float *factor) {
  int segments = (n + kSegment - 1) / kSegment;
#pragma unroll 1
  for (int i = cta.warp; i < cta.tokens * segments; i += L::warps) {
    int token = i / segments, begin = (i % segments) * kSegment;
    int end = begin + kSegment < n ? begin + kSegment : n;
    float sum = squares<X>(cta, (i64)token * n + begin, (i64)token * n + end);
    if (cta.lane == 0) partial[i] = sum;
  }
  ptx::sync_workers(L::threads);
  if (ptx::thread() < cta.tokens) {
    const float *p = partial + ptx::thread() * segments;
    float sum = p[0];
    for (int i = 1; i < segments; i++) sum = sum + p[i];
    factor[ptx::thread()] = ptx::div(1.0f, ptx::sqrt(ptx::div(sum, float(n)) + eps));
  }
  ptx::sync_workers(L::threads);
}

/// The weight of column k: gamma, or 1 + gamma.
template <class N> PHASEC_DEVICE float gamma(const Cta &cta, int k) {
  float g = numeric::load(N::Gamma::at(cta) + k);
  return N::one_plus ? 1.0f + g : g;
}

} // namespace rms
