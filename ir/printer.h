// printer.h: tree to canonical text. parse(print(m)) equals m, and printing that again gives the same text.
#pragma once

#include "ir/layer.h"

#include <string>
#include <vector>

namespace phasec::ir {

/// The events to print for one layer instead of the written ones; the layer becomes `sync explicit`.
struct ExplicitEvents {
  int layer = 0; ///< index into Module::layers
  std::vector<EventStmt> events;
  std::vector<std::string> comments; ///< why each event is there; shorter lists leave the rest without
};

struct PrintOptions {
  /// `fmt --explicit`: one entry per planned layer. Other layers are printed as they are.
  std::vector<ExplicitEvents> explicit_events;
};

/// The canonical text of a module, with its comments.
std::string print(const Module &module, const PrintOptions &options = {});

/// The type of a value as written in a declaration: "bf16[tokens, 5120]", "nvfp4[5120, 6144]", "fp8_e4m3 cache".
std::string typeText(const Value &value);

/// The shortest decimal that reads back as `value`: "1e-6", "0.0625".
std::string realText(double value);

} // namespace phasec::ir
