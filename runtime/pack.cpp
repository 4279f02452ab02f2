// pack.cpp: from checkpoint layout to weight images, on the host's threads or by a kernel (templates/pack.cu). The layout itself is
// the templates' (one header per format); here are the host's loops, and a packer's way to the device.
#include "compiler/render.h"
#include "runtime/job.h"

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
  const char *revision = g.format == ir::Format::nvfp4 ? ".r3" : ""; // a granule's bytes changed: older images do not bind
  return std::string(ir::name(g.format)) + ".16x64." + maps[int(g.row_map)] + revision;
}

namespace {

/// What value %`value` is to a kernel: a weight of one of its GEMVs.
Result<const Gemv *> weightOf(const Plan &plan, const std::string &value) {
  for (size_t i = 0; i < plan.instances.size(); i++) {
    const Body &b = plan.bodies[size_t(plan.instances[i].body)];
    for (const Step &s : b.steps) {
      const std::string *name = s.gemv.rows ? &b.table[s.gemv.weight].name : nullptr;
      if (name && (*name == value || std::to_string(i) + "/" + *name == value)) return &s.gemv;
    }
  }
  return Status::input("pack %" + value + ": no phase of this kernel multiplies with a weight of that name");
}

Status expectParts(const Gemv &gemv, const std::string &value, const CheckpointWeight &weight) {
  if (!weight.codes) return Status::input("pack %" + value + ": codes are missing");
  if (gemv.format == ir::Format::nvfp4 && !weight.scales)
    return Status::input("pack %" + value + ": nvfp4 weights need their e4m3 block scales");
  return {};
}

/// The kernel that packs weights like `gemv`.
Result<detail::Job> packer(detail::RuntimeState &state, const Plan &plan, const Gemv &gemv) {
  PHASEC_ASSIGN(Rendered rendered, renderPacker(gemv, *plan.target, state.templates));
  detail::Job job;
  job.name = std::string("pack_") + ir::name(gemv.format);
  job.entry = kPackerName;
  job.source = std::move(rendered.source);
  job.hardware = plan.target;
  job.config = detail::layoutId(gemv) + " rows=" + std::to_string(gemv.rows) + " cols=" + std::to_string(gemv.cols);
  if (gemv.format == ir::Format::nvfp4) job.config += gemv.weight_type.scales == ir::ScaleLayout::Linear ? " scales=linear" : " scales=swizzled";
  job.query.sections.push_back({"weight", byteDigest(job.config), job.config});
  job.remedy = [simulated = state.simulated()] {
    return "pack the weight on the host (Kernel::pack), or " +
           std::string(simulated ? "let the packer be compiled once where jit is on" : "ship the packer: `phasec bless --packers`");
  };
  identify(state, job, 0);
  return job;
}

int64_t sharedBytes(const Gemv &gemv) { return kPackerWarps * gemv.granule_bytes; }

/// Has a packer, which stays loaded: others of the shape follow.
Result<detail::Obtained> obtainPacker(detail::RuntimeState &state, const detail::Job &job, bool capturing) {
  PHASEC_ASSIGN(detail::Obtained packer, obtain(state, job, capturing));
  std::lock_guard lock(state.loaded_mutex);
  if (packer.loaded) state.packers[job.query.key] = packer.loaded;
  return packer;
}

} // namespace

Result<int64_t> Kernel::packedBytes(const std::string &value) const {
  PHASEC_ASSIGN(const Gemv *gemv, weightOf(state_->plan, value));
  return gemv->imageBytes();
}

Result<std::string> Kernel::packOnDevice(const std::string &value, const CheckpointWeight &weight, uint64_t image, void *stream) const {
  PHASEC_ASSIGN(const Gemv *gemv, weightOf(state_->plan, value));
  PHASEC_TRY(expectParts(*gemv, value, weight));
  detail::RuntimeState &state = *state_->runtime;
  if (!state.device) return Status::usage("pack %" + value + " on the device: the runtime was opened without one (DeviceChoice::None)");
  for (uint64_t address : {uint64_t(uintptr_t(weight.codes)), uint64_t(uintptr_t(weight.scales)), image})
    if (address % 16) return Status::input("pack %" + value + " on the device: addresses must be aligned to 16 bytes");
  if (!image) return Status::input("pack %" + value + " on the device: there is no image to write to");
  PHASEC_ASSIGN(bool capturing, state.device->capturing(stream));
  PHASEC_ASSIGN(detail::Job job, packer(state, state_->plan, *gemv));
  PHASEC_ASSIGN(detail::Obtained packer, obtainPacker(state, job, capturing));
  struct {
    uint64_t codes, scales, image;
  } args{uint64_t(uintptr_t(weight.codes)), uint64_t(uintptr_t(weight.scales)), image};
  LaunchShape shape;
  shape.threads = kPackerWarps * 32;
  shape.shared_bytes = sharedBytes(*gemv);
  shape.cooperative = false;
  int64_t granules = gemv->tiles * gemv->granules, ctas = (granules + kPackerWarps - 1) / kPackerWarps;
  shape.ctas = int(std::min<int64_t>(ctas, 4 * std::max(state.device->info().sms, 1)));
  PHASEC_TRY(state.device->launch(*packer.loaded, shape, &args, sizeof args, stream));
  return detail::layoutId(*gemv);
}

Result<std::vector<Packer>> Kernel::preparePackers() const {
  detail::RuntimeState &state = *state_->runtime;
  std::vector<Packer> packers;
  std::string misses;
  for (const Body &body : state_->plan.bodies)
    for (const Step &step : body.steps) {
      if (!step.gemv.rows) continue;
      PHASEC_ASSIGN(detail::Job job, packer(state, state_->plan, step.gemv));
      const Key &key = job.query.key;
      if (std::any_of(packers.begin(), packers.end(), [&](const Packer &p) { return p.key == key; })) continue;
      packers.push_back({key, sharedBytes(step.gemv)});
      Status had = obtainPacker(state, job, false).status();
      if (!had.ok() && had.kind() != ErrorKind::CacheMiss) return had;
      if (!had.ok()) misses += (misses.empty() ? "" : "\n") + had.text();
    }
  if (!misses.empty()) return Status(ErrorKind::CacheMiss, misses);
  return packers;
}

Result<PackedWeight> Kernel::pack(const std::string &value, const CheckpointWeight &weight) const {
  PHASEC_ASSIGN(const Gemv *gemv, weightOf(state_->plan, value));
  PHASEC_TRY(expectParts(*gemv, value, weight));
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
