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
    for (int i = cta.lane; i < cta.tokens * half; i += 32) {
      int token = i / half, column = tile * half + i % half;
      const float *v = sums + token * gemv::kTileRows + i % half;
      if (column < G::rows / 2)
        numeric::store(H::Y::at(cta) + (i64)token * (G::rows / 2) + column, H::Act::apply(v[0]) * v[half]);
    }
    H::signal(cta, tile * half);
  }
};

} // namespace fc1
