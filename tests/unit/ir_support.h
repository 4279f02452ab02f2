// ir_support.h: what the language's tests share: files, and a dump of everything a module means.
#pragma once

#include "ir/printer.h"
#include "ir/verifier.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace irtest {

using namespace phasec;

inline std::string readFile(const std::filesystem::path &path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

inline std::vector<std::filesystem::path> phaseFiles(const char *folder) {
  std::vector<std::filesystem::path> files;
  for (const auto &entry : std::filesystem::directory_iterator(std::filesystem::path(PHASEC_SOURCE_DIR) / folder))
    if (entry.path().extension() == ".phase") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

inline std::string dump(const ir::Trivia &t) {
  std::string out;
  for (const std::string &line : t.before) out += "<" + line + ">";
  return out + "|" + t.after;
}

inline std::string dump(const std::vector<ir::StackItem> &items) {
  std::string out = "(";
  for (const ir::StackItem &item : items)
    out += item.layer + "*" + std::to_string(item.count) + dump(item.items) + dump(item.head) + dump(item.tail) + ";";
  return out + ")";
}

/// Everything but positions, path and text: two modules are equal when their dumps are. Attributes are dumped member by
/// member and not through attributes.h, which is under test.
inline std::string dump(const ir::Layer &l) {
  std::ostringstream out;
  out.precision(17);
  out << "layer " << l.name << " " << l.tokens_min << ".." << l.tokens_max << " sync " << static_cast<int>(l.sync);
  for (const auto &[k, v] : l.dims) out << " " << k << "=" << v;
  for (const auto &[k, v] : l.schedule) out << " {" << k << "=" << v << "}";
  for (const ir::Value &v : l.values) {
    out << "\n value " << v.name << " " << static_cast<int>(v.kind) << " " << static_cast<int>(v.dtype) << " "
        << static_cast<int>(v.weight.format) << static_cast<int>(v.weight.scales) << static_cast<int>(v.weight.global)
        << static_cast<int>(v.weight.fp8_scale) << " " << static_cast<int>(v.cache.dtype) << " " << v.cache.page
        << v.cache.hnd << v.cache.joint << v.annotated;
    for (int64_t extent : v.shape) out << " " << extent;
    for (const std::string &text : v.shape_text) out << " '" << text << "'";
  }
  for (const ir::Phase &p : l.phases) {
    out << "\n phase " << static_cast<int>(p.op);
    for (ir::ValueId id : p.results) out << " r" << id;
    for (ir::ValueId id : p.operands) out << " o" << id;
    if (const auto *a = std::get_if<ir::NormAttrs>(&p.attrs)) out << " " << a->eps << " " << static_cast<int>(a->gamma);
    if (const auto *a = std::get_if<ir::QkvAttrs>(&p.attrs))
      out << " " << a->bias << " " << a->q_norm << " " << a->k_norm << " " << a->eps << " "
          << static_cast<int>(a->gamma) << " " << a->rope << " " << a->rotary << " " << static_cast<int>(a->pairing)
          << " " << static_cast<int>(a->gate_rows) << " " << a->append;
    if (const auto *a = std::get_if<ir::AttnAttrs>(&p.attrs)) out << " " << a->scale << " " << a->sigmoid_gate;
    if (const auto *a = std::get_if<ir::GatherAttrs>(&p.attrs)) out << " " << static_cast<int>(a->by);
    if (const auto *a = std::get_if<ir::Fc1Attrs>(&p.attrs)) out << " " << static_cast<int>(a->act);
    if (const auto *a = std::get_if<ir::Fc2Attrs>(&p.attrs)) out << " " << a->act_quant_nvfp4;
  }
  for (const ir::EventStmt &e : l.events)
    out << "\n event " << static_cast<int>(e.kind) << " " << e.from << " " << e.to;
  for (ir::ValueId id : l.returns) out << "\n return " << id;
  for (const ir::Statement &s : l.statements)
    out << "\n stmt " << static_cast<int>(s.kind) << " " << s.first << " " << s.count << " " << dump(s.trivia);
  out << "\n" << dump(l.head) << dump(l.tail) << "\n";
  return out.str();
}

inline std::string dump(const ir::Module &m) {
  std::string out;
  for (const ir::Layer &layer : m.layers) out += dump(layer);
  for (const ir::Stack &stack : m.stacks)
    out += stack.name + dump(stack.items) + dump(stack.head) + dump(stack.tail) + "\n";
  for (bool is_stack : m.order) out += is_stack ? "s" : "l";
  for (const std::string &line : m.tail) out += "<" + line + ">";
  return out;
}

} // namespace irtest
