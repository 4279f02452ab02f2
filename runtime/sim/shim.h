// shim.h: what the sim puts in front of a rendered CUDA file. The first part is the ABI between the compiled object and
// the engine (the engine includes this file with PHASEC_SIM_HOST for it); the second part gives CUDA's words a meaning
// in host C++; the third is namespace ptx, the twin of templates/ptx.cuh. No includes: compiling costs what the kernel
// costs.
//
// To add a helper: give it the name and contract of its PTX twin here. If lanes exchange values, call `together` with a
// struct per lane: the last lane to arrive computes for all 32. If a fiber must wait, add a function to Api and raise
// kAbi.
#ifndef PHASEC_SIM_SHIM_H
#define PHASEC_SIM_SHIM_H

namespace phasec_sim {

inline constexpr unsigned kAbi = 4;

/// Who the running fiber is.
struct Self {
  int thread, threads, cta, ctas;
  unsigned char *shared;
};

enum Collective : int { kSyncWarp, kShfl, kShflXor, kButterflySum, kButterflyMax, kTogether };

/// The engine's side. `engine` is the first argument of every function.
struct Api {
  unsigned abi;
  void *engine;
  Self *const *self; ///< *self is the running fiber
  void (*sync_threads)(void *engine, int threads); ///< the first `threads` threads of the CTA meet
  /// All 32 lanes meet. Shfl: value, source lane; ShflXor: value, mask; butterflies: the bits of a float.
  unsigned (*collective)(void *engine, int kind, unsigned value, int argument);
  /// All 32 lanes meet with a struct each; the last runs compute(structs of lanes 0..31). `what` names it in reports
  /// and must be the same pointer on all lanes; one that begins with "mma" is counted.
  void (*together)(void *engine, const char *what, void (*compute)(void *const *lanes), void *mine);
  void (*arrive_release)(void *engine, unsigned *counter, unsigned n);
  unsigned (*load_acquire)(void *engine, const unsigned *counter);
  unsigned (*load_shared_acquire)(void *engine, const unsigned *counter);
  unsigned (*add_acq_rel)(void *engine, unsigned *counter, unsigned n);
  void (*store_relaxed)(void *engine, unsigned *counter, unsigned n);
  unsigned (*add_shared)(void *engine, unsigned *counter, unsigned n);
  void (*spin_pause)(void *engine);
  void (*feeder_pause)(void *engine); ///< the warp polls, and meets, until it opens a stage
  unsigned (*shared_address)(void *engine, const void *p);
  void (*mbar_init)(void *engine, unsigned long long *bar, int arrivals);
  void (*mbar_arrive)(void *engine, unsigned long long *bar);
  void (*mbar_wait)(void *engine, unsigned long long *bar, unsigned parity, bool stream);
  bool (*mbar_test)(void *engine, unsigned long long *bar, unsigned parity);
  void (*stream_expect)(void *engine, unsigned long long *bar, unsigned bytes);
  void (*stream_copy)(void *engine, void *to, const void *from, unsigned bytes, unsigned long long *bar);
  void (*stream_commit)(void *engine, unsigned long long *bar);
  void (*stream_prefetch)(void *engine, const void *from, unsigned bytes);
  /// The kernel is wrong: ends the launch with this text. Does not return to the fiber.
  void (*fail)(void *engine, const char *text);
};

using BindFunction = int(const Api *);          ///< phasec_sim_bind: 1 when the object speaks this ABI
using EntryFunction = void(const void *args);   ///< <kernel>__sim
using ArgsBytesFunction = unsigned long long(); ///< <kernel>__sim_args_bytes

} // namespace phasec_sim

#ifndef PHASEC_SIM_HOST
#define PHASEC_SIM 1

// ---- CUDA's words ---------------------------------------------------------------------------------------------------
#define PHASEC_SIM_EXPORT extern "C" __attribute__((visibility("default")))
#define PHASEC_KERNEL(threads) PHASEC_SIM_EXPORT void
/// After the kernel: lets the engine call it with a block of bytes.
#define PHASEC_KERNEL_ENTRY(kernel, Args)                                                                              \
  PHASEC_SIM_EXPORT void kernel##__sim(const void *args) { kernel(*static_cast<const Args *>(args)); }                 \
  PHASEC_SIM_EXPORT unsigned long long kernel##__sim_args_bytes() { return sizeof(Args); }
#define __grid_constant__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

static phasec_sim::Api phasec_sim_api;
PHASEC_SIM_EXPORT int phasec_sim_bind(const phasec_sim::Api *api) {
  if (api->abi != phasec_sim::kAbi) return 0;
  phasec_sim_api = *api;
  return 1;
}

// ---- the twin of templates/ptx.cuh ----------------------------------------------------------------------------------
namespace ptx {

using u8 = unsigned char;
using u32 = unsigned int;
using u64 = unsigned long long;

static inline const phasec_sim::Self &self() { return **phasec_sim_api.self; }

inline int thread() { return self().thread; }
inline int lane() { return self().thread & 31; }
inline int warp() { return self().thread >> 5; }
inline int cta() { return self().cta; }
inline int ctas() { return self().ctas; }
inline u8 *shared_base() { return self().shared; }

inline u32 bits(float v) {
  u32 r;
  __builtin_memcpy(&r, &v, 4);
  return r;
}
inline float from_bits(u32 v) {
  float r;
  __builtin_memcpy(&r, &v, 4);
  return r;
}
template <class T> inline T unknown(T v) { return v; }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float sqrt(float v) { return __builtin_sqrtf(v); }
inline float div(float a, float b) { return a / b; }

inline u32 collective(int kind, u32 value, int argument) {
  return phasec_sim_api.collective(phasec_sim_api.engine, kind, value, argument);
}
inline void sync_cta() { phasec_sim_api.sync_threads(phasec_sim_api.engine, self().threads); }
inline void sync_workers(int threads) { phasec_sim_api.sync_threads(phasec_sim_api.engine, threads); }
inline void sync_warp() { collective(phasec_sim::kSyncWarp, 0, 0); }
inline u32 shfl(u32 v, int source_lane) { return collective(phasec_sim::kShfl, v, source_lane); }
inline bool any(bool v) {
  struct Lane {
    bool v;
  } mine{v};
  phasec_sim_api.together(phasec_sim_api.engine, "any", [](void *const *lanes) {
    bool all = false;
    for (int l = 0; l < 32; l++) all |= static_cast<Lane *>(lanes[l])->v;
    for (int l = 0; l < 32; l++) static_cast<Lane *>(lanes[l])->v = all;
  }, &mine);
  return mine.v;
}
inline u32 shfl_xor(u32 v, int mask) { return collective(phasec_sim::kShflXor, v, mask); }
inline float butterfly_sum(float v) { return from_bits(collective(phasec_sim::kButterflySum, bits(v), 0)); }
inline float butterfly_max(float v) { return from_bits(collective(phasec_sim::kButterflyMax, bits(v), 0)); }

inline void arrive_release(u32 *counter, u32 n) { phasec_sim_api.arrive_release(phasec_sim_api.engine, counter, n); }
inline u32 load_acquire(const u32 *counter) { return phasec_sim_api.load_acquire(phasec_sim_api.engine, counter); }
inline u32 add_acq_rel(u32 *counter, u32 n) { return phasec_sim_api.add_acq_rel(phasec_sim_api.engine, counter, n); }
inline void store_relaxed(u32 *counter, u32 n) { phasec_sim_api.store_relaxed(phasec_sim_api.engine, counter, n); }
inline u32 turn_acq_rel(u32 *counter, u32 last) {
  u32 old = add_acq_rel(counter, 1u);
  if (old >= last) store_relaxed(counter, 0u);
  return old;
}
inline u32 add_shared(u32 *counter, u32 n) { return phasec_sim_api.add_shared(phasec_sim_api.engine, counter, n); }
inline u32 least(u32 v) {
  struct Lane {
    u32 v;
  } mine{v};
  phasec_sim_api.together(phasec_sim_api.engine, "least", [](void *const *lanes) {
    u32 all = ~0u;
    for (int l = 0; l < 32; l++) all = static_cast<Lane *>(lanes[l])->v < all ? static_cast<Lane *>(lanes[l])->v : all;
    for (int l = 0; l < 32; l++) static_cast<Lane *>(lanes[l])->v = all;
  }, &mine);
  return mine.v;
}
inline u32 peek_shared(const u32 *counter) { return *static_cast<const volatile u32 *>(counter); }
inline u32 load_shared_acquire(const u32 *counter) { return phasec_sim_api.load_shared_acquire(phasec_sim_api.engine, counter); }
/// The tag is a counter to the engine, so that who waits for it is woken; the float is there before it.
inline void store_tagged(u64 *to, float v, u32 tag) {
  u32 *words = reinterpret_cast<u32 *>(to);
  *static_cast<volatile u32 *>(words) = bits(v);
  store_relaxed(words + 1, tag);
}
inline void store_tagged2(u64 *to, float first, float second, u32 tag) { store_tagged(to, first, tag), store_tagged(to + 1, second, tag); }
inline u64 load_tagged(const u64 *from) {
  const u32 *words = reinterpret_cast<const u32 *>(from);
  u64 tag = load_acquire(words + 1);
  return tag << 32 | *static_cast<const volatile u32 *>(words);
}
inline void load_tagged2(const u64 *from, u64 &first, u64 &second) { first = load_tagged(from), second = load_tagged(from + 1); }
inline void prefetch(const void *) {}
inline void store_quad(u32 *to, u32 first, u32 second, u32 third, u32 tag) {
  volatile u32 *words = to;
  words[0] = first;
  words[1] = second;
  words[2] = third;
  store_relaxed(to + 3, tag);
}
inline void load_quad(const u32 *from, u32 (&v)[4]) {
  const volatile u32 *words = from;
  v[3] = load_acquire(from + 3);
  for (int i = 0; i < 3; i++) v[i] = words[i];
}
inline void add_unordered(float *to, float v) { *to += v; }
inline float take_sum(float *from) {
  float v = *from;
  *from = 0.0f;
  return v;
}
inline void raise(u64 *to, u64 v) { *to = *to < v ? v : *to; }
inline u64 take_raised(u64 *from) {
  u64 v = *from;
  *from = 0;
  return v;
}
inline void spin_pause() { phasec_sim_api.spin_pause(phasec_sim_api.engine); }

inline u32 shared_address(const void *p) { return phasec_sim_api.shared_address(phasec_sim_api.engine, p); }
inline void mbar_init(u64 *bar, int arrivals) { phasec_sim_api.mbar_init(phasec_sim_api.engine, bar, arrivals); }
inline void mbar_init_fence() {}
inline void mbar_arrive(u64 *bar) { phasec_sim_api.mbar_arrive(phasec_sim_api.engine, bar); }
inline void mbar_wait(u64 *bar, u32 parity) { phasec_sim_api.mbar_wait(phasec_sim_api.engine, bar, parity, false); }
inline bool mbar_test(u64 *bar, u32 parity) { return phasec_sim_api.mbar_test(phasec_sim_api.engine, bar, parity); }
inline void stream_wait(u64 *bar, u32 parity) { phasec_sim_api.mbar_wait(phasec_sim_api.engine, bar, parity, true); }

/// The sim has the bulk copies of sm_90 for every target: the lane issues, the bytes complete the phase. The warp meets in
/// each call, since it must on targets without them.
inline void stream_expect(bool mine, u64 *bar, u32 bytes) {
  sync_warp();
  if (mine) phasec_sim_api.stream_expect(phasec_sim_api.engine, bar, bytes);
}
inline void stream_copy(bool mine, void *to, const void *from, u32 bytes, u64 *bar) {
  sync_warp();
  if (mine) phasec_sim_api.stream_copy(phasec_sim_api.engine, to, from, bytes, bar);
}
inline void stream_prefetch(bool mine, const void *from, u32 bytes) {
  if (mine) phasec_sim_api.stream_prefetch(phasec_sim_api.engine, from, bytes);
}
inline void stream_commit(bool mine, u64 *bar) {
  sync_warp();
  if (mine) phasec_sim_api.stream_commit(phasec_sim_api.engine, bar);
}
/// Lane 0 copies, row by row, from the offsets that the lanes bring.
template <int Most, int Bytes, int Stride>
inline void gather_rows(long long offset, int rows, const u8 *first, u8 *to, u64 *bar, const u8 *second, u8 *to2, u64 *bar2) {
  struct Lane {
    long long offset, all[32];
  } mine{offset, {}};
  phasec_sim_api.together(phasec_sim_api.engine, "gather_rows", [](void *const *lanes) {
    for (int l = 0; l < 32; l++) static_cast<Lane *>(lanes[0])->all[l] = static_cast<Lane *>(lanes[l])->offset;
  }, &mine);
  auto fill = [&](const u8 *from, u8 *stage, u64 *full) {
    stream_expect(lane() == 0, full, u32(rows * Bytes));
    for (int r = 0; r < rows; r++) stream_copy(lane() == 0, stage + r * Stride, from + mine.all[r], u32(Bytes), full);
    stream_commit(lane() == 0, full);
  };
  fill(first, to, bar);
  fill(second, to2, bar2);
}
inline void publish(u32 *count, u32 v) { add_shared(count, v - *static_cast<volatile u32 *>(count)); }
inline void publish(u32 *count, u32 v, u32 *other, u32 w) { publish(count, v), publish(other, w); }
inline void pause(u32) {} // the engine's seeds stand for every order
inline void feeder_pause() { phasec_sim_api.feeder_pause(phasec_sim_api.engine); }

// ---- what `math = fast` computes with: the same contracts; approximations are the library's functions ------------------
inline float abs(float v) { return __builtin_fabsf(v); }
inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
inline float exp2_approx(float v) { return __builtin_exp2f(v); }
inline float rcp_approx(float v) { return 1.0f / v; }
inline float rsqrt_approx(float v) { return 1.0f / __builtin_sqrtf(v); }
/// f16 by its bits: RN-even, subnormals kept.
inline u32 to_f16(float v) {
  u32 b = bits(v), sign = (b >> 16) & 0x8000u, a = b & 0x7fffffffu;
  if (a > 0x7f800000u) return sign | 0x7e00u;
  if (a >= 0x477ff000u) return sign | 0x7c00u; // 65520 and above
  if (a < 0x38800000u) return sign | (bits(from_bits(a) + 0.5f) - 0x3f000000u); // multiples of 2^-24
  u32 r = a + 0xfffu + ((a >> 13) & 1u);
  return sign | ((r >> 13) - (112u << 10));
}
inline float from_f16(u32 v) {
  u32 sign = (v & 0x8000u) << 16, a = v & 0x7fffu;
  if (a >= 0x7c00u) return from_bits(sign | 0x7f800000u | (a & 0x3ffu) << 13);
  if (a < 0x400u) return from_bits(sign | bits(float(a) * 0x1p-24f));
  return from_bits(sign | ((a << 13) + (112u << 23)));
}
inline float from_f16_high(u32 v) { return from_f16(v >> 16); }
inline u32 to_bf16(float v) {
  u32 b = bits(v);
  if ((b & 0x7fffffffu) > 0x7f800000u) return (b >> 16 | 0x40u) & 0xffffu;
  return (b + 0x7fffu + ((b >> 16) & 1u)) >> 16;
}
inline u32 to_f16x2(float low, float high) { return to_f16(low) | to_f16(high) << 16; }
inline u32 to_bf16x2(float low, float high) { return to_bf16(low) | to_bf16(high) << 16; }
inline u32 mul_f16x2(u32 a, u32 b) {
  return to_f16x2(from_f16(a & 0xffffu) * from_f16(b & 0xffffu), from_f16(a >> 16) * from_f16(b >> 16));
}
inline u32 e4m3_to_f16(u32 v) {
  u32 sign = (v & 0x80u) << 8, a = v & 0x7fu;
  if (a == 0x7fu) return sign | 0x7fffu;
  return sign | to_f16(from_f16(a << 7) * 256.0f);
}
/// Multiples of 2^-9, 2^-6 and more: what is below 2^-6 is counted in the former.
inline u32 to_e4m3(float v) {
  u32 b = bits(v), sign = (b >> 24) & 0x80u, a = b & 0x7fffffffu;
  if (a > 0x7f800000u) return sign | 0x7fu;
  if (a >= 0x43e00000u) return sign | 0x7eu; // 448 and above
  if (a < 0x3c800000u) return sign | (bits(from_bits(a) + 0x1p14f) - 0x46800000u);
  u32 r = a + 0x7ffffu + ((a >> 20) & 1u);
  r = (r >> 20) - (120u << 3);
  return sign | (r > 0x7eu ? 0x7eu : r);
}
inline u32 to_e4m3x2(float low, float high) { return to_e4m3(low) | to_e4m3(high) << 8; }
inline u32 e4m3x2_to_f16x2(u32 v) { return e4m3_to_f16(v & 0xffu) | e4m3_to_f16((v >> 8) & 0xffu) << 16; }
inline u32 e4m3x2_to_f16x2_high(u32 v) { return e4m3x2_to_f16x2(v >> 16); }
inline u32 permute(u32 a, u32 b, u32 selector) {
  u64 all = u64(b) << 32 | a;
  u32 r = 0;
  for (int i = 0; i < 4; i++) r |= u32(all >> ((selector >> (4 * i)) & 7u) * 8u & 0xffu) << (8 * i);
  return r;
}
inline u32 transpose(u32 v) {
  struct Lane {
    u32 v, r;
  } mine{v, 0};
  phasec_sim_api.together(phasec_sim_api.engine, "transpose", [](void *const *lanes) {
    auto at = [&](int row, int column) { return static_cast<Lane *>(lanes[row * 4 + column / 2])->v >> (column % 2 * 16) & 0xffffu; };
    for (int l = 0; l < 32; l++)
      static_cast<Lane *>(lanes[l])->r = at(l % 4 * 2, l / 4) | at(l % 4 * 2 + 1, l / 4) << 16;
  }, &mine);
  return mine.r;
}
/// m16n8k16: products and sums in fp32, in order of k.
struct MmaLane {
  float *c;
  const u32 *a;
  u32 b[2];
};
template <class Decode> inline void mma_lanes(void *const *lanes, Decode decode) {
  auto half = [](u32 word, int i) { return word >> (i * 16) & 0xffffu; };
  float a[16][16], b[16][8];
  for (int l = 0; l < 32; l++) {
    const MmaLane &x = *static_cast<const MmaLane *>(lanes[l]);
    for (int i = 0; i < 8; i++) a[l / 4 + i / 2 % 2 * 8][l % 4 * 2 + i % 2 + i / 4 * 8] = decode(half(x.a[i / 2], i % 2));
    for (int i = 0; i < 4; i++) b[l % 4 * 2 + i % 2 + i / 2 * 8][l / 4] = decode(half(x.b[i / 2], i % 2));
  }
  for (int l = 0; l < 32; l++)
    for (int i = 0; i < 4; i++) {
      float &c = static_cast<const MmaLane *>(lanes[l])->c[i];
      for (int k = 0; k < 16; k++) c = fma(a[l / 4 + i / 2 * 8][k], b[k][l % 4 * 2 + i % 2], c);
    }
}
inline void mma_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  MmaLane lane{c, a, {b0, b1}};
  phasec_sim_api.together(phasec_sim_api.engine, "mma m16n8k16 f16",
                          [](void *const *lanes) { mma_lanes(lanes, from_f16); }, &lane);
}
inline void mma_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  MmaLane lane{c, a, {b0, b1}};
  phasec_sim_api.together(phasec_sim_api.engine, "mma m16n8k16 bf16",
                          [](void *const *lanes) { mma_lanes(lanes, [](u32 v) { return from_bits(v << 16); }); }, &lane);
}

template <int> inline void registers_give() {}
template <int> inline void registers_take() {}
inline void fence_async_shared() {}

} // namespace ptx
#endif // PHASEC_SIM_HOST
#endif // PHASEC_SIM_SHIM_H
