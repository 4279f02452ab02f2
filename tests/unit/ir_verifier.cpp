// ir_verifier.cpp: verification of modules that no text guards: built by hand, or damaged after parsing; instances and
// the schedule of a file. Errors with text are in tests/language/errors.
#include "ir_support.h"

#include <doctest/doctest.h>

#include <functional>

using namespace irtest;

namespace {

ir::Module example(const char *name) {
  const auto path = std::filesystem::path(PHASEC_SOURCE_DIR) / "examples/layers" / (std::string(name) + ".phase");
  Result<ir::Module> module = ir::load(name, readFile(path));
  INFO(module.status().text());
  REQUIRE(module.ok());
  return module.take();
}

ir::Phase &phase(ir::Layer &layer, ir::Op op) { return *const_cast<ir::Phase *>(layer.find(op)); }

} // namespace

TEST_CASE("ir: instances expand the last stack, or take the last layer") {
  CHECK(ir::instances(example("tiny_stack")) == std::vector<int>{0, 0, 0});
  CHECK(ir::instances(example("tiny_mixed_stack")) == std::vector<int>{0, 1, 0, 1});
  CHECK(ir::instances(example("tiny_mlp_only")) == std::vector<int>{0});
  ir::Module module = example("tiny_mixed_stack");
  module.stacks.clear();
  CHECK(ir::instances(module) == std::vector<int>{1});
  ir::StackItem group, item;
  item.layer = "mlp";
  item.count = int64_t{1} << 62;
  group.items = {item};
  group.count = int64_t{1} << 62;
  module.stacks = {{"s", {group}, {}, {}, {}}};
  CHECK(ir::instances(module).size() == static_cast<size_t>(ir::kInstancesMax)); // even when it is not verified
  CHECK_FALSE(ir::verify(module).ok());
  module.stacks[0].items[0].items.clear();
  CHECK(ir::instances(module).empty());
}

TEST_CASE("ir: the file's schedule is applied as file origin, under stronger ones") {
  Schedule schedule;
  REQUIRE(schedule.set("ctas", "7", Origin::Flag).ok());
  REQUIRE(ir::applyFileSchedule(example("tiny_qwen35_27b_seed"), schedule).ok());
  CHECK(schedule.word("partition") == "seed");
  CHECK(schedule.origin("partition") == Origin::File);
  CHECK(schedule.integer("slice_ctas") == 8);
  CHECK(schedule.integer("ctas") == 7);
  CHECK(schedule.origin("warps") == Origin::Default);
  ir::Module bad = example("tiny_wo_harness");
  bad.layers[0].schedule.emplace_back("wo_split", "7");
  CHECK_FALSE(ir::applyFileSchedule(bad, schedule).ok());
}

TEST_CASE("ir: a damaged tree is an error, never a crash") {
  const std::pair<const char *, std::function<void(ir::Layer &)>> damages[] = {
      {"operand out of range", [](ir::Layer &l) { phase(l, ir::Op::norm).operands[0] = 1000; }},
      {"operand none", [](ir::Layer &l) { phase(l, ir::Op::wo).operands[0] = ir::kNone; }},
      {"result out of range", [](ir::Layer &l) { phase(l, ir::Op::wo).results[0] = -7; }},
      {"attribute out of range", [](ir::Layer &l) { std::get<ir::QkvAttrs>(phase(l, ir::Op::qkv).attrs).rope = 999; }},
      {"attributes of another op", [](ir::Layer &l) { phase(l, ir::Op::norm).attrs = ir::WoAttrs{}; }},
      {"no operands", [](ir::Layer &l) { phase(l, ir::Op::fc2).operands.clear(); }},
      {"no results", [](ir::Layer &l) { phase(l, ir::Op::fc2).results.clear(); }},
      {"return out of range", [](ir::Layer &l) { l.returns[0] = 1 << 20; }},
      {"no return", [](ir::Layer &l) { l.returns.clear(); }},
      {"event out of range",
       [](ir::Layer &l) {
         l.events.push_back({ir::EventKind::Grid, -1, 3, {}});
       }},
      {"huge dim", [](ir::Layer &l) { l.dims[0].second = INT64_MAX; }},
      {"negative dim", [](ir::Layer &l) { l.dims[1].second = -8; }},
      {"tokens", [](ir::Layer &l) { l.tokens_max = 17; }},
      {"tokens reversed", [](ir::Layer &l) { l.tokens_min = 9; }},
      {"phases out of order", [](ir::Layer &l) { std::swap(l.phases[0], l.phases[1]); }},
      {"a phase missing", [](ir::Layer &l) { l.phases.erase(l.phases.begin() + 2); }},
      {"a phase twice", [](ir::Layer &l) { l.phases.push_back(l.phases[0]); }},
      {"a name twice", [](ir::Layer &l) { l.values[1].name = l.values[0].name; }},
      {"a shape of another", [](ir::Layer &l) { l.values[l.phases[0].results[0]].shape[1] += 16; }},
      {"a dtype of another", [](ir::Layer &l) { l.values[l.phases[0].results[0]].dtype = ir::DType::f32; }},
      {"an unknown knob", [](ir::Layer &l) { l.schedule.emplace_back("no_such", "1"); }},
      {"a page of none",
       [](ir::Layer &l) {
         for (auto &v : l.values)
           if (v.kind == ir::ValueKind::Cache) v.cache.page = 0;
       }},
      {"eps nan", [](ir::Layer &l) { std::get<ir::NormAttrs>(l.phases[0].attrs).eps = 0.0 / 0.0; }},
      {"scale nan", [](ir::Layer &l) { std::get<ir::AttnAttrs>(phase(l, ir::Op::attn).attrs).scale = 0.0 / 0.0; }},
      {"rotary without rope",
       [](ir::Layer &l) { std::get<ir::QkvAttrs>(phase(l, ir::Op::qkv).attrs).rope = ir::kNone; }},
  };
  for (const auto &damage : damages)
    for (bool with_text : {true, false}) {
      INFO(damage.first << " " << with_text);
      ir::Module module = example("tiny_qwen35_27b");
      REQUIRE(ir::verify(module).ok());
      damage.second(module.layers[0]);
      if (!with_text) {
        module.text.clear();
        module.layers[0].statements.clear();
        module.layers[0].dim_ranges.clear();
        for (ir::Phase &p : module.layers[0].phases)
          p.operand_ranges.clear(), p.attr_ranges.clear(), p.range = p.op_range = {};
      }
      const Status status = ir::verify(module);
      CHECK(status.kind() == ErrorKind::Input);
      CHECK(status.text().find("error: ") != std::string::npos);
    }
  CHECK_FALSE(ir::verify(ir::Module()).ok());
  ir::Module twice = example("tiny_mlp_only");
  twice.layers.push_back(twice.layers[0]);
  CHECK(ir::verify(twice).text().find("@tiny_mlp_only is defined twice") != std::string::npos);
}

TEST_CASE("ir: the examples have the shapes of their models") {
  const ir::Module qwen = example("qwen35_27b");
  const ir::Layer &layer = qwen.layers[0];
  int64_t nvfp4_bytes = 0; // codes and block scales: what one decode step streams
  for (const ir::Value &v : layer.values)
    if (v.kind == ir::ValueKind::Weight && !v.isVector()) nvfp4_bytes += v.shape[0] * v.shape[1] * 9 / 16;
  CHECK(nvfp4_bytes == 209387520);
  const ir::Value &w_o = layer.values[layer.find(ir::Op::wo)->operands[1]];
  CHECK(w_o.shape == std::vector<int64_t>{5120, 6144});
  const ir::Value &w_qkv = layer.values[layer.find(ir::Op::qkv)->operands[1]];
  CHECK(w_qkv.shape[0] == 14336);
  CHECK(std::get<ir::QkvAttrs>(layer.find(ir::Op::qkv)->attrs).rotary == 64);
  const ir::Module seed = example("qwen35_27b_seed");
  CHECK(seed.layers[0].returns.size() == 2);
  CHECK(seed.layers[0].sync == ir::Sync::Explicit);
  const ir::Module harness = example("tiny_wo_harness");
  CHECK(harness.layers[0].dim("k") / harness.layers[0].dim("kv_heads") == 52);
}

/// The same phases over the same values, with other extents.
void twins(const ir::Layer &a, const ir::Layer &b) {
  CHECK(a.tokens_max == 16);
  CHECK(b.tokens_max == 8);
  CHECK(a.sync == b.sync);
  CHECK(a.events.size() == b.events.size());
  CHECK(a.returns == b.returns);
  REQUIRE(a.phases.size() == b.phases.size());
  REQUIRE(a.values.size() == b.values.size());
  for (size_t i = 0; i < a.phases.size(); ++i) {
    CHECK(a.phases[i].op == b.phases[i].op);
    CHECK(a.phases[i].operands == b.phases[i].operands);
    CHECK(a.phases[i].results == b.phases[i].results);
  }
  for (size_t i = 0; i < a.values.size(); ++i) {
    CHECK(a.values[i].name == b.values[i].name);
    CHECK(a.values[i].weight.format == b.values[i].weight.format);
    CHECK(a.values[i].cache.page == b.values[i].cache.page);
  }
}

TEST_CASE("ir: twins have the structure of their originals") {
  for (const auto &path : phaseFiles("examples/layers")) {
    const std::string stem = path.stem().string();
    if (stem.rfind("tiny_", 0) == 0) continue;
    const ir::Module big = example(stem.c_str()), small = example(("tiny_" + stem).c_str());
    INFO(stem);
    REQUIRE(big.layers.size() == small.layers.size());
    for (size_t l = 0; l < big.layers.size(); ++l) twins(big.layers[l], small.layers[l]);
  }
}
