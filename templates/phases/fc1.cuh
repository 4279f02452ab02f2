// fc1.cuh: u = act(gate) * up. A row tile holds eight gate rows and the eight up rows that belong to them, so both meet in
// one warp.
#pragma once
#include "../gemv.cuh"

namespace fc1 {

struct Silu {
  PHASEC_DEVICE static float apply(float v) { return math::silu(v); }
};
struct GeluTanh {
  PHASEC_DEVICE static float apply(float v) { return math::gelu_tanh(v); }
};

template <class H> struct Finish {
  template <class G> PHASEC_DEVICE static void rows(const Cta &cta, int tile, const float *sums) {
    constexpr int half = gemv::kTileRows / 2;
    constexpr int each = tagged_values<typename H::Y> == 2 ? 2 : 1; // columns of a lane
    for (int i = cta.lane * each; i < cta.tokens * half; i += 32 * each) {
      int token = i / half, column = tile * half + i % half;
      const float *v = sums + token * gemv::kTileRows + i % half;
      i64 at = (i64)token * (G::rows / 2) + column;
      if (column >= G::rows / 2) continue;
      float u = H::Act::apply(v[0]) * v[half];
      if constexpr (each == 2) {
        tagged::store(cta, H::Y::at(cta) + at / 2, {u, H::Act::apply(v[1]) * v[half + 1]});
      } else {
        store<typename H::Y>(cta, H::Y::at(cta) + at, u);
      }
    }
    H::signal(cta, tile * half);
  }
};

} // namespace fc1
