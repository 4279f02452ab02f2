// bless_jobs.cpp: see bless_jobs.h.
#include "runtime/cli/bless_jobs.h"

#include "compiler/render.h"
#include "compiler/schedule.h"
#include "ir/suggest.h"

#include <algorithm>
#include <filesystem>
#include <map>

namespace phasec::cli {
namespace {

namespace fs = std::filesystem;

/// What one job starts from: a line, or a file with nothing said about it.
struct Seed {
  ManifestLine line;
  std::string where; ///< "ship.manifest:3" or the file
};

Result<std::vector<Seed>> seedsOf(const std::string &input) {
  if (fs::path(input).extension() == ".phase") {
    Seed seed;
    seed.line.layer = input;
    seed.where = input;
    return std::vector<Seed>{seed};
  }
  PHASEC_ASSIGN(std::vector<ManifestLine> lines, readManifest(input));
  std::vector<Seed> seeds;
  for (ManifestLine &line : lines) {
    // A path that is absolute stays as it is.
    if (fs::path base = fs::path(input).parent_path(); !base.empty())
      line.layer = (base / line.layer).lexically_normal().string();
    std::string where = input + ":" + std::to_string(line.number);
    seeds.push_back({std::move(line), std::move(where)});
  }
  return seeds;
}

class Builder {
public:
  explicit Builder(const BlessRequest &request) : request_(request) {}

  Result<BlessJobs> build() {
    templates_ = Templates::embedded();
    if (!request_.templates_dir.empty()) {
      PHASEC_ASSIGN(templates_, Templates::overlaid(request_.templates_dir));
    }
    for (const std::string &input : request_.inputs) {
      PHASEC_ASSIGN(std::vector<Seed> seeds, seedsOf(input));
      for (const Seed &seed : seeds) PHASEC_TRY(addSeed(seed));
    }
    BlessJobs out;
    out.total = jobs_.size();
    out.findings = std::move(findings_);
    size_t index = 0;
    for (auto &[key, job] : jobs_)
      if (int(index++ % size_t(request_.shards)) + 1 == request_.shard) out.jobs.push_back(std::move(job));
    return out;
  }

private:
  Result<Layers> read(const std::string &path) {
    auto known = layers_.find(path);
    if (known != layers_.end()) return known->second;
    PHASEC_ASSIGN(Layers layers, Layers::read(path));
    layers_.emplace(path, layers);
    return layers;
  }

  Status addSeed(const Seed &seed) {
    PHASEC_ASSIGN(Layers layers, read(seed.line.layer));
    const std::string &digest = layers.digest();
    if (!seed.line.ir_digest.empty() && digest != seed.line.ir_digest) {
      findings_.push_back(seed.where + ": " + seed.line.layer + " is not the layer that was recorded (digest " +
                          seed.line.ir_digest.substr(0, 8) + ".. -> " + digest.substr(0, 8) + "..); record it again");
      return {};
    }
    std::vector<std::string> targets = request_.targets;
    if (targets.empty()) targets.push_back(seed.line.target.empty() ? "sm_90a" : seed.line.target);
    for (const std::string &target : targets) {
      Schedule schedule;
      PHASEC_TRY(schedule.set("target", target, Origin::Host));
      for (const auto &[knob, value] : seed.line.knobs)
        if (!replaced(knob)) PHASEC_TRY(schedule.set(knob, value, Origin::Host));
      PHASEC_TRY(addProduct(seed, layers, schedule, 0));
    }
    return {};
  }

  bool replaced(const std::string &knob) const {
    return std::any_of(request_.sets.begin(), request_.sets.end(), [&](const auto &set) { return set.first == knob; });
  }

  Status addProduct(const Seed &seed, const Layers &layers, const Schedule &schedule, size_t set) {
    if (set == request_.sets.size()) return addJob(seed, layers, schedule);
    const auto &[knob, values] = request_.sets[set];
    bool nothing_to_split = knob == "wo_split" && !hasWo(layers.module());
    if (nothing_to_split) return addProduct(seed, layers, schedule, set + 1);
    for (const std::string &value : values) {
      Schedule next = schedule;
      PHASEC_TRY(next.set(knob, value, Origin::Host));
      PHASEC_TRY(addProduct(seed, layers, next, set + 1));
    }
    return {};
  }

  static bool hasWo(const ir::Module &module) {
    std::vector<int> all = ir::instances(module);
    return std::any_of(all.begin(), all.end(),
                       [&](int l) { return module.layers[size_t(l)].find(ir::Op::wo) != nullptr; });
  }

  Status addJob(const Seed &seed, const Layers &layers, const Schedule &schedule) {
    const ir::Module &module = layers.module();
    PHASEC_ASSIGN(Schedule effective, effectiveSchedule(module, schedule, ""));
    for (auto [knob, shipped] : {std::pair{"reduce", "ordered"}, {"delay", "0"}})
      if (effective.text(knob) != shipped)
        return Status::usage(seed.where + ": " + knob + " = " + effective.text(knob) + " is for comparison and tests, not for a file that ships; drop it, or set " +
                             knob + "=" + shipped);
    Result<Plan> planned = plan(module, effective, *findTarget(effective.word("target")));
    if (!planned)
      return {planned.status().kind(),
              seed.where + " for " + effective.word("target") + ": " + planned.status().text()};
    PHASEC_ASSIGN(Rendered rendered, render(*planned, module, templates_));
    BlessJob job{layers, schedule, manifestLine(layers, *planned, rendered.source), planned->shared.bytes};
    bool as_recorded = request_.targets.empty() && request_.sets.empty() && seed.line.key && !request_.rekey;
    if (as_recorded && *seed.line.key != job.key()) {
      findings_.push_back(seed.where + ": this phasec makes " + job.key().text() + " of the line, recorded was " +
                          seed.line.key->text() + "; record it again, or say --rekey");
      return {};
    }
    Key key = job.key();
    jobs_.emplace(key, std::move(job));
    return {};
  }

  const BlessRequest &request_;
  Templates templates_;
  std::map<std::string, Layers> layers_;
  std::map<Key, BlessJob> jobs_;
  std::vector<std::string> findings_;
};

} // namespace

std::string BlessJob::what() const {
  return line.target + (key().wo_split ? " wo_split=" + std::to_string(key().wo_split) : std::string());
}

Result<BlessJobs> blessJobs(const BlessRequest &request) { return Builder(request).build(); }

Result<std::vector<std::string>> parseTargets(const std::string &text) {
  std::vector<std::string> known = targetNames();
  if (text == "all") return known;
  std::vector<std::string> targets = splitWords(text, ',');
  for (const std::string &target : targets)
    if (!findTarget(target))
      return Status::usage("--target " + target + " is not known" + didYouMean(target, known) + " (all, " +
                           listWords(known) + ")");
  return targets;
}

Result<std::pair<std::string, std::vector<std::string>>> parseSet(const std::string &text) {
  size_t equals = text.find('=');
  if (equals == std::string::npos) return Status::usage("--set " + text + ": expected knob=value or knob=value,value");
  std::pair<std::string, std::vector<std::string>> set{text.substr(0, equals),
                                                       splitWords(text.substr(equals + 1), ',')};
  if (set.first == "target") return Status::usage("--set target: say --target " + text.substr(equals + 1));
  if (set.second.empty()) return Status::usage("--set " + text + ": a value is missing");
  Schedule probe;
  for (const std::string &value : set.second) PHASEC_TRY(probe.set(set.first, value, Origin::Host));
  return set;
}

Status parseShard(const std::string &text, BlessRequest &request) {
  std::vector<std::string> parts = splitWords(text, '/');
  auto number = [](const std::string &digits) {
    bool sound = !digits.empty() && digits.size() < 6 && digits.find_first_not_of("0123456789") == std::string::npos;
    return sound ? std::stoi(digits) : 0;
  };
  if (parts.size() == 2) {
    request.shard = number(parts[0]);
    request.shards = number(parts[1]);
  }
  if (parts.size() != 2 || request.shard < 1 || request.shard > request.shards)
    return Status::usage("--shard " + text + ": expected I/N with I from 1 to N, as in 2/4");
  return {};
}

} // namespace phasec::cli
