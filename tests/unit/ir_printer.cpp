// ir_printer.cpp: the canonical form: golden files, round trips, explicit events, layers built by hand.
#include "ir_support.h"

#include <doctest/doctest.h>

using namespace irtest;

namespace {
ir::Module parsed(const std::string &text) {
  Result<ir::Module> module = ir::parse("test.phase", text);
  INFO(module.status().text());
  REQUIRE(module.ok());
  return module.take();
}
} // namespace

TEST_CASE("ir: golden files print as expected, and the expected text prints as itself") {
  const auto files = phaseFiles("tests/language/fmt");
  CHECK(files.size() >= 2);
  for (auto path : files) {
    INFO(path.filename().string());
    const std::string text = readFile(path), expected = readFile(path.replace_extension(".expected"));
    const ir::Module module = parsed(text);
    CHECK(ir::print(module) == expected);
    const ir::Module again = parsed(expected);
    CHECK(ir::print(again) == expected);
    // Comments may move (out of a statement's middle), so the tree is compared from the first printing on.
    CHECK(dump(again) == dump(parsed(ir::print(again))));
  }
}

TEST_CASE("ir: no comment is lost by printing") {
  for (const char *folder : {"tests/language/fmt", "examples/layers"})
    for (const auto &path : phaseFiles(folder)) {
      const std::string text = readFile(path), printed = ir::print(parsed(text));
      for (size_t at = text.find("//"); at != std::string::npos; at = text.find("//", text.find('\n', at))) {
        size_t end = text.find('\n', at);
        INFO(path.filename().string() << ": " << text.substr(at, end - at));
        CHECK(printed.find(text.substr(at, end - at)) != std::string::npos);
      }
    }
}

TEST_CASE("ir: the examples are verified, canonical, and survive parse and print") {
  const auto files = phaseFiles("examples/layers");
  CHECK(files.size() >= 16);
  for (const auto &path : files) {
    const std::string text = readFile(path);
    INFO(path.filename().string());
    const Result<ir::Module> module = ir::load(path.filename().string(), text);
    INFO(module.status().text());
    REQUIRE(module.ok());
    CHECK(ir::print(*module) == text);
    CHECK(dump(*module) == dump(parsed(ir::print(*module))));
    const std::string stem = path.stem().string();
    if (stem.rfind("tiny_", 0) != 0) CHECK(std::filesystem::exists(path.parent_path() / ("tiny_" + stem + ".phase")));
  }
}

TEST_CASE("ir: a layer built by hand prints like one that was parsed") {
  for (const auto &path : phaseFiles("examples/layers")) {
    INFO(path.filename().string());
    ir::Module module = parsed(readFile(path)), bare = module;
    bare.order.clear();
    bare.tail.clear();
    for (ir::Layer &layer : bare.layers) {
      layer.statements.clear();
      layer.head = layer.tail = {};
    }
    for (ir::Stack &stack : bare.stacks) stack.head = stack.tail = {};
    const ir::Module again = parsed(ir::print(bare));
    REQUIRE(again.layers.size() == module.layers.size());
    for (size_t i = 0; i < again.layers.size(); ++i) {
      ir::Layer a = again.layers[i], b = module.layers[i];
      a.statements.clear();
      b.statements.clear();
      a.head = a.tail = b.head = b.tail = {};
      CHECK(dump(a) == dump(b));
    }
  }
}

TEST_CASE("ir: explicit printing replaces events and keeps comments") {
  const ir::Module module = parsed(R"(layer @a {
  dims   kv_heads = 2
  tokens 4
  in     %a : bf16[tokens, 64]
  weight %w : bf16[64, 64]
  weight %g : bf16[64]

  // The split.
  %p = wo %a, %w
  // The sum.
  %h = gather %p
  %n = norm %h, %g
  return %n
}

layer @b {
  tokens 4
  in     %x : bf16[tokens, 64]
  weight %g : bf16[64]
  %y = norm %x, %g
  return %y
}
)");
  const auto id = [&](const char *name) {
    for (size_t i = 0; i < module.layers[0].values.size(); ++i)
      if (module.layers[0].values[i].name == name) return static_cast<ir::ValueId>(i);
    return ir::kNone;
  };
  ir::PrintOptions options;
  options.explicit_events.push_back(
      {0,
       {{ir::EventKind::Counter, id("p"), id("h"), {}}, {ir::EventKind::Grid, id("h"), id("n"), {}}},
       {"each slice"}});
  const std::string text = ir::print(module, options);
  CHECK(text.find("  tokens   4\n  sync     explicit\n") != std::string::npos);
  CHECK(text.find("  // The sum.\n  event counter %p -> %h  // each slice\n  %h = gather %p") != std::string::npos);
  CHECK(text.find("  event grid %h -> %n\n  %n = norm") != std::string::npos);
  CHECK(text.find("sync", text.find("layer @b")) == std::string::npos);
  const Result<ir::Module> again = ir::load("explicit.phase", text);
  INFO(again.status().text());
  REQUIRE(again.ok());
  CHECK(again->layers[0].sync == ir::Sync::Explicit);
  CHECK(again->layers[0].events.size() == 2);
  CHECK(again->layers[1].sync == ir::Sync::Auto);

  // A written event gives way; its comments stay.
  ir::PrintOptions fewer;
  fewer.explicit_events.push_back({0, {{ir::EventKind::Grid, id("h"), id("n"), {}}}, {}});
  const std::string second = ir::print(*again, fewer);
  CHECK(second.find("counter") == std::string::npos);
  CHECK(second.find("// each slice") != std::string::npos);
  CHECK(second.find("sync     explicit") == second.rfind("sync     explicit"));
  CHECK(ir::load("fewer.phase", second).ok());
}

TEST_CASE("ir: reals print as the shortest decimal that reads back") {
  const std::pair<double, const char *> cases[] = {{1e-6, "1e-6"}, {1e-5, "1e-5"},   {0.0625, "0.0625"},
                                                   {0.5, "0.5"},   {1e-10, "1e-10"}, {1e300, "1e+300"},
                                                   {3, "3"},       {0.1, "0.1"}};
  for (const auto &[value, text] : cases) {
    CHECK(ir::realText(value) == text);
    CHECK(std::stod(ir::realText(value)) == value);
  }
}
