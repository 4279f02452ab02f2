// tune.cpp: `phasec tune FILE`: what is asked for, and the report of the search.
#include "runtime/cli/tune.h"

#include "llvm/Support/Format.h"

namespace phasec::cli {
namespace {

#define TUNE cl::sub(tuneCommand()), cl::cat(ownOptions())

cl::opt<std::string> file(cl::Positional, cl::Required, cl::desc("FILE"), cl::sub(tuneCommand()));
cl::opt<std::string> budget("budget", cl::init("120s"), cl::desc("time for the search, in s or m (default 120s)"), cl::value_desc("T"), TUNE);
cl::opt<int> tokens("tokens", cl::init(1), cl::desc("sequences of one token each, and the rows to compile for (default 1)"), cl::value_desc("N"), TUNE);
cl::list<int> contexts("contexts", cl::desc("rows that every sequence has in the cache; several count together (default 1024)"),
                       cl::value_desc("N,..."), cl::CommaSeparated, TUNE);
cl::opt<std::string> output("o", cl::desc("also write the JSON there"), cl::value_desc("F"), TUNE);

constexpr double kBudgetMax = 24 * 3600;

Result<double> readBudget() {
  llvm::StringRef text = budget;
  double scale = text.consume_back("m") ? 60 : 1, value = 0;
  text.consume_back("s");
  if (text.getAsDouble(value) || !(value > 0) || value * scale > kBudgetMax)
    return Status::usage("--budget " + budget + ": expected a time such as 120s or 10m, at most a day");
  return value * scale;
}

Result<TuneOptions> readOptions() {
  TuneOptions o;
  PHASEC_ASSIGN(o.budget_s, readBudget());
  o.bench.file = file;
  if (tokens < 1 || tokens > kTokensMax) return Status::usage("--tokens takes a number from 1 to " + std::to_string(kTokensMax));
  o.bench.tokens = {tokens};
  o.bench.contexts.assign(contexts.begin(), contexts.end());
  if (o.bench.contexts.empty()) o.bench.contexts = {1024};
  for (int n : o.bench.contexts)
    if (n < 0 || n > 1 << 24) return Status::usage("--contexts takes numbers from 0 to " + std::to_string(1 << 24));
  return o;
}

llvm::json::Value timeOf(double us) { return us > 0 ? llvm::json::Value(us) : llvm::json::Value(nullptr); }
llvm::json::Value textOrNull(const std::string &text) { return text.empty() ? llvm::json::Value(nullptr) : llvm::json::Value(clean(text)); }

void writeTrace(llvm::json::OStream &json, const TuneReport &report) {
  json.attributeArray("candidates", [&] {
    for (const Candidate &c : report.candidates)
      json.object([&] {
        json.attribute("phase", c.phase);
        json.attribute("schedule", c.schedule);
        json.attribute("key", textOrNull(c.key));
        json.attribute("layer_us", timeOf(c.us));
        json.attribute("checked_us", timeOf(c.checked_us));
        json.attribute("checked_sd", c.checked_us > 0 ? llvm::json::Value(c.checked_sd) : llvm::json::Value(nullptr));
        json.attribute("outcome", c.outcome);
        json.attribute("cause", textOrNull(c.cause));
        json.attribute("reason", textOrNull(c.reason));
      });
  });
  json.attributeObject("dropped", [&] {
    for (const char *cause : {"planner", "compiler", "device", "check"}) json.attribute(cause, report.dropped(cause));
  });
}

void writeWinner(llvm::json::OStream &json, const TuneReport &report) {
  if (report.winner < 0) return json.attribute("winner", nullptr);
  const Candidate &w = report.candidates[size_t(report.winner)];
  json.attributeObject("winner", [&] {
    json.attribute("candidate", report.winner);
    json.attribute("schedule", w.schedule);
    json.attribute("key", w.key);
    json.attribute("layer_us", w.checked_us);
    json.attribute("sd", w.checked_sd);
    double base = report.baseline < 0 ? 0 : report.candidates[size_t(report.baseline)].checked_us;
    json.attribute("default_us", timeOf(base));
    json.attribute("speedup", timeOf(base / w.checked_us));
    json.attribute("stored", report.kept.ok());
    writeConfig(json, report.rows.front().schedule);
  });
}

std::string tuneJson(const TuneReport &report, const TuneOptions &options) {
  return jsonText("tune", [&](llvm::json::OStream &json) {
    json.attribute("version", PHASEC_VERSION);
    json.attribute("file", clean(options.bench.file));
    json.attribute("layer", report.layer);
    json.attribute("device", report.device.name);
    json.attribute("layer_digest", report.key.layer);
    json.attribute("target", report.key.target);
    json.attribute("ctas", report.key.ctas);
    json.attribute("math", report.key.math);
    json.attribute("tokens_max", report.key.tokens_max);
    json.attribute("tokens", options.bench.tokens.front());
    json.attributeArray("contexts", [&] {
      for (int n : options.bench.contexts) json.value(n);
    });
    json.attribute("budget_s", options.budget_s);
    json.attribute("spent_s", report.spent_s);
    json.attribute("complete", report.complete);
    json.attribute("error", report.broken.ok() ? llvm::json::Value(nullptr) : llvm::json::Value(clean(report.broken.text())));
    json.attribute("verdict", report.verdict());
    if (report.stored)
      json.attributeObject("stored", [&] {
        json.attribute("schedule", report.stored->schedule);
        json.attribute("layer_us", timeOf(report.stored_us));
        json.attribute("band", timeOf(report.band));
      });
    else json.attribute("stored", nullptr);
    writeWinner(json, report);
    writeTrace(json, report);
  });
}

std::string tuneText(const TuneReport &report) {
  std::string text;
  llvm::raw_string_ostream out(text);
  out << "@" << report.layer << " on " << report.device.name << " (" << report.key.target << ", " << report.key.ctas << " CTAs), math " << report.key.math
      << ", tokens_max " << report.key.tokens_max << "\n  searched  " << report.candidates.size()
      << llvm::format(" candidates in %.0f s", report.spent_s) << (report.complete ? "" : "; the budget ended it") << "; dropped:";
  for (const char *cause : {"planner", "compiler", "device", "check"}) out << " " << cause << " " << report.dropped(cause);
  out << "\n";
  if (!report.broken.ok()) out << "  ended     " << report.broken.text() << "\n";
  if (report.winner < 0) {
    out << "  winner    none passed its check\n";
    return out.str();
  }
  const Candidate &w = report.candidates[size_t(report.winner)];
  out << "  winner    " << w.schedule << llvm::format(": %.2f us per layer (sd %.2f)", w.checked_us, w.checked_sd);
  if (report.baseline >= 0) out << llvm::format(", default %.2f", report.candidates[size_t(report.baseline)].checked_us);
  out << "\n";
  if (report.stored) {
    out << "  earlier   " << report.stored->schedule;
    if (report.stored_us > 0) out << llvm::format(": %.2f us; ", report.stored_us) << report.verdict() << llvm::format(" (band %.2f %%)", 100 * report.band);
    else out << ": for other contexts";
    out << "\n";
  }
  if (report.kept.ok()) out << "  stored    used from now on where tokens_max is " << report.key.tokens_max << "; --no-tuned leaves it out\n";
  else out << "  stored    nowhere: " << report.kept.text() << "\n";
  return out.str();
}

} // namespace

Result<int> tuneMain() {
  PHASEC_ASSIGN(Session session, openSession());
  if (session.options.device == DeviceChoice::Sim || session.options.device == DeviceChoice::None)
    return Status::usage("tune measures a GPU: simulated times say nothing about one; use --device cuda");
  PHASEC_ASSIGN(TuneOptions options, readOptions());
  PHASEC_ASSIGN(TuneReport report, tuneOnDevice(session, options));
  if (report.winner < 0 && !report.dropped("check"))
    return Status(report.failed.kind(), "no candidate could be measured: " + report.failed.text());
  std::string json = tuneJson(report, options);
  if (!output.empty()) PHASEC_TRY(writeFile(output, json));
  printResult(wantJson() ? json : tuneText(report));
  if (!report.broken.ok()) return exitCode(report.broken.kind());
  return report.winner < 0 ? kFinding : 0;
}

} // namespace phasec::cli
