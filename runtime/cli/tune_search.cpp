// tune_search.cpp: the search of `phasec tune`: the stored winner and the default first, a coarse grid, then one knob after
// the other from the leader until none helps or the budget is spent.
//
// A candidate is timed quickly first. One that seems to lead is checked against the reference and timed again with all
// samples; only then it leads. So nothing wrong can win, and the reference, which is slow, judges few.
#include "runtime/cli/tune.h"

#include "llvm/Support/Format.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

namespace phasec::cli {
namespace {

constexpr int kQuickSamples = 15, kCheckedSamples = 31;
constexpr double kLeadMin = 0.003; ///< what a new leader must win at least; less is noise, and the search would not end

/// What is searched, the most telling values first.
struct Axis {
  const char *knob;
  std::vector<std::string> values, coarse;
};
const Axis kAxes[] = {
    {"partition", {"wide", "2d", "seed"}, {"wide", "2d"}},
    {"wo_split", {"1", "8", "4", "2", "16", "32"}, {"1", "8"}},
    {"warps", {"0", "8", "16", "12", "9", "10", "11", "4"}, {"0", "8", "16"}},
    {"ring", {"0", "24", "16", "32", "20", "40", "12", "8", "28", "36"}, {}},
    {"window", {"0", "16", "64", "8", "12", "20"}, {}},
    {"kv_splits", {"0", "32", "16", "64", "8", "128", "4"}, {}},
};
constexpr size_t kAxisCount = std::size(kAxes);
using Point = std::vector<std::string>; ///< a value per axis

std::string firstLine(const std::string &text) { return text.substr(0, text.find('\n')); }

std::string textOf(const Point &point) {
  std::string text;
  for (size_t i = 0; i < kAxisCount; i++) text += (i ? " " : "") + std::string(kAxes[i].knob) + "=" + point[i];
  return text;
}

const char *causeOf(ErrorKind kind) {
  switch (kind) {
  case ErrorKind::Device:
  case ErrorKind::Refused: return "device";
  case ErrorKind::CacheMiss: // jit = off
  case ErrorKind::Toolchain: return "compiler";
  default: return "planner";
  }
}

class Search {
public:
  Search(const TuneOptions &options, Runtime &runtime, cuda::CudaDevice &device, const Schedule &schedule, TuneReport &report)
      : options_(options), runtime_(runtime), rows_(runtime, device, true), base_(schedule), report_(report) {}

  Status run() {
    PHASEC_ASSIGN(layers_, rows_.open(options_.bench));
    report_.layer = layers_->name();
    PHASEC_TRY(compileForBatch(base_, options_.bench.tokens.front()));
    PHASEC_ASSIGN(report_.key, runtime_.tunedKey(*layers_, base_));
    PHASEC_ASSIGN(Runtime::Explanation start, runtime_.explain(*layers_, base_)); // a layer that cannot be planned ends here
    for (const Axis &axis : kAxes) {
      start_.push_back(start.schedule.text(axis.knob));
      bool pinned = base_.origin(axis.knob) > Origin::Tuned || (start_.back() == "0" && std::string_view(axis.knob) == "wo_split");
      free_.push_back(!pinned);
    }
    if ((report_.stored = runtime_.cache().tuned(report_.key))) consider(stored(), "stored");
    report_.baseline = consider(start_, "default");
    grid(0, start_);
    report_.complete = descend();
    report_.spent_s = elapsed();
    return {};
  }

private:
  double elapsed() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun_).count(); }
  bool over() const { return elapsed() >= options_.budget_s || !report_.broken.ok(); }
  double leader() const { return report_.winner < 0 ? HUGE_VAL : report_.candidates[size_t(report_.winner)].checked_us; }

  /// The stored winner, with what is pinned today.
  Point stored() const {
    Schedule schedule = base_;
    llvm::SmallVector<llvm::StringRef> words;
    llvm::StringRef(report_.stored->schedule).split(words, ' ');
    for (llvm::StringRef word : words) (void)schedule.set(word.split('=').first.str(), word.split('=').second.str(), Origin::Tuned);
    Point point;
    for (const Axis &axis : kAxes) point.push_back(schedule.text(axis.knob));
    return point;
  }

  void grid(size_t axis, Point point) {
    if (axis == kAxisCount) {
      if (!over()) consider(point, "grid");
      return;
    }
    if (!free_[axis] || kAxes[axis].coarse.empty()) return grid(axis + 1, point);
    for (const std::string &value : kAxes[axis].coarse) {
      point[axis] = value;
      grid(axis + 1, point);
    }
  }

  /// False: the budget ended it.
  bool descend() {
    for (int before = -2; before != report_.winner;) {
      before = report_.winner;
      for (size_t axis = 0; axis < kAxisCount; axis++)
        for (const std::string &value : kAxes[axis].values) {
          if (!free_[axis]) continue;
          if (over()) return false;
          Point point = best_.empty() ? start_ : best_;
          point[axis] = value;
          consider(point, "descent");
        }
    }
    return true;
  }

  /// Its number among the candidates when it has a checked time; -1: it has none.
  int consider(const Point &point, const char *phase) {
    if (auto known = points_.find(point); known != points_.end()) return known->second;
    Candidate c;
    c.phase = phase;
    c.schedule = textOf(point);
    std::vector<BenchRow> rows;
    examine(point, c, rows);
    int number = int(report_.candidates.size());
    if (c.outcome == "leads") {
      report_.winner = number;
      report_.rows = std::move(rows);
      best_ = point;
    }
    report_.candidates.push_back(c);
    sayCandidate(c);
    return points_[point] = c.checked_us > 0 ? number : -1;
  }

  void drop(Candidate &c, const Status &status) {
    if (report_.failed.ok()) report_.failed = status;
    if (status.kind() == ErrorKind::Device) report_.broken = status; // a context that failed stays failed
    drop(c, causeOf(status.kind()), status.text());
  }
  void drop(Candidate &c, const char *cause, const std::string &reason) {
    c.outcome = "dropped";
    c.cause = cause;
    c.reason = firstLine(reason);
  }

  void examine(const Point &point, Candidate &c, std::vector<BenchRow> &rows) {
    Schedule schedule = base_;
    for (size_t i = 0; i < kAxisCount; i++)
      if (Status s = schedule.set(kAxes[i].knob, point[i], Origin::Tuned); !s.ok()) return drop(c, s);
    auto explained = runtime_.explain(*layers_, schedule);
    if (!explained) return drop(c, explained.status());
    c.key = explained->key.text();
    if (auto [twin, fresh] = keys_.emplace(c.key, report_.candidates.size() + 1); !fresh) {
      c.outcome = "same kernel";
      c.reason = "as candidate " + std::to_string(twin->second);
      c.us = report_.candidates[twin->second - 1].us;
      c.checked_us = report_.candidates[twin->second - 1].checked_us;
      c.checked_sd = report_.candidates[twin->second - 1].checked_sd;
      return;
    }
    double deviation = 0;
    if (!measure(schedule, false, c, rows, c.us, deviation)) return;
    // The baseline is checked whatever its time: it is what the winner is compared with.
    if (c.phase != "default" && c.us >= leader() * (1 - kLeadMin)) {
      c.outcome = "not faster";
      return;
    }
    if (!measure(schedule, true, c, rows, c.checked_us, c.checked_sd)) return;
    c.outcome = c.checked_us < leader() * (1 - kLeadMin) ? "leads" : c.phase == "default" ? "not faster" : "not confirmed";
  }

  /// False: `c` was dropped.
  bool measure(const Schedule &schedule, bool checked, Candidate &c, std::vector<BenchRow> &rows, double &us, double &deviation) {
    BenchOptions options = options_.bench;
    options.gate = checked;
    options.samples = checked ? kCheckedSamples : kQuickSamples;
    rows.clear();
    double sum = 0, squares = 0;
    for (int context : options.contexts) {
      BenchRow &row = rows.emplace_back();
      row.tokens = options.tokens.front();
      row.context = context;
      row.error = rows_.measure(options, schedule, row);
      if (!row.error.ok()) return drop(c, row.error), false;
      if (!row.passed()) return drop(c, "check", row.gate->findings.front()), false;
      if (!row.alike) return drop(c, "check", "launches left different bytes"), false;
      Statistics s = statistics(row.samples_us);
      sum += row.layerUs(s.median);
      squares += row.layerUs(s.deviation) * row.layerUs(s.deviation);
    }
    us = sum;
    deviation = std::sqrt(squares);
    return true;
  }

  void sayCandidate(const Candidate &c) const {
    std::string text;
    llvm::raw_string_ostream out(text);
    out << llvm::format("[%.0f/%.0f s] ", elapsed(), options_.budget_s) << report_.candidates.size() << " " << c.phase << " " << c.schedule << ": ";
    if (c.us > 0 && c.outcome != "same kernel") out << llvm::format("%.2f us per layer, ", c.checked_us > 0 ? c.checked_us : c.us);
    out << c.outcome << (c.reason.empty() ? "" : ": " + c.reason);
    if (report_.winner >= 0 && c.outcome != "leads") out << llvm::format(" (best %.2f)", leader());
    say(out.str());
  }

  const TuneOptions &options_;
  Runtime &runtime_;
  RowBench rows_;
  Schedule base_;
  TuneReport &report_;
  std::optional<Layers> layers_;
  Point start_, best_;
  std::vector<bool> free_;
  std::map<Point, int> points_;
  std::map<std::string, size_t> keys_; ///< -> number of the candidate, from 1
  const std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
};

/// What stands beside the winner: enough to judge a later search by, and to know what was measured.
std::string evidenceJson(const TuneReport &report) {
  const Candidate &winner = report.candidates[size_t(report.winner)];
  std::string text;
  llvm::raw_string_ostream out(text);
  llvm::json::OStream json(out);
  json.object([&] {
    json.attribute("version", PHASEC_VERSION);
    json.attribute("device", report.device.name);
    json.attribute("driver", report.device.driver);
    json.attribute("toolchain", report.rows.front().toolchain);
    json.attribute("key", winner.key);
    json.attribute("layer_us", winner.checked_us);
    json.attribute("sd", winner.checked_sd);
    json.attribute("candidates", int64_t(report.candidates.size()));
    json.attributeArray("rows", [&] {
      for (const BenchRow &row : report.rows)
        json.object([&] {
          json.attribute("tokens", row.tokens);
          json.attribute("context", row.context);
          json.attribute("rel_l2", figure(row.gate->rel_l2));
          json.attribute("layers_per_sample", row.launches * row.instances);
          json.attributeArray("samples_us", [&] {
            for (double us : row.samples_us) json.value(us);
          });
        });
    });
  });
  return out.str();
}

/// How the winner's time stands against the stored one's. Times of other contexts say nothing about these.
void judgeStored(TuneReport &report) {
  if (!report.stored || report.winner < 0) return;
  auto evidence = llvm::json::parse(report.stored->evidence);
  if (!evidence) return llvm::consumeError(evidence.takeError());
  const llvm::json::Object *root = evidence->getAsObject();
  const llvm::json::Array *rows = root ? root->getArray("rows") : nullptr;
  if (!rows || rows->size() != report.rows.size()) return;
  for (size_t i = 0; i < rows->size(); i++)
    if (!(*rows)[i].getAsObject() || numberOf(*(*rows)[i].getAsObject(), "context") != report.rows[i].context) return;
  report.stored_us = numberOf(*root, "layer_us");
  report.stored_sd = numberOf(*root, "sd");
  report.band = noiseBand(report.stored_us, report.stored_sd, report.candidates[size_t(report.winner)].checked_sd);
}

} // namespace

std::string TuneReport::verdict() const {
  if (winner < 0) return "none";
  if (stored_us <= 0) return "first";
  return std::abs(candidates[size_t(winner)].checked_us / stored_us - 1) <= band ? "reproduced" : "moved";
}

int TuneReport::dropped(std::string_view cause) const {
  return int(std::count_if(candidates.begin(), candidates.end(), [&](const Candidate &c) { return c.cause == cause; }));
}

Result<TuneReport> tuneOnDevice(const Session &session, const TuneOptions &options) {
  RuntimeOptions o = session.options;
  o.tuned = false;  // candidates are what they say
  o.log = nullptr;  // a line per candidate is talk enough
  PHASEC_ASSIGN(cuda::DriverApi api, cuda::openDriver(o.cuda_path));
  PHASEC_ASSIGN(std::unique_ptr<cuda::CudaDevice> opened, cuda::CudaDevice::open(api, o.ordinal));
  cuda::CudaDevice &device = *opened;
  PHASEC_ASSIGN(Runtime runtime, Runtime::with(o, std::move(opened)));
  TuneReport report;
  report.device = device.info();
  PHASEC_TRY(Search(options, runtime, device, session.schedule, report).run());
  if (report.winner < 0) return report;
  judgeStored(report);
  Tuned winner{report.key, report.layer, report.candidates[size_t(report.winner)].schedule, evidenceJson(report), 0};
  report.kept = runtime.cache().setTuned(winner);
  return report;
}

} // namespace phasec::cli
