// verifier.h: what a parsed module must satisfy before anything is planned: types, shapes, dims, events, stacks.
#pragma once

#include "ir/diagnostics.h"
#include "ir/layer.h"
#include "ir/parser.h"

namespace phasec::ir {

/// Every violation, located where the module has text.
Diagnostics check(const Module &module);

/// OK, or ErrorKind::Input with all rendered errors.
Status verify(const Module &module);

/// parse + verify, for tools: verification runs on a file without parse errors.
Parsed loadAll(std::string path, std::string text);

/// parse + verify: the way to read a layer.
Result<Module> load(std::string path, std::string text);

} // namespace phasec::ir
