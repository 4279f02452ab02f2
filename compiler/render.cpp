// render.cpp: flattens the used templates and fills the skeleton's regions. What the regions say is in render_program.cpp.
#include "compiler/render.h"

#include "compiler/render_program.h"
#include "templates/embedded.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"

#include <algorithm>
#include <set>

namespace phasec {

using llvm::StringRef;

namespace {

/// By memchr: StringRef::count looks at one character at a time.
size_t newlines(StringRef text) {
  size_t n = 0;
  for (size_t at = text.find('\n'); at != StringRef::npos; at = text.find('\n', at + 1)) n++;
  return n;
}

std::string normalised(StringRef name) {
  llvm::SmallString<64> path(name);
  llvm::sys::path::remove_dots(path, /*remove_dot_dot=*/true);
  return path.str().str();
}

} // namespace

Template::Template(std::string file, std::string_view embedded, std::string bytes)
    : name(std::move(file)), owned(std::move(bytes)), text(owned.empty() ? embedded : std::string_view(owned)) {
  const StringRef all(text);
  size_t begin = 0;
  for (size_t at = all.find('#'); at != StringRef::npos; at = all.find('#', at + 1)) {
    const size_t line_begin = all.rfind('\n', at) + 1, line_end = std::min(all.find('\n', at), all.size());
    const StringRef directive = all.slice(at, line_end).rtrim();
    const bool including = directive.startswith("#include");
    if (!(including || directive.startswith("#pragma once")) || !all.slice(line_begin, at).trim().empty()) continue;
    if (including) includes.push_back({directive.drop_front(8).trim().str(), 1 + newlines(all.take_front(at))});
    begin = std::min(line_end + 1, all.size());
  }
  if (size_t first = all.find_first_not_of(" \t\r\n", begin); first != StringRef::npos) begin = std::max(begin, all.rfind('\n', first) + 1);
  body = all.drop_front(begin).rtrim();
  body_line = 1 + newlines(all.take_front(begin));
  body_newlines = newlines(body);
}

Templates Templates::embedded() {
  static const Templates all = [] {
    Templates t;
    for (const EmbeddedFile &f : embeddedTemplates()) t.files_.push_back(std::make_shared<const Template>(std::string(f.name), f.text));
    return t;
  }();
  return all;
}

Result<Templates> Templates::overlaid(const std::string &dir) {
  if (!llvm::sys::fs::is_directory(dir)) return Status::io("--templates " + dir + ": not a directory");
  Templates t = embedded();
  std::error_code error;
  for (llvm::sys::fs::recursive_directory_iterator i(dir, error), end; i != end && !error; i.increment(error)) {
    StringRef path = i->path(), extension = llvm::sys::path::extension(path);
    if (extension != ".cuh" && extension != ".cu") continue;
    std::string name = path.substr(StringRef(dir).rtrim('/').size() + 1).str();
    auto file = std::find_if(t.files_.begin(), t.files_.end(), [&](const auto &f) { return f->name == name; });
    if (file == t.files_.end())
      return Status::io(path.str() + ": no template is called " + name + "; an overlay replaces files of the same name");
    auto buffer = llvm::MemoryBuffer::getFile(path);
    if (!buffer) return Status::io(path.str() + ": " + buffer.getError().message());
    *file = std::make_shared<const Template>(name, "", (*buffer)->getBuffer().str());
  }
  if (error) return Status::io(dir + ": " + error.message());
  return t;
}

const Template *Templates::find(std::string_view name) const {
  for (const auto &f : files_)
    if (f->name == name) return f.get();
  return nullptr;
}

namespace {

/// Builds the one source: skeleton text, flattened templates, generated regions.
class Renderer {
public:
  /// `skeleton` is a template; `kernel` is what it defines.
  Renderer(const Templates &templates, std::string skeleton, std::string kernel, ProgramText program)
      : templates_(templates), skeleton_(std::move(skeleton)), kernel_(std::move(kernel)), program_(std::move(program)) {}

  Result<Rendered> run() {
    const Template *skeleton = templates_.find(skeleton_);
    if (!skeleton) return Status::toolchain("templates: " + skeleton_ + " is missing");
    rendered_.source.reserve(size_t(160) << 10);
    llvm::SmallVector<StringRef, 0> lines;
    StringRef(skeleton->text).split(lines, '\n');
    for (size_t i = 0; i < lines.size(); i++) {
      if (!lines[i].startswith("//@ ")) {
        append(lines[i]);
        continue;
      }
      StringRef region = lines[i].drop_front(4).trim();
      size_t end = i + 1;
      while (end < lines.size() && lines[end] != "//@ end") end++;
      if (end == lines.size())
        return Status::toolchain(skeleton_ + ":" + std::to_string(i + 1) + ": region `" + region.str() + "` has no `//@ end`");
      PHASEC_TRY(fill(region, i + 1));
      i = end;
      append("#line " + std::to_string(i + 2) + " \"" + skeleton_ + "\"");
    }
    for (const auto &[name, text] : program_.regions)
      if (!filled_.count(name)) return Status::toolchain(skeleton_ + ": region `//@ " + name + "` is missing");
    rendered_.source.erase(rendered_.source.find_last_not_of('\n') + 1);
    rendered_.source += "\n";
    return std::move(rendered_);
  }

private:
  void append(StringRef line) {
    rendered_.source.append(line.data(), line.size());
    rendered_.source += '\n';
    line_++;
  }

  Status fill(StringRef region, size_t line) {
    filled_.insert(region.str());
    if (region == "includes") {
      for (const std::string &name : program_.includes) PHASEC_TRY(flatten(name, skeleton_, line));
      return {};
    }
    auto text = program_.regions.find(region.str());
    if (text == program_.regions.end())
      return Status::toolchain(skeleton_ + ":" + std::to_string(line) + ": unknown region `" + region.str() + "`");
    if (region != "banner") append("#line " + std::to_string(line_ + 1) + " \"" + kernel_ + ".cu\"");
    llvm::SmallVector<StringRef, 0> lines;
    StringRef(text->second).rtrim('\n').split(lines, '\n');
    for (StringRef l : lines) append(l);
    return {};
  }

  /// Emits a template once, after what it includes.
  Status flatten(const std::string &name, const std::string &from, size_t from_line) {
    if (!done_.insert(name).second) return {};
    const Template *t = templates_.find(name);
    if (!t) return Status::toolchain(from + ":" + std::to_string(from_line) + ": no template is called \"" + name + "\"");
    for (const Template::Include &i : t->includes) PHASEC_TRY(include(i.operand, llvm::sys::path::parent_path(name), name, i.line));
    rendered_.templates_used.push_back(name);
    append("");
    append("#line " + std::to_string(t->body_line) + " \"" + name + "\"");
    append(t->body);
    line_ += t->body_newlines;
    return {};
  }

  /// An #include of template `from` in folder `dir`.
  Status include(StringRef operand, StringRef dir, const std::string &from, size_t line) {
    if (operand.size() < 2 || operand.front() != '"')
      return Status::toolchain(from + ":" + std::to_string(line) + ": templates include templates only, in double quotes");
    llvm::SmallString<64> path(dir);
    llvm::sys::path::append(path, operand.drop_front().take_until([](char c) { return c == '"'; }));
    return flatten(normalised(path), from, line);
  }

  const Templates &templates_;
  std::string skeleton_, kernel_;
  ProgramText program_;
  Rendered rendered_;
  std::set<std::string> done_, filled_;
  size_t line_ = 0;
};

} // namespace

Result<Rendered> render(const Plan &plan, const ir::Module &module, const Templates &templates) {
  return Renderer(templates, "layer.cu", kKernelName, programText(plan, module)).run();
}

Result<Rendered> renderPacker(const Gemv &gemv, const Target &target, const Templates &templates) {
  return Renderer(templates, "pack.cu", kPackerName, packText(gemv, target)).run();
}

} // namespace phasec
