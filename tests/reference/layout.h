// Accessors of checkpoint layouts: weight matrices, vectors, paged caches.
#ifndef PHASEC_TESTS_REFERENCE_LAYOUT_H
#define PHASEC_TESTS_REFERENCE_LAYOUT_H

#include "tests/reference/kernels.h"
#include "tests/reference/plan.h"
#include "tests/reference/reference.h"

namespace phasec_reference {

// Offset of a block scale in the 128x4-swizzled layout of a matrix with `scale_cols` scales per row.
int64_t swizzledOffset(int64_t row, int64_t scale_col, int64_t scale_cols);

struct Matrix {
  const ValueInfo *info = nullptr;
  int64_t rows = 0, cols = 0;
  const uint8_t *data = nullptr;
  const uint8_t *block_scales = nullptr;
  std::vector<float> scale; // the global, tensor or row scales

  // Columns [begin, end) of a row without the slot scale; for nvfp4 both are multiples of 16.
  void decode(const Kernels &kernels, int64_t row, int64_t begin, int64_t end, float *out) const;

  // A slot's sum with its scale.
  template <class Real> Real scaled(Real value, int64_t row) const {
    if (scale.empty()) return value;
    Real factor = Real(scale[scale.size() == 1 ? 0 : size_t(row)]);
    return info->divide ? value / factor : value * factor;
  }
};

// One sequence-independent view of a paged cache, with the rows of this step where the layer computed them.
struct CacheRows {
  const ValueInfo *info = nullptr;
  CacheView view;
  const Inputs *inputs = nullptr;
  const std::vector<uint8_t> *fresh_k = nullptr, *fresh_v = nullptr; // [tokens][kv_heads][head_dim], or null
  int64_t kv_heads = 0, head_dim = 0;
  float k_scale = 1, v_scale = 1;

  bool fp8() const { return info->format == "fp8_e4m3"; }
  int64_t elementBytes() const { return fp8() ? 1 : 2; }
  // Row `row` of a sequence (its position), K or V, without the cache scale.
  void decode(const Kernels &kernels, int64_t sequence, int64_t row, int64_t head, bool values, float *out) const;
};

// All of these say in *error what is missing or too small.
bool findView(const Inputs &inputs, const std::string &name, size_t bytes, const uint8_t **data, std::string *error);
bool bindMatrix(const Inputs &inputs, const std::string &prefix, const ValueInfo &info, Matrix *matrix,
                std::string *error);
bool loadVector(const Inputs &inputs, const std::string &prefix, const ValueInfo &info, std::vector<float> *out,
                std::string *error);
// Scales only: enough for the phase that makes rows.
bool bindCache(const Inputs &inputs, const std::string &prefix, const ValueInfo &info, int64_t kv_heads,
               int64_t head_dim, CacheRows *cache, std::string *error);
// The base pointers, and a valid page for every row that attention will read from memory.
bool bindPages(const std::string &prefix, CacheRows *cache, std::string *error);
// seq_first and seq_context describe all tokens.
bool checkSequences(const Inputs &inputs, std::string *error);

void decodeValues(const Kernels &kernels, const std::string &format, const uint8_t *bytes, int64_t n, float *out);

} // namespace phasec_reference

#endif
