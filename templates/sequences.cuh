// sequences.cuh: which sequence and position a token has, and where a row lies in a paged KV cache.
#pragma once
#include "cta.cuh"

namespace sequences {

/// Accessors of the step's arrays; S names their table entries.
template <class S> PHASEC_DEVICE const i32 *first(const Cta &cta) { return (const i32 *)cta.launch_table[S::seq_first]; }
template <class S> PHASEC_DEVICE const i32 *context(const Cta &cta) { return (const i32 *)cta.launch_table[S::seq_context]; }

/// The sequence that owns `token`.
template <class S> PHASEC_DEVICE int of_token(const Cta &cta, int token) {
  const i32 *f = first<S>(cta);
  int s = 0;
  while (s + 1 < cta.sequences && f[s + 1] <= token) s++;
  return s;
}

/// Where the rows of one sequence and KV head lie in a cache.
template <class S> struct Rows {
  const i32 *pages;
  i64 page_stride, head_offset;
  u32 row_stride; ///< a page stays below 4 GiB

  PHASEC_DEVICE Rows(const Cta &cta, const u64 *table, int s, int head) {
    pages = (const i32 *)cta.launch_table[S::page_table] + (i64)s * (i64)cta.launch_table[S::page_table_stride];
    page_stride = (i64)table[S::page_stride];
    row_stride = u32(table[S::row_stride]);
    head_offset = (i64)head * (i64)table[S::head_stride];
  }
  /// Byte offset relative to the K or V base.
  PHASEC_DEVICE i64 offset(int row) const {
    return (i64)pages[row / S::page] * page_stride + (head_offset + u32(row % S::page) * row_stride);
  }
};

/// Byte offset of row `row` of sequence `s` for KV head `head`, relative to the K or V base of a cache.
template <class S> PHASEC_DEVICE i64 row_offset(const Cta &cta, const u64 *table, int s, int row, int head) {
  return Rows<S>(cta, table, s, head).offset(row);
}

} // namespace sequences
