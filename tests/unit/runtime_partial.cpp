// runtime_partial.cpp: layers in parts and in variants: any value in, any set out, every convention that a type may say.
#include "tests/unit/runtime_support.h"

#include <array>

using namespace runtimetest;

namespace {

std::vector<Case> cases;

void add(const std::string &name, const std::string &text, std::vector<Feed> steps, const std::string &settings = "") {
  static uint64_t seed = 20;
  Setup setup;
  setup.settings = settings;
  setup.sim_seed = ++seed;
  setup.sim_ctas = 3 + int(seed % 3);
  cases.push_back({name, parse(text, name + ".phase"), setup, std::move(steps)});
}

void run() {
  std::vector<Case> mine;
  mine.swap(cases);
  runCases(mine);
}

const std::vector<Feed> kShort = {{{0}, {1}, 31, false}, {{17, 2}, {1, 3}, 32, true}};
const std::vector<Feed> kPaged = {{{1}, {1}, 41, false}, {{129, 16, 64}, {1, 2, 1}, 42, false}, {{300}, {4}, 43, false}, {{67, 128}, {1, 2}, 44, false, false}};

std::string attention(int page, const char *dtype, const char *order, const char *kv) {
  return std::string("layer @attn {\n  dims heads = 6, kv_heads = 2, head_dim = 48\n  tokens 1..4\n  in %q : bf16[tokens, heads * head_dim]\n"
                     "  cache %kv : ") + dtype + " paged(page = " + std::to_string(page) + ", order = " + order + ", kv = " + kv +
         ")\n  %a = attn %q, %kv\n  return %a\n}\n";
}

/// qkv alone, with its results returned.
std::string projection(const std::string &attrs, bool gate, const std::string &format, const std::string &extra = "") {
  std::string rows = gate ? "2 * heads * head_dim + 2 * kv_heads * head_dim" : "(heads + 2 * kv_heads) * head_dim";
  return "layer @qkv {\n  dims hidden = 80, heads = 4, kv_heads = 2, head_dim = 32, max_pos = 4096\n  tokens 1..4\n  in %x : bf16[tokens, hidden]\n"
         "  in %rope : f32[max_pos, 16]\n  cache %kv : fp8_e4m3 paged(page = 16, order = hnd, kv = joint)\n  weight %w : " +
         format + "[" + rows + ", hidden]" + (format == "nvfp4" ? " { scales = swizzled, global = divide }" : format == "bf16" ? "" : " { scale = row }") + "\n" + extra + "  %q" + (gate ? ", %g" : "") +
         " = qkv %x, %w, %kv { rope = %rope, rotary = 16, " + attrs + " }\n  return %q" + (gate ? ", %g" : "") + "\n}\n";
}

} // namespace

TEST_CASE("sim: attention over every page size, order and arrangement of K and V") {
  for (int page : {1, 16, 32, 64, 128}) {
    bool odd = page == 16 || page == 64;
    add("attn_page" + std::to_string(page), attention(page, odd ? "fp8_e4m3" : "bf16", odd ? "hnd" : "nhd", page < 32 || page == 128 ? "joint" : "separate"), kPaged);
  }
  add("attn_page32_hnd", attention(32, "bf16", "hnd", "joint"), kPaged);
  add("attn_page64_nhd", attention(64, "fp8_e4m3", "nhd", "separate"), kPaged);
  run();
}

TEST_CASE("inputs: a cache has sixteen bytes between what is not contiguous, or none: then a page is its rows") {
  for (const char *order : {"nhd", "hnd"})
    for (bool joint : {true, false}) {
      auto session = Session::open(parse(attention(32, "bf16", order, joint ? "joint" : "separate")), Setup{});
      REQUIRE_MESSAGE(session.ok(), session.status().text());
      auto strides = [&](bool padded) {
        auto inputs = cli::makeInputs(session->kernel.plan(), session->layers.module(), inputOptions({{40}, {1}, 45, false, padded}));
        REQUIRE_MESSAGE(inputs.ok(), inputs.status().text());
        const cli::HostCache &c = inputs->caches.at("0/kv");
        return std::array{c.row_stride, c.head_stride, c.page_stride};
      };
      bool nhd = order == std::string("nhd");
      int64_t row = 96, heads = 2, rows = 32, planes = joint ? 2 : 1;
      CHECK(strides(false) == std::array{nhd ? heads * row : row, nhd ? row : rows * row, planes * heads * rows * row});
      CHECK(strides(true) == std::array{nhd ? heads * row + 16 : row, nhd ? row : rows * row + 16, planes * heads * rows * row + planes * 16 * (nhd ? rows : heads) + 16});
    }
}

TEST_CASE("sim: attention cut into chunks, one, three and many, gives each its own order and all their own bits") {
  for (const char *settings : {"kv_splits=1", "kv_splits=3", "kv_splits=128 warps=2"})
    add("attn_chunks", attention(16, "bf16", "nhd", "joint"), {{{1100, 513}, {1, 2}, 51, false}, {{256}, {1}, 52, false}, {{257}, {4}, 53, false}}, settings);
  run();
}

TEST_CASE("sim: projections: gate rows, bias, norms, pairing, formats") {
  add("qkv_gate_block", projection("gate_rows = block, pairing = half, append", true, "nvfp4"), kShort);
  add("qkv_gate_per_head", projection("gate_rows = per_head, bias = %b, pairing = interleaved, append", true, "fp8_e4m3", "  weight %b : bf16[2 * heads * head_dim + 2 * kv_heads * head_dim]\n"), kShort);
  add("qkv_bias_f32", projection("bias = %b, pairing = interleaved, append", false, "bf16", "  weight %b : f32[(heads + 2 * kv_heads) * head_dim]\n"), kShort);
  add("qkv_norms", projection("q_norm = %n, k_norm = %m, eps = 1e-5, gamma = plain, pairing = half, append", false, "fp8_e4m3",
                              "  weight %n : f32[head_dim]\n  weight %m : f32[head_dim]\n"), kShort);
  run();
}

TEST_CASE("sim: norms that are returned, and staged as well, with an eps that counts; a gather in bf16") {
  add("norm_returned", "layer @n {\n  dims hidden = 1040\n  tokens 1..8\n  in %x : f32[tokens, hidden]\n  weight %g : f32[hidden]\n"
                       "  %y = norm %x, %g { eps = 1e-6, gamma = one_plus }\n  return %y\n}\n", {{{1}, {5}, 61, true}, {{1}, {8}, 62, false}});
  add("norm_returned_and_used", "layer @n {\n  dims hidden = 528, ffn = 40\n  tokens 1..4\n  in %x : bf16[tokens, hidden]\n  weight %g : bf16[hidden]\n"
                                "  weight %w : nvfp4[2 * ffn, hidden] { scales = linear, global = divide }\n  %y = norm %x, %g { eps = 1e-5 }\n"
                                "  %u = fc1 %y, %w { act = gelu_tanh }\n  return %u, %y\n}\n", {{{1}, {4}, 63, false}});
  add("norm_eps", "layer @n {\n  dims hidden = 80, ffn = 40\n  tokens 1..4\n  in %x : f32[tokens, hidden]\n  weight %g : f32[hidden]\n  weight %w : bf16[2 * ffn, hidden]\n"
                  "  %y = norm %x, %g { eps = 0.25 }\n  %u = fc1 %y, %w { act = silu }\n  return %u\n}\n", {{{1}, {4}, 64, false}});
  add("gather_bf16", "layer @w {\n  dims hidden = 80, kv_heads = 3, k = 159\n  tokens 1..4\n  in %a : bf16[tokens, k]\n  in %x : f32[tokens, hidden]\n"
                     "  weight %w : fp8_e4m3[hidden, k] { scale = tensor }\n  %p = wo %a, %w\n  %h : bf16 = gather %p, %x { by = elected }\n"
                     "  return %h\n}\n", {{{1}, {4}, 65, true}}, "wo_split=8");
  run();
}

TEST_CASE("sim: W_O over a deep K: many segments a slot, one slot and many, elected and by consumers") {
  auto deep = [](const char *by) {
    return std::string("layer @deep {\n  dims hidden = 48, kv_heads = 1, k = 2064\n  tokens 1..4\n  in %a : bf16[tokens, k]\n  in %x : bf16[tokens, hidden]\n"
                       "  weight %w : bf16[hidden, k]\n  %p = wo %a, %w\n  %h = gather %p, %x { by = ") + by + " }\n  return %h\n}\n";
  };
  for (const char *settings : {"wo_split=1", "wo_split=2 partition=2d", "wo_split=32"}) add("deep_elected", deep("elected"), {{{1}, {4}, 71, true}}, settings);
  add("deep_consumers", deep("consumers"), {{{1}, {3}, 72, false}}, "wo_split=4");
  run();
}

TEST_CASE("sim: MLPs: activations, activation quantisation, residuals of both types, a K that is cut for shared memory") {
  auto mlp = [](const char *act, const char *quant, const char *residual, const char *result) {
    return std::string("layer @m {\n  dims hidden = 96, ffn = 336\n  tokens 1..4\n  in %x : bf16[tokens, hidden]\n  in %r : ") + residual +
           "[tokens, hidden]\n  weight %w1 : bf16[2 * ffn, hidden]\n  weight %w2 : nvfp4[hidden, ffn] { scales = swizzled, global = multiply }\n"
           "  %u = fc1 %x, %w1 { act = " + act + " }\n  %y : " + result + " = fc2 %u, %w2, %r" + (*quant ? std::string(" { act_quant = ") + quant + " }" : "") + "\n  return %y\n}\n";
  };
  add("mlp_quant", mlp("silu", "nvfp4", "f32", "bf16"), {{{1}, {4}, 81, true}, {{1}, {1}, 82, false}});
  add("mlp_f32", mlp("gelu_tanh", "", "bf16", "f32"), {{{1}, {3}, 83, true}});
  add("fc2_alone", "layer @f {\n  dims hidden = 48, ffn = 9216\n  tokens 1..16\n  in %u : bf16[tokens, ffn]\n  weight %w : fp8_e4m3[hidden, ffn] { scale = row }\n"
                   "  %y = fc2 %u, %w { act_quant = nvfp4 }\n  return %y\n}\n", {{{1}, {16}, 84, true}});
  run();
}

TEST_CASE("sim: attention, W_O and gather without a projection: rows of this step are in the cache already") {
  add("attn_wo", "layer @aw {\n  dims hidden = 64, heads = 4, kv_heads = 2, head_dim = 32\n  tokens 1..4\n  in %q : bf16[tokens, heads * head_dim]\n"
                 "  in %g : bf16[tokens, heads * head_dim]\n  cache %kv : fp8_e4m3 paged(page = 32, order = nhd, kv = joint)\n"
                 "  weight %w : bf16[hidden, heads * head_dim]\n  %a = attn %q, %kv, %g { gate = sigmoid, scale = 0.3 }\n  %p = wo %a, %w\n"
                 "  %h = gather %p { by = consumers }\n  return %h, %a\n}\n", kPaged, "wo_split=4");
  run();
}
