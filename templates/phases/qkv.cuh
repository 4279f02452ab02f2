// qkv.cuh: q, k, v (and gate) projections. Rows are q heads, gate heads, k heads, v heads (the packer brings them into that
// order). Where attention follows in the layer and nobody else asks for q, the raw sums are all that this phase leaves:
// attention finishes the heads that it needs (heads.cuh). Otherwise the warp that completes a head's last row tile finishes
// it for every token: q and gate to the workspace, k and v to this step's fresh rows and, with `append`, to the paged cache.
#pragma once
#include "../gemv.cuh"
#include "../heads.cuh"

namespace qkv {

template <class G, class H> PHASEC_DEVICE void store_raw(const Cta &cta, int tile, const float *sums) {
  for (int i = cta.lane; i < cta.tokens * gemv::kTileRows; i += 32)
    store<typename H::Raw>(cta, H::Raw::at(cta) + (i64)(i / gemv::kTileRows) * G::rows + tile * gemv::kTileRows + i % gemv::kTileRows, sums[i]);
}

/// Stores a tile's raw rows.
template <class H> struct Raw {
  template <class G> PHASEC_DEVICE static void rows(const Cta &cta, int tile, const float *sums) {
    store_raw<G, H>(cta, tile, sums);
    H::signal(cta, heads::Rows<H>::kv_head(tile * gemv::kTileRows / H::head_dim));
  }
};

/// Finishes one head of every token. One warp.
template <class H> PHASEC_DEVICE void finish_head(const Cta &cta, int head) {
  using Rows = heads::Rows<H>;
  using Row = typename H::Fresh::Type;
#pragma unroll 1
  for (int token = 0; token < cta.tokens; token++) {
    int sequence = sequences::of_token<typename H::S>(cta, token);
    int position = sequences::context<typename H::S>(cta)[sequence] + token - sequences::first<typename H::S>(cta)[sequence];
    heads::Head<H> h = heads::finished<H>(cta, token, head, position);
    if (Rows::is_q(head) || Rows::is_gate(head)) {
      bf16 *to = Rows::is_q(head) ? H::Q::at(cta) : (bf16 *)H::Gate::at(cta);
      to += ((i64)token * H::heads + (Rows::is_q(head) ? head : head - H::heads)) * H::head_dim;
#pragma unroll
      for (int j = 0; j < heads::Head<H>::dims; j++)
        if (h.has(j)) numeric::store(to + cta.lane + 32 * j, h.v[j]);
    } else {
      bool is_v = !Rows::is_k(head);
      float scale = heads::kv_scale<H>(cta, is_v);
      int kv_head = Rows::kv_head(head);
      Row *fresh = is_v ? H::FreshV::at(cta) : H::Fresh::at(cta);
      heads::store_row(cta, h, scale, fresh + ((i64)token * H::kv_heads + kv_head) * H::head_dim);
      if (H::append) heads::store_row(cta, h, scale, heads::cache_row<H, Row>(cta, sequence, position, kv_head, is_v));
    }
  }
  H::signal(cta, Rows::kv_head(head));
}

/// Stores a tile's raw rows; the warp that brings a head's last tile finishes the head.
template <class H> struct Finish {
  template <class G> PHASEC_DEVICE static void rows(const Cta &cta, int tile, const float *sums) {
    store_raw<G, H>(cta, tile, sums);
    int head = tile * gemv::kTileRows / H::head_dim;
    if (event::elect_warp(cta, H::head_elections + head, H::head_dim / gemv::kTileRows)) finish_head<H>(cta, head);
  }
};

} // namespace qkv
