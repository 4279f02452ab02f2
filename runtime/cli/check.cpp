// check.cpp: `phasec check`: every diagnostic of every file, and the proof that the plan is safe.
#include "runtime/cli/cli.h"

#include "compiler/plan.h"
#include "compiler/schedule.h"
#include "ir/verifier.h"

namespace phasec::cli {
namespace {

cl::list<std::string> files(cl::Positional, cl::OneOrMore, cl::desc("FILE..."), cl::sub(checkCommand()));
cl::opt<bool> prove_flag("prove", cl::desc("prove the plan safe (the default; --no-prove skips it)"), cl::sub(checkCommand()),
                         cl::cat(ownOptions()));

struct Checked {
  std::string path;
  ir::Parsed parsed;
  Status plan; ///< of planning and proving; OK when there are diagnostics
  bool proved = false;
  bool ok() const { return parsed.diagnostics.empty() && plan.ok(); }
};

/// Planning is the same for both contracts, so that a check does not depend on math.
Status planAndProve(const ir::Module &module, Schedule schedule, bool *proved) {
  PHASEC_TRY(schedule.set("math", "exact", Origin::Host));
  PHASEC_ASSIGN(Schedule effective, effectiveSchedule(module, schedule, ""));
  PHASEC_ASSIGN(Plan planned, plan(module, effective, *findTarget(effective.word("target"))));
  if (!proveFlag()) return {};
  PHASEC_TRY(prove(planned, module));
  *proved = true;
  return {};
}

void writePlace(llvm::json::OStream &json, const ir::Module &module, ir::Range range) {
  ir::LineColumn begin = ir::locate(module.text, range.begin), end = ir::locate(module.text, range.end);
  json.attribute("line", begin.line);
  json.attribute("column", begin.column);
  json.attribute("end_line", end.line);
  json.attribute("end_column", end.column);
}

void writeDiagnostic(llvm::json::OStream &json, const ir::Module &module, const ir::Diagnostic &d) {
  json.object([&] {
    json.attribute("severity", "error");
    writePlace(json, module, d.range);
    json.attribute("text", clean(d.text));
    json.attributeArray("notes", [&] {
      for (const ir::Diagnostic::Note &note : d.notes)
        json.object([&] {
          if (note.range.end) writePlace(json, module, note.range);
          json.attribute("text", clean(note.text));
        });
    });
  });
}

void writeFileReport(llvm::json::OStream &json, const Checked &c) {
  json.object([&] {
    json.attribute("path", clean(c.path));
    json.attribute("ok", c.ok());
    json.attribute("proved", c.proved);
    json.attributeArray("diagnostics", [&] {
      for (const ir::Diagnostic &d : c.parsed.diagnostics.sorted()) writeDiagnostic(json, c.parsed.module, d);
      if (!c.plan.ok())
        json.object([&] {
          json.attribute("severity", "error");
          json.attribute("kind", name(c.plan.kind()));
          json.attribute("text", clean(c.plan.text()));
          json.attributeArray("notes", [] {});
        });
    });
    json.attribute("dropped", int64_t(c.parsed.diagnostics.dropped()));
  });
}

void printText(const Checked &c) {
  if (!c.parsed.diagnostics.empty()) {
    llvm::errs() << ir::render(c.parsed.diagnostics, c.path, c.parsed.module.text, colourful(2)) << "\n";
  } else if (!c.plan.ok()) {
    bool located = c.plan.text().rfind(c.path, 0) == 0;
    printError(located ? c.plan : Status(c.plan.kind(), c.path + ": " + c.plan.text()));
  } else {
    llvm::outs() << c.path << ": ok" << (c.proved ? ", proved" : ", not proved") << "\n";
  }
}

} // namespace

Result<int> checkMain() {
  PHASEC_ASSIGN(Session session, openSession());
  if (prove_flag && !proveFlag()) return Status::usage("--prove and --no-prove contradict each other");
  std::vector<Checked> checked;
  int code = 0;
  for (const std::string &path : files) {
    Checked c;
    c.path = path;
    PHASEC_ASSIGN(std::string text, readFile(path));
    c.parsed = ir::loadAll(path, std::move(text));
    if (c.parsed.diagnostics.empty()) c.plan = planAndProve(c.parsed.module, session.schedule, &c.proved);
    if (!c.ok()) code = std::max(code, c.plan.ok() ? exitCode(ErrorKind::Input) : exitCode(c.plan.kind()));
    if (!wantJson()) printText(c);
    checked.push_back(std::move(c));
  }
  if (wantJson())
    printJson("check", [&](llvm::json::OStream &json) {
      json.attribute("ok", code == 0);
      json.attributeArray("files", [&] {
        for (const Checked &c : checked) writeFileReport(json, c);
      });
    });
  return code;
}

} // namespace phasec::cli
