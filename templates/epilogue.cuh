// epilogue.cuh: what happens to a finished row of wo or fc2: residual added, stored in the result's type.
#pragma once
#include "gemv.cuh"

namespace epilogue {

/// H names the phase's Residual (or Absent) and result Y, both [tokens][columns].
template <class H> PHASEC_DEVICE float with_residual(const Cta &cta, i64 at, float v) {
  if constexpr (present<typename H::Residual>) v = v + load<typename H::Residual>(cta, at);
  return v;
}
template <class H> PHASEC_DEVICE void store(const Cta &cta, int token, int column, int columns, float v) {
  i64 at = (i64)token * columns + column;
  ::store<typename H::Y>(cta, H::Y::at(cta) + at, with_residual<H>(cta, at, v));
}
/// Values of neighbouring lanes, from `at` on in the first of four; none of theirs where `mine` is false. All lanes call.
template <class H> PHASEC_DEVICE void store_lanes(const Cta &cta, i64 at, bool mine, float v) {
  using Y = typename H::Y;
  if constexpr (tagged_values<Y> == 4) {
    typename Y::Type rounded;
    numeric::store(&rounded, v);
    if constexpr (chained<Y>)
      if (Y::plain(cta)) {
        if (mine) ((typename Y::Type *)Y::at(cta))[at] = rounded;
        return;
      }
    float quad[4];
#pragma unroll
    for (int i = 0; i < 4; i++) quad[i] = ptx::from_bits(ptx::shfl(ptx::bits(numeric::load(&rounded)), (cta.lane + i) & 31));
    if (mine && cta.lane % 4 == 0) tagged::store(Y::at(cta) + at / 4, tagged::quad(quad, Y::tag(cta)));
  } else {
    if (mine) ::store<typename H::Y>(cta, H::Y::at(cta) + at, v);
  }
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
      store_lanes<H>(cta, at, mine, present<typename H::Residual> ? sums[cta.lane] + r[0] : sums[cta.lane]);
      H::signal(cta);
    }
  };

  template <class G> PHASEC_DEVICE static void rows(const Cta &cta, int tile, const float *sums) {
    for (int i = cta.lane; i - cta.lane < cta.tokens * gemv::kTileRows; i += 32) {
      int row = tile * gemv::kTileRows + i % gemv::kTileRows;
      bool mine = i < cta.tokens * gemv::kTileRows && row < G::rows;
      i64 at = (i64)(i / gemv::kTileRows) * G::rows + row;
      store_lanes<H>(cta, at, mine, mine ? with_residual<H>(cta, at, sums[i]) : 0.0f);
    }
    H::signal(cta);
  }
};

} // namespace epilogue
