// program.cpp: see program.h.
#include "runtime/cli/program.h"

#include "runtime/cli/cli.h"

#include "llvm/Config/llvm-config.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Program.h"

#include <optional>

namespace phasec::cli {
namespace {

#if LLVM_VERSION_MAJOR < 16
using OptionalRef = llvm::Optional<llvm::StringRef>;
#else
using OptionalRef = std::optional<llvm::StringRef>;
#endif

} // namespace

Result<std::unique_ptr<WorkDirectory>> WorkDirectory::make() {
  llvm::SmallString<128> path;
  if (std::error_code error = llvm::sys::fs::createUniqueDirectory("phasec", path))
    return Status::io("cannot make a directory for temporary files: " + error.message() + "; TMPDIR says where they go");
  return std::unique_ptr<WorkDirectory>(new WorkDirectory(path.str().str()));
}

WorkDirectory::~WorkDirectory() { (void)llvm::sys::fs::remove_directories(path_); }

std::string findProgram(const std::string &name, const std::string &search_path) {
  llvm::SmallVector<llvm::StringRef, 16> directories;
  llvm::StringRef(search_path).split(directories, ':', -1, false);
  auto found = llvm::sys::findProgramByName(name, directories);
  return found ? *found : "";
}

Status runProgram(const std::string &program, const std::vector<std::string> &arguments, bool show_errors, unsigned seconds_max,
                  std::string &output) {
  PHASEC_ASSIGN(std::unique_ptr<WorkDirectory> directory, WorkDirectory::make());
  std::string path = *directory / "stdout", error;
  std::vector<llvm::StringRef> words{program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  OptionalRef errors;
  if (!show_errors) errors = llvm::StringRef();
  OptionalRef redirects[] = {llvm::StringRef(), llvm::StringRef(path), errors};
#if LLVM_VERSION_MAJOR < 16
  int status = llvm::sys::ExecuteAndWait(program, words, llvm::None, redirects, seconds_max, 0, &error);
#else
  int status = llvm::sys::ExecuteAndWait(program, words, std::nullopt, redirects, seconds_max, 0, &error);
#endif
  PHASEC_ASSIGN(output, readFile(path));
  if (status == 0) return {};
  return Status::toolchain(program + (error.empty() ? " failed with status " + std::to_string(status) : ": " + error));
}

} // namespace phasec::cli
