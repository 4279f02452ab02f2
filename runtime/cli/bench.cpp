// bench.cpp: `phasec bench FILE`: what is asked for, and where the results go.
#include "runtime/cli/bench.h"

#include <fstream>
#include <sstream>

namespace phasec::cli {
namespace {

#define BENCH cl::sub(benchCommand()), cl::cat(ownOptions())

cl::opt<std::string> file(cl::Positional, cl::Required, cl::desc("FILE"), cl::sub(benchCommand()));
cl::opt<bool> host("host", cl::desc("the host's side: keys, look-ups, publishing, launch overhead"), BENCH);
cl::opt<int> rounds("rounds", cl::init(400), cl::value_desc("N"), cl::desc("with --host: samples per figure (default 400)"), BENCH);
cl::list<int> tokens("tokens", cl::desc("batches: sequences of one token each (default 1)"), cl::value_desc("N,..."), cl::CommaSeparated, BENCH);
cl::list<int> contexts("contexts", cl::desc("rows that every sequence has in the cache (default 1024)"), cl::value_desc("N,..."),
                       cl::CommaSeparated, BENCH);
cl::opt<int> repeat("repeat", cl::desc("instances of a single layer in one launch (default: 24, or as many as outgrow L2); 1: launches of one "
                                       "layer, over several sets of weights in turn"),
                    cl::value_desc("N"), BENCH);
cl::opt<int> samples("launches", cl::init(31), cl::desc("timed samples of at least 24 layers each (default 31)"), cl::value_desc("N"), BENCH);
cl::opt<std::string> sweep("sweep", cl::desc("measure every value of a knob, for example wo_split=1,2,4,8"), cl::value_desc("knob=v,..."), BENCH);
cl::opt<bool> no_gate("no-gate", cl::desc("time without checking first; the report says so"), BENCH);
cl::opt<bool> peers("peers", cl::desc("also time PyTorch and same-format Triton on this layer, with python3 from PATH"), BENCH);
cl::opt<int> peer_seconds("peer-seconds", cl::init(240), cl::value_desc("N"), cl::desc("that each peer may take (default 240)"), BENCH);
cl::opt<int> error_seeds("error", cl::desc("also compare the error against fp64 with that of PyTorch in bf16, over N seeds of inputs (8 or more for a "
                                           "verdict), for the first batch and context"),
                         cl::value_desc("N"), BENCH);
cl::opt<bool> csv("csv", cl::desc("the rows as CSV on stdout"), BENCH);
cl::opt<std::string> output("o", cl::desc("also write the JSON there, row by row"), cl::value_desc("F"), BENCH);

constexpr int kSamplesMin = 15, kHostRoundsMin = 10, kPeerSecondsMax = 3600, kErrorSeedsMax = 64;

std::vector<std::string> split(const std::string &text) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) parts.push_back(part);
  return parts;
}

Status checkRange(const char *flag, int value, int least, int most) {
  if (value >= least && value <= most) return {};
  return Status::usage(std::string(flag) + " takes numbers from " + std::to_string(least) + " to " + std::to_string(most) + ", not " +
                       std::to_string(value));
}

Result<BenchOptions> readOptions() {
  BenchOptions o;
  o.file = file;
  o.tokens.assign(tokens.begin(), tokens.end());
  o.contexts.assign(contexts.begin(), contexts.end());
  if (o.tokens.empty()) o.tokens = {1};
  if (o.contexts.empty()) o.contexts = {1024};
  for (int n : o.tokens) PHASEC_TRY(checkRange("--tokens", n, 1, kTokensMax));
  for (int n : o.contexts) PHASEC_TRY(checkRange("--contexts", n, 0, 1 << 24));
  if (repeat.getNumOccurrences()) PHASEC_TRY(checkRange("--repeat", repeat, 1, int(ir::kInstancesMax)));
  PHASEC_TRY(checkRange("--launches", samples, kSamplesMin, kSamplesMax));
  o.repeat = repeat;
  o.samples = samples;
  o.gate = !no_gate;
  o.peers = peers;
  PHASEC_TRY(checkRange("--peer-seconds", peer_seconds, 1, kPeerSecondsMax));
  o.peer_seconds = peer_seconds;
  if (error_seeds.getNumOccurrences()) PHASEC_TRY(checkRange("--error", error_seeds, 1, kErrorSeedsMax));
  o.error_seeds = error_seeds;
  if (sweep.empty()) return o;
  size_t equals = sweep.find('=');
  if (equals != std::string::npos) o.sweep_values = split(sweep.substr(equals + 1));
  if (o.sweep_values.empty()) return Status::usage("--sweep " + sweep + ": expected knob=value,value");
  o.sweep_knob = sweep.substr(0, equals);
  Schedule probe;
  for (const std::string &value : o.sweep_values) PHASEC_TRY(probe.set(o.sweep_knob, value, Origin::Host));
  return o;
}

/// The words of this process, as Linux keeps them.
std::string commandLine() {
  std::ifstream in("/proc/self/cmdline");
  std::string text;
  for (std::string word; std::getline(in, word, '\0');) text += (text.empty() ? "" : " ") + word;
  return clean(text);
}

Result<int> onDevice(const Session &session) {
  if (session.options.device == DeviceChoice::Sim || session.options.device == DeviceChoice::None)
    return Status::usage("bench measures a GPU: simulated times say nothing about one; use --device cuda, or --host for the host's side");
  PHASEC_ASSIGN(BenchOptions options, readOptions());
  std::string command = commandLine();
  PHASEC_ASSIGN(BenchReport report, deviceBench(session, options, [&](const BenchReport &so_far) {
    return output.empty() ? Status() : writeFile(output, benchJson(so_far, options, command));
  }));
  if (wantJson()) printResult(benchJson(report, options, command));
  else if (csv) printResult(benchCsv(report, options));
  else printResult(benchTable(report, options));
  int code = 0;
  for (const BenchRow &row : report.rows)
    if (!code && !row.ok()) code = row.error.ok() ? kFinding : exitCode(row.error.kind());
  if (!code && report.error && !report.error->holds()) code = kFinding;
  return code;
}

} // namespace

Result<int> benchMain() {
  if (rounds < kHostRoundsMin) return Status::usage("--rounds=" + std::to_string(rounds) + ": a median needs 10 samples at least");
  PHASEC_ASSIGN(Session session, openSession());
  if (!host) return onDevice(session);
  PHASEC_TRY(hostBench(session, file, rounds));
  return 0;
}

} // namespace phasec::cli
