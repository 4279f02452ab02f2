// attn_rows.cuh: which rows each CTA and warp attends to, and how those in the cache come: through the ring's stages, each warp its part
// of the chunk, filled by the warps themselves, since rows come one by one and belong to few warps at a time.
#pragma once
#include "../sequences.cuh"
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
  bool asked;              ///< for this warp's first block, before the CTA met
};

/// A warp's last unit in shared memory: what it needs now and then is not kept in registers beside its rows' sums, and the
/// next instance's may be the same. With it the pages of the first block's rows: to look them up is a trip to memory.
struct Known {
  Unit unit;
  i32 pages[16];
};
static_assert(sizeof(Known) == 128, "the planner has so many bytes for it");

template <class H> PHASEC_DEVICE Known &known(int warp) { return ((Known *)(ptx::shared_base() + H::units_shared_offset))[warp]; }
template <class H> PHASEC_DEVICE Unit &shared_unit(int warp) { return known<H>(warp).unit; }
template <class H> PHASEC_DEVICE Unit &shared_unit(const Cta &cta) { return shared_unit<H>(cta.warp); }

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
/// Units of the launch.
template <class H> PHASEC_DEVICE int units() { return stream::stretches<typename H::L>(H::step)[0].unit; }
/// Opens the step: the chunks of each sequence, and the items of the CTA's units, which feeders leave to the warps. Behind open_empty(); one thread.
template <class H> PHASEC_DEVICE void open(const Cta &cta) {
  int units = count_units<H>(cta, chunks_of<H>()), n = 0;
  for (int w = 0; w < H::warps; w++) shared_unit<H>(w).id = -1;
  for (int index = cta.cta; index < units; index += ptx::ctas()) n += items(unit<H>(cta, index));
  stream::stretches<typename H::L>(H::step)[0] = Stretch{n, 1, 0, units, 0, 0};
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
      copy(cta, known<H>(cta.warp), filled / 2, n);
      filled += 2;
    }
  }
  /// Fills the first block of warps first, first + step, ... of a unit that have not asked for theirs. The unit's first item has the number
  /// `unit_first`. One warp.
  PHASEC_DEVICE static void fill_firsts(const Cta &cta, u32 unit_first, int first, int step) {
    using R = Ring<typename H::L>;
#pragma unroll 1
    for (int w = first; w < shared_unit<H>(cta).warps; w += step) {
      u32 n = unit_first + 2u * u32(w);
      if (shared_unit<H>(w).asked || cached_blocks<H>(shared_unit<H>(w)) == 0) continue;
      R::wait_free(cta, n), R::wait_free(cta, n + 1);
      copy(cta, known<H>(w), 0, n);
    }
  }
  /// A lane's row of a block; the last one where there are fewer.
  PHASEC_DEVICE static int row(const Cta &cta, const Unit &u, int block) {
    int row = u.row_begin + block * H::block_rows + cta.lane, last = u.row_end - 1;
    return row < last ? row : last;
  }
  /// A block of a warp's rows into the stages of items n and n + 1. A lane a row's address, which is looked up once for both.
  PHASEC_DEVICE static void copy(const Cta &cta, const Known &of, int block, u32 n) {
    using R = Ring<typename H::L>;
    const Unit &u = of.unit;
    int first = u.row_begin + block * H::block_rows, row = CachedRows::row(cta, u, block);
    int rows = u.row_end - first < H::block_rows ? u.row_end - first : H::block_rows;
    sequences::Rows<typename H::S> at(cta.table, u.sequence, u.head);
    i64 offset = at.offset(row, block == 0 ? of.pages[cta.lane % H::block_rows] : at.page(row));
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

/// Before a layer's first step: the rows that a CTA will ask for first come to L2, since they are in memory and older than the layer. Where
/// its unit is not known yet, it does without. All threads.
template <class H> PHASEC_DEVICE void prefetch(const Cta &cta) {
  const Known &of = known<H>(ptx::warp());
  const Unit &u = of.unit;
  int row = u.row_begin + ptx::lane() % H::block_rows;
  if (u.id != cta.cta * H::steps + H::step || row >= u.row_end || ptx::lane() >= 2 * H::block_rows) return;
  i64 offset = sequences::Rows<typename H::S>(cta.table, u.sequence, u.head).offset(row, of.pages[ptx::lane() % H::block_rows]);
  const u8 *from = (const u8 *)cta.table[ptx::lane() < H::block_rows ? H::S::cache_k : H::S::cache_v] + offset;
#pragma unroll
  for (int i = 0; i < H::row_bytes; i += 128) ptx::prefetch(from + i);
}

} // namespace attn
