// parser.h: text to tree. Resolves names, ops, formats, knobs and constant expressions; types are the verifier's.
#pragma once

#include "ir/diagnostics.h"
#include "ir/layer.h"

#include <string>

namespace phasec::ir {

/// What parsing gives a tool: the tree, complete only when `diagnostics` is empty, and every error.
struct Parsed {
  Module module;
  Diagnostics diagnostics;
};

/// Parses one file, collecting errors: after one, parsing goes on with the next statement. `path` is for messages only.
/// Never fails otherwise, whatever the bytes: nesting, names, numbers and file size have limits.
Parsed parseAll(std::string path, std::string text);

/// The tree, or ErrorKind::Input with all rendered errors.
Result<Module> parse(std::string path, std::string text);

} // namespace phasec::ir
