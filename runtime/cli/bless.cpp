// bless.cpp: `phasec bless`: kernels for other machines, compiled without a GPU into one file of reproducible bytes;
// and the proof that such a file covers a manifest.
#include "runtime/cli/bless_jobs.h"
#include "runtime/cli/entries.h"
#include "runtime/cli/program.h"
#include "runtime/cli/workers.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"

#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <thread>
#include <tuple>

namespace phasec::cli {
namespace {

#define BLESS cl::sub(blessCommand()), cl::cat(ownOptions())

cl::list<std::string> inputs(cl::Positional, cl::OneOrMore, cl::desc("MANIFEST|FILE..."), cl::sub(blessCommand()));
cl::opt<bool> check("check",
                    cl::desc("the last argument is a blessed file: prove that it has every kernel; exit 3 if not"),
                    BLESS);
cl::opt<std::string> target("target", cl::desc("architectures, or all (default: the manifest's; for a FILE sm_90a)"),
                            cl::value_desc("A,B"), BLESS);
cl::list<std::string> sets("set", cl::desc("a schedule knob; of several values each makes a kernel; repeatable"),
                           cl::value_desc("knob=v1,v2"), BLESS);
cl::opt<std::string> out_path("out", cl::desc("the blessed file to write"), cl::value_desc("DB"), BLESS);
cl::opt<int> jobs_flag("j", cl::desc("processes (default: one per processor)"), cl::value_desc("N"), cl::Prefix, BLESS);
cl::opt<std::string> shard("shard", cl::desc("only the I-th of N parts, I from 1; `cache merge` joins them"),
                           cl::value_desc("I/N"), BLESS);
cl::opt<std::string> record("record", cl::desc("add the lines of these kernels to a manifest"), cl::value_desc("F"),
                            BLESS);
cl::opt<bool> packers("packers", cl::desc("also what packs these kernels' weights on the device (Kernel::packOnDevice)"), BLESS);
cl::opt<bool> rekey("rekey", cl::desc("accept lines that another phasec recorded under another key"), BLESS);
cl::opt<int64_t> registers_max("registers-max", cl::desc("budget: registers per thread; exit 3 above it"),
                               cl::value_desc("N"), cl::init(-1), BLESS);
cl::opt<int64_t> spill_max("spill-max", cl::desc("budget: bytes of spill code, stores and loads; exit 3 above it"),
                           cl::value_desc("N"), cl::init(-1), BLESS);
cl::opt<int64_t> shared_max("shared-max", cl::desc("budget: shared memory per CTA in bytes; exit 3 above it"),
                            cl::value_desc("N"), cl::init(-1), BLESS);

Result<BlessRequest> parseRequest(const std::vector<std::string> &files, const Session &session) {
  BlessRequest request;
  request.inputs = files;
  if (!target.empty()) {
    PHASEC_ASSIGN(request.targets, parseTargets(target));
  }
  for (const std::string &text : sets) {
    PHASEC_ASSIGN(auto set, parseSet(text));
    request.sets.push_back(std::move(set));
  }
  if (session.schedule.origin("math") == Origin::Flag)
    request.sets.push_back({"math", {session.schedule.word("math")}}); // --exact
  if (!shard.empty()) PHASEC_TRY(parseShard(shard, request));
  request.templates_dir = session.options.templates_dir;
  request.rekey = rekey;
  return request;
}

/// What a row of the file takes of the machine.
struct Resources {
  int64_t registers, spill_bytes, shared_bytes;

  explicit Resources(const EntryInfo &info, int64_t dynamic_shared = 0) {
    auto figure = [&](const char *name) { return resourceFigure(info.resources, name); };
    registers = figure("registers");
    spill_bytes = figure("spill_store_bytes") + figure("spill_load_bytes");
    shared_bytes = dynamic_shared + figure("shared_bytes");
  }
  /// Against the budgets.
  void hold(const std::string &what, std::vector<std::string> &findings) const {
    for (auto [value, budget, unit] : {std::tuple{registers, registers_max.getValue(), "registers per thread"},
                                       {spill_bytes, spill_max.getValue(), "bytes of spills"},
                                       {shared_bytes, shared_max.getValue(), "bytes of shared memory per CTA"}})
      if (budget >= 0 && value > budget)
        findings.push_back(what + " takes " + std::to_string(value) + " " + unit + "; the budget is " + std::to_string(budget));
  }
};

/// A kernel that is in the file.
struct Blessed {
  const BlessJob *job;
  EntryInfo info;
  Resources takes;
  double seconds = 0;
};

struct Report {
  BlessRequest request;
  std::vector<Blessed> kernels;
  std::vector<std::string> findings;
  size_t total = 0; ///< of all shards
  std::map<Key, int64_t> packers; ///< of these kernels, where they are asked for: dynamic shared memory
  std::string path, sha256;
  double seconds = 0;
};

/// What `runtime` has of the jobs, without compiling; what it lacks is a finding, packers of one shape once.
Status findAll(Runtime &runtime, const std::vector<BlessJob> &jobs, Report &report) {
  std::set<std::string> told;
  for (const BlessJob &job : jobs) {
    Result<Kernel> kernel = runtime.prepare(job.layers, job.schedule);
    if (!kernel) {
      if (kernel.status().kind() != ErrorKind::CacheMiss) return kernel.status();
      report.findings.push_back("missing: " + job.line.text() + "\n" + kernel.status().text());
      continue;
    }
    if (!packers) continue;
    Result<std::vector<Packer>> had = kernel->preparePackers();
    if (had) {
      for (const Packer &p : *had) report.packers.emplace(p.key, p.shared_bytes);
      continue;
    }
    if (had.status().kind() != ErrorKind::CacheMiss) return had.status();
    if (told.insert(had.status().text()).second)
      report.findings.push_back("missing: packers of " + job.line.text() + "\n" + had.status().text());
  }
  return {};
}

/// The rows of `path` that belong to `jobs` and their packers; a job without a row is left out.
Status measureAll(const std::string &path, const std::vector<BlessJob> &jobs, Report &report) {
  PHASEC_ASSIGN(std::vector<EntryInfo> rows, listEntries(path));
  std::map<Key, EntryInfo> by_key;
  for (EntryInfo &row : rows) by_key.emplace(row.key, std::move(row));
  for (const BlessJob &job : jobs) {
    auto row = by_key.find(job.key());
    if (row == by_key.end()) continue;
    Resources takes(row->second, job.shared_bytes);
    takes.hold("@" + row->second.layer + " " + job.what() + " " + job.key().text(), report.findings);
    report.kernels.push_back({&job, std::move(row->second), takes});
  }
  for (const auto &[key, shared_bytes] : report.packers)
    if (auto row = by_key.find(key); row != by_key.end())
      Resources(row->second, shared_bytes).hold(row->second.layer + " " + row->second.target + " " + key.text(), report.findings);
  return {};
}

// ---- results -------------------------------------------------------------------------------------------------------

/// Layers x targets: how many kernels, which splits, how many bytes.
void printCoverage(const Report &report) {
  struct Cell {
    std::set<int64_t> splits;
    int64_t kernels = 0, bytes = 0, registers = 0, spills = 0;
  };
  std::map<std::pair<std::string, std::string>, Cell> cells;
  for (const Blessed &b : report.kernels) {
    Cell &cell = cells[{b.info.layer, b.job->line.target}];
    if (b.job->key().wo_split) cell.splits.insert(b.job->key().wo_split);
    cell.kernels++;
    cell.bytes += b.info.payload_bytes;
    cell.registers = std::max(cell.registers, b.takes.registers);
    cell.spills = std::max(cell.spills, b.takes.spill_bytes);
  }
  llvm::raw_ostream &out = llvm::outs();
  out << "layer                        target   wo_split         kernels      bytes registers spills\n";
  for (const auto &[at, cell] : cells) {
    std::string splits;
    for (int64_t s : cell.splits) splits += (splits.empty() ? "" : ",") + std::to_string(s);
    out << llvm::format("%-28s %-8s %-16s %7lld %10lld %9lld %6lld\n", ("@" + at.first).c_str(), at.second.c_str(),
                        splits.empty() ? "-" : splits.c_str(), static_cast<long long>(cell.kernels),
                        static_cast<long long>(cell.bytes), static_cast<long long>(cell.registers),
                        static_cast<long long>(cell.spills));
  }
}

void writeJson(const Report &report) {
  printJson("bless", [&](llvm::json::OStream &json) {
    json.attribute("mode", check ? "check" : "build");
    json.attribute("ok", report.findings.empty());
    json.attribute("path", clean(report.path));
    json.attribute("sha256", report.sha256);
    json.attribute("shard", std::to_string(report.request.shard) + "/" + std::to_string(report.request.shards));
    json.attribute("kernels_of_all_shards", int64_t(report.total));
    json.attribute("packers", int64_t(report.packers.size()));
    json.attribute("seconds", report.seconds);
    json.attributeArray("kernels", [&] {
      for (const Blessed &b : report.kernels)
        json.object([&] {
          json.attribute("layer", b.info.layer);
          json.attribute("target", b.job->line.target);
          json.attribute("wo_split", b.job->key().wo_split);
          json.attribute("key", b.job->key().text());
          json.attribute("line", clean(b.job->line.text()));
          json.attribute("toolchain", b.info.toolchain);
          json.attribute("payload_bytes", b.info.payload_bytes);
          json.attribute("registers", b.takes.registers);
          json.attribute("spill_bytes", b.takes.spill_bytes);
          json.attribute("shared_bytes", b.takes.shared_bytes);
          json.attribute("seconds", b.seconds);
        });
    });
    json.attributeArray("findings", [&] {
      for (const std::string &f : report.findings) json.value(clean(f));
    });
  });
}

std::string packersText(const Report &report) { return packers ? " and " + std::to_string(report.packers.size()) + " packers" : ""; }

int finish(const Report &report) {
  if (wantJson()) {
    writeJson(report);
  } else {
    if (!report.kernels.empty()) printCoverage(report);
    for (const std::string &f : report.findings) llvm::outs() << "FAILED: " << f << "\n";
    llvm::raw_ostream &out = llvm::outs();
    if (!report.findings.empty())
      out << (check ? report.path + " does not have all of it" : "nothing was written") << "\n";
    else if (check)
      out << report.path << " has all " << report.kernels.size() << " kernels" << packersText(report) << "\n";
    else {
      out << report.path << ": " << report.kernels.size();
      if (report.request.shards > 1) out << " of " << report.total;
      out << " kernels" << packersText(report) << llvm::format(" in %.1f s; sha256 ", report.seconds) << report.sha256 << "\n";
    }
  }
  return report.findings.empty() ? 0 : kFinding;
}

// ---- check ---------------------------------------------------------------------------------------------------------

Result<int> checkFile(Session &session) {
  std::vector<std::string> files(inputs.begin(), inputs.end());
  if (files.size() < 2) return Status::usage("bless --check MANIFEST|FILE... DB");
  Report report;
  report.path = files.back();
  files.pop_back();
  PHASEC_ASSIGN(report.request, parseRequest(files, session));
  PHASEC_ASSIGN(BlessJobs all, blessJobs(report.request));
  report.findings = all.findings;
  report.total = all.total;
  session.options.device = DeviceChoice::None;
  session.options.jit = Jit::Off;
  session.options.cache = {};
  session.options.cache.blessed = {{report.path, ""}};
  session.options.cache.strict = true;
  PHASEC_ASSIGN(Runtime runtime, Runtime::open(session.options));
  PHASEC_TRY(findAll(runtime, all.jobs, report));
  PHASEC_TRY(measureAll(report.path, all.jobs, report));
  PHASEC_ASSIGN(report.sha256, fileSha256(report.path));
  return finish(report);
}

// ---- build ---------------------------------------------------------------------------------------------------------

/// `[12/64] sm_90a wo_split=4 1.9 s`: one line that is written over on a terminal, else plain lines.
class Progress {
public:
  Progress(const Session &session, size_t count)
      : count_(count), off_(session.environment.log_path == "off"),
        over_(colourful(2) && session.environment.log_path == "stderr") {}
  ~Progress() {
    if (over_ && done_) llvm::errs() << "\n";
  }
  void step(const BlessJob &job, double seconds, bool ok) {
    done_++;
    if (off_) return;
    llvm::errs() << (over_ ? "\r\033[K" : "") << "[" << done_ << "/" << count_ << "] " << job.what()
                 << llvm::format(" %.1f s", seconds) << " @" << job.layers.name() << (ok ? "" : " FAILED")
                 << (over_ ? "" : "\n");
  }

private:
  size_t count_, done_ = 0;
  bool off_, over_;
};

/// The user file of `directory` alone, without a device.
RuntimeOptions optionsFor(const Session &session, const std::string &directory, Jit jit) {
  RuntimeOptions options = session.options;
  options.device = DeviceChoice::None;
  options.jit = jit;
  options.log = {};
  options.cache = {};
  options.cache.user_dir = directory;
  options.cache.warn = session.options.cache.warn;
  return options;
}

/// Compiles into it; single flight and publishing are the cache's.
Status compileAll(const Session &session, const std::vector<BlessJob> &jobs, const std::string &directory,
                  std::vector<double> &seconds) {
  int workers = jobs_flag > 0 ? int(jobs_flag) : int(std::max(1u, std::thread::hardware_concurrency()));
  RuntimeOptions options = optionsFor(session, directory, Jit::On);
  options.cache.compile_slots = workers;
  auto make = [&]() -> Result<Work> {
    PHASEC_ASSIGN(Runtime runtime, Runtime::open(options));
    return Work([&jobs, runtime](size_t i) mutable -> Status {
      PHASEC_ASSIGN(Kernel kernel, runtime.prepare(jobs[i].layers, jobs[i].schedule));
      return packers ? kernel.preparePackers().status() : Status();
    });
  };
  Progress progress(session, jobs.size());
  std::optional<Status> first;
  int failed = 0;
  auto done = [&](const JobDone &result) {
    const BlessJob &job = jobs[result.job];
    seconds[result.job] = result.seconds;
    progress.step(job, result.seconds, result.status.ok());
    if (result.status.ok()) return;
    failed++;
    if (!first)
      first = Status(result.status.kind(), "@" + job.layers.name() + " " + job.what() + ": " + result.status.text());
  };
  PHASEC_TRY(runWorkers(jobs.size(), workers, make, done));
  if (failed > 1)
    return {first->kind(), first->text() + "\n" + std::to_string(failed) + " kernels failed; this was the first"};
  return first ? *first : Status();
}

Result<int> buildFile(Session &session) {
  if (out_path.empty()) return Status::usage("--out DB says which file to write");
  auto begin = std::chrono::steady_clock::now();
  Report report;
  report.path = out_path;
  PHASEC_ASSIGN(report.request, parseRequest({inputs.begin(), inputs.end()}, session));
  PHASEC_ASSIGN(BlessJobs all, blessJobs(report.request));
  report.findings = all.findings;
  report.total = all.total;
  if (!report.findings.empty()) return finish(report);

  PHASEC_ASSIGN(std::unique_ptr<WorkDirectory> work, WorkDirectory::make());
  std::vector<double> seconds(all.jobs.size());
  PHASEC_TRY(compileAll(session, all.jobs, work->path(), seconds));
  if (packers) { // a row that could not be kept was served from memory
    PHASEC_ASSIGN(Runtime kept, Runtime::open(optionsFor(session, work->path(), Jit::Off)));
    PHASEC_TRY(findAll(kept, all.jobs, report));
    if (!report.findings.empty()) return Status::internal(report.findings.front() + "\nit was compiled but not kept; is " + work->path() + " full?");
  }
  if (!all.jobs.empty()) PHASEC_TRY(measureAll(userFile(work->path()), all.jobs, report));
  for (Blessed &b : report.kernels) b.seconds = seconds[size_t(b.job - all.jobs.data())];
  if (report.kernels.size() != all.jobs.size())
    return Status::internal(std::to_string(all.jobs.size() - report.kernels.size()) +
                            " kernels were compiled but not kept; is " + work->path() + " full?");
  if (!report.findings.empty()) return finish(report);
  if (all.jobs.empty())
    PHASEC_TRY(writeBlessed(out_path, {}));
  else
    PHASEC_TRY(mergeStores({userFile(work->path())}, out_path).status());
  PHASEC_ASSIGN(report.sha256, fileSha256(out_path));
  if (!record.empty()) {
    std::vector<ManifestLine> lines;
    for (const BlessJob &job : all.jobs) lines.push_back(job.line);
    PHASEC_TRY(recordLines(record, lines).status());
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return finish(report);
}

} // namespace

Result<int> blessMain() {
  PHASEC_ASSIGN(Session session, openSession());
  if (jobs_flag.getNumOccurrences() && jobs_flag < 1) return Status::usage("-j takes a number from 1");
  return check ? checkFile(session) : buildFile(session);
}

} // namespace phasec::cli
