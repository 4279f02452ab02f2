// bench_report.cpp: what was measured, as JSON (`phasec.bench/1`), CSV and a table. Ratios stand beside every time.
#include "runtime/cli/bench.h"
#include "runtime/cli/entries.h"

#include "llvm/Support/Format.h"

namespace phasec::cli {
namespace {

using llvm::format;
using llvm::json::OStream;

void writeNumbers(OStream &json, llvm::StringRef name, const std::vector<double> &numbers) {
  json.attributeArray(name, [&] {
    for (double n : numbers) json.value(n);
  });
}

void writeDevice(OStream &json, const DeviceInfo &device) {
  json.attributeObject("device", [&] {
    json.attribute("name", device.name);
    json.attribute("target", device.target);
    json.attribute("driver", device.driver);
    json.attribute("sms", device.sms);
    json.attribute("l2_bytes", device.l2_bytes);
    json.attribute("sm_mhz_max", device.sm_khz_max / 1000);
    json.attribute("memory_mhz_max", device.memory_khz_max / 1000);
  });
}

void writeCeilings(OStream &json, const Ceilings &c) {
  json.attributeObject("ceilings", [&] {
    json.attribute("read_tbs", c.read_tbs);
    json.attribute("read_bytes", c.read_bytes);
    json.attribute("read_ctas", c.read_ctas);
    writeNumbers(json, "read_us", c.read_us);
    json.attribute("sm_mhz", c.sm_mhz);
    json.attribute("nothing_us", statistics(c.nothing_us).median);
    writeNumbers(json, "nothing_samples_us", c.nothing_us);
  });
}

void writeGate(OStream &json, const std::optional<Gate> &gate) {
  if (!gate) return json.attribute("check", nullptr);
  json.attributeObject("check", [&] {
    json.attribute("contract", gate->contract);
    json.attribute("ok", gate->findings.empty());
    json.attribute("instances", gate->instances);
    if (gate->contract == "exact") json.attribute("bit_exact", gate->bit_exact);
    else json.attribute("bit_exact", nullptr);
    json.attribute("max_abs", figure(gate->max_abs));
    json.attribute("rel_l2", figure(gate->rel_l2));
    json.attribute("rel_l2_max", gate->bound);
    json.attribute("seconds", gate->seconds);
    json.attributeArray("findings", [&] {
      for (const std::string &f : gate->findings) json.value(f);
    });
  });
}

void writeTimes(OStream &json, const BenchRow &row) {
  Statistics s = statistics(row.samples_us);
  auto figures = [&](llvm::StringRef name, double of) {
    if (row.samples_us.empty()) return json.attribute(name, nullptr);
    json.attributeObject(name, [&] {
      json.attribute("median", s.median / of);
      json.attribute("min", s.min / of);
      json.attribute("p99", s.p99 / of);
      json.attribute("sd", s.deviation / of);
    });
  };
  figures("launch_us", row.launches);
  figures("layer_us", row.launches * row.instances);
  bool timed = !row.samples_us.empty();
  json.attribute("tbs", timed ? llvm::json::Value(row.bytesPerLayer() / row.layerUs(s.median) / 1e6) : llvm::json::Value(nullptr));
  json.attribute("fraction_of_read", timed ? llvm::json::Value(row.fraction) : llvm::json::Value(nullptr));
  json.attribute("bound_by", timed ? llvm::json::Value(row.boundBy()) : llvm::json::Value(nullptr));
  json.attribute("launches_alike", row.alike);
  writeNumbers(json, "samples_us", row.samples_us);
}

/// What peers needed for a row; null without figures.
void writePeers(OStream &json, const std::vector<Peer> &peers, const BenchRow &row) {
  json.attributeObject("peers", [&] {
    for (const Peer &peer : peers) {
      const PeerArm *best = peer.fastest(row);
      if (!best) {
        json.attribute(peer.name, nullptr);
        continue;
      }
      json.attributeObject(peer.name, [&] {
        json.attribute("arm", best->name);
        json.attribute("layer_us", best->layerUs());
        double speedup = peer.speedup(row);
        json.attribute("speedup", speedup > 0 ? llvm::json::Value(speedup) : llvm::json::Value(nullptr));
        json.attributeArray("arms", [&] {
          for (const PeerArm &arm : peer.arms)
            if (arm.tokens == row.tokens && arm.context == row.context) json.object([&] {
                json.attribute("arm", arm.name);
                json.attribute("error", arm.error.empty() ? llvm::json::Value(nullptr) : llvm::json::Value(clean(arm.error)));
                json.attribute("layers", arm.layers);
                writeNumbers(json, "samples_us", arm.samples_us);
              });
        });
      });
    }
  });
}

void writeError(OStream &json, const ErrorReport &error) {
  json.attributeObject("error", [&] {
    json.attribute("tokens", error.tokens);
    json.attribute("context", error.context);
    json.attribute("problem", error.problem.empty() ? llvm::json::Value(nullptr) : llvm::json::Value(clean(error.problem)));
    json.attribute("ok", error.holds());
    json.attributeObject("mean", [&] {
      for (const std::string &value : error.values())
        json.attributeObject(value, [&] {
          ErrorRow m = error.mean(value);
          json.attribute("phasec", figure(m.rel_l2));
          json.attribute("torch", figure(m.torch));
          json.attribute("ratio", figure(m.rel_l2 / m.torch));
        });
    });
    json.attributeArray("rows", [&] {
      for (const ErrorRow &row : error.rows)
        json.object([&] {
          json.attribute("seed", row.seed);
          json.attribute("value", row.value);
          json.attribute("phasec", figure(row.rel_l2));
          json.attribute("torch", figure(row.torch));
          json.attribute("torch_fp64", figure(row.torch_fp64));
        });
    });
  });
}

void writeRow(OStream &json, const BenchRow &row, const BenchOptions &options, const BenchReport &report) {
  json.object([&] {
    json.attribute("tokens", row.tokens);
    json.attribute("context", row.context);
    if (!options.sweep_knob.empty()) {
      json.attribute("sweep", row.sweep_value);
      double speedup = report.speedup(row);
      json.attribute("speedup_over_first", speedup > 0 ? llvm::json::Value(speedup) : llvm::json::Value(nullptr));
    }
    json.attribute("error", row.error.ok() ? llvm::json::Value(nullptr) : llvm::json::Value(clean(row.error.text())));
    json.attribute("instances", row.instances);
    json.attribute("sets", row.sets);
    json.attribute("launches_per_sample", row.launches);
    json.attribute("cold", row.cold);
    json.attribute("weight_bytes", row.instances ? row.bytes.weights / row.instances : 0);
    json.attribute("kv_bytes", row.instances ? row.bytes.kv / row.instances : 0);
    json.attribute("grid_ctas", row.ctas);
    json.attribute("active_wo_ctas", row.active_wo_ctas);
    json.attribute("gather_ctas", row.gather_ctas);
    json.attribute("key", row.key);
    json.attribute("toolchain", row.toolchain);
    writeConfig(json, row.schedule);
    auto resources = llvm::json::parse(row.resources);
    if (resources) json.attribute("resources", *resources);
    else llvm::consumeError(resources.takeError());
    writeGate(json, row.gate);
    writeTimes(json, row);
    if (!report.peers.empty()) writePeers(json, report.peers, row);
  });
}

std::string checkText(const BenchRow &row) {
  if (!row.error.ok()) return "error";
  if (!row.passed() || !row.repeats()) return "FAILED";
  if (!row.gate) return "not checked";
  if (row.gate->contract == "exact") return "bit-exact";
  std::string text;
  llvm::raw_string_ostream(text) << format("rel_l2 %.2e", row.gate->rel_l2);
  return text;
}

std::string errorText(const ErrorReport &error) {
  std::string text;
  llvm::raw_string_ostream out(text);
  for (const std::string &value : error.values()) {
    ErrorRow m = error.mean(value);
    out << "  error of %" << value << " against fp64, tokens " << error.tokens << ", context " << error.context << ", mean of "
        << error.rows.back().seed << format(" seeds: rel_l2 %.3e", m.rel_l2);
    if (error.problem.empty()) out << format(", PyTorch bf16 %.3e: ratio %.3f (at most %.2f)", m.torch, m.rel_l2 / m.torch, kErrorRatioMax);
    else out << "; " << error.problem;
    out << "\n";
  }
  return text;
}

} // namespace

double BenchReport::speedup(const BenchRow &row) const {
  for (const BenchRow &first : rows) {
    if (first.tokens != row.tokens || first.context != row.context) continue;
    if (first.samples_us.empty() || row.samples_us.empty()) return 0;
    return first.layerUs(statistics(first.samples_us).median) / row.layerUs(statistics(row.samples_us).median);
  }
  return 0;
}

std::string benchJson(const BenchReport &report, const BenchOptions &options, const std::string &command) {
  return jsonText("bench", [&](OStream &json) {
    json.attribute("version", PHASEC_VERSION);
    json.attribute("command", command);
    json.attribute("file", clean(options.file));
    json.attribute("layer", report.layer);
    writeDevice(json, report.device);
    writeCeilings(json, report.ceilings);
    if (!options.sweep_knob.empty()) json.attribute("sweep_knob", options.sweep_knob);
    json.attributeArray("rows", [&] {
      for (const BenchRow &row : report.rows) writeRow(json, row, options, report);
    });
    if (!report.peers.empty())
      json.attributeObject("peer_problems", [&] {
        for (const Peer &peer : report.peers)
          json.attribute(peer.name, peer.problem.empty() ? llvm::json::Value(nullptr) : llvm::json::Value(clean(peer.problem)));
      });
    if (report.error) writeError(json, *report.error);
  });
}

std::string benchCsv(const BenchReport &report, const BenchOptions &options) {
  std::string text;
  llvm::raw_string_ostream out(text);
  out << "layer,tokens,context," << (options.sweep_knob.empty() ? "" : options.sweep_knob + ",")
      << "instances,sets,weight_bytes,kv_bytes,layer_us,layer_us_min,layer_us_p99,layer_us_sd,launch_us,tbs,fraction_of_read,bound_by," << (options.sweep_knob.empty() ? "" : "speedup_over_first,");
  for (const Peer &peer : report.peers) out << peer.name << "_layer_us,";
  out << "check\n";
  for (const BenchRow &row : report.rows) {
    out << report.layer << "," << row.tokens << "," << row.context << "," << (options.sweep_knob.empty() ? "" : row.sweep_value + ",") << row.instances
        << "," << row.sets << ",";
    if (row.samples_us.empty()) {
      out << ",,,,,,,,,," << (options.sweep_knob.empty() ? "" : ",") << std::string(report.peers.size(), ',') << checkText(row) << "\n";
      continue;
    }
    Statistics s = statistics(row.samples_us);
    double layers = row.launches * row.instances;
    out << row.bytes.weights / row.instances << "," << row.bytes.kv / row.instances
        << format(",%.3f,%.3f,%.3f,%.3f,", s.median / layers, s.min / layers, s.p99 / layers, s.deviation / layers)
        << format("%.3f,%.4f,%.4f,", s.median / row.launches, row.bytesPerLayer() / (s.median / layers) / 1e6, row.fraction) << row.boundBy() << ",";
    if (!options.sweep_knob.empty()) out << format("%.4f,", report.speedup(row));
    for (const Peer &peer : report.peers) {
      if (const PeerArm *arm = peer.fastest(row)) out << format("%.3f", arm->layerUs());
      out << ",";
    }
    out << checkText(row) << "\n";
  }
  return out.str();
}

std::string benchTable(const BenchReport &report, const BenchOptions &options) {
  std::string text;
  llvm::raw_string_ostream out(text);
  const Ceilings &c = report.ceilings;
  out << "@" << report.layer << " on " << report.device.name << " (" << report.device.target << ", " << report.device.driver << ")\n"
      << format("  read ceiling %.3f TB/s (%.1f GiB), SM clock %.0f MHz, ", c.read_tbs, double(c.read_bytes) / double(1 << 30), c.sm_mhz)
      << format("a launch of nothing %.2f us; medians of %d samples\n", statistics(c.nothing_us).median, options.samples);
  bool sweeps = !options.sweep_knob.empty();
  out << "tokens  context ";
  if (sweeps) out << llvm::right_justify(options.sweep_knob, 10);
  out << " layers   weights        KV  us/layer       p99      sd  us/launch   TB/s  of read  bound by         " << (sweeps ? "speed-up  " : "");
  for (const Peer &peer : report.peers) out << llvm::right_justify(peer.name, 7) << "  ";
  out << "check\n";
  for (const BenchRow &row : report.rows) {
    out << format("%6d %8d ", row.tokens, row.context);
    if (sweeps) out << llvm::right_justify(row.sweep_value, 10);
    if (row.samples_us.empty()) {
      out << "  " << checkText(row) << ": " << (row.error.ok() ? row.passed() ? "launches left different bytes" : row.gate->findings.front() : row.error.text()) << "\n";
      continue;
    }
    Statistics s = statistics(row.samples_us);
    double layers = row.launches * row.instances;
    out << format("%7d %6.1f MB %6.1f MB ", row.instances, double(row.bytes.weights) / row.instances / 1e6, double(row.bytes.kv) / row.instances / 1e6)
        << format("%9.2f %9.2f %7.2f %10.1f ", s.median / layers, s.p99 / layers, s.deviation / layers, s.median / row.launches)
        << format("%6.3f %8.3f  %-15s  ", row.bytesPerLayer() / (s.median / layers) / 1e6, row.fraction, row.boundBy());
    if (sweeps) out << format("%7.2fx  ", report.speedup(row));
    for (const Peer &peer : report.peers) {
      if (double ratio = peer.speedup(row)) out << format("%6.2fx  ", ratio);
      else out << "      -  ";
    }
    out << checkText(row)
        << (row.gate && row.gate->instances < row.instances ? " (one instance)" : "") << (row.cold ? "" : ", warm L2");
    if (int64_t spills = resourceFigure(row.resources, "spill_store_bytes") + resourceFigure(row.resources, "spill_load_bytes")) out << ", " << spills << " B of spills";
    out << "\n";
  }
  for (const Peer &peer : report.peers)
    if (!peer.problem.empty()) out << "  " << peer.name << ": " << peer.problem << "\n";
  if (report.error) out << errorText(*report.error);
  return out.str();
}

} // namespace phasec::cli
