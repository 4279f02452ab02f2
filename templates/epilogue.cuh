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
  /// A lane's only element of a tile: sums[lane].
  template <class G> struct Element {
    Asked<typename H::Residual, 1> residual;
    i64 at;
    bool mine;

    PHASEC_DEVICE void ask(const Cta &cta, int tile) {
      int row = tile * gemv::kTileRows + cta.lane % gemv::kTileRows, token = cta.lane / gemv::kTileRows;
      mine = token < cta.tokens && row < G::rows;
      at = mine ? (i64)token * G::rows + row : 0;
      if constexpr (present<typename H::Residual>) residual.ask(cta, {at});
    }
    PHASEC_DEVICE void finish(const Cta &cta, const float *sums) {
      float r[1] = {0.0f};
      if constexpr (present<typename H::Residual>) residual.take(cta, r);
      if (mine) ::store<typename H::Y>(cta, H::Y::at(cta) + at, present<typename H::Residual> ? sums[cta.lane] + r[0] : sums[cta.lane]);
      H::signal(cta);
    }
  };

  template <class G> PHASEC_DEVICE static void rows(const Cta &cta, int tile, const float *sums) {
    for (int i = cta.lane; i < cta.tokens * gemv::kTileRows; i += 32) {
      int row = tile * gemv::kTileRows + i % gemv::kTileRows;
      if (row < G::rows) store<H>(cta, i / gemv::kTileRows, row, G::rows, sums[i]);
    }
    H::signal(cta);
  }
};

} // namespace epilogue
