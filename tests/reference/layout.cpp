// Decoding of checkpoint layouts. Positions follow the documented layouts one to one; nothing is repacked.
#include "tests/reference/layout.h"

#include "tests/reference/formats.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace phasec_reference {

namespace {

int64_t roundUp(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

const std::array<float, 256> &e4m3Table() {
  static const std::array<float, 256> kTable = [] {
    std::array<float, 256> table;
    for (int code = 0; code < 256; ++code) table[size_t(code)] = e4m3ToF32(uint8_t(code));
    return table;
  }();
  return kTable;
}

bool loadFloats(const Inputs &inputs, const std::string &name, size_t count, std::vector<float> *out,
                std::string *error) {
  const uint8_t *data = nullptr;
  if (!findView(inputs, name, count * 4, &data, error)) return false;
  out->resize(count);
  std::memcpy(out->data(), data, count * 4);
  return true;
}

} // namespace

int64_t swizzledOffset(int64_t row, int64_t scale_col, int64_t scale_cols) {
  int64_t tile = row / 128 * (roundUp(scale_cols, 4) / 4) + scale_col / 4;
  return tile * 512 + row % 32 * 16 + row % 128 / 32 * 4 + scale_col % 4;
}

void decodeValues(const Kernels &kernels, const std::string &format, const uint8_t *bytes, int64_t n, float *out) {
  if (format == "bf16") {
    kernels.bf16(out, bytes, n);
  } else if (format == "f32") {
    std::memcpy(out, bytes, size_t(n) * 4);
  } else {
    const std::array<float, 256> &table = e4m3Table();
    for (int64_t i = 0; i < n; ++i) out[i] = table[bytes[i]];
  }
}

void Matrix::decode(const Kernels &kernels, int64_t row, int64_t begin, int64_t end, float *out) const {
  if (info->format != "nvfp4") {
    int64_t size = info->format == "bf16" ? 2 : 1;
    decodeValues(kernels, info->format, data + (row * cols + begin) * size, end - begin, out);
    return;
  }
  const std::array<float, 256> &table = e4m3Table();
  constexpr int64_t kBlocks = 64;
  float scales[kBlocks];
  int64_t scale_cols = cols / 16;
  for (int64_t block = begin / 16; block < end / 16; block += kBlocks) {
    int64_t count = std::min(kBlocks, end / 16 - block);
    for (int64_t i = 0; i < count; ++i)
      scales[i] = table[block_scales[info->swizzled ? swizzledOffset(row, block + i, scale_cols)
                                                    : row * scale_cols + block + i]];
    kernels.nvfp4(out + (block * 16 - begin), data + row * (cols / 2) + block * 8, scales, count);
  }
}

void CacheRows::decode(const Kernels &kernels, int64_t sequence, int64_t row, int64_t head, bool values,
                       float *out) const {
  int64_t context = inputs->seq_context[size_t(sequence)];
  const uint8_t *bytes = nullptr;
  if (fresh_k && row >= context) {
    int64_t token = inputs->seq_first[size_t(sequence)] + row - context;
    bytes = (values ? fresh_v : fresh_k)->data() + (token * kv_heads + head) * head_dim * elementBytes();
  } else {
    int64_t page = inputs->page_table[size_t(sequence * inputs->page_stride + row / info->page)];
    bytes = (values ? view.v : view.k) + page * view.page_stride + row % info->page * view.row_stride +
            head * view.head_stride;
  }
  decodeValues(kernels, info->format, bytes, head_dim, out);
}

bool findView(const Inputs &inputs, const std::string &name, size_t bytes, const uint8_t **data, std::string *error) {
  auto found = inputs.buffers.find(name);
  if (found == inputs.buffers.end() || (!found->second.data && bytes > 0)) {
    *error = "buffer '" + name + "' is missing";
    return false;
  }
  if (found->second.bytes < bytes) {
    *error = "buffer '" + name + "' has " + std::to_string(found->second.bytes) + " bytes, expected " +
             std::to_string(bytes);
    return false;
  }
  *data = static_cast<const uint8_t *>(found->second.data);
  return true;
}

bool bindMatrix(const Inputs &inputs, const std::string &prefix, const ValueInfo &info, Matrix *matrix,
                std::string *error) {
  std::string name = prefix + info.name;
  matrix->info = &info;
  matrix->rows = info.shape[0];
  matrix->cols = info.shape[1];
  size_t elements = size_t(matrix->rows * matrix->cols);
  if (info.format == "bf16") return findView(inputs, name, elements * 2, &matrix->data, error);
  bool nvfp4 = info.format == "nvfp4";
  size_t scales = info.row_scale ? size_t(matrix->rows) : 1;
  if (!findView(inputs, name, nvfp4 ? elements / 2 : elements, &matrix->data, error) ||
      !loadFloats(inputs, name + ".scale", scales, &matrix->scale, error))
    return false;
  if (!nvfp4) return true;
  int64_t scale_cols = matrix->cols / 16;
  int64_t bytes = info.swizzled ? roundUp(matrix->rows, 128) * roundUp(scale_cols, 4) : matrix->rows * scale_cols;
  return findView(inputs, name + ".scales", size_t(bytes), &matrix->block_scales, error);
}

bool loadVector(const Inputs &inputs, const std::string &prefix, const ValueInfo &info, std::vector<float> *out,
                std::string *error) {
  size_t count = size_t(info.shape[0]);
  const uint8_t *data = nullptr;
  if (!findView(inputs, prefix + info.name, count * (info.format == "f32" ? 4 : 2), &data, error)) return false;
  out->resize(count);
  decodeValues(genericKernels(), info.format, data, int64_t(count), out->data());
  return true;
}

bool bindCache(const Inputs &inputs, const std::string &prefix, const ValueInfo &info, int64_t kv_heads,
               int64_t head_dim, CacheRows *cache, std::string *error) {
  cache->info = &info;
  cache->inputs = &inputs;
  cache->kv_heads = kv_heads;
  cache->head_dim = head_dim;
  if (!cache->fp8()) return true;
  std::vector<float> scales;
  if (!loadFloats(inputs, prefix + info.name + ".scales", 2, &scales, error)) return false;
  cache->k_scale = scales[0];
  cache->v_scale = scales[1];
  return true;
}

bool bindPages(const std::string &prefix, CacheRows *cache, std::string *error) {
  const Inputs &inputs = *cache->inputs;
  std::string name = prefix + cache->info->name;
  auto found = inputs.caches.find(name);
  if (found != inputs.caches.end()) cache->view = found->second;
  for (size_t s = 0; s < inputs.seq_context.size(); ++s) {
    int64_t tokens = inputs.seq_first[s + 1] - inputs.seq_first[s];
    int64_t rows = tokens == 0 ? 0 : inputs.seq_context[s] + (cache->fresh_k ? 0 : tokens);
    int64_t pages = (rows + cache->info->page - 1) / cache->info->page;
    if (pages > 0 && (!cache->view.k || !cache->view.v)) {
      *error = "cache '" + name + "' is missing";
      return false;
    }
    if (pages > inputs.page_stride || int64_t(s) * inputs.page_stride + pages > int64_t(inputs.page_table.size())) {
      *error = "the page table is too small for sequence " + std::to_string(s);
      return false;
    }
    for (int64_t i = 0; i < pages; ++i) {
      int64_t page = inputs.page_table[s * size_t(inputs.page_stride) + size_t(i)];
      if (page < 0 || (cache->view.pages > 0 && page >= cache->view.pages)) {
        *error = "sequence " + std::to_string(s) + " names page " + std::to_string(page) + " of '" + name + "'";
        return false;
      }
    }
  }
  return true;
}

bool checkSequences(const Inputs &inputs, std::string *error) {
  const std::vector<int32_t> &first = inputs.seq_first;
  bool good = first.size() >= 2 && inputs.seq_context.size() + 1 == first.size() && first.front() == 0 &&
              first.back() == inputs.tokens;
  for (size_t s = 0; good && s + 1 < first.size(); ++s) good = first[s] <= first[s + 1] && inputs.seq_context[s] >= 0;
  if (!good) *error = "seq_first and seq_context do not describe the tokens";
  return good;
}

} // namespace phasec_reference
