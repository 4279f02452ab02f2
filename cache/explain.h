// explain.h: which entry is nearest to what was asked, and what differs, most specific cause first.
#pragma once

#include "phasec/cache.h"

namespace phasec {

/// What explain compares of one side.
struct Described {
  int64_t wo_split = 0;
  std::string toolchain;         ///< empty: not known, never a difference
  std::vector<Section> sections; ///< sorted by name
};

void sortSections(std::vector<Section> &sections);

/// Whether both are kernels of layers, or neither is: what packs weights explains no layer's miss, and no layer a packer's.
bool sameKind(const Described &a, const Described &b);

/// All differences, most specific first. The order is: another layer altogether, wo_split, other knobs, a template that
/// changed, the layer (ir), anything else, target, options, abi, toolchain; then what follows from those: templates that
/// came or went, the program.
std::vector<Reason> differences(const Described &from, const Described &to);

/// How far apart: a different layer is further than a different target, that than a template, that than a knob.
int64_t distanceOf(const std::vector<Reason> &reasons);

/// The group of a reason for statistics: "wo_split", "template", "target", ...
std::string reasonGroup(const Reason &reason);

} // namespace phasec
