// resources_read.cpp: ELF files and logs made here, so that no compiler is needed: figures, and every kind of damage.
#include "compiler/resources.h"
#include "tests/unit/cubin.h"

#include <cstring>
#include <doctest/doctest.h>
#include <random>

using namespace phasec;
using phasec::test::cubin;
using phasec::test::put;

namespace {

const char *kLog =
    "ptxas info    : 0 bytes gmem\n"
    "ptxas info    : Compiling entry function 'phasec_layer' for 'sm_90a'\n"
    "ptxas info    : Function properties for phasec_layer\n"
    "ptxas         .     48 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads\n"
    "ptxas info    : Function properties for some_device_function\n"
    "    999 bytes stack frame, 999 bytes spill stores, 999 bytes spill loads\n"
    "ptxas info    : Used 168 registers, used 1 barriers, 48 bytes cumulative stack size, 96 bytes smem\n"
    "ptxas info    : Compiling entry function 'second' for 'sm_90a'\n"
    "ptxas info    : Function properties for second\n"
    "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    "ptxas info    : Used 24 registers, 256 bytes smem\n";

} // namespace

TEST_CASE("figures from the cubin alone") {
  auto read = readResources(cubin(), "");
  REQUIRE_MESSAGE(read.ok(), read.status().text());
  REQUIRE(read->size() == 2);
  CHECK((*read)[0].kernel == "phasec_layer");
  CHECK((*read)[0].resources.registers == 168);
  CHECK((*read)[0].resources.local_bytes == 40);
  CHECK((*read)[0].resources.code_bytes == 7040);
  CHECK((*read)[0].resources.spill_store_bytes == 0);
  CHECK((*read)[1].kernel == "second");
  CHECK((*read)[1].resources.registers == 24);
  CHECK((*read)[1].resources.shared_bytes == 256);
}

TEST_CASE("figures from the log, each with its own kernel; device functions do not count") {
  auto read = readResources(cubin(), kLog);
  REQUIRE(read.ok());
  const Resources &layer = (*read)[0].resources, &second = (*read)[1].resources;
  CHECK(layer.registers == 168);
  CHECK(layer.spill_store_bytes == 12);
  CHECK(layer.spill_load_bytes == 20);
  CHECK(layer.local_bytes == 48);
  CHECK(layer.shared_bytes == 96);
  CHECK(second.spill_load_bytes == 0);
  CHECK(second.shared_bytes == 256);
}

TEST_CASE("phasec.resources/1") {
  auto read = readResources(cubin(), kLog);
  REQUIRE(read.ok());
  std::string json = resourcesJson("sm_90a", *read);
  for (const char *part :
       {"\"schema\": \"phasec.resources/1\"", "\"target\": \"sm_90a\"", "\"kernel\": \"phasec_layer\"",
        "\"registers\": 168", "\"spill_store_bytes\": 12", "\"spill_load_bytes\": 20", "\"local_bytes\": 48",
        "\"shared_bytes\": 96", "\"code_bytes\": 7040"})
    CHECK_MESSAGE(json.find(part) != std::string::npos, part);
}

TEST_CASE("JSON of no kernels, and of a name that needs escaping") {
  CHECK(resourcesJson("sm_80", {}) ==
        "{\n  \"schema\": \"phasec.resources/1\",\n  \"target\": \"sm_80\",\n  \"kernels\": []\n}");
  std::string json = resourcesJson("sm_80", {{"a\"b\n\xff", {}}, {"c", {}}});
  CHECK(json.find("\"kernel\": \"a\\u0022b\\u000a\\u00ff\"") != std::string::npos);
  CHECK(json.find("},\n    {") != std::string::npos);
}

TEST_CASE("a cubin cut anywhere is refused or whole") {
  std::vector<uint8_t> whole = cubin();
  CHECK(validateCubin(whole).ok());
  for (size_t bytes = 0; bytes < whole.size(); bytes++) {
    std::vector<uint8_t> cut(whole.begin(), whole.begin() + bytes);
    Status status = validateCubin(cut);
    REQUIRE_FALSE(status.ok());
    REQUIRE(status.kind() == ErrorKind::Toolchain);
    REQUIRE_FALSE(readResources(cut, kLog).ok());
  }
}

TEST_CASE("flipped bytes never lead outside the file") {
  const std::vector<uint8_t> whole = cubin();
  std::mt19937 random(11);
  int refused = 0;
  for (int i = 0; i < 20000; i++) {
    std::vector<uint8_t> bent = whole;
    size_t headers = whole.size() - 9 * 64;
    for (int flips = 1 + random() % 3; flips > 0; flips--) {
      size_t at = random() % 2 ? random() % 64 : random() % 4 ? headers + random() % (9 * 64) : random() % bent.size();
      bent[at] = uint8_t(random());
    }
    refused += !readResources(bent, kLog).ok(); // a sanitizer build watches the reads
  }
  CHECK(refused > 2000);
  CHECK(refused < 20000);
}

TEST_CASE("other files are refused with a reason") {
  CHECK_FALSE(validateCubin({}).ok());
  std::vector<uint8_t> host = cubin();
  put(host, 18, uint16_t(62)); // x86-64
  CHECK(validateCubin(host).text().find("machine is not CUDA") != std::string::npos);
}
