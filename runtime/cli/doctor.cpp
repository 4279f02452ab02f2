// doctor.cpp: `phasec doctor`: what works on this machine, every setting with its source, and a remedy for each problem.
#include "runtime/cli/cli.h"

#include "runtime/sim/compiler.h"
#include "runtime/state.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/Path.h"

#include <optional>

namespace phasec::cli {
namespace {

/// One thing that works or does not. `needed`: nothing runs without it.
struct Finding {
  std::string name, state; ///< "ok" | "absent" | "warning" | "unusable"
  std::string text;        ///< what was found, or the problem with its remedy
};

struct Report {
  Session session;
  std::vector<Finding> findings;
  std::vector<LayerState> layers;
  std::vector<Tuned> tuned;
  std::vector<std::string> refusals;
  std::optional<DeviceInfo> cuda;

  void add(std::string name, std::string state, std::string text) {
    findings.push_back({std::move(name), std::move(state), std::move(text)});
  }
  bool usable() const {
    for (const Finding &f : findings)
      if (f.state == "unusable") return false;
    return true;
  }
};

void examineDriver(Report &r) {
  auto device = openCuda(r.session.options.cuda_path, r.session.options.ordinal);
  bool asked = r.session.options.device == DeviceChoice::Cuda;
  if (!device) return r.add("cuda driver", asked ? "unusable" : "absent", device.status().text());
  r.cuda = (*device)->info();
  r.add("cuda driver", "ok", r.cuda->driver + ", " + r.cuda->name + " (" + r.cuda->target + ", " + std::to_string(r.cuda->sms) + " SMs)");
}

void examineCompilers(Report &r) {
  const RuntimeOptions &o = r.session.options;
  auto nvrtc = Nvrtc::open(detail::nvrtcSearch(o));
  bool explicit_path = !o.nvrtc_path.empty();
  if (!nvrtc) {
    r.add("nvrtc", explicit_path ? "unusable" : "absent", nvrtc.status().text());
  } else {
    auto toolchain = (*nvrtc)->toolchain();
    r.add("nvrtc", toolchain ? "ok" : "unusable", toolchain ? *toolchain + ", " + (*nvrtc)->file().path : toolchain.status().text());
  }
  auto cxx = findHostCompiler(o.host_compiler, o.search_path);
  if (!cxx) return r.add("host compiler", o.device == DeviceChoice::Sim ? "unusable" : "absent", cxx.status().text());
  auto identity = simToolchain(*cxx);
  r.add("host compiler", identity ? "ok" : "warning", identity ? *identity : identity.status().text());
}

/// A user file that does not exist must not come into being here: says whether it could.
void examineAbsentUserFile(Report &r, const std::string &directory) {
  std::string existing = directory;
  while (!existing.empty() && !llvm::sys::fs::exists(existing)) existing = llvm::sys::path::parent_path(existing).str();
  bool may = !existing.empty() && llvm::sys::fs::is_directory(existing) && !llvm::sys::fs::access(existing, llvm::sys::fs::AccessMode::Write);
  r.add("cache, user", may ? "ok" : "warning",
        userFile(directory) + (may ? ": not there yet; the first compile makes it"
                                   : ": cannot be made (" + existing + " is not a writable directory), so kernels stay in memory; set "
                                     "PHASEC_CACHE_DIR to a directory that you may write"));
}

void examineCache(Report &r) {
  CacheOptions options = r.session.options.cache;
  options.warn = nullptr; // the states below say the same
  if (options.user_dir.empty()) {
    r.add("cache, user", "warning", "no directory: HOME and PHASEC_CACHE_DIR are not set, so kernels stay in memory; set PHASEC_CACHE_DIR");
  } else if (!llvm::sys::fs::exists(userFile(options.user_dir))) {
    examineAbsentUserFile(r, options.user_dir);
    options.user_dir.clear();
  }
  if (!options.user_dir.empty())
    if (auto tuned = listTuned(userFile(options.user_dir))) r.tuned = tuned.take();
  auto cache = Cache::open(options);
  if (!cache) return r.add("cache", "unusable", cache.status().text());
  r.layers = (*cache)->layers();
  for (const LayerState &layer : r.layers) {
    std::string what = layer.path + (layer.usable ? layer.writable ? ": readable and writable" : ": readable" : ": not usable");
    bool fine = layer.usable && (layer.writable || layer.layer != CacheLayer::User);
    if (layer.layer == CacheLayer::Memory || layer.path.empty()) continue;
    r.add(std::string("cache, ") + name(layer.layer), fine ? "ok" : "warning", what + (layer.problem.empty() ? "" : "; " + layer.problem));
  }
}

void examineSettings(Report &r) {
  for (const std::string &problem : r.session.environment.problems) r.add("environment", "unusable", problem);
  for (const UnknownVariable &u : r.session.environment.unknown)
    r.add("environment", "warning",
          u.name + " means nothing to phasec" + (u.suggestion.empty() ? "; unset it" : "; did you mean " + u.suggestion + "?"));
  bool runs = false;
  for (const Finding &f : r.findings) runs |= f.state == "ok" && (f.name == "cuda driver" || f.name == "host compiler");
  if (!runs) r.add("devices", "unusable", "no device to run on: neither a CUDA driver nor a host compiler for the sim; install g++ or the driver");
}

/// What the language allows and this build refuses: asked of a layer of every phase, for each contract and weight format.
void examineRefusals(Report &r) {
  for (const char *format : {"bf16", "fp8_e4m3", "nvfp4"}) {
    std::string matrix = format;
    auto layers = Layers::parse(
        "probe.phase",
        "layer @probe {\n  dims hidden = 64, ffn = 64, heads = 4, kv_heads = 2, head_dim = 32\n  tokens 1..16\n"
        "  in %x : bf16[tokens, hidden]\n  cache %kv : bf16 paged(page = 64, order = nhd)\n  weight %g : bf16[hidden]\n"
        "  weight %w_qkv : " + matrix + "[(heads + 2 * kv_heads) * head_dim, hidden]\n  weight %w_o : " + matrix + "[hidden, heads * head_dim]\n"
        "  weight %w_up : " + matrix + "[2 * ffn, hidden]\n  weight %w_down : " + matrix + "[hidden, ffn]\n"
        "  %n = norm %x, %g\n  %q = qkv %n, %w_qkv, %kv { append }\n  %a = attn %q, %kv\n  %p = wo %a, %w_o\n  %h = gather %p, %x\n"
        "  %m = norm %h, %g\n  %u = fc1 %m, %w_up { act = silu }\n  %y = fc2 %u, %w_down, %h\n  return %y\n}\n");
    for (const char *math : {"fast", "exact"}) {
      Schedule schedule;
      Status asked = layers.ok() ? schedule.set("math", math, Origin::Host) : layers.status();
      if (asked.ok()) asked = stageText(*layers, schedule, Stage::Cuda, "").status();
      if (!asked.ok()) r.refusals.push_back(std::string("math = ") + math + ", " + format + " weights: " + asked.text());
    }
  }
}

void writeJson(const Report &r) {
  printJson("doctor", [&](llvm::json::OStream &json) {
    json.attribute("version", PHASEC_VERSION);
    json.attribute("ok", r.usable());
    json.attributeArray("findings", [&] {
      for (const Finding &f : r.findings)
        json.object([&] {
          json.attribute("name", f.name);
          json.attribute("state", f.state);
          json.attribute("text", clean(f.text));
        });
    });
    json.attributeArray("targets", [&] {
      for (const std::string &t : targetNames()) json.value(t);
    });
    json.attributeArray("knobs", [&] {
      for (const KnobInfo &k : knobs())
        json.object([&] {
          json.attribute("name", k.name);
          json.attribute("value", r.session.schedule.text(k.name));
          json.attribute("origin", name(r.session.schedule.origin(k.name)));
          json.attribute("doc", k.doc);
        });
    });
    json.attributeArray("tuned", [&] {
      for (const Tuned &t : r.tuned)
        json.object([&] {
          json.attribute("layer", clean(t.name));
          json.attribute("digest", t.key.layer);
          json.attribute("target", t.key.target);
          json.attribute("ctas", t.key.ctas);
          json.attribute("math", t.key.math);
          json.attribute("tokens_max", t.key.tokens_max);
          json.attribute("schedule", t.schedule);
          json.attribute("tuned_s", t.tuned_s);
        });
    });
    json.attributeArray("environment", [&] {
      for (const Setting &s : r.session.environment.settings)
        json.object([&] {
          json.attribute("name", s.name);
          json.attribute("value", clean(s.value));
          json.attribute("origin", s.origin);
        });
    });
    json.attributeArray("unknown_variables", [&] {
      for (const UnknownVariable &u : r.session.environment.unknown)
        json.object([&] {
          json.attribute("name", clean(u.name));
          json.attribute("suggestion", u.suggestion);
        });
    });
    json.attributeArray("refusals", [&] {
      for (const std::string &refusal : r.refusals) json.value(refusal);
    });
  });
}

const char *mark(const std::string &state) {
  if (!colourful(1)) return "";
  return state == "ok" ? "\033[32m" : state == "unusable" ? "\033[31m" : "\033[33m";
}

void printText(const Report &r) {
  llvm::raw_ostream &out = llvm::outs();
  out << "phasec " << PHASEC_VERSION << "\n\n";
  for (const Finding &f : r.findings)
    out << llvm::format("%-16s ", f.name.c_str()) << mark(f.state) << llvm::format("%-9s", f.state.c_str())
        << (colourful(1) ? "\033[0m" : "") << " " << f.text << "\n";
  out << llvm::left_justify("targets", 17);
  for (const std::string &t : targetNames()) out << t << " ";
  out << "\n\nknobs (value, origin; set with --set knob=value, in a file that PHASEC_CONFIG names, or in the layer):\n";
  for (const KnobInfo &k : knobs())
    out << llvm::format("  %-11s %-8s %-12s ", k.name, r.session.schedule.text(k.name).c_str(), name(r.session.schedule.origin(k.name)))
        << k.doc << "\n";
  if (!r.tuned.empty()) out << "\ntuned (used unless a knob is set or --no-tuned is given; phasec tune searches again):\n";
  for (const Tuned &t : r.tuned)
    out << "  @" << t.name << " " << t.key.target << ", " << t.key.ctas << " CTAs, math " << t.key.math << ", tokens_max " << t.key.tokens_max
        << ": " << t.schedule << "\n";
  out << "\nenvironment:\n";
  for (const Setting &s : r.session.environment.settings)
    out << llvm::format("  %-17s ", s.name.c_str()) << (s.value.empty() ? "-" : s.value) << "  (" << s.origin << ")\n";
  out << "\nrefused:" << (r.refusals.empty() ? " nothing that a layer can ask for\n" : "\n");
  for (const std::string &refusal : r.refusals) out << "  " << refusal << "\n";
}

} // namespace

Result<int> doctorMain() {
  Report r;
  PHASEC_ASSIGN(r.session, openSessionAnyway());
  examineDriver(r);
  examineCompilers(r);
  examineCache(r);
  examineSettings(r);
  examineRefusals(r);
  if (wantJson()) writeJson(r);
  else printText(r);
  return r.usable() ? 0 : kFinding;
}

} // namespace phasec::cli
