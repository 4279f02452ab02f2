// Plans that the reference must refuse, and the order it must obey.
#include "tests/unit/reference_fixture.h"

#include <doctest/doctest.h>

using namespace phasec_reference;
using namespace reference_test;

namespace {

std::string replaced(std::string text, const std::string &from, const std::string &to) {
  size_t at = text.find(from);
  REQUIRE_MESSAGE(at != std::string::npos, from);
  return text.replace(at, from.size(), to);
}

// The refusal, or "" when the plan ran.
std::string refusal(const Layer &layer, const std::string &plan) {
  Output output;
  std::string error;
  return run(plan, layer.inputs, &output, &error) ? "" : error;
}

bool contains(const std::string &text, const char *part) { return text.find(part) != std::string::npos; }

} // namespace

TEST_CASE("reference plan: segments that do not tile are refused") {
  Layer layer{Shape()};
  std::string plan = layer.plan();
  REQUIRE(refusal(layer, plan) == "");
  // The segments of qkv are [0, 64) and [64, 96).
  const std::string kFirst = "{\"slot\":0,\"fold\":0,\"k\":[0,64]}", kSecond = "{\"slot\":0,\"fold\":1,\"k\":[64,96]}";
  REQUIRE(contains(plan, (kFirst + "," + kSecond).c_str()));
  for (const char *k : {"[63,96]", "[65,96]", "[64,95]", "[64,97]", "[64,64]", "[96,64]"}) {
    std::string cut = replaced(plan, kSecond, std::string("{\"slot\":0,\"fold\":1,\"k\":") + k + "}");
    INFO(k);
    CHECK(contains(refusal(layer, cut), "tile"));
  }
  CHECK(contains(refusal(layer, replaced(plan, "," + kSecond, "")), "tile"));
  CHECK(contains(refusal(layer, replaced(plan, kSecond, kSecond + "," + kSecond)), "fold"));
  CHECK(contains(refusal(layer, replaced(plan, kSecond, "{\"slot\":0,\"fold\":2,\"k\":[64,96]}")), "fold"));
  CHECK(contains(refusal(layer, replaced(plan, kSecond, "{\"slot\":1,\"fold\":0,\"k\":[64,96]}")), "slot"));
  // Fold order against k order: not in order.
  std::string swapped = replaced(replaced(plan, kFirst, "{\"slot\":0,\"fold\":1,\"k\":[0,64]}"), kSecond,
                                 "{\"slot\":0,\"fold\":0,\"k\":[64,96]}");
  CHECK(contains(refusal(layer, swapped), "tile"));
  // The order of the list itself means nothing.
  CHECK(refusal(layer, replaced(plan, kFirst + "," + kSecond, kSecond + "," + kFirst)) == "");
}

TEST_CASE("reference plan: the W_O split formula is the reference's own") {
  Shape shape;
  shape.wo_split = 2; // K = 192, two KV heads: slots of 48
  Layer layer(shape);
  layer.wo_step = 64;
  std::string plan = layer.plan();
  REQUIRE(refusal(layer, plan) == "");
  // A plan that tiles, but with a boundary moved.
  std::string moved =
      replaced(replaced(plan, "{\"slot\":0,\"fold\":0,\"k\":[0,48]}", "{\"slot\":0,\"fold\":0,\"k\":[0,32]}"),
               "{\"slot\":1,\"fold\":0,\"k\":[48,96]}", "{\"slot\":1,\"fold\":0,\"k\":[32,96]}");
  CHECK(contains(refusal(layer, moved), "slot 1 leaves [48, 96)"));
  Output output;
  std::string error;
  CHECK(run_fp64(moved, layer.inputs, &output, &error)); // fast plans may round bounds
  CHECK(contains(refusal(layer, replaced(plan, "\"wo_split\":2", "\"wo_split\":4")), "wo_split"));
}

TEST_CASE("reference plan: unknown conventions, wrong shapes and missing entries are refused") {
  Layer layer{Shape()};
  std::string plan = layer.plan();
  const char *const kEdits[][3] = {
      {"phasec.plan/1", "phasec.plan/2", "schema"},
      {"\"gamma\":\"one_plus\"", "\"gamma\":\"two_plus\"", "gamma"},
      {"\"scales\":\"swizzled\"", "\"scales\":\"striped\"", "scales"},
      {"\"pairing\":\"half\"", "\"pairing\":\"thirds\"", "pairing"},
      {"\"act\":\"silu\"", "\"act\":\"relu\"", "act"},
      {"\"op\":\"gather\"", "\"op\":\"scatter\"", "scatter"},
      {"\"rotary\":24", "\"rotary\":26", "rope"},
      {"\"act_quant\":null", "\"act_quant\":\"int8\"", "act_quant"},
      {"\"operands\":[\"hn\",", "\"operands\":[\"zz\",", "zz"},
      {"\"returns\":[\"y\",", "\"returns\":[\"zz\",", "zz"},
      {"\"op\":\"fc1\",\"rows\":160", "\"op\":\"fc1\",\"rows\":159", "w_gate_up"},
      {"\"attention\":[{\"phase\":2", "\"attention\":[{\"phase\":3", "attention"},
      {"\"warps\":4,\"fresh", "\"warps\":0,\"fresh", "warps"},
      {"\"scale\":0.125,\"gate\"", "\"scale\":0.126,\"gate\"", "scale"},
      {"\"tokens_max\":8", "\"tokens_max\":4", "tokens"},
      {"\"instances\":[{\"body\":0", "\"instances\":[{\"body\":1", "body"},
      {"\"kv_heads\":2", "\"kv_heads\":3", "heads"},
  };
  for (const auto &edit : kEdits) {
    INFO(edit[1]);
    std::string message = refusal(layer, replaced(plan, edit[0], edit[1]));
    CHECK_MESSAGE(contains(message, edit[2]), message);
  }
  CHECK(contains(refusal(layer, plan.substr(0, plan.size() / 2)), "JSON"));
}

TEST_CASE("reference inputs: missing or short buffers and bad page tables are refused by name") {
  Layer layer{Shape()};
  std::string plan = layer.plan();
  auto with = [&](auto edit) {
    Inputs inputs = layer.inputs;
    edit(inputs);
    Output output;
    std::string error;
    return run(plan, inputs, &output, &error) ? std::string() : error;
  };
  CHECK(contains(with([](Inputs &in) { in.buffers.erase("0/w_o.scales"); }), "0/w_o.scales"));
  CHECK(contains(with([](Inputs &in) { in.buffers["0/w_down"].bytes -= 1; }), "0/w_down"));
  CHECK(contains(with([](Inputs &in) { in.buffers["0/kv.scales"].bytes = 4; }), "0/kv.scales"));
  CHECK(contains(with([](Inputs &in) { in.buffers["0/rope"].bytes = 39 * 24 * 4; }), "0/rope"));
  CHECK(contains(with([](Inputs &in) { in.caches.clear(); }), "0/kv"));
  CHECK(contains(with([](Inputs &in) { in.page_table[9] = 1000; }), "page 1000"));
  CHECK(contains(with([](Inputs &in) { in.page_table.resize(5); }), "page table"));
  CHECK(contains(with([](Inputs &in) { in.seq_first.back() = 4; }), "seq_first"));
  CHECK(contains(with([](Inputs &in) { in.seq_context.pop_back(); }), "seq_first"));
}

TEST_CASE("reference order: other segments, other bits") {
  Layer layer{Shape()};
  Output fine, coarse;
  std::string error;
  REQUIRE(run(layer.plan(), layer.inputs, &fine, &error));
  layer.wo_step = 32;
  REQUIRE(run(layer.plan(), layer.inputs, &coarse, &error));
  size_t n = fine.buffers["p"].size() / 4;
  Comparison result = compare("f32", fine.buffers["p"].data(), coarse.buffers["p"].data(), n);
  CHECK(!result.bit_exact);
  CHECK(result.rel_l2 < 1e-6);
  CHECK(compare("bf16", fine.buffers["a"].data(), coarse.buffers["a"].data(), fine.buffers["a"].size() / 2).bit_exact);
}
