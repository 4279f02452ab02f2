// The ends of a model in the reference: rows by id, logits, the greedy choice; and plans it must refuse.
#include "tests/unit/reference_fixture.h"

#include <doctest/doctest.h>

#include <limits>

using namespace phasec_reference;
using namespace reference_test;

namespace {

constexpr int64_t kVocab = 5, kHidden = 4;

// embed, head and argmax of one layer; K in two segments.
std::string stepPlan() {
  const char *kValues = R"([{"name":"ids","kind":"input","dtype":"i32","shape":[-1]},
    {"name":"table","kind":"weight","format":"bf16","shape":[5,4]},{"name":"w","kind":"weight","format":"bf16","shape":[5,4]},
    {"name":"x","kind":"temp","dtype":"bf16","shape":[-1,4]},{"name":"logits","kind":"temp","dtype":"f32","shape":[-1,5]},
    {"name":"token","kind":"temp","dtype":"i32","shape":[-1]}])";
  const char *kPhases = R"([{"op":"embed","operands":["ids","table"],"results":["x"],"attrs":{}},
    {"op":"head","operands":["x","w"],"results":["logits"],"attrs":{}},
    {"op":"argmax","operands":["logits"],"results":["token"],"attrs":{}}])";
  return std::string(
             R"({"schema":"phasec.plan/1","tokens_max":4,"wo_split":0,"instances":[{"body":0}],"bodies":[{"dims":{},"values":)") +
         kValues + ",\"phases\":" + kPhases +
         R"(,"returns":["token","logits","x"],"gemv":[{"phase":1,"rows":5,"cols":4,"slots":1,"segments":[)" +
         segments(0, 0, kHidden, 2) + "]}]}]}";
}

struct Step {
  std::vector<int32_t> ids;
  std::vector<uint16_t> table = std::vector<uint16_t>(kVocab * kHidden), w = table;
  Output output;
  std::string error;

  bool run(const std::string &plan = stepPlan()) {
    Inputs inputs;
    inputs.tokens = int(ids.size());
    inputs.buffers["0/ids"] = {ids.data(), ids.size() * 4};
    inputs.buffers["0/table"] = {table.data(), table.size() * 2};
    inputs.buffers["0/w"] = {w.data(), w.size() * 2};
    return phasec_reference::run(plan, inputs, &output, &error);
  }
  template <class T> std::vector<T> get(const char *name) const {
    const std::vector<uint8_t> &bytes = output.buffers.at(name);
    std::vector<T> out(bytes.size() / sizeof(T));
    std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }
};

std::string replaced(std::string text, const std::string &from, const std::string &to) {
  size_t at = text.find(from);
  REQUIRE_MESSAGE(at != std::string::npos, from);
  return text.replace(at, from.size(), to);
}

} // namespace

TEST_CASE("reference step: rows by id, zeros outside, logits and the first of the largest") {
  Step step;
  step.ids = {2, 5, -1, 4};
  for (int64_t i = 0; i < kVocab * kHidden; ++i) step.table[size_t(i)] = toBf16(float(i)); // row r is 4r, 4r+1, ...
  const float rows[kVocab] = {1, -1, 3, 3, 2}; // logit of column c is rows[c] times the sum of x
  for (int64_t i = 0; i < kVocab * kHidden; ++i) step.w[size_t(i)] = toBf16(rows[i / kHidden]);
  REQUIRE_MESSAGE(step.run(), step.error);
  std::vector<uint16_t> x = step.get<uint16_t>("x");
  for (int64_t i = 0; i < kHidden; ++i) {
    CHECK(x[size_t(i)] == toBf16(float(8 + i)));
    CHECK(x[size_t(kHidden + i)] == 0);
    CHECK(x[size_t(2 * kHidden + i)] == 0);
    CHECK(x[size_t(3 * kHidden + i)] == toBf16(float(16 + i)));
  }
  std::vector<float> logits = step.get<float>("logits");
  for (int64_t c = 0; c < kVocab; ++c) {
    CHECK(logits[size_t(c)] == 38 * rows[c]);
    CHECK(logits[size_t(3 * kVocab + c)] == 70 * rows[c]);
  }
  CHECK(step.get<int32_t>("token") == std::vector<int32_t>{2, 0, 0, 2}); // zeros tie to the first column
  CHECK(step.output.dtypes.at("token") == "i32");
}

TEST_CASE("reference step: NaN is passed over, and 0 stands for nothing but NaN") {
  Step step;
  step.ids = {0, 1};
  step.table = std::vector<uint16_t>(kVocab * kHidden, toBf16(1.0f));
  for (int64_t i = 0; i < kVocab * kHidden; ++i) step.w[size_t(i)] = toBf16(float(-i / kHidden));
  step.w[0] = 0x7fc0; // column 0 is NaN everywhere
  REQUIRE(step.run());
  CHECK(step.get<int32_t>("token") == std::vector<int32_t>{1, 1});
  step.table[kHidden] = 0xffc1; // row 1
  REQUIRE(step.run());
  CHECK(step.get<int32_t>("token") == std::vector<int32_t>{1, 0});
  step.w[0] = toBf16(-std::numeric_limits<float>::infinity());
  for (int64_t c = 1; c < kVocab; ++c) step.w[size_t(c * kHidden)] = 0x7fc0;
  REQUIRE(step.run());
  CHECK(step.get<int32_t>("token") == std::vector<int32_t>{0, 0}); // -infinity is a number
}

TEST_CASE("reference step: plans of another meaning are refused") {
  Step step;
  step.ids = {0};
  const std::string plan = stepPlan();
  REQUIRE(step.run(plan));
  const std::pair<std::string, std::string> edits[] = {
      {R"("dtype":"i32","shape":[-1]},)", R"("dtype":"i32","shape":[-1,1]},)"},
      {R"({"name":"ids","kind":"input","dtype":"i32","shape":[-1]})",
       R"({"name":"ids","kind":"input","dtype":"f32","shape":[-1,1]})"},
      {R"("name":"table","kind":"weight","format":"bf16")", R"("name":"table","kind":"weight","format":"nvfp4")"},
      {R"("name":"x","kind":"temp","dtype":"bf16","shape":[-1,4])",
       R"("name":"x","kind":"temp","dtype":"bf16","shape":[-1,5])"},
      {R"("name":"logits","kind":"temp","dtype":"f32","shape":[-1,5])",
       R"("name":"logits","kind":"temp","dtype":"f32","shape":[-1,6])"},
      {R"("name":"logits","kind":"temp","dtype":"f32")", R"("name":"logits","kind":"temp","dtype":"bf16")"},
      {R"("operands":["logits"])", R"("operands":["token"])"},
      {R"("operands":["logits"])", R"("operands":["logits","x"])"},
      {R"("results":["token"])", R"("results":["logits"])"},
      {R"("op":"argmax")", R"("op":"argmin")"},
  };
  for (const auto &[from, to] : edits) {
    INFO(to);
    CHECK_FALSE(step.run(replaced(plan, from, to)));
    CHECK_FALSE(step.error.empty());
  }
}
