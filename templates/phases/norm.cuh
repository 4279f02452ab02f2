// norm.cuh: a norm whose result is returned. (A norm that only feeds GEMVs is staged by them.) Every CTA
// computes the factors and writes its share of the columns, so no event is needed.
#pragma once
#include "../rms.cuh"

namespace rms {

template <class G> PHASEC_DEVICE void run(const Cta &cta) {
  G::await(cta, 0);
  float *factor = (float *)(ptx::shared_base() + G::scratch_offset);
  factors<typename G::X, G>(cta, G::cols, G::Transform::eps(), factor + G::tokens, factor);
  const typename G::X::Type *x = G::X::at(cta);
  typename G::Y::Type *y = G::Y::at(cta);
  int begin = share(G::cols, cta.cta, ptx::ctas()), width = share(G::cols, cta.cta + 1, ptx::ctas()) - begin;
  for (int i = ptx::thread(); i < cta.tokens * width; i += G::threads) {
    int token = i / width, k = begin + i % width;
    float v = numeric::load(x + (i64)token * G::cols + k) * factor[token];
    numeric::store(y + (i64)token * G::cols + k, v * gamma<typename G::Transform>(cta, k));
  }
  ptx::sync_workers(G::threads);
}

} // namespace rms
