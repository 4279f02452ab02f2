// bless_manifest.cpp: manifest lines: written, read, recorded once, refused with their place.
#include "runtime/manifest.h"

#include "runtime/heartbeat.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <sys/wait.h>
#include <unistd.h>

using namespace phasec;
namespace fs = std::filesystem;

namespace {

/// A directory of the test's own.
struct Scratch {
  fs::path path;
  Scratch() {
    char name[] = "/tmp/phasec-manifest-XXXXXX";
    path = mkdtemp(name);
  }
  ~Scratch() { fs::remove_all(path); }
};

std::string readAll(const fs::path &path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

ManifestLine sample() {
  ManifestLine line;
  line.layer = "layers/a.phase";
  line.ir_digest = "0123456789abcdef0123456789abcdef";
  line.target = "sm_90a";
  line.knobs = {{"math", "exact"}, {"wo_split", "8"}};
  line.key = Key{8, {0x91ab, 0x17}};
  return line;
}

std::string errorOf(const std::string &text) {
  Result<std::vector<ManifestLine>> lines = parseManifest("m", text);
  REQUIRE_FALSE(lines.ok());
  CHECK(lines.status().kind() == ErrorKind::Input);
  return lines.status().text();
}

} // namespace

TEST_CASE("manifest: the text of a line reads back as the line") {
  ManifestLine line = sample();
  CHECK(line.text() == "layers/a.phase ir=0123456789abcdef0123456789abcdef target=sm_90a math=exact wo_split=8 "
                       "key=8,00000000000091ab0000000000000017");
  for (const char *path : {"a.phase", "with blank/a.phase", "#odd.phase", "quo\"te \\ back.phase", "../up/a=b.phase"}) {
    line.layer = path;
    auto lines = parseManifest("m", "# a comment\n\n  " + line.text() + "   # behind\n");
    REQUIRE(lines.ok());
    REQUIRE(lines->size() == 1);
    CHECK((*lines)[0].layer == path);
    CHECK((*lines)[0].number == 3);
    CHECK((*lines)[0].knobs == line.knobs);
    CHECK((*lines)[0].key == line.key);
    CHECK((*lines)[0].text() == line.text());
  }
}

TEST_CASE("manifest: what is no line is refused with its place") {
  CHECK(errorOf("a.phase target=sm_90a\na.phase target=sm_91\n").find("m:2: error: ") == 0);
  CHECK(errorOf("a.phase\n").find("needs target=") != std::string::npos);
  CHECK(errorOf("a.phase target=auto\n").find("needs target=") != std::string::npos);
  CHECK(errorOf("a.phase target=sm_90a wo_splt=8\n").find("wo_split") != std::string::npos);
  CHECK(errorOf("a.phase target=sm_90a wo_split=many\n").find("m:1") == 0);
  CHECK(errorOf("a.phase target=sm_90a key=8,12\n").find("no key") != std::string::npos);
  CHECK(errorOf("a.phase target=sm_90a ir=xyz\n").find("no digest") != std::string::npos);
  CHECK(errorOf("\"a.phase target=sm_90a\n").find("quote") != std::string::npos);
  CHECK(errorOf("a.phase target=sm_90a exact\n").find("name=value") != std::string::npos);
  CHECK(errorOf("# phasec manifest 2\n").find("version 2") != std::string::npos);
}

TEST_CASE("manifest: a line is recorded once, relative to the manifest") {
  Scratch scratch;
  fs::create_directories(scratch.path / "layers");
  fs::create_directories(scratch.path / "ship");
  std::string manifest = (scratch.path / "ship/m.manifest").string();
  ManifestLine line = sample(), other = sample();
  line.layer = (scratch.path / "layers/a.phase").string();
  other.layer = line.layer;
  other.knobs[1].second = "4";
  CHECK(*recordLines(manifest, {line, line}) == 1);
  CHECK(*recordLines(manifest, {line, other}) == 1);
  std::string text = readAll(manifest);
  CHECK(text.find("# phasec manifest 1\n../layers/a.phase ir=") == 0);
  CHECK(readManifest(manifest)->size() == 2);

  std::ofstream(manifest, std::ios::app) << "garbage\n";
  CHECK(recordLines(manifest, {sample()}).status().kind() == ErrorKind::Input);
  CHECK(recordLines((scratch.path / "none/m").string(), {line}).status().kind() == ErrorKind::Io);
}

TEST_CASE("manifest: processes that record at a time neither lose nor tear lines") {
  Scratch scratch;
  std::string manifest = (scratch.path / "m.manifest").string();
  constexpr int kProcesses = 4, kLines = 25;
  for (int p = 0; p < kProcesses; p++) {
    if (fork() != 0) continue;
    for (int i = 0; i < kLines; i++) {
      ManifestLine line = sample();
      line.key = Key{1, {uint64_t(i % 5 == 0 ? 0 : p + 1), uint64_t(i)}}; // every fifth line is everybody's
      if (!recordLines(manifest, {line})) _exit(1);
    }
    _exit(0);
  }
  for (int p = 0; p < kProcesses; p++) {
    int status = 1;
    wait(&status);
    CHECK(status == 0);
  }
  Result<std::vector<ManifestLine>> lines = readManifest(manifest);
  REQUIRE(lines.ok());
  CHECK(lines->size() == kProcesses * (kLines - kLines / 5) + kLines / 5);
}

TEST_CASE("heartbeat: beats while it lives, and not without a listener") {
  std::atomic<int> beats{0};
  {
    Heartbeat heartbeat([&](int) { beats++; }, std::chrono::milliseconds(5));
    for (int i = 0; i < 400 && beats < 3; i++) usleep(5000);
  }
  int after = beats;
  CHECK(after >= 3);
  usleep(20000);
  CHECK(beats == after);
  Heartbeat silent(nullptr, std::chrono::milliseconds(1));
}
