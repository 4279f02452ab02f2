// gather.cuh: h = the slots of wo, added in slot order, plus the residual. Folded by the warp that completes a row tile, by
// the CTA that arrives last (partition = seed), or by all CTAs after an event, each a share of the columns.
#pragma once
#include "../epilogue.cuh"

namespace gather {

/// Finishes row tiles inside the wo step (elected warp).
template <class H> using Finish = epilogue::Finish<H>;

/// Folds columns [begin, end) of every token. All threads of the CTA.
template <class G, class H> PHASEC_DEVICE void columns(const Cta &cta, int begin, int end) {
  int width = end - begin;
  for (int i = ptx::thread(); i < cta.tokens * width; i += G::threads) {
    int token = i / width, column = begin + i % width;
    epilogue::store<H>(cta, token, column, G::rows, gemv::fold_slots<G>(cta, token, column));
  }
}

/// The last CTA that brings slots folds everything (elected CTA).
template <class G, class H> PHASEC_DEVICE void elected_cta(const Cta &cta) {
  gemv::Units u = gemv::units<G>(cta);
  if (u.begin == u.end) return;
  u32 *flag = (u32 *)(ptx::shared_base() + G::scratch_offset);
  if (event::elect_cta<G>(cta, G::elections, G::slots, flag)) columns<G, H>(cta, 0, G::rows);
}

/// A step of its own: every CTA folds a share of the columns (by = consumers).
template <class G, class H> PHASEC_DEVICE void run(const Cta &cta) {
  H::await(cta, 0);
  columns<G, H>(cta, share(G::rows, cta.cta, ptx::ctas()), share(G::rows, cta.cta + 1, ptx::ctas()));
}

} // namespace gather
