// runtime_step.cpp: the ends of a model: embed, head and argmax by themselves, in one layer and around a stack: ids outside
// the table, ties, NaN, the choice at every grid, tokens that become the next launch's ids.
#include "tests/unit/runtime_support.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

using namespace runtimetest;

namespace {

const std::vector<Feed> kSteps = {{{0}, {1}, 61, false}, {{17, 2}, {2, 3}, 62, true}, {{9}, {8}, 63, true}};

std::string headText(const std::string &format, const std::string &attrs, const std::string &returns) {
  return "layer @head {\n  tokens 1..8\n  in %x : bf16[tokens, 144]\n  weight %g : bf16[144]\n  weight %w : " + format + "[331, 144] " + attrs +
         "\n  %n = norm %x, %g { eps = 1e-5 }\n  %logits = head %n, %w\n  %token = argmax %logits\n  return " + returns + "\n}\n";
}

std::string argmaxText(int columns, int tokens = 8) {
  return "layer @choose {\n  tokens 1.." + std::to_string(tokens) + "\n  in %logits : f32[tokens, " + std::to_string(columns) +
         "]\n  %token = argmax %logits\n  return %token\n}\n";
}

/// A model without a stack: every edge between its phases is this layer's own.
const char *kWhole = "layer @whole {\n  dims hidden = 80, ffn = 168, vocab = 203\n  tokens 1..8\n  in %ids : i32[tokens]\n  weight %table : bf16[vocab, hidden]\n"
                     "  weight %g : bf16[hidden]\n  weight %w_gate_up : bf16[2 * ffn, hidden]\n  weight %w_down : bf16[hidden, ffn]\n  weight %g_final : bf16[hidden]\n"
                     "  weight %w_head : bf16[vocab, hidden]\n  %x = embed %ids, %table\n  %n = norm %x, %g\n  %u = fc1 %n, %w_gate_up { act = silu }\n"
                     "  %y = fc2 %u, %w_down, %x\n  %yn = norm %y, %g_final\n  %logits = head %yn, %w_head\n  %token = argmax %logits\n  return %token\n}\n";

/// Tokens that the next instance embeds: i32 between the instances of a stack.
const char *kTwice = "layer @embed {\n  tokens 1..8\n  in %ids : i32[tokens]\n  weight %table : bf16[90, 64]\n  %x = embed %ids, %table\n  return %x\n}\n"
                     "layer @head {\n  tokens 1..8\n  in %x : bf16[tokens, 64]\n  weight %w : bf16[90, 64]\n  %logits = head %x, %w\n  %token = argmax %logits\n"
                     "  return %token, %logits\n}\nstack @twice { repeat(3) { @embed; @head } }\n";

/// A session whose step has the inputs that `edit` makes of the seeded ones.
struct Edited {
  Session session;
  std::shared_ptr<HostInputs> inputs;
  std::shared_ptr<Staging> staging;

  template <class Edit> static Edited make(const Layers &layers, const Setup &setup, const Feed &step, Edit edit) {
    auto session = Session::open(layers, setup);
    REQUIRE_MESSAGE(session.ok(), session.status().text());
    auto made = cli::makeInputs(session->kernel.plan(), session->layers.module(), inputOptions(step));
    REQUIRE_MESSAGE(made.ok(), made.status().text());
    auto inputs = std::make_shared<HostInputs>(made.take());
    edit(*inputs);
    auto staging = Staging::make(session->kernel, session->device(), *inputs);
    REQUIRE_MESSAGE(staging.ok(), staging.status().text());
    auto shared = std::make_shared<Staging>(staging.take());
    return {session.take(), inputs, shared};
  }

  /// Launches once; compares with the reference.
  Downloaded run() {
    REQUIRE(staging->wipeOutputs().ok());
    auto bound = session.kernel.bind(staging->buffers());
    REQUIRE_MESSAGE(bound.ok(), bound.status().text());
    REQUIRE(bound->launch().ok());
    return checked();
  }
  Downloaded checked() {
    auto got = staging->download();
    REQUIRE_MESSAGE(got.ok(), got.status().text());
    auto check = cli::checkAgainstReference(session.kernel.plan(), session.layers.module(), *inputs, *got);
    REQUIRE_MESSAGE(check.ok(), check.status().text());
    CHECK_MESSAGE(check->findings.empty(), firstOf(*check));
    return got.take();
  }
};

template <class T> std::vector<T> values(const Downloaded &results, const std::string &name) {
  for (const cli::OutputArray &out : results.outputs)
    if (out.name == name) {
      std::vector<T> v(out.bytes.size() / sizeof(T));
      std::memcpy(v.data(), out.bytes.data(), out.bytes.size());
      return v;
    }
  FAIL("no output " << name);
  return {};
}

template <class T> void put(std::vector<uint8_t> &bytes, size_t at, T value) { std::memcpy(bytes.data() + at * sizeof(T), &value, sizeof(T)); }

/// The tokens that one row of logits per token gives, at a few grids.
std::vector<int32_t> chosen(const std::vector<std::vector<float>> &rows, int ctas) {
  Setup setup;
  setup.sim_ctas = ctas;
  setup.sim_seed = uint64_t(ctas) + 3;
  Edited step = Edited::make(parse(argmaxText(int(rows[0].size()))), setup, {{0}, {int(rows.size())}}, [&](HostInputs &in) {
    for (size_t r = 0; r < rows.size(); r++)
      for (size_t i = 0; i < rows[r].size(); i++) put(in.arrays.at("0/logits"), r * rows[r].size() + i, rows[r][i]);
  });
  return values<int32_t>(step.run(), "token");
}

} // namespace

TEST_CASE("sim: embed, head in every format and argmax, each by itself and all in one layer") {
  std::vector<Case> cases;
  auto add = [&](const char *name, const std::string &text) {
    Setup setup;
    setup.sim_seed = 40 + cases.size();
    setup.sim_ctas = 1 + int(cases.size() % 5);
    cases.push_back({name, parse(text, std::string(name) + ".phase"), setup, kSteps});
  };
  add("embed", "layer @embed {\n  tokens 1..8\n  in %ids : i32[tokens]\n  weight %t : bf16[37, 48]\n  %x = embed %ids, %t\n  return %x\n}\n");
  add("one_row", "layer @embed {\n  tokens 1..8\n  in %ids : i32[tokens]\n  weight %t : bf16[1, 16]\n  %x = embed %ids, %t\n  return %x\n}\n");
  add("head_bf16", headText("bf16", "", "%logits, %token"));
  add("head_fp8", headText("fp8_e4m3", "{ scale = row }", "%token"));
  add("head_fp8_tensor", headText("fp8_e4m3", "{ scale = tensor }", "%token, %logits"));
  add("head_nvfp4", headText("nvfp4", "{ scales = swizzled, global = divide }", "%token, %logits"));
  add("logits", "layer @logits {\n  tokens 1..8\n  in %x : bf16[tokens, 144]\n  weight %w : nvfp4[40, 144] { scales = linear, global = multiply }\n  %l = head %x, %w\n  return %l\n}\n");
  for (int columns : {1, 16, 17, 300, 4099}) add("argmax", argmaxText(columns));
  add("argmax_16", argmaxText(523, 16));
  add("argmax_of_rows", "layer @rows {\n  tokens 1..8\n  in %u : bf16[tokens, 72]\n  weight %w : bf16[80, 72]\n  %y : f32 = fc2 %u, %w\n  %t = argmax %y\n  return %t\n}\n");
  add("whole", kWhole);
  add("chained", kTwice);
  runCases(cases);
}

TEST_CASE("sim: neither grid, warps nor seed show in a token") {
  Layers layers = parse(kWhole);
  std::optional<Downloaded> first;
  for (auto [ctas, seed, settings] : {std::tuple{4, 1, ""}, {1, 2, ""}, {7, 3, ""}, {13, 4, "warps=2"}, {3, 5, "warps=4 ring=3"}, {4, 6, ""}}) {
    Setup setup;
    setup.settings = settings;
    setup.sim_ctas = ctas;
    setup.sim_seed = uint64_t(seed);
    auto session = Session::open(layers, setup);
    REQUIRE_MESSAGE(session.ok(), session.status().text());
    Downloaded got;
    std::string wrong = runStep(*session, {{0}, {7}, 5, true}, &got);
    CHECK_MESSAGE(wrong.empty(), ctas, " CTAs, seed ", seed, ": ", wrong);
    if (!first) first = got;
    CHECK(got == *first);
  }
}

TEST_CASE("sim: an id outside the table gives zeros and reads nothing") {
  const std::vector<int32_t> ids = {36, 37, -1, 0, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min(), 1 << 24};
  Layers layers = parse("layer @embed {\n  tokens 1..8\n  in %ids : i32[tokens]\n  weight %t : bf16[37, 48]\n  %x = embed %ids, %t\n  return %x\n}\n");
  Edited step = Edited::make(layers, Setup{}, {{0}, {int(ids.size())}}, [&](HostInputs &in) {
    for (size_t i = 0; i < ids.size(); i++) put(in.arrays.at("0/ids"), i, ids[i]);
  });
  std::vector<uint16_t> x = values<uint16_t>(step.run(), "x");
  const std::vector<uint8_t> &table = step.inputs->arrays.at("0/t");
  for (size_t token = 0; token < ids.size(); token++) {
    std::vector<uint16_t> expected(48, 0);
    if (ids[token] >= 0 && ids[token] < 37) std::memcpy(expected.data(), table.data() + ids[token] * 96, 96);
    CHECK_MESSAGE(std::equal(expected.begin(), expected.end(), x.begin() + long(token * 48)), "id ", ids[token]);
  }
}

TEST_CASE("sim: the largest logit, the lowest column among equals, NaN only where there is nothing else") {
  constexpr float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float negative_nan = std::bit_cast<float>(0xffc00001u), least = std::numeric_limits<float>::denorm_min();
  constexpr size_t n = 300;
  auto row = [&](float fill, std::vector<std::pair<size_t, float>> set) {
    std::vector<float> r(n, fill);
    for (auto [i, v] : set) r[i] = v;
    return r;
  };
  struct Choice {
    std::vector<float> row;
    int32_t token;
  };
  const std::vector<Choice> choices = {
      {row(-1, {{299, -0.5f}}), 299},
      {row(1, {}), 0},                                      // all equal
      {row(0, {{16, 7}, {17, 7}, {255, 7}}), 16},           // across tiles
      {row(-3, {{140, -0.0f}, {141, 0.0f}}), 140},          // -0 equals 0
      {row(-3, {{140, 0.0f}, {141, -0.0f}}), 140},
      {row(0, {{77, least}}), 77},                          // a denormal is larger than 0
      {row(0, {{0, -least}, {1, -0.0f}}), 1},
      {row(-inf, {}), 0},
      {row(-inf, {{211, -3e38f}}), 211},
      {row(nan, {{31, -inf}, {48, -inf}}), 31},             // a NaN loses to everything
      {row(nan, {}), 0},                                    // and is chosen where all are
      {row(negative_nan, {{5, nan}}), 0},
      {row(2, {{3, inf}, {4, nan}, {290, inf}}), 3},
      {row(nan, {{298, -2}, {299, -1}}), 299},
      {row(negative_nan, {{160, 0.0f}}), 160},
      {row(-1e-3f, {{33, 3e6f}, {32, 2999999.75f}}), 33},
  };
  for (int ctas : {1, 5})
    for (size_t begin = 0; begin < choices.size(); begin += 8) {
      std::vector<std::vector<float>> rows;
      for (size_t i = begin; i < begin + 8; i++) rows.push_back(choices[i].row);
      std::vector<int32_t> got = chosen(rows, ctas);
      for (size_t i = 0; i < 8; i++) CHECK_MESSAGE(got[i] == choices[begin + i].token, "row ", begin + i, ", ", ctas, " CTAs");
    }
}

TEST_CASE("sim: what a step has chosen does not stay for the next") {
  Setup setup;
  setup.sim_ctas = 3;
  Edited step = Edited::make(parse(argmaxText(300)), setup, {{0}, {2}}, [](HostInputs &) {});
  auto bound = step.session.kernel.bind(step.staging->buffers());
  REQUIRE_MESSAGE(bound.ok(), bound.status().text());
  std::vector<std::vector<int32_t>> chosen;
  for (auto [fill, largest] : {std::pair{1.0f, 9.0f}, {-7.0f, -2.0f}, {-1e30f, -1e29f}}) { // each step's largest is less than any before
    std::vector<float> logits(2 * 300, fill);
    logits[chosen.size() * 40 + 5] = logits[300 + 299 - chosen.size()] = largest;
    REQUIRE(step.session.device().upload(step.staging->buffers().arrays.at("0/logits").address, logits.data(), int64_t(logits.size() * 4)).ok());
    REQUIRE(bound->launch().ok());
    auto got = step.staging->download();
    REQUIRE_MESSAGE(got.ok(), got.status().text());
    chosen.push_back(values<int32_t>(*got, "token"));
  }
  CHECK(chosen == std::vector<std::vector<int32_t>>{{5, 299}, {45, 298}, {85, 297}});
}

TEST_CASE("sim: equal rows of the head's weight tie to the lower one; a row of NaN is never chosen; x of NaN gives 0") {
  Layers layers = parse(headText("bf16", "", "%token, %logits"));
  Feed step{{0}, {3}, 71, false};
  Edited plain = Edited::make(layers, Setup{}, step, [](HostInputs &) {});
  const int32_t best = values<int32_t>(plain.run(), "token")[0];
  constexpr size_t kRow = 144 * 2;
  for (int32_t copy : {0, 1, 17, 160, 329, 330}) {
    if (copy == best) continue;
    Edited tied = Edited::make(layers, Setup{}, step, [&](HostInputs &in) {
      uint8_t *w = in.arrays.at("0/w").data();
      std::memcpy(w + size_t(copy) * kRow, w + size_t(best) * kRow, kRow);
    });
    CHECK(values<int32_t>(tied.run(), "token")[0] == std::min(copy, best));
  }
  Edited broken = Edited::make(layers, Setup{}, step, [&](HostInputs &in) {
    std::memset(in.arrays.at("0/w").data() + size_t(best) * kRow, 0xff, kRow); // NaN
    put<uint16_t>(in.arrays.at("0/x"), 144 + 5, 0x7fc0);                        // token 1
  });
  std::vector<int32_t> tokens = values<int32_t>(broken.run(), "token");
  CHECK(tokens[0] != best);
  CHECK(tokens[1] == 0);
}

TEST_CASE("sim: tokens bound as the next launch's ids: two launches are two steps, without the host") {
  Layers layers = readExample("tiny_llama32_1b");
  Edited step = Edited::make(layers, Setup{}, {{5, 0}, {2, 1}, 81, false}, [](HostInputs &) {});
  std::vector<int32_t> first = values<int32_t>(step.run(), "token");
  REQUIRE(first.size() == 3);
  Buffers buffers = step.staging->buffers();
  const std::string token = std::to_string(step.session.kernel.plan().instances.size() - 1) + "/token";
  const std::vector<uint8_t> &ids = step.inputs->arrays.at("0/ids");
  REQUIRE(step.session.device().upload(buffers.arrays.at(token).address, ids.data(), int64_t(ids.size())).ok());
  buffers.arrays["0/ids"].address = buffers.arrays.at(token).address;
  auto bound = step.session.kernel.bind(buffers);
  REQUIRE_MESSAGE(bound.ok(), bound.status().text());
  for (int launch = 0; launch < 2; launch++) REQUIRE(bound->launch().ok());
  std::vector<uint8_t> &taken = step.inputs->arrays.at("0/ids"); // what the second launch found
  REQUIRE(std::memcmp(taken.data(), first.data(), 12) != 0);
  std::memcpy(taken.data(), first.data(), 12);
  auto got = step.staging->download();
  REQUIRE(got.ok());
  got->overruns.clear(); // the ids' unused rows are not the pattern
  auto check = cli::checkAgainstReference(step.session.kernel.plan(), layers.module(), *step.inputs, *got);
  REQUIRE_MESSAGE(check.ok(), check.status().text());
  CHECK_MESSAGE(check->findings.empty(), firstOf(*check));
}

TEST_CASE("bind: a table is taken as it is, ids are i32, and a stack needs the step's arrays wherever its attention is") {
  Layers layers = readExample("tiny_llama32_1b");
  Edited step = Edited::make(layers, Setup{}, {{5}, {2}}, [](HostInputs &) {});
  const Kernel &kernel = step.session.kernel;
  int seen = 0;
  for (const BufferSpec &s : kernel.buffers()) {
    if (s.name == "table") seen += s.kind == "embedding" && s.dtype == "bf16" && s.layout.empty() && s.instance == 0;
    if (s.name == "ids") seen += s.kind == "input" && s.dtype == "i32" && s.shape == std::vector<int64_t>{-1};
    if (s.name == "token") seen += s.kind == "output" && s.dtype == "i32" && s.instance == 3;
    if (s.name == "w_head") seen += s.kind == "weight" && s.layout == "bf16.16x64.rows";
    if (s.name == "step.seq_first") seen += s.kind == "step" && s.instance == 0;
  }
  CHECK(seen == 5);
  auto refused = [&](auto edit, std::vector<std::string> parts) {
    Buffers buffers = step.staging->buffers();
    edit(buffers);
    auto bound = kernel.bind(buffers);
    REQUIRE_FALSE(bound.ok());
    CHECK(bound.status().kind() == ErrorKind::Input);
    for (const std::string &part : parts) CHECK_MESSAGE(contains(bound.status().text(), part), bound.status().text());
  };
  refused([](Buffers &b) { b.arrays["0/table"].layout = "bf16.16x64.rows"; }, {"0/table", "got \"bf16.16x64.rows\"", "not packed"});
  refused([](Buffers &b) { b.arrays["3/w_head"].layout = ""; }, {"3/w_head", "pack()"});
  refused([](Buffers &b) { b.arrays["0/ids"].dtype = "f32"; }, {"0/ids", "expected i32[tokens], got f32[8]"});
  refused([](Buffers &b) { b.arrays["0/ids"].shape = {7}; }, {"0/ids", "room for 8"});
  refused([](Buffers &b) { b.arrays["3/token"].shape = {8, 1}; }, {"3/token", "expected i32[tokens]"});
  refused([](Buffers &b) { b.arrays.erase("step.seq_first"); }, {"step.seq_first", "missing"});
  refused([](Buffers &b) { b.arrays.erase("step.page_table"); }, {"step.page_table", "missing"});
  CHECK(contains(kernel.pack("table", {step.inputs->arrays.at("0/table").data(), nullptr}).status().text(), "%table"));
}
