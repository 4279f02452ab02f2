// layer_support.h: example layers, schedules and plans for the tests of planner, proof, renderer and runtime.
#pragma once

#include "compiler/plan.h"
#include "compiler/schedule.h"
#include "ir/layer.h"
#include "phasec/compiler.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace layertest {

using namespace phasec;

inline bool contains(const std::string &text, const std::string &part) { return text.find(part) != std::string::npos; }

inline std::string fileText(const std::string &path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE_MESSAGE(in.good(), path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// The checkout; where the binary was carried to another machine, the working directory.
inline std::string sourceDir() {
  std::string built = PHASEC_SOURCE_DIR;
  return std::filesystem::exists(built + "/examples/layers") ? built : ".";
}

inline std::string examplePath(const std::string &name) { return sourceDir() + "/examples/layers/" + name + ".phase"; }

/// Every file in examples/layers, by stem; with `tiny`, those for tests and laptops only.
inline std::vector<std::string> examples(bool tiny = false) {
  std::vector<std::string> names;
  for (const auto &entry : std::filesystem::directory_iterator(sourceDir() + "/examples/layers"))
    if (entry.path().extension() == ".phase" && (!tiny || entry.path().stem().string().rfind("tiny_", 0) == 0))
      names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  REQUIRE(names.size() >= (tiny ? 7u : 14u));
  return names;
}

inline Layers readExample(const std::string &name) {
  auto layers = Layers::read(examplePath(name));
  REQUIRE_MESSAGE(layers.ok(), layers.status().text());
  return layers.take();
}

inline Layers parse(const std::string &text, const std::string &path = "test.phase") {
  auto layers = Layers::parse(path, text);
  REQUIRE_MESSAGE(layers.ok(), layers.status().text());
  return layers.take();
}

/// math = exact, then "knob=value knob=value ..." as the host would set them.
inline Schedule hostSchedule(const std::string &settings = "") {
  Schedule schedule;
  REQUIRE(schedule.set("math", "exact", Origin::Host).ok());
  std::istringstream words(settings);
  for (std::string word; words >> word;) {
    size_t equals = word.find('=');
    Status s = schedule.set(word.substr(0, equals), word.substr(equals + 1), Origin::Host);
    REQUIRE_MESSAGE(s.ok(), s.text());
  }
  return schedule;
}

inline Result<Plan> tryPlan(const Layers &layers, const std::string &settings = "", const std::string &target = "sm_90a") {
  auto effective = effectiveSchedule(layers.module(), hostSchedule("target=" + target + " " + settings), "");
  if (!effective) return effective.status();
  return plan(layers.module(), *effective, *findTarget(target));
}

inline Plan planOf(const Layers &layers, const std::string &settings = "", const std::string &target = "sm_90a") {
  auto made = tryPlan(layers, settings, target);
  REQUIRE_MESSAGE(made.ok(), made.status().text());
  return made.take();
}

inline bool hasWo(const Layers &layers) {
  for (int l : ir::instances(layers.module()))
    if (layers.module().layers[size_t(l)].find(ir::Op::wo)) return true;
  return false;
}

/// The splits that a layer may be run at: those of its file's slice_ctas under partition = seed; "" where there is no wo.
inline std::vector<std::string> splitSettings(const Layers &layers) {
  if (!hasWo(layers)) return {""};
  auto effective = effectiveSchedule(layers.module(), hostSchedule(), "");
  REQUIRE(effective.ok());
  std::vector<std::string> settings;
  for (int split : kWoSplits)
    if (effective->word("partition") != "seed" || split <= effective->integer("slice_ctas"))
      settings.push_back("wo_split=" + std::to_string(split));
  return settings;
}

/// Compares with tests/golden/<name>; UPDATE_GOLDEN=1 in the environment writes the file instead.
inline void checkGolden(const std::string &name, const std::string &text) {
  std::string path = sourceDir() + "/tests/golden/" + name;
  if (std::getenv("UPDATE_GOLDEN")) {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return;
  }
  std::string expected = fileText(path);
  if (expected == text) return;
  std::istringstream a(expected), b(text);
  std::string want, got;
  int line = 1;
  for (;; line++) {
    bool more_a = bool(std::getline(a, want)), more_b = bool(std::getline(b, got));
    if (!more_a) want = "(end)";
    if (!more_b) got = "(end)";
    if (want != got || !more_a) break;
  }
  FAIL_CHECK(path, ":", line, ": expected\n  ", want, "\ngot\n  ", got, "\nUPDATE_GOLDEN=1 rewrites the file");
}

} // namespace layertest
