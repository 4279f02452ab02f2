// What `phasec tune` stored, as a host meets it: asked for by name, and used by prepare() and explain() only when switched on.
#include "phasec/runtime.h"
#include "tests/cache/support.h"

#include <doctest/doctest.h>

using namespace phasec;
using phasec::test::TempDir;

namespace {

const char *const kLayer = "layer @t {\n"
                           "  dims     hidden = 64, kv_heads = 2, k = 128\n"
                           "  tokens   1..4\n"
                           "  schedule wo_split = 2\n"
                           "  in     %a : bf16[tokens, k]\n"
                           "  in     %x : bf16[tokens, hidden]\n"
                           "  weight %w_o : bf16[hidden, k]\n"
                           "  %p = wo     %a, %w_o\n"
                           "  %h = gather %p, %x { by = consumers }\n"
                           "  return %h\n"
                           "}\n";

struct Host {
  TempDir dir;
  RuntimeOptions options;
  std::vector<std::string> lines;
  Layers layers = Layers::parse("t.phase", kLayer).take();

  Host() {
    options.device = DeviceChoice::None;
    options.cache.user_dir = dir / "user";
    options.log = [this](const std::string &line) { lines.push_back(line); };
  }
  Runtime open(bool tuned) {
    options.tuned = tuned;
    return Runtime::open(options).take();
  }
  void store(const std::string &schedule, const Schedule &wanted = {}) {
    Runtime runtime = open(false);
    auto key = runtime.tunedKey(layers, wanted);
    REQUIRE(key.ok());
    REQUIRE(runtime.cache().setTuned({*key, "t", schedule, "{}", 0}).ok());
  }
  Schedule explained(bool tuned, const Schedule &schedule = {}) {
    auto e = open(tuned).explain(layers, schedule);
    INFO(e.status().text());
    REQUIRE(e.ok());
    return e->schedule;
  }
};

Schedule with(const char *knob, const char *value, Origin origin) {
  Schedule schedule;
  REQUIRE(schedule.set(knob, value, origin).ok());
  return schedule;
}

} // namespace

TEST_CASE("what a winner is stored under") {
  Host host;
  Runtime runtime = host.open(false);
  auto key = runtime.tunedKey(host.layers, {});
  REQUIRE(key.ok());
  CHECK(key->layer.size() == 32);
  CHECK(key->target == "sm_90a");
  CHECK(key->math == "fast");
  CHECK(key->ctas == 132);
  CHECK_MESSAGE(key->tokens_max == 4, "the layer's bound, which the kernel is compiled for");
  CHECK(runtime.tunedKey(host.layers, with("tokens_max", "1", Origin::Host))->tokens_max == 1);
  CHECK(runtime.tunedKey(host.layers, with("ctas", "64", Origin::Host))->ctas == 64);
  CHECK(runtime.tunedKey(host.layers, with("math", "exact", Origin::Host))->math == "exact");
  CHECK(runtime.tunedKey(host.layers, with("wo_split", "8", Origin::Host)) .status().ok());
  CHECK_MESSAGE(*runtime.tunedKey(host.layers, with("wo_split", "8", Origin::Host)) == *key, "what is searched is no part of it");
}

TEST_CASE("a library never surprises: off unless the host says so") {
  Host host;
  CHECK_FALSE(RuntimeOptions().tuned);
  host.store("wo_split=4 warps=8");
  CHECK(host.explained(false).text("wo_split") == "2");
  CHECK(host.explained(false).origin("wo_split") == Origin::File);
  Schedule on = host.explained(true);
  CHECK(on.text("wo_split") == "4");
  CHECK(on.origin("wo_split") == Origin::Tuned);
  CHECK(on.text("warps") == "8");
  auto asked = host.open(false).tuned(host.layers, {});
  REQUIRE(asked.ok());
  CHECK_MESSAGE(asked->text("wo_split") == "4", "asked for by name");
  CHECK(host.open(false).explain(host.layers, *asked)->key == host.open(true).explain(host.layers, {})->key);
}

TEST_CASE("file < tuned < environment < configuration file < flag < host") {
  Host host;
  host.store("wo_split=4 warps=8");
  for (Origin origin : {Origin::Environment, Origin::ConfigFile, Origin::Flag, Origin::Host}) {
    Schedule effective = host.explained(true, with("wo_split", "1", origin));
    CHECK(effective.text("wo_split") == "1");
    CHECK(effective.origin("wo_split") == origin);
    CHECK(effective.text("warps") == "8");
  }
}

TEST_CASE("a winner of exactly this work, or none") {
  Host host;
  host.store("warps=8", with("tokens_max", "1", Origin::Host));
  CHECK(host.explained(true).text("warps") == "0");
  CHECK(host.explained(true, with("tokens_max", "2", Origin::Host)).text("warps") == "0");
  CHECK(host.explained(true, with("tokens_max", "1", Origin::Host)).text("warps") == "8");
}

TEST_CASE("what this phasec does not know of a stored schedule is left out, and said") {
  Host host;
  host.store("wo_split=3 swizzle=7 warps=8");
  Schedule effective = host.explained(true);
  CHECK(effective.text("wo_split") == "2");
  CHECK(effective.text("warps") == "8");
  CHECK(host.lines.size() == 2);
  for (const std::string &line : host.lines) CHECK(line.find("phasec tune") != line.npos);
}
