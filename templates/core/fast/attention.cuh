// attention.cuh (fast): softmax(q k) v sixteen rows at a time on the tensor cores, with a running maximum (Dao, 2022). K is
// the A operand (16 rows), the eight queries are B; then V transposed is A (16 dims), the weights are B. fp8 rows become f16,
// and each query has a power of two of its own so that f16 covers bf16's range; bf16 rows meet bf16. Scores are in units of
// log2.
#pragma once
#include "../../phases/attn.cuh"
#include "float16.cuh"

namespace core {

template <class H> struct Attention {
  static constexpr bool f16 = sizeof(typename H::Row) == 1;
  static constexpr int per_word = 4 / int(sizeof(typename H::Row)), per_chunk = 4 * per_word; ///< elements of 4 and 16 bytes
  static constexpr int chunks = H::row_bytes / 16;        ///< 16-byte pieces of a row
  static constexpr int k_groups = (chunks + 3) / 4;       ///< four lanes take a chunk each
  static constexpr int pieces = H::row_bytes / 8, per_piece = 2 * per_word; ///< of eight bytes, and their elements
  static constexpr int v_groups = (pieces + 15) / 16;     ///< sixteen rows of an mma take a piece each
  static constexpr int query_stride = k_groups * 4 * per_chunk + 8; ///< 16-bit values; the pad spreads pairs over banks
  static constexpr int groups = v_groups * per_piece * 64; ///< of two values: what a lane has of one mma and pair

  float acc[v_groups][per_piece][4]; ///< [..][t]: dims t of pieces g and g + 8, of pairs 2 own and + 1
  float max[2], sum[2];              ///< of pairs 2 own and + 1; sums are this lane's rows only

  /// Behind the queries: per pair the factor of its scores and the last row that it sees.
  struct PairConstant {
    float scale;
    int limit;
  };
  PHASEC_DEVICE static PairConstant *constants(const Cta &cta) {
    return (PairConstant *)((u16 *)(ptx::shared_base() + H::queries_offset) + attn::kPairs * query_stride);
  }

  /// The query of a pair as 16-bit floats, and the factor of its scores. Pairs behind the tile's last see no row, whatever their
  /// scores. A warp a pair.
  PHASEC_DEVICE void stage(const Cta &cta, const attn::Unit &u) const {
    u16 *to = (u16 *)(ptx::shared_base() + H::queries_offset);
    float k_scale = H::kv_scales < 0 ? 1.0f : ((const float *)cta.table[H::kv_scales < 0 ? 0 : H::kv_scales])[0];
    constexpr int lane_dims = (query_stride + 31) / 32;
    for (int p = cta.warp; p < attn::kPairs; p += H::warps) {
      if (cta.lane == 0 && p >= u.pairs) constants(cta)[p] = PairConstant{0.0f, -1};
      if (p >= u.pairs) continue;
      heads::Head<H> q = attn::query<H>(cta, u, p);
      float x[lane_dims], amax = 0.0f;
#pragma unroll
      for (int j = 0; j < lane_dims; j++) {
        x[j] = j < q.dims ? q.v[j < q.dims ? j : 0] : 0.0f;
        amax = ptx::max(amax, ptx::abs(x[j]));
      }
      float power = f16 ? float16::power_for(ptx::butterfly_max(amax)) : 1.0f;
#pragma unroll
      for (int j = 0; j < lane_dims; j++)
        if (cta.lane + 32 * j < query_stride)
          to[p * query_stride + cta.lane + 32 * j] = u16(f16 ? ptx::to_f16x2(x[j] * power, 0.0f) : ptx::to_bf16x2(x[j], 0.0f));
      int limit = u.context + (u.tile * attn::kPairs + p) / H::group;
      if (cta.lane == 0) constants(cta)[p] = PairConstant{H::scale() * math::kLog2e * k_scale * float16::inverse(power), limit};
    }
  }

  PHASEC_DEVICE void open(const Cta &, const attn::Unit &) {
    max[0] = max[1] = -math::infinity();
    sum[0] = sum[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < v_groups; i++)
#pragma unroll
      for (int t = 0; t < per_piece; t++)
#pragma unroll
        for (int c = 0; c < 4; c++) acc[i][t][c] = 0.0f;
  }

  /// Appends at most sixteen rows from row0 on. One warp.
  PHASEC_DEVICE void attend(const Cta &cta, const u8 *k, const u8 *v, int row0, int rows) {
    float s[4];
    scores(cta, k, s);
    int g = cta.lane >> 2, own = cta.lane & 3;
    float alpha[2];
#pragma unroll
    for (int c = 0; c < 2; c++) {
      PairConstant pair = constants(cta)[2 * own + c];
      float low = g < rows && row0 + g <= pair.limit ? s[c] * pair.scale : -math::infinity();
      float high = g + 8 < rows && row0 + g + 8 <= pair.limit ? s[c + 2] * pair.scale : -math::infinity();
      float m = ptx::max(max[c], ptx::max(low, high));
#pragma unroll
      for (int lanes = 4; lanes <= 16; lanes *= 2) m = ptx::max(m, ptx::from_bits(ptx::shfl_xor(ptx::bits(m), lanes)));
      float base = m == -math::infinity() ? 0.0f : m;
      alpha[c] = math::exp2(max[c] - base);
      max[c] = m;
      s[c] = math::exp2(low - base);
      s[c + 2] = math::exp2(high - base);
      sum[c] = ptx::fma(sum[c], alpha[c], s[c] + s[c + 2]);
    }
    scale(alpha);
    u32 low = f16 ? ptx::to_f16x2(s[0], s[1]) : ptx::to_bf16x2(s[0], s[1]);
    u32 high = f16 ? ptx::to_f16x2(s[2], s[3]) : ptx::to_bf16x2(s[2], s[3]);
    weigh(cta, v, rows, ptx::transpose(low), ptx::transpose(high));
  }

  /// Appends the state that `from` holds. One warp; put() has added up the sums there.
  PHASEC_DEVICE void append(const Cta &cta, const float *from) {
    int g = cta.lane >> 2, own = cta.lane & 3;
    float fb[2], fa[2];
#pragma unroll
    for (int c = 0; c < 2; c++) {
      float other = from[2 * (2 * own + c)], m = ptx::max(max[c], other), base = m == -math::infinity() ? 0.0f : m;
      fa[c] = math::exp2(max[c] - base);
      fb[c] = math::exp2(other - base);
      sum[c] = sum[c] * fa[c] + (g == 0 ? from[2 * (2 * own + c) + 1] * fb[c] : 0.0f);
      max[c] = m;
    }
#pragma unroll
    for (int i = 0; i < v_groups; i++) {
      if (i > 0) ptx::sync_warp(); // no more loads under way than there are registers
#pragma unroll
      for (int n = 0; n < per_piece; n++) {
        Words4 other = ((const Words4 *)(from + attn::States<H>::kHead))[(i * per_piece + n) * 32 + cta.lane];
#pragma unroll
        for (int w = 0; w < 4; w++) {
          float &v = acc[i][n / 2 * 2 + w % 2][w / 2 + n % 2 * 2];
          v = ptx::fma(ptx::from_bits(other.word[w]), fb[w / 2], v * fa[w / 2]);
        }
      }
    }
  }

  /// In memory: [v group][dims t and t + 1 of piece g, of piece g + 8, for every second t][lane][pair of two][dim of two]. One warp.
  PHASEC_DEVICE void put(const Cta &cta, float *to) const {
    int g = cta.lane >> 2, own = cta.lane & 3;
#pragma unroll
    for (int c = 0; c < 2; c++) {
      float all = sum[c];
#pragma unroll
      for (int lanes = 4; lanes <= 16; lanes *= 2) all = all + ptx::from_bits(ptx::shfl_xor(ptx::bits(all), lanes));
      if (g == 0) {
        to[2 * (2 * own + c)] = max[c];
        to[2 * (2 * own + c) + 1] = all;
      }
    }
#pragma unroll
    for (int i = 0; i < v_groups; i++)
#pragma unroll
      for (int n = 0; n < per_piece; n++) {
        Words4 words;
#pragma unroll
        for (int w = 0; w < 4; w++) words.word[w] = ptx::bits(acc[i][n / 2 * 2 + w % 2][w / 2 + n % 2 * 2]);
        ((Words4 *)(to + attn::States<H>::kHead))[(i * per_piece + n) * 32 + cta.lane] = words;
      }
  }

  // What follows works on states in memory, two values of a pair at a time. All threads of a CTA share the groups.
  struct Group {
    float max, sum, value[2];

    PHASEC_DEVICE void clear() {
      max = -math::infinity();
      sum = value[0] = value[1] = 0.0f;
    }
    /// Appends n <= N states.
    template <int N> PHASEC_DEVICE void append(const Group (&states)[N], int n = N) {
      float most = max;
#pragma unroll
      for (int s = 0; s < N; s++) most = ptx::max(most, s < n ? states[s].max : most);
      float base = most == -math::infinity() ? 0.0f : most, by = math::exp2(max - base);
      max = most;
      sum = sum * by;
      value[0] = value[0] * by;
      value[1] = value[1] * by;
#pragma unroll
      for (int s = 0; s < N; s++) {
        by = s < n ? math::exp2(states[s].max - base) : 0.0f;
        sum = ptx::fma(s < n ? states[s].sum : 0.0f, by, sum);
        value[0] = ptx::fma(s < n ? states[s].value[0] : 0.0f, by, value[0]);
        value[1] = ptx::fma(s < n ? states[s].value[1] : 0.0f, by, value[1]);
      }
    }
  };

  PHASEC_DEVICE static Group merge_warps(const float *states, int i) {
    Group group, of[attn::States<H>::kCount];
    group.clear();
#pragma unroll
    for (int s = 0; s < attn::States<H>::kCount; s++) {
      const float *state = states + s * H::state_floats;
      Words2 head = ((const Words2 *)state)[pair(i, 0)], v = ((const Words2 *)(state + attn::States<H>::kHead))[i];
      of[s] = Group{ptx::from_bits(head.word[0]), ptx::from_bits(head.word[1]), {ptx::from_bits(v.word[0]), ptx::from_bits(v.word[1])}};
    }
    group.append(of);
    return group;
  }
  /// Of states in tagged words: four are asked for at once, and `parts` neighbouring lanes take four each, so that all have one
  /// trip to memory. The first of them has the sum. All lanes.
  enum : int { kStates = 4 };
  PHASEC_DEVICE static int merge_parts(int count) { return count <= kStates ? 1 : count <= 2 * kStates ? 2 : count <= 4 * kStates ? 4 : 8; }
  PHASEC_DEVICE static Group merge_chunks(const Cta &cta, const u64 *chunks, int count, int i, int part, int parts) {
    constexpr int N = kStates;
    Group group;
    group.clear();
#pragma unroll 1
    for (int c = part * N; c < count; c += parts * N) {
      u64 head[N][2], v[N][2];
      bool all = false;
      while (!all) {
        all = true;
#pragma unroll
        for (int s = 0; s < N; s++) {
          const u64 *state = chunks + (c + s < count ? c + s : c) * H::state_floats;
          ptx::load_tagged2(state + 2 * pair(i, 0), head[s][0], head[s][1]);
          ptx::load_tagged2(state + attn::States<H>::kHead + 2 * i, v[s][0], v[s][1]);
        }
#pragma unroll
        for (int s = 0; s < N; s++)
          all = all && tagged::there(cta, head[s][0]) && tagged::there(cta, head[s][1]) && tagged::there(cta, v[s][0]) && tagged::there(cta, v[s][1]);
        if (!all) ptx::spin_pause();
      }
      Group of[N];
#pragma unroll
      for (int s = 0; s < N; s++)
        of[s] = Group{ptx::from_bits(u32(head[s][0])), ptx::from_bits(u32(head[s][1])), {ptx::from_bits(u32(v[s][0])), ptx::from_bits(u32(v[s][1]))}};
      group.append(of, count - c);
    }
#pragma unroll 1
    for (int apart = 1; apart < parts; apart *= 2) { // in order: a lane's chunks come before those of the lane it takes from
      auto from = [&](float v) { return ptx::from_bits(ptx::shfl(ptx::bits(v), (cta.lane + apart) & 31)); };
      Group other[1] = {{from(group.max), from(group.sum), {from(group.value[0]), from(group.value[1])}}};
      if (part % (2 * apart) == 0) group.append(other);
    }
    return group;
  }
  PHASEC_DEVICE static void store(const Cta &cta, const Group &group, u64 *to, int i) {
    u32 tag = cta.round + 1u;
    ptx::store_tagged2(to + attn::States<H>::kHead + 2 * i, group.value[0], group.value[1], tag);
    if (i < attn::kPairs) ptx::store_tagged2(to + 2 * i, group.max, group.sum, tag); // group i is of pair i
  }
  /// The n-th group of those whose pair is one of `pairs`.
  PHASEC_DEVICE static int group_of(int n, int pairs) { return n / pairs * attn::kPairs + n % pairs; }
  /// The pair and dim of value c of group i.
  PHASEC_DEVICE static int pair(int i, int) { return i % attn::kPairs; }
  PHASEC_DEVICE static int dim(int i, int c) {
    int lane = i / 2 % 32, n = i / 64;
    return (n / per_piece * 16 + lane / 4 + n % 2 * 8) * per_piece + n % per_piece / 2 * 2 + c;
  }
  static constexpr int group_values = 2;
  PHASEC_DEVICE static attn::Part part(const Group &group, int c) { return attn::Part{group.max, group.sum, group.value[c]}; }

private:
  PHASEC_DEVICE void scale(const float (&by)[2]) {
#pragma unroll
    for (int i = 0; i < v_groups; i++)
#pragma unroll
      for (int t = 0; t < per_piece; t++)
#pragma unroll
        for (int c = 0; c < 4; c++) acc[i][t][c] = acc[i][t][c] * by[c % 2];
  }

  PHASEC_DEVICE static void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    if constexpr (f16) ptx::mma_f16(c, a, b0, b1);
    else ptx::mma_bf16(c, a, b0, b1);
  }

  /// s = q k of rows g and g + 8 with pairs 2 own and + 1.
  PHASEC_DEVICE void scores(const Cta &cta, const u8 *k, float (&s)[4]) const {
    int g = cta.lane >> 2, own = cta.lane & 3;
    const u16 *q = (const u16 *)(ptx::shared_base() + H::queries_offset) + g * query_stride;
    float part[2][4] = {}; // two chains: half the latency
#pragma unroll
    for (int j = 0; j < k_groups; j++) {
      // Neighbouring chunks for the four lanes, or every other one where rows are long enough to spread them over banks.
      int chunk = chunks % 8 ? 4 * j + own : 8 * (j / 2) + 2 * own + j % 2;
      Words4 low = {}, high = {};
      if (chunks % 4 == 0 || chunk < chunks) {
        low = *(const Words4 *)(k + g * H::row_stride + chunk * 16);
        high = *(const Words4 *)(k + (g + 8) * H::row_stride + chunk * 16);
      }
      const Words4 *b = (const Words4 *)(q + chunk * per_chunk);
#pragma unroll
      for (int m = 0; m < per_word; m += 2) {
        Words4 x = b[m / 2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
          if constexpr (f16) {
            u32 w = low.word[m + half], w8 = high.word[m + half];
            multiply(part[half], {ptx::e4m3x2_to_f16x2(w), ptx::e4m3x2_to_f16x2(w8), ptx::e4m3x2_to_f16x2_high(w), ptx::e4m3x2_to_f16x2_high(w8)},
                     x.word[2 * half], x.word[2 * half + 1]);
          } else {
            multiply(part[half], {low.word[2 * half], high.word[2 * half], low.word[2 * half + 1], high.word[2 * half + 1]},
                     x.word[2 * half], x.word[2 * half + 1]);
          }
        }
      }
    }
#pragma unroll
    for (int c = 0; c < 4; c++) s[c] = part[0][c] + part[1][c];
  }

  /// A piece of a row; zero for rows and pieces that are not there.
  PHASEC_DEVICE static Words2 piece(const u8 *v, int rows, int row, int n) {
    if (row >= rows || (pieces % 16 && n >= pieces)) return Words2{};
    return *(const Words2 *)(v + row * H::row_stride + n * 8);
  }
  /// The e-th element of a word of two rows as a pair of 16-bit floats.
  PHASEC_DEVICE static u32 pair_rows(u32 even, u32 odd, int e) {
    if constexpr (!f16) return ptx::permute(even, odd, e ? 0x7632u : 0x5410u);
    u32 two = ptx::permute(even, odd, e < 2 ? 0x5140u : 0x7362u);
    return e % 2 ? ptx::e4m3x2_to_f16x2_high(two) : ptx::e4m3x2_to_f16x2(two);
  }

  /// acc += V^T p, p being the weights of rows 2 own, + 1 (low) and + 8, + 9 (high) for pair g.
  PHASEC_DEVICE void weigh(const Cta &cta, const u8 *v, int rows, u32 low, u32 high) {
    int row = 2 * (cta.lane & 3), g = cta.lane >> 2;
#pragma unroll
    for (int i = 0; i < v_groups; i++) {
      Words2 x[2][4]; // of pieces g and g + 8: rows 2 own, + 1, + 8, + 9
#pragma unroll
      for (int c = 0; c < 2; c++)
#pragma unroll
        for (int r = 0; r < 4; r++) x[c][r] = piece(v, rows, row + r % 2 + r / 2 * 8, i * 16 + c * 8 + g);
#pragma unroll
      for (int t = 0; t < per_piece; t++) {
        int w = t / per_word, e = t % per_word;
        multiply(acc[i][t],
                 {pair_rows(x[0][0].word[w], x[0][1].word[w], e), pair_rows(x[1][0].word[w], x[1][1].word[w], e),
                  pair_rows(x[0][2].word[w], x[0][3].word[w], e), pair_rows(x[1][2].word[w], x[1][3].word[w], e)},
                 low, high);
      }
    }
  }
};

} // namespace core
