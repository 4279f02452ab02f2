// fmt.cpp: `phasec fmt`: the canonical form of a file, also with every event that the planner would insert written out.
#include "runtime/cli/cli.h"

#include "compiler/plan.h"
#include "compiler/schedule.h"
#include "ir/parser.h"
#include "ir/printer.h"
#include "ir/verifier.h"

#include <algorithm>

namespace phasec::cli {
namespace {

#define FMT cl::sub(fmtCommand()), cl::cat(ownOptions())

cl::list<std::string> files(cl::Positional, cl::OneOrMore, cl::desc("FILE..."), cl::sub(fmtCommand()));
cl::opt<bool> check("check", cl::desc("print nothing; exit 3 when a file is not canonical"), FMT);
cl::opt<bool> write("w", cl::desc("rewrite the files instead of printing"), FMT);
cl::opt<bool> explicit_events("explicit", cl::desc("write out the events that `sync auto` means, with the reason for each"), FMT);

/// The value that names a step in an event: the result of its phase.
ir::ValueId resultOf(const ir::Layer &layer, const Body &body, int step) {
  return layer.phases[size_t(body.steps[size_t(step)].phase)].results[0];
}

/// What a step leaves for others: of a W_O that adds its slots itself, the gathered value.
ir::ValueId leftBy(const ir::Layer &layer, const Body &body, int step) {
  const Step &s = body.steps[size_t(step)];
  ir::ValueId result = resultOf(layer, body, step);
  if (s.op == ir::Op::wo && s.results[0] >= 0)
    for (const ir::Phase &p : layer.phases)
      if (p.op == ir::Op::gather && p.operands[0] == result) return p.results[0];
  return result;
}

Result<ir::PrintOptions> plannedEvents(const ir::Module &module, Schedule schedule) {
  PHASEC_TRY(schedule.set("math", "exact", Origin::Host)); // events do not depend on it
  PHASEC_ASSIGN(Schedule effective, effectiveSchedule(module, schedule, ""));
  PHASEC_ASSIGN(Plan planned, plan(module, effective, *findTarget(effective.word("target"))));
  ir::PrintOptions options;
  for (const Body &body : planned.bodies) {
    const ir::Layer &layer = module.layers[size_t(body.layer)];
    ir::ExplicitEvents events;
    events.layer = body.layer;
    for (const Event &e : body.events) {
      events.events.push_back({e.kind, leftBy(layer, body, e.from_step), resultOf(layer, body, e.to_step)});
      events.comments.push_back(e.reason == "written" ? "" : e.reason);
    }
    options.explicit_events.push_back(std::move(events));
  }
  return options;
}

Result<std::string> canonical(const std::string &path, const std::string &text, const Session &session) {
  if (!explicit_events) {
    PHASEC_ASSIGN(ir::Module module, ir::parse(path, text));
    return ir::print(module);
  }
  PHASEC_ASSIGN(ir::Module module, ir::load(path, text));
  PHASEC_ASSIGN(ir::PrintOptions options, plannedEvents(module, session.schedule));
  return ir::print(module, options);
}

/// The first line that is not as it should be.
int firstDifference(const std::string &a, const std::string &b) {
  auto [at, other] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return 1 + int(std::count(a.begin(), at, '\n'));
}

} // namespace

Result<int> fmtMain() {
  if (check && write) return Status::usage("--check and -w contradict each other");
  if (wantJson() && !check) return Status::usage("--json goes with --check; the canonical form itself is text");
  PHASEC_ASSIGN(Session session, openSession());
  std::vector<std::pair<std::string, int>> different; // path, line
  for (const std::string &path : files) {
    PHASEC_ASSIGN(std::string text, readFile(path));
    PHASEC_ASSIGN(std::string result, canonical(path, text, session));
    if (check) {
      if (result != text) different.push_back({path, firstDifference(text, result)});
    } else if (!write) {
      printResult(result);
    } else if (result != text) {
      PHASEC_TRY(writeFile(path, result));
    }
  }
  if (wantJson())
    printJson("fmt", [&](llvm::json::OStream &json) {
      json.attribute("ok", different.empty());
      json.attributeArray("not_canonical", [&] {
        for (const auto &[path, line] : different)
          json.object([&, &path = path, &line = line] {
            json.attribute("path", clean(path));
            json.attribute("line", line);
          });
      });
    });
  else
    for (const auto &[path, line] : different)
      llvm::errs() << path << ":" << line << ": not canonical from here; `phasec fmt -w " << path << "` rewrites it\n";
  return different.empty() ? 0 : kFinding;
}

} // namespace phasec::cli
