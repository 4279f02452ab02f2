// plan_print.cpp: the plan as text for people and as JSON for tools and the reference.
#include "compiler/plan.h"

#include "llvm/Support/Format.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

namespace phasec {
namespace {

using llvm::json::OStream;

const char *foldName(Fold f) {
  switch (f) {
  case Fold::Direct: return "direct";
  case Fold::Tagged: return "a warp per tile";
  case Fold::ElectedCta: return "elected CTA";
  case Fold::Consumers: return "consumers";
  case Fold::Atomic: return "atomic adds";
  }
  return "";
}

const char *assignmentName(Assignment a) {
  return a == Assignment::Balanced ? "wide" : a == Assignment::Grid ? "2d" : "seed";
}

const char *transformName(Transform t) {
  return t == Transform::Norm ? "norm" : t == Transform::QuantNvfp4 ? "quant_nvfp4" : "none";
}

void writeShape(OStream &j, const std::vector<int64_t> &shape) {
  j.attributeArray("shape", [&] {
    for (int64_t n : shape) j.value(n);
  });
}

void writeValue(OStream &j, const ir::Value &v) {
  j.object([&] {
    static const char *kinds[] = {"input", "weight", "cache", "temp"};
    j.attribute("name", v.name);
    j.attribute("kind", kinds[int(v.kind)]);
    if (v.kind == ir::ValueKind::Cache) {
      j.attribute("dtype", ir::name(v.cache.dtype));
      j.attribute("page", v.cache.page);
      j.attribute("order", v.cache.hnd ? "hnd" : "nhd");
      j.attribute("kv", v.cache.joint ? "joint" : "separate");
      return;
    }
    if (v.kind == ir::ValueKind::Weight) {
      j.attribute("format", v.shape.size() == 1 ? ir::name(v.dtype) : ir::name(v.weight.format));
      if (v.shape.size() == 2) {
        j.attribute("scales", v.weight.scales == ir::ScaleLayout::Linear ? "linear" : "swizzled");
        j.attribute("global", v.weight.global == ir::GlobalScale::Multiply ? "multiply" : "divide");
        j.attribute("fp8_scale", v.weight.fp8_scale == ir::Fp8Scale::Row ? "row" : "tensor");
      }
    } else {
      j.attribute("dtype", ir::name(v.dtype));
    }
    writeShape(j, v.shape);
  });
}

const char *gammaName(ir::NormGamma g) { return g == ir::NormGamma::OnePlus ? "one_plus" : "plain"; }

void writeAttrs(OStream &j, const ir::Layer &layer, const ir::Phase &p) {
  auto ref = [&](const char *key, ir::ValueId v) {
    if (v == ir::kNone) j.attribute(key, nullptr);
    else j.attribute(key, layer.values[v].name);
  };
  if (auto *a = std::get_if<ir::NormAttrs>(&p.attrs)) {
    j.attribute("eps", a->eps);
    j.attribute("gamma", gammaName(a->gamma));
  } else if (auto *a = std::get_if<ir::QkvAttrs>(&p.attrs)) {
    ref("bias", a->bias);
    ref("q_norm", a->q_norm);
    ref("k_norm", a->k_norm);
    j.attribute("eps", a->eps);
    j.attribute("gamma", gammaName(a->gamma));
    ref("rope", a->rope);
    j.attribute("rotary", a->rotary);
    j.attribute("pairing", a->pairing == ir::Pairing::Half ? "half" : "interleaved");
    j.attribute("gate_rows", a->gate_rows == ir::GateRows::Block ? "block" : "per_head");
    j.attribute("append", a->append);
  } else if (auto *a = std::get_if<ir::AttnAttrs>(&p.attrs)) {
    double scale = a->scale != 0 ? a->scale : 1.0f / __builtin_sqrtf(float(layer.dim("head_dim")));
    j.attribute("scale", scale);
    if (a->sigmoid_gate) j.attribute("gate", "sigmoid");
    else j.attribute("gate", nullptr);
  } else if (auto *a = std::get_if<ir::GatherAttrs>(&p.attrs)) {
    j.attribute("by", a->by == ir::GatherBy::Elected ? "elected" : "consumers");
  } else if (auto *a = std::get_if<ir::Fc1Attrs>(&p.attrs)) {
    j.attribute("act", a->act == ir::Activation::Silu ? "silu" : "gelu_tanh");
  } else if (auto *a = std::get_if<ir::Fc2Attrs>(&p.attrs)) {
    if (a->act_quant_nvfp4) j.attribute("act_quant", "nvfp4");
    else j.attribute("act_quant", nullptr);
  }
}

void writeNames(OStream &j, const char *key, const ir::Layer &layer, const std::vector<ir::ValueId> &ids) {
  j.attributeArray(key, [&] {
    for (ir::ValueId v : ids) j.value(layer.values[v].name);
  });
}

void writeLanguage(OStream &j, const ir::Layer &layer) {
  j.attribute("layer", layer.name);
  j.attributeObject("dims", [&] {
    for (auto &[name, n] : layer.dims) j.attribute(name, n);
  });
  j.attributeArray("values", [&] {
    for (const ir::Value &v : layer.values) writeValue(j, v);
  });
  j.attributeArray("phases", [&] {
    for (const ir::Phase &p : layer.phases)
      j.object([&] {
        j.attribute("op", ir::name(p.op));
        writeNames(j, "operands", layer, p.operands);
        writeNames(j, "results", layer, p.results);
        j.attributeObject("attrs", [&] { writeAttrs(j, layer, p); });
      });
  });
  writeNames(j, "returns", layer, layer.returns);
}

void writeGemv(OStream &j, const Step &s) {
  const Gemv &g = s.gemv;
  j.object([&] {
    j.attribute("phase", s.phase);
    j.attribute("op", ir::name(s.op));
    j.attribute("format", ir::name(g.format));
    j.attribute("rows", g.rows);
    j.attribute("cols", g.cols);
    j.attribute("tiles", g.tiles);
    j.attribute("late_begin", g.late_begin);
    j.attribute("late_end", g.late_end);
    j.attribute("slots", g.slots);
    j.attribute("segments_per_slot", g.segments_per_slot);
    j.attribute("assignment", assignmentName(g.assignment));
    j.attribute("fold", foldName(g.fold));
    j.attribute("operand", transformName(g.operand.transform));
    j.attribute("image_bytes", g.imageBytes());
    j.attributeArray("segments", [&] {
      for (const Segment &x : g.segments)
        j.object([&] {
          j.attribute("slot", x.slot);
          j.attribute("fold", x.fold);
          j.attributeArray("k", [&] {
            j.value(x.k_begin);
            j.value(x.k_end);
          });
          j.attribute("bytes", (x.granule_end - x.granule_begin) * g.granule_bytes);
        });
    });
  });
}

void writeAttention(OStream &j, const Plan &plan, const Step &s) {
  j.object([&] {
    j.attribute("phase", s.phase);
    j.attribute("kv_splits", s.attention.kv_splits);
    j.attribute("chunk_rows", s.attention.chunk_rows);
    j.attribute("block_rows", s.attention.block_rows);
    j.attribute("buffered_warps", s.attention.buffered_warps);
    j.attribute("buffered_from", s.attention.buffered_from);
    j.attribute("warps", plan.warps);
    j.attribute("fresh_rows", s.attention.fresh_rows);
    j.attribute("scale", double(s.attention.scale));
  });
}

void writeEvent(OStream &j, const Event &e) {
  j.object([&] {
    j.attribute("id", e.id);
    j.attribute("kind", e.kind == ir::EventKind::Grid ? "grid" : "counter");
    j.attribute("edge", e.edge);
    j.attribute("reason", e.reason);
    j.attribute("carried", e.carried);
    j.attribute("from_step", e.from_step);
    j.attribute("to_step", e.to_step);
    j.attribute("slices", e.slices);
    j.attributeArray("arrivals", [&] {
      for (int64_t n : e.arrivals) j.value(n);
    });
  });
}

void writeAccesses(OStream &j, const char *key, const Body &body, const std::vector<Access> &accesses) {
  static const char *maps[] = {"all", "by_tile", "by_slot", "by_kv_head", "by_token"};
  j.attributeArray(key, [&] {
    for (const Access &a : accesses)
      j.object([&] {
        j.attribute("region", body.regions[a.region].name);
        j.attribute("map", maps[int(a.map)]);
      });
  });
}

void writeStep(OStream &j, const Body &body, const Step &s) {
  j.object([&] {
    j.attribute("id", s.id);
    j.attribute("op", ir::name(s.op));
    j.attribute("phase", s.phase);
    j.attribute("label", s.label);
    j.attributeArray("waits", [&] {
      for (int e : s.waits) j.value(e);
    });
    j.attributeArray("signals", [&] {
      for (int e : s.signals) j.value(e);
    });
    writeAccesses(j, "reads", body, s.reads);
    writeAccesses(j, "writes", body, s.writes);
    if (s.argmax.cols)
      j.attributeObject("argmax", [&] {
        j.attribute("cols", s.argmax.cols);
        j.attribute("tiles", s.argmax.tiles);
        j.attribute("result", body.regions[s.argmax.result].name);
      });
  });
}

void writeRegion(OStream &j, const Region &r) {
  static const char *spaces[] = {"table", "workspace", "shared"};
  j.object([&] {
    j.attribute("name", r.name);
    j.attribute("space", spaces[int(r.space)]);
    j.attribute("dtype", r.dtype);
    j.attribute("tagged", r.tagged);
    writeShape(j, r.shape);
    j.attribute("offset", r.offset);
    j.attribute("bytes", r.bytes);
    j.attribute("slots", r.slots);
  });
}

void writeBody(OStream &j, const Plan &plan, const ir::Module &module, const Body &body) {
  writeLanguage(j, module.layers[body.layer]);
  j.attributeArray("gemv", [&] {
    for (const Step &s : body.steps)
      if (s.gemv.rows) writeGemv(j, s);
  });
  j.attributeArray("attention", [&] {
    for (const Step &s : body.steps)
      if (s.op == ir::Op::attn) writeAttention(j, plan, s);
  });
  j.attributeArray("events", [&] {
    for (const Event &e : body.events) writeEvent(j, e);
  });
  j.attributeArray("steps", [&] {
    for (const Step &s : body.steps) writeStep(j, body, s);
  });
  j.attributeArray("regions", [&] {
    for (const Region &r : body.regions) writeRegion(j, r);
  });
}

void printGemv(llvm::raw_ostream &out, const Gemv &g) {
  out << "      " << ir::name(g.format) << " [" << g.rows << ", " << g.cols << "], " << g.tiles << " tiles x " << g.slots << " slots x "
      << g.segments_per_slot << " segments, " << assignmentName(g.assignment) << ", fold: " << foldName(g.fold)
      << ", operand: " << transformName(g.operand.transform) << "\n";
  if (g.late_end) out << "      tiles [" << g.late_begin << ", " << g.late_end << ") come last, of CTAs that have no attention: the gates\n";
  for (size_t i = 0; i < g.segments.size(); i += size_t(g.segments_per_slot)) {
    if (i >= 4 * size_t(g.segments_per_slot)) {
      out << "      ... " << g.slots - 4 << " more slots (--json has all)\n";
      break;
    }
    out << "      slot " << g.segments[i].slot << ": k";
    for (int f = 0; f < g.segments_per_slot; f++) out << " [" << g.segments[i + f].k_begin << ", " << g.segments[i + f].k_end << ")";
    out << "\n";
  }
}

} // namespace

std::string planJson(const Plan &plan, const ir::Module &module) {
  std::string text;
  llvm::raw_string_ostream out(text);
  OStream j(out, 1);
  j.object([&] {
    j.attribute("schema", "phasec.plan/1");
    j.attribute("target", plan.target->name);
    j.attributeObject("schedule", [&] {
      for (const KnobInfo &k : knobs()) j.attribute(k.name, plan.schedule.text(k.name));
    });
    j.attribute("tokens_max", plan.tokens_max);
    j.attribute("warps", plan.warps);
    j.attribute("ctas_pinned", plan.ctas_pinned);
    j.attribute("wo_split", plan.schedule.integer("wo_split"));
    j.attribute("shared_bytes", plan.shared.bytes);
    j.attribute("workspace_bytes", plan.workspace_bytes);
    j.attributeObject("stream", [&] {
      j.attribute("stages", plan.stream.stages);
      j.attribute("stage_bytes", plan.stream.stage_bytes);
      j.attribute("window", plan.stream.window);
      j.attribute("prefetches", plan.stream.prefetches);
    });
    j.attribute("chains", plan.chains);
    j.attributeArray("instances", [&] {
      for (const Instance &i : plan.instances)
        j.object([&] {
          j.attribute("body", i.body);
          j.attribute("occurrence", i.occurrence);
        });
    });
    j.attributeArray("bodies", [&] {
      for (const Body &b : plan.bodies) j.object([&] { writeBody(j, plan, module, b); });
    });
  });
  return out.str() + "\n";
}

std::string planText(const Plan &plan, const ir::Module &module) {
  std::string text;
  llvm::raw_string_ostream out(text);
  out << "plan for " << plan.target->name << ": " << plan.schedule.canonical() << "\n";
  out << "  grid: " << (plan.ctas_pinned ? std::to_string(plan.ctas_pinned) + " CTAs (pinned)" : "one CTA per SM") << ", " << plan.warps
      << " warps; shared " << plan.shared.bytes << " bytes, workspace " << plan.workspace_bytes << " bytes; up to " << plan.tokens_max
      << " tokens\n";
  out << "  stream: " << plan.stream.stages << " stages x " << plan.stream.stage_bytes << " bytes";
  if (plan.stream.window < plan.stream.stages) out << ", " << plan.stream.window << " under way at once";
  if (plan.stream.prefetches) out << ", the next ones to L2 while nothing is";
  out << "\n";
  if (plan.instances.size() > 1) out << "  " << plan.instances.size() << " instances, " << (plan.chains ? "tagged words" : "a grid event") << " between two\n";
  for (const Body &b : plan.bodies) {
    out << "  layer @" << module.layers[b.layer].name << "\n";
    for (const Step &s : b.steps) {
      for (int e : s.waits) {
        const Event &event = b.events[e];
        if (event.carried) {
          out << "    tags: " << event.edge << "  // who reads a word waits for it\n";
          continue;
        }
        out << "    " << (event.kind == ir::EventKind::Grid ? "grid: " : "counter: ") << event.edge;
        if (event.slices > 1) out << ", " << event.slices << " slices";
        out << "  // " << event.reason << "\n";
      }
      out << "    step " << s.id << ": " << s.label << "\n";
      if (s.gemv.rows) printGemv(out, s.gemv);
      if (s.op == ir::Op::attn)
        out << "      up to " << s.attention.kv_splits << " chunks of at least " << s.attention.chunk_rows << " rows, blocks of "
            << s.attention.block_rows << (s.attention.fresh_rows ? ", this step's rows from the workspace" : "") << "\n";
      if (s.argmax.cols)
        out << "      argmax to %" << b.regions[s.argmax.result].name << ": " << s.argmax.tiles << " tiles of " << kTileRows
            << " columns as they come, stored by the CTA that leaves last\n";
    }
    for (const Region &r : b.regions)
      if (r.space == Space::Workspace) out << "    workspace +" << r.offset << ": " << r.name << " " << (r.tagged ? "tagged " : "") << r.dtype << ", " << r.bytes << " bytes\n";
  }
  return out.str();
}

} // namespace phasec
