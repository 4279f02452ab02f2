// verifier_impl.h: the state of verifying one layer. verifier.cpp has layers, events and stacks; verify_phases.cpp what
// each operation asks of its operands.
#pragma once

#include "ir/printer.h"
#include "ir/verifier.h"

#include <optional>

namespace phasec::ir {

class LayerVerifier {
public:
  LayerVerifier(const Layer &layer, Diagnostics &diagnostics) : layer_(layer), diagnostics_(diagnostics) {}
  void run();

private:
  // verifier.cpp
  bool wellFormed();
  void checkDims();
  void checkTokens();
  void checkValues();
  void checkUses();
  void checkReturns();
  void checkSchedule();
  void checkEvents();
  void checkEvent(size_t index);
  void checkEventPlace(const EventStmt &event, const Phase &from, const Phase &to);

  // verify_phases.cpp
  void checkPhases();
  bool checkArity(const Phase &phase);
  void checkPhase(const Phase &phase);
  void checkResults(const Phase &phase);
  void checkEmbed(const Phase &phase);
  void checkNorm(const Phase &phase, const NormAttrs &attrs);
  void checkQkv(const Phase &phase, const QkvAttrs &attrs);
  void checkQkvNorms(const Phase &phase, const QkvAttrs &attrs);
  void checkRope(const Phase &phase, const QkvAttrs &attrs);
  void checkAttn(const Phase &phase, const AttnAttrs &attrs);
  void checkWo(const Phase &phase);
  void checkGather(const Phase &phase);
  void checkFc1(const Phase &phase);
  void checkFc2(const Phase &phase, const Fc2Attrs &attrs);
  void checkHead(const Phase &phase);
  void checkArgmax(const Phase &phase);
  bool needDims(const Phase &phase, std::initializer_list<const char *> names);
  /// Operand `index` must be rows of activations: [tokens, columns]. `why` explains the columns.
  bool activation(const Phase &phase, size_t index, const char *role, int64_t columns, bool f32_too,
                  const std::string &why);
  /// Operand `index` must be a weight matrix; 0 leaves an extent free.
  bool matrix(const Phase &phase, size_t index, int64_t rows, int64_t columns, const std::string &why);
  bool vector(ValueId id, Range range, const std::string &role, int64_t extent, const std::string &why);
  bool cache(const Phase &phase, size_t index);
  void multiple(Range range, const std::string &what, int64_t value, int64_t of);
  void epsilon(const Phase &phase, double eps);

  // both
  Diagnostic &error(Range range, std::string text) { return diagnostics_.error(range, std::move(text)); }
  const Value &value(ValueId id) const { return layer_.values[id]; }
  std::string show(ValueId id) const { return "%" + value(id).name + " (" + typeText(value(id)) + ")"; }
  std::string quoted(Op op) const { return "`" + std::string(name(op)) + "`"; }
  Range operandRange(const Phase &phase, size_t index) const {
    return index < phase.operand_ranges.size() ? phase.operand_ranges[index] : phase.range;
  }
  /// Where an attribute is written, if it is.
  std::optional<Range> attr(const Phase &phase, std::string_view attr_name) const;
  Range attrRange(const Phase &phase, std::string_view attr_name) const {
    return attr(phase, attr_name).value_or(phase.op_range);
  }
  /// Adds a note at the declaration of `id`.
  void declared(Diagnostic &diagnostic, ValueId id) const {
    diagnostic.note(value(id).range, "%" + value(id).name + " is " + typeText(value(id)) + " here");
  }

  const Layer &layer_;
  Diagnostics &diagnostics_;
};

/// Stacks of a module whose layers are sound: references, counts, and types along the chain.
void checkStacks(const Module &module, Diagnostics &diagnostics);

} // namespace phasec::ir
