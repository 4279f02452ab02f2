// attn.cuh: paged decode attention. A unit is (sequence, KV head, tile of eight (token, query head) pairs, chunk of rows):
// the grouped heads of a KV head share every row that is read. Cached rows arrive through the warps' rings, each warp its
// part of the chunk; this step's own rows, if they are produced in this launch, come from the workspace and never from the
// cache. Warps merge in a tree, chunks in order, by the warp that completes the last chunk.
#pragma once
#include "../sequences.cuh"
#include "../stream.cuh"

namespace attn {

enum : int { kPairs = 8 };

struct Unit {
  int sequence, head, tile, chunk, chunks;
  int first_token, tokens; ///< of the sequence in this step
  int context;             ///< rows before this step
  int row_begin, row_end;  ///< cached rows of this warp
  bool found;
};

/// The i-th unit of the launch, and this warp's part of its rows.
template <class H> PHASEC_DEVICE Unit unit(const Cta &cta, int index) {
  const i32 *first = sequences::first<typename H::S>(cta);
  const i32 *context = sequences::context<typename H::S>(cta);
  Unit u;
  for (int s = 0; s < cta.sequences; s++) {
    u.sequence = s;
    u.first_token = first[s];
    u.tokens = first[s + 1] - first[s];
    u.context = context[s];
    int rows = u.context + (H::fresh_rows ? 0 : u.tokens);
    int tiles = (u.tokens * H::group + kPairs - 1) / kPairs;
    int chunks = (rows + H::chunk_rows - 1) / H::chunk_rows;
    u.chunks = chunks < 1 ? 1 : chunks > H::kv_splits ? H::kv_splits : chunks;
    int units = H::kv_heads * tiles * u.chunks;
    if (index < units) {
      u.chunk = index % u.chunks;
      u.tile = index / u.chunks % tiles;
      u.head = index / u.chunks / tiles;
      int begin = share(rows, u.chunk, u.chunks), length = share(rows, u.chunk + 1, u.chunks) - begin;
      u.row_begin = begin + share(length, cta.warp, H::warps);
      u.row_end = begin + share(length, cta.warp + 1, H::warps);
      u.found = true;
      return u;
    }
    index -= units;
  }
  u.found = false;
  return u;
}

/// Fetches the next block of K or V rows of this warp; false when it has no more in this step.
template <class H> PHASEC_DEVICE bool fetch(const Cta &cta, const u64 *table, Ring<typename H::L> &ring) {
  constexpr u32 row_bytes = H::head_dim * sizeof(typename H::Row);
  Cursor &c = ring.cursor;
  for (;;) {
    Unit u = unit<H>(cta, cta.cta + c.item * cta.ctas);
    if (!u.found) return false;
    int row = u.row_begin + c.row;
    if (row >= u.row_end) {
      c.item++;
      c.row = c.half = 0;
      continue;
    }
    int rows = u.row_end - row < H::block_rows ? u.row_end - row : H::block_rows;
    const u8 *base = (const u8 *)table[c.half ? H::S::cache_v : H::S::cache_k];
    bool contiguous = table[H::S::row_stride] == row_bytes;
    u8 *to = ring.begin(u32(rows) * row_bytes);
    for (int i = 0; i < rows;) {
      int run = 1;
      if (contiguous) {
        int left = H::S::page - (row + i) % H::S::page;
        run = rows - i < left ? rows - i : left;
      }
      ptx::stream_copy(to + i * row_bytes, base + sequences::row_offset<typename H::S>(cta, table, u.sequence, row + i, u.head),
                       u32(run) * row_bytes, ring.barrier(), false);
      i += run;
    }
    ring.commit();
    if (c.half) c.row += rows;
    c.half ^= 1;
    return true;
  }
}

/// o = values / sum, scaled and gated, to the result. One warp.
template <class H> PHASEC_DEVICE void finish_pair(const Cta &cta, const Unit &u, int pair, core::PairState<H> &state) {
  int token = u.first_token + pair / H::group, head = u.head * H::group + pair % H::group;
  float v_scale = H::kv_scales < 0 ? 1.0f : ((const float *)cta.table[H::kv_scales < 0 ? 0 : H::kv_scales])[1];
  i64 at = ((i64)token * H::heads + head) * H::head_dim;
#pragma unroll
  for (int j = 0; j < core::PairState<H>::values; j++) {
    int d = cta.lane + 32 * j;
    if (d >= H::head_dim) break;
    float o = ptx::div(state.acc[j], state.sum);
    if (H::kv_scales >= 0) o = o * v_scale;
    if (present<typename H::Gate>) o = o * math::sigmoid(numeric::load(H::Gate::at(cta) + at + d));
    numeric::store(H::Y::at(cta) + at + d, o);
  }
}

/// Folds the chunks of a pair tile in order and finishes its pairs, one after the other: the code is large. One warp.
template <class H> PHASEC_DEVICE void merge_chunks(const Cta &cta, const Unit &u, i64 pair0, int pairs) {
  constexpr int stride = H::head_dim + 2;
#pragma unroll 1
  for (int p = 0; p < pairs; p++) {
    const float *from = H::Partials::at(cta) + (pair0 + p) * H::kv_splits * stride;
    core::PairState<H> state;
    state.load(from);
    for (int c = 1; c < u.chunks; c++) {
      core::PairState<H> next;
      next.load(from + c * stride);
      state.merge(next);
    }
    finish_pair<H>(cta, u, u.tile * kPairs + p, state);
  }
}

/// After the warps have merged: warp 0 holds the chunk.
template <class H> PHASEC_DEVICE void finish_chunk(const Cta &cta, const Unit &u, int pairs, core::PairState<H> *state) {
  constexpr int stride = H::head_dim + 2;
  i64 pair0 = (i64)u.head * H::tokens * H::group + u.first_token * H::group + u.tile * kPairs;
#pragma unroll
  for (int p = 0; p < kPairs; p++)
    if (p < pairs) state[p].store(H::Partials::at(cta) + ((pair0 + p) * H::kv_splits + u.chunk) * stride);
  ptx::sync_warp();
  if (u.chunks > 1 && !event::elect_warp(cta, H::elections + int(pair0), u.chunks)) return;
  merge_chunks<H>(cta, u, pair0, pairs);
  // The event counts pairs; the step's last pair also stands for the rows that this step does not have.
  bool last = u.first_token + u.tokens == cta.tokens && u.tile * kPairs + pairs == u.tokens * H::group;
  H::signal(cta, u.head, u32(pairs + (last ? (H::tokens - cta.tokens) * H::group : 0)));
}

template <class H, class Program> PHASEC_DEVICE void run(const Cta &cta, Ring<typename H::L> &ring) {
  constexpr u32 row_bytes = H::head_dim * sizeof(typename H::Row);
  constexpr int stride = H::head_dim + 2;
  float *queries = (float *)(cta.shared + H::scratch_offset);      // [pairs][head_dim]
  float *states = queries + kPairs * H::head_dim;                  // [warps / 2][pairs][head_dim + 2]
  for (int index = cta.cta;; index += cta.ctas) {
    Unit u = unit<H>(cta, index);
    if (!u.found) return;
    H::await(cta, u.head);
    int pairs = u.tokens * H::group - u.tile * kPairs;
    pairs = pairs < kPairs ? pairs : kPairs;
    ptx::sync_cta();
    for (int i = ptx::thread(); i < pairs * H::head_dim; i += H::threads) {
      int pair = u.tile * kPairs + i / H::head_dim, token = u.first_token + pair / H::group;
      int head = u.head * H::group + pair % H::group;
      queries[i] = numeric::load(H::Q::at(cta) + ((i64)token * H::heads + head) * H::head_dim + i % H::head_dim);
    }
    ptx::sync_cta();
    core::PairState<H> state[kPairs];
#pragma unroll
    for (int p = 0; p < kPairs; p++) state[p].clear();
    float scale = H::kv_scales < 0 ? H::scale() : H::scale() * ((const float *)cta.table[H::kv_scales < 0 ? 0 : H::kv_scales])[0];
    for (int row = u.row_begin; row < u.row_end; row += H::block_rows) {
      int rows = u.row_end - row < H::block_rows ? u.row_end - row : H::block_rows;
      const u8 *k = ring.wait(0), *v = ring.wait(1);
      core::attend<H>(queries, (const typename H::Row *)k, (const typename H::Row *)v, H::head_dim, row, rows,
                      u.context + u.tile * kPairs / H::group, u.tile * kPairs % H::group, pairs, scale, state);
#pragma unroll 1
      for (int half = 0; half < 2; half++) {
        ring.release();
        stream::advance<Program>(cta, ring);
      }
    }
    if (H::fresh_rows && u.chunk == u.chunks - 1 && cta.warp == H::warps - 1) {
      i64 at = ((i64)u.first_token * H::kv_heads + u.head) * H::head_dim;
      core::attend<H>(queries, H::Fresh::at(cta) + at, H::FreshV::at(cta) + at, H::kv_heads * H::head_dim, u.context, u.tokens,
                      u.context + u.tile * kPairs / H::group, u.tile * kPairs % H::group, pairs, scale, state);
    }
#pragma unroll 1
    for (int half = H::warps / 2; half >= 1; half /= 2) {
      ptx::sync_cta();
      if (cta.warp >= half && cta.warp < 2 * half) {
#pragma unroll
        for (int p = 0; p < kPairs; p++)
          if (p < pairs) state[p].store(states + ((cta.warp - half) * kPairs + p) * stride);
      }
      ptx::sync_cta();
      if (cta.warp < half) {
#pragma unroll
        for (int p = 0; p < kPairs; p++)
          if (p < pairs) {
            core::PairState<H> other;
            other.load(states + (cta.warp * kPairs + p) * stride);
            state[p].merge(other);
          }
      }
    }
    if (cta.warp == 0) finish_chunk<H>(cta, u, pairs, state);
  }
}

} // namespace attn
