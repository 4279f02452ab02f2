// render_overlay.cpp: edits of templates and of layer files, as fingerprints see them; broken overlays.
#include "compiler/fingerprint.h"
#include "compiler/nvrtc.h"
#include "compiler/render.h"
#include "ir/printer.h"
#include "tests/unit/layer_support.h"

#include <map>
#include <unistd.h>

using namespace layertest;

namespace {

const Templates &embedded() {
  static const Templates templates = Templates::embedded();
  return templates;
}

/// A directory of template edits, removed afterwards.
class Overlay {
public:
  Overlay() : dir_(std::filesystem::temp_directory_path() / ("phasec-overlay-" + std::to_string(getpid()) + "-" + std::to_string(next_++))) {}
  ~Overlay() { std::filesystem::remove_all(dir_); }

  /// A template's text with `from` (which must be there) replaced.
  void edit(const std::string &name, const std::string &from, const std::string &to) {
    const Template *t = embedded().find(name);
    REQUIRE(t);
    std::string changed(t->text);
    size_t at = changed.find(from);
    REQUIRE_MESSAGE(at != std::string::npos, name, " has no ", from);
    write(name, changed.replace(at, from.size(), to));
  }
  void write(const std::string &name, const std::string &text) {
    std::filesystem::create_directories((dir_ / name).parent_path());
    std::ofstream(dir_ / name) << text;
  }
  Result<Templates> open() const { return Templates::overlaid(dir_.string()); }
  Templates templates() const {
    auto t = open();
    REQUIRE_MESSAGE(t.ok(), t.status().text());
    return t.take();
  }

private:
  static inline int next_ = 0;
  std::filesystem::path dir_;
};

struct Print {
  std::string key;
  bool gathers = false;
};

std::string keyOf(const std::string &source) {
  CompileOptions exact;
  return fingerprint(source, nvrtcArguments(exact), "sm_90a", 1).hex();
}

/// Key and use of gather.cuh, for every example.
std::map<std::string, Print> prints(const Templates &templates) {
  std::map<std::string, Print> all;
  for (const std::string &name : examples()) {
    Layers layers = readExample(name);
    auto r = render(planOf(layers), layers.module(), templates);
    REQUIRE_MESSAGE(r.ok(), r.status().text());
    all[name] = {keyOf(r->source), std::count(r->templates_used.begin(), r->templates_used.end(), "phases/gather.cuh") == 1};
  }
  return all;
}

std::string failure(const Overlay &overlay) {
  auto templates = overlay.open();
  if (!templates.ok()) return templates.status().text();
  Layers layers = readExample("tiny_wo_harness");
  auto r = render(planOf(layers), layers.module(), *templates);
  if (r.ok()) return "";
  CHECK(r.status().kind() == ErrorKind::Toolchain);
  return r.status().text();
}

} // namespace

TEST_CASE("a comment, a blank line and an indent in gather.cuh change no fingerprint") {
  auto before = prints(embedded());
  Overlay overlay;
  overlay.edit("phases/gather.cuh", "int width = end - begin;", "  int   width =\n\n end - begin; // columns of this CTA /* ... */");
  auto after = prints(overlay.templates());
  for (const auto &[name, p] : before) CHECK_MESSAGE(after[name].key == p.key, name);
}

TEST_CASE("a logic edit in gather.cuh changes the layers that use it and no other") {
  auto before = prints(embedded());
  Overlay overlay;
  overlay.edit("phases/gather.cuh", "int width = end - begin;", "int width = end - begin + 0;");
  auto after = prints(overlay.templates());
  int changed = 0, kept = 0;
  for (const auto &[name, p] : before) {
    CHECK_MESSAGE((after[name].key != p.key) == p.gathers, name);
    (p.gathers ? changed : kept)++;
  }
  CHECK(changed >= 8); // whole layers, harnesses, stacks
  CHECK(kept >= 4);    // attention alone, MLP alone
}

TEST_CASE("a comment edit in a .phase file changes neither source key nor ir digest; another eps changes both") {
  std::string text = fileText(examplePath("tiny_qwen35_27b"));
  auto key = [](const std::string &layer_text, const std::string &path) {
    Layers layers = parse(layer_text, path);
    auto r = render(planOf(layers), layers.module(), embedded());
    REQUIRE(r.ok());
    return keyOf(r->source) + " " + tokenDigest(ir::print(layers.module()));
  };
  std::string commented = "// a remark at the top\n" + text;
  size_t at = commented.find("  %p ");
  REQUIRE(at != std::string::npos);
  commented.insert(at, "\n  // a remark in the middle\n");
  CHECK(key(commented, "/elsewhere/other.phase") == key(text, "a.phase"));
  std::string changed = text;
  at = changed.find("1e-6");
  REQUIRE(at != std::string::npos);
  changed.replace(at, 4, "1e-5");
  CHECK(key(changed, "a.phase") != key(text, "a.phase"));
}

TEST_CASE("the split, the target and the token maximum each change the key") {
  Layers layers = readExample("tiny_qwen35_27b");
  auto key = [&](const char *settings, const char *target) {
    auto r = render(planOf(layers, settings, target), layers.module(), embedded());
    REQUIRE(r.ok());
    return fingerprint(r->source, nvrtcArguments(CompileOptions()), target, 1).hex();
  };
  std::vector<std::string> keys = {key("wo_split=1", "sm_90a"), key("wo_split=8", "sm_90a"), key("wo_split=1", "sm_100a"),
                                   key("wo_split=1 tokens_max=4", "sm_90a"), key("wo_split=1 partition=2d", "sm_90a"),
                                   key("wo_split=1 warps=4", "sm_90a"), key("wo_split=1 ctas=7", "sm_90a")};
  std::sort(keys.begin(), keys.end());
  CHECK(std::unique(keys.begin(), keys.end()) == keys.end());
}

TEST_CASE("broken overlays are typed errors that name file and marker") {
  {
    Overlay o;
    o.edit("layer.cu", "//@ config", "// config");
    CHECK_MESSAGE(contains(failure(o), "layer.cu:"), failure(o));
  }
  {
    Overlay o;
    o.edit("layer.cu", "//@ phases", "//@ phrases");
    CHECK_MESSAGE(contains(failure(o), "unknown region `phrases`"), failure(o));
  }
  {
    Overlay o;
    std::string text(embedded().find("layer.cu")->text);
    size_t last = text.rfind("//@ end");
    o.write("layer.cu", text.substr(0, last) + text.substr(last + 7));
    CHECK(contains(failure(o), "has no `//@ end`"));
  }
  {
    Overlay o;
    o.edit("phases/gather.cuh", "../epilogue.cuh", "../epilog.cuh");
    CHECK(contains(failure(o), "phases/gather.cuh:"));
    CHECK(contains(failure(o), "epilog.cuh"));
  }
  {
    Overlay o;
    o.edit("gemv.cuh", "\"fold.cuh\"", "<cuda_fp16.h>");
    CHECK(contains(failure(o), "gemv.cuh:"));
    CHECK(contains(failure(o), "double quotes"));
  }
  {
    Overlay o;
    o.write("phases/gathr.cuh", "// not a template\n");
    CHECK(contains(failure(o), "gathr.cuh"));
  }
  auto none = Templates::overlaid("/nonexistent/overlay");
  REQUIRE_FALSE(none.ok());
  CHECK(none.status().kind() == ErrorKind::Io);
}
