// sequences.cuh: which sequence and position a token has, and where a row lies in a paged KV cache.
#pragma once
#include "cta.cuh"

namespace sequences {

/// Rows and sequences of this step, as the host gives them.
template <class L> PHASEC_DEVICE const i32 *step_counts(const Cta &cta) { return (const i32 *)cta.launch_table[L::step_counts]; }
/// What this step is, as launch::open copies it into shared memory; S::step_offset says where.
struct StepArrays {
  const i32 *pages;
  i64 page_stride; ///< pages of a sequence
  u32 epoch;       ///< launches that this workspace has completed
  i32 tokens, count;
  u32 instance;    ///< that is computed: a register would hold it around everything
  i32 first[17], context[16];
};
template <class S> PHASEC_DEVICE StepArrays *arrays() { return (StepArrays *)(ptx::shared_base() + S::step_offset); }
template <class S> PHASEC_DEVICE int count() { return arrays<S>()->count; }
template <class S> PHASEC_DEVICE const i32 *first(const Cta &) { return arrays<S>()->first; }
template <class S> PHASEC_DEVICE const i32 *context(const Cta &) { return arrays<S>()->context; }

/// Instances of all launches of this workspace before the one that is computed.
template <class L> PHASEC_DEVICE u32 instances_before() { return arrays<L>()->epoch * u32(L::instances) + arrays<L>()->instance; }

/// The sequence that owns `token`.
template <class S> PHASEC_DEVICE int of_token(const Cta &cta, int token) {
  const i32 *f = first<S>(cta);
  int s = 0;
  while (s + 1 < count<S>() && f[s + 1] <= token) s++;
  return s;
}

/// Where the rows of one sequence and KV head lie in a cache.
template <class S> struct Rows {
  const i32 *pages;
  i64 page_stride, head_offset;
  u32 row_stride; ///< a page stays below 4 GiB

  PHASEC_DEVICE Rows(const u64 *table, int s, int head) {
    pages = arrays<S>()->pages + (i64)s * arrays<S>()->page_stride;
    page_stride = (i64)table[S::page_stride];
    row_stride = u32(table[S::row_stride]);
    head_offset = (i64)head * (i64)table[S::head_stride];
  }
  PHASEC_DEVICE i32 page(int row) const { return pages[row / S::page]; }
  /// Byte offset relative to the K or V base of a row in a page.
  PHASEC_DEVICE i64 offset(int row, i32 page) const { return (i64)page * page_stride + (head_offset + u32(row % S::page) * row_stride); }
  PHASEC_DEVICE i64 offset(int row) const { return offset(row, page(row)); }
};

} // namespace sequences

/// What an instance hands to the next one, for one token: entry `Entry` of the table, four values of bf16 a word with the number of instances up to
/// the one that wrote them. `Out`: this instance writes it. The first instance reads the host's plain values, and the last one writes such.
template <class L, int Entry, bool Out> struct Chained {
  using Type = bf16;
  using Word = Words4;
  static_assert(L::tokens == 1, "the next instance may begin while tokens of this one are not there");
  PHASEC_DEVICE static Word *at(const Cta &cta) { return (Word *)cta.table[Entry]; }
  PHASEC_DEVICE static u32 tag(const Cta &) { return sequences::instances_before<L>() + (Out ? 1u : 0u); }
  PHASEC_DEVICE static bool plain(const Cta &) { return sequences::arrays<L>()->instance == u32(Out ? L::instances - 1 : 0); }
  /// The host's values 4 i and on, as a word.
  PHASEC_DEVICE static Word word(const Cta &cta, i64 i) { return tagged::quad(((const Words2 *)at(cta))[i], tag(cta)); }
};
template <class L, int Entry, bool Out> inline constexpr int tagged_values<Chained<L, Entry, Out>> = 4;
template <class L, int Entry, bool Out> inline constexpr bool chained<Chained<L, Entry, Out>> = true;
