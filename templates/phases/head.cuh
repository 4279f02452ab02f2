// head.cuh: logits, stored where something reads them; the greedy token is chosen from a row tile while its warp still has it.
#pragma once
#include "../epilogue.cuh"
#include "argmax.cuh"

namespace head {

template <class H> struct Finish {
  template <class G> PHASEC_DEVICE static void rows(const Cta &cta, int tile, const float *sums) {
    if constexpr (present<typename H::Y>) epilogue::Finish<H>::template rows<G>(cta, tile, sums);
    if constexpr (present<typename H::Argmax>) argmax::tile<typename H::Argmax>(cta, tile, sums, gemv::kTileRows);
  }
};

} // namespace head
