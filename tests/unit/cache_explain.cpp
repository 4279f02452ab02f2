// cache_explain.cpp: a miss names what changed, the cause before its consequences, and counts it.
#include "tests/cache/support.h"

#include "cache/explain.h"

#include <doctest/doctest.h>

#include <algorithm>

using namespace phasec;
using namespace phasec::test;

namespace {

Section &sectionOf(Query &query, const std::string &name) {
  for (Section &section : query.sections)
    if (section.name == name) return section;
  FAIL("no section " << name);
  return query.sections.front();
}

/// The query of a kernel that differs in one section, and, as it would, in key and program text.
Query mutated(const Compiled &kernel, const std::string &name, const std::string &digest, const std::string &text) {
  Query query = queryOf(kernel);
  Section &section = sectionOf(query, name);
  section.digest = digest;
  section.text = text;
  sectionOf(query, "kernel").digest = "other program";
  query.key.fingerprint.low ^= 1;
  return query;
}

} // namespace

TEST_CASE("an empty cache says so") {
  Bench bench("");
  auto cache = bench.open();
  Miss miss = cache->miss(queryOf(makeKernel(8, 1)));
  CHECK_FALSE(miss.nearest);
  CHECK(miss.reasons.empty());
  CHECK(miss.text().find("holds nothing like it") != std::string::npos);
  CHECK(miss.json().find("\"nearest\":null") != std::string::npos);
  CHECK(cache->counters().misses == 1);
  CHECK(cache->counters().misses_by_reason["empty"] == 1);
}

TEST_CASE("every section is named first when it changed, in every layer") {
  struct Row {
    const char *section, *digest, *text, *label, *says, *group;
  };
  const Row kRows[] = {
      {"knob:kv_splits", "9", "4", "knob kv_splits", "knob kv_splits 8 -> 4", "knob"},
      {"knob:partition", "9", "seed", "knob partition", "knob partition wide -> seed", "knob"},
      {"template:phases/gather.cuh", "9f9f9f9f9f9f9f9f", "", "template phases/gather.cuh",
       "template phases/gather.cuh changed (digest a1a1a1a1.. -> 9f9f9f9f..)", "template"},
      {"ir", "9", "layer_1", "ir", "ir changed (digest 01234567.. -> 9)", "ir"},
      {"ir", "9", "layer_7", "ir", "ir layer_1 -> layer_7", "ir"},
      {"options", "9", "-lineinfo", "options", "-> -lineinfo", "options"},
      {"abi", "9", "2", "abi", "abi 1 -> 2", "abi"},
      {"target", "9", "sm_120a", "target", "target sm_90a -> sm_120a", "target"},
  };
  Compiled kernel = makeKernel(8, 1), far = makeKernel(2, 5);
  TempDir dir;
  REQUIRE(writeBlessed(dir / "b.db", {kernel, far}).ok());
  Bench user(dir / "user"), blessed(""), memory("");
  blessed.options.blessed = {{dir / "b.db", ""}};
  REQUIRE(user.open()->publish(far).ok());
  REQUIRE(user.open()->publish(kernel).ok());
  for (Bench *bench : {&user, &blessed, &memory}) {
    auto cache = bench->open();
    if (bench == &memory) {
      REQUIRE(cache->publish(kernel).ok());
      REQUIRE(cache->publish(far).ok());
    }
    for (const Row &row : kRows) {
      CAPTURE(row.says);
      Miss miss = cache->miss(mutated(kernel, row.section, row.digest, row.text));
      REQUIRE(miss.nearest);
      CHECK(miss.nearest->key == kernel.artefact.key);
      REQUIRE(miss.reasons.size() == 2);
      CHECK(miss.reasons[0].section == row.label);
      CHECK(miss.reasons[0].text().find(row.says) != std::string::npos);
      CHECK(miss.reasons[1].section == "kernel"); // the program follows; it is never the cause
      CHECK(miss.text().find(row.says) != std::string::npos);
      CHECK(cache->counters().misses_by_reason[row.group] > 0);
    }
    CHECK(cache->counters().misses == int64_t(std::size(kRows)));
  }
}

TEST_CASE("wo_split comes from the key, before anything that follows it") {
  Compiled one = makeKernel(1, 1), eight = makeKernel(8, 1);
  TempDir dir;
  Bench bench(dir / "user");
  auto cache = bench.open();
  REQUIRE(cache->publish(one).ok());
  Query query = queryOf(eight);
  query.sections.push_back({"template:extra.cuh", "77", ""}); // a template that only this split uses
  Miss miss = cache->miss(query);
  REQUIRE(miss.reasons.size() == 3);
  CHECK(miss.reasons[0].text() == "wo_split 1 -> 8");
  CHECK(miss.reasons[1].text() == "template extra.cuh now used");
  CHECK(miss.reasons[2].section == "kernel");
  CHECK(cache->counters().misses_by_reason["wo_split"] == 1);
  CHECK(miss.json().find("{\"from\":\"1\",\"section\":\"wo_split\",\"text\":\"wo_split 1 -> 8\",\"to\":\"8\"}") !=
        std::string::npos);
}

TEST_CASE("the order of several causes") {
  Compiled kernel = makeKernel(1, 1);
  Query query = queryOf(kernel);
  query.key.wo_split = 8;
  query.toolchain = "nvrtc 13.1";
  sectionOf(query, "target").text = "sm_120a";
  sectionOf(query, "ir").digest = "x";
  sectionOf(query, "knob:kv_splits").text = "16";
  sectionOf(query, "template:phases/wo.cuh").digest = "x";
  sectionOf(query, "options").text = "-lineinfo";
  query.sections.push_back({"weather", "1", "rain"});
  Described from{1, kernel.artefact.toolchain, kernel.artefact.sections.list()}, to{8, query.toolchain, query.sections};
  sortSections(from.sections);
  sortSections(to.sections);
  std::vector<std::string> order;
  for (const Reason &reason : differences(from, to)) order.push_back(reason.section);
  CHECK(order == std::vector<std::string>{"wo_split", "knob kv_splits", "template phases/wo.cuh", "ir", "weather",
                                          "target", "options", "toolchain"});
  CHECK(differences(from, from).empty());
}

TEST_CASE("the nearest entry is of the same layer before the same target before the same knobs") {
  TempDir dir;
  Bench bench(dir / "user");
  auto cache = bench.open();
  Compiled other_layer = makeKernel(8, 4), other_target = makeKernel(8, 1), other_knobs = makeKernel(2, 1);
  std::vector<Section> sections = other_target.artefact.sections.list();
  for (Section &section : sections)
    if (section.name == "target") section.text = "sm_80", section.digest = "80";
  other_target.artefact.sections = sections;
  other_target.artefact.key.fingerprint.low ^= 0x10;
  Query query = queryOf(makeKernel(8, 1));
  REQUIRE(cache->publish(other_layer).ok());
  CHECK(cache->explain(query).nearest->key == other_layer.artefact.key);
  REQUIRE(cache->publish(other_target).ok());
  CHECK(cache->explain(query).nearest->key == other_target.artefact.key);
  REQUIRE(cache->publish(other_knobs).ok());
  CHECK(cache->explain(query).nearest->key == other_knobs.artefact.key);
  REQUIRE(cache->publish(other_layer).ok());
  CHECK(cache->explain(query).nearest->key == other_knobs.artefact.key);
}

TEST_CASE("what packs weights is not near any layer, and no layer near it") {
  TempDir dir;
  Bench bench(dir / "user");
  auto cache = bench.open();
  auto packer = [](uint64_t n) { // as runtime/pack.cpp describes one
    Compiled kernel = makeKernel(0, n);
    std::vector<Section> sections = kernel.artefact.sections.list();
    std::erase_if(sections, [](const Section &s) { return s.name == "ir" || s.name.rfind("knob:", 0) == 0; });
    sections.push_back({"weight", std::to_string(n), "rows=" + std::to_string(n)});
    kernel.artefact.sections = sections;
    return kernel;
  };
  Compiled layer = makeKernel(8, 1), wide = packer(3);
  REQUIRE(cache->publish(wide).ok());
  CHECK_FALSE(cache->explain(queryOf(layer)).nearest);
  {
    Bench elsewhere(dir / "layers");
    auto layers = elsewhere.open();
    REQUIRE(layers->publish(layer).ok());
    CHECK_FALSE(layers->explain(queryOf(wide)).nearest);
  }
  REQUIRE(cache->publish(layer).ok());
  Miss other = cache->explain(queryOf(packer(2)));
  REQUIRE(other.nearest);
  CHECK(other.nearest->key == wide.artefact.key);
  CHECK(std::any_of(other.reasons.begin(), other.reasons.end(), [](const Reason &r) { return r.text() == "weight rows=3 -> rows=2"; }));
  CHECK(cache->explain(queryOf(makeKernel(8, 4))).nearest->key == layer.artefact.key);
}

TEST_CASE("misses by reason add up over processes") {
  TempDir dir;
  Bench bench(dir / "user");
  for (int round = 0; round < 3; ++round) {
    auto cache = bench.open();
    REQUIRE(cache->publish(makeKernel(1, 1)).ok());
    cache->miss(queryOf(makeKernel(8, 1)));
  }
  auto stats = storeStats(userFile(dir / "user"));
  REQUIRE(stats.ok());
  CHECK(stats->entries == 1);
  CHECK(stats->counters["misses"] == 3);
  CHECK(stats->counters["miss:wo_split"] == 3);
  CHECK(stats->counters["published"] == 1);
  CHECK(stats->counters["races_lost"] == 2);
}
