// render_program.h: the generated part of a source: what stands in the skeleton's regions for one plan.
#pragma once

#include "compiler/plan.h"

#include <map>
#include <string>
#include <vector>

namespace phasec {

struct ProgramText {
  std::vector<std::string> includes;          ///< templates, in the order in which they must stand
  std::map<std::string, std::string> regions; ///< text by region name: banner, target, config, phases, program
};

ProgramText programText(const Plan &plan, const ir::Module &module);
/// Of the skeleton pack.cu.
ProgramText packText(const Gemv &gemv, const Target &target);

/// Where row-wise scales, the bias and the codes of an image row stand in the checkpoint: Gemv::checkpointRow as an expression, save that
/// padding is not told apart.
std::string checkpointRowText(const Gemv &gemv);

} // namespace phasec
