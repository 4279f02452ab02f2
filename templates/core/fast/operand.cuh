// operand.cuh (fast): what a GEMV multiplies its weights with, staged into shared memory slot by slot as 16-bit floats
// [tokens][stride], by every CTA for itself: a norm never costs an event. bf16 weights meet bf16. The others meet f16, and
// so that f16 covers bf16's range each token has a power of two per run of segments, which brings its largest magnitude
// to [2^14, 2^15). For teams of warps they are pairs of e4m3 instead, up to 2^8 (pairs.cuh). The RMS factor commutes with
// the sum: it is applied to finished rows, not to the operand.
#pragma once
#include "../../rms.cuh"
#include "float16.cuh"
#include "pairs.cuh"

namespace operand {

/// Scratch in shared memory: [tokens][segments] powers of two to undo, then [tokens][norm parts] sums of squares.
template <class G> PHASEC_DEVICE float *scales(const Cta &cta) { return (float *)(ptx::shared_base() + G::scratch_offset); }
template <class G> PHASEC_DEVICE float *squares(const Cta &cta) { return scales<G>(cta) + G::tokens * G::segments; }

/// Eight values from x[0]; the rows of a matrix whose width is a multiple of eight are aligned for one load.
template <bool Aligned, class T> PHASEC_DEVICE void load8(const T *x, float (&v)[8]) {
  if constexpr (Aligned && sizeof(T) == 2) {
    Words4 w = *(const Words4 *)x;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      v[2 * i] = ptx::from_bits(w.word[i] << 16);
      v[2 * i + 1] = ptx::from_bits(w.word[i] & 0xffff0000u);
    }
  } else if constexpr (Aligned) {
    Words4 w[2] = {((const Words4 *)x)[0], ((const Words4 *)x)[1]};
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = ptx::from_bits(w[i / 4].word[i % 4]);
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = numeric::load(x + i);
  }
}

/// x[k .. k + 7] of one token; zero from G::cols on.
template <class G> PHASEC_DEVICE void load_x(const Cta &cta, int token, int k, float (&v)[8]) {
  const typename G::X::Type *x = G::X::at(cta) + (i64)token * G::cols;
  constexpr bool aligned = G::cols % 8 == 0;
  if (aligned ? k < G::cols : k + 8 <= G::cols) load8<aligned>(x + k, v);
  else
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = k + i < G::cols ? numeric::load(x + k + i) : 0.0f;
}

PHASEC_DEVICE float sum_of_squares(const float (&v)[8], float sum) {
#pragma unroll
  for (int i = 0; i < 8; i++) sum = ptx::fma(v[i], v[i], sum);
  return sum;
}

template <class G> static constexpr int runs();

/// What all transforms share: nothing before the staging, no factor behind it.
struct Plain {
  static constexpr bool norm = false;
  template <class G> PHASEC_DEVICE static void apply(const Cta &, int, float (&)[8]) {}
  template <class G> PHASEC_DEVICE static float finished(const Cta &, int, float v) { return v; }
};

/// y = x * gamma; finished sums take 1 / sqrt(mean(x^2) + eps) (Zhang and Sennrich, 2019).
struct Norm {
  static constexpr bool norm = true;
  /// Sums of squares per token: one per run of the only slot, else one per 512 columns.
  template <class G> static constexpr int parts() { return G::slots == 1 ? runs<G>() : (G::cols + 511) / 512; }

  template <class G> PHASEC_DEVICE static void apply(const Cta &cta, int k, float (&v)[8]) {
    using N = typename G::Transform;
    float g[8];
    if (k + 8 <= G::cols) load8<true>(N::Gamma::at(cta) + k, g);
    else
#pragma unroll
      for (int i = 0; i < 8; i++) g[i] = k + i < G::cols ? numeric::load(N::Gamma::at(cta) + k + i) : 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = v[i] * (N::one_plus ? 1.0f + g[i] : g[i]);
  }
  template <class G> PHASEC_DEVICE static float factor(const Cta &cta, const float *part) {
    float sum = part[0];
#pragma unroll
    for (int i = 1; i < parts<G>(); i++) sum = sum + part[i];
    return ptx::rsqrt_approx(ptx::fma(sum, 1.0f / float(G::cols), G::Transform::eps()));
  }
  template <class G> PHASEC_DEVICE static float finished(const Cta &cta, int token, float v) {
    return v * factor<G>(cta, squares<G>(cta) + token * parts<G>());
  }
  /// All K of every token, for a slot that holds only some of it.
  template <class G> PHASEC_DEVICE static void square_all(const Cta &cta) {
    constexpr int n = parts<G>();
#pragma unroll 2
    for (int job = cta.warp; job < cta.tokens * n; job += G::warps) {
      int token = job / n, k = job % n * 512 + cta.lane * 8;
      float a[8], b[8];
      load_x<G>(cta, token, k, a);
      load_x<G>(cta, token, k + 256, b);
      float sum = ptx::butterfly_sum(sum_of_squares(b, sum_of_squares(a, 0.0f)));
      if (cta.lane == 0) squares<G>(cta)[job] = sum;
    }
  }
};

/// NVFP4 activations: per 16 values (two lanes) the scale amax / 6 in e4m3, the values re-quantised to e2m1; staged as their
/// products, which f16 and bf16 hold exactly.
struct QuantNvfp4 : Plain {
  template <class G> PHASEC_DEVICE static void apply(const Cta &, int, float (&v)[8]) {
    float amax = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) amax = ptx::max(amax, ptx::abs(v[i]));
    amax = ptx::max(amax, ptx::from_bits(ptx::shfl_xor(ptx::bits(amax), 1)));
    float scale = numeric::from_e4m3(numeric::to_e4m3(ptx::div(amax, 6.0f)));
#pragma unroll
    for (int i = 0; i < 8; i++)
      v[i] = scale == 0.0f ? 0.0f : numeric::from_e2m1(numeric::to_e2m1(ptx::div(v[i], scale))) * scale;
  }
};

/// Segments that are staged together and share a power of two: as many as leave work for every warp, up to a thousand k,
/// so that a warp has many loads under way.
template <class G> static constexpr int run_segments() {
  int n = 1;
  while ((n + 1) * G::segment_granules * gemv::kGranuleK <= 1024 && n < G::segments &&
         G::tokens * ((G::segments + n) / (n + 1)) >= G::warps)
    n++;
  return n;
}
template <class G> static constexpr int runs() { return (G::segments + run_segments<G>() - 1) / run_segments<G>(); }

/// Stages one run of one token. One warp.
template <class G> PHASEC_DEVICE void stage_run(const Cta &cta, int slot, int token, int run) {
  using Transform = typename G::Transform;
  constexpr bool paired = warpgroup::takes<G>;
  constexpr int steps = (run_segments<G>() * G::segment_granules * gemv::kGranuleK + 255) / 256;
  int first = run * run_segments<G>(), last = first + run_segments<G>() < G::segments ? first + run_segments<G>() : G::segments;
  int begin = gemv::segment_row<G>(slot, first).granule_begin * gemv::kGranuleK;
  int width = gemv::segment_row<G>(slot, last - 1).granule_end * gemv::kGranuleK - begin;
  float v[steps][8], sum = 0.0f, amax = 0.0f;
#pragma unroll
  for (int i = 0; i < steps; i++) {
    int in = i * 256 + cta.lane * 8;
#pragma unroll
    for (int j = 0; j < 8; j++) v[i][j] = 0.0f;
    if (in < width) load_x<G>(cta, token, begin + in, v[i]);
  }
#pragma unroll
  for (int i = 0; i < steps; i++) {
    if (Transform::norm && G::slots == 1) sum = sum_of_squares(v[i], sum);
    Transform::template apply<G>(cta, begin + i * 256 + cta.lane * 8, v[i]);
#pragma unroll
    for (int j = 0; j < 8; j++) amax = ptx::max(amax, ptx::abs(v[i][j]));
  }
  if (Transform::norm && G::slots == 1) {
    sum = ptx::butterfly_sum(sum);
    if (cta.lane == 0) squares<G>(cta)[token * Norm::parts<G>() + run] = sum;
  }
  float power = 1.0f;
  if constexpr (G::Format::f16_operand) {
    amax = ptx::butterfly_max(amax);
    power = float16::power_for(amax, paired ? int(warpgroup::kTop) : 14);
    if (paired && amax == ptx::from_bits(0x7f800000u)) power = ptx::from_bits(0x7fc00000u); // e4m3 has no infinity
    for (int fold = first + cta.lane; fold < last; fold += 32)
      scales<G>(cta)[token * G::segments + fold] = float16::inverse(power) * G::Format::unit();
  }
  int offset = begin - gemv::slot_begin<G>(slot);
  if constexpr (paired) {
#pragma unroll
    for (int i = 0; i < steps; i++) {
      int in = i * 256 + cta.lane * 8;
#pragma unroll
      for (int j = 0; j < 8; j++) v[i][j] = v[i][j] * power;
      if (in >= width) continue;
      warpgroup::Operand<G>::store(cta, token, offset + in, v[i]);
      warpgroup::Operand<G>::store(cta, token, offset + in + 4, v[i] + 4);
    }
  } else {
    u16 *to = gemv::staged<G>(cta) + token * G::operand_stride + offset;
#pragma unroll
    for (int i = 0; i < steps; i++) {
      int in = i * 256 + cta.lane * 8;
      Words4 w;
#pragma unroll
      for (int j = 0; j < 4; j++)
        w.word[j] = G::Format::f16_operand ? ptx::to_f16x2(v[i][2 * j] * power, v[i][2 * j + 1] * power)
                                           : ptx::to_bf16x2(v[i][2 * j], v[i][2 * j + 1]);
      if (in < width) *(Words4 *)(to + in) = w;
    }
  }
}

template <class G> PHASEC_DEVICE void stage(const Cta &cta, int slot, bool first) {
  if constexpr (G::Transform::norm && G::slots > 1)
    if (first) Norm::square_all<G>(cta);
#pragma unroll 2
  for (int job = cta.warp; job < cta.tokens * runs<G>(); job += G::warps)
    stage_run<G>(cta, slot, job / runs<G>(), job % runs<G>());
  if constexpr (warpgroup::takes<G>) ptx::fence_async_shared();
}

} // namespace operand
