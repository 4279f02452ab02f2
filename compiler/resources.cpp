// resources.cpp: a bounds-checked walk over the few parts of a cubin that matter here, and a reader of ptxas's -v
// lines.
#include "compiler/resources.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace phasec {
namespace {

constexpr size_t kElfHeaderBytes = 64, kSectionHeaderBytes = 64, kSymbolBytes = 24;
constexpr uint16_t kMachineCuda = 190;
constexpr uint32_t kSectionNoBits = 8;
constexpr int64_t kReservedSharedBytes = 1024; ///< the system's part of .nv.shared on sm_90 and later

// Attributes of .nv.info: {format, attribute, u16 size, {u32 symbol, u32 value}} for the two read here.
constexpr uint8_t kInfoSizedFormat = 0x04, kInfoFrameSize = 0x11, kInfoRegisters = 0x2f;

struct Section {
  std::string_view name;
  uint32_t type = 0;
  uint64_t offset = 0, bytes = 0;
};

struct Elf {
  std::span<const uint8_t> image;
  std::vector<Section> sections;

  /// Little-endian integer; the caller has checked the range.
  template <class T> T read(size_t at) const {
    T value;
    std::memcpy(&value, image.data() + at, sizeof value);
    return value;
  }
  bool holds(uint64_t offset, uint64_t bytes) const { return offset <= image.size() && bytes <= image.size() - offset; }

  /// A section whose bytes are in the file (readSections has checked their range), by name.
  const Section *find(std::string_view name) const {
    for (const Section &section : sections)
      if (section.name == name && section.type != kSectionNoBits) return &section;
    return nullptr;
  }
  /// NUL-terminated text at `at` of a string table; empty when it does not end inside the table.
  std::string_view text(const Section &table, uint64_t at) const {
    if (at >= table.bytes) return {};
    const char *begin = reinterpret_cast<const char *>(image.data() + table.offset + at);
    const void *end = std::memchr(begin, 0, table.bytes - at);
    return end ? std::string_view(begin, static_cast<const char *>(end) - begin) : std::string_view();
  }
};

Status bad(const char *why) {
  return Status::toolchain(std::string("not a usable cubin: ") + why + "; compile the kernel again");
}

Status readSections(Elf &elf) {
  static const uint8_t magic[] = {0x7f, 'E', 'L', 'F', 2, 1};
  if (!elf.holds(0, kElfHeaderBytes) || std::memcmp(elf.image.data(), magic, sizeof magic) != 0)
    return bad("it does not begin with a 64-bit ELF header");
  if (elf.read<uint16_t>(18) != kMachineCuda) return bad("its machine is not CUDA");
  uint64_t programs_at = elf.read<uint64_t>(32), sections_at = elf.read<uint64_t>(40);
  uint64_t programs_bytes = uint64_t(elf.read<uint16_t>(54)) * elf.read<uint16_t>(56);
  uint16_t entry_bytes = elf.read<uint16_t>(58), count = elf.read<uint16_t>(60), names = elf.read<uint16_t>(62);
  if (entry_bytes != kSectionHeaderBytes || !elf.holds(sections_at, uint64_t(count) * entry_bytes))
    return bad("its section headers lie outside the file");
  if (!elf.holds(programs_at, programs_bytes)) return bad("its program headers lie outside the file");
  std::vector<uint32_t> name_offsets;
  for (uint16_t i = 0; i < count; ++i) {
    size_t at = sections_at + size_t(i) * kSectionHeaderBytes;
    Section section{{}, elf.read<uint32_t>(at + 4), elf.read<uint64_t>(at + 24), elf.read<uint64_t>(at + 32)};
    if (section.type != kSectionNoBits && !elf.holds(section.offset, section.bytes))
      return bad("a section lies outside the file");
    name_offsets.push_back(elf.read<uint32_t>(at));
    elf.sections.push_back(section);
  }
  if (names >= count || elf.sections[names].type == kSectionNoBits) return bad("it has no section names");
  for (uint16_t i = 0; i < count; ++i) elf.sections[i].name = elf.text(elf.sections[names], name_offsets[i]);
  return {};
}

KernelResources *findKernel(std::vector<KernelResources> &kernels, std::string_view name) {
  for (KernelResources &kernel : kernels)
    if (kernel.kernel == name) return &kernel;
  return nullptr;
}

/// Registers and stack, by symbol, from .nv.info.
void readInfo(const Elf &elf, std::vector<KernelResources> &kernels) {
  const Section *info = elf.find(".nv.info"), *symbols = elf.find(".symtab"), *strings = elf.find(".strtab");
  if (!info || !symbols || !strings) return;
  for (uint64_t at = 0; at + 4 <= info->bytes;) {
    size_t here = info->offset + at;
    uint8_t format = elf.read<uint8_t>(here), attribute = elf.read<uint8_t>(here + 1);
    uint16_t bytes = format == kInfoSizedFormat ? elf.read<uint16_t>(here + 2) : uint16_t(0);
    if (at + 4 + bytes > info->bytes) return;
    at += 4 + bytes;
    if (bytes != 8 || (attribute != kInfoRegisters && attribute != kInfoFrameSize)) continue;
    uint64_t symbol = uint64_t(elf.read<uint32_t>(here + 4)) * kSymbolBytes;
    if (symbol + kSymbolBytes > symbols->bytes) continue;
    std::string_view name = elf.text(*strings, elf.read<uint32_t>(symbols->offset + symbol));
    if (KernelResources *kernel = findKernel(kernels, name)) {
      uint32_t value = elf.read<uint32_t>(here + 8);
      if (attribute == kInfoRegisters)
        kernel->resources.registers = int(value);
      else
        kernel->resources.local_bytes = value;
    }
  }
}

/// The number that stands right before `unit` in `line` ("128 bytes smem"), or -1.
int64_t numberBefore(std::string_view line, std::string_view unit) {
  size_t end = line.find(unit);
  if (end == std::string_view::npos) return -1;
  size_t begin = end;
  while (begin > 0 && line[begin - 1] >= '0' && line[begin - 1] <= '9') --begin;
  int64_t value = -1;
  std::from_chars(line.data() + begin, line.data() + end, value);
  return value;
}

void readLog(std::string_view log, std::vector<KernelResources> &kernels) {
  constexpr std::string_view kEntry = "Compiling entry function '", kProperties = "Function properties for ";
  KernelResources *kernel = nullptr;     // whose "Used ..." line comes
  KernelResources *properties = nullptr; // whose "... bytes stack frame" line comes; a device function has none here
  while (!log.empty()) {
    std::string_view line = log.substr(0, log.find('\n'));
    log.remove_prefix(std::min(log.size(), line.size() + 1));
    if (size_t at = line.find(kEntry); at != std::string_view::npos) {
      std::string_view name = line.substr(at + kEntry.size());
      kernel = properties = findKernel(kernels, name.substr(0, name.find('\'')));
    } else if (size_t at = line.find(kProperties); at != std::string_view::npos) {
      std::string_view name = line.substr(at + kProperties.size());
      properties = findKernel(kernels, name.substr(0, name.find_last_not_of(" \r") + 1));
    } else if (properties && line.find(" bytes stack frame") != std::string_view::npos) {
      Resources &found = properties->resources;
      found.local_bytes = std::max<int64_t>(0, numberBefore(line, " bytes stack frame"));
      found.spill_store_bytes = std::max<int64_t>(0, numberBefore(line, " bytes spill stores"));
      found.spill_load_bytes = std::max<int64_t>(0, numberBefore(line, " bytes spill loads"));
    } else if (kernel && line.find(": Used ") != std::string_view::npos) {
      kernel->resources.registers = int(numberBefore(line, " registers"));
      kernel->resources.shared_bytes = std::max<int64_t>(0, numberBefore(line, " bytes smem"));
    }
  }
}

/// A JSON string. Names come out of ELF files, so anything may be in them.
std::string quoted(std::string_view text) {
  std::string json = "\"";
  for (char c : text) {
    bool plain = c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
    constexpr const char *kDigits = "0123456789abcdef";
    if (plain)
      json += c;
    else
      json += std::string("\\u00") + kDigits[(c >> 4) & 15] + kDigits[c & 15];
  }
  return json + "\"";
}

} // namespace

Status validateCubin(std::span<const uint8_t> cubin) {
  Elf elf{cubin, {}};
  return readSections(elf);
}

Result<std::vector<KernelResources>> readResources(std::span<const uint8_t> cubin, std::string_view log) {
  constexpr std::string_view kText = ".text.", kShared = ".nv.shared.";
  Elf elf{cubin, {}};
  PHASEC_TRY(readSections(elf));
  std::vector<KernelResources> kernels;
  for (const Section &section : elf.sections)
    if (section.name.substr(0, kText.size()) == kText) {
      KernelResources kernel{std::string(section.name.substr(kText.size())), {}};
      kernel.resources.code_bytes = int64_t(section.bytes);
      kernels.push_back(std::move(kernel));
    }
  std::sort(kernels.begin(), kernels.end(), [](const auto &a, const auto &b) { return a.kernel < b.kernel; });
  bool keeps_shared = std::any_of(elf.sections.begin(), elf.sections.end(),
                                  [](const Section &section) { return section.name == ".nv.shared.reserved.0"; });
  int64_t reserved = keeps_shared ? kReservedSharedBytes : 0;
  for (const Section &section : elf.sections)
    if (section.name.substr(0, kShared.size()) == kShared)
      if (KernelResources *kernel = findKernel(kernels, section.name.substr(kShared.size())))
        kernel->resources.shared_bytes = std::max<int64_t>(0, int64_t(section.bytes) - reserved);
  readInfo(elf, kernels);
  readLog(log, kernels);
  return kernels;
}

// Written by hand: llvm::json does not compile as C++20 with clang 14 and libstdc++ 12, and this needs none of it.
std::string resourcesJson(std::string_view target, const std::vector<KernelResources> &kernels) {
  std::string json =
      "{\n  \"schema\": \"phasec.resources/1\",\n  \"target\": " + quoted(target) + ",\n  \"kernels\": [";
  const char *separator = "\n";
  for (const KernelResources &kernel : kernels) {
    const Resources &r = kernel.resources;
    const std::pair<const char *, int64_t> figures[] = {{"registers", r.registers},
                                                        {"spill_store_bytes", r.spill_store_bytes},
                                                        {"spill_load_bytes", r.spill_load_bytes},
                                                        {"local_bytes", r.local_bytes},
                                                        {"shared_bytes", r.shared_bytes},
                                                        {"code_bytes", r.code_bytes}};
    json += separator + std::string("    {\n      \"kernel\": ") + quoted(kernel.kernel);
    for (const auto &[name, value] : figures) json += ",\n      " + quoted(name) + ": " + std::to_string(value);
    json += "\n    }";
    separator = ",\n";
  }
  return json + (kernels.empty() ? "]\n}" : "\n  ]\n}");
}

} // namespace phasec
