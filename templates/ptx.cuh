// ptx.cuh: every instruction that CUDA C++ does not spell, and nothing else. Each helper has its PTX body here and a twin
// of the same name and contract in runtime/sim/shim.h; nothing outside this file contains inline assembly.
#pragma once
#include "base.cuh"

#if defined(__CUDACC__) && !defined(PHASEC_SIM)
namespace ptx {

// ---- who am I -------------------------------------------------------------------------------------------------------
// What is asked for is read anew: an instruction, and no register in between.
PHASEC_DEVICE int thread() {
  int n;
  asm volatile("mov.u32 %0, %tid.x;" : "=r"(n));
  return n;
}
PHASEC_DEVICE int lane() { return thread() & 31; }
PHASEC_DEVICE int warp() { return thread() >> 5; }
PHASEC_DEVICE int cta() {
  int n;
  asm volatile("mov.u32 %0, %ctaid.x;" : "=r"(n));
  return n;
}
PHASEC_DEVICE int ctas() {
  int n;
  asm volatile("mov.u32 %0, %nctaid.x;" : "=r"(n));
  return n;
}
/// The CTA's dynamic shared memory, 128-byte aligned.
PHASEC_DEVICE u8 *shared_base() {
  extern __shared__ __align__(128) u8 phasec_shared[];
  return phasec_shared;
}

PHASEC_DEVICE u32 shared_address(const void *p) { return u32(__cvta_generic_to_shared(p)); }

// ---- CTA and warp synchronisation -----------------------------------------------------------------------------------
PHASEC_DEVICE void sync_cta() { __syncthreads(); }
/// The working threads meet: the first `threads` of the CTA. The warps behind them feed the stream.
PHASEC_DEVICE void sync_workers(int threads) { asm volatile("bar.sync 1, %0;" ::"r"(threads) : "memory"); }
PHASEC_DEVICE void sync_warp() { __syncwarp(); }
PHASEC_DEVICE u32 shfl(u32 v, int source_lane) { return __shfl_sync(0xffffffffu, v, source_lane); }
PHASEC_DEVICE bool any(bool v) { return __any_sync(0xffffffffu, v); }
PHASEC_DEVICE u32 least(u32 v) { return __reduce_min_sync(0xffffffffu, v); }
PHASEC_DEVICE u32 shfl_xor(u32 v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }

// ---- bits -----------------------------------------------------------------------------------------------------------
PHASEC_DEVICE u32 bits(float v) { return __float_as_uint(v); }
PHASEC_DEVICE float from_bits(u32 v) { return __uint_as_float(v); }
/// IEEE fused multiply-add, round to nearest even; never contracted or split.
PHASEC_DEVICE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
/// Correctly rounded square root and quotient.
PHASEC_DEVICE float sqrt(float v) { return __fsqrt_rn(v); }
PHASEC_DEVICE float div(float a, float b) { return __fdiv_rn(a, b); }

/// The same value, of which the compiler knows nothing: what is computed from it is not computed earlier.
template <class T> PHASEC_DEVICE T *unknown(T *p) {
  asm volatile("" : "+l"(p));
  return p;
}
PHASEC_DEVICE int unknown(int v) {
  asm volatile("" : "+r"(v));
  return v;
}

/// Sum over the warp's lanes in the order of an xor butterfly 16, 8, 4, 2, 1; every lane gets the same bits.
PHASEC_DEVICE float butterfly_sum(float v) {
#pragma unroll
  for (int mask = 16; mask >= 1; mask >>= 1) v = v + from_bits(shfl_xor(bits(v), mask));
  return v;
}
/// Maximum over the warp's lanes.
PHASEC_DEVICE float butterfly_max(float v) {
#pragma unroll
  for (int mask = 16; mask >= 1; mask >>= 1) {
    float o = from_bits(shfl_xor(bits(v), mask));
    v = v < o ? o : v;
  }
  return v;
}

// ---- what `math = fast` computes with -----------------------------------------------------------------------------------
PHASEC_DEVICE float abs(float v) { return from_bits(bits(v) & 0x7fffffffu); }
/// The larger one; a NaN loses against a number.
PHASEC_DEVICE float max(float a, float b) { return fmaxf(a, b); }
/// Approximations within 2 ulp of fp32; subnormal numbers are kept.
PHASEC_DEVICE float exp2_approx(float v) {
  float r;
  asm("ex2.approx.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
}
PHASEC_DEVICE float rcp_approx(float v) {
  float r;
  asm("rcp.approx.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
}
PHASEC_DEVICE float rsqrt_approx(float v) {
  float r;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
}
/// Two floats as a pair of 16-bit floats, RN-even; `low` in the low half.
PHASEC_DEVICE u32 to_f16x2(float low, float high) {
  u32 r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
PHASEC_DEVICE u32 to_bf16x2(float low, float high) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
/// Products of two pairs of f16, RN-even, subnormals kept.
PHASEC_DEVICE u32 mul_f16x2(u32 a, u32 b) {
  u32 r;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
/// The low two bytes as e4m3, exactly, as a pair of f16.
PHASEC_DEVICE u32 e4m3x2_to_f16x2(u32 v) {
#if PHASEC_SM >= 89
  u32 r;
  asm("{\n .reg .b16 low, high;\n mov.b32 {low, high}, %1;\n cvt.rn.f16x2.e4m3x2 %0, low;\n}" : "=r"(r) : "r"(v));
  return r;
#else
  u32 x = (v & 0xffu) | ((v & 0xff00u) << 8), magnitude = x & 0x007f007fu;
  u32 nan = ((magnitude + 0x00010001u) & 0x00800080u) * 0xffu; // all ones and more where the code is 0x7f
  return mul_f16x2(((x & 0x00800080u) << 8) | (magnitude << 7) | nan, 0x5c005c00u); // times 2^8
#endif
}
/// The high two bytes: without a shift.
PHASEC_DEVICE u32 e4m3x2_to_f16x2_high(u32 v) {
#if PHASEC_SM >= 89
  u32 r;
  asm("{\n .reg .b16 low, high;\n mov.b32 {low, high}, %1;\n cvt.rn.f16x2.e4m3x2 %0, high;\n}" : "=r"(r) : "r"(v));
  return r;
#else
  return e4m3x2_to_f16x2(v >> 16);
#endif
}
/// The f16 in the low half.
PHASEC_DEVICE float from_f16(u32 v) {
  float r;
  asm("{\n .reg .b16 low, high;\n mov.b32 {low, high}, %1;\n cvt.f32.f16 %0, low;\n}" : "=f"(r) : "r"(v));
  return r;
}
/// The f16 in the high half: without a shift.
PHASEC_DEVICE float from_f16_high(u32 v) {
  float r;
  asm("{\n .reg .b16 low, high;\n mov.b32 {low, high}, %1;\n cvt.f32.f16 %0, high;\n}" : "=f"(r) : "r"(v));
  return r;
}
/// Bytes of a (0..3) and b (4..7), picked by the four nibbles of `selector`.
PHASEC_DEVICE u32 permute(u32 a, u32 b, u32 selector) { return __byte_perm(a, b, selector); }
/// Transposes an 8x8 matrix of 16-bit values: lane l holds (l / 4, 2 * (l % 4)) and its right neighbour. Convergent.
PHASEC_DEVICE u32 transpose(u32 v) {
  u32 r;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(v));
  return r;
}
/// c += a b for m16n8k16 with fp32 sums: a is 16x16 (rows l / 4 and + 8, columns 2 (l % 4) and + 8), b 16x8, c 16x8 as PTX
/// lays them out over the lanes. Convergent.
PHASEC_DEVICE void mma_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
PHASEC_DEVICE void mma_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Two floats as a pair of e4m3, RN-even; what is larger than 448 becomes 448. `low` in the low byte.
PHASEC_DEVICE u32 to_e4m3x2(float low, float high) {
  u16 r = 0;
#if PHASEC_SM >= 90
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(high), "f"(low));
#endif
  return r;
}
/// Registers per thread: a warpgroup gives up all but N, or waits until it has N. All of its warps call.
template <int N> PHASEC_DEVICE void registers_give() {
#if PHASEC_SM >= 90
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}
template <int N> PHASEC_DEVICE void registers_take() {
#if PHASEC_SM >= 90
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}
/// Orders what this thread has read of shared memory before bulk copies into it; the stages' release follows.
PHASEC_DEVICE void fence_async_shared() {
#if PHASEC_SM >= 90
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// ---- grid-scope counters (events and elections) -----------------------------------------------------------------------
PHASEC_DEVICE void arrive_release(u32 *counter, u32 n) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(n) : "memory");
}
PHASEC_DEVICE u32 load_acquire(const u32 *counter) {
  u32 v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(counter) : "memory");
  return v;
}
/// Adds and returns the old value; orders everything before it and after it at GPU scope.
PHASEC_DEVICE u32 add_acq_rel(u32 *counter, u32 n) {
  u32 v;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(v) : "l"(counter), "r"(n) : "memory");
  return v;
}
/// The same, but from `last` the counter goes to zero.
PHASEC_DEVICE u32 turn_acq_rel(u32 *counter, u32 last) {
  u32 v;
  asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(v) : "l"(counter), "r"(last) : "memory");
  return v;
}
PHASEC_DEVICE void store_relaxed(u32 *counter, u32 n) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(counter), "r"(n) : "memory");
}
/// A float and a tag in one 64-bit word: whoever sees the tag sees the float, without any order between words.
PHASEC_DEVICE void store_tagged(u64 *to, float v, u32 tag) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(u64(tag) << 32 | bits(v)) : "memory");
}
PHASEC_DEVICE void store_tagged2(u64 *to, float first, float second, u32 tag) {
  asm volatile("st.relaxed.gpu.global.v2.u64 [%0], {%1, %2};" ::"l"(to), "l"(u64(tag) << 32 | bits(first)), "l"(u64(tag) << 32 | bits(second)) : "memory");
}
PHASEC_DEVICE u64 load_tagged(const u64 *from) {
  u64 v;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(from) : "memory");
  return v;
}
/// The same of two neighbouring words; nothing orders one behind the other.
PHASEC_DEVICE void load_tagged2(const u64 *from, u64 &first, u64 &second) {
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(first), "=l"(second) : "l"(from) : "memory");
}
/// A tag in the last of a quad's words, which are one access: whoever sees the tag sees the others.
PHASEC_DEVICE void store_quad(u32 *to, u32 first, u32 second, u32 third, u32 tag) {
  asm volatile("{\n.reg .b128 q;\nmov.b128 q, {%1, %2};\nst.relaxed.gpu.global.b128 [%0], q;\n}"
               ::"l"(to), "l"(u64(second) << 32 | first), "l"(u64(tag) << 32 | third) : "memory");
}
PHASEC_DEVICE void load_quad(const u32 *from, u32 (&v)[4]) {
  u64 low, high;
  asm volatile("{\n.reg .b128 q;\nld.relaxed.gpu.global.b128 q, [%2];\nmov.b128 {%0, %1}, q;\n}" : "=l"(low), "=l"(high) : "l"(from) : "memory");
  v[0] = u32(low), v[1] = u32(low >> 32), v[2] = u32(high), v[3] = u32(high >> 32);
}
/// Adds to a float that others add to, in whatever order; reads one and leaves zero.
PHASEC_DEVICE void add_unordered(float *to, float v) {
  asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(to), "f"(v) : "memory");
}
PHASEC_DEVICE float take_sum(float *from) {
  u32 v;
  asm volatile("atom.relaxed.gpu.global.exch.b32 %0, [%1], 0;" : "=r"(v) : "l"(from) : "memory");
  return from_bits(v);
}
/// Raises a word to v, if it is less; reads one and leaves zero. Neither orders anything.
PHASEC_DEVICE void raise(u64 *to, u64 v) { asm volatile("red.relaxed.gpu.global.max.u64 [%0], %1;" ::"l"(to), "l"(v) : "memory"); }
PHASEC_DEVICE u64 take_raised(u64 *from) {
  u64 v;
  asm volatile("atom.relaxed.gpu.global.exch.b64 %0, [%1], 0;" : "=l"(v) : "l"(from) : "memory");
  return v;
}
/// Called inside spin loops: leaves the memory to those who are waited for; lets another fiber run on sim.
PHASEC_DEVICE void spin_pause() { asm volatile("nanosleep.u32 60;"); }
/// Adds to a counter in shared memory and returns the old value; acquire and release at CTA scope.
PHASEC_DEVICE u32 add_shared(u32 *counter, u32 n) {
  u32 v;
  asm volatile("atom.acq_rel.cta.shared::cta.add.u32 %0, [%1], %2;"
               : "=r"(v) : "r"(u32(__cvta_generic_to_shared(counter))), "r"(n) : "memory");
  return v;
}
/// The value of a word that other warps change; orders nothing.
PHASEC_DEVICE u32 peek_shared(const u32 *counter) {
  u32 v;
  asm volatile("ld.relaxed.cta.shared::cta.u32 %0, [%1];" : "=r"(v) : "r"(u32(__cvta_generic_to_shared(counter))) : "memory");
  return v;
}
PHASEC_DEVICE u32 load_shared_acquire(const u32 *counter) {
  u32 v;
  asm volatile("ld.acquire.cta.shared::cta.u32 %0, [%1];" : "=r"(v) : "r"(u32(__cvta_generic_to_shared(counter))) : "memory");
  return v;
}

// ---- mbarriers --------------------------------------------------------------------------------------------------------
PHASEC_DEVICE void mbar_init(u64 *bar, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals) : "memory");
}
/// Makes initialised mbarriers visible to the copy engine; follow with sync_cta().
PHASEC_DEVICE void mbar_init_fence() {
#if PHASEC_SM >= 90
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
PHASEC_DEVICE void mbar_arrive(u64 *bar) {
  asm volatile("{\n .reg .b64 t;\n mbarrier.arrive.shared::cta.b64 t, [%0];\n}" ::"r"(shared_address(bar)) : "memory");
}
/// Waits until the phase with this parity has completed. `stream_wait` is the same, for the consumer of a ring (counted
/// once per warp on sim).
PHASEC_DEVICE void mbar_wait(u64 *bar, u32 parity) {
#if PHASEC_SM >= 90
  asm volatile("{\n .reg .pred p;\n W:\n mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n @p bra D;\n bra W;\n D:\n}" ::
                   "r"(shared_address(bar)), "r"(parity) : "memory");
#else
  asm volatile("{\n .reg .pred p;\n W:\n mbarrier.test_wait.parity.shared.b64 p, [%0], %1;\n @p bra D;\n bra W;\n D:\n}" ::
                   "r"(shared_address(bar)), "r"(parity) : "memory");
#endif
}
PHASEC_DEVICE void stream_wait(u64 *bar, u32 parity) { mbar_wait(bar, parity); }
/// Whether it has completed.
PHASEC_DEVICE bool mbar_test(u64 *bar, u32 parity) {
  u32 completed;
  asm volatile("{\n .reg .pred p;\n mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
               : "=r"(completed) : "r"(shared_address(bar)), "r"(parity) : "memory");
  return completed != 0;
}

// ---- the byte stream --------------------------------------------------------------------------------------------------
// One warp fills many stages at once: each lane that says `mine` opens a stage of its own with its bytes, copies them into
// it, and commits it. All lanes call. A stage's mbarrier is initialised with one arrival and completes one phase
// when all bytes have landed. Source, destination and size are multiples of 16.
PHASEC_DEVICE void stream_expect(bool mine, u64 *bar, u32 bytes) {
#if PHASEC_SM >= 90
  if (mine)
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes) : "memory");
#endif
}
/// Copies global to shared bytes that are read once: L2 evicts them first.
PHASEC_DEVICE void stream_copy(bool mine, void *to, const void *from, u32 bytes, u64 *bar) {
#if PHASEC_SM >= 90
  if (mine)
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
                     "r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(bar)),
                 "l"(0x12F0000000000000ull) : "memory");
#else // without bulk copies the warp copies for one lane after the other
  for (u32 lanes = __ballot_sync(0xffffffffu, mine); lanes; lanes &= lanes - 1u) {
    int l = __ffs(int(lanes)) - 1;
    u32 target = __shfl_sync(0xffffffffu, shared_address(to), l), size = __shfl_sync(0xffffffffu, bytes, l);
    const u8 *source = (const u8 *)__shfl_sync(0xffffffffu, u64(from), l);
    for (u32 i = u32(lane()) * 16u; i < size; i += 512u)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target + i), "l"(source + i) : "memory");
  }
#endif
}
/// The stage's mbarrier waits for this warp's copies of sixteen bytes so far, and takes the stage's arrival.
PHASEC_DEVICE void copies_arrive(u32 bar) {
  asm volatile("cp.async.mbarrier.arrive.shared.b64 [%0];" ::"r"(bar) : "memory");
  __syncwarp();
  if (lane() == 0) asm volatile("{\n .reg .b64 t;\n mbarrier.arrive.shared.b64 t, [%0];\n}" ::"r"(bar) : "memory");
}
PHASEC_DEVICE void stream_commit(bool mine, u64 *bar) {
#if PHASEC_SM < 90
  for (u32 lanes = __ballot_sync(0xffffffffu, mine); lanes; lanes &= lanes - 1u)
    copies_arrive(__shfl_sync(0xffffffffu, shared_address(bar), __ffs(int(lanes)) - 1));
#endif
}
/// Fills two stages with `rows` of at most `Most` (32) rows of `Bytes`, `Stride` bytes apart in a stage: row r lies lane r's
/// `offset` behind `first` and `second`. Sixteen bytes a lane: a bulk copy takes one lane's addresses after the other. One warp.
template <int Most, int Bytes, int Stride>
PHASEC_DEVICE void gather_rows(i64 offset, int rows, const u8 *first, u8 *to, u64 *bar, const u8 *second, u8 *to2, u64 *bar2) {
  constexpr int words = Bytes / 16;
#pragma unroll 2
  for (int begin = 0; begin < Most * words; begin += 32) {
    int i = begin + lane(), row = i / words, at = row * Stride + i % words * 16;
    i64 from = i64(__shfl_sync(0xffffffffu, u64(offset), row & 31)) + i % words * 16;
    if (row >= rows) continue;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to) + u32(at)), "l"(first + from) : "memory");
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to2) + u32(at)), "l"(second + from) : "memory");
  }
  copies_arrive(shared_address(bar));
  copies_arrive(shared_address(bar2));
}
/// Asks for bytes that will be copied to be brought into L2, which evicts them first.
PHASEC_DEVICE void stream_prefetch(bool mine, const void *from, u32 bytes) {
#if PHASEC_SM >= 90
  if (mine)
    asm volatile("cp.async.bulk.prefetch.L2.global.L2::cache_hint [%0], %1, %2;" ::"l"(from), "r"(bytes), "l"(0x12F0000000000000ull) : "memory");
#endif
}
/// Asks for a line of 128 bytes to be brought into L2.
PHASEC_DEVICE void prefetch(const void *line) { asm volatile("prefetch.global.L2 [%0];" ::"l"(line)); }
/// How often a stage has been read. A release at CTA scope, so that who sees it may refill the stage.
PHASEC_DEVICE void publish(u32 *count, u32 v) {
  asm volatile("st.release.cta.shared::cta.u32 [%0], %1;" ::"r"(shared_address(count)), "r"(v) : "memory");
}
PHASEC_DEVICE void publish(u32 *count, u32 v, u32 *other, u32 w) {
  asm volatile("fence.acq_rel.cta;\n\tst.relaxed.cta.shared::cta.u32 [%0], %1;\n\tst.relaxed.cta.shared::cta.u32 [%2], %3;" ::"r"(shared_address(count)),
               "r"(v), "r"(shared_address(other)), "r"(w) : "memory");
}
/// Stands still for so many nanoseconds.
PHASEC_DEVICE void pause(u32 nanoseconds) {
  u64 begin, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    asm volatile("nanosleep.u32 200;\n\tmov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < nanoseconds);
}
/// The feeder found no free stage: leaves the issue slots to the workers for a moment.
PHASEC_DEVICE void feeder_pause() { asm volatile("nanosleep.u32 40;"); }

} // namespace ptx
#endif // CUDA
