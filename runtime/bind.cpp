// bind.cpp: checks buffers against the plan, fills the launch table, launches.
#include "runtime/state.h"

#include "ir/layer.h"

#include <algorithm>
#include <set>

namespace phasec {

using detail::BoundState;
using detail::KernelState;

namespace {

/// The kernel's parameter block; templates/cta.cuh has the same.
struct Args {
  uint64_t table, workspace;
  int32_t call_begin, call_end;
};
static_assert(sizeof(Args) == 24);

constexpr int kRefusedWord = 2;

int callCount(const Plan &plan) {
  int calls = 0;
  for (const Instance &i : plan.instances) calls += plan.bodies[i.body].calls();
  return calls;
}

std::string shapeText(const std::string &dtype, const std::vector<int64_t> &shape) {
  std::string text = dtype + "[";
  for (size_t i = 0; i < shape.size(); i++) text += (i ? ", " : "") + (shape[i] < 0 ? std::string("tokens") : std::to_string(shape[i]));
  return text + "]";
}

const Gemv *gemvOf(const Body &body, int entry) {
  for (const Step &s : body.steps)
    if (s.gemv.rows && s.gemv.weight == entry) return &s.gemv;
  return nullptr;
}

BufferSpec specOf(const Plan &plan, const ir::Layer &layer, const Body &body, int entry) {
  const TableEntry &e = body.table[entry];
  BufferSpec spec;
  spec.name = e.name;
  using Kind = TableEntry::Kind;
  switch (e.kind) {
  case Kind::StepCounts: return {e.name, "step", "i32", {2}, "", 0};
  case Kind::SeqFirst: return {e.name, "step", "i32", {plan.tokens_max + 1}, "", 0};
  case Kind::SeqContext: return {e.name, "step", "i32", {plan.tokens_max}, "", 0};
  case Kind::PageTable: return {e.name, "step", "i32", {plan.tokens_max, -1}, "", 0};
  case Kind::WeightScale: {
    const Gemv *g = gemvOf(body, entry - 1);
    return {e.name, "weight_scale", "f32", {g ? g->scale_count : 1}, "", 0};
  }
  case Kind::CacheK: return {e.name, "cache", ir::name(layer.values[e.value].cache.dtype), {}, "", 0};
  default: break;
  }
  const ir::Value &v = layer.values[e.value];
  spec.kind = e.kind == Kind::Input       ? "input"
              : e.kind == Kind::Output    ? "output"
              : e.kind == Kind::Weight    ? "weight"
              : e.kind == Kind::Embedding ? "embedding"
                                          : "vector";
  spec.dtype = e.kind == Kind::Weight || e.kind == Kind::Embedding ? ir::name(v.weight.format) : ir::name(v.dtype);
  spec.shape = v.shape;
  if (e.kind == Kind::Weight)
    if (const Gemv *g = gemvOf(body, entry)) spec.layout = detail::layoutId(*g);
  if (e.kind == Kind::Output && layer.producer(e.value) && layer.producer(e.value)->op == ir::Op::wo)
    for (const Region &r : body.regions)
      if (r.entry == entry) spec.shape.insert(spec.shape.begin(), r.slots);
  return spec;
}

/// Whether any instance looks at sequences: all of them find the step's arrays in the first one's table.
bool needsSequences(const Plan &plan) {
  for (const Body &body : plan.bodies)
    for (const Step &s : body.steps)
      if (s.op == ir::Op::attn || s.op == ir::Op::qkv) return true;
  return false;
}

/// Entries a host binds by name, as opposed to those that follow from another (strides, the second half of a cache).
bool boundByName(const TableEntry &e, bool sequences) {
  switch (e.kind) {
  case TableEntry::Kind::SeqFirst:
  case TableEntry::Kind::SeqContext:
  case TableEntry::Kind::PageTable: return sequences;
  case TableEntry::Kind::PageTableStride:
  case TableEntry::Kind::CacheV:
  case TableEntry::Kind::CachePageStride:
  case TableEntry::Kind::CacheRowStride:
  case TableEntry::Kind::CacheHeadStride:
  case TableEntry::Kind::CacheScales: return false;
  default: return true;
  }
}

class Binder {
public:
  Binder(const KernelState &kernel, const Buffers &buffers, uint64_t workspace)
      : kernel_(kernel), plan_(kernel.plan), buffers_(buffers), workspace_(workspace),
        table_(plan_.instances.size() * size_t(plan_.table_entries), 0) {}

  Result<std::vector<uint64_t>> run() {
    for (size_t i = 0; i < plan_.instances.size(); i++) PHASEC_TRY(bindInstance(int(i)));
    for (const auto &[name, unused] : buffers_.arrays)
      if (!used_.count(name)) return Status::input("buffer \"" + name + "\": the kernel has no such name; Kernel::buffers() lists them");
    for (const auto &[name, unused] : buffers_.caches)
      if (!used_.count(name)) return Status::input("cache \"" + name + "\": the kernel has no such name; Kernel::buffers() lists them");
    return std::move(table_);
  }

private:
  uint64_t &entry(int instance, int i) { return table_[size_t(instance) * size_t(plan_.table_entries) + size_t(i)]; }

  template <class Map> const typename Map::mapped_type *find(const Map &map, int instance, const std::string &name) {
    for (const std::string &key : {std::to_string(instance) + "/" + name, name})
      if (auto it = map.find(key); it != map.end()) {
        used_.insert(key);
        return &it->second;
      }
    return nullptr;
  }

  std::string label(int instance, const std::string &name) const {
    return "buffer \"" + (plan_.instances.size() > 1 ? std::to_string(instance) + "/" : "") + name + "\"";
  }

  Status bindInstance(int instance) {
    const Body &body = plan_.bodies[plan_.instances[size_t(instance)].body];
    const ir::Layer &layer = kernel_.module->layers[body.layer];
    bool first_input = true;
    int returned = 0;
    for (int i = 0; i < int(body.table.size()); i++) {
      const TableEntry &e = body.table[i];
      bool chained_input = e.kind == TableEntry::Kind::Input && std::exchange(first_input, false) && instance > 0;
      bool chained_output = e.kind == TableEntry::Kind::Output && instance + 1 < int(plan_.instances.size());
      if (chained_input) {
        entry(instance, i) = chain(0, instance - 1);
      } else if (chained_output) {
        entry(instance, i) = chain(returned++, instance);
      } else if (e.kind == TableEntry::Kind::CacheK) {
        PHASEC_TRY(bindCache(instance, i, layer.values[e.value]));
      } else if (boundByName(e, needsSequences(plan_)) && !(instance > 0 && i < 5)) {
        PHASEC_TRY(bindArray(instance, i, specOf(plan_, layer, body, i)));
      }
    }
    return {};
  }

  /// Buffers between instances: the first return goes to two in turn, so that no instance overwrites what it reads.
  uint64_t chain(int returned, int instance) const {
    return workspace_ + uint64_t(plan_.chain + (returned == 0 ? instance % 2 : 1 + returned) * plan_.chain_bytes);
  }

  Status bindArray(int instance, int i, const BufferSpec &spec) {
    const Buffer *b = find(buffers_.arrays, instance, spec.name);
    if (!b) return Status::input(label(instance, spec.name) + ": missing; expected " + shapeText(spec.dtype, spec.shape) + " (" + spec.kind + ")");
    std::string expected = ": expected " + shapeText(spec.dtype, spec.shape), got = ", got " + shapeText(b->dtype, b->shape);
    if (b->dtype != spec.dtype) return Status::input(label(instance, spec.name) + expected + got);
    if (b->layout != spec.layout)
      return Status::input(label(instance, spec.name) + ": expected layout \"" + spec.layout + "\", got \"" + b->layout + "\"; " +
                           (spec.layout.empty() ? "this buffer is not packed" : "weights are packed with Kernel::pack()"));
    if (b->address == 0 || b->address % 16)
      return Status::input(label(instance, spec.name) + ": address is " + (b->address ? "not 16-byte aligned" : "null"));
    PHASEC_TRY(checkShape(instance, spec, *b, expected + got));
    entry(instance, i) = b->address;
    if (spec.name == "step.page_table") entry(instance, i + 1) = uint64_t(b->shape[1]);
    return {};
  }

  Status checkShape(int instance, const BufferSpec &spec, const Buffer &b, const std::string &text) const {
    bool ok = b.shape.size() == spec.shape.size();
    for (size_t d = 0; ok && d < spec.shape.size(); d++) {
      if (spec.name == "step.page_table") ok = d == 1 ? b.shape[1] > 0 : true;
      else if (spec.kind == "step") ok = b.shape[d] >= 1 && b.shape[d] <= spec.shape[d];
      else if (spec.shape[d] < 0) ok = b.shape[d] >= plan_.tokens_max;
      else ok = b.shape[d] == spec.shape[d];
    }
    if (ok) return {};
    bool tokens = !spec.shape.empty() && spec.shape[0] < 0;
    return Status::input(label(instance, spec.name) + text +
                         (tokens ? "; tokens must have room for " + std::to_string(plan_.tokens_max) : std::string()));
  }

  Status bindCache(int instance, int i, const ir::Value &v) {
    const KvBuffer *c = find(buffers_.caches, instance, v.name);
    std::string who = label(instance, v.name), dtype = ir::name(v.cache.dtype);
    if (!c) return Status::input(who + ": missing; expected a " + dtype + " cache with pages of " + std::to_string(v.cache.page) + " rows");
    if (c->dtype != dtype || c->page != v.cache.page)
      return Status::input(who + ": expected " + dtype + " with pages of " + std::to_string(v.cache.page) + " rows, got " + c->dtype +
                           " with pages of " + std::to_string(c->page));
    const ir::Layer &layer = kernel_.module->layers[plan_.bodies[plan_.instances[size_t(instance)].body].layer];
    int64_t row_bytes = layer.dim("head_dim") * ir::bytes(v.cache.dtype), heads = layer.dim("kv_heads");
    if (!c->k || !c->v || c->k % 16 || c->v % 16) return Status::input(who + ": K and V addresses must be set and 16-byte aligned");
    for (auto [name, stride] : {std::pair{"page_stride", c->page_stride}, {"row_stride", c->row_stride}, {"head_stride", c->head_stride}})
      if (stride % 16 || stride < row_bytes)
        return Status::input(who + ": " + name + " = " + std::to_string(stride) + " bytes; expected a multiple of 16, at least one row of " +
                             std::to_string(row_bytes) + " bytes");
    bool hnd = c->head_stride > c->row_stride;
    if (heads > 1 && v.cache.page > 1 && hnd != v.cache.hnd)
      return Status::input(who + ": declared order = " + (v.cache.hnd ? "hnd" : "nhd") + ", but the strides are those of " + (hnd ? "hnd" : "nhd"));
    if (v.cache.dtype == ir::DType::fp8_e4m3) {
      if (!c->scales || c->scales % 4) return Status::input(who + ": an fp8 cache needs the address of fp32 {k_scale, v_scale}");
      entry(instance, i + 5) = c->scales;
    }
    entry(instance, i) = c->k;
    entry(instance, i + 1) = c->v;
    entry(instance, i + 2) = uint64_t(c->page_stride);
    entry(instance, i + 3) = uint64_t(c->row_stride);
    entry(instance, i + 4) = uint64_t(c->head_stride);
    return {};
  }

  const KernelState &kernel_;
  const Plan &plan_;
  const Buffers &buffers_;
  uint64_t workspace_;
  std::vector<uint64_t> table_;
  std::set<std::string> used_;
};

/// Where a launch without events is divided: before every step that waits, before tagged slots are added, and between
/// instances.
std::vector<int> splitCuts(const Plan &plan) {
  std::vector<int> cuts;
  int call = 0;
  for (const Instance &i : plan.instances)
    for (const Step &s : plan.bodies[i.body].steps) {
      if (call > 0 && (s.id == 0 || !s.waits.empty())) cuts.push_back(call);
      if (s.calls() > 1) cuts.push_back(call + 1);
      call += s.calls();
    }
  cuts.push_back(call);
  return cuts;
}

/// Whether CTAs wait for each other inside one call: for chunks of attention, where a KV head may have several.
bool mergesChunks(const Plan &plan) {
  for (const Body &b : plan.bodies)
    for (const Step &s : b.steps)
      if (s.op == ir::Op::attn && s.attention.kv_splits > 1) return true;
  return false;
}

} // namespace

detail::BoundState::~BoundState() {
  if (!kernel) return;
  Device &device = *kernel->runtime->device;
  if (table) device.release(table);
  if (owns_workspace) device.release(workspace);
}

std::vector<BufferSpec> Kernel::buffers() const {
  std::vector<BufferSpec> specs;
  const Plan &plan = state_->plan;
  for (size_t n = 0; n < plan.instances.size(); n++) {
    const Body &body = plan.bodies[plan.instances[n].body];
    const ir::Layer &layer = state_->module->layers[body.layer];
    bool first_input = true;
    for (int i = 0; i < int(body.table.size()); i++) {
      const TableEntry &e = body.table[i];
      bool chained = (e.kind == TableEntry::Kind::Input && std::exchange(first_input, false) && n > 0) ||
                     (e.kind == TableEntry::Kind::Output && n + 1 < plan.instances.size());
      if (chained || !boundByName(e, needsSequences(plan)) || (n > 0 && i < 5)) continue;
      specs.push_back(specOf(plan, layer, body, i));
      specs.back().instance = int(n);
    }
  }
  return specs;
}

Result<Bound> Kernel::bind(const Buffers &buffers) const {
  if (!state_->loaded) return Status::usage("bind: the runtime was opened without a device (DeviceChoice::None)");
  Device &device = *state_->runtime->device;
  const Plan &plan = state_->plan;
  auto bound = std::make_unique<BoundState>();
  bound->kernel = state_;
  bound->workspace = buffers.workspace;
  if (buffers.workspace % 256) return Status::input("workspace: address is not 256-byte aligned");
  if (!bound->workspace) {
    PHASEC_ASSIGN(bound->workspace, device.allocate(plan.workspace_bytes));
    bound->owns_workspace = true;
  }
  // All of it: tagged words of an earlier binding would pass for this one's.
  PHASEC_TRY(device.fill(bound->workspace, 0, plan.workspace_bytes));
  PHASEC_ASSIGN(std::vector<uint64_t> table, Binder(*state_, buffers, bound->workspace).run());
  PHASEC_ASSIGN(bound->table, device.allocate(int64_t(table.size()) * 8));
  PHASEC_TRY(device.upload(bound->table, table.data(), int64_t(table.size()) * 8));
  bound->shape = {ctas(), plan.threads(), plan.shared.bytes, true};
  PHASEC_ASSIGN(int resident, state_->loaded->residentCtas(bound->shape));
  bound->cuts = {callCount(plan)};
  if (resident < bound->shape.ctas || !device.info().cooperative) {
    if (plan.schedule.word("on_refusal") != "split")
      return Status(ErrorKind::Refused, "a grid of " + std::to_string(bound->shape.ctas) + " CTAs cannot be resident on " + device.info().name +
                                            " (" + std::to_string(resident) + " fit); set ctas, or on_refusal = split to run one kernel per event");
    if (mergesChunks(plan))
      return Status(ErrorKind::Refused, "on_refusal = split: the CTAs of a KV head's chunks wait for each other inside attention, and " + std::to_string(resident) + " of " +
                                            std::to_string(bound->shape.ctas) + " fit on " + device.info().name + " at once; set kv_splits = 1, or ctas <= " + std::to_string(resident));
    bound->shape.cooperative = false;
    bound->cuts = splitCuts(plan);
  }
  return Bound(std::move(bound));
}

Bound::Bound(std::unique_ptr<BoundState> state) : state_(std::move(state)) {}
Bound::Bound(Bound &&) noexcept = default;
Bound &Bound::operator=(Bound &&) noexcept = default;
Bound::~Bound() = default;

Status Bound::launch(void *stream) {
  BoundState &b = *state_;
  if (b.poisoned)
    return {ErrorKind::Device, "a launch on this workspace failed, so its event counters are not to be trusted; bind again"};
  Device &device = *b.kernel->runtime->device;
  int begin = 0;
  for (int end : b.cuts) {
    Args args{b.table, b.workspace, begin, end};
    Status s = device.launch(*b.kernel->loaded, b.shape, &args, sizeof args, stream);
    if (!s.ok()) {
      b.poisoned = s.kind() != ErrorKind::Refused || begin > 0;
      return s;
    }
    begin = end;
  }
  if (!b.shape.cooperative) b.split_launches++;
  return {};
}

Result<int64_t> Bound::refusedSteps() const {
  Device &device = *state_->kernel->runtime->device;
  PHASEC_TRY(device.synchronize());
  uint32_t count = 0;
  PHASEC_TRY(device.download(&count, state_->workspace + kRefusedWord * 4, 4));
  return int64_t(count);
}

int64_t Bound::splitLaunches() const { return state_->split_launches; }
int Bound::ctas() const { return state_->shape.ctas; }

} // namespace phasec
