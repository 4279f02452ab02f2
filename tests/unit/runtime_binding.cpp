// runtime_binding.cpp: what bind() refuses, and in which words.
#include "tests/unit/runtime_support.h"

using namespace runtimetest;

namespace {

Session &session() {
  static Session s = [] {
    auto made = Session::open(readExample("tiny_qwen35_27b"), Setup{});
    REQUIRE_MESSAGE(made.ok(), made.status().text());
    return made.take();
  }();
  return s;
}

Ready &ready() {
  static Ready r = [] {
    auto made = Ready::make(session(), {{65}, {3}});
    REQUIRE_MESSAGE(made.ok(), made.status().text());
    return made.take();
  }();
  return r;
}

/// The error of binding edited buffers; checks that it is ErrorKind::Input and holds `parts`.
template <class Edit> void refused(Edit edit, std::vector<std::string> parts) {
  Buffers buffers = ready().staging->buffers();
  edit(buffers);
  auto bound = session().kernel.bind(buffers);
  REQUIRE_FALSE(bound.ok());
  CHECK(bound.status().kind() == ErrorKind::Input);
  for (const std::string &part : parts) CHECK_MESSAGE(contains(bound.status().text(), part), bound.status().text());
}

} // namespace

TEST_CASE("bind: what is listed is what is needed, by name, dtype, shape and layout") {
  std::vector<std::string> names;
  for (const BufferSpec &s : session().kernel.buffers()) {
    names.push_back(s.name);
    if (s.kind == "weight") CHECK(contains(s.layout, s.dtype + ".16x64."));
    else CHECK(s.layout.empty());
  }
  for (const char *name : {"x", "rope", "kv", "g_attn", "w_qkv", "w_qkv.scale", "g_q", "g_k", "w_o", "w_o.scale", "g_mlp", "w_gate_up", "w_gate_up.scale", "w_down",
                           "w_down.scale", "y", "step.counts", "step.seq_first", "step.seq_context", "step.page_table"})
    CHECK_MESSAGE(std::count(names.begin(), names.end(), name) == 1, name);
  CHECK(names.size() == 20);
  CHECK(session().kernel.bind(ready().staging->buffers()).ok());
}

TEST_CASE("bind: arrays that are missing, unknown, of another dtype, shape or alignment") {
  refused([](Buffers &b) { b.arrays.erase("0/x"); }, {"x", "missing", "bf16[tokens, 192]"});
  refused([](Buffers &b) { b.arrays.erase("step.counts"); }, {"step.counts", "missing", "i32[2]"});
  refused([](Buffers &b) { b.arrays["0/w_extra"] = b.arrays["0/x"]; }, {"0/w_extra", "no such name"});
  refused([](Buffers &b) { b.arrays["1/x"] = b.arrays["0/x"]; }, {"1/x", "no such name"});
  refused([](Buffers &b) { b.arrays["0/x"].dtype = "f32"; }, {"expected bf16[tokens, 192]", "got f32[8, 192]"});
  refused([](Buffers &b) { b.arrays["0/x"].shape[1] = 191; }, {"expected bf16[tokens, 192]", "got bf16[8, 191]"});
  refused([](Buffers &b) { b.arrays["0/x"].shape[0] = 7; }, {"room for 8"});
  refused([](Buffers &b) { b.arrays["0/x"].shape.push_back(1); }, {"got bf16[8, 192, 1]"});
  refused([](Buffers &b) { b.arrays["0/g_q"].shape = {47}; }, {"g_q", "expected bf16[48]"});
  refused([](Buffers &b) { b.arrays["0/w_o.scale"].shape = {2}; }, {"w_o.scale", "f32[1]"});
  refused([](Buffers &b) { b.arrays["0/x"].address += 8; }, {"x", "not 16-byte aligned"});
  refused([](Buffers &b) { b.arrays["0/y"].address = 0; }, {"y", "null"});
  refused([](Buffers &b) { b.workspace = 128; }, {"workspace", "256-byte aligned"});
}

TEST_CASE("bind: a weight in another layout, or in none, is no weight of this kernel") {
  refused([](Buffers &b) { b.arrays["0/w_qkv"].layout = ""; }, {"w_qkv", "gate_per_head", "pack()"});
  refused([](Buffers &b) { b.arrays["0/w_gate_up"].layout = "nvfp4.16x64.rows.r3"; }, {"expected layout \"nvfp4.16x64.gate_up.r3\"", "got \"nvfp4.16x64.rows.r3\""});
  refused([](Buffers &b) { b.arrays["0/w_gate_up"].layout = "nvfp4.16x64.gate_up.r2"; }, {"expected layout \"nvfp4.16x64.gate_up.r3\""}); // of an earlier packer
  refused([](Buffers &b) { b.arrays["0/w_o"].dtype = "fp8_e4m3"; }, {"expected nvfp4[192, 288]"});
  refused([](Buffers &b) { b.arrays["0/x"].layout = "rows"; }, {"x", "layout"});
}

TEST_CASE("bind: caches") {
  refused([](Buffers &b) { b.caches.clear(); }, {"kv", "missing", "pages of 64 rows"});
  refused([](Buffers &b) { b.caches["0/other"] = b.caches["0/kv"]; }, {"0/other", "no such name"});
  refused([](Buffers &b) { b.caches["0/kv"].page = 32; }, {"pages of 64 rows", "pages of 32"});
  refused([](Buffers &b) { b.caches["0/kv"].dtype = "bf16"; }, {"expected fp8_e4m3", "got bf16"});
  refused([](Buffers &b) { b.caches["0/kv"].k = 0; }, {"K and V addresses"});
  refused([](Buffers &b) { b.caches["0/kv"].v += 8; }, {"16-byte aligned"});
  refused([](Buffers &b) { b.caches["0/kv"].row_stride += 8; }, {"row_stride", "multiple of 16"});
  refused([](Buffers &b) { b.caches["0/kv"].head_stride = 32; }, {"head_stride", "48 bytes"});
  refused([](Buffers &b) { std::swap(b.caches["0/kv"].head_stride, b.caches["0/kv"].row_stride); }, {"declared order = nhd", "those of hnd"});
  refused([](Buffers &b) { b.caches["0/kv"].scales = 0; }, {"k_scale"});
}

TEST_CASE("bind: room for more tokens than the kernel's maximum is welcome; a bare name is instance 0's") {
  Buffers buffers = ready().staging->buffers();
  buffers.arrays["x"] = buffers.arrays["0/x"];
  buffers.arrays.erase("0/x");
  buffers.arrays["x"].shape[0] = 64;
  auto bound = session().kernel.bind(buffers);
  CHECK_MESSAGE(bound.ok(), bound.status().text());
}

TEST_CASE("pack: missing parts and unknown names are typed errors; the image does not depend on the split") {
  const std::vector<uint8_t> &codes = ready().inputs->arrays.at("0/w_o"), &scales = ready().inputs->arrays.at("0/w_o.scales");
  auto none = session().kernel.pack("w_x", {codes.data(), scales.data()});
  CHECK(none.status().kind() == ErrorKind::Input);
  CHECK(contains(none.status().text(), "%w_x"));
  CHECK(contains(session().kernel.pack("w_o", {nullptr, scales.data()}).status().text(), "codes are missing"));
  CHECK(contains(session().kernel.pack("w_o", {codes.data(), nullptr}).status().text(), "block scales"));
  auto here = session().kernel.pack("w_o", {codes.data(), scales.data()});
  REQUIRE(here.ok());
  CHECK(here->layout == "nvfp4.16x64.rows.r3");
  CHECK(here->bytes.size() == size_t(192 / 16) * 5 * 576); // 288 columns: five granules, the last half empty
  Setup eight;
  eight.settings = "wo_split=8";
  auto other = Session::open(session().layers, eight);
  REQUIRE(other.ok());
  auto there = other->kernel.pack("w_o", {codes.data(), scales.data()});
  REQUIRE(there.ok());
  CHECK(here->bytes == there->bytes);
}
