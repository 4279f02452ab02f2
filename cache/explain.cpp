// explain.cpp: see explain.h. One difference of inputs may drag others along (a layer that gains a format also uses one
// more template), so causes are ranked before consequences.
#include "cache/explain.h"

#include <llvm/Support/JSON.h>
#include <llvm/Support/raw_ostream.h>

#include <algorithm>
#include <cstdio>

namespace phasec {

namespace {

struct Group {
  const char *name;
  int64_t distance; ///< what one difference of this kind costs
};

/// In the order of the list of reasons.
constexpr Group kGroups[] = {
    {"damage", 1},  {"other layer", 4000}, {"wo_split", 10}, {"knob", 12}, {"template", 40},       {"ir", 2000},   {"other", 100},
    {"target", 400}, {"options", 100},     {"abi", 400},     {"toolchain", 5}, {"templates used", 30}, {"derived", 1},
};

bool startsWith(const std::string &text, const char *prefix) { return text.rfind(prefix, 0) == 0; }

const Group &groupNamed(const char *wanted) {
  for (const Group &group : kGroups)
    if (std::string_view(group.name) == wanted) return group;
  return groupNamed("other");
}

const Group &groupOf(const Reason &reason) {
  const std::string &label = reason.section;
  const bool one_sided = reason.from.empty() || reason.to.empty();
  if (startsWith(label, "template ")) return groupNamed(one_sided ? "templates used" : "template");
  // The text of "ir" is the layer's name: nothing of this layer is cached, which explains more than any knob.
  if (label == "ir" && !reason.is_digest) return groupNamed("other layer");
  for (const char *known : {"damage", "wo_split", "ir", "options", "abi", "target", "toolchain"})
    if (label == known) return groupNamed(known);
  if (startsWith(label, "knob ")) return groupNamed("knob");
  // The rendered program is no cause: it follows the knobs, the layer and the target.
  if (label == "kernel" || label == "source" || label == "plan") return groupNamed("derived");
  return groupNamed("other");
}

/// "knob:wo_split" -> "wo_split", "knob:rows" -> "knob rows", "template:gather.cuh" -> "template gather.cuh".
std::string labelOf(const std::string &section) {
  if (section == "knob:wo_split") return "wo_split";
  std::string label = section;
  if (startsWith(label, "knob:") || startsWith(label, "template:")) label[label.find(':')] = ' ';
  return label;
}

Reason reasonOf(const Section *from, const Section *to) {
  Reason reason;
  reason.section = labelOf(from ? from->name : to->name);
  // Values read better than digests, but equal values with unequal digests must not read "8 -> 8".
  bool has_text = (!from || !from->text.empty()) && (!to || !to->text.empty());
  reason.is_digest = !has_text || (from && to && from->text == to->text);
  if (from) reason.from = reason.is_digest ? from->digest : from->text;
  if (to) reason.to = reason.is_digest ? to->digest : to->text;
  return reason;
}

bool isSpecial(const Section &section) {
  // Both come from the key and the query themselves, whether or not the caller repeats them as sections.
  return section.name == "toolchain" || section.name == "knob:wo_split" || section.name == "wo_split";
}

/// Metadata of the nearest row was not checked against its checksum: it may hold any byte, and JSON may not.
std::string utf8(const std::string &text) { return llvm::json::isUTF8(text) ? text : llvm::json::fixUTF8(text); }

std::string shortened(const std::string &digest) { return digest.size() > 10 ? digest.substr(0, 8) + ".." : digest; }

} // namespace

void sortSections(std::vector<Section> &sections) {
  std::sort(sections.begin(), sections.end(), [](const Section &a, const Section &b) { return a.name < b.name; });
}

bool sameKind(const Described &a, const Described &b) {
  auto ofLayer = [](const Described &d) {
    return std::any_of(d.sections.begin(), d.sections.end(), [](const Section &s) { return s.name == "ir"; });
  };
  return ofLayer(a) == ofLayer(b);
}

std::vector<Reason> differences(const Described &from, const Described &to) {
  std::vector<Reason> reasons;
  if (from.wo_split != to.wo_split)
    reasons.push_back({"wo_split", std::to_string(from.wo_split), std::to_string(to.wo_split), false});
  if (from.toolchain != to.toolchain && !from.toolchain.empty() && !to.toolchain.empty())
    reasons.push_back({"toolchain", from.toolchain, to.toolchain, false});
  auto a = from.sections.begin(), b = to.sections.begin();
  while (a != from.sections.end() || b != to.sections.end()) {
    bool take_a = b == to.sections.end() || (a != from.sections.end() && a->name <= b->name);
    bool take_b = a == from.sections.end() || (b != to.sections.end() && b->name <= a->name);
    const Section *left = take_a ? &*a++ : nullptr, *right = take_b ? &*b++ : nullptr;
    if (isSpecial(left ? *left : *right)) continue;
    if (left && right && left->digest == right->digest && left->text == right->text) continue;
    reasons.push_back(reasonOf(left, right));
  }
  std::stable_sort(reasons.begin(), reasons.end(),
                   [](const Reason &x, const Reason &y) { return &groupOf(x) < &groupOf(y); }); // in the table's order
  return reasons;
}

int64_t distanceOf(const std::vector<Reason> &reasons) {
  int64_t distance = 0;
  for (const Reason &reason : reasons) distance += groupOf(reason).distance;
  return distance;
}

std::string reasonGroup(const Reason &reason) { return groupOf(reason).name; }

// ---- text and JSON ---------------------------------------------------------------------------------------------

std::string Reason::text() const {
  if (section == "damage") return "damage: " + to;
  bool is_template = startsWith(section, "template ");
  if (from.empty() && to.empty()) return section + " changed";
  if (from.empty())
    return section + (is_template ? " now used" : " added: ") + (is_template ? "" : is_digest ? shortened(to) : to);
  if (to.empty())
    return section + (is_template ? " no longer used" : " dropped: ") +
           (is_template ? ""
            : is_digest ? shortened(from)
                        : from);
  if (is_digest) return section + " changed (digest " + shortened(from) + " -> " + shortened(to) + ")";
  return section + " " + from + " -> " + to;
}

std::string Miss::text() const {
  std::string out = "no kernel for " + key.text();
  if (nearest) {
    out += "\n  nearest: " + nearest->key.text() + " " + nearest->layer_name + " " + nearest->target + " (" +
           name(nearest->layer) + (nearest->path.empty() ? "" : " " + nearest->path) + ")";
    for (const Reason &reason : reasons) out += "\n  " + reason.text();
    if (reasons.empty()) out += "\n  no section differs: an input of the key is not recorded as a section";
  } else {
    out += "\n  the cache holds nothing like it";
    for (const Reason &reason : reasons) out += "\n  " + reason.text();
  }
  for (const std::string &note : notes) out += "\n  note: " + note;
  return out;
}

std::string Miss::json() const {
  llvm::json::Array list;
  for (const Reason &reason : reasons)
    list.push_back(llvm::json::Object{{"section", utf8(reason.section)},
                                      {"from", utf8(reason.from)},
                                      {"to", utf8(reason.to)},
                                      {"text", utf8(reason.text())}});
  llvm::json::Value near = nullptr;
  if (nearest)
    near = llvm::json::Object{{"key", nearest->key.text()},
                              {"wo_split", nearest->key.wo_split},
                              {"function_fingerprint", nearest->key.fingerprint.hex()},
                              {"toolchain", utf8(nearest->toolchain)},
                              {"name", utf8(nearest->layer_name)},
                              {"target", utf8(nearest->target)},
                              {"layer", name(nearest->layer)},
                              {"path", utf8(nearest->path)}};
  llvm::json::Array remarks;
  for (const std::string &note : notes) remarks.push_back(utf8(note));
  llvm::json::Object object{{"outcome", "miss"},
                            {"key", key.text()},
                            {"nearest", std::move(near)},
                            {"reasons", std::move(list)},
                            {"notes", std::move(remarks)}};
  std::string text;
  llvm::raw_string_ostream out(text);
  out << llvm::json::Value(std::move(object));
  return out.str();
}

} // namespace phasec
