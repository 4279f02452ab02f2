// staging.cpp: see staging.h.
#include "runtime/cli/staging.h"

#include <algorithm>

namespace phasec::cli {
namespace {

constexpr uint8_t kPattern = 0xa5;

int64_t elementBytes(const std::string &dtype) { return dtype == "bf16" ? 2 : dtype == "fp8_e4m3" ? 1 : 4; }

int64_t count(const std::vector<int64_t> &shape) {
  int64_t n = 1;
  for (int64_t extent : shape) n *= extent;
  return n;
}

std::string keyOf(const BufferSpec &spec) { return std::to_string(spec.instance) + "/" + spec.name; }

bool sameCaches(const std::map<std::string, HostCache> &a, const std::map<std::string, HostCache> &b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto &x, const auto &y) {
    return x.first == y.first && x.second.k == y.second.k && x.second.v == y.second.v;
  });
}

} // namespace

bool Downloaded::operator==(const Downloaded &other) const {
  return std::equal(outputs.begin(), outputs.end(), other.outputs.begin(), other.outputs.end(),
                    [](const OutputArray &a, const OutputArray &b) { return a.bytes == b.bytes; }) &&
         sameCaches(caches, other.caches);
}

Result<Staging> Staging::make(const Kernel &kernel, Device &device, const HostInputs &inputs) {
  Staging staging(kernel, device, inputs);
  PHASEC_TRY(staging.addAll());
  return staging;
}

Result<Staging> Staging::replicate(const Kernel &kernel, Device &device, const HostInputs &inputs, const Staging *first) {
  Staging staging(kernel, device, inputs);
  staging.replicate_ = true;
  if (first) {
    staging.placed_ = first->placed_;
    staging.images_ = first->images_;
  }
  PHASEC_TRY(staging.addAll());
  return staging;
}

Status Staging::addAll() {
  for (const BufferSpec &spec : kernel_.buffers()) {
    if (spec.kind == "weight") PHASEC_TRY(addWeight(spec));
    else if (spec.kind == "cache") PHASEC_TRY(addCache(spec));
    else PHASEC_TRY(addArray(spec));
  }
  return {};
}

Result<DevicePtr> Staging::allocate(size_t bytes) {
  PHASEC_ASSIGN(DevicePtr address, device_->allocate(int64_t(std::max<size_t>(bytes, 16))));
  blocks_.push_back(std::unique_ptr<Block>(new Block{device_, address}));
  return address;
}

Result<DevicePtr> Staging::place(const std::string &source, const void *data, size_t bytes) {
  PHASEC_ASSIGN(DevicePtr address, allocate(bytes));
  if (auto held = placed_.find(source); held != placed_.end()) {
    PHASEC_TRY(device_->copy(address, held->second, int64_t(bytes)));
  } else {
    PHASEC_TRY(device_->upload(address, data, int64_t(bytes)));
    placed_[source] = address;
  }
  return address;
}

Status Staging::addArray(const BufferSpec &spec) {
  Buffer buffer;
  buffer.dtype = spec.dtype;
  buffer.shape = spec.shape;
  std::replace(buffer.shape.begin(), buffer.shape.end(), ir::kTokensExtent, int64_t(kernel_.plan().tokens_max));
  if (spec.kind == "step") {
    const std::vector<int32_t> &data = spec.name == "step.counts"        ? inputs_->counts
                                       : spec.name == "step.seq_first"   ? inputs_->seq_first
                                       : spec.name == "step.seq_context" ? inputs_->seq_context
                                                                         : inputs_->page_table;
    buffer.shape = {int64_t(data.size())};
    if (spec.name == "step.page_table") buffer.shape = {inputs_->sequences(), inputs_->page_stride};
    PHASEC_ASSIGN(buffer.address, place(spec.name, data.data(), data.size() * 4));
    buffers_.arrays[spec.name] = std::move(buffer);
    return {};
  }
  if (spec.kind == "output") {
    PHASEC_ASSIGN(buffer.address, allocate(size_t(count(buffer.shape) * elementBytes(spec.dtype))));
    outputs_.push_back(spec);
  } else {
    auto found = inputs_->arrays.find(sourceOf(spec));
    if (found == inputs_->arrays.end()) return Status::internal("the kernel asks for " + sourceOf(spec) + ", which has no inputs");
    PHASEC_ASSIGN(buffer.address, place(found->first, found->second.data(), found->second.size()));
  }
  buffers_.arrays[keyOf(spec)] = std::move(buffer);
  return {};
}

Status Staging::addWeight(const BufferSpec &spec) {
  std::string source = sourceOf(spec);
  PackedWeight packed;
  if (!placed_.count(source)) {
    CheckpointWeight weight;
    weight.codes = inputs_->arrays.at(source).data();
    if (auto scales = inputs_->arrays.find(source + ".scales"); scales != inputs_->arrays.end()) weight.scales = scales->second.data();
    PHASEC_ASSIGN(packed, kernel_.pack(std::to_string(spec.instance) + "/" + spec.name, weight));
    images_[source] = {packed.layout, packed.bytes.size()};
  }
  const Image &image = images_.at(source);
  PHASEC_ASSIGN(DevicePtr address, place(source, packed.bytes.data(), image.bytes));
  buffers_.arrays[keyOf(spec)] = {address, spec.dtype, spec.shape, image.layout};
  return {};
}

Status Staging::addCache(const BufferSpec &spec) {
  std::string source = sourceOf(spec);
  const HostCache &host = inputs_->caches.at(source);
  KvBuffer cache;
  PHASEC_ASSIGN(cache.k, place(source, host.k.data(), host.k.size()));
  cache.v = cache.k + uint64_t(host.v_offset);
  if (!host.v.empty()) {
    PHASEC_ASSIGN(cache.v, place(source + ".v", host.v.data(), host.v.size()));
  }
  PHASEC_ASSIGN(cache.scales, place(source + ".scales", host.scales, sizeof host.scales));
  cache.page_stride = host.page_stride;
  cache.row_stride = host.row_stride;
  cache.head_stride = host.head_stride;
  cache.dtype = host.dtype;
  cache.page = host.page;
  buffers_.caches[keyOf(spec)] = cache;
  return {};
}

Status Staging::wipeOutputs() {
  for (const BufferSpec &spec : outputs_) {
    const Buffer &buffer = buffers_.arrays.at(keyOf(spec));
    PHASEC_TRY(device_->fill(buffer.address, kPattern, count(buffer.shape) * elementBytes(spec.dtype)));
  }
  return {};
}

Result<Downloaded> Staging::downloadOutputs() const {
  Downloaded result;
  for (const BufferSpec &spec : outputs_) {
    const Buffer &buffer = buffers_.arrays.at(keyOf(spec));
    OutputArray out{spec.name, spec.dtype, buffer.shape, {}};
    std::vector<uint8_t> all(size_t(count(buffer.shape) * elementBytes(spec.dtype)));
    PHASEC_TRY(device_->download(all.data(), buffer.address, int64_t(all.size())));
    // [slots,] tokens_max, n: of each slot the first `tokens` rows count. Chosen tokens are [tokens_max].
    size_t dim = buffer.shape.size() == 3 ? 1 : 0, slots = dim ? size_t(buffer.shape[0]) : 1;
    int64_t width = dim + 1 < buffer.shape.size() ? buffer.shape[dim + 1] : 1;
    size_t row = size_t(width * elementBytes(spec.dtype)), rows = size_t(buffer.shape[dim]);
    out.shape[dim] = inputs_->tokens();
    for (size_t s = 0; s < slots; s++) {
      auto begin = all.begin() + long(s * rows * row), middle = begin + long(size_t(inputs_->tokens()) * row);
      out.bytes.insert(out.bytes.end(), begin, middle);
      if (std::any_of(middle, begin + long(rows * row), [](uint8_t b) { return b != kPattern; }) &&
          (result.overruns.empty() || result.overruns.back() != spec.name))
        result.overruns.push_back(spec.name);
    }
    result.outputs.push_back(std::move(out));
  }
  return result;
}

Result<Downloaded> Staging::download() const {
  PHASEC_ASSIGN(Downloaded result, downloadOutputs());
  for (const auto &[name, buffer] : buffers_.caches) {
    HostCache &cache = result.caches[name] = inputs_->caches.at(name);
    PHASEC_TRY(device_->download(cache.k.data(), buffer.k, int64_t(cache.k.size())));
    if (!cache.v.empty()) PHASEC_TRY(device_->download(cache.v.data(), buffer.v, int64_t(cache.v.size())));
  }
  return result;
}

} // namespace phasec::cli
