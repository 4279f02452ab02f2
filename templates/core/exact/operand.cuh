// operand.cuh (exact): what a GEMV multiplies its weights with, staged into shared memory slot by slot as bf16
// [tokens][stride]. Norms and activation quantisation happen here, by every CTA for itself: a norm never costs an event.
#pragma once
#include "../../gemv.cuh"
#include "../../rms.cuh"

namespace operand {

/// What all transforms share: a finished sum needs no further factor.
struct Complete {
  template <class G> PHASEC_DEVICE static float finished(const Cta &, int, float v) { return v; }
};

/// Takes the operand as it is. Each transform stages k in [k_begin, k_end) of every token and zeroes up to k_padded.
struct Plain : Complete {
  template <class G> PHASEC_DEVICE static void prepare(const Cta &) {}
  template <class G> PHASEC_DEVICE static void stage(const Cta &cta, int k_begin, int k_end, int k_padded, u16 *to) {
    int width = k_padded - k_begin;
    for (int i = ptx::thread(); i < cta.tokens * width; i += G::threads) {
      int token = i / width, k = k_begin + i % width;
      to[token * G::operand_stride + k - k_begin] = k < k_end ? u16(ptx::bits(load<typename G::X>(cta, (i64)token * G::cols + k)) >> 16) : u16(0);
    }
  }
};

/// y = (x * factor) * gamma, rounded to bf16.
struct Norm : Complete {
  template <class G> PHASEC_DEVICE static float *factors(const Cta &cta) { return (float *)(ptx::shared_base() + G::scratch_offset); }
  template <class G> PHASEC_DEVICE static void prepare(const Cta &cta) {
    rms::factors<typename G::X, G>(cta, G::cols, G::Transform::eps(), factors<G>(cta) + G::tokens, factors<G>(cta));
  }
  template <class G> PHASEC_DEVICE static void stage(const Cta &cta, int k_begin, int k_end, int k_padded, u16 *to) {
    int width = k_padded - k_begin;
    for (int i = ptx::thread(); i < cta.tokens * width; i += G::threads) {
      int token = i / width, k = k_begin + i % width;
      u16 y = 0;
      if (k < k_end)
        y = numeric::to_bf16((load<typename G::X>(cta, (i64)token * G::cols + k) * factors<G>(cta)[token]) *
                             rms::gamma<typename G::Transform>(cta, k));
      to[token * G::operand_stride + k - k_begin] = y;
    }
  }
};

/// NVFP4 activations: per 16 values the scale amax / 6 in e4m3, the values re-quantised to e2m1; staged as their products,
/// which bf16 holds exactly.
struct QuantNvfp4 : Complete {
  template <class G> PHASEC_DEVICE static void prepare(const Cta &) {}
  template <class G> PHASEC_DEVICE static void stage(const Cta &cta, int k_begin, int k_end, int k_padded, u16 *to) {
    int blocks = (k_padded - k_begin) / 16;
    for (int i = ptx::thread(); i < cta.tokens * blocks; i += G::threads) {
      int token = i / blocks, k = k_begin + (i % blocks) * 16;
      u16 *y = to + token * G::operand_stride + k - k_begin;
      float v[16], amax = 0.0f;
#pragma unroll
      for (int j = 0; j < 16; j++) {
        v[j] = k < k_end ? load<typename G::X>(cta, (i64)token * G::cols + k + j) : 0.0f;
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

/// Stages what `slot` multiplies. All threads of the CTA; the caller synchronises before and after.
template <class G, class Idle> PHASEC_DEVICE void stage(const Cta &cta, int slot, bool first, const Idle &) {
  if (first) G::Transform::template prepare<G>(cta);
  int k0 = gemv::slot_begin<G>(slot), k1 = gemv::slot_end<G>(slot);
  G::Transform::template stage<G>(cta, k0, k1 < G::cols ? k1 : G::cols, k1, gemv::staged<G>(cta));
}

} // namespace operand
