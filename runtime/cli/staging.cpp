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
  for (const BufferSpec &spec : kernel.buffers()) {
    if (spec.kind == "weight") PHASEC_TRY(staging.addWeight(spec));
    else if (spec.kind == "cache") PHASEC_TRY(staging.addCache(spec));
    else PHASEC_TRY(staging.addArray(spec));
  }
  return staging;
}

Result<DevicePtr> Staging::place(const void *data, size_t bytes) {
  PHASEC_ASSIGN(DevicePtr address, device_->allocate(int64_t(std::max<size_t>(bytes, 16))));
  if (data) PHASEC_TRY(device_->upload(address, data, int64_t(bytes)));
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
    PHASEC_ASSIGN(buffer.address, place(data.data(), data.size() * 4));
    buffers_.arrays[spec.name] = std::move(buffer);
    return {};
  }
  if (spec.kind == "output") {
    PHASEC_ASSIGN(buffer.address, place(nullptr, size_t(count(buffer.shape) * elementBytes(spec.dtype))));
    outputs_.push_back(spec);
  } else {
    auto found = inputs_->arrays.find(keyOf(spec));
    if (found == inputs_->arrays.end()) return Status::internal("the kernel asks for " + keyOf(spec) + ", which has no inputs");
    PHASEC_ASSIGN(buffer.address, place(found->second.data(), found->second.size()));
  }
  buffers_.arrays[keyOf(spec)] = std::move(buffer);
  return {};
}

Status Staging::addWeight(const BufferSpec &spec) {
  CheckpointWeight weight;
  weight.codes = inputs_->arrays.at(keyOf(spec)).data();
  if (auto scales = inputs_->arrays.find(keyOf(spec) + ".scales"); scales != inputs_->arrays.end()) weight.scales = scales->second.data();
  PHASEC_ASSIGN(PackedWeight packed, kernel_.pack(std::to_string(spec.instance) + "/" + spec.name, weight));
  PHASEC_ASSIGN(DevicePtr address, place(packed.bytes.data(), packed.bytes.size()));
  buffers_.arrays[keyOf(spec)] = {address, spec.dtype, spec.shape, packed.layout};
  return {};
}

Status Staging::addCache(const BufferSpec &spec) {
  const HostCache &host = inputs_->caches.at(keyOf(spec));
  KvBuffer cache;
  PHASEC_ASSIGN(cache.k, place(host.k.data(), host.k.size()));
  cache.v = cache.k + uint64_t(host.v_offset);
  if (!host.v.empty()) {
    PHASEC_ASSIGN(cache.v, place(host.v.data(), host.v.size()));
  }
  PHASEC_ASSIGN(cache.scales, place(host.scales, sizeof host.scales));
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

Result<Downloaded> Staging::download() const {
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
  for (const auto &[name, buffer] : buffers_.caches) {
    HostCache &cache = result.caches[name] = inputs_->caches.at(name);
    PHASEC_TRY(device_->download(cache.k.data(), buffer.k, int64_t(cache.k.size())));
    if (!cache.v.empty()) PHASEC_TRY(device_->download(cache.v.data(), buffer.v, int64_t(cache.v.size())));
  }
  return result;
}

} // namespace phasec::cli
