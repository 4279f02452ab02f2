// inputs.h: seeded inputs of a launch on the host, in checkpoint layout: what `phasec run` feeds the kernel and the reference.
//
// The data is meant to hurt: nothing is uniform, pages lie in permuted order between guard pages, strides are padded (save in `phasec bench`), rows
// that nobody may read are NaN, scales are no powers of two, and with `outliers` 3e6 stands beside 1e-3.
#pragma once

#include "compiler/plan.h"
#include "tests/reference/reference.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace phasec::cli {

struct InputOptions {
  uint64_t seed = 1;
  int tokens = 0;                    ///< 0: three, or as many as there are sequences, or what the kernel takes
  std::vector<int> contexts;         ///< rows in the cache before this step, per sequence; empty: 1 and 65
  std::vector<int> tokens_per_seq;   ///< empty: spread evenly, the first sequences get more
  bool outliers = false;
  bool plain_scales = false;         ///< weight and cache scales are powers of two, so that bf16 holds every value exactly
  bool padded = true;                ///< sixteen bytes lie between a cache's rows, heads and pages; else none, as engines lay caches
  int instances = 0;                 ///< only the first so many have arrays and caches; 0: all
};

/// One instance's paged cache. Joint: `v` is empty, V lies v_offset bytes behind K in every page of `k`.
struct HostCache {
  std::string dtype;
  int page = 0;
  std::vector<uint8_t> k, v;
  int64_t v_offset = 0, page_stride = 0, row_stride = 0, head_stride = 0; ///< bytes
  int64_t row_bytes = 0, heads = 0;
  float scales[2] = {1, 1};

  const uint8_t *vBase() const { return v.empty() ? k.data() + v_offset : v.data(); }
};

struct HostInputs {
  std::map<std::string, std::vector<uint8_t>> arrays; ///< "0/x", "0/w_o", "0/w_o.scales" (blocks), "0/w_o.scale" (fp32)
  std::map<std::string, HostCache> caches;            ///< "0/kv"
  std::vector<int32_t> counts, seq_first, seq_context, page_table;
  int page_stride = 1; ///< of the page table, in entries
  int pages = 0;       ///< of each cache

  int tokens() const { return counts[0]; }
  int sequences() const { return counts[1]; }
  /// The page of row `row` of a sequence.
  int page(int sequence, int row, int rows_per_page) const { return page_table[size_t(sequence * page_stride + row / rows_per_page)]; }
  /// Borrowed; valid as long as this is.
  phasec_reference::Inputs view() const;
};

/// ErrorKind::Input when the step does not fit the kernel: too many tokens, positions beyond the rotary table, ...
Result<HostInputs> makeInputs(const Plan &plan, const ir::Module &module, const InputOptions &options);

} // namespace phasec::cli
