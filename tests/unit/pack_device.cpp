// pack_device.cpp: the packer that runs on the device makes the host's images, byte for byte, and is a kernel like any other: keyed
// by what it packs, cached, refused where nothing may be compiled.
#include "tests/unit/pack_support.h"

#include <set>

using namespace runtimetest;

TEST_CASE("the device packs every weight of every tiny layer as the host does") {
  int weights = 0;
  for (const std::string &name : examples(true)) {
    auto session = Session::open(readExample(name), Setup{});
    REQUIRE_MESSAGE(session.ok(), session.status().text());
    PackedAlike alike = packedAlike(*session);
    CHECK_MESSAGE(alike.wrong.empty(), name, ": ", alike.wrong);
    weights += alike.weights;
  }
  CHECK(weights > 20);
}

TEST_CASE("... and rows and columns that end inside a tile, in either order of scales") {
  for (const Layers &layers : raggedLayers()) {
    auto session = Session::open(layers, Setup{});
    REQUIRE_MESSAGE(session.ok(), session.status().text());
    PackedAlike alike = packedAlike(*session);
    CHECK_MESSAGE(alike.wrong.empty(), layers.name(), ": ", alike.wrong);
    CHECK(alike.weights == 1);
  }
}

TEST_CASE("a packer is cached: one compile a shape and format, for all layers and processes; none where jit is off") {
  TemporaryDir dir;
  Setup setup;
  setup.cache = dir.text() + "/cache";
  auto compiles = [&](const char *layer) {
    auto session = Session::open(readExample(layer), setup);
    REQUIRE(session.ok());
    int64_t before = session->runtime.cache().counters().compiles;
    CHECK(packedAlike(*session).wrong == "");
    return session->runtime.cache().counters().compiles - before;
  };
  CHECK(compiles("tiny_qwen3_8b") > 0);
  CHECK(compiles("tiny_qwen3_8b") == 0); // another runtime, as another process
  auto entries = listEntries(userFile(setup.cache));
  REQUIRE(entries.ok());
  CHECK(std::any_of(entries->begin(), entries->end(), [](const EntryInfo &e) { return e.layer.rfind("pack_", 0) == 0; }));

  TemporaryDir edited; // of the packer's skeleton: packers are others, layers' kernels the same
  edited.write("pack.cu", std::string(Templates::embedded().find("pack.cu")->text) + "\nint one_more;\n");
  setup.templates = edited.text();
  {
    auto session = Session::open(readExample("tiny_qwen3_8b"), setup);
    REQUIRE(session.ok());
    CHECK(session->runtime.cache().counters().compiles == 0);
    CHECK(packedAlike(*session).wrong == "");
    CHECK(session->runtime.cache().counters().compiles > 0);
  }
  setup.templates.clear();

  auto layers = readExample("tiny_mlp_only");
  { // its kernel alone
    auto session = Session::open(layers, setup);
    REQUIRE(session.ok());
  }
  setup.jit = Jit::Off;
  auto runtime = Runtime::open(runtimeOptions(setup));
  REQUIRE(runtime.ok());
  auto kernel = runtime->prepare(layers, scheduleOf(""));
  REQUIRE(kernel.ok());
  std::string weight = kernel->plan().bodies[0].table[size_t(kernel->plan().bodies[0].steps[0].gemv.weight)].name;
  uint64_t at = *runtime->allocate(*kernel->packedBytes(weight));
  auto refused = kernel->packOnDevice(weight, {reinterpret_cast<const void *>(at), reinterpret_cast<const void *>(at)}, at);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.status().kind() == ErrorKind::CacheMiss);
  CHECK_MESSAGE(contains(refused.status().text(), "Kernel::pack"), refused.status().text());
  Status unprepared = kernel->preparePackers().status();
  CHECK(unprepared.kind() == ErrorKind::CacheMiss);
  size_t named = 0; // both weights' packers
  for (size_t at = 0; (at = unprepared.text().find("no cache layer has @pack_", at)) != std::string::npos; at++) named++;
  CHECK_MESSAGE(named == 2, unprepared.text());
}

TEST_CASE("packers of a kernel are had beforehand, each shape once, and then pack where jit is off") {
  TemporaryDir dir;
  Setup setup;
  setup.cache = dir.text() + "/cache";
  {
    auto session = Session::open(readExample("tiny_mixed_stack"), setup); // weights of the same names and other shapes
    REQUIRE_MESSAGE(session.ok(), session.status().text());
    auto packers = session->kernel.preparePackers();
    REQUIRE_MESSAGE(packers.ok(), packers.status().text());
    auto entries = listEntries(userFile(setup.cache));
    REQUIRE(entries.ok());
    std::set<Key> rows, had;
    for (const EntryInfo &e : *entries)
      if (e.layer.rfind("pack_", 0) == 0) rows.insert(e.key);
    for (const Packer &p : *packers) CHECK(had.insert(p.key).second);
    CHECK(had == rows);
    int64_t before = session->runtime.cache().counters().compiles;
    CHECK(packedAlike(*session).wrong == "");
    CHECK(session->runtime.cache().counters().compiles == before);
  }
  setup.jit = Jit::Off;
  auto session = Session::open(readExample("tiny_mixed_stack"), setup);
  REQUIRE_MESSAGE(session.ok(), session.status().text());
  CHECK(packedAlike(*session).wrong == "");
}

TEST_CASE("a layout id names its bytes: images that change need another one, or older ones bind") {
  const std::pair<const char *, uint64_t> kKnown[] = {{"nvfp4.16x64.gate_up.r3", 8787006553617656734u},
                                                       {"nvfp4.16x64.rows.r3", 8065328802418567433u},
                                                       {"fp8_e4m3.16x64.gate_up", 5629201514392986075u},
                                                       {"bf16.16x64.rows", 3858676753766076970u}};
  auto layers = raggedLayers();
  REQUIRE(layers.size() == std::size(kKnown));
  for (size_t i = 0; i < layers.size(); i++) {
    auto session = Session::open(layers[i], Setup{});
    REQUIRE_MESSAGE(session.ok(), session.status().text());
    std::vector<uint8_t> bytes(1 << 20);
    for (size_t k = 0; k < bytes.size(); k++) bytes[k] = uint8_t(k * 2654435761u >> 13);
    auto packed = session->kernel.pack("w", {bytes.data(), bytes.data() + 12345});
    REQUIRE_MESSAGE(packed.ok(), packed.status().text());
    uint64_t digest = 14695981039346656037u; // FNV-1a
    for (uint8_t b : packed->bytes) digest = (digest ^ b) * 1099511628211u;
    CHECK(packed->layout == kKnown[i].first);
    CHECK_MESSAGE(digest == kKnown[i].second, packed->layout, ": ", digest);
  }
}

TEST_CASE("what cannot be packed on the device says why") {
  auto session = Session::open(readExample("tiny_qwen35_27b"), Setup{});
  REQUIRE(session.ok());
  uint64_t at = *session->runtime.allocate(*session->kernel.packedBytes("w_o"));
  auto text = [&](const std::string &name, uint64_t codes, uint64_t scales, uint64_t image) {
    auto packed = session->kernel.packOnDevice(name, {reinterpret_cast<const void *>(codes), reinterpret_cast<const void *>(scales)}, image);
    REQUIRE_FALSE(packed.ok());
    return packed.status().text();
  };
  CHECK(contains(text("w_x", at, at, at), "%w_x"));
  CHECK(contains(text("w_o", 0, at, at), "codes are missing"));
  CHECK(contains(text("w_o", at, 0, at), "block scales"));
  CHECK(contains(text("w_o", at + 8, at, at), "aligned to 16"));
  CHECK(contains(text("w_o", at, at, 0), "no image"));
  CHECK_FALSE(session->kernel.packedBytes("w_x").ok());
}
