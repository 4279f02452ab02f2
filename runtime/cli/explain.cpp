// explain.cpp: `phasec explain`: would this hit the cache, and if not, which inputs of the key differ from the nearest entry.
#include "runtime/cli/entries.h"

namespace phasec::cli {
namespace {

#define EXPLAIN cl::sub(explainCommand()), cl::cat(ownOptions())

cl::opt<std::string> what(cl::Positional, cl::Required, cl::desc("FILE|KEY"), cl::sub(explainCommand()));
cl::opt<bool> diff("diff", cl::desc("on a miss: how the rendered source differs from the nearest entry's"), EXPLAIN);
cl::opt<bool> dump_key("dump-key", cl::desc("every input of the key with its digest"), EXPLAIN);

constexpr size_t kDiffLines = 400;

const char *jitName(Jit jit) { return jit == Jit::On ? "on" : jit == Jit::Warn ? "warn" : "off"; }

Result<std::string> sourceDiff(Cache &cache, const Runtime::Explanation &e) {
  if (e.hit || !e.miss.nearest) return std::string();
  PHASEC_ASSIGN(Listing listing, cache.listing(e.miss.nearest->key, e.miss.nearest->toolchain));
  return lineDiff(listing.source, e.source, kDiffLines);
}

/// The command that puts it into a file for everybody; it needs no GPU.
std::string blessLine(const Session &session, const Schedule &effective) {
  std::string line = "phasec bless " + what;
  for (const KnobInfo &k : knobs())
    if (effective.origin(k.name) > Origin::File && std::string_view(k.name) != "target")
      line += std::string(" --set ") + k.name + "=" + effective.text(k.name);
  const std::string &target = session.schedule.word("target");
  return line + " --target " + (target == "auto" ? "sm_90a" : target) + " --out blessed.db";
}

void printText(const Runtime::Explanation &e, const Session &session, const std::string &changes) {
  llvm::raw_ostream &out = llvm::outs();
  if (e.hit) {
    out << e.key.text() << ": hit (" << name(e.hit->layer) << (e.hit->path.empty() ? "" : ", " + e.hit->path) << ")\n";
  } else {
    std::string text = e.miss.text();
    out << text << (!text.empty() && text.back() == '\n' ? "" : "\n");
    if (session.options.jit == Jit::Off) out << "jit = off: a run would end here, with exit status 3\n";
    else out << "a run would compile it (jit = " << jitName(session.options.jit) << ")\n";
    out << "to ship it: " << blessLine(session, e.schedule) << "\n";
  }
  if (std::string tuned = tunedText(e.schedule); !tuned.empty()) out << "tuned: " << tuned << "\n";
  if (diff && !e.hit) out << (e.miss.nearest ? "- nearest entry, + this configuration\n" + changes : "nothing to compare with\n");
  if (dump_key) printSections(out, e.sections);
}

void writeJson(const Runtime::Explanation &e, const Session &session, const std::string &changes) {
  printJson("explain", [&](llvm::json::OStream &json) {
    json.attribute("key", e.key.text());
    json.attribute("wo_split", e.key.wo_split);
    json.attribute("function_fingerprint", e.key.fingerprint.hex());
    json.attribute("outcome", e.hit ? "hit" : "miss");
    json.attribute("jit", jitName(session.options.jit));
    writeConfig(json, e.schedule);
    if (e.hit) {
      json.attribute("layer", name(e.hit->layer));
      json.attribute("path", clean(e.hit->path));
    }
    if (!e.hit && e.miss.nearest)
      json.attributeObject("nearest", [&] {
        json.attribute("key", e.miss.nearest->key.text());
        json.attribute("layer", e.miss.nearest->layer_name);
        json.attribute("target", e.miss.nearest->target);
        json.attribute("toolchain", e.miss.nearest->toolchain);
      });
    else json.attribute("nearest", nullptr);
    writeReasons(json, e.hit ? std::vector<Reason>() : e.miss.reasons);
    json.attributeArray("notes", [&] {
      for (const std::string &note : e.miss.notes) json.value(note);
    });
    if (diff) json.attribute("diff", changes);
    if (dump_key) writeSections(json, e.sections);
  });
}

Result<int> explainKey(const Session &session) {
  PHASEC_ASSIGN(FoundEntry entry, findEntry(session.options, what));
  PHASEC_ASSIGN(Compiled compiled, readEntry(entry.path, entry.info.key, entry.info.toolchain));
  if (wantJson())
    printJson("explain", [&](llvm::json::OStream &json) {
      json.attribute("outcome", "hit");
      json.attribute("path", clean(entry.path));
      writeEntry(json, entry.info);
      if (dump_key) writeSections(json, compiled.artefact.sections.list());
    });
  else {
    llvm::outs() << entry.info.key.text() << ": hit (" << entry.path << ")\n";
    printEntry(llvm::outs(), entry);
    if (dump_key) printSections(llvm::outs(), compiled.artefact.sections.list());
  }
  return 0;
}

} // namespace

Result<int> explainMain() {
  PHASEC_ASSIGN(Session session, openSession());
  if (looksLikeKey(what)) return explainKey(session);
  PHASEC_ASSIGN(Layers layers, Layers::read(what));
  PHASEC_ASSIGN(Runtime runtime, Runtime::open(session.options));
  PHASEC_ASSIGN(Runtime::Explanation e, runtime.explain(layers, session.schedule));
  std::string changes;
  if (diff) {
    PHASEC_ASSIGN(changes, sourceDiff(runtime.cache(), e));
  }
  if (wantJson()) writeJson(e, session, changes);
  else printText(e, session, changes);
  return !e.hit && session.options.jit == Jit::Off ? kFinding : 0;
}

} // namespace phasec::cli
