// manifest.cpp: see manifest.h.
#include "runtime/manifest.h"

#include "compiler/fingerprint.h"
#include "ir/suggest.h"
#include "runtime/state.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <sys/file.h>
#include <unistd.h>

namespace phasec {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kHeader = "# phasec manifest ";
constexpr std::string_view kVersion = "1";
constexpr std::string_view kBlank = " \t\r";
constexpr size_t kDigestDigits = 32;

std::string quoted(const std::string &path) {
  bool plain = !path.empty() && path[0] != '#' && path.find_first_of(" \t\"\\") == std::string::npos;
  if (plain) return path;
  std::string text = "\"";
  for (char c : path) {
    if (c == '"' || c == '\\') text += '\\';
    text += c;
  }
  return text + '"';
}

/// Takes the next word off `rest`; a word in double quotes may hold blanks. nullopt for a quote without its end.
std::optional<std::string> takeWord(std::string_view &rest) {
  std::string word;
  if (rest[0] != '"') {
    size_t end = std::min(rest.find_first_of(kBlank), rest.size());
    word = rest.substr(0, end);
    rest.remove_prefix(end);
    return word;
  }
  for (size_t i = 1; i < rest.size(); i++) {
    if (rest[i] == '"') {
      rest.remove_prefix(i + 1);
      return word;
    }
    if (rest[i] == '\\' && i + 1 < rest.size()) i++;
    word += rest[i];
  }
  return std::nullopt;
}

/// Words of one line up to a comment.
Result<std::vector<std::string>> wordsOf(std::string_view rest) {
  std::vector<std::string> words;
  while (true) {
    rest.remove_prefix(std::min(rest.find_first_not_of(kBlank), rest.size()));
    if (rest.empty() || rest[0] == '#') return words;
    std::optional<std::string> word = takeWord(rest);
    if (!word) return Status::input("a quote without its end");
    words.push_back(std::move(*word));
  }
}

bool isDigest(std::string_view text) {
  return text.size() == kDigestDigits && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

Status readWord(const std::string &word, ManifestLine &line) {
  size_t equals = word.find('=');
  if (equals == std::string::npos) return Status::input("expected name=value, found `" + word + "`");
  std::string name = word.substr(0, equals), value = word.substr(equals + 1);
  if (name == "ir") {
    if (!isDigest(value)) return Status::input("`" + value + "` is no digest of 32 hexadecimal digits");
    line.ir_digest = value;
  } else if (name == "key") {
    line.key = Key::parse(value);
    if (!line.key) return Status::input("`" + value + "` is no key; expected wo_split,32 hexadecimal digits");
  } else {
    Schedule probe; // says what is wrong with the knob or its value
    if (Status s = probe.set(name, value, Origin::Host); !s.ok()) return Status::input(s.text());
    if (name == "target")
      line.target = value;
    else
      line.knobs.emplace_back(name, value);
  }
  return {};
}

Status readLine(std::string_view text, ManifestLine &line) {
  PHASEC_ASSIGN(std::vector<std::string> words, wordsOf(text));
  if (words.empty()) return {};
  line.layer = words[0];
  for (size_t i = 1; i < words.size(); i++) PHASEC_TRY(readWord(words[i], line));
  if (line.target.empty() || line.target == "auto")
    return Status::input("a manifest line needs target=, for example target=sm_90a");
  return {};
}

std::string relativeTo(const std::string &manifest, const std::string &layer) {
  std::error_code error;
  fs::path to = fs::weakly_canonical(fs::absolute(manifest, error).parent_path(), error);
  fs::path relative = fs::relative(fs::absolute(layer, error), to, error);
  return error || relative.empty() ? layer : relative.string();
}

/// An open file that no other recorder changes meanwhile; the kernel gives the lock back when its holder dies.
struct LockedFile {
  int fd;
  explicit LockedFile(const std::string &path) : fd(open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) {
    while (fd >= 0 && flock(fd, LOCK_EX) != 0 && errno == EINTR) {
    }
  }
  ~LockedFile() {
    if (fd >= 0) close(fd);
  }
  std::string read() const {
    std::string text;
    char block[16384];
    for (ssize_t n; (n = pread(fd, block, sizeof block, off_t(text.size()))) > 0;) text.append(block, size_t(n));
    return text;
  }
  bool append(const std::string &text) const {
    for (size_t done = 0; done < text.size();) {
      ssize_t n = write(fd, text.data() + done, text.size() - done);
      if (n < 0 && errno != EINTR) return false;
      if (n > 0) done += size_t(n);
    }
    return true;
  }
};

} // namespace

std::string ManifestLine::text() const {
  std::string line = quoted(layer);
  if (!ir_digest.empty()) line += " ir=" + ir_digest;
  line += " target=" + target;
  for (const auto &[knob, value] : knobs) line += " " + knob + "=" + value;
  if (key) line += " key=" + std::to_string(key->wo_split) + "," + key->fingerprint.hex();
  return line;
}

ManifestLine manifestLine(const Layers &layers, const Plan &plan, std::string_view source) {
  ManifestLine line;
  line.layer = layers.module().path;
  line.ir_digest = layers.digest();
  line.target = plan.target->name;
  for (const KnobInfo &k : knobs())
    if (std::string_view(k.name) != "target" && plan.schedule.origin(k.name) != Origin::Default)
      line.knobs.emplace_back(k.name, plan.schedule.text(k.name));
  std::vector<std::string> options = nvrtcArguments(detail::compileOptions(plan));
  KernelFingerprint f = fingerprint(source, options, plan.target->name, kLaunchAbi);
  line.key = Key{plan.schedule.integer("wo_split"), {f.high, f.low}};
  return line;
}

Result<std::vector<ManifestLine>> parseManifest(const std::string &path, std::string_view text) {
  std::vector<ManifestLine> lines;
  for (int number = 1; !text.empty(); number++) {
    size_t end = std::min(text.find('\n'), text.size());
    std::string_view row = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    std::string where = path + ":" + std::to_string(number) + ": error: ";
    if (row.substr(0, kHeader.size()) == kHeader) {
      std::string version(row.substr(kHeader.size()));
      while (!version.empty() && kBlank.find(version.back()) != std::string_view::npos) version.pop_back();
      if (version != kVersion)
        return Status::input(where + "manifest version " + version + " is not known; this phasec reads 1");
      continue;
    }
    ManifestLine line;
    line.number = number;
    if (Status s = readLine(row, line); !s.ok()) return Status::input(where + s.text());
    if (!line.layer.empty()) lines.push_back(std::move(line));
  }
  return lines;
}

Result<std::vector<ManifestLine>> readManifest(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file) return Status::io(path + ": cannot be read; a manifest comes from `phasec run --record FILE`");
  text << file.rdbuf();
  return parseManifest(path, text.str());
}

Result<int> recordLines(const std::string &manifest, const std::vector<ManifestLine> &lines) {
  LockedFile file(manifest);
  if (file.fd < 0) return Status::io(manifest + ": cannot be written: " + std::strerror(errno));
  std::string before = file.read(), added;
  PHASEC_ASSIGN(std::vector<ManifestLine> known, parseManifest(manifest, before));
  std::vector<std::string> texts;
  for (const ManifestLine &line : known) texts.push_back(line.text());
  if (before.empty())
    added += std::string(kHeader) + std::string(kVersion) + "\n";
  else if (before.back() != '\n')
    added += "\n";
  int count = 0;
  for (ManifestLine line : lines) {
    line.layer = relativeTo(manifest, line.layer);
    std::string text = line.text();
    if (std::find(texts.begin(), texts.end(), text) != texts.end()) continue;
    texts.push_back(text);
    added += text + "\n";
    count++;
  }
  if (!file.append(added)) return Status::io(manifest + ": cannot be written: " + std::strerror(errno));
  return count;
}

} // namespace phasec
