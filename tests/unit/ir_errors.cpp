// ir_errors.cpp: every file of tests/language/errors says beside its bad lines what must be reported there:
//   // error: text          an error on this line whose message contains `text`
//   // error@12: text       the same, at column 12
//   // error-1: text        the same, on the line above (+1: below)
//   // note: text           a note on this line (same forms)
// The errors of a file must be exactly the expected ones.
#include "ir_support.h"

#include <doctest/doctest.h>

using namespace irtest;

namespace {

struct Expected {
  bool note = false;
  int line = 0, column = 0; // column 0: any
  std::string text;
  bool met = false;
};

/// All expectations of one line, from every "// error" and "// note" in it.
void scanLine(const std::string &line, int number, std::vector<Expected> &out) {
  for (size_t at = line.find("// "); at != std::string::npos; at = line.find("// ", at + 3)) {
    Expected expected;
    size_t p = at + 3;
    if (line.compare(p, 5, "error") == 0) {
      p += 5;
    } else if (line.compare(p, 4, "note") == 0) {
      expected.note = true;
      p += 4;
    } else {
      continue;
    }
    expected.line = number;
    if (p < line.size() && (line[p] == '+' || line[p] == '-')) {
      size_t used = 0;
      expected.line += std::stoi(line.substr(p), &used);
      p += used;
    }
    if (p < line.size() && line[p] == '@') {
      size_t used = 0;
      expected.column = std::stoi(line.substr(p + 1), &used);
      p += 1 + used;
    }
    if (line.compare(p, 2, ": ") != 0) continue;
    const size_t end = line.find(" // ", p);
    expected.text = line.substr(p + 2, end == std::string::npos ? end : end - p - 2);
    out.push_back(expected);
  }
}

/// Marks the expectation that this error or note meets; false when there is none.
bool meet(std::vector<Expected> &expected, bool note, ir::LineColumn at, const std::string &text) {
  for (Expected &e : expected) {
    if (e.met || e.note != note || e.line != at.line || (e.column != 0 && e.column != at.column)) continue;
    if (text.find(e.text) == std::string::npos) continue;
    e.met = true;
    return true;
  }
  return false;
}

} // namespace

TEST_CASE("ir: erroneous files report exactly what stands beside their lines") {
  const auto files = phaseFiles("tests/language/errors");
  CHECK(files.size() >= 20);
  for (const auto &path : files) {
    const std::string name = path.filename().string(), text = readFile(path);
    INFO(name);
    std::vector<Expected> expected;
    std::istringstream lines(text);
    std::string line;
    for (int number = 1; std::getline(lines, line); ++number) scanLine(line, number, expected);
    CHECK_FALSE(expected.empty());

    const ir::Parsed parsed = ir::loadAll(name, text);
    CHECK_FALSE(parsed.diagnostics.empty());
    for (const ir::Diagnostic &diagnostic : parsed.diagnostics.sorted()) {
      const ir::LineColumn at = ir::locate(text, diagnostic.range.begin);
      const std::string rendered = ir::render(diagnostic, name, text);
      INFO(rendered);
      CHECK(meet(expected, false, at, diagnostic.text));
      CHECK(rendered.find(name + ":" + std::to_string(at.line) + ":" + std::to_string(at.column) + ": error: ") == 0);
      for (const auto &note : diagnostic.notes) meet(expected, true, ir::locate(text, note.range.begin), note.text);
    }
    for (const Expected &e : expected) {
      INFO(name << ":" << e.line << ":" << e.column << " expects '" << e.text << "'");
      CHECK(e.met);
    }
    const Status status = ir::load(name, text).status();
    CHECK(status.kind() == ErrorKind::Input);
    CHECK(status.text().find(name + ":") == 0);
  }
}
