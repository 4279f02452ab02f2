// render.h: all text, no decisions: from a plan to one self-contained CUDA source.
#pragma once

#include "compiler/plan.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace phasec {

/// A set of template files by name relative to templates/ ("phases/gather.cuh"). Value type.
class Templates {
public:
  /// The templates that were embedded at build.
  static Templates embedded();
  /// The embedded templates with every file of the same relative name under `dir` laid over them.
  /// ErrorKind::Io when `dir` is not a directory, or has a .cuh file that no template is called.
  static Result<Templates> overlaid(const std::string &dir);

  /// The text of a template, or nullptr; lives as long as a copy of this set.
  const std::string_view *find(std::string_view name) const;

private:
  struct File {
    std::string_view name, text;
  };
  std::vector<File> files_;
  std::vector<std::shared_ptr<const std::string>> overlays_; ///< what files_ points to, besides what is embedded
};

struct Rendered {
  std::string source;                      ///< one .cu with zero #includes
  std::vector<std::string> templates_used; ///< in the order in which they stand in the source
};

/// Name of the kernel and of the generated file in diagnostics.
inline constexpr const char *kKernelName = "phasec_layer";
inline constexpr const char *kSourceName = "phasec_layer.cu";

/// Renders the plan. Pure: equal inputs give equal bytes. ErrorKind::Toolchain, naming file and marker, when a template (of
/// an overlay) lacks a region or includes a file that does not exist.
Result<Rendered> render(const Plan &plan, const ir::Module &module, const Templates &templates);

} // namespace phasec
