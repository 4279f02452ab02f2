// render_vocabulary.h: the structs of the steps at the ends of a model: embed, head and argmax.
#pragma once

#include "compiler/plan.h"

#include "llvm/Support/raw_ostream.h"

#include <functional>
#include <string>

namespace phasec {

/// What a step's body knows about it.
struct StepText {
  std::string name;                         ///< of the step's struct: "Head0"
  std::function<std::string(int)> region;   ///< a region as a type: "Bound<bf16, 5>", or "Absent"
  std::string await;                        ///< the member function that waits for the step's events
};

void embedStep(llvm::raw_ostream &out, const Step &s, const Region &table, const StepText &text);
/// The struct that chooses the tokens of a step: an argmax step's own, or the head's other one.
std::string chooserName(const Step &s, const std::string &name);
/// What follows the head's GEMV struct: where finished logits go.
void headOut(llvm::raw_ostream &out, const Step &s, const StepText &text);
void argmaxStep(llvm::raw_ostream &out, const Step &s, const StepText &text);

} // namespace phasec
