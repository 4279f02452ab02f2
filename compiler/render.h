// render.h: all text, no decisions: from a plan to one self-contained CUDA source.
#pragma once

#include "compiler/plan.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace phasec {

/// One template file, read once: what it includes, and the piece of it that goes into a source.
struct Template {
  struct Include {
    std::string operand; ///< as it stands behind #include
    size_t line;
  };
  Template(std::string file, std::string_view embedded, std::string bytes = {});
  Template(const Template &) = delete; // views of its own bytes

  std::string name; ///< relative to templates/, "phases/gather.cuh"
  std::string owned; ///< the bytes of an overlay's file; empty where they are embedded
  std::string_view text;
  std::vector<Include> includes;
  std::string_view body; ///< from the line of the first text behind the last include; no blanks at the end
  size_t body_line;
  size_t body_newlines;
};

/// A set of template files by name relative to templates/. Value type; its files are shared by copies and never change.
class Templates {
public:
  /// The templates that were embedded at build.
  static Templates embedded();
  /// The embedded templates with every file of the same relative name under `dir` laid over them.
  /// ErrorKind::Io when `dir` is not a directory, or has a .cuh file that no template is called.
  static Result<Templates> overlaid(const std::string &dir);

  /// A template, or nullptr; lives as long as a copy of this set.
  const Template *find(std::string_view name) const;

private:
  std::vector<std::shared_ptr<const Template>> files_;
};

struct Rendered {
  std::string source;                      ///< one .cu with zero #includes
  std::vector<std::string> templates_used; ///< in the order in which they stand in the source
};

/// Names of the kernels; with .cu, of the generated files in diagnostics.
inline constexpr const char *kKernelName = "phasec_layer";
inline constexpr const char *kPackerName = "phasec_pack";
/// Warps of a CTA of the packer, each with a granule in dynamic shared memory.
inline constexpr int kPackerWarps = 8;

/// Renders the plan. Pure: equal inputs give equal bytes. ErrorKind::Toolchain, naming file and marker, when a template (of
/// an overlay) lacks a region or includes a file that does not exist.
Result<Rendered> render(const Plan &plan, const ir::Module &module, const Templates &templates);
/// The same of the kernel that makes a weight's image of its checkpoint, on the device.
Result<Rendered> renderPacker(const Gemv &gemv, const Target &target, const Templates &templates);

} // namespace phasec
