// attn.cuh: paged decode attention. A unit is (sequence, KV head, tile of eight (token, query head) pairs, chunk of rows):
// the grouped heads of a KV head share every row that is read. Cached rows arrive through the ring's stages, each warp its
// part of the chunk; this step's own rows, if they are produced in this launch, come from the workspace and never from the
// cache. Warps merge in a tree; a tile's chunks are merged in order by their CTAs together, each a share of the values.
#pragma once
#include "../heads.cuh"
#include "attn_rows.cuh"

// What core/<math>/ provides: the state of one warp's eight pairs. It has `values` floats in an order of its own.
namespace core {
template <class H> struct Attention;
} // namespace core

namespace attn {

/// Softmax over some rows, of one pair and one dim: maximum, sum and weighted value (Milakov and Gimelshein, 2018).
struct Part {
  float max, sum, value;
};

/// States lie in shared memory, one per pair of warps that met, and in the workspace, one per chunk: [kPairs][2] maxima and
/// sums, then `values` floats in the core's order.
template <class H> struct States {
  enum : int { kHead = 2 * kPairs, kCount = (H::warps + 1) / 2 };
  PHASEC_DEVICE static float *of(const Cta &cta, int i) { return (float *)(ptx::shared_base() + H::states_offset) + i * H::state_floats; }
};

/// Whether heads are finished here from sums that are waited for one by one, instead of behind an event.
template <class H> static constexpr bool finishes_words() {
  if constexpr (present<typename H::Heads>) return tagged_values<typename H::Heads::Raw> > 0;
  else return false;
}

/// The query of a pair of the tile, rounded to bf16: from a value of the layer, or finished here from the raw sums of qkv. One
/// warp.
template <class H> PHASEC_DEVICE heads::Head<H> query(const Cta &cta, const Unit &u, int p) {
  heads::Head<H> h{};
  p += u.tile * kPairs;
  int token = u.first_token + p / H::group, head = u.head * H::group + p % H::group;
  if constexpr (present<typename H::Heads>) {
    auto finished = heads::finished<typename H::Heads>(cta, token, head, u.context + p / H::group);
#pragma unroll
    for (int j = 0; j < h.dims; j++) h.v[j] = numeric::from_bf16(numeric::to_bf16(finished.v[j]));
  } else {
    const bf16 *from = H::Q::at(cta) + ((i64)token * H::heads + head) * H::head_dim + cta.lane;
#pragma unroll
    for (int j = 0; j < h.dims; j++)
      if (h.has(j)) h.v[j] = numeric::load(from + 32 * j);
  }
  return h;
}

/// This step's rows of the unit's sequence, K then V, as a ring's stage holds them: copied, or finished here. All threads.
template <class H> PHASEC_DEVICE void stage_fresh(const Cta &cta, const Unit &u, u8 *to) {
  if constexpr (present<typename H::Heads>) {
    using Q = typename H::Heads;
    using Row = typename H::Row;
    for (int job = (cta.warp + H::warps - u.pairs % H::warps) % H::warps; job < 2 * u.tokens; job += H::warps) { // the first warps have the queries
      int v = job >= u.tokens, t = job - v * u.tokens;
      auto h = heads::finished<Q>(cta, u.first_token + t, (v ? heads::Rows<Q>::v0 : heads::Rows<Q>::k0) + u.head, u.context + t);
      float scale = heads::kv_scale<Q>(cta, v);
      heads::store_row(cta, h, scale, (Row *)(to + job * H::row_stride));
    }
  } else {
    constexpr int words = H::row_bytes / 16;
    for (int i = ptx::thread(); i < 2 * u.tokens * words; i += H::threads) {
      int row = i / words, v = row >= u.tokens;
      const Words4 *from = (const Words4 *)(v ? H::FreshV::at(cta) : H::Fresh::at(cta));
      from += ((i64)(u.first_token + row - v * u.tokens) * H::kv_heads + u.head) * words;
      ((Words4 *)(to + row * H::row_stride))[i % words] = from[i % words];
    }
  }
}

/// This step's rows, finished here, to the cache: nobody reads them there before the next launch, so attention's CTAs need not
/// do it. Whoever does must have read the sums before the layer is left; so it falls to owners of units [begin, end) of the `all`
/// that a later step has, since the layer's end waits for those, and to the last of them first. All threads.
template <class H> PHASEC_DEVICE void append_rows(const Cta &cta, int begin, int end, int all) {
  using Q = typename H::Heads;
  int jobs = 2 * H::kv_heads * cta.tokens, groups = (jobs + H::warps - 1) / H::warps;
  bool awaited = false;
#pragma unroll 1
  for (int group = 0; group < groups; group++) {
    int owner = all - 1 - share(all, group, groups);
    if (owner < begin || owner >= end) continue;
    for (int head = 0; head < H::kv_heads && !awaited; head++) H::await(cta, head);
    awaited = true;
    int job = group * H::warps + cta.warp;
    if (job >= jobs) continue;
    int token = job / (2 * H::kv_heads), v = job / H::kv_heads % 2, head = job % H::kv_heads;
    int sequence = sequences::of_token<typename H::S>(cta, token);
    int position = sequences::context<typename H::S>(cta)[sequence] + token - sequences::first<typename H::S>(cta)[sequence];
    auto h = heads::finished<Q>(cta, token, (v ? heads::Rows<Q>::v0 : heads::Rows<Q>::k0) + head, position);
    heads::store_row(cta, h, heads::kv_scale<Q>(cta, v), heads::cache_row<Q, typename H::Row>(cta, sequence, position, head, v));
  }
}

/// The gates of some values (token, head, dim).
struct Place {
  int token, head, dim;
};
template <class H> struct GatesOf {
  using Type = typename H::Gate;
};
template <class H>
  requires present<typename H::Heads>
struct GatesOf<H> {
  using Type = typename H::Heads::Raw;
};
template <class H, int N> struct Gates {
  using Source = typename GatesOf<H>::Type;
  static constexpr bool raw = present<typename H::Heads>;
  Asked<Source, N> asked;
  float bias[N];

  PHASEC_DEVICE void ask(const Cta &cta, const Place (&of)[N]) {
    i64 at[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
      bias[i] = 0.0f;
      at[i] = ((i64)of[i].token * H::heads + of[i].head) * H::head_dim + of[i].dim;
      if constexpr (raw) {
        using Q = typename H::Heads;
        int row = (H::heads + of[i].head) * H::head_dim;
        at[i] = (i64)of[i].token * Q::rows + row + of[i].dim;
        if constexpr (present<typename Q::Bias>) bias[i] = numeric::load(Q::Bias::at(cta) + Q::checkpoint_row(row) + of[i].dim);
      }
    }
    asked.ask(cta, at);
  }
  PHASEC_DEVICE void take(const Cta &cta, float (&v)[N]) {
    asked.take(cta, v);
#pragma unroll
    for (int i = 0; i < N; i++)
      if constexpr (raw) v[i] = numeric::from_bf16(numeric::to_bf16(v[i] + bias[i]));
  }
};

/// What finishing a group of values needs besides them: asked for before the CTA waits for other chunks.
template <class H> struct Finish {
  using Core = core::Attention<H>;
  typename H::Y::Word *to[Core::group_values]; ///< null: a pair or dim that pads a state
  Gates<H, Core::group_values> gates;
  float scale;

  /// Of group i; of no group when i is behind the last.
  PHASEC_DEVICE void open(const Cta &cta, const Unit &u, int i) {
    scale = H::kv_scales < 0 ? 1.0f : ((const float *)cta.table[H::kv_scales < 0 ? 0 : H::kv_scales])[1];
    Place of[Core::group_values];
#pragma unroll
    for (int c = 0; c < Core::group_values; c++) {
      int pair = Core::pair(i, c), dim = Core::dim(i, c);
      bool in = i < Core::groups && pair < u.pairs && dim < H::head_dim;
      pair = u.tile * kPairs + (in ? pair : 0);
      of[c] = Place{u.first_token + pair / H::group, u.head * H::group + pair % H::group, in ? dim : 0};
      constexpr int values = tagged_values<typename H::Y> == 2 ? 2 : 1;
      to[c] = in ? H::Y::at(cta) + (((i64)of[c].token * H::heads + of[c].head) * H::head_dim + dim) / values : nullptr;
    }
    if constexpr (H::gated) gates.ask(cta, of);
  }
  /// value / sum, scaled and gated.
  PHASEC_DEVICE void store(const Cta &cta, const typename Core::Group &group) {
    float gate[Core::group_values];
    if constexpr (H::gated) gates.take(cta, gate);
    auto finished = [&](int c) {
      Part p = Core::part(group, c);
      float o = ptx::div(p.value, p.sum);
      if (H::kv_scales >= 0) o = o * scale;
      if constexpr (H::gated) o = o * math::sigmoid(gate[c]);
      return o;
    };
    if constexpr (tagged_values<typename H::Y> == 2) {
      if (to[0]) tagged::store(cta, to[0], {finished(0), finished(1)}); // neighbours
    } else {
#pragma unroll
      for (int c = 0; c < Core::group_values; c++)
        if (to[c]) ::store<typename H::Y>(cta, to[c], finished(c));
    }
  }
};

/// The CTA has stored its share of a tile's values: each chunk brings its share of every pair's arrivals. All threads.
template <class H> PHASEC_DEVICE void signal(const Cta &cta, const Unit &u) {
  // The step's last pair also stands for the rows that this step does not have.
  bool last = u.first_token + u.tokens == cta.tokens && u.tile * kPairs + u.pairs == u.tokens * H::group;
  int arrivals = H::pair_arrivals * (u.pairs + (last ? (H::tokens - cta.tokens) * H::group : 0));
  ptx::sync_workers(H::threads);
  if (cta.warp == 0) H::signal(cta, u.head, u32(share(arrivals, u.chunk + 1, u.chunks) - share(arrivals, u.chunk, u.chunks)));
}

/// The states of a tile's chunks in the workspace: tagged words.
template <class H> PHASEC_DEVICE u64 *chunk_states(const Cta &cta, const Unit &u) {
  return H::Partials::at(cta) + (i64)(u.head * H::head_states + u.state) * H::state_floats;
}

/// The warps' states are in shared memory: merges them. The only chunk of a tile is finished at once. All threads.
template <class H> PHASEC_DEVICE void merge_warps(const Cta &cta, const Unit u) {
  using Core = core::Attention<H>;
  u64 *mine = chunk_states<H>(cta, u) + u.chunk * H::state_floats;
#pragma unroll 1
  for (int n = ptx::unknown(ptx::thread()); n < Core::groups / kPairs * u.pairs; n += H::threads) {
    int i = Core::group_of(n, u.pairs);
    typename Core::Group group = Core::merge_warps(States<H>::of(cta, 0), i);
    if (u.chunks > 1) {
      Core::store(cta, group, mine, i);
      continue;
    }
    Finish<H> finish;
    finish.open(cta, u, i);
    finish.store(cta, group);
  }
  if (u.chunks == 1) signal<H>(cta, u);
}

/// Merges this chunk's share of the tile's values over all its chunks, in order, as they come. All threads.
template <class H> PHASEC_DEVICE void merge_chunks(const Cta &cta, const Unit u) {
  using Core = core::Attention<H>;
  const u64 *states = chunk_states<H>(cta, u);
  int groups = Core::groups / kPairs * u.pairs, begin = share(groups, u.chunk, u.chunks), end = share(groups, u.chunk + 1, u.chunks);
  int parts = Core::merge_parts(u.chunks), jobs = (end - begin) * parts; // neighbouring lanes
#pragma unroll 1
  for (int n = ptx::unknown(ptx::thread()); n - cta.lane < jobs; n += H::threads) {
    int i = Core::group_of(begin + (n < jobs ? n / parts : 0), u.pairs);
    bool finishes = n < jobs && n % parts == 0;
    Finish<H> finish;
    if (finishes) finish.open(cta, u, i);
    typename Core::Group group = Core::merge_chunks(cta, states, u.chunks, i, n % parts, parts);
    if (finishes) finish.store(cta, group);
  }
  signal<H>(cta, u);
}

/// What is computed from these addresses is computed there: it would be kept in registers from the first unit on.
PHASEC_DEVICE Cta later(Cta cta) {
  cta.table = ptx::unknown(cta.table);
  cta.workspace = ptx::unknown(cta.workspace);
  cta.warp = ptx::unknown(cta.warp);
  return cta;
}

/// Attends to the unit's rows, which leaves the warps' states in shared memory. All threads.
template <class H> PHASEC_DEVICE void attend(const Cta &cta, const Unit u) {
  using R = Ring<typename H::L>;
  CachedRows<H> cache;
  cache.open(cta, R::first(), u);
  // Rows older than this step wait for nothing. Where queries come word by word, warps that have none and no row of this step bring the
  // first rows of all warps, while others wait; but few rows a warp asks for as soon as it is here, if their stages are free.
  int idle = finishes_words<H>() && 2 * H::warps <= H::stages ? H::warps - u.pairs - (H::fresh_rows && u.chunk == u.chunks - 1 ? 2 * u.tokens : 0) : 0;
  constexpr int kFewBytes = 48 << 10; // of all warps' first blocks: with more of them a layer took longer (tests/bench/README.md)
  if (idle <= 0 || 2 * H::warps * H::block_rows * H::row_bytes <= kFewBytes) cache.fill(cta, 0);
  if (idle > 0) {
    if (cta.lane == 0) shared_unit<H>(cta).asked = cache.filled > 0;
    if (cache.items > 0 && cache.filled == 0) cache.filled = 2;
  }
  H::await(cta, u.head);
  ptx::sync_workers(H::threads); // nobody reads the previous unit's states any more, or a GEMV's operand and pieces
  if (int first = H::warps - idle; cta.warp >= first) CachedRows<H>::fill_firsts(cta, R::first(), cta.warp - first, idle);
  core::Attention<H> core;
  core.stage(later(cta), u);
  u8 *fresh = (u8 *)States<H>::of(cta, 0);
  int cached = cache.items / 2, blocks = cached;
  if (H::fresh_rows && u.chunk == u.chunks - 1) {
    stage_fresh<H>(later(cta), u, fresh);
    if (cta.warp == H::warps - 1) blocks += (u.tokens + H::block_rows - 1) / H::block_rows;
  }
  ptx::sync_workers(H::threads);
  core.open(later(cta), u);
#pragma unroll 1
  for (int block = 0; block < blocks; block++) {
    const Unit &now = shared_unit<H>(cta);
    int row = now.row_begin + block * H::block_rows, end = now.row_end;
    const u8 *k = nullptr, *v = nullptr;
    if (block < cached) {
      cache.fill(cta, 2 * block + 2);
      k = R::wait(cache.number(cta, 2 * block));
      v = R::wait(cache.number(cta, 2 * block + 1));
    } else {
      int skip = (block - cached) * H::block_rows;
      k = fresh + skip * H::row_stride;
      v = k + now.tokens * H::row_stride;
      row = now.context + skip;
      end = now.context + now.tokens;
    }
    core.attend(cta, k, v, row, end - row < H::block_rows ? end - row : H::block_rows);
    if (block >= cached) continue;
    ptx::fence_async_shared(); // these stages were not written by bulk copies, the next bytes in them may be
    R::release(cta, cache.number(cta, 2 * block), cache.number(cta, 2 * block + 1));
  }
  cache.pass(cta, shared_unit<H>(cta));
  R::advance(u32(items(shared_unit<H>(cta))));
  ptx::sync_workers(H::threads);
  constexpr int half = States<H>::kCount;
  float *mine = States<H>::of(cta, later(cta).warp % half);
  if (cta.warp >= half) core.put(cta, mine);
  ptx::sync_workers(H::threads);
  if (cta.warp < half) {
    if (cta.warp + half < H::warps) core.append(cta, mine);
    ptx::sync_warp();
    core.put(cta, mine);
  }
  ptx::sync_workers(H::threads);
}

/// A CTA stores all its chunks before it waits for any: then none can wait for itself.
template <class H> PHASEC_DEVICE void run(const Cta &cta) {
  int index = cta.cta;
  if (index >= units<H>()) return;
  for (;;) {
    Unit u = shared_unit<H>(cta);
    if (u.id != index * H::steps + H::step) {
      u = unit<H>(cta, index);
      ptx::sync_workers(H::threads); // nobody reads the previous unit any more
      if (cta.lane == 0) shared_unit<H>(cta) = u;
      if (cta.lane < H::block_rows && cached_blocks<H>(u) > 0)
        known<H>(cta.warp).pages[cta.lane] = sequences::Rows<typename H::S>(cta.table, u.sequence, u.head).page(CachedRows<H>::row(cta, u, 0));
      ptx::sync_workers(H::threads);
    }
    attend<H>(cta, u);
    merge_warps<H>(later(cta), shared_unit<H>(cta));
    index = shared_unit<H>(cta).id / H::steps; // not kept in a register
    if (index + ptx::ctas() >= units<H>()) break;
    index += ptx::ctas();
  }
#pragma unroll 1
  for (int i = index; i >= cta.cta; i -= ptx::ctas()) { // the last one first, which is still known
    Unit u = shared_unit<H>(cta);
    if (u.id != i * H::steps + H::step) u = unit<H>(cta, i);
    if (u.chunks > 1) merge_chunks<H>(later(cta), u);
  }
}

} // namespace attn
