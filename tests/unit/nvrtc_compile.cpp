// nvrtc_compile.cpp: the real compiler, for every target. Skipped by name where there is no libnvrtc.
#include "compiler/fingerprint.h"
#include "compiler/nvrtc.h"
#include "templates/embedded.h"
#include "tests/unit/skip.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <set>

using namespace phasec;

namespace {

Nvrtc *nvrtc() {
  static Result<std::unique_ptr<Nvrtc>> opened = [] {
    NvrtcSearch search;
    if (const char *path = std::getenv("PHASEC_NVRTC")) search.explicit_path = path;
    return Nvrtc::open(search);
  }();
  if (!opened.ok()) test::skip(opened.status().text());
  return opened.ok() ? opened->get() : nullptr;
}

CompileRequest request(std::string_view source, const char *target) {
  CompileRequest request;
  request.source = source;
  request.target = findTarget(target);
  return request;
}

const char *kTwo = "extern \"C\" __global__ void __launch_bounds__(256, 1) phasec_layer(float *p, int n) {\n"
                   "  float l[40];\n"
                   "  for (int i = 0; i < 40; i++) l[i] = p[i * n];\n"
                   "  for (int i = 0; i < n; i++) p[i] = l[(i * 7) % 40];\n"
                   "}\n"
                   "extern \"C\" __global__ void second(int *p) {\n"
                   "  __shared__ int q[32];\n"
                   "  q[threadIdx.x] = p[threadIdx.x];\n"
                   "  __syncthreads();\n"
                   "  *p = q[31 - threadIdx.x];\n"
                   "}\n";

std::string_view templateText(std::string_view name) {
  for (const EmbeddedFile &file : embeddedTemplates())
    if (file.name == name) return file.text;
  return {};
}

/// What the renderer does with the headers, in small: no #pragma once, no #include, #line before each file.
std::string flatten(int sm, const std::string &kernel) {
  std::string source = "#define PHASEC_SM " + std::to_string(sm) + "\n";
  for (const char *name : {"base.cuh", "ptx.cuh"}) {
    source += "#line 1 \"" + std::string(name) + "\"\n";
    std::string_view text = templateText(name);
    while (!text.empty()) {
      std::string_view line = text.substr(0, text.find('\n'));
      text.remove_prefix(std::min(text.size(), line.size() + 1));
      bool drop = line.substr(0, 9) == "#include " || line.substr(0, 12) == "#pragma once";
      source += drop ? "\n" : std::string(line) + "\n";
    }
  }
  return source + "#line 1 \"phasec_layer.cu\"\n" + kernel;
}

} // namespace

TEST_CASE("every target compiles, with cubin, PTX, toolchain and figures") {
  if (!nvrtc()) return;
  REQUIRE(targets().size() == 8);
  for (const Target &target : targets()) {
    INFO("target ", std::string(target.name));
    auto compiled = nvrtc()->compile(request(kTwo, target.name));
    REQUIRE_MESSAGE(compiled.ok(), compiled.status().text());
    CHECK(compiled->ptx.find(std::string(".target ") + target.name) != std::string::npos);
    CHECK(compiled->toolchain.substr(0, 6) == "nvrtc ");
    REQUIRE(compiled->resources.size() == 2);
    const KernelResources &layer = compiled->resources[0], &second = compiled->resources[1];
    CHECK(layer.kernel == "phasec_layer");
    CHECK(layer.resources.registers >= 16);
    CHECK(layer.resources.registers <= 255);
    CHECK(layer.resources.local_bytes == 160);
    CHECK(layer.resources.shared_bytes == 0);
    CHECK(layer.resources.code_bytes > second.resources.code_bytes);
    CHECK(second.resources.shared_bytes == 128);
    CHECK(second.resources.local_bytes == 0);
    // The cubin alone says the same, spills apart.
    auto alone = readResources(compiled->cubin, "");
    REQUIRE(alone.ok());
    CHECK((*alone)[0].resources.registers == layer.resources.registers);
    CHECK((*alone)[0].resources.local_bytes == 160);
    CHECK((*alone)[1].resources.shared_bytes == 128);
  }
}

TEST_CASE("equal requests give equal cubins; the toolchain read two ways is one") {
  if (!nvrtc()) return;
  auto first = nvrtc()->compile(request(kTwo, "sm_90a")), again = nvrtc()->compile(request(kTwo, "sm_90a"));
  REQUIRE(first.ok());
  REQUIRE(again.ok());
  CHECK(first->cubin == again->cubin);
  CHECK(first->ptx == again->ptx);
  auto toolchain = nvrtc()->toolchain();
  REQUIRE(toolchain.ok());
  CHECK(*toolchain == first->toolchain);
  CHECK(toolchain->find("(CL-") != std::string::npos);
}

TEST_CASE("spills are reported") {
  if (!nvrtc()) return;
  std::string source = "extern \"C\" __global__ void __launch_bounds__(1024, 1) heavy(float *p) {\n  float v[128];\n"
                       "#pragma unroll\n  for (int i = 0; i < 128; i++) v[i] = p[i * 1024 + threadIdx.x];\n"
                       "  __syncthreads();\n#pragma unroll\n"
                       "  for (int i = 0; i < 128; i++) p[i * 1024 + threadIdx.x] = v[127 - i] * v[i];\n}\n";
  auto compiled = nvrtc()->compile(request(source, "sm_80"));
  REQUIRE_MESSAGE(compiled.ok(), compiled.status().text());
  REQUIRE(compiled->resources.size() == 1);
  CHECK(compiled->resources[0].resources.registers == 64);
  CHECK(compiled->resources[0].resources.spill_store_bytes > 0);
  CHECK(compiled->resources[0].resources.spill_load_bytes > 0);
}

TEST_CASE("a broken template is reported at its own file and line, first error first") {
  if (!nvrtc()) return;
  std::string source = "#line 40 \"gather.cuh\"\n"
                       "__device__ int f(int a) {\n"
                       "  return a + undefined_name;\n"
                       "}\n"
                       "#line 3 \"phasec_layer.cu\"\n"
                       "extern \"C\" __global__ void k(int *p) { *p = f(3) + also_missing; }\n";
  auto compiled = nvrtc()->compile(request(source, "sm_90a"));
  REQUIRE_FALSE(compiled.ok());
  CHECK(compiled.status().kind() == ErrorKind::Toolchain);
  const std::string &text = compiled.status().text();
  CHECK(text.find("gather.cuh:41:14: error: identifier \"undefined_name\" is undefined\n"
                  "    return a + undefined_name;\n"
                  "               ^") == 0);
  CHECK(text.find("phasec_layer.cu:3:") != std::string::npos);
}

TEST_CASE("an instruction ptxas refuses is reported at the template that holds it") {
  if (!nvrtc()) return;
  std::string source = "#line 7 \"ptx.cuh\"\nextern \"C\" __global__ void k(int *p) { asm volatile(\"bogus.u32 %0, "
                       "1;\" : \"=r\"(*p)); }\n";
  auto compiled = nvrtc()->compile(request(source, "sm_90a"));
  REQUIRE_FALSE(compiled.ok());
  CHECK(compiled.status().text().find("ptx.cuh:7:") == 0);
  CHECK(compiled.status().text().find("bogus") != std::string::npos);
}

TEST_CASE("a bad option is an error with NVRTC's own words") {
  if (!nvrtc()) return;
  CompileRequest bad = request(kTwo, "sm_90a");
  bad.options.extra = {"--frob"};
  auto compiled = nvrtc()->compile(bad);
  REQUIRE_FALSE(compiled.ok());
  CHECK(compiled.status().text().find("--frob") != std::string::npos);
}

TEST_CASE("a compile can be watched and cancelled") {
  if (!nvrtc()) return;
  int calls = 0;
  CompileRequest watched = request(kTwo, "sm_90a");
  watched.progress = [&](double) { return ++calls, false; };
  auto compiled = nvrtc()->compile(watched);
  REQUIRE_MESSAGE(compiled.ok(), compiled.status().text());
  if (calls == 0) return test::skip("this libnvrtc has no nvrtcSetFlowCallback");
  CHECK(compiled->cubin == nvrtc()->compile(request(kTwo, "sm_90a"))->cubin);

  watched.progress = [](double) { return true; };
  auto cancelled = nvrtc()->compile(watched);
  REQUIRE_FALSE(cancelled.ok());
  CHECK(cancelled.status().text().find("cancelled") != std::string::npos);
}

TEST_CASE("exact options leave no contraction and no approximate division in the PTX") {
  if (!nvrtc()) return;
  const char *source = "extern \"C\" __global__ void k(float *p) { p[0] = p[1] * p[2] + p[3]; p[4] = p[5] / p[6]; }";
  auto compiled = nvrtc()->compile(request(source, "sm_90a"));
  REQUIRE(compiled.ok());
  CHECK(compiled->ptx.find("fma.") == std::string::npos);
  CHECK(compiled->ptx.find("div.rn.f32") != std::string::npos);
  CHECK(compiled->ptx.find(".ftz") == std::string::npos);
}

TEST_CASE("every helper of ptx.cuh assembles on every target") {
  if (!nvrtc()) return;
  std::string kernel = R"cuda(
PHASEC_KERNEL(256) phasec_layer(u32 *g, float *f, const u8 *bytes) {
  using namespace ptx;
  u8 *shared = shared_base();
  u64 *bar = (u64 *)shared;
  if (thread() == 0) { mbar_init(bar, 1); mbar_init(bar + 1, 2); mbar_init(bar + 2, 1); mbar_init(bar + 3, 1); }
  mbar_init_fence();
  sync_cta();
  if (warp() == 0) {
    bool mine = lane() == 0;
    stream_expect(mine, bar, 2048);
    stream_copy(mine, shared + 128, bytes, 2048, bar);
    stream_commit(mine, bar);
    stream_wait(bar, 0);
    gather_rows<8, 128, 144>(lane() * 256, 8, bytes, shared + 2176, bar + 2, bytes + 128, shared + 3328, bar + 3);
    stream_wait(bar + 2, 0);
    stream_wait(bar + 3, 0);
    copies_arrive(shared_address(bar + 2));
    if (lane() < 2) mbar_arrive(bar + 1);
    sync_warp();
  }
  mbar_wait(bar + 1, 0);
  if (mbar_test(bar + 1, least(u32(lane())))) g[1] = 1;
  float v = f[thread()];
  v = ptx::fma(v, ptx::sqrt(v), ptx::div(v, 3.0f)) + butterfly_sum(v) + butterfly_max(v);
  v += from_bits(shfl(bits(v), 3)) + from_bits(shfl_xor(bits(v), 5));
  f[thread()] = v + shared[128 + thread()];
  if (warp() < 7) sync_workers(224);
  if (!ptx::any(v > 3.0f)) feeder_pause();
  pause(100u);
  f = unknown(f);
  add_unordered(f + 1024, v + take_sum(f + 1025));
  raise((u64 *)(f + 1026), take_raised((u64 *)(f + 1028)));
  v = ptx::max(ptx::abs(v), exp2_approx(v)) * rcp_approx(v) + rsqrt_approx(v);
  u32 pair = to_f16x2(v, 1.0f), brain = to_bf16x2(v, 2.0f);
  pair = mul_f16x2(e4m3x2_to_f16x2(pair) + e4m3x2_to_f16x2_high(pair), permute(pair, brain, 0x5410u)) + transpose(brain);
  float c[4] = {v, v, v, v};
  u32 a[4] = {pair, pair, brain, brain};
  mma_f16(c, a, pair, brain);
  mma_bf16(c, a, brain, pair);
  if (warp() < 4) registers_take<80>();
  else registers_give<64>();
  *(u32 *)(shared + 4096 + thread() * 4) = to_e4m3x2(from_f16_high(pair), from_f16(pair));
  fence_async_shared();
  store_tagged((u64 *)g + thread(), c[0] + c[1] + c[2] + c[3], u32(load_tagged((const u64 *)g)));
  u64 first, second;
  load_tagged2((const u64 *)g + 2 * thread(), first, second);
  store_tagged2((u64 *)g + 2 * thread(), v, c[0], u32(first + second));
  prefetch(g);
  stream_prefetch(true, g, 16u);
  u32 quad[4];
  load_quad(g + 4 * lane(), quad);
  store_quad(g + 4 * thread(), quad[0], quad[1], quad[2], quad[3]);
  if (lane() == 0) publish((u32 *)(shared + 64), 1u, (u32 *)(shared + 68), 2u);
  if (lane() == 0) publish((u32 *)(shared + 64), peek_shared((const u32 *)(shared + 64)));
  if (thread() == 0) {
    arrive_release(g, 1);
    while (load_acquire(g) < u32(ctas())) spin_pause();
    u32 old = add_acq_rel(g + 1, 1) + turn_acq_rel(g + 2, 7) + add_shared((u32 *)(shared + 64), 1);
    if (old == 7) store_relaxed(g + 1, u32(cta()) + shared_address(shared) + load_shared_acquire((u32 *)(shared + 64)));
  }
}
)cuda";
  // The kernel above really names them all.
  std::string_view text = templateText("ptx.cuh");
  REQUIRE_FALSE(text.empty());
  std::set<std::string> helpers;
  for (size_t at = text.find("\nPHASEC_DEVICE "); at != std::string_view::npos;
       at = text.find("\nPHASEC_DEVICE ", at + 1)) {
    std::string_view head = text.substr(at + 1, text.find('(', at) - at - 1);
    size_t name = head.find_last_of(" *&");
    helpers.insert(std::string(head.substr(name + 1)));
  }
  CHECK(helpers.size() >= 30);
  for (const std::string &helper : helpers)
    CHECK_MESSAGE((kernel.find(helper + "(") != std::string::npos || kernel.find(helper + "<") != std::string::npos),
                  "ptx.cuh has " << helper << ", which this kernel does not use");

  for (const Target &target : targets()) {
    INFO("target ", std::string(target.name));
    auto compiled = nvrtc()->compile(request(flatten(target.sm, kernel), target.name));
    REQUIRE_MESSAGE(compiled.ok(), compiled.status().text());
    CHECK((compiled->ptx.find("cp.async.bulk") != std::string::npos) == target.bulk_copy);
    CHECK(compiled->ptx.find("cp.async.cg") != std::string::npos); // rows of a cache, on every target
  }
}
