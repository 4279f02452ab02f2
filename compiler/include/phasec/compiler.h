// compiler.h: reading `.phase` files, and the stages between text and source.
#pragma once

#include "phasec/config.h"
#include "phasec/status.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#pragma GCC visibility push(default) // public: the library is compiled with hidden visibility

namespace phasec {

namespace ir {
struct Module;
}

/// A parsed and verified `.phase` file: layers and stacks. Immutable; copies share it; safe from any thread.
class Layers {
public:
  /// Reads and verifies a file. ErrorKind::Io when it cannot be read, ErrorKind::Input with located errors.
  static Result<Layers> read(const std::string &path);
  /// The same from text; `path` is for messages only.
  static Result<Layers> parse(const std::string &path, const std::string &text);

  /// Name of what runs: the last stack, else the last layer.
  const std::string &name() const;
  const ir::Module &module() const;
  /// Of the canonical text's tokens: the section `ir` of a key, and what a manifest line remembers. Computed once.
  const std::string &digest() const;

private:
  struct Parsed;
  explicit Layers(std::shared_ptr<Parsed> parsed);
  std::shared_ptr<Parsed> parsed_;
};

/// A stage of compilation as text.
enum class Stage { Ir, Plan, PlanJson, Cuda };

/// `layers` under `schedule`, as the text of one stage; never compiles, never touches a cache. Knobs that the file sets
/// are applied below those of `schedule`; target `auto` means sm_90a. `templates_dir` may be empty.
Result<std::string> stageText(const Layers &layers, const Schedule &schedule, Stage stage, const std::string &templates_dir);

/// The names of all targets, oldest first.
std::vector<std::string> targetNames();

} // namespace phasec

#pragma GCC visibility pop
