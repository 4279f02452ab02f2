// ir_schedule.cpp: knobs, origins, and Status.
#include "phasec/config.h"

#include <doctest/doctest.h>

#include <set>
#include <string>

using namespace phasec;

namespace {
bool has(const Status &status, const char *part) { return status.text().find(part) != std::string::npos; }
} // namespace

TEST_CASE("ir: every knob has a default that it accepts itself") {
  Schedule schedule;
  std::set<std::string> names;
  for (const KnobInfo &knob : knobs()) {
    INFO(knob.name);
    CHECK(names.insert(knob.name).second);
    CHECK(schedule.origin(knob.name) == Origin::Default);
    const std::string text = schedule.text(knob.name);
    CHECK(schedule.set(knob.name, text, Origin::Host).ok());
    CHECK(schedule.text(knob.name) == text);
    CHECK(schedule.origin(knob.name) == Origin::Host);
    if (!knob.is_int) {
      CHECK(schedule.word(knob.name) == text);
      continue;
    }
    CHECK(schedule.integer(knob.name) == knob.int_default);
    CHECK_FALSE(schedule.set(knob.name, std::to_string(knob.int_max + 1), Origin::Host).ok());
    CHECK_FALSE(schedule.set(knob.name, std::to_string(knob.int_min - 1), Origin::Host).ok());
    CHECK(schedule.integer(knob.name) == knob.int_default);
  }
}

TEST_CASE("ir: wo_split takes exactly its set") {
  for (int value = -3; value <= 70; ++value) {
    Schedule schedule;
    const Status status = schedule.set("wo_split", std::to_string(value), Origin::Flag);
    const bool legal = value == 0 || value == 1 || value == 2 || value == 4 || value == 8 || value == 16 || value == 32;
    INFO(value);
    CHECK(status.ok() == legal);
    if (!legal) {
      CHECK(status.kind() == ErrorKind::Usage);
      CHECK(has(status, "1, 2, 4, 8, 16 or 32"));
    }
  }
}

TEST_CASE("ir: bad knobs and values name what is legal and what was meant") {
  Schedule schedule;
  CHECK(has(schedule.set("wo_spilt", "4", Origin::Flag), "did you mean 'wo_split'?"));
  CHECK(has(schedule.set("zzzzzzzzzz", "4", Origin::Flag), "knobs: target, math"));
  CHECK_FALSE(has(schedule.set("zzzzzzzzzz", "4", Origin::Flag), "did you mean"));
  CHECK(has(schedule.set("partition", "sead", Origin::Flag), "wide, 2d or seed"));
  CHECK(has(schedule.set("partition", "sead", Origin::Flag), "did you mean 'seed'?"));
  CHECK(has(schedule.set("math", "", Origin::Flag), "fast or exact"));
  for (const char *bad : {"", " 4", "4 ", "0x4", "4.0", "+4", "99999999999999999999", "four"}) {
    INFO(bad);
    const Status status = schedule.set("warps", bad, Origin::Flag);
    CHECK(status.kind() == ErrorKind::Usage);
    CHECK(has(status, "warps must be an integer from 0 to 31"));
    CHECK_FALSE(schedule.set("wo_split", bad, Origin::Flag).ok());
  }
  CHECK(schedule.canonical() == Schedule().canonical());
}

TEST_CASE("ir: a weaker origin never replaces a stronger one, an equal one does") {
  Schedule schedule;
  REQUIRE(schedule.set("kv_splits", "8", Origin::Flag).ok());
  REQUIRE(schedule.set("kv_splits", "4", Origin::File).ok());
  CHECK(schedule.integer("kv_splits") == 8);
  CHECK(schedule.origin("kv_splits") == Origin::Flag);
  REQUIRE(schedule.set("kv_splits", "16", Origin::Flag).ok());
  CHECK(schedule.integer("kv_splits") == 16);
  REQUIRE(schedule.set("kv_splits", "2", Origin::Host).ok());
  CHECK(schedule.integer("kv_splits") == 2);
  CHECK_FALSE(schedule.set("kv_splits", "nine", Origin::File).ok()); // refused even though it would not count
  CHECK(Origin::File < Origin::Tuned);
  CHECK(Origin::Tuned < Origin::Environment);
  CHECK(Origin::Environment < Origin::ConfigFile);
  CHECK(Origin::ConfigFile < Origin::Flag);
}

TEST_CASE("ir: the canonical schedule is in table order and independent of spelling and origin") {
  Schedule a, b;
  REQUIRE(a.set("wo_split", "08", Origin::File).ok());
  REQUIRE(a.set("target", "sm_90a", Origin::File).ok());
  REQUIRE(b.set("target", "sm_90a", Origin::Host).ok());
  REQUIRE(b.set("wo_split", "8", Origin::Flag).ok());
  CHECK(a.canonical() == b.canonical());
  CHECK(a.canonical().find("target=sm_90a math=fast wo_split=8 partition=wide") == 0);
  CHECK(a.canonical() != Schedule().canonical());
}

TEST_CASE("ir: origins, error kinds and exit codes have stable names") {
  CHECK(std::string(name(Origin::ConfigFile)) == "config_file");
  CHECK(std::string(name(Origin::Environment)) == "environment");
  const std::pair<ErrorKind, std::pair<const char *, int>> kinds[] = {{ErrorKind::Ok, {"ok", 0}},
                                                                      {ErrorKind::Input, {"input", 1}},
                                                                      {ErrorKind::Proof, {"proof", 1}},
                                                                      {ErrorKind::Usage, {"usage", 2}},
                                                                      {ErrorKind::Mismatch, {"mismatch", 3}},
                                                                      {ErrorKind::CacheMiss, {"cache_miss", 3}},
                                                                      {ErrorKind::CacheDamage, {"cache_damage", 3}},
                                                                      {ErrorKind::Device, {"device", 4}},
                                                                      {ErrorKind::Refused, {"refused", 4}},
                                                                      {ErrorKind::Toolchain, {"toolchain", 5}},
                                                                      {ErrorKind::Io, {"io", 1}},
                                                                      {ErrorKind::Internal, {"internal", 5}}};
  for (const auto &[kind, expected] : kinds) {
    CHECK(std::string(name(kind)) == expected.first);
    CHECK(exitCode(kind) == expected.second);
  }
  CHECK(Status().ok());
  CHECK(Status().text().empty());
  const Status status = Status::io("x: no such file");
  CHECK_FALSE(status.ok());
  CHECK(Status(status).text() == "x: no such file");
}
