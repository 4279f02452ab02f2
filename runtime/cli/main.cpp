// main.cpp: the command line: finds the command, parses its options, turns its result into an exit code.
//
// Exit codes: 0 ok; 1 input error or failed proof; 2 usage; 3 finding; 4 no device or driver; 5 toolchain or internal.
#include "runtime/cli/cli.h"

#include "ir/suggest.h"

#include <algorithm>

namespace phasec::cli {
namespace {

struct Command {
  const char *name, *arguments, *does, *never;
  cl::SubCommand &(*options)();
  Result<int> (*main)();
};

const Command kCommands[] = {
#define PHASEC_COMMAND(name, arguments, does, never) {#name, arguments, does, never, name##Command, name##Main},
#include "commands.def"
};

constexpr int kUsage = 2;
constexpr size_t kOptionWidth = 26;

const Command *find(std::string_view name) {
  for (const Command &c : kCommands)
    if (name == c.name) return &c;
  return nullptr;
}

void printOptions(cl::SubCommand &command, cl::OptionCategory &category) {
  std::vector<cl::Option *> options;
  for (auto &entry : command.OptionsMap)
    if (llvm::is_contained(entry.second->Categories, &category)) options.push_back(entry.second);
  if (options.empty()) return;
  std::sort(options.begin(), options.end(), [](cl::Option *a, cl::Option *b) { return a->ArgStr < b->ArgStr; });
  llvm::outs() << "\n" << category.getName() << ":\n";
  for (cl::Option *o : options) {
    std::string left = (o->ArgStr.size() > 1 ? "--" : "-") + o->ArgStr.str();
    if (!o->ValueStr.empty()) left += (o->ArgStr.size() > 1 ? "=" : " ") + o->ValueStr.str();
    left.resize(std::max(left.size() + 1, kOptionWidth), ' ');
    llvm::outs() << "  " << left << o->HelpStr << "\n";
  }
}

int usageError(const std::string &text) {
  printError(Status::usage(text));
  return kUsage;
}

int fail(const Command &command, const Status &status) {
  printError(status);
  if (wantJson())
    printJson(command.name, [&](llvm::json::OStream &json) {
      json.attributeObject("error", [&] {
        json.attribute("kind", name(status.kind()));
        json.attribute("text", clean(status.text()));
      });
    });
  return exitCode(status.kind());
}

/// Results may go to a full disk or a closed pipe: that is an error, and must not abort in a destructor.
int flushed(int code) {
  llvm::outs().flush();
  if (!llvm::outs().has_error()) return code;
  std::string why = llvm::outs().error().message();
  llvm::outs().clear_error();
  printError(Status::io("cannot write the result: " + why));
  return exitCode(ErrorKind::Io);
}

int dispatch(int count, const char *const *words) {
  std::string_view first = count > 1 ? words[1] : "--help";
  std::string_view topic = count > 2 ? words[2] : "";
  if (first == "--help" || first == "-h" || first == "help") {
    if (!topic.empty() && !find(topic)) return usageError("there is no command '" + std::string(topic) + "'");
    printHelp(topic);
    return count > 1 ? 0 : kUsage;
  }
  if (first == "--version") {
    llvm::outs() << "phasec " << PHASEC_VERSION << "\n";
    return 0;
  }
  const Command *command = find(first);
  if (!command) {
    std::vector<std::string> names;
    for (const Command &c : kCommands) names.push_back(c.name);
    bool option = first.substr(0, 1) == "-";
    return usageError(option ? "options follow the command: phasec COMMAND " + std::string(first)
                             : "there is no command '" + std::string(first) + "'" + didYouMean(first, names) +
                                   " (the commands: " + listWords(names, " and ") + ")");
  }
  for (int i = 2; i < count && std::string_view(words[i]) != "--"; i++)
    if (std::string_view(words[i]) == "--help" || std::string_view(words[i]) == "-h") {
      printHelp(command->name);
      return 0;
    }
  if (!cl::ParseCommandLineOptions(count, words, "", &llvm::errs())) return kUsage;
  Result<int> code = command->main();
  return code ? *code : fail(*command, code.status());
}

} // namespace

void printHelp(std::string_view topic) {
  llvm::raw_ostream &out = llvm::outs();
  if (const Command *c = find(topic)) {
    std::string never = c->never;
    out << "usage: phasec " << c->name << " " << c->arguments << " [options]\n" << c->does << "; " << never << ".\n";
    printOptions(c->options(), ownOptions());
    printOptions(c->options(), sharedOptions());
    return;
  }
  out << "phasec compiles decode layers (.phase files) into one CUDA kernel each, and keeps the kernels in a cache.\n"
      << "usage: phasec COMMAND ... [options]; phasec COMMAND --help has the options and what the command never does\n";
  for (const Command &c : kCommands) {
    std::string left = std::string(c.name) + " ";
    left.resize(9, ' ');
    out << "  " << left << c.does << "\n";
  }
}

} // namespace phasec::cli

int main(int count, char **words) { return phasec::cli::flushed(phasec::cli::dispatch(count, words)); }
