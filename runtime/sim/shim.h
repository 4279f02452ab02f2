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

inline constexpr unsigned kAbi = 1;

/// Who the running fiber is.
struct Self {
  int thread, cta, ctas;
  unsigned char *shared;
};

enum Collective : int { kSyncWarp, kShfl, kShflXor, kButterflySum, kButterflyMax, kTogether };

/// The engine's side. `engine` is the first argument of every function.
struct Api {
  unsigned abi;
  void *engine;
  Self *const *self; ///< *self is the running fiber
  void (*sync_cta)(void *engine);
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
  unsigned (*shared_address)(void *engine, const void *p);
  void (*mbar_init)(void *engine, unsigned long long *bar, int arrivals);
  void (*mbar_arrive)(void *engine, unsigned long long *bar);
  void (*mbar_wait)(void *engine, unsigned long long *bar, unsigned parity, bool stream);
  void (*stream_expect)(void *engine, unsigned long long *bar, unsigned bytes);
  void (*stream_copy)(void *engine, void *to, const void *from, unsigned bytes, unsigned long long *bar);
  void (*stream_commit)(void *engine, unsigned long long *bar);
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
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float sqrt(float v) { return __builtin_sqrtf(v); }
inline float div(float a, float b) { return a / b; }

inline u32 collective(int kind, u32 value, int argument) {
  return phasec_sim_api.collective(phasec_sim_api.engine, kind, value, argument);
}
inline void sync_cta() { phasec_sim_api.sync_cta(phasec_sim_api.engine); }
inline void sync_warp() { collective(phasec_sim::kSyncWarp, 0, 0); }
inline u32 shfl(u32 v, int source_lane) { return collective(phasec_sim::kShfl, v, source_lane); }
inline u32 shfl_xor(u32 v, int mask) { return collective(phasec_sim::kShflXor, v, mask); }
inline float butterfly_sum(float v) { return from_bits(collective(phasec_sim::kButterflySum, bits(v), 0)); }
inline float butterfly_max(float v) { return from_bits(collective(phasec_sim::kButterflyMax, bits(v), 0)); }

inline void arrive_release(u32 *counter, u32 n) { phasec_sim_api.arrive_release(phasec_sim_api.engine, counter, n); }
inline u32 load_acquire(const u32 *counter) { return phasec_sim_api.load_acquire(phasec_sim_api.engine, counter); }
inline u32 add_acq_rel(u32 *counter, u32 n) { return phasec_sim_api.add_acq_rel(phasec_sim_api.engine, counter, n); }
inline void store_relaxed(u32 *counter, u32 n) { phasec_sim_api.store_relaxed(phasec_sim_api.engine, counter, n); }
inline u32 add_shared(u32 *counter, u32 n) { return phasec_sim_api.add_shared(phasec_sim_api.engine, counter, n); }
inline u32 load_shared_acquire(const u32 *counter) { return phasec_sim_api.load_shared_acquire(phasec_sim_api.engine, counter); }
inline void spin_pause() { phasec_sim_api.spin_pause(phasec_sim_api.engine); }

inline u32 shared_address(const void *p) { return phasec_sim_api.shared_address(phasec_sim_api.engine, p); }
inline void mbar_init(u64 *bar, int arrivals) { phasec_sim_api.mbar_init(phasec_sim_api.engine, bar, arrivals); }
inline void mbar_init_fence() {}
inline void mbar_arrive(u64 *bar) { phasec_sim_api.mbar_arrive(phasec_sim_api.engine, bar); }
inline void mbar_wait(u64 *bar, u32 parity) { phasec_sim_api.mbar_wait(phasec_sim_api.engine, bar, parity, false); }
inline void stream_wait(u64 *bar, u32 parity) { phasec_sim_api.mbar_wait(phasec_sim_api.engine, bar, parity, true); }

/// The sim has the bulk copies of sm_90 for every target: lane 0 issues, the bytes complete the phase.
inline int stream_arrivals() { return 1; }
inline void stream_expect(u64 *bar, u32 bytes) { phasec_sim_api.stream_expect(phasec_sim_api.engine, bar, bytes); }
inline void stream_copy(void *to, const void *from, u32 bytes, u64 *bar, bool) {
  phasec_sim_api.stream_copy(phasec_sim_api.engine, to, from, bytes, bar);
}
inline void stream_commit(u64 *bar) { phasec_sim_api.stream_commit(phasec_sim_api.engine, bar); }

} // namespace ptx
#endif // PHASEC_SIM_HOST
#endif // PHASEC_SIM_SHIM_H
