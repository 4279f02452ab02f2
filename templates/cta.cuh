// cta.cuh: where a thread block stands in the launch: its instance's table, the workspace, this step's tokens, the events.
#pragma once
#include "base.cuh"
#include "numeric.cuh"
#include "ptx.cuh"

/// The launch parameter: 64-bit table entries per instance, the workspace, and the calls (steps, counted over instances)
/// that this launch covers: all of them in a cooperative launch; a run without events when the device refused that.
struct Args {
  const u64 *table;
  u8 *workspace;
  i32 call_begin, call_end;
};

/// Words at the head of the workspace.
enum : int { kCounterEpoch = 0, kCounterExit = 1, kCounterRefused = 2 };

struct Cta {
  const u64 *launch_table; ///< of instance 0; also holds this step's arrays
  const u64 *table;        ///< of the instance being computed
  u8 *workspace;
  int cta, warp, lane;
  int tokens;              ///< of this step
  u32 round;               ///< launches this workspace has completed * occurrences of this body + its occurrence: what events count in
  i32 call_begin, call_end;

  PHASEC_DEVICE u32 *counters() const { return (u32 *)workspace; }
  PHASEC_DEVICE bool runs(int call) const { return call >= call_begin && call < call_end; }
};

/// A buffer that the host bound: entry `Entry` of the launch table.
template <class T, int Entry> struct Bound {
  using Type = T;
  using Word = T;
  PHASEC_DEVICE static T *at(const Cta &cta) { return (T *)cta.table[Entry]; }
};
/// A buffer inside the workspace.
template <class T, i64 Offset> struct Local {
  using Type = T;
  using Word = T;
  PHASEC_DEVICE static T *at(const Cta &cta) { return (T *)(cta.workspace + Offset); }
};
// What math/<math>.cuh provides: how many values of T four of which a word may hold it does hold, 4 or 1.
namespace math {
template <class T> struct Packed;
} // namespace math
namespace tagged {
template <class T, int Values> constexpr int kept() {
  if constexpr (Values == 4) return math::Packed<T>::values;
  else return Values;
}
template <int Values> struct WordOf {
  using Type = u64;
};
template <> struct WordOf<4> {
  using Type = Words4;
};
template <int Values> using Word = typename WordOf<Values>::Type;
} // namespace tagged
/// The same, in words that also hold the round in which they were written, so that who reads one can wait for it: `Values` of
/// them a word, one as fp32 or two as bf16 of 64 bits, or four as fp32 less its last byte, of 128, where math allows that. It costs no event:
/// no release, no acquire, and the wait brings the value.
template <class T, i64 Offset, int Values> struct Tagged {
  using Type = T;
  using Word = tagged::Word<tagged::kept<T, Values>()>;
  PHASEC_DEVICE static Word *at(const Cta &cta) { return (Word *)(cta.workspace + Offset); }
  PHASEC_DEVICE static u32 tag(const Cta &cta) { return cta.round + 1u; }
};
/// The absent buffer.
struct Absent {
  using Type = float;
  using Word = float;
  PHASEC_DEVICE static float *at(const Cta &) { return nullptr; }
};
template <class A, class B> inline constexpr bool is_same = false;
template <class A> inline constexpr bool is_same<A, A> = true;
template <class R> inline constexpr bool present = !is_same<R, Absent>;
/// Values of a word of R; 0 where R is not tagged.
template <class R> inline constexpr int tagged_values = 0;
template <class T, i64 Offset, int Values> inline constexpr int tagged_values<Tagged<T, Offset, Values>> = tagged::kept<T, Values>();

/// Whether R's words are tagged only between instances, and plain where they are the host's: see sequences.cuh.
template <class R> inline constexpr bool chained = false;

/// Splits n items over parts: the first item of part i. n * parts stays below 2^32 (the planner sees to it).
PHASEC_DEVICE int share(int n, int i, int parts) { return int(u32(n) * u32(i) / u32(parts)); }
/// The same where the larger shares come last.
PHASEC_DEVICE int share_rising(int n, int i, int parts) {
  int least = n / parts, even = parts - n % parts;
  return i * least + (i > even ? i - even : 0);
}

namespace tagged {

PHASEC_DEVICE bool there(u32 tag, u64 word) { return u32(word >> 32) == tag; }
PHASEC_DEVICE bool there(u32 tag, const Words4 &word) { return word.word[3] == tag; }
PHASEC_DEVICE bool there(const Cta &cta, u64 word) { return there(cta.round + 1u, word); }
PHASEC_DEVICE u64 load(const u64 *from) { return ptx::load_tagged(from); }
PHASEC_DEVICE Words4 load(const Words4 *from) {
  Words4 quad;
  ptx::load_quad(from->word, quad.word);
  return quad;
}
/// Value i of a word.
template <int Values> PHASEC_DEVICE float value(u64 word, int i) {
  u32 bits = u32(word);
  return ptx::from_bits(Values == 1 ? bits : i % 2 ? bits & 0xffff0000u : bits << 16);
}
template <int Values> PHASEC_DEVICE float value(const Words4 &word, int i) {
  const u32 *w = word.word;
  u32 first = w[0] << 8, second = ptx::permute(w[0], w[1], 0x5430u) & 0xffffff00u, third = ptx::permute(w[1], w[2], 0x4320u) & 0xffffff00u;
  return ptx::from_bits(i % 4 == 0 ? first : i % 4 == 1 ? second : i % 4 == 2 ? third : w[2] & 0xffffff00u);
}
/// Stores a word of two or four values.
PHASEC_DEVICE void store(const Cta &cta, u64 *to, const float (&v)[2]) {
  u32 pair = u32(numeric::to_bf16(v[0])) | u32(numeric::to_bf16(v[1])) << 16;
  ptx::store_tagged(to, ptx::from_bits(pair), cta.round + 1u);
}
PHASEC_DEVICE Words4 quad(const float (&v)[4], u32 tag) {
  u32 a = ptx::bits(v[0]), b = ptx::bits(v[1]), c = ptx::bits(v[2]), d = ptx::bits(v[3]);
  return Words4{{ptx::permute(a, b, 0x5321u), ptx::permute(b, c, 0x6532u), ptx::permute(c, d, 0x7653u), tag}};
}
/// Of four bf16.
PHASEC_DEVICE Words4 quad(const Words2 &v, u32 tag) {
  float of[4];
#pragma unroll
  for (int c = 0; c < 4; c++) of[c] = ptx::from_bits(c % 2 ? v.word[c / 2] & 0xffff0000u : v.word[c / 2] << 16);
  return quad(of, tag);
}
PHASEC_DEVICE void store(Words4 *to, const Words4 &quad) { ptx::store_quad(to->word, quad.word[0], quad.word[1], quad.word[2], quad.word[3]); }

} // namespace tagged

/// Element i of a buffer, rounded as the buffer's type is; one of a tagged word's several values cannot be stored alone.
template <class R> PHASEC_DEVICE void store(const Cta &cta, typename R::Word *to, float v) {
  if constexpr (tagged_values<R> == 1) {
    typename R::Type rounded;
    numeric::store(&rounded, v);
    ptx::store_tagged(to, numeric::load(&rounded), cta.round + 1u);
  } else {
    numeric::store(to, v);
  }
}
/// N elements of a buffer on their way.
template <class R, int N> struct Asked {
  static constexpr int values = tagged_values<R>, per_word = values > 1 ? values : 1;
  const typename R::Word *from[N];
  typename R::Word words[N];
  int within; ///< bits 2i and 2i + 1: which of its word element i is

  PHASEC_DEVICE void ask(const Cta &cta, const i64 (&at)[N]) {
    within = 0;
#pragma unroll
    for (int i = 0; i < N; i++) {
      from[i] = R::at(cta) + at[i] / per_word;
      within |= int(at[i] % per_word) << 2 * i;
    }
    if constexpr (chained<R>)
      if (R::plain(cta)) {
#pragma unroll
        for (int i = 0; i < N; i++) words[i] = R::word(cta, at[i] / per_word);
        return;
      }
    again();
  }
  /// The elements; waits for those that are tagged and not there.
  PHASEC_DEVICE void take(const Cta &cta, float (&v)[N]) {
    if constexpr (values > 0) {
      while (!there(cta)) {
        ptx::spin_pause();
        again();
      }
#pragma unroll
      for (int i = 0; i < N; i++) v[i] = tagged::value<values>(words[i], within >> 2 * i & 3);
    } else {
#pragma unroll
      for (int i = 0; i < N; i++) v[i] = numeric::load(&words[i]);
    }
  }

private:
  PHASEC_DEVICE void again() {
#pragma unroll
    for (int i = 0; i < N; i++)
      if constexpr (values > 0) words[i] = tagged::load(from[i]);
      else words[i] = *from[i];
  }
  PHASEC_DEVICE bool there(const Cta &cta) const {
    bool all = true;
    u32 tag = R::tag(cta);
#pragma unroll
    for (int i = 0; i < N; i++) all = all && tagged::there(tag, words[i]);
    return all;
  }
};
/// Elements at[0 .. N): all are asked for before the first is waited for.
template <class R, int N> PHASEC_DEVICE void load(const Cta &cta, const i64 (&at)[N], float (&v)[N]) {
  Asked<R, N> asked;
  asked.ask(cta, at);
  asked.take(cta, v);
}
template <class R> PHASEC_DEVICE float load(const Cta &cta, i64 at) {
  float v[1];
  load<R>(cta, {at}, v);
  return v[0];
}

namespace event {

/// Counters only grow: round r is complete when the counter has reached (r + 1) * arrivals, modulo 2^32. The signed
/// difference stays right across the wrap as long as a waiter is less than 2^31 arrivals behind.
PHASEC_DEVICE bool reached(const u32 *counter, u32 target) { return i32(ptx::load_acquire(counter) - target) >= 0; }

PHASEC_DEVICE void spin(const u32 *counter, u32 target) {
  while (!reached(counter, target)) ptx::spin_pause();
}

/// The whole CTA has written what the event promises: one arrival. All threads call.
template <class E> PHASEC_DEVICE void arrive(const Cta &cta) {
  ptx::sync_workers(E::threads);
  if (ptx::thread() == 0) ptx::arrive_release(cta.counters() + E::counter, 1u);
}

/// One warp has written its part of `slice`: `weight` arrivals. All lanes call.
template <class E> PHASEC_DEVICE void arrive_warp(const Cta &cta, int slice, u32 weight) {
  ptx::sync_warp();
  if (cta.lane == 0) ptx::arrive_release(cta.counters() + E::counter + slice, weight);
}

// Row tiles are many, and a release makes its warp wait until all that it wrote is out, behind the stream's bytes: a
// microsecond. So a step's warps only owe their arrivals, and the warp that leaves the step last settles for all of them.

/// What this CTA owes: a word per event counter, zero between steps.
template <class L> PHASEC_DEVICE u32 *owed(int counter) { return (u32 *)(ptx::shared_base() + L::owed_offset) + (counter - L::instance_counter); }
/// Warps that have left each step since the start of the launch.
template <class L> PHASEC_DEVICE u32 *left(int step) { return (u32 *)(ptx::shared_base() + L::left_offset) + step; }

/// All threads, before a barrier.
template <class L> PHASEC_DEVICE void open() {
  for (int i = ptx::thread(); i < L::owed_words; i += L::threads) *owed<L>(L::instance_counter + i) = 0;
  for (int i = ptx::thread(); i < L::steps; i += L::threads) *left<L>(i) = 0;
}

/// One warp has written its part of `slice` and leaves `weight` arrivals to settle(). All lanes call.
template <class E> PHASEC_DEVICE void owe(const Cta &cta, int slice, u32 weight) {
  ptx::sync_warp();
  if (cta.lane == 0) ptx::add_shared(owed<E>(E::counter + slice), weight);
}

template <class E> PHASEC_DEVICE void bring(const Cta &cta) {
  for (int slice = cta.lane; slice < E::slices; slice += 32) {
    u32 *n = owed<E>(E::counter + slice), weight = *n;
    if (weight == 0) continue;
    *n = 0;
    ptx::arrive_release(cta.counters() + E::counter + slice, weight);
  }
}

/// A warp leaves the step of G; the last one brings what the CTA owes to the events. All lanes of every working warp call.
template <class G, class... Events> PHASEC_DEVICE void settle(const Cta &cta) {
  ptx::sync_warp();
  u32 before = cta.lane == 0 ? ptx::add_shared(left<G>(G::step), 1u) : 0u;
  if ((ptx::shfl(before, 0) + 1u) % u32(G::warps) != 0) return;
  ptx::sync_warp(); // what lane 0 has acquired, all lanes have
  (bring<Events>(cta), ...);
}

/// Waits until everything that the event orders before `slice` is visible to the whole CTA. All threads call.
template <class E> PHASEC_DEVICE void await(const Cta &cta, int slice) {
  u32 arrivals = E::grid ? u32(ptx::ctas()) : u32(E::arrivals(slice));
  if (ptx::thread() == 0) spin(cta.counters() + E::counter + slice, (cta.round + 1u) * arrivals);
  ptx::sync_workers(E::threads);
}

/// True for the warp that arrives last of `n`, which leaves the counter at zero for its next use.
/// Everything the other arrivers wrote is then visible to this warp. All lanes call and agree.
PHASEC_DEVICE bool elect_warp(const Cta &cta, int counter, u32 n) {
  ptx::sync_warp();
  u32 old = 0;
  if (cta.lane == 0) old = ptx::turn_acq_rel(cta.counters() + counter, n - 1u);
  old = ptx::shfl(old, 0);
  return old == n - 1u;
}

/// The same for whole CTAs; `flag` is a word of shared memory.
template <class L> PHASEC_DEVICE bool elect_cta(const Cta &cta, int counter, u32 n, u32 *flag) {
  ptx::sync_workers(L::threads);
  if (ptx::thread() == 0) *flag = ptx::turn_acq_rel(cta.counters() + counter, n - 1u);
  ptx::sync_workers(L::threads);
  return *flag == n - 1u;
}

} // namespace event
