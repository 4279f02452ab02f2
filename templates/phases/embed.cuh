// embed.cuh: x = the rows of a table whose numbers are the tokens' ids. The table is the checkpoint's own: rows of bf16, not
// packed, since a step reads as many rows as it has tokens. An id outside the table gives a row of zeros.
#pragma once
#include "../cta.cuh"

namespace embed {

template <class E> PHASEC_DEVICE void run(const Cta &cta) {
  E::await(cta, 0);
  constexpr int words = E::cols / 4; // of four columns
  const i32 *ids = E::Ids::at(cta);
  const Words2 *table = (const Words2 *)E::Table::at(cta);
#pragma unroll 1
  for (int i = cta.cta * E::threads + ptx::thread(); i < cta.tokens * words; i += ptx::ctas() * E::threads) {
    u32 id = u32(ids[i / words]);
    Words2 x = id < u32(E::rows) ? table[(i64)id * words + i % words] : Words2{};
    if constexpr (chained<typename E::Y>)
      if (!E::Y::plain(cta)) {
        tagged::store(E::Y::at(cta) + i, tagged::quad(x, E::Y::tag(cta)));
        continue;
      }
    ((Words2 *)E::Y::at(cta))[i] = x;
  }
}

} // namespace embed
