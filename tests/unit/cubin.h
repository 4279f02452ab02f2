// cubin.h: CUDA ELF files made here, so that neither a compiler nor a GPU is needed to have one.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

namespace phasec::test {

template <class T> void put(std::vector<uint8_t> &bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

/// A CUDA ELF file as NVRTC lays it out.
struct CubinBuilder {
  std::vector<uint8_t> bytes = std::vector<uint8_t>(64);
  struct Header {
    uint32_t name, type;
    uint64_t offset, size;
  };
  std::vector<Header> headers = {{0, 0, 0, 0}};
  std::string names = std::string(1, '\0');

  void section(const std::string &name, uint32_t type, const std::string &content, uint64_t size = 0) {
    headers.push_back({uint32_t(names.size()), type, bytes.size(), type == 8 ? size : content.size()});
    names += name + '\0';
    bytes.insert(bytes.end(), content.begin(), content.end());
  }
  std::vector<uint8_t> finish() {
    section(".shstrtab", 3, "");
    headers.back().size = names.size();
    bytes.insert(bytes.end(), names.begin(), names.end());
    size_t table = bytes.size();
    bytes.resize(table + headers.size() * 64);
    for (size_t i = 0; i < headers.size(); i++) {
      size_t at = table + i * 64;
      put(bytes, at, headers[i].name);
      put(bytes, at + 4, headers[i].type);
      put(bytes, at + 24, headers[i].offset);
      put(bytes, at + 32, headers[i].size);
    }
    const uint8_t magic[] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
    std::memcpy(bytes.data(), magic, sizeof magic);
    put(bytes, 18, uint16_t(190));
    put(bytes, 40, uint64_t(table));
    put(bytes, 58, uint16_t(64));
    put(bytes, 60, uint16_t(headers.size()));
    put(bytes, 62, uint16_t(headers.size() - 1));
    return bytes;
  }
};

inline std::string words(std::initializer_list<uint32_t> values) {
  std::string text;
  for (uint32_t value : values) text.append(reinterpret_cast<const char *>(&value), 4);
  return text;
}

inline std::string symbol(uint32_t name) { return words({name, 0, 0, 0, 0, 0}); }

/// A file with two kernels, `second` and `phasec_layer`, whose code is `code`.
inline std::vector<uint8_t> cubin(const std::string &code = std::string(7040, 'y')) {
  CubinBuilder builder;
  builder.section(".strtab", 3, std::string("\0second\0phasec_layer\0", 21));
  builder.section(".symtab", 2, symbol(0) + symbol(1) + symbol(8));
  builder.section(".nv.info", 0x70000000,
                  words({0x00043704, 0x00000137 /* an attribute of no interest */}) +
                      words({0x00082f04, 2, 168, 0x00081104, 2, 40, 0x00082f04, 1, 24}));
  builder.section(".text.second", 1, std::string(384, 'x'));
  builder.section(".text.phasec_layer", 1, code);
  builder.section(".nv.shared.second", 8, "", 1024 + 256);
  builder.section(".nv.shared.reserved.0", 8, "", 0);
  return builder.finish();
}

} // namespace phasec::test
