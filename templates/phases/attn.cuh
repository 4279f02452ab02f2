// attn.cuh: paged decode attention. A unit is (sequence, KV head, tile of eight (token, query head) pairs, chunk of rows):
// the grouped heads of a KV head share every row that is read. Cached rows arrive through the ring's stages, each warp its
// part of the chunk; this step's own rows, if they are produced in this launch, come from the workspace and never from the
// cache. Warps merge in a tree; a tile's chunks are merged in order by their CTAs together, each a share of the values.
#pragma once
#include "../heads.cuh"
#include "../stream.cuh"

namespace attn {

enum : int { kPairs = 8 };

struct Unit {
  int id;                  ///< of the step's index-th unit: index * steps + step
  int sequence, head, tile, chunk, chunks;
  int state;               ///< of the tile's first chunk, counted over all of the KV head's
  int first_token, tokens; ///< of the sequence in this step
  int context;             ///< rows before this step
  int row_begin, row_end;  ///< cached rows of this warp
  int warps;               ///< that have cached rows
  int rounds;              ///< blocks of the warp that has most
  int pairs;               ///< of the tile
  bool found;
};
static_assert(sizeof(Unit) == 64, "the planner has so many bytes for it");

/// A warp's last unit in shared memory: what it needs now and then is not kept in registers beside its rows' sums, and the
/// next instance's may be the same.
template <class H> PHASEC_DEVICE Unit &shared_unit(int warp) { return ((Unit *)(ptx::shared_base() + H::units_shared_offset))[warp]; }
template <class H> PHASEC_DEVICE Unit &shared_unit(const Cta &cta) { return shared_unit<H>(cta.warp); }

} // namespace attn

// What core/<math>/ provides: the state of one warp's eight pairs. It has `values` floats in an order of its own.
namespace core {
template <class H> struct Attention;
} // namespace core

namespace attn {

/// Rows that a sequence has in the cache, and pair tiles per KV head.
template <class H> PHASEC_DEVICE int cached_rows(int context, int tokens) { return context + (H::fresh_rows ? 0 : tokens); }
template <class H> PHASEC_DEVICE int tiles_of(int tokens) { return (tokens * H::group + kPairs - 1) / kPairs; }

/// Chunks of each sequence, counted once per launch. A chunk has a block of rows for every warp, or more, so that all tiles of
/// the step have at most kv_splits chunks per KV head together, save one each: a unit costs more than its rows. Every tile but
/// one may end in a chunk that is not full.
template <class H> PHASEC_DEVICE u8 *chunks_of() { return ptx::shared_base() + H::units_offset + H::step * 16; }
/// Counts them into `to`, if it is there, and returns the units of the launch. One thread.
template <class H> PHASEC_DEVICE int count_units(const Cta &cta, u8 *to) {
  const i32 *first = (const i32 *)cta.launch_table[1], *context = (const i32 *)cta.launch_table[2];
  int rows = 0, all = 0, count = sequences::step_counts<H>(cta)[1];
  for (int s = 0; s < count; s++) {
    int tokens = first[s + 1] - first[s], tiles = tiles_of<H>(tokens);
    rows += cached_rows<H>(context[s], tokens) * tiles, all += tiles;
  }
  int full = H::kv_splits - all + 1, n = full > 1 ? (rows + full - 1) / full : rows;
  if (n < H::chunk_rows) n = H::chunk_rows;
  int units = 0;
  for (int s = 0; s < count; s++) {
    int tokens = first[s + 1] - first[s], chunks = (cached_rows<H>(context[s], tokens) + n - 1) / n;
    chunks = chunks < 1 ? 1 : chunks > H::kv_splits ? H::kv_splits : chunks;
    units += H::kv_heads * tiles_of<H>(tokens) * chunks;
    if (to) to[s] = u8(chunks);
  }
  return units;
}
/// The i-th unit of the launch, and this warp's part of its rows.
template <class H> PHASEC_DEVICE Unit unit(const Cta &cta, int index) {
  const i32 *first = sequences::first<typename H::S>(cta);
  const i32 *context = sequences::context<typename H::S>(cta);
  Unit u{};
  u.id = index * H::steps + H::step;
  for (int s = 0; s < sequences::count<typename H::S>(); s++) {
    u.sequence = s;
    u.first_token = first[s];
    u.tokens = first[s + 1] - first[s];
    u.context = context[s];
    int rows = cached_rows<H>(u.context, u.tokens), tiles = tiles_of<H>(u.tokens);
    u.chunks = chunks_of<H>()[s];
    int units = H::kv_heads * tiles * u.chunks;
    if (index < units) {
      u.chunk = index % u.chunks;
      u.tile = index / u.chunks % tiles;
      u.head = index / u.chunks / tiles;
      u.state += u.tile * u.chunks;
      int begin = share(rows, u.chunk, u.chunks), length = share(rows, u.chunk + 1, u.chunks) - begin;
      // Where there are rows of this step, the last warp has them and no others.
      u.warps = H::fresh_rows && H::warps > 1 && u.chunk == u.chunks - 1 ? H::warps - 1 : H::warps;
      if (length > H::buffered_from && H::buffered_warps < u.warps) u.warps = H::buffered_warps;
      u.rounds = ((length + u.warps - 1) / u.warps + H::block_rows - 1) / H::block_rows;
      u.row_begin = begin + (cta.warp < u.warps ? share(length, cta.warp, u.warps) : length);
      u.row_end = begin + (cta.warp < u.warps ? share(length, cta.warp + 1, u.warps) : length);
      u.pairs = u.tokens * H::group - u.tile * kPairs;
      if (u.pairs > kPairs) u.pairs = kPairs;
      u.found = true;
      return u;
    }
    index -= units;
    u.state += tiles * u.chunks;
  }
  return u;
}

template <class H> PHASEC_DEVICE int cached_blocks(const Unit &u) { return (u.row_end - u.row_begin + H::block_rows - 1) / H::block_rows; }

/// Every warp that has rows has items for every round of a unit, K and V.
PHASEC_DEVICE int items(const Unit &u) { return 2 * u.warps * u.rounds; }
/// Opens the step: the chunks of each sequence, and the items of the CTA's units, which feeders leave to the warps. One thread.
template <class H> PHASEC_DEVICE void open(const Cta &cta) {
  count_units<H>(cta, chunks_of<H>());
  for (int w = 0; w < H::warps; w++) shared_unit<H>(w).id = -1;
  int n = 0;
  for (int index = cta.cta;; index += ptx::ctas()) {
    Unit u = unit<H>(cta, index);
    if (!u.found) break;
    n += items(u);
  }
  Stretch *to = stream::stretches<typename H::L>(H::step);
  for (int i = 0; i < kStretches; i++) to[i] = Stretch{i == 0 ? n : 0, 1, 0, 0, 0, 0};
}

/// A warp's cached rows of a unit on their way through the ring: block b is K in item 2 (b * u.warps + warp) and V in the one
/// behind it.
template <class H> struct CachedRows {
  u32 first; ///< number of the warp's first item
  int filled, items;

  PHASEC_DEVICE void open(const Cta &cta, u32 unit_first, const Unit &u) {
    first = unit_first + 2u * u32(cta.warp);
    filled = 0;
    items = 2 * cached_blocks<H>(u);
  }
  /// The number of item i of the warp.
  PHASEC_DEVICE u32 number(const Cta &cta, int i) const { return first + u32(i / 2 * 2 * shared_unit<H>(cta).warps + i % 2); }
  /// Fills the stages of K and V of every block where both are free, and waits for those of the first `needed` items. One warp.
  PHASEC_DEVICE void fill(const Cta &cta, int needed) {
    using R = Ring<typename H::L>;
    while (filled < items) {
      u32 n = number(cta, filled);
      if (filled < needed) R::wait_free(cta, n), R::wait_free(cta, n + 1);
      else if (!ptx::any(R::free(n) && R::free(n + 1))) return;
      copy(cta, shared_unit<H>(cta), filled / 2, n);
      filled += 2;
    }
  }
  /// Fills the first block of warps first, first + step, ... of a unit, whose first item has the number `unit_first`. One warp.
  PHASEC_DEVICE static void fill_firsts(const Cta &cta, u32 unit_first, int first, int step) {
    using R = Ring<typename H::L>;
#pragma unroll 1
    for (int w = first; w < shared_unit<H>(cta).warps; w += step) {
      u32 n = unit_first + 2u * u32(w);
      if (cached_blocks<H>(shared_unit<H>(w)) == 0) continue;
      R::wait_free(cta, n), R::wait_free(cta, n + 1);
      copy(cta, shared_unit<H>(w), 0, n);
    }
  }
  /// A block of a warp's rows into the stages of items n and n + 1. A lane a row's address, which is looked up once for both.
  PHASEC_DEVICE static void copy(const Cta &cta, const Unit &u, int block, u32 n) {
    using R = Ring<typename H::L>;
    int row = u.row_begin + block * H::block_rows + cta.lane, last = u.row_end - 1;
    int rows = u.row_end - row + cta.lane < H::block_rows ? u.row_end - row + cta.lane : H::block_rows;
    sequences::Rows<typename H::S> at(cta.table, u.sequence, u.head);
    i64 offset = at.offset(row < last ? row : last);
    ptx::gather_rows<H::block_rows, H::row_bytes, H::row_stride>(offset, rows, (const u8 *)cta.table[H::S::cache_k], R::stage(n), R::full(n),
                                                                 (const u8 *)cta.table[H::S::cache_v], R::stage(n + 1), R::full(n + 1));
  }
  /// Items behind the warp's last: nothing comes, nothing is read, and their stages move on. One warp.
  PHASEC_DEVICE void pass(const Cta &cta, const Unit &u) const {
    using R = Ring<typename H::L>;
    for (int i = cta.warp < u.warps ? items : 2 * u.rounds; i < 2 * u.rounds; i++) {
      u32 n = number(cta, i);
      R::wait_free(cta, n);
      if (cta.lane == 0) ptx::mbar_arrive(R::full(n));
      R::release(cta, n);
    }
  }
};

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
      to[c] = in ? H::Y::at(cta) + ((i64)of[c].token * H::heads + of[c].head) * H::head_dim + dim : nullptr;
    }
    if constexpr (H::gated) gates.ask(cta, of);
  }
  /// value / sum, scaled and gated.
  PHASEC_DEVICE void store(const Cta &cta, const typename Core::Group &group) {
    float gate[Core::group_values];
    if constexpr (H::gated) gates.take(cta, gate);
#pragma unroll
    for (int c = 0; c < Core::group_values; c++) {
      if (!to[c]) continue;
      Part p = Core::part(group, c);
      float o = ptx::div(p.value, p.sum);
      if (H::kv_scales >= 0) o = o * scale;
      if constexpr (H::gated) o = o * math::sigmoid(gate[c]);
      ::store<typename H::Y>(cta, to[c], o);
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
template <class H> PHASEC_DEVICE void attend(const Cta &cta, Ring<typename H::L> &ring, const Unit u) {
  CachedRows<H> cache;
  cache.open(cta, ring.first, u);
  // Rows older than this step wait for nothing. Where queries come word by word, warps that have none and no row of this step bring the
  // first rows of all warps, while others wait.
  int idle = finishes_words<H>() && 2 * H::warps <= H::stages ? H::warps - u.pairs - (H::fresh_rows && u.chunk == u.chunks - 1 ? 2 * u.tokens : 0) : 0;
  if (idle <= 0) cache.fill(cta, 0);
  else if (cache.items > 0) cache.filled = 2;
  H::await(cta, u.head);
  ptx::sync_workers(H::threads); // nobody reads the previous unit's states any more, or a GEMV's operand and pieces
  if (int first = H::warps - idle; cta.warp >= first) CachedRows<H>::fill_firsts(cta, ring.first, cta.warp - first, idle);
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
      k = ring.wait(cache.number(cta, 2 * block));
      v = ring.wait(cache.number(cta, 2 * block + 1));
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
    ring.release(cta, cache.number(cta, 2 * block), cache.number(cta, 2 * block + 1));
  }
  cache.pass(cta, shared_unit<H>(cta));
  ring.first += u32(items(shared_unit<H>(cta)));
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
template <class H> PHASEC_DEVICE void run(const Cta &cta, Ring<typename H::L> &ring) {
  int index = cta.cta;
  for (;;) {
    Unit u = shared_unit<H>(cta);
    if (u.id != index * H::steps + H::step) {
      u = unit<H>(cta, index);
      if (!u.found) break;
      ptx::sync_workers(H::threads); // nobody reads the previous unit any more
      if (cta.lane == 0) shared_unit<H>(cta) = u;
      ptx::sync_workers(H::threads);
    }
    attend<H>(cta, ring, u);
    merge_warps<H>(later(cta), shared_unit<H>(cta));
    index = shared_unit<H>(cta).id / H::steps + ptx::ctas(); // not kept in a register
  }
#pragma unroll 1
  for (int i = index - ptx::ctas(); i >= cta.cta; i -= ptx::ctas()) { // the last one first, which is still known
    Unit u = shared_unit<H>(cta);
    if (u.id != i * H::steps + H::step) u = unit<H>(cta, i);
    if (u.chunks > 1) merge_chunks<H>(later(cta), u);
  }
}

} // namespace attn
