// launch.cuh: opening and closing a launch: what every CTA does before its first step and after its last.
#pragma once
#include "fold.cuh"
#include "sequences.cuh"
#include "stream.cuh"

namespace launch {

/// An instance's table in shared memory: everything that a phase touches begins with an entry of it. All working threads;
/// visible after a barrier.
template <class L> PHASEC_DEVICE const u64 *load_table(const u64 *from) {
  u64 *to = (u64 *)(ptx::shared_base() + L::table_offset);
  for (int i = ptx::thread(); i < L::table_entries; i += L::threads) to[i] = from[i];
  return to;
}

/// The step's arrays, where the launch has any: entries 1 to 4 of the first table.
template <class L> PHASEC_DEVICE void load_arrays(const Cta &cta) {
  sequences::StepArrays *to = sequences::arrays<L>();
  const i32 *first = (const i32 *)cta.launch_table[1], *context = (const i32 *)cta.launch_table[2];
  int i = ptx::thread(), count = sequences::step_counts<L>(cta)[1];
  if (first && count <= cta.tokens && cta.tokens <= L::tokens) {
    if (i <= count) to->first[i] = first[i];
    if (i < count) to->context[i] = context[i];
  }
  if (i == 0) {
    to->epoch = cta.counters()[kCounterEpoch];
    to->tokens = cta.tokens;
    to->count = count;
    to->instance = 0;
    to->pages = (const i32 *)cta.launch_table[3];
    to->page_stride = (i64)cta.launch_table[4];
  }
}

template <class L> PHASEC_DEVICE Cta open(const Args &args) {
  Cta cta;
  cta.launch_table = args.table;
  cta.table = load_table<L>(args.table);
  cta.workspace = args.workspace;
  cta.cta = ptx::cta();
  cta.warp = ptx::warp();
  cta.lane = ptx::lane();
  cta.tokens = sequences::step_counts<L>(cta)[0];
  cta.round = 0;
  cta.call_begin = args.call_begin;
  cta.call_end = args.call_end;
  Pieces<L>::open();
  for (int i = ptx::thread(); i < (L::scratch_offset - L::zeros_offset) / 4; i += L::threads) ((u32 *)(ptx::shared_base() + L::zeros_offset))[i] = 0u;
  event::open<L>();
  load_arrays<L>(cta);
  return cta;
}

/// What is streamed and computed in each step is written down before the first. A warp a step: their code differs.
template <class L, class Program> PHASEC_DEVICE void open_steps(const Cta &cta) {
  for (int step = cta.warp; cta.lane == 0 && step < L::steps; step += L::warps + L::feeders) {
    stream::open_empty<L>(step);
    Program::open(cta, step);
  }
}

/// The register file where the feeders are a warpgroup of their own (`moves_registers`): they keep kFeederRegisters per thread of what all had
/// at launch, as __launch_bounds__ gives it, and the workers divide the rest.
enum : int { kFeederRegisters = 32 };
template <class L> static constexpr int worker_registers() {
  constexpr int groups = L::warps / 4, share = 512 / (groups + 1) / 8 * 8, launch = share < 248 ? share : 248;
  constexpr int n = (launch * (groups + 1) - kFeederRegisters) / (groups > 0 ? groups : 1) / 8 * 8;
  return n < 240 ? n : 240;
}
template <class L> PHASEC_DEVICE void take_registers() {
  if constexpr (L::moves_registers) ptx::registers_take<worker_registers<L>()>();
}
/// The warps behind the workers feed the stream.
template <class Program, class L> PHASEC_DEVICE void feed(const Cta &cta) {
  if constexpr (L::moves_registers) ptx::registers_give<kFeederRegisters>();
  stream::feed<Program, L>(cta);
}

/// True when the step has no tokens or more than the kernel was compiled for. Every CTA then leaves at once, before it has
/// touched an event, and the refusal is counted where the host can read it.
template <class L> PHASEC_DEVICE bool refuse(const Cta &cta) {
  int count = sequences::step_counts<L>(cta)[1];
  if (cta.tokens >= 1 && cta.tokens <= L::tokens && count >= 0 && count <= cta.tokens) return false;
  if (cta.cta == 0 && ptx::thread() == 0) ptx::arrive_release(cta.counters() + kCounterRefused, 1u);
  return true;
}

/// A call begins, if the launch covers it. What follows from warp, lane and workspace is computed in the call, and the tokens are read again:
/// registers would hold them through the launch, which nothing else could have.
template <class L> PHASEC_DEVICE bool begins(Cta &cta, int call) {
  cta.warp = ptx::warp(), cta.lane = ptx::lane();
  cta.workspace = ptx::unknown(cta.workspace);
  if constexpr (L::tokens > 1) cta.tokens = int(ptx::peek_shared((const u32 *)&sequences::arrays<L>()->tokens));
  return cta.runs(call);
}

/// The instance that is computed.
template <class L> PHASEC_DEVICE int instance() {
  if constexpr (L::instances == 1) return 0;
  return int(ptx::peek_shared(&sequences::arrays<L>()->instance));
}
/// Between two instances of a stack: everything of the one is visible to all CTAs before the next begins. A launch that
/// covers only some calls arrives in the one's last call and waits before the other's first. Where instances hand on tagged words
/// (`chains`), nobody waits: a value of the next instance needs all that CTAs still have to read of this one.
template <class L, class Program> PHASEC_DEVICE void next_instance(const Cta &cta) {
  int instance = launch::instance<L>(), next = Program::calls_begin(instance + 1);
  ptx::sync_workers(L::threads); // nobody reads the old table any more
  load_table<L>(cta.launch_table + (i64)(instance + 1) * L::table_entries);
  if (ptx::thread() == 0) {
    sequences::arrays<L>()->instance = u32(instance) + 1u;
    if constexpr (!L::chains) {
      u32 *counter = cta.counters() + L::instance_counter, before = sequences::arrays<L>()->epoch * u32(Program::arrivals(L::instances - 1));
      if (cta.runs(next - 1) && Program::leaves_by_cta(instance)) ptx::arrive_release(counter, 1u);
      if (cta.runs(next)) event::spin(counter, before + u32(Program::arrivals(instance)));
    }
  }
  ptx::sync_workers(L::threads);
}

/// A test's: the CTA stands still for up to Max microseconds, for another time in each CTA, call and launch, so that orders come
/// about that are rare by themselves.
template <class L, int Max> PHASEC_DEVICE void delay(const Cta &cta, int call) {
  u32 x = (u32(cta.cta) + 1u) * 2654435761u ^ (sequences::arrays<L>()->epoch * 40503u + u32(call)) * 2246822519u;
  x = (x ^ x >> 15) * 2654435769u;
  ptx::pause(((x ^ x >> 13) & 1023u) * (Max * 1000 / 1024 + 1));
}

/// The event between instances, where row tiles of the last step arrive at it.
template <class L> struct Leave : L {
  static constexpr int counter = L::instance_counter, slices = 1;
};

/// The CTA that leaves last completes the epoch: the counters are ready for the next launch without the host's help.
template <class L> PHASEC_DEVICE void close(const Cta &cta) {
  ptx::sync_workers(L::threads);
  if (ptx::thread() != 0 || cta.call_end < L::calls) return;
  if (ptx::add_acq_rel(cta.counters() + kCounterExit, 1u) == u32(L::ctas > 0 ? L::ctas : ptx::ctas()) - 1u) {
    ptx::store_relaxed(cta.counters() + kCounterExit, 0u);
    ptx::store_relaxed(cta.counters() + kCounterEpoch, sequences::arrays<L>()->epoch + 1u);
  }
}

} // namespace launch
