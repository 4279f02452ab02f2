// compare.cpp: `phasec compare OLD NEW`: do two reports of `phasec bench` say the same, within their own noise?
#include "runtime/cli/bench.h"

#include "llvm/Support/Format.h"

#include <cmath>

namespace phasec::cli {
namespace {

using llvm::json::Object;

cl::opt<std::string> old_path(cl::Positional, cl::Required, cl::desc("OLD.json"), cl::sub(compareCommand()));
cl::opt<std::string> new_path(cl::Positional, cl::Required, cl::desc("NEW.json"), cl::sub(compareCommand()));

/// What must be equal for times to be about the same work. `shape` is in the row's name already.
constexpr const char *kCounts[] = {"instances", "sets", "launches_per_sample", "weight_bytes", "kv_bytes"};

struct Row {
  std::string layer, device;
  Object figures;
};
using Rows = std::map<std::string, Row>; ///< by what was measured: "tokens 1, context 1024, wo_split 8"

struct Verdict {
  std::string row, word, reason; ///< "reproduced" | "moved" | "not comparable"
  double old_us = 0, new_us = 0, delta = 0, band = 0;
};

void addReport(const std::string &run, const Object &report, Rows &rows) {
  std::string knob = textOf(report, "sweep_knob"), device;
  if (const Object *d = report.getObject("device")) device = textOf(*d, "name");
  const llvm::json::Array *list = report.getArray("rows");
  if (!list) return;
  for (const llvm::json::Value &value : *list) {
    const Object *row = value.getAsObject();
    if (!row) continue;
    std::string name = run.empty() ? "" : run + ": ";
    name += "tokens " + std::to_string(int64_t(numberOf(*row, "tokens"))) + ", context " + std::to_string(int64_t(numberOf(*row, "context")));
    if (!knob.empty()) name += ", " + knob + " " + textOf(*row, "sweep");
    rows[name] = {textOf(report, "layer"), device, *row};
  }
}

/// One report, or the joined ones of tests/bench/results.
Result<Rows> readRows(const std::string &path) {
  PHASEC_ASSIGN(std::string text, readFile(path));
  auto document = llvm::json::parse(text);
  if (!document) return Status::input(path + ": no JSON: " + llvm::toString(document.takeError()));
  const Object *root = document->getAsObject();
  std::string schema = root ? textOf(*root, "schema") : "";
  Rows rows;
  if (schema == "phasec.bench/1") addReport("", *root, rows);
  else if (schema == "phasec.results/1") {
    if (const Object *runs = root->getObject("runs"))
      for (const auto &[name, run] : *runs)
        if (const Object *report = run.getAsObject()) addReport(name.str(), *report, rows);
  } else
    return Status::input(path + ": no report of `phasec bench` (its schema is \"" + clean(schema) + "\"); make one with phasec bench FILE -o F");
  if (rows.empty()) return Status::input(path + ": the report has no rows");
  return rows;
}

/// Why the two are not about the same work; empty: they are.
std::string difference(const Row &a, const Row &b) {
  if (a.layer != b.layer) return "layer @" + a.layer + " -> @" + b.layer;
  if (a.device != b.device) return "device " + a.device + " -> " + b.device;
  for (const auto &[row, file] : {std::pair(&a, &old_path), std::pair(&b, &new_path)})
    if (!row->figures.getObject("layer_us")) return "no figures in " + *file;
  for (const char *count : kCounts) {
    int64_t x = int64_t(numberOf(a.figures, count)), y = int64_t(numberOf(b.figures, count));
    if (x != y) return std::string(count) + " " + std::to_string(x) + " -> " + std::to_string(y);
  }
  return "";
}

Verdict judge(const std::string &name, const Row &a, const Row &b) {
  Verdict v{name, "not comparable", difference(a, b)};
  if (!v.reason.empty()) return v;
  const Object &x = *a.figures.getObject("layer_us"), &y = *b.figures.getObject("layer_us");
  v.old_us = numberOf(x, "median");
  v.new_us = numberOf(y, "median");
  v.delta = v.new_us / v.old_us - 1;
  v.band = noiseBand(v.old_us, numberOf(x, "sd"), numberOf(y, "sd"));
  v.word = std::abs(v.delta) <= v.band ? "reproduced" : "moved";
  return v;
}

std::vector<Verdict> judgeAll(const Rows &a, const Rows &b) {
  std::vector<Verdict> all;
  for (const auto &[name, row] : a) {
    auto found = b.find(name);
    all.push_back(found == b.end() ? Verdict{name, "not comparable", "not in " + new_path} : judge(name, row, found->second));
  }
  for (const auto &[name, row] : b)
    if (!a.count(name)) all.push_back({name, "not comparable", "not in " + old_path});
  return all;
}

/// Of all rows: what moved is the news, then what could not be compared.
std::string overall(const std::vector<Verdict> &all) {
  for (const char *word : {"moved", "not comparable"})
    for (const Verdict &v : all)
      if (v.word == word) return word;
  return "reproduced";
}

void writeJson(const std::vector<Verdict> &all) {
  printJson("compare", [&](llvm::json::OStream &json) {
    json.attribute("old", clean(old_path));
    json.attribute("new", clean(new_path));
    json.attribute("verdict", overall(all));
    json.attributeArray("rows", [&] {
      for (const Verdict &v : all)
        json.object([&] {
          bool compared = v.reason.empty();
          auto figureOf = [&](double x) { return compared ? figure(x) : llvm::json::Value(nullptr); };
          json.attribute("row", clean(v.row));
          json.attribute("verdict", v.word);
          json.attribute("reason", compared ? llvm::json::Value(nullptr) : llvm::json::Value(clean(v.reason)));
          json.attribute("old_us", figureOf(v.old_us));
          json.attribute("new_us", figureOf(v.new_us));
          json.attribute("delta", figureOf(v.delta));
          json.attribute("band", figureOf(v.band));
        });
    });
  });
}

void printText(const std::vector<Verdict> &all) {
  llvm::raw_ostream &out = llvm::outs();
  for (const Verdict &v : all) {
    out << v.row << ": ";
    if (v.reason.empty())
      out << llvm::format("%.2f -> %.2f us per layer, %+.2f %% (band %.2f %%): ", v.old_us, v.new_us, 100 * v.delta, 100 * v.band) << v.word << "\n";
    else out << v.word << ": " << v.reason << "\n";
  }
  out << overall(all) << "\n";
}

} // namespace

Result<int> compareMain() {
  PHASEC_ASSIGN(Rows before, readRows(old_path));
  PHASEC_ASSIGN(Rows after, readRows(new_path));
  std::vector<Verdict> all = judgeAll(before, after);
  if (wantJson()) writeJson(all);
  else printText(all);
  std::string verdict = overall(all);
  return verdict == "moved" ? kFinding : verdict == "reproduced" ? 0 : exitCode(ErrorKind::Input);
}

} // namespace phasec::cli
