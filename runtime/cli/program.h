// program.h: other programs that a command runs, and the directories made for them.
#pragma once

#include "phasec/status.h"

#include <memory>
#include <string>
#include <vector>

namespace phasec::cli {

/// A private directory that goes away with this.
class WorkDirectory {
public:
  static Result<std::unique_ptr<WorkDirectory>> make();
  ~WorkDirectory();
  const std::string &path() const { return path_; }
  std::string operator/(const std::string &name) const { return path_ + "/" + name; }

private:
  explicit WorkDirectory(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

/// The program's path; empty: not in any of `search_path`'s directories.
std::string findProgram(const std::string &name, const std::string &search_path);

/// Runs a program without standard input and gives its standard output. ErrorKind::Toolchain when it fails or takes longer
/// than `seconds_max` (0: any time); `output` holds what it had printed by then.
Status runProgram(const std::string &program, const std::vector<std::string> &arguments, bool show_errors, unsigned seconds_max,
                  std::string &output);

} // namespace phasec::cli
