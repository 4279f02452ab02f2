// ir_robust.cpp: no bytes may crash the parser, the verifier or the printer, or make them slow: truncated and mutated
// layers, deep nesting, huge numbers, long lines, binary data.
#include "ir_support.h"

#include <doctest/doctest.h>

#include <ctime>
#include <random>

using namespace irtest;

namespace {

/// Loads `text`; a module that passes must also survive printing and expansion.
void feed(const std::string &text) {
  ir::Parsed parsed = ir::loadAll("mutant.phase", text);
  if (!parsed.diagnostics.empty()) {
    const std::string rendered = ir::render(parsed.diagnostics, "mutant.phase", text, /*colour=*/true);
    REQUIRE(rendered.find("mutant.phase:") != std::string::npos);
    for (const ir::Diagnostic &diagnostic : parsed.diagnostics.sorted()) {
      REQUIRE(diagnostic.range.begin <= text.size());
      REQUIRE_FALSE(diagnostic.text.empty());
    }
    return;
  }
  const std::string printed = ir::print(parsed.module);
  const ir::Parsed again = ir::loadAll("mutant.phase", printed);
  INFO(text);
  INFO(ir::render(again.diagnostics, "printed", printed));
  REQUIRE(again.diagnostics.empty());
  REQUIRE(dump(parsed.module) == dump(again.module));
  REQUIRE_FALSE(ir::instances(parsed.module).empty());
}

std::string repeated(const std::string &part, size_t count) {
  std::string out;
  for (size_t i = 0; i < count; ++i) out += part;
  return out;
}

} // namespace

TEST_CASE("ir: truncated files are errors, never crashes") {
  for (const auto &path : phaseFiles("examples/layers")) {
    const std::string text = readFile(path);
    for (size_t size = 0; size < text.size(); size += 7) feed(text.substr(0, size));
  }
}

TEST_CASE("ir: mutated files are accepted or refused, never crash") {
  std::mt19937 random(20240229);
  std::vector<std::string> texts;
  for (const char *folder : {"examples/layers", "tests/language/errors", "tests/language/fmt"})
    for (const auto &path : phaseFiles(folder)) texts.push_back(readFile(path));
  const std::string pieces[] = {"{",      "}",      "[",          "]",          "(",           ")",  ",",
                                "=",      "%",      "@",          "->",         "..",          "0",  "1e999",
                                "-1",     "tokens", "layer @x {", "stack @s {", "repeat(2) {", "\n", "\0",
                                "// c\n", "%x",     "return",     "nvfp4"};
  const auto below = [&](size_t bound) { return static_cast<size_t>(random() % bound); };
  for (int round = 0; round < 3000; ++round) {
    std::string text = texts[below(texts.size())];
    for (size_t edits = 1 + below(4); edits > 0; --edits) {
      const size_t at = below(text.size() + 1), length = std::min(below(12), text.size() - at);
      switch (below(5)) {
      case 0: text.erase(at, length); break;
      case 1: text.insert(at, pieces[below(std::size(pieces))]); break;
      case 2: text.insert(at, text.substr(below(text.size() + 1), below(40))); break;
      case 3:
        if (at < text.size()) text[at] = static_cast<char>(random());
        break;
      case 4: { // swap two lines' worth of text
        const size_t other = below(text.size() + 1);
        text = text.substr(std::min(at, other)) + text.substr(0, std::min(at, other));
        break;
      }
      }
      if (text.empty()) text = "layer";
    }
    feed(text);
  }
}

TEST_CASE("ir: extremes end in an error within a moment") {
  const std::string head = "layer @a {\n  dims n = 16\n  tokens 1..8\n  in %x : bf16[tokens, ";
  const std::pair<const char *, std::string> extremes[] = {
      {"parentheses", head + repeated("(", 200000) + "n" + repeated(")", 200000) + "]\n}\n"},
      {"unclosed", head + repeated("((((\n", 100000)},
      {"sum", head + "n" + repeated(" + n", 200000) + "]\n}\n"},
      {"huge integer", head + repeated("9", 100000) + "]\n}\n"},
      {"product", head + "4611686018427387904 * 4]\n}\n"},
      {"long name", head + repeated("n", 100000) + "]\n}\n"},
      {"groups", "layer @a { tokens 1 }\nstack @s { " + repeated("repeat(2) { ", 50000)},
      {"closed groups", "stack @s { " + repeated("repeat(1024) { ", 8) + "@a" + repeated("}", 8) + " }\nlayer @a { }"},
      {"braces", repeated("{", 300000)},
      {"closing braces", "layer @a {\n" + repeated("}\n", 300000)},
      {"layers", repeated("layer @a {\n}\n", 50000)},
      {"headless layers", repeated("layer @\n", 100000)},
      {"dims", "layer @a {\n dims " + repeated("a = 1, ", 100000) + "b = 1\n}\n"},
      {"distinct dims",
       [] {
         std::string text = "layer @a {\n dims z = 1";
         for (int i = 0; i < 60000; ++i) text += ", d" + std::to_string(i) + " = 1";
         return text + "\n}\n";
       }()},
      {"distinct inputs",
       [] {
         std::string text = "layer @a {\n tokens 1\n";
         for (int i = 0; i < 40000; ++i) text += "in %v" + std::to_string(i) + " : f32[1, 1]\n";
         return text + "}\n";
       }()},
      {"undefined",
       [] {
         std::string text = "layer @a {\n tokens 1\n %y = norm %x";
         for (int i = 0; i < 100000; ++i) text += ", %v" + std::to_string(i);
         return text + "\n}\n";
       }()},
      {"attributes", "layer @a {\n tokens 1\n in %x : bf16[tokens, 16]\n %y = norm %x, %x { " +
                         repeated("eps = 1, zeps = 2, ", 40000) + " }\n}\n"},
      {"norms",
       [] {
         std::string text = "layer @a {\n tokens 1\n in %v0 : bf16[tokens, 16]\n weight %g : f32[16]\n";
         for (int i = 0; i < 3000; ++i)
           text += "%v" + std::to_string(i + 1) + " = norm %v" + std::to_string(i) + ", %g\n";
         return text + "return %v2999\n}\n";
       }()},
      {"stack items", "layer @a { tokens 1 }\nstack @s {" + repeated("@a * 1024;", 80000) + "}"},
      {"comments", repeated("// c\n\n", 150000)},
      {"binary", repeated(std::string("\0\xff\xfe\x80\x01%\x7f", 7), 100000)},
      {"too large", repeated(" ", (1u << 20) + 1)},
      {"one line", repeated("layer ", 150000)},
      {"empty", ""},
  };
  for (const auto &extreme : extremes) {
    const std::string &text = extreme.second;
    INFO(extreme.first);
    const std::clock_t begin = std::clock(); // processor time: other work on the machine does not count
    const Status status = ir::load("extreme.phase", text).status();
    const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    CHECK(status.kind() == ErrorKind::Input);
    CHECK(status.text().size() < 200000);
    CHECK(seconds < 5.0); // generous: sanitizers run this too
  }
}
