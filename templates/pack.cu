//@ banner
// pack.cu: a checkpoint's weight to its image, on the device: a warp makes one granule after the other. The lines between //@
// markers are an example and are replaced by the renderer; the rest is kept.
//@ end
//@ target
#define PHASEC_SM 90
//@ end
//@ includes
#include "ptx.cuh"
#include "weights/bf16.cuh"
//@ end

//@ config
struct Pack {
  using Format = weights::bf16;
  enum : int { bits = 16, tiles = 1, granules = 1, warps = 8 };
  static constexpr i64 cols = 64;
  /// The checkpoint row that a row of the image holds; -1 for padding.
  PHASEC_DEVICE static i64 checkpoint_row(i64 row) { return row; }
  /// Where the scale of (row, column) lies, `columns` to a row; the format has none.
  PHASEC_DEVICE static i64 scale_at(i64, i64, i64) { return -1; }
};
//@ end

struct PackArgs {
  const u8 *codes, *scales;
  u8 *image;
};

/// Code k of a row.
template <class P> PHASEC_DEVICE u32 code_of(const u8 *row, int k) {
  if (P::bits == 4) return (row[k / 2] >> k % 2 * 4) & 15u;
  return P::bits == 8 ? row[k] : ((const u16 *)row)[k];
}

/// One granule in shared memory, by a warp: a lane owns sixteen k of rows r and r + 8, and words of the granule that no other
/// lane writes.
template <class P> PHASEC_DEVICE void pack_granule(const PackArgs &args, i64 tile, i64 granule, u8 *to) {
  int lane = ptx::lane();
  for (int i = lane; i < P::Format::granule_bytes / 16; i += 32) ((Words4 *)to)[i] = Words4{};
  ptx::sync_warp();
  for (int half = 0; half < 2; half++) {
    int r = lane / 4 + 8 * half, begin = lane % 4 * 16;
    i64 row = P::checkpoint_row(tile * weights::kTileRows + r), k0 = granule * weights::kGranuleK + begin;
    if (row < 0 || k0 >= P::cols) continue;
    const u8 *from = args.codes + (row * P::cols + k0) * P::bits / 8;
    int count = P::cols - k0 < 16 ? int(P::cols - k0) : 16;
    for (int k = 0; k < count; k++) P::Format::put(to, r, begin + k, code_of<P>(from, k));
    if constexpr (P::bits == 4) to[P::Format::scale_offset(r, begin)] = args.scales[P::scale_at(row, k0 / 16, P::cols / 16)];
  }
  ptx::sync_warp();
}

PHASEC_KERNEL(Pack::warps * 32) phasec_pack(const __grid_constant__ PackArgs args) {
  u8 *mine = ptx::shared_base() + ptx::warp() * Pack::Format::granule_bytes;
  i64 all = i64(Pack::tiles) * Pack::granules;
  for (i64 g = i64(ptx::cta()) * Pack::warps + ptx::warp(); g < all; g += i64(ptx::ctas()) * Pack::warps) {
    pack_granule<Pack>(args, g / Pack::granules, g % Pack::granules, mine);
    Words4 *to = (Words4 *)(args.image + g * Pack::Format::granule_bytes);
    for (int i = ptx::lane(); i < Pack::Format::granule_bytes / 16; i += 32) to[i] = ((const Words4 *)mine)[i];
    ptx::sync_warp();
  }
}
PHASEC_KERNEL_ENTRY(phasec_pack, PackArgs)
