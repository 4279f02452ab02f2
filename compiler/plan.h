// plan.h: every decision about one launch, and no text. Proof, rendering, reference, resource checks and the byte stream
// read the plan and nothing else. Five nouns: Segment, Stream, Event, Step, Region.
//
// How a GEMV is cut. A weight image is row tiles of 16 rows; a tile is a run of granules of 64 k. K is cut into slots (for
// wo: kv_heads * wo_split, by the wo_split formula; elsewhere as many as the operand's shared memory needs); a slot is cut
// into segments, each the bytes of one ring stage. A unit is (slot, row tile); CTAs own units, and a CTA's warps share
// the segments of its units. A segment's result is one float per row and token; a slot is the sum of its segments, times the
// weight's scale; a row is the left fold of its slots. Under exact a slot is the left fold of its segments, whatever the CTA
// count; under fast a cut between two warps may divide the sum.
#pragma once

#include "ir/layer.h"
#include "phasec/config.h"
#include "phasec/status.h"

#include <cstdint>
#include <string>
#include <vector>

namespace phasec {

inline constexpr int kTileRows = 16;    ///< rows of a weight image's tile
inline constexpr int kGranuleK = 64;    ///< k of a granule: the unit of the byte stream
inline constexpr int kPairTile = 8;     ///< (token, query head) pairs that attention handles together

/// One GPU architecture: a row of arch.def.
struct Target {
  const char *name;          ///< "sm_90a"
  int sm;                    ///< 90
  int64_t shared_bytes_max;  ///< dynamic shared memory a CTA may opt in to
  bool bulk_copy;            ///< cp.async.bulk with mbarrier completion
  bool register_moves;       ///< setmaxnreg: feeders leave registers to the workers
  std::vector<int> sm_counts;///< SM counts of known parts, largest first
};
const std::vector<Target> &targets();
const Target *findTarget(std::string_view name);

// ---- Region: a buffer's lifetime, layout and slots ------------------------------------------------------------------
enum class Space : uint8_t {
  Table,     ///< bound by the host: an address in the launch table
  Workspace, ///< in the workspace, at `offset`
  Shared,    ///< in each CTA's shared memory, at `offset`
};

struct Region {
  std::string name;           ///< "x", "q", "wo.slots", "ring", ...
  Space space = Space::Workspace;
  std::string dtype;          ///< "bf16", "f32", "fp8_e4m3", "i32", "u64", or a weight format
  std::vector<int64_t> shape; ///< tokens as tokens_max
  int64_t offset = 0, bytes = 0;
  int entry = -1;             ///< Table: index into Body::table
  int first_step = 0, last_step = 0; ///< lifetime within one instance; equal to the whole launch for Table regions
  int slots = 1;              ///< partial slots along the leading extent
  enum class Chain : uint8_t { None, In, Out };
  Chain chain = Chain::None;  ///< Table: what instances hand to each other in tagged words, read or written here; the host's are plain
  int tagged = 0;             ///< values of a word that also holds the round's tag: 1 (as fp32) or 2 (bf16) of 64 bits, 4 (fp32 less
                              ///< its last byte, where math allows it) of 128; 0: plain. Who reads a word waits for it
};

/// One entry of the launch table: 64 bits that bind() fills. Entries repeat per instance: table[instance * count + i].
struct TableEntry {
  enum class Kind : uint8_t {
    Input, Output, Weight, WeightScale, Vector, // addresses of values (WeightScale: fp32[rows] or fp32[1])
    Embedding,                                  // of a table as the checkpoint has it: bf16[vocab, hidden], not packed
    CacheK, CacheV,                             // base addresses of one instance's cache
    CachePageStride, CacheRowStride, CacheHeadStride, // bytes, as integers
    CacheScales,                                // fp32[2]: k_scale, v_scale (fp8 caches)
    StepCounts,   // i32[2]: tokens, sequences of this step
    SeqFirst,     // i32[sequences + 1]: first token of each sequence
    SeqContext,   // i32[sequences]: rows in the cache before this step's tokens
    PageTable,    // i32[sequences, page_stride]: page of each block of rows
    PageTableStride,
  };
  Kind kind;
  ir::ValueId value = ir::kNone; ///< the layer's value, where there is one
  std::string name;              ///< "x", "w_o", "w_o.scale", "kv.k", "step.counts", ...
};

// ---- Event ------------------------------------------------------------------------------------------------------------
struct Event {
  int id = 0;
  ir::EventKind kind = ir::EventKind::Grid;
  std::string edge;        ///< "%p wo -> %h gather": names it in generated code, reports and deadlocks
  std::string reason;      ///< why it is there, and why it is no weaker; "written" in explicit form
  int slices = 1;          ///< counters
  std::vector<int64_t> arrivals; ///< per slice and epoch; empty for a grid event (one per CTA, known at launch)
  int from_step = 0, to_step = 0;
  int counter = 0;         ///< index of its first counter word in the workspace; -1 when it is carried
  bool carried = false;    ///< by the tags of what it orders: nobody signals and nobody waits
};

// ---- Segment and Stream -----------------------------------------------------------------------------------------------
enum class Source : uint8_t { Weight, Kv };

/// A contiguous run of streamed bytes that fills one ring stage, as cut for every row tile of one GEMV.
struct Segment {
  int slot = 0;
  int fold = 0;              ///< position in the slot's left fold
  int64_t k_begin = 0, k_end = 0;           ///< elements it sums
  int64_t granule_begin = 0, granule_end = 0; ///< granules it fetches
};

/// How units of a GEMV map to CTAs.
enum class Assignment : uint8_t {
  Balanced, ///< runs of units, slot-major, the larger ones last; CTAs have slots in turn where that costs none more units
  Grid,     ///< 2d: CTAs form slots x n_parts; a slot's tiles are split over its n_parts CTAs
  SlotCta,  ///< seed: CTA c < slots owns slot c whole
};

/// A CTA's ring, and the order in which it is filled: for each step that streams, its items in unit order.
struct Stream {
  int stages = 0;
  int64_t stage_bytes = 0; ///< of one stage: the largest segment or KV block
  int window = 0;          ///< stages that may be under way at once, rounded up to as many for every feeder; `stages` sets no limit
  bool prefetches = false; ///< what is next comes to L2 while nothing can be filled: where a window says that nothing is under way
  std::vector<int> steps;  ///< steps that stream, in fetch order
};

// ---- Step -------------------------------------------------------------------------------------------------------------
enum class Transform : uint8_t { None, Norm, QuantNvfp4 };

/// What a GEMV multiplies its weights with: staged into shared memory slot by slot, as bf16.
struct Operand {
  int region = -1;           ///< bf16 or f32 [tokens, K]
  Transform transform = Transform::None;
  ir::NormAttrs norm;        ///< Transform::Norm
  int gamma = -1;            ///< table entry of gamma
  std::string gamma_dtype;
};

enum class Fold : uint8_t {
  Direct,      ///< one slot: the unit's warp finishes the rows
  Tagged,      ///< slots carry the round's tag; a warp per row tile, of any CTA, adds them when all are there
  ElectedCta,  ///< seed: the CTA that arrives last folds everything
  Consumers,   ///< slots are left in the workspace for a later step
  Atomic,      ///< slots are added as they come; the warp that brings a tile's last one finishes the rows
};

/// In which order a checkpoint's rows enter the image.
enum class RowMap : uint8_t {
  Identity,
  GateUp,      ///< fc1: a tile is eight gate rows, then the eight up rows that belong to them
  GatePerHead, ///< qkv with gate_rows = per_head: q and gate rows of each head are brought into blocks
};

struct Gemv {
  ir::Format format = ir::Format::bf16;
  ir::WeightType weight_type;
  int weight = -1, scale = -1; ///< table entries; scale -1 when the format has none
  int scale_count = 0;         ///< 1, or rows
  int64_t rows = 0, cols = 0;  ///< N and K
  int64_t tiles = 0, granules = 0; ///< ceil(rows/16), ceil(cols/64)
  int64_t granule_bytes = 0;
  RowMap row_map = RowMap::Identity;
  int head_dim = 0, heads = 0;  ///< GatePerHead
  int slots = 1, segments_per_slot = 1;
  std::vector<Segment> segments; ///< slots * segments_per_slot, slot-major
  Assignment assignment = Assignment::Balanced;
  Fold fold = Fold::Direct;
  Operand operand;
  int slots_region = -1;       ///< f32 [slots, tokens, rows], when fold != Direct
  int elections = -1;          ///< election counter word of ElectedCta; of Atomic the first of one per tile
  int operand_stride = 0;      ///< bf16 elements between two tokens of the staged operand
  int segment_granules = 0, segment_least = 0; ///< of the longest segment, and of the shortest
  int head_elections = -1;     ///< qkv: one counter per head
  int raw_region = -1;         ///< qkv: f32 [tokens, rows] before norm and rotation
  bool raw = false;            ///< qkv: attention finishes the heads; nothing but the raw sums is left
  int64_t late_begin = 0, late_end = 0; ///< row tiles that are needed last, where tags tell them apart: CTAs without
                               ///< attention compute the gates while others attend

  /// The checkpoint row that image row `row` holds, or -1 for padding.
  int64_t checkpointRow(int64_t row) const;
  int64_t imageBytes() const { return tiles * granules * granule_bytes; }
};

/// A pair's arrivals at the event behind attention: its tile's chunks bring a share each. templates/phases/attn.cuh.
inline constexpr int kPairArrivals = 256;

struct Attention {
  int kv_splits = 1;           ///< most chunks of a KV head, all tiles of the step together, save one that each tile has
  int chunk_rows = 256;        ///< fewest rows of a chunk: max(chunk_rows, rows / (kv_splits - tiles + 1)) make one, where tiles
                               ///< are pair tiles of all sequences, and a sequence's rows count once for each of its own
  int block_rows = 16;         ///< rows of one ring stage
  int buffered_warps = 1;      ///< for which the ring holds two blocks each, so that a warp's next block is under way while it
  int buffered_from = 0;       ///< attends one: they share a chunk of more rows than these, all warps a shorter one
  int row_bytes = 0;           ///< of K or V of one KV head
  int row_stride = 0;          ///< between rows in a stage: the pad spreads them over shared-memory banks
  int pair_tiles = 1;          ///< pair tiles of one token: ceil(group / 8)
  int state_floats = 0;        ///< of a pair tile's state: maxima and sums, then the weighted values of whole 128 bytes of a row
  ir::ValueId kv = ir::kNone;
  bool fresh_rows = false;     ///< this step's K and V come from the workspace (they are produced in this launch)
  int heads_step = -1;         ///< the qkv step whose raw sums this step finishes; -1: q, gate, K and V are there
  int partials_region = -1;    ///< tagged f32 [kv_heads, chunks of all tiles, state_floats]
  float scale = 0;             ///< softmax scale
};

/// The greedy choice of a token from each row of logits. A (logit, column) pair is a key whose order is the choice's: tiles
/// of 16 columns raise their token's key to their largest, and the CTA that leaves the step last stores the tokens.
/// A largest key is the same in whatever order it is looked for, so neither timing nor the CTA count shows.
struct Argmax {
  int64_t cols = 0;            ///< columns of the logits; 0: the step chooses no token
  int64_t tiles = 0;           ///< tiles of 16 columns
  int keys_region = -1;        ///< u64 [tokens], zero between steps
  int result = -1;             ///< i32 [tokens]
  int election = -1;           ///< the counter word that CTAs turn as they leave
};

/// One access of a step, for the proof: which part of `region` a unit touches.
struct Access {
  enum class Map : uint8_t { All, ByTile, BySlot, ByKvHead, ByToken };
  int region = -1;
  Map map = Map::All;
};

/// What a CTA does, in program order.
struct Step {
  int id = 0;
  ir::Op op;
  int phase = -1;              ///< index into Layer::phases
  std::string label;           ///< "wo %a, %w_o"
  std::vector<int> waits, signals; ///< event ids
  std::vector<Access> reads, writes;
  Gemv gemv;                   ///< qkv, wo, fc1, fc2, head
  Attention attention;         ///< attn
  Argmax argmax;               ///< argmax, or the head whose tiles it takes as they come
  std::vector<int> operands, results; ///< regions of the phase's operands and results, in the op's order; -1 absent

  /// Calls that a launch of some calls only may be divided into: adding up tagged slots is one of its own.
  int calls() const { return gemv.fold == Fold::Tagged ? 2 : 1; }
};

/// One body: the steps of one layer of the module.
struct Body {
  int layer = 0;               ///< index into Module::layers
  std::vector<TableEntry> table;
  std::vector<Region> regions;
  std::vector<Event> events;
  std::vector<Step> steps;
  int calls() const {
    int n = 0;
    for (const Step &s : steps) n += s.calls();
    return n;
  }
  bool leaves_by_tile = false; ///< the next instance waits for the last step's row tiles, not for every CTA
};

/// One layer instance of the launch.
struct Instance {
  int body = 0;
  int occurrence = 0;          ///< how many instances of the same body precede it
};

/// Offsets of the one dynamic shared-memory region, the same for every step.
struct SharedLayout {
  int64_t ring = 0, barriers = 0, units = 0, stretches = 0, reads = 0, step = 0, table = 0, feeder_tables = 0, owed = 0, left = 0, pieces = 0, arrived = 0, scratch = 0, operand = 0, bytes = 0;
  int64_t zeros = 0;  ///< what a column of the operand has outside of its block
  int64_t tile = 0;   ///< a warp's row tile while it adds slots
  int64_t attention_units = 0; ///< a warp's unit of attention
  int64_t states = 0; ///< attention: the warps' states, behind the queries, which begin at `operand`
};

/// Warps behind the workers, which feed the stream: one at least, and with them a multiple of four, the SM's schedulers.
constexpr int feedersOf(int warps) { return 4 - warps % 4; }

struct Plan {
  const Target *target = nullptr;
  Schedule schedule;           ///< effective
  std::vector<Body> bodies;
  std::vector<Instance> instances;
  Stream stream;
  int tokens_max = 1, warps = 0; ///< warps that work
  int feeders() const { return feedersOf(warps); }
  int threads() const { return (warps + feeders()) * 32; }
  int ctas_pinned = 0;         ///< 0: a launch value
  SharedLayout shared;
  int64_t workspace_bytes = 0;
  int instance_counter = 3;    ///< counter word of the event between instances; before it: epoch, exits, refused steps
  bool chains = false;       ///< instances hand on tagged words, with no event between them
  int64_t chain = 0, chain_bytes = 0; ///< stacks: offset and size of the buffers between instances: two for the first
                                      ///< return in turn, then one per further return
  int64_t counters = 0;        ///< u32 words of events and elections at the head of the workspace, events first
  int event_words = 0;         ///< of those the events', from instance_counter on
  int table_entries = 0;       ///< per instance (the largest body's)
};

/// Whether what is behind a wait in step `from` lies before step `to`: they are one, or an event leads on.
bool leadsTo(const Body &body, int from, int to);

/// Plans one launch of `module` (its last stack, or its last layer). Pure: equal inputs give equal plans.
/// ErrorKind::Input for a schedule the layer cannot take, with the limit and the knob to change.
Result<Plan> plan(const ir::Module &module, const Schedule &schedule, const Target &target);

/// Checks the plan from its access maps alone: every read of what another CTA wrote lies behind an event that covers it,
/// and the grid can be resident on the target. ErrorKind::Proof with a witness and the line to add.
Status prove(const Plan &plan, const ir::Module &module);

/// CTAs that own at least one wo unit, and CTAs that take part in the gather, for a grid of `ctas`.
int activeWoCtas(const Plan &plan, int ctas);
int gatherCtas(const Plan &plan, int ctas);

/// Bulk copies and bytes one launch streams, for a step's sequences; what sim counts must equal this.
struct StreamCount {
  uint64_t copies = 0, bytes = 0, waits = 0;
};
struct SequenceStep {
  int tokens = 1, context = 0; ///< rows of this step, rows in the cache before it
};
StreamCount countStream(const Plan &plan, const ir::Module &module, const std::vector<SequenceStep> &sequences);

/// The plan as text for people, and as JSON (`phasec.plan/1`) for tools and the reference.
std::string planText(const Plan &plan, const ir::Module &module);
std::string planJson(const Plan &plan, const ir::Module &module);

} // namespace phasec
