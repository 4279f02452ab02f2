// cli.h: what the commands of `phasec` share: the options of every command that takes a FILE, the session they start from,
// and how errors and colours are shown.
#pragma once

#include "phasec/compiler.h"
#include "phasec/runtime.h"
#include "runtime/options.h"

#include "llvm/Support/CommandLine.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

#include <string>
#include <string_view>
#include <vector>

namespace phasec::cli {

namespace cl = llvm::cl;

// Each row of commands.def: its options hang on <name>Command(), and <name>Main() gives the exit code, or an error whose
// kind gives it.
#define PHASEC_COMMAND(name, ...)                                                                                        \
  cl::SubCommand &name##Command();                                                                                       \
  Result<int> name##Main();
#include "commands.def"

/// Options that are a command's own, as opposed to those that it shares with others.
cl::OptionCategory &ownOptions();
cl::OptionCategory &sharedOptions();

inline constexpr int kFinding = 3; ///< exit code of a failed check, a miss under jit = off, damage, moved figures

/// The environment with the shared flags laid over it.
struct Session {
  Environment environment;
  RuntimeOptions options;
  Schedule schedule;
};

/// ErrorKind::Usage for a flag or a variable that makes no sense.
Result<Session> openSession();
/// The same, but what is wrong with the environment stays in Environment::problems.
Result<Session> openSessionAnyway();

/// --json was given.
bool wantJson();
/// --target as given: "" when absent. `all` is for commands that say so.
std::string targetFlag();
bool proveFlag();

bool colourful(int descriptor);
/// Where PHASEC_LOG sends what is worth knowing.
void say(const std::string &line);
/// Prints an error the way compilers do.
void printError(const Status &status);

/// A JSON document on stdout: {"schema": "phasec.<command>/1", ...}.
void printJson(std::string_view command, llvm::function_ref<void(llvm::json::OStream &)> members);
std::string jsonText(std::string_view command, llvm::function_ref<void(llvm::json::OStream &)> members);
/// Text or a JSON value that is already text.
void printResult(const std::string &text);
/// Text that came from outside, for JSON: bytes that are no UTF-8 are replaced.
std::string clean(std::string_view text);
/// A figure; null when it is no finite number, which JSON lacks.
llvm::json::Value figure(double value);
/// The knobs of an effective schedule that `phasec tune` chose, as text; empty: none.
std::string tunedText(const Schedule &schedule);
/// "config": {every knob of an effective schedule}, "tuned": [those that `phasec tune` chose].
void writeConfig(llvm::json::OStream &json, const Schedule &schedule);
void writeReasons(llvm::json::OStream &json, const std::vector<Reason> &reasons);

/// Reads a whole file. ErrorKind::Io.
Result<std::string> readFile(const std::string &path);
/// Writes through a temporary file beside it; "-" is stdout.
Status writeFile(const std::string &path, std::string_view text);

/// Help of one command, or of all; the first is the program's own.
void printHelp(std::string_view command);

} // namespace phasec::cli
