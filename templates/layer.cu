//@ banner
// layer.cu: the skeleton of every kernel. The lines between //@ markers are an example (W_O alone, bf16) and are replaced by
// the renderer; the rest is kept.
//@ end
//@ target
#define PHASEC_SM 90
//@ end
//@ includes
#include "core/exact/bf16.cuh"
#include "launch.cuh"
#include "math/exact.cuh"
#include "phases/gather.cuh"
#include "phases/wo.cuh"
//@ end

//@ config
struct Launch {
  using L = Launch;
  static constexpr int tokens = 4, warps = 4, threads = 128, feeders = 1, ctas = 0, stages = 8, stage_bytes = 4096, window = 8;
  static constexpr bool prefetches = false;
  static constexpr int ring_offset = 0, barriers_offset = 32768, units_offset = 32896, stretches_offset = 38208, reads_offset = 32960, step_offset = 33024, table_offset = 33280,
                       feeder_tables_offset = 33408, owed_offset = 33600, left_offset = 33608, pieces_offset = 33664, arrived_offset = 35712;
  static constexpr int tile_offset = 37824, zeros_offset = 38080, scratch_offset = 38080, operand_offset = 38336;
  static constexpr bool moves_registers = false, chains = false;
  static constexpr int table_entries = 6, step_counts = 0, instances = 1, first_step = 0, steps = 1, calls = 1, instance_counter = 3, owed_words = 1;
};
//@ end

//@ phases
// %p = wo %a, %w_o   bf16[64, 128]
PHASEC_TABLE int wo_segments[] = {0, 2, 0, 128};
struct Wo : Launch {
  static constexpr int step = 0;
  static constexpr int rows = 64, cols = 128, tiles = 4, granules = 2, slots = 1, segments = 1, segment_granules = 2, segment_least = 2, operand_stride = 136;
  static constexpr int weight = 1, scale_entry = -1, elections = 4, late_begin = 0, late_end = 0;
  static constexpr auto assignment = gemv::Assignment::Balanced;
  static constexpr auto fold = gemv::Fold::Direct;
  static constexpr auto scale = gemv::Scale::None;
  using Format = weights::bf16;
  using Transform = operand::Plain;
  using X = Bound<bf16, 2>;
  using Slots = Absent;
  PHASEC_DEVICE static const int *segment_table() { return wo_segments; }
  PHASEC_DEVICE static int checkpoint_row(int row) { return row; }
  PHASEC_DEVICE static void await(const Cta &, int) {}
};
// %h = gather %p, %x
struct Gather : Launch {
  using Residual = Bound<bf16, 3>;
  using Y = Bound<float, 4>;
  PHASEC_DEVICE static void signal(const Cta &) {}
};
//@ end

//@ program
struct Program {
  PHASEC_DEVICE static int calls_begin(int) { return 0; }
  PHASEC_DEVICE static int calls(int) { return 1; }
  PHASEC_DEVICE static int steps_begin(int) { return 0; }
  PHASEC_DEVICE static int steps_end(int) { return 1; }
  PHASEC_DEVICE static void open(const Cta &cta, int) { gemv::open<Wo>(cta); }
  PHASEC_DEVICE static bool fetch(const u64 *table, int, const Stretch &s, int item, Item &to) {
    gemv::fetch<Wo>(table, s, item, to);
    return true;
  }
  PHASEC_DEVICE static void run(Cta &cta, int) {
    gemv::run<Wo, gather::Finish<Gather>>(cta);
  }
};
//@ end

PHASEC_KERNEL(Launch::threads + 32 * Launch::feeders) phasec_layer(const __grid_constant__ Args args) {
  Cta cta = launch::open<Launch>(args);
  if (launch::refuse<Launch>(cta)) return;
  if constexpr (Launch::tokens == 1) cta.tokens = 1; // as it is, and no register holds it
  ptx::sync_cta(); // the step's arrays are there
  launch::open_steps<Launch, Program>(cta);
  Ring<Launch>::open(cta);
  ptx::sync_cta();
  if (cta.warp >= Launch::warps) return launch::feed<Program, Launch>(cta);
  launch::take_registers<Launch>();
  for (;;) {
    Program::run(cta, launch::instance<Launch>());
    if constexpr (Launch::instances > 1)
      if (launch::instance<Launch>() + 1 < Launch::instances) {
        launch::next_instance<Launch, Program>(cta);
        continue;
      }
    break;
  }
  launch::close<Launch>(cta);
}
PHASEC_KERNEL_ENTRY(phasec_layer, Args)
