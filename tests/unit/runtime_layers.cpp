// runtime_layers.cpp: whole layers on the sim, bit for bit against the reference: splits, tokens, contexts, CTA counts,
// scheduler seeds, partitions. The suite "slow" has the product of layers and splits.
#include "tests/unit/runtime_support.h"

using namespace runtimetest;

namespace {

std::vector<Case> casesOf(const std::string &name, const std::vector<int> &splits) {
  static const std::pair<int, uint64_t> grids[] = {{4, 1}, {1, 2}, {7, 3}, {2, 4}, {3, 5}};
  std::vector<Case> cases;
  size_t i = name.size();
  for (int split : splits) {
    Setup setup;
    setup.settings = split ? "wo_split=" + std::to_string(split) : "";
    std::tie(setup.sim_ctas, setup.sim_seed) = grids[i++ % std::size(grids)];
    cases.push_back({name, readExample(name), setup, coveringSteps()});
  }
  return cases;
}

void add(std::vector<Case> &to, std::vector<Case> from) {
  for (Case &c : from) to.push_back(std::move(c));
}

} // namespace

TEST_CASE("sim: every tiny layer is bit-exact, at splits that between them are all") {
  std::vector<Case> cases;
  add(cases, casesOf("tiny_qwen35_27b", {1, 2, 4, 8, 16}));
  add(cases, casesOf("tiny_llama31_8b", {1, 8}));
  add(cases, casesOf("tiny_llama31_8b_fp8", {2, 32}));
  add(cases, casesOf("tiny_llama32_1b_layer", {4}));
  add(cases, casesOf("tiny_llama32_1b", {1, 4}));
  add(cases, casesOf("tiny_qwen3_8b", {4, 16}));
  add(cases, casesOf("tiny_qwen35_27b_seed", {1, 8}));
  add(cases, casesOf("tiny_wo_harness", {1, 2, 4, 8}));
  add(cases, casesOf("tiny_stack", {2}));
  add(cases, casesOf("tiny_mixed_stack", {16}));
  add(cases, casesOf("tiny_mlp_only", {0}));
  add(cases, casesOf("tiny_attn_only", {0}));
  std::vector<std::string> covered;
  for (const Case &c : cases) covered.push_back(c.name);
  for (const std::string &name : examples(true)) CHECK_MESSAGE(std::count(covered.begin(), covered.end(), name) > 0, name);
  runCases(cases);
}

TEST_CASE("sim: a residual stream that is declared bf16 is rounded where it is handed on, bit for bit") {
  std::string text = fileText(examplePath("tiny_llama31_8b"));
  const std::string plain = "%h  = gather", rounded = "%h : bf16 = gather";
  size_t at = text.find(plain);
  REQUIRE(at != std::string::npos);
  text.replace(at, plain.size(), rounded);
  std::vector<Case> cases;
  for (int tokens : {1, 2, 4}) { // handed on in tagged words for few tokens
    Setup setup;
    setup.settings = "tokens_max=" + std::to_string(tokens);
    cases.push_back({"bf16 residual", parse(text), setup, {{{65}, {tokens}, 11, true}}});
  }
  runCases(cases);
}

TEST_CASE("sim: neither the scheduler's seed nor the CTA count shows in a single bit") {
  for (const char *name : {"tiny_qwen35_27b", "tiny_mixed_stack", "tiny_llama32_1b"}) {
    std::optional<Downloaded> first;
    Layers layers = readExample(name);
    for (auto [ctas, seed] : {std::pair{4, 1}, {1, 1}, {2, 77}, {7, 5}, {4, 123456}, {4, 9}}) {
      Setup setup;
      setup.settings = "wo_split=8";
      setup.sim_ctas = ctas;
      setup.sim_seed = uint64_t(seed);
      auto session = Session::open(layers, setup);
      REQUIRE_MESSAGE(session.ok(), session.status().text());
      CHECK(session->kernel.ctas() == ctas);
      Downloaded got;
      std::string wrong = runStep(*session, {{65, 3}, {2, 3}}, &got);
      INFO(name, " ", ctas, " CTAs, seed ", seed);
      CHECK_MESSAGE(wrong.empty(), wrong);
      if (!first) first = got;
      CHECK(got == *first);
    }
  }
}

TEST_CASE("sim: partitions, pinned grids, warps and rings change no bit of a split's result") {
  std::optional<Downloaded> first;
  Layers layers = readExample("tiny_wo_harness");
  for (const char *settings : {"partition=seed", "partition=wide", "partition=2d", "partition=2d ctas=33", "partition=wide ctas=5", "partition=wide warps=2 ring=3", "handoff=events",
                               "partition=seed slice_ctas=4", "partition=seed ctas=70"}) {
    Setup setup;
    setup.settings = std::string("wo_split=4 ") + settings;
    auto session = Session::open(layers, setup);
    REQUIRE_MESSAGE(session.ok(), std::string(settings), ": ", session.status().text());
    Downloaded got;
    std::string wrong = runStep(*session, {{1}, {5}}, &got);
    CHECK_MESSAGE(wrong.empty(), std::string(settings), ": ", wrong);
    if (!first) first = got;
    CHECK_MESSAGE(got == *first, std::string(settings));
    int ctas = session->kernel.ctas();
    CHECK(activeWoCtas(session->kernel.plan(), ctas) <= ctas);
    if (std::string(settings) == "partition=seed") CHECK(activeWoCtas(session->kernel.plan(), ctas) == 16);
  }
}

TEST_CASE("sim: five launches of a stack in a row; each instance has a cache of its own") {
  Layers layers = readExample("tiny_stack");
  auto session = Session::open(layers, Setup{});
  REQUIRE_MESSAGE(session.ok(), session.status().text());
  auto ready = Ready::make(*session, {{64}, {3}});
  REQUIRE_MESSAGE(ready.ok(), ready.status().text());
  for (int i = 0; i < 5; i++) REQUIRE(ready->bound->launch().ok()); // epochs
  auto check = ready->check(*session);
  REQUIRE_MESSAGE(check.ok(), check.status().text());
  CHECK_MESSAGE(check->findings.empty(), firstOf(*check));
  auto results = ready->staging->download();
  REQUIRE(results.ok());
  CHECK(results->caches.size() == 3); // one per instance
  CHECK(results->caches.at("0/kv").k != results->caches.at("1/kv").k);
}

TEST_SUITE_BEGIN("slow");

TEST_CASE("sim: every tiny layer at every split") {
  std::vector<Case> cases;
  for (const std::string &name : examples(true)) {
    std::vector<int> splits;
    for (const std::string &s : splitSettings(readExample(name))) splits.push_back(s.empty() ? 0 : std::stoi(s.substr(9)));
    add(cases, casesOf(name, splits));
  }
  runCases(cases);
}

TEST_SUITE_END();
