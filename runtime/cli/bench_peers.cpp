// bench_peers.cpp: runs the peers, Python programs that do the same work in the same run: PyTorch, and Triton with weights in
// the same format. They are told the layer as its plan (tests/bench/peers/layer.py says how) and print JSON lines.
#include "runtime/cli/bench.h"
#include "runtime/cli/embedded.h"
#include "runtime/cli/program.h"

#include "compiler/plan.h"

#include <algorithm>

namespace phasec::cli {
namespace {

constexpr int kGraceSeconds = 60; ///< a peer ends by itself when its time is over; this long after it is ended
constexpr const char *kPython = "python3";

struct PeerFile {
  const char *peer, *file;
  std::string_view (*text)();
};
constexpr PeerFile kFiles[] = {{nullptr, "layer.py", peerCommonSource}, // what the others import
                               {"torch", "torch_layer.py", torchPeerSource},
                               {"triton", "triton_layer.py", tritonPeerSource}};

PeerArm readArm(const llvm::json::Object &line) {
  PeerArm arm;
  arm.name = textOf(line, "arm");
  arm.error = textOf(line, "error");
  arm.tokens = int(numberOf(line, "tokens"));
  arm.context = int(numberOf(line, "context"));
  arm.layers = int(numberOf(line, "layers"));
  if (const llvm::json::Array *samples = line.getArray("samples_us"))
    for (const llvm::json::Value &us : *samples)
      if (auto number = us.getAsNumber()) arm.samples_us.push_back(*number);
  return arm;
}

Status writePeers(const WorkDirectory &directory) {
  for (const PeerFile &f : kFiles) PHASEC_TRY(writeFile(directory / f.file, f.text()));
  return {};
}

/// The layer, what to time and for how long.
std::string timingSpec(const BenchReport &report, const std::string &plan, int samples, int seconds) {
  return jsonText("peers", [&](llvm::json::OStream &json) {
    json.attributeBegin("plan");
    json.rawValue(plan);
    json.attributeEnd();
    json.attributeArray("rows", [&] {
      std::vector<std::pair<int, int>> seen; // a sweep has many rows for one step
      for (const BenchRow &row : report.rows) {
        std::pair<int, int> step(row.tokens, row.context);
        if (std::find(seen.begin(), seen.end(), step) != seen.end()) continue;
        seen.push_back(step);
        json.object([&] {
          json.attribute("tokens", row.tokens);
          json.attribute("context", row.context);
        });
      }
    });
    json.attribute("samples", samples);
    json.attribute("seconds", seconds);
  });
}

} // namespace

std::string textOf(const llvm::json::Object &object, llvm::StringRef name) {
  auto text = object.getString(name);
  return text ? text->str() : "";
}

double numberOf(const llvm::json::Object &object, llvm::StringRef name) {
  auto number = object.getNumber(name);
  return number ? *number : 0;
}

double PeerArm::layerUs() const { return samples_us.empty() || layers <= 0 ? 0 : statistics(samples_us).median / layers; }

const PeerArm *Peer::fastest(const BenchRow &row) const {
  const PeerArm *best = nullptr;
  for (const PeerArm &arm : arms)
    if (arm.tokens == row.tokens && arm.context == row.context && arm.layerUs() > 0 && (!best || arm.layerUs() < best->layerUs())) best = &arm;
  return best;
}

double Peer::speedup(const BenchRow &row) const {
  const PeerArm *arm = fastest(row);
  return arm && !row.samples_us.empty() ? arm->layerUs() / row.layerUs(statistics(row.samples_us).median) : 0;
}

Result<std::vector<llvm::json::Object>> runPeer(const Session &session, const WorkDirectory &directory, const std::string &peer,
                                                const std::vector<std::string> &arguments, int seconds, std::string &problem) {
  PHASEC_TRY(writePeers(directory));
  std::string python = findProgram(kPython, session.options.search_path), output;
  if (python.empty()) problem = std::string(kPython) + " is not on PATH";
  std::vector<llvm::json::Object> lines;
  if (python.empty()) return lines;
  auto file = std::find_if(std::begin(kFiles), std::end(kFiles), [&](const PeerFile &f) { return f.peer && f.peer == peer; });
  std::vector<std::string> words{directory / file->file};
  words.insert(words.end(), arguments.begin(), arguments.end());
  if (Status s = runProgram(python, words, true, unsigned(seconds + kGraceSeconds), output); !s.ok()) problem = s.text();
  llvm::SmallVector<llvm::StringRef> texts;
  llvm::StringRef(output).split(texts, '\n', -1, false);
  for (llvm::StringRef text : texts) {
    auto value = llvm::json::parse(text);
    if (!value || !value->getAsObject()) {
      if (!value) llvm::consumeError(value.takeError());
      problem = "printed what is no JSON object: " + clean(text.take_front(80).str());
      continue;
    }
    const llvm::json::Object &line = *value->getAsObject();
    if (!line.getInteger("tokens") && line.get("error")) problem = textOf(line, "error"); // of all rows
    lines.push_back(line);
  }
  return lines;
}

Status runPeers(const Session &session, const BenchOptions &options, const Layers &layers, BenchReport &report, const std::function<Status()> &done) {
  PHASEC_ASSIGN(std::unique_ptr<WorkDirectory> directory, WorkDirectory::make());
  PHASEC_ASSIGN(Plan plan, phasec::plan(layers.module(), session.schedule, *findTarget(report.device.target)));
  std::string spec = *directory / "spec.json";
  for (const PeerFile &file : kFiles) {
    if (!file.peer) continue;
    Peer &peer = report.peers.emplace_back();
    peer.name = file.peer;
    say("peer " + peer.name + ": at most " + std::to_string(options.peer_seconds) + " s");
    PHASEC_TRY(writeFile(spec, timingSpec(report, planJson(plan, layers.module()), options.samples, options.peer_seconds)));
    PHASEC_ASSIGN(std::vector<llvm::json::Object> lines, runPeer(session, *directory, peer.name, {spec}, options.peer_seconds, peer.problem));
    for (const llvm::json::Object &line : lines)
      if (line.getInteger("tokens")) peer.arms.push_back(readArm(line));
    if (!peer.problem.empty()) say("peer " + peer.name + ": " + peer.problem);
    PHASEC_TRY(done());
  }
  return {};
}

} // namespace phasec::cli
