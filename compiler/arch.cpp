// arch.cpp: the table of arch.def as plan.h offers it.
#include "compiler/plan.h"

namespace phasec {

const std::vector<Target> &targets() {
  static const std::vector<Target> rows = {
#define PHASEC_TARGET(name, sm, shared_kb, bulk_copy, register_moves, ...)                                                                            \
  Target{name, sm, int64_t{shared_kb} * 1024, bulk_copy, register_moves, {__VA_ARGS__}},
#include "compiler/arch.def"
  };
  return rows;
}

const Target *findTarget(std::string_view name) {
  for (const Target &target : targets())
    if (target.name == name) return &target;
  return nullptr;
}

} // namespace phasec
