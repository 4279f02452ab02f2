// operand.cuh: what a GEMV multiplies its weights with, staged into shared memory slot by slot as bf16 [tokens][stride].
// Norms and activation quantisation happen here, by every CTA for itself: a norm never costs an event.
#pragma once
#include "cta.cuh"

namespace operand {

enum : int { kNormSegment = 512 };

/// Sum of squares of x[begin, end): 32 lane chains and a butterfly. One warp; every lane gets the sum.
template <class T> PHASEC_DEVICE float squares(const T *x, int begin, int end) {
  float acc = 0.0f;
  for (int k = begin + ptx::lane(); k < end; k += 32) {
    float v = numeric::load(x + k);
    acc = ptx::fma(v, v, acc);
  }
  return ptx::butterfly_sum(acc);
}

/// factor[token] = 1 / sqrt(mean(x^2) + eps) of each row of n: segments of 512, folded left (Zhang and Sennrich, 2019).
/// `partial` holds tokens * ceil(n / 512) floats of shared memory. All threads call; ends with the factors visible.
template <class X, class L> PHASEC_DEVICE void norm_factors(const Cta &cta, int n, float eps, float *partial, float *factor) {
  int segments = (n + kNormSegment - 1) / kNormSegment;
  const typename X::Type *x = X::at(cta);
#pragma unroll 1
  for (int i = cta.warp; i < cta.tokens * segments; i += L::warps) {
    int token = i / segments, begin = (i % segments) * kNormSegment;
    int end = begin + kNormSegment < n ? begin + kNormSegment : n;
    float sum = squares(x + (i64)token * n, begin, end);
    if (cta.lane == 0) partial[i] = sum;
  }
  ptx::sync_cta();
  if (ptx::thread() < cta.tokens) {
    const float *p = partial + ptx::thread() * segments;
    float sum = p[0];
    for (int i = 1; i < segments; i++) sum = sum + p[i];
    factor[ptx::thread()] = ptx::div(1.0f, ptx::sqrt(ptx::div(sum, float(n)) + eps));
  }
  ptx::sync_cta();
}

template <class N> PHASEC_DEVICE float gamma(const Cta &cta, int k) {
  float g = numeric::load(N::Gamma::at(cta) + k);
  return N::one_plus ? 1.0f + g : g;
}

/// Takes the operand as it is. Each transform stages k in [k_begin, k_end) of every token and zeroes up to k_padded.
struct Plain {
  template <class G> PHASEC_DEVICE static void prepare(const Cta &) {}
  template <class G> PHASEC_DEVICE static void stage(const Cta &cta, int k_begin, int k_end, int k_padded, u16 *to) {
    const typename G::X::Type *x = G::X::at(cta);
    int width = k_padded - k_begin;
    for (int i = ptx::thread(); i < cta.tokens * width; i += G::threads) {
      int token = i / width, k = k_begin + i % width;
      to[token * G::operand_stride + k - k_begin] = k < k_end ? x[(i64)token * G::cols + k].raw : u16(0);
    }
  }
};

/// y = (x * factor) * gamma, rounded to bf16.
struct Norm {
  template <class G> PHASEC_DEVICE static float *factors(const Cta &cta) { return (float *)(cta.shared + G::scratch_offset); }
  template <class G> PHASEC_DEVICE static void prepare(const Cta &cta) {
    norm_factors<typename G::X, G>(cta, G::cols, G::Transform::eps(), factors<G>(cta) + G::tokens, factors<G>(cta));
  }
  template <class G> PHASEC_DEVICE static void stage(const Cta &cta, int k_begin, int k_end, int k_padded, u16 *to) {
    const typename G::X::Type *x = G::X::at(cta);
    int width = k_padded - k_begin;
    for (int i = ptx::thread(); i < cta.tokens * width; i += G::threads) {
      int token = i / width, k = k_begin + i % width;
      u16 y = 0;
      if (k < k_end)
        y = numeric::to_bf16((numeric::load(x + (i64)token * G::cols + k) * factors<G>(cta)[token]) *
                             gamma<typename G::Transform>(cta, k));
      to[token * G::operand_stride + k - k_begin] = y;
    }
  }
};

/// NVFP4 activations: per 16 values the scale amax / 6 in e4m3, the values re-quantised to e2m1; staged as their products,
/// which bf16 holds exactly.
struct QuantNvfp4 {
  template <class G> PHASEC_DEVICE static void prepare(const Cta &) {}
  template <class G> PHASEC_DEVICE static void stage(const Cta &cta, int k_begin, int k_end, int k_padded, u16 *to) {
    const typename G::X::Type *x = G::X::at(cta);
    int blocks = (k_padded - k_begin) / 16;
    for (int i = ptx::thread(); i < cta.tokens * blocks; i += G::threads) {
      int token = i / blocks, k = k_begin + (i % blocks) * 16;
      u16 *y = to + token * G::operand_stride + k - k_begin;
      float v[16], amax = 0.0f;
#pragma unroll
      for (int j = 0; j < 16; j++) {
        v[j] = k < k_end ? numeric::load(x + (i64)token * G::cols + k + j) : 0.0f;
        float magnitude = ptx::from_bits(ptx::bits(v[j]) & 0x7fffffffu);
        amax = amax < magnitude ? magnitude : amax;
      }
      float scale = numeric::from_e4m3(numeric::to_e4m3(ptx::div(amax, 6.0f)));
#pragma unroll
      for (int j = 0; j < 16; j++)
        y[j] = scale == 0.0f ? u16(0)
                             : numeric::to_bf16(numeric::from_e2m1(numeric::to_e2m1(ptx::div(v[j], scale))) * scale);
    }
  }
};

} // namespace operand
