// wo.cuh: the output projection, K split into kv_heads * wo_split slots of fp32 partials. What becomes of the slots is the
// gather's business: see gather.cuh.
#pragma once
#include "../gemv.cuh"

namespace wo {

/// The slots themselves are the result.
struct KeepSlots {
  template <class G> PHASEC_DEVICE static void rows(const Cta &, int, const float *) {}
};

} // namespace wo
