// compiler.cpp: the public face of the compiler: files in, the text of any stage out.
#include "phasec/compiler.h"

#include "compiler/fingerprint.h"
#include "compiler/plan.h"
#include "compiler/render.h"
#include "compiler/schedule.h"
#include "ir/printer.h"
#include "ir/verifier.h"

#include <fstream>
#include <mutex>
#include <sstream>

namespace phasec {

struct Layers::Parsed {
  ir::Module module;
  std::once_flag digested{};
  std::string digest{};
};

Layers::Layers(std::shared_ptr<Parsed> parsed) : parsed_(std::move(parsed)) {}

const ir::Module &Layers::module() const { return parsed_->module; }

const std::string &Layers::digest() const {
  std::call_once(parsed_->digested, [this] { parsed_->digest = tokenDigest(ir::print(parsed_->module)); });
  return parsed_->digest;
}

Result<Layers> Layers::read(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf(); // fails on an empty file, which the parser has an error for
  if (!file) return Status::io(path + ": cannot be read; give the path of a .phase file (examples/layers has some)");
  return parse(path, text.str());
}

Result<Layers> Layers::parse(const std::string &path, const std::string &text) {
  PHASEC_ASSIGN(ir::Module module, ir::load(path, text));
  return Layers(std::shared_ptr<Parsed>(new Parsed{std::move(module)}));
}

const std::string &Layers::name() const {
  return module().stacks.empty() ? module().layers.back().name : module().stacks.back().name;
}

Result<Schedule> effectiveSchedule(const ir::Module &module, const Schedule &schedule, std::string_view device_target) {
  Schedule effective = schedule;
  bool has_wo = false;
  for (int l : ir::instances(module)) {
    has_wo |= module.layers[l].find(ir::Op::wo) != nullptr;
    for (const auto &[knob, value] : module.layers[l].schedule) PHASEC_TRY(effective.set(knob, value, Origin::File));
  }
  if (effective.word("target") == "auto")
    PHASEC_TRY(effective.set("target", device_target.empty() ? "sm_90a" : device_target, effective.origin("target")));
  if (!has_wo && effective.origin("wo_split") == Origin::Default) PHASEC_TRY(effective.set("wo_split", "0", Origin::Default));
  return effective;
}

Result<std::string> stageText(const Layers &layers, const Schedule &schedule, Stage stage, const std::string &templates_dir) {
  const ir::Module &module = layers.module();
  if (stage == Stage::Ir) return ir::print(module);
  PHASEC_ASSIGN(Schedule effective, effectiveSchedule(module, schedule, ""));
  PHASEC_ASSIGN(Plan plan, phasec::plan(module, effective, *findTarget(effective.word("target"))));
  if (stage == Stage::Plan) return planText(plan, module);
  if (stage == Stage::PlanJson) return planJson(plan, module);
  Templates templates = Templates::embedded();
  if (!templates_dir.empty()) {
    PHASEC_ASSIGN(templates, Templates::overlaid(templates_dir));
  }
  PHASEC_ASSIGN(Rendered rendered, render(plan, module, templates));
  return std::move(rendered.source);
}

std::vector<std::string> targetNames() {
  std::vector<std::string> names;
  for (const Target &t : targets()) names.push_back(t.name);
  return names;
}

} // namespace phasec
