// render_body.h: the text of one body: a struct per event and step, the cases of its stream, and its list of phase calls.
#pragma once

#include "compiler/render_program.h"
#include "compiler/render_vocabulary.h"

#include "llvm/Support/raw_ostream.h"

#include <set>
#include <string>
#include <vector>

namespace phasec {

class BodyText {
public:
  BodyText(const Plan &plan, const ir::Module &module, int index, int first_step)
      : plan_(plan), layer_(module.layers[plan.bodies[index].layer]), body_(plan.bodies[index]), first_step_(first_step) {}

  void phases(llvm::raw_ostream &out);
  void fetchCases(llvm::raw_ostream &out);
  void openCases(llvm::raw_ostream &out);
  void calls(llvm::raw_ostream &out);
  std::set<std::string> includes() const;

private:
  std::string suffix() const { return plan_.bodies.size() > 1 ? "_" + layer_.name : ""; }
  std::string name(const Step &s) const;
  std::string eventName(int id) const { return "Event" + std::to_string(id) + suffix(); }
  std::string resultNames(const Step &s) const;
  std::string region(int index) const;
  void event(llvm::raw_ostream &out, const Event &e);
  /// A float by its bits, with its value beside it.
  static std::string exactFloat(float v);
  static std::string cType(const std::string &dtype);
  static void table(llvm::raw_ostream &out, const std::string &name, const std::vector<int64_t> &values);
  /// Under math = fast the bounds of wo's slots are rounded down to granules, so a slot may begin in an earlier KV head.
  static int64_t firstHead(const Gemv &g, int slices, int slot);
  static bool reachesBack(const Gemv &g, int slices);
  std::string firstHeads(const Step &s) const { return name(s) + "_first_heads"; }
  /// The wait before a unit whose slice is `slice` (an expression over the argument).
  void await(llvm::raw_ostream &out, const Step &s) const;
  const Event *counterSignal(const Step &s) const;
  std::string appendRows(const Step &s) const;
  void delay(llvm::raw_ostream &out, int call_index) const;
  bool leaves(const Step &s) const { return !plan_.chains && body_.leaves_by_tile && plan_.instances.size() > 1 && &s == &body_.steps.back(); }
  void settle(llvm::raw_ostream &out, const Step &s) const;
  void step(llvm::raw_ostream &out, const Step &s);
  StepText stepText(const Step &s) const;
  void gemv(llvm::raw_ostream &out, const Step &s);
  static const char *scaleName(const Gemv &g);
  void transform(llvm::raw_ostream &out, const Operand &o, bool staged);
  void rowsOut(llvm::raw_ostream &out, const Step &s, int residual, int result);
  void normStep(llvm::raw_ostream &out, const Step &s);
  void gatherStep(llvm::raw_ostream &out, const Step &s);
  void fc1Out(llvm::raw_ostream &out, const Step &s);
  std::string call(const Step &s) const;
  /// What happens to a finished row tile.
  std::string finishName(const Step &s) const;
  /// The step that produced the slots a gather step folds.
  std::string woOf(const Step &s) const;

  // render_attention.cpp: qkv and attention.
  /// The table entries of the step's arrays and of one cache.
  void sequencesStruct(llvm::raw_ostream &out, const Step &s, int kv_region, const ir::Value &kv);
  int scalesEntry(int kv_region, const ir::Value &kv) const;
  void qkvOut(llvm::raw_ostream &out, const Step &s);
  void attnStep(llvm::raw_ostream &out, const Step &s);
  std::string fresh(int index, const ir::Value &kv) const;

  const Plan &plan_;
  const ir::Layer &layer_;
  const Body &body_;
  int first_step_;
};

} // namespace phasec
