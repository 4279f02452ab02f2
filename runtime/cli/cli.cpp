// cli.cpp: see cli.h.
#include "runtime/cli/cli.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"

#include <cmath>
#include <mutex>
#include <unistd.h>

namespace phasec::cli {

// Function-local, because options of other files refer to them while the program is being set up.
#define PHASEC_COMMAND(name, arguments, does, never)                                                                     \
  cl::SubCommand &name##Command() {                                                                                      \
    static cl::SubCommand command(#name, does);                                                                          \
    return command;                                                                                                      \
  }
#include "commands.def"

cl::OptionCategory &ownOptions() {
  static cl::OptionCategory category("options");
  return category;
}
cl::OptionCategory &sharedOptions() {
  static cl::OptionCategory category("schedule, device and output");
  return category;
}

namespace {

#define FILE_COMMANDS                                                                                                    \
  cl::sub(checkCommand()), cl::sub(fmtCommand()), cl::sub(renderCommand()), cl::sub(runCommand()),                       \
      cl::sub(inspectCommand()), cl::sub(explainCommand()), cl::sub(doctorCommand()), cl::sub(benchCommand()), cl::sub(tuneCommand()), cl::cat(sharedOptions())

cl::opt<std::string> target_flag("target", cl::desc("GPU architecture, for example sm_90a"), cl::value_desc("T"), FILE_COMMANDS);
cl::opt<std::string> device_flag("device", cl::desc("auto (cuda if usable, else sim), cuda, cuda:N, sim or none"),
                                 cl::value_desc("D"), FILE_COMMANDS);
cl::list<std::string> set_flag("set", cl::desc("a schedule knob; repeatable (phasec doctor lists them)"),
                               cl::value_desc("knob=value"), FILE_COMMANDS);
cl::opt<bool> exact_flag("exact", cl::desc("bit-exact numerics: --set math=exact"), FILE_COMMANDS, cl::sub(blessCommand()));
cl::opt<std::string> templates_flag("templates", cl::desc("template files laid over the built-in ones"), cl::value_desc("DIR"),
                                    FILE_COMMANDS, cl::sub(blessCommand()));
cl::opt<bool> no_prove_flag("no-prove", cl::desc("skip the proof that the plan is safe"), FILE_COMMANDS, cl::sub(blessCommand()));
cl::opt<bool> json_flag("json", cl::desc("the result as JSON on stdout"), FILE_COMMANDS, cl::sub(cacheCommand()),
                        cl::sub(blessCommand()), cl::sub(compareCommand()));

cl::opt<bool> no_tuned_flag("no-tuned", cl::desc("leave out what `phasec tune` found on this machine"), cl::sub(runCommand()),
                            cl::sub(inspectCommand()), cl::sub(explainCommand()), cl::sub(benchCommand()), cl::cat(sharedOptions()));

struct Talk {
  std::mutex mutex;
  bool off = false, no_color = false;
  std::string path; ///< empty: stderr
};
Talk &talk() {
  static Talk instance;
  return instance;
}

void routeTalk(const Environment &environment) {
  talk().off = environment.log_path == "off";
  talk().no_color = environment.no_color;
  if (environment.log_path != "off" && environment.log_path != "stderr") talk().path = environment.log_path;
}

Status applyFlags(Session &session) {
  if (!device_flag.empty()) {
    if (Status s = setDevice(device_flag, session.options); !s.ok()) return Status::usage("--device: " + s.text());
  }
  if (!target_flag.empty() && target_flag != "all")
    PHASEC_TRY(session.schedule.set("target", target_flag, Origin::Flag));
  if (exact_flag) PHASEC_TRY(session.schedule.set("math", "exact", Origin::Flag));
  for (const std::string &text : set_flag) {
    size_t equals = text.find('=');
    if (equals == std::string::npos) return Status::usage("--set " + text + ": expected knob=value");
    PHASEC_TRY(session.schedule.set(text.substr(0, equals), text.substr(equals + 1), Origin::Flag));
  }
  session.options.templates_dir = templates_flag;
  session.options.prove = !no_prove_flag;
  session.options.tuned = !no_tuned_flag;
  session.options.log = say;
  session.options.cache.warn = [](const std::string &line) { say("warning: " + line); };
  return {};
}

} // namespace

Result<Session> openSessionAnyway() {
  Session session;
  session.environment = readEnvironment();
  session.options = session.environment.runtime;
  session.schedule = session.environment.schedule;
  routeTalk(session.environment);
  PHASEC_TRY(applyFlags(session));
  return session;
}

Result<Session> openSession() {
  PHASEC_ASSIGN(Session session, openSessionAnyway());
  if (!session.environment.problems.empty()) return Status::usage(session.environment.problems.front());
  if (target_flag == "all") return Status::usage("--target all: only `phasec render --emit=resources` takes all targets at once");
  return session;
}

bool wantJson() { return json_flag; }
std::string targetFlag() { return target_flag; }
bool proveFlag() { return !no_prove_flag; }

bool colourful(int descriptor) { return !talk().no_color && isatty(descriptor); }

void say(const std::string &line) {
  Talk &t = talk();
  std::lock_guard lock(t.mutex);
  if (t.off) return;
  if (t.path.empty()) {
    llvm::errs() << "phasec: " << line << "\n";
    return;
  }
  std::error_code error;
  llvm::raw_fd_ostream out(t.path, error, llvm::sys::fs::OF_Append);
  if (!error) out << line << "\n";
  out.clear_error();
}

void printError(const Status &status) {
  llvm::raw_ostream &err = llvm::errs();
  const std::string &text = status.text();
  bool located = text.substr(0, text.find('\n')).find(": error: ") != std::string::npos;
  if (!located) err << "phasec: " << (colourful(2) ? "\033[1;31merror:\033[0m " : "error: ");
  err << text << "\n";
}

void printJson(std::string_view command, llvm::function_ref<void(llvm::json::OStream &)> members) {
  llvm::outs() << jsonText(command, members);
}

std::string jsonText(std::string_view command, llvm::function_ref<void(llvm::json::OStream &)> members) {
  std::string text;
  llvm::raw_string_ostream out(text);
  llvm::json::OStream json(out, 2);
  json.object([&] {
    json.attribute("schema", "phasec." + std::string(command) + "/1");
    members(json);
  });
  out << "\n";
  return out.str();
}

void printResult(const std::string &text) { llvm::outs() << text; }

std::string clean(std::string_view text) { return llvm::json::fixUTF8(llvm::StringRef(text.data(), text.size())); }

llvm::json::Value figure(double value) { return std::isfinite(value) ? llvm::json::Value(value) : llvm::json::Value(nullptr); }

std::string tunedText(const Schedule &schedule) {
  std::string text;
  for (const KnobInfo &k : knobs())
    if (schedule.origin(k.name) == Origin::Tuned) text += (text.empty() ? "" : " ") + std::string(k.name) + "=" + schedule.text(k.name);
  return text;
}

void writeConfig(llvm::json::OStream &json, const Schedule &schedule) {
  json.attributeObject("config", [&] {
    for (const KnobInfo &k : knobs()) {
      if (k.is_int) json.attribute(k.name, schedule.integer(k.name));
      else json.attribute(k.name, schedule.word(k.name));
    }
  });
  json.attributeArray("tuned", [&] {
    for (const KnobInfo &k : knobs())
      if (schedule.origin(k.name) == Origin::Tuned) json.value(k.name);
  });
}

void writeReasons(llvm::json::OStream &json, const std::vector<Reason> &reasons) {
  json.attributeArray("reasons", [&] {
    for (const Reason &r : reasons)
      json.object([&] {
        json.attribute("section", r.section);
        json.attribute("from", r.from);
        json.attribute("to", r.to);
        json.attribute("text", r.text());
      });
  });
}

Result<std::string> readFile(const std::string &path) {
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (!buffer) return Status::io(path + ": cannot be read: " + buffer.getError().message());
  return (*buffer)->getBuffer().str();
}

Status writeFile(const std::string &path, std::string_view text) {
  if (path == "-") {
    llvm::outs().write(text.data(), text.size());
    return {};
  }
  std::error_code error;
  // Renaming onto a device or a pipe would put a file in its place: those are written as they are.
  bool special = llvm::sys::fs::exists(path) && !llvm::sys::fs::is_regular_file(path);
  std::string temporary = special ? path : path + ".tmp" + std::to_string(getpid());
  {
    llvm::raw_fd_ostream out(temporary, error);
    if (error) return Status::io(path + ": cannot be written: " + error.message());
    out.write(text.data(), text.size());
    out.flush();
    error = out.error();
    out.clear_error();
  }
  if (!error && !special) error = llvm::sys::fs::rename(temporary, path);
  if (!error) return {};
  if (!special) (void)llvm::sys::fs::remove(temporary);
  return Status::io(path + ": cannot be written: " + error.message());
}

} // namespace phasec::cli
