// pack.cpp: from checkpoint layout to weight images, on the host's threads. The layout itself is the templates' (one header
// per format); here are the loops and the checkpoint accessors.
#include "runtime/state.h"

#include "templates/weights/bf16.cuh"
#include "templates/weights/fp8_e4m3.cuh"
#include "templates/weights/nvfp4.cuh"

#include <algorithm>
#include <thread>

namespace phasec {
namespace {

/// Offset of a block scale in the 128x4-swizzled layout: tiles of 128 rows x 4 columns, 512 bytes each, row-tile major.
int64_t swizzledOffset(int64_t row, int64_t column, int64_t columns) {
  int64_t tile = row / 128 * ((columns + 3) / 4) + column / 4;
  return tile * 512 + row % 32 * 16 + row % 128 / 32 * 4 + column % 4;
}

struct Checkpoint {
  const Gemv &gemv;
  const uint8_t *codes, *scales;
};

void packGranule(const Checkpoint &s, int64_t tile, int64_t granule, uint8_t *to) {
  const Gemv &g = s.gemv;
  for (int r = 0; r < kTileRows; r++) {
    int64_t row = g.checkpointRow(tile * kTileRows + r);
    if (row < 0) continue;
    int64_t k0 = granule * kGranuleK;
    int count = int(std::min<int64_t>(kGranuleK, g.cols - k0));
    switch (g.format) {
    case ir::Format::bf16: {
      auto *codes = reinterpret_cast<const uint16_t *>(s.codes) + row * g.cols + k0;
      for (int k = 0; k < count; k++) weights::bf16::put(to, r, k, codes[k]);
      break;
    }
    case ir::Format::fp8_e4m3: {
      const uint8_t *codes = s.codes + row * g.cols + k0;
      for (int k = 0; k < count; k++) weights::fp8_e4m3::put(to, r, k, codes[k]);
      break;
    }
    case ir::Format::nvfp4: {
      const uint8_t *codes = s.codes + (row * g.cols + k0) / 2;
      for (int k = 0; k < count; k++) weights::nvfp4::put(to, r, k, k % 2 ? codes[k / 2] >> 4 : codes[k / 2] & 15);
      for (int k = 0; k < count; k += 16) {
        int64_t column = (k0 + k) / 16, columns = g.cols / 16;
        bool linear = g.weight_type.scales == ir::ScaleLayout::Linear;
        to[weights::nvfp4::scale_offset(r, k)] = s.scales[linear ? row * columns + column : swizzledOffset(row, column, columns)];
      }
      break;
    }
    }
  }
}

} // namespace

std::string detail::layoutId(const Gemv &g) {
  static const char *maps[] = {"rows", "gate_up", "gate_per_head"};
  const char *revision = g.format == ir::Format::nvfp4 ? ".r2" : ""; // a granule's bytes changed: older images do not bind
  return std::string(ir::name(g.format)) + ".16x64." + maps[int(g.row_map)] + revision;
}

Result<PackedWeight> Kernel::pack(const std::string &value, const CheckpointWeight &weight) const {
  const Gemv *gemv = nullptr;
  for (size_t i = 0; i < state_->plan.instances.size() && !gemv; i++) {
    const Body &b = state_->plan.bodies[state_->plan.instances[i].body];
    for (const Step &s : b.steps) {
      const std::string *name = s.gemv.rows ? &b.table[s.gemv.weight].name : nullptr;
      if (name && (*name == value || std::to_string(i) + "/" + *name == value)) gemv = &s.gemv;
    }
  }
  if (!gemv) return Status::input("pack %" + value + ": no phase of this kernel multiplies with a weight of that name");
  if (!weight.codes) return Status::input("pack %" + value + ": codes are missing");
  if (gemv->format == ir::Format::nvfp4 && !weight.scales)
    return Status::input("pack %" + value + ": nvfp4 weights need their e4m3 block scales");
  PackedWeight packed;
  packed.layout = detail::layoutId(*gemv);
  packed.bytes.assign(size_t(gemv->imageBytes()), 0);
  Checkpoint source{*gemv, static_cast<const uint8_t *>(weight.codes), static_cast<const uint8_t *>(weight.scales)};
  auto range = [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; tile++)
      for (int64_t g = 0; g < gemv->granules; g++)
        packGranule(source, tile, g, packed.bytes.data() + (tile * gemv->granules + g) * gemv->granule_bytes);
  };
  int64_t threads = std::clamp<int64_t>(gemv->imageBytes() >> 20, 1, std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::thread> pool;
  for (int64_t i = 1; i < threads; i++) pool.emplace_back(range, gemv->tiles * i / threads, gemv->tiles * (i + 1) / threads);
  range(0, gemv->tiles / threads);
  for (std::thread &t : pool) t.join();
  return packed;
}

} // namespace phasec
