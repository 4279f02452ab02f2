// render_vocabulary.cpp: see render_vocabulary.h.
#include "compiler/render_vocabulary.h"

namespace phasec {
namespace {

void argmaxMembers(llvm::raw_ostream &out, const Argmax &a, const StepText &text) {
  out << "  static constexpr int cols = " << a.cols << ", tiles = " << a.tiles << ", election = " << a.election << ";\n";
  out << "  using Keys = " << text.region(a.keys_region) << ";\n  using Y = " << text.region(a.result) << ";\n";
}

} // namespace

void embedStep(llvm::raw_ostream &out, const Step &s, const Region &table, const StepText &text) {
  out << "struct " << text.name << " : Launch {\n  static constexpr int rows = " << table.shape[0] << ", cols = " << table.shape[1] << ";\n";
  out << "  using Ids = " << text.region(s.operands[0]) << ";\n  using Table = " << text.region(s.operands[1])
      << ";\n  using Y = " << text.region(s.results[0]) << ";\n";
  out << text.await << "};\n";
}

std::string chooserName(const Step &s, const std::string &name) { return s.op == ir::Op::head ? name + "Argmax" : name; }

void headOut(llvm::raw_ostream &out, const Step &s, const StepText &text) {
  std::string chooser = "Absent";
  if (s.argmax.cols) {
    chooser = chooserName(s, text.name);
    out << "struct " << chooser << " : Launch {\n";
    argmaxMembers(out, s.argmax, text);
    out << "};\n";
  }
  out << "struct " << text.name << "Out : Launch {\n  using Residual = Absent;\n  using Y = " << text.region(s.results[0])
      << ";\n  using Argmax = " << chooser << ";\n  PHASEC_DEVICE static void signal(const Cta &) {}\n};\n";
}

void argmaxStep(llvm::raw_ostream &out, const Step &s, const StepText &text) {
  out << "struct " << text.name << " : Launch {\n";
  argmaxMembers(out, s.argmax, text);
  out << "  using X = " << text.region(s.operands[0]) << ";\n" << text.await << "};\n";
}

} // namespace phasec
