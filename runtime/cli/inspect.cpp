// inspect.cpp: `phasec inspect`: what is known about one kernel: configuration, plan, resources, key, origin, texts.
#include "runtime/cli/entries.h"

#include "compiler/plan.h"

namespace phasec::cli {
namespace {

#define INSPECT cl::sub(inspectCommand()), cl::cat(ownOptions())

cl::opt<std::string> what(cl::Positional, cl::Required, cl::desc("KEY|FILE"), cl::sub(inspectCommand()));
cl::opt<bool> show_source("source", cl::desc("the rendered CUDA source, and nothing else"), INSPECT);
cl::opt<bool> show_ptx("ptx", cl::desc("the PTX, and nothing else"), INSPECT);

struct Inspected {
  FoundEntry entry;
  Artefact artefact; ///< without payload
  Listing listing;
  Evidence evidence;
  std::string origin, plan_text;
  std::string tuned; ///< what `phasec tune` chose of its configuration
};

Result<Inspected> inspectKey(const Session &session) {
  Inspected i;
  PHASEC_ASSIGN(i.entry, findEntry(session.options, what));
  PHASEC_ASSIGN(Compiled compiled, readEntry(i.entry.path, i.entry.info.key, i.entry.info.toolchain));
  i.artefact = std::move(compiled.artefact);
  i.listing = std::move(compiled.listing);
  i.evidence = std::move(compiled.evidence);
  i.origin = i.entry.path;
  return i;
}

/// Where there is no GPU, what is inspected is the target's kernel all the same: NVRTC needs none.
Result<Runtime> openForInspection(Session &session) {
  if (session.options.device == DeviceChoice::Auto) {
    session.options.device = DeviceChoice::Cuda;
    if (Result<Runtime> runtime = Runtime::open(session.options)) return runtime;
    session.options.device = DeviceChoice::None;
  }
  return Runtime::open(session.options);
}

Result<Inspected> inspectFile(Session &session) {
  PHASEC_ASSIGN(Layers layers, Layers::read(what));
  PHASEC_ASSIGN(Runtime runtime, openForInspection(session));
  PHASEC_ASSIGN(Kernel kernel, runtime.prepare(layers, session.schedule));
  Inspected i;
  const Hit &hit = kernel.provenance();
  i.artefact = *hit.artefact;
  i.origin = std::string(name(hit.layer)) + (hit.path.empty() ? "" : ", " + hit.path);
  i.tuned = tunedText(kernel.plan().schedule);
  i.plan_text = planText(kernel.plan(), layers.module());
  if (Result<Listing> listing = runtime.cache().listing(kernel.key(), i.artefact.toolchain)) i.listing = listing.take();
  else i.listing.source = kernel.source();
  if (!hit.path.empty())
    if (Result<FoundEntry> stored = findEntry(session.options, kernel.key().text())) {
      i.entry = stored.take();
      return i;
    }
  i.entry.path = hit.path; // in memory only: what a row would say, without its checksum
  i.entry.info.key = kernel.key();
  i.entry.info.layer = i.artefact.layer;
  i.entry.info.target = i.artefact.target;
  i.entry.info.config = i.artefact.config;
  i.entry.info.toolchain = i.artefact.toolchain;
  i.entry.info.resources = i.artefact.resources;
  i.entry.info.payload_bytes = int64_t(i.artefact.payload.size());
  i.entry.info.source_bytes = int64_t(i.listing.source.size());
  i.entry.info.ptx_bytes = int64_t(i.listing.ptx.size());
  return i;
}

void printText(const Inspected &i) {
  llvm::raw_ostream &out = llvm::outs();
  printEntry(out, i.entry);
  if (!i.tuned.empty()) out << "  tuned      " << i.tuned << "\n";
  out << "  from       " << i.origin << "\n";
  if (i.evidence.compile_us) out << "  compiled   in " << i.evidence.compile_us / 1000 << " ms on " << i.evidence.host << "\n";
  auto resources = llvm::json::parse(i.artefact.resources);
  if (!resources) llvm::consumeError(resources.takeError());
  else if (const llvm::json::Object *root = resources->getAsObject())
    if (const llvm::json::Array *kernels = root->getArray("kernels"))
      for (const llvm::json::Value &kernel : *kernels) {
        out << "  resources ";
        for (const auto &[key, value] : *kernel.getAsObject()) out << " " << key << " " << value;
        out << "\n";
      }
  out << "key sections:\n";
  printSections(out, i.artefact.sections.list());
  if (!i.plan_text.empty()) out << i.plan_text;
  out << "(--source and --ptx print the texts; --json has all of this)\n";
}

void writeJson(const Inspected &i) {
  printJson("inspect", [&](llvm::json::OStream &json) {
    writeEntry(json, i.entry.info);
    json.attribute("origin", clean(i.origin));
    json.attribute("tuned", i.tuned);
    auto resources = llvm::json::parse(i.artefact.resources);
    if (resources) json.attribute("resources", *resources);
    else {
      llvm::consumeError(resources.takeError());
      json.attribute("resources", nullptr);
    }
    writeSections(json, i.artefact.sections.list());
    json.attributeObject("evidence", [&] {
      json.attribute("host", i.evidence.host);
      json.attribute("compile_us", i.evidence.compile_us);
      json.attribute("log", i.evidence.log);
    });
    json.attribute("plan", i.plan_text);
    if (show_source) json.attribute("source", i.listing.source);
    if (show_ptx) json.attribute("ptx", i.listing.ptx);
  });
}

} // namespace

Result<int> inspectMain() {
  PHASEC_ASSIGN(Session session, openSession());
  Result<Inspected> inspected = looksLikeKey(what) ? inspectKey(session) : inspectFile(session);
  if (!inspected) return inspected.status();
  if (wantJson()) {
    writeJson(*inspected);
    return 0;
  }
  if (show_ptx && inspected->listing.ptx.empty())
    return Status::input("there is no PTX: " + inspected->artefact.target + " kernels are compiled by " + inspected->artefact.toolchain);
  if (show_source) printResult(inspected->listing.source);
  if (show_ptx) printResult(inspected->listing.ptx);
  if (!show_source && !show_ptx) printText(*inspected);
  return 0;
}

} // namespace phasec::cli
