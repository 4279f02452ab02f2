// epilogue.cuh: what happens to a finished row of wo or fc2: residual added, stored in the result's type.
#pragma once
#include "gemv.cuh"

namespace epilogue {

/// H names the phase's Residual (or Absent) and result Y, both [tokens][columns].
template <class H> PHASEC_DEVICE void store(const Cta &cta, int token, int column, int columns, float v) {
  i64 at = (i64)token * columns + column;
  if constexpr (present<typename H::Residual>) v = v + load<typename H::Residual>(cta, at);
  ::store<typename H::Y>(cta, H::Y::at(cta) + at, v);
}

/// Finishes a row tile. One warp; sums[token][row].
template <class H> struct Finish {
  template <class G> PHASEC_DEVICE static void rows(const Cta &cta, int tile, const float *sums) {
    for (int i = cta.lane; i < cta.tokens * gemv::kTileRows; i += 32) {
      int row = tile * gemv::kTileRows + i % gemv::kTileRows;
      if (row < G::rows) store<H>(cta, i / gemv::kTileRows, row, G::rows, sums[i]);
    }
    H::signal(cta);
  }
};

} // namespace epilogue
