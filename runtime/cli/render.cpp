// render.cpp: `phasec render`: one stage of compilation as text. PTX and resources are compiled afresh, without the cache.
#include "runtime/cli/cli.h"
#include "runtime/cli/program.h"

#include "runtime/state.h"

#include "llvm/Support/Format.h"

#include <algorithm>
#include <atomic>
#include <thread>

namespace phasec::cli {
namespace {

#define RENDER cl::sub(renderCommand()), cl::cat(ownOptions())

enum class Emit { Ir, Plan, Cuda, Ptx, Sass, Resources };

cl::opt<std::string> file(cl::Positional, cl::Required, cl::desc("FILE"), cl::sub(renderCommand()));
cl::opt<Emit> emit("emit", cl::desc("ir, plan, cuda, ptx, sass or resources (default cuda)"), cl::value_desc("stage"), cl::init(Emit::Cuda),
                   cl::values(clEnumValN(Emit::Ir, "ir", "canonical layer"), clEnumValN(Emit::Plan, "plan", "decisions"),
                              clEnumValN(Emit::Cuda, "cuda", "source"), clEnumValN(Emit::Ptx, "ptx", "assembly"),
                              clEnumValN(Emit::Sass, "sass", "machine code"),
                              clEnumValN(Emit::Resources, "resources", "registers, spills, memory")),
                   RENDER);
cl::opt<std::string> output("o", cl::desc("write there instead of stdout (-)"), cl::value_desc("F"), cl::init("-"), RENDER);

Result<CompiledKernel> compile(const Nvrtc &nvrtc, const Layers &layers, const Session &session, const std::string &target) {
  Schedule schedule = session.schedule;
  PHASEC_TRY(schedule.set("target", target, Origin::Host));
  PHASEC_ASSIGN(std::string source, stageText(layers, schedule, Stage::Cuda, session.options.templates_dir));
  CompileRequest request;
  request.source = source;
  request.target = findTarget(target);
  request.options.exact = schedule.word("math") == "exact";
  return nvrtc.compile(request);
}

std::string targetOf(const Session &session) {
  const std::string &word = session.schedule.word("target");
  return word == "auto" ? "sm_90a" : word;
}

std::string resourcesText(const std::vector<std::pair<std::string, Result<CompiledKernel>>> &compiled) {
  std::string text;
  llvm::raw_string_ostream out(text);
  out << "target   registers  spill stores  spill loads  stack  static shared   code bytes  compile\n";
  for (const auto &[target, kernel] : compiled) {
    if (!kernel) {
      out << llvm::format("%-8s ", target.c_str()) << kernel.status().text().substr(0, kernel.status().text().find('\n')) << "\n";
      continue;
    }
    for (const KernelResources &k : kernel->resources) {
      const Resources &r = k.resources;
      out << llvm::format("%-8s %9d  %10lld B  %9lld B  %3lld B  %11lld B  %11lld  %5.2f s\n", target.c_str(), r.registers,
                          static_cast<long long>(r.spill_store_bytes), static_cast<long long>(r.spill_load_bytes),
                          static_cast<long long>(r.local_bytes), static_cast<long long>(r.shared_bytes),
                          static_cast<long long>(r.code_bytes), kernel->seconds);
    }
  }
  return out.str();
}

/// Every target, or the one of the session. A target that fails stands in the table; the first failure is the result.
Result<int> renderResources(const Layers &layers, const Session &session) {
  PHASEC_ASSIGN(std::unique_ptr<Nvrtc> nvrtc, Nvrtc::open(detail::nvrtcSearch(session.options)));
  std::vector<std::string> names = targetFlag() == "all" ? targetNames() : std::vector<std::string>{targetOf(session)};
  std::vector<std::pair<std::string, Result<CompiledKernel>>> compiled;
  for (const std::string &target : names) compiled.emplace_back(target, Status::internal("not compiled"));
  std::atomic<size_t> next{0};
  auto work = [&] {
    for (size_t i; (i = next++) < names.size();) compiled[i].second = compile(*nvrtc, layers, session, names[i]);
  };
  std::vector<std::thread> pool;
  for (size_t t = 1; t < std::min<size_t>(names.size(), std::thread::hardware_concurrency()); t++) pool.emplace_back(work);
  work();
  for (std::thread &t : pool) t.join();
  if (names.size() == 1 && !compiled[0].second) return compiled[0].second.status();
  if (!wantJson()) {
    PHASEC_TRY(writeFile(output, resourcesText(compiled)));
  } else if (names.size() == 1) {
    PHASEC_TRY(writeFile(output, resourcesJson(names[0], compiled[0].second->resources) + "\n"));
  } else { // one document per line
    std::string lines;
    for (const auto &[target, kernel] : compiled)
      if (kernel) {
        std::string document = resourcesJson(target, kernel->resources);
        document.erase(std::remove(document.begin(), document.end(), '\n'), document.end());
        lines += document + "\n";
      }
    PHASEC_TRY(writeFile(output, lines));
  }
  for (const auto &[target, kernel] : compiled)
    if (!kernel) return kernel.status();
  return 0;
}

/// Disassembles with the CUDA toolkit's own tool.
Result<std::string> disassemble(const std::vector<uint8_t> &cubin, const std::string &search_path) {
  std::string tool, directories = search_path + ":/usr/local/cuda/bin";
  const char *flag = "-c";
  if ((tool = findProgram("nvdisasm", directories)).empty()) {
    tool = findProgram("cuobjdump", directories);
    flag = "-sass";
  }
  if (tool.empty())
    return Status::toolchain("SASS needs nvdisasm or cuobjdump, and neither is on PATH; they come with the CUDA toolkit (packages "
                             "cuda-nvdisasm-13-0 and cuda-cuobjdump-13-0). --emit=ptx needs neither.");
  PHASEC_ASSIGN(std::unique_ptr<WorkDirectory> directory, WorkDirectory::make());
  std::string image = *directory / "kernel.cubin", sass;
  PHASEC_TRY(writeFile(image, {reinterpret_cast<const char *>(cubin.data()), cubin.size()}));
  PHASEC_TRY(runProgram(tool, {flag, image}, false, 0, sass));
  return sass;
}

Result<std::string> compiledText(const Layers &layers, const Session &session) {
  PHASEC_ASSIGN(std::unique_ptr<Nvrtc> nvrtc, Nvrtc::open(detail::nvrtcSearch(session.options)));
  PHASEC_ASSIGN(CompiledKernel kernel, compile(*nvrtc, layers, session, targetOf(session)));
  if (emit == Emit::Ptx) return std::move(kernel.ptx);
  return disassemble(kernel.cubin, session.options.search_path);
}

} // namespace

Result<int> renderMain() {
  bool every = targetFlag() == "all";
  if (every && emit != Emit::Resources) return Status::usage("--target all goes with --emit=resources");
  if (wantJson() && emit != Emit::Plan && emit != Emit::Resources)
    return Status::usage("--json goes with --emit=plan and --emit=resources; the other stages are text");
  PHASEC_ASSIGN(Session session, every ? openSessionAnyway() : openSession());
  PHASEC_ASSIGN(Layers layers, Layers::read(file));
  if (emit == Emit::Resources) return renderResources(layers, session);
  std::string text;
  if (emit == Emit::Ptx || emit == Emit::Sass) {
    PHASEC_ASSIGN(text, compiledText(layers, session));
  } else {
    Stage stage = emit == Emit::Ir ? Stage::Ir : emit == Emit::Cuda ? Stage::Cuda : wantJson() ? Stage::PlanJson : Stage::Plan;
    PHASEC_ASSIGN(text, stageText(layers, session.schedule, stage, session.options.templates_dir));
  }
  PHASEC_TRY(writeFile(output, text));
  return 0;
}

} // namespace phasec::cli
