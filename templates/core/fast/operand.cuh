// operand.cuh (fast): what a GEMV multiplies its weights with, staged into shared memory slot by slot as 16-bit floats
// [tokens][stride], by every CTA for itself: a norm never costs an event. bf16 weights meet bf16. The others meet f16, and
// so that f16 covers bf16's range each token has a power of two per run of segments, which brings its largest magnitude
// to [2^14, 2^15). The RMS factor commutes with the sum: it is applied to finished rows, not to the operand.
#pragma once
#include "../../rms.cuh"
#include "float16.cuh"
#include "../../gemv.cuh"

namespace operand {

/// Whether columns of B have one block of k each.
template <class G> inline constexpr bool by_block = G::Format::block_scales && G::tokens <= 2;
/// What a column has outside of its block: as many zeros as a segment has k.
template <class G> PHASEC_DEVICE const u8 *zeros() { return ptx::shared_base() + G::zeros_offset; }

/// Scratch in shared memory: [tokens][segments] powers of two to undo, then [tokens][norm parts] sums of squares.
template <class G> PHASEC_DEVICE float *scales(const Cta &cta) { return (float *)(ptx::shared_base() + G::scratch_offset); }
template <class G> PHASEC_DEVICE float *squares(const Cta &cta) { return scales<G>(cta) + G::tokens * G::segments; }

/// Eight values of a row of n, from k on, as they lie: loaded without a branch and converted later, so that the loads of many
/// stay together. Rows of a multiple of eight are aligned for one load.
template <class T, int n> struct Eight {
  Words4 words[sizeof(T) / 2];

  PHASEC_DEVICE void load(const Cta &, const T *row, int k) {
    if constexpr (n % 8 == 0) {
      const Words4 *from = (const Words4 *)(row + (k < n ? k : 0));
#pragma unroll
      for (int i = 0; i < int(sizeof(T) / 2); i++) words[i] = from[i];
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++) put(i, row[k + i < n ? k + i : 0]);
    }
  }
  /// Zero from the row's end on.
  PHASEC_DEVICE float value(int k, int i) const {
    u32 word = sizeof(T) == 2 ? words[0].word[i / 2] : words[i / 4].word[i % 4];
    if (sizeof(T) == 2) word = i % 2 ? word & 0xffff0000u : word << 16;
    return (n % 8 == 0 ? k : k + i) < n ? ptx::from_bits(word) : 0.0f;
  }

private:
  PHASEC_DEVICE void put(int i, float v) { words[i / 4].word[i % 4] = ptx::bits(v); }
  PHASEC_DEVICE void put(int i, bf16 v) {
    u32 &word = words[0].word[i / 2];
    word = i % 2 ? word | u32(v.raw) << 16 : u32(v.raw);
  }
};
/// The same of a tagged row: the words may not be there yet.
template <class R, int n> struct TaggedEight {
  using Word = typename R::Word;
  static constexpr int Values = tagged_values<R>;
  Word words[8 / Values];

  PHASEC_DEVICE void load(const Cta &cta, const Word *row, int k) {
    if constexpr (chained<R>)
      if (R::plain(cta)) {
#pragma unroll
        for (int i = 0; i < 8 / Values; i++) words[i] = R::word(cta, (k < n ? k : 0) / Values + i);
        return;
      }
    const Word *from = row + (k < n ? k : 0) / Values;
#pragma unroll
    for (int i = 0; i < 8 / Values; i += 2)
      if constexpr (Values == 4) words[i] = tagged::load(from + i), words[i + 1] = tagged::load(from + i + 1);
      else ptx::load_tagged2(from + i, words[i], words[i + 1]);
  }
  PHASEC_DEVICE bool there(const Cta &cta) const {
    bool all = true;
    u32 tag = R::tag(cta);
#pragma unroll
    for (int i = 0; i < 8 / Values; i++) all = all && tagged::there(tag, words[i]);
    return all;
  }
  PHASEC_DEVICE float value(int k, int i) const { return k < n ? tagged::value<Values>(words[i / Values], i) : 0.0f; }
};
template <class R, int n, int Values = tagged_values<R>> struct EightOf {
  using Type = TaggedEight<R, n>;
};
template <class R, int n> struct EightOf<R, n, 0> {
  using Type = Eight<typename R::Type, n>;
};
template <class G> using EightX = typename EightOf<typename G::X, G::cols>::Type;
template <class G> PHASEC_DEVICE const typename G::X::Word *row_of(const Cta &cta, int token) {
  constexpr int values = tagged_values<typename G::X>;
  return G::X::at(cta) + (i64)token * G::cols / (values > 1 ? values : 1);
}

template <class Eight> PHASEC_DEVICE float sum_of_squares(const Eight &x, int k, float sum) {
#pragma unroll
  for (int i = 0; i < 8; i++) sum = ptx::fma(x.value(k, i), x.value(k, i), sum);
  return sum;
}

template <class G> static constexpr int runs();

/// What all transforms share: nothing is needed beside the values, nothing becomes of them, no factor behind the sum.
struct Plain {
  static constexpr bool norm = false;
  template <class G> struct Step {
    PHASEC_DEVICE void load(const Cta &, int) {}
    PHASEC_DEVICE void apply(int, float (&)[8]) const {}
  };
  template <class G> PHASEC_DEVICE static float finished(const Cta &, int, float v) { return v; }
};

/// y = x * gamma; finished sums take 1 / sqrt(mean(x^2) + eps) (Zhang and Sennrich, 2019).
struct Norm {
  static constexpr bool norm = true;
  /// Sums of squares per token: one per run of the only slot, else one per 512 columns.
  template <class G> static constexpr int parts() { return G::slots == 1 ? runs<G>() : (G::cols + 511) / 512; }

  template <class G> struct Step {
    using N = typename G::Transform;
    Eight<typename N::Gamma::Type, G::cols> gamma;
    PHASEC_DEVICE void load(const Cta &cta, int k) { gamma.load(cta, N::Gamma::at(cta), k); }
    PHASEC_DEVICE void apply(int k, float (&v)[8]) const {
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = v[i] * (N::one_plus ? 1.0f + gamma.value(k, i) : gamma.value(k, i));
    }
  };
  template <class G> PHASEC_DEVICE static float factor(const Cta &cta, const float *part) {
    float sum = part[0];
#pragma unroll
    for (int i = 1; i < parts<G>(); i++) sum = sum + part[i];
    return ptx::rsqrt_approx(ptx::fma(sum, 1.0f / float(G::cols), G::Transform::eps()));
  }
  template <class G> PHASEC_DEVICE static float finished(const Cta &cta, int token, float v) {
    return v * factor<G>(cta, squares<G>(cta) + token * parts<G>());
  }
  template <class G, int together> PHASEC_DEVICE static void load_jobs(const Cta &cta, int first, int jobs, EightX<G> (&x)[together][2]) {
    constexpr int n = parts<G>();
#pragma unroll
    for (int i = 0; i < together; i++) {
      int job = first + i * G::warps < jobs ? first + i * G::warps : first, k = job % n * 512 + cta.lane * 8;
      x[i][0].load(cta, row_of<G>(cta, job / n), k), x[i][1].load(cta, row_of<G>(cta, job / n), k + 256);
    }
  }
  /// All K of every token, for a slot that holds only some of it. Each wait for memory is long and a store to shared memory
  /// ends what may be loaded ahead: several jobs' loads are asked for together.
  template <class G> PHASEC_DEVICE static void square_all(const Cta &cta) {
    constexpr int n = parts<G>(), together = G::tokens > 2 ? 4 : 1;
    int jobs = cta.tokens * n;
#pragma unroll 1
    for (int first = cta.warp; first < jobs; first += together * G::warps) {
      EightX<G> x[together][2];
      load_jobs<G>(cta, first, jobs, x);
      ptx::sync_warp(); // no load is put off until it is needed
      if constexpr (tagged_values<typename G::X> > 0) {
        for (;;) {
          bool all = true;
#pragma unroll
          for (int i = 0; i < together; i++) all = all && x[i][0].there(cta) && x[i][1].there(cta);
          if (!ptx::any(!all)) break;
          ptx::spin_pause();
          load_jobs<G>(cta, first, jobs, x);
        }
      }
#pragma unroll
      for (int i = 0; i < together; i++) {
        int job = first + i * G::warps, k = job % n * 512 + cta.lane * 8;
        float sum = ptx::butterfly_sum(sum_of_squares(x[i][1], k + 256, sum_of_squares(x[i][0], k, 0.0f)));
        if (cta.lane == 0 && job < jobs) squares<G>(cta)[job] = sum;
      }
    }
  }
};

/// NVFP4 activations: per 16 values (two lanes) the scale amax / 6 in e4m3, the values re-quantised to e2m1; staged as their
/// products, which f16 and bf16 hold exactly.
struct QuantNvfp4 : Plain {
  template <class G> struct Step : Plain::Step<G> {
    PHASEC_DEVICE void apply(int, float (&v)[8]) const {
      float amax = 0.0f;
#pragma unroll
      for (int i = 0; i < 8; i++) amax = ptx::max(amax, ptx::abs(v[i]));
      amax = ptx::max(amax, ptx::from_bits(ptx::shfl_xor(ptx::bits(amax), 1)));
      float scale = numeric::from_e4m3(numeric::to_e4m3(ptx::div(amax, 6.0f)));
#pragma unroll
      for (int i = 0; i < 8; i++)
        v[i] = scale == 0.0f ? 0.0f : numeric::from_e2m1(numeric::to_e2m1(ptx::div(v[i], scale))) * scale;
    }
  };
};

/// Segments that are staged together and share a power of two: as many as leave work for every warp, up to a thousand k,
/// so that a warp has many loads under way.
template <class G> static constexpr int run_segments() {
  int n = 1;
  while ((n + 1) * G::segment_granules * gemv::kGranuleK <= 1024 && n < G::segments &&
         G::tokens * ((G::segments + n) / (n + 1)) >= G::warps)
    n++;
  return n;
}
template <class G> static constexpr int runs() { return (G::segments + run_segments<G>() - 1) / run_segments<G>(); }

/// One run of one token on its way to shared memory. One warp.
template <class G> struct Staging {
  using Transform = typename G::Transform;
  enum : int { kSteps = (run_segments<G>() * G::segment_granules * gemv::kGranuleK + 255) / 256 };
  EightX<G> x[kSteps];
  typename Transform::template Step<G> steps[kSteps];
  int token, run, first, last, begin, width; ///< segments [first, last); k of the first, and how many

  PHASEC_DEVICE void load(const Cta &cta, int slot, int job) {
    token = job / runs<G>(), run = job % runs<G>();
    first = run * run_segments<G>(), last = first + run_segments<G>() < G::segments ? first + run_segments<G>() : G::segments;
    begin = gemv::segment_row<G>(slot, first).granule_begin * gemv::kGranuleK;
    width = gemv::segment_row<G>(slot, last - 1).granule_end * gemv::kGranuleK - begin;
#pragma unroll
    for (int i = 0; i < kSteps; i++) x[i].load(cta, row_of<G>(cta, token), k(cta, i));
#pragma unroll
    for (int i = 0; i < kSteps; i++) steps[i].load(cta, k(cta, i));
  }
  PHASEC_DEVICE bool there(const Cta &cta) const {
    bool all = true;
#pragma unroll
    for (int i = 0; i < kSteps; i++) all = all && x[i].there(cta);
    return all;
  }
  /// Asks for what was not there: every CTA asks for the same words, and they queue up with the stream.
  PHASEC_DEVICE void again(const Cta &cta) {
#pragma unroll
    for (int i = 0; i < kSteps; i++)
      if (!x[i].there(cta)) x[i].load(cta, row_of<G>(cta, token), k(cta, i));
  }
  /// Transforms, scales and stores what was loaded.
  PHASEC_DEVICE void store(const Cta &cta, int slot) {
    float v[kSteps][8], sum = 0.0f, amax = 0.0f;
#pragma unroll
    for (int i = 0; i < kSteps; i++) {
      if (Transform::norm && G::slots == 1) sum = sum_of_squares(x[i], k(cta, i), sum);
#pragma unroll
      for (int j = 0; j < 8; j++) v[i][j] = x[i].value(k(cta, i), j);
      steps[i].apply(k(cta, i), v[i]);
#pragma unroll
      for (int j = 0; j < 8; j++) amax = ptx::max(amax, ptx::abs(v[i][j]));
    }
    if (Transform::norm && G::slots == 1) {
      sum = ptx::butterfly_sum(sum);
      if (cta.lane == 0) squares<G>(cta)[token * Norm::parts<G>() + run] = sum;
    }
    float power = 1.0f;
    if constexpr (G::Format::f16_operand) power = power_for(cta, ptx::butterfly_max(amax));
    int offset = begin - gemv::slot_begin<G>(slot);
#pragma unroll
    for (int i = 0; i < kSteps; i++) {
      int in = i * 256 + cta.lane * 8;
#pragma unroll
      for (int j = 0; j < 8; j++) v[i][j] = v[i][j] * power;
      if (in < width) put(cta, offset + in, v[i]);
    }
  }

private:
  /// The lane's k of step i; behind the row's end where the run has no more.
  PHASEC_DEVICE int k(const Cta &cta, int i) const {
    int in = i * 256 + cta.lane * 8;
    return in < width ? begin + in : int(G::cols);
  }
  /// The power of two that the run is multiplied with, and what undoes it.
  PHASEC_DEVICE float power_for(const Cta &cta, float amax) const {
    float power = float16::power_for(amax);
    for (int fold = first + cta.lane; fold < last; fold += 32)
      scales<G>(cta)[token * G::segments + fold] = float16::inverse(power) * G::Format::unit();
    return power;
  }
  PHASEC_DEVICE void put(const Cta &cta, int k, const float (&x)[8]) const {
    Words4 w;
#pragma unroll
    for (int j = 0; j < 4; j++)
      w.word[j] = G::Format::f16_operand ? ptx::to_f16x2(x[2 * j], x[2 * j + 1]) : ptx::to_bf16x2(x[2 * j], x[2 * j + 1]);
    *(Words4 *)(gemv::staged<G>(cta) + token * G::operand_stride + k) = w;
  }
};

/// Several runs are loaded together where there are more than warps, as in Norm::square_all.
template <class G> static constexpr int together() { return G::tokens * runs<G>() > G::warps && Staging<G>::kSteps <= 4 ? 2 : 1; }
/// Registers of a warp's loads of the operand.
template <class G> static constexpr int words_loaded() { return together<G>() * Staging<G>::kSteps * int(sizeof(EightX<G>)) / 4; }

template <class G, class Idle> PHASEC_DEVICE void stage(const Cta &cta, int slot, bool first, const Idle &idle) {
  constexpr int together = operand::together<G>();
  if constexpr (G::Transform::norm && G::slots > 1)
    if (first) Norm::square_all<G>(cta);
  int jobs = cta.tokens * runs<G>();
#pragma unroll 1
  for (int job = cta.warp; job < jobs; job += together * G::warps) {
    Staging<G> staging[together];
#pragma unroll
    for (int i = 0; i < together; i++) staging[i].load(cta, slot, job + i * G::warps < jobs ? job + i * G::warps : job);
    ptx::sync_warp(); // no load is put off until it is needed
    if constexpr (tagged_values<typename G::X> > 0) {
      for (;;) {
        bool all = true;
#pragma unroll
        for (int i = 0; i < together; i++) all = all && staging[i].there(cta);
        if (!ptx::any(!all)) break;
        idle();
        ptx::spin_pause();
#pragma unroll
        for (int i = 0; i < together; i++) staging[i].again(cta);
      }
    }
#pragma unroll
    for (int i = 0; i < together; i++)
      if (job + i * G::warps < jobs) staging[i].store(cta, slot);
  }
}

} // namespace operand
