// ir_parser.cpp: what a file means: values, attributes, defaults, statements; positions and rendering of errors.
#include "ir/lexer.h"
#include "ir/suggest.h"
#include "ir_support.h"

#include <doctest/doctest.h>

using namespace irtest;

namespace {

ir::Module loaded(const std::string &text) {
  Result<ir::Module> module = ir::load("test.phase", text);
  INFO(module.status().text());
  REQUIRE(module.ok());
  return module.take();
}

const char *kLayer = R"(layer @full {
  dims     hidden = 64, heads = 6, kv_heads = 2, head_dim = 16, ffn = 40, max_pos = 128
  tokens   2..8
  schedule partition = 2d, kv_splits = 4
  in       %x      : bf16[tokens, hidden]
  in       %rope   : f32[max_pos, 8]
  cache    %kv     : fp8_e4m3 paged(page = 16, order = hnd, kv = separate)
  weight   %g      : f32[hidden]
  weight   %gh     : bf16[head_dim]
  weight   %w_qkv  : nvfp4[(2 * heads + 2 * kv_heads) * head_dim, hidden] { scales = swizzled, global = divide }
  weight   %bias   : bf16[256]
  weight   %w_o    : fp8_e4m3[hidden, heads * head_dim] { scale = row }
  weight   %w_1    : bf16[ffn * 2, hidden]
  weight   %w_2    : bf16[hidden, ffn]
  %xn      = norm %x, %g { rms, eps = 1e-5, gamma = one_plus }
  %q, %gate = qkv %xn, %w_qkv, %kv { bias = %bias, q_norm = %gh, k_norm = %gh, gamma = one_plus, eps = 2e-6,
                                     rope = %rope, rotary = 8, pairing = interleaved, gate_rows = per_head, append }
  %a       = attn %q, %kv, %gate { gate = sigmoid, scale = 0.125 }
  %p       = wo %a, %w_o { split = 4 }
  %h : bf16 = gather %p, %x { by = consumers }
  %u       = fc1 %h, %w_1 { act = gelu_tanh }
  %y : f32 = fc2 %u, %w_2, %h
  return %y, %h
}
)";

} // namespace

TEST_CASE("ir: every attribute and annotation lands in the tree") {
  const ir::Module module = loaded(kLayer);
  const ir::Layer &layer = module.layers[0];
  CHECK(module.layer("full") == &layer);
  CHECK(module.layer("none") == nullptr);
  CHECK(layer.dim("heads") == 6);
  CHECK(layer.dim("absent") == 0);
  CHECK(layer.tokens_min == 2);
  CHECK(layer.tokens_max == 8);
  const std::vector<std::pair<std::string, std::string>> schedule = {
      {"partition", "2d"}, {"kv_splits", "4"}, {"wo_split", "4"}};
  CHECK(layer.schedule == schedule);

  const auto value = [&](const char *name) -> const ir::Value & {
    for (const ir::Value &v : layer.values)
      if (v.name == name) return v;
    FAIL("no value " << name);
    return layer.values[0];
  };
  CHECK(value("x").shape == std::vector<int64_t>{ir::kTokensExtent, 64});
  CHECK(value("kv").cache.dtype == ir::DType::fp8_e4m3);
  CHECK(value("kv").cache.page == 16);
  CHECK(value("kv").cache.hnd);
  CHECK_FALSE(value("kv").cache.joint);
  CHECK(value("g").isVector());
  CHECK(value("g").dtype == ir::DType::f32);
  CHECK(value("w_qkv").shape == std::vector<int64_t>{256, 64});
  CHECK(value("w_qkv").shape_text[0] == "(2 * heads + 2 * kv_heads) * head_dim");
  CHECK(value("w_qkv").weight.format == ir::Format::nvfp4);
  CHECK(value("w_qkv").weight.scales == ir::ScaleLayout::Swizzled128x4);
  CHECK(value("w_qkv").weight.global == ir::GlobalScale::Divide);
  CHECK(value("w_o").weight.fp8_scale == ir::Fp8Scale::Row);
  CHECK(value("q").shape == std::vector<int64_t>{ir::kTokensExtent, 96});
  CHECK(value("p").shape == std::vector<int64_t>{ir::kTokensExtent, 64});
  CHECK(value("p").dtype == ir::DType::f32);
  CHECK(value("h").dtype == ir::DType::bf16);
  CHECK(value("u").shape == std::vector<int64_t>{ir::kTokensExtent, 40});
  CHECK(value("y").dtype == ir::DType::f32);

  const auto &norm = std::get<ir::NormAttrs>(layer.find(ir::Op::norm)->attrs);
  CHECK(norm.eps == 1e-5);
  CHECK(norm.gamma == ir::NormGamma::OnePlus);
  const auto &qkv = std::get<ir::QkvAttrs>(layer.find(ir::Op::qkv)->attrs);
  CHECK(&layer.values[qkv.bias] == &value("bias"));
  CHECK(&layer.values[qkv.q_norm] == &value("gh"));
  CHECK(&layer.values[qkv.k_norm] == &value("gh"));
  CHECK(&layer.values[qkv.rope] == &value("rope"));
  CHECK(qkv.eps == 2e-6);
  CHECK(qkv.gamma == ir::NormGamma::OnePlus);
  CHECK(qkv.rotary == 8);
  CHECK(qkv.pairing == ir::Pairing::Interleaved);
  CHECK(qkv.gate_rows == ir::GateRows::PerHead);
  CHECK(qkv.append);
  const auto &attn = std::get<ir::AttnAttrs>(layer.find(ir::Op::attn)->attrs);
  CHECK(attn.scale == 0.125);
  CHECK(attn.sigmoid_gate);
  CHECK(std::get<ir::GatherAttrs>(layer.find(ir::Op::gather)->attrs).by == ir::GatherBy::Consumers);
  CHECK(std::get<ir::Fc1Attrs>(layer.find(ir::Op::fc1)->attrs).act == ir::Activation::GeluTanh);
  CHECK_FALSE(std::get<ir::Fc2Attrs>(layer.find(ir::Op::fc2)->attrs).act_quant_nvfp4);
  CHECK(layer.producer(layer.returns[0])->op == ir::Op::fc2);
  CHECK(layer.producer(layer.find(ir::Op::norm)->operands[0]) == nullptr);
  CHECK(layer.isPartials(layer.find(ir::Op::gather)->operands[0]));
  CHECK(dump(module) == dump(loaded(ir::print(module))));
}

TEST_CASE("ir: what is left out has its documented default") {
  const ir::Module module = loaded(R"(
layer @a { dims heads = 4, kv_heads = 2, head_dim = 16; tokens 3
  in %x : bf16[tokens, 64]; in %rope : f32[32, 12]; cache %kv : bf16 paged(); weight %w : nvfp4[128, 64]
  weight %f : fp8_e4m3[64, 64]
  %q = qkv %x, %w, %kv { rope = %rope, append }
  %a = attn %q, %kv
  %p = wo %a, %f
  %h = gather %p; return %h })");
  const ir::Layer &layer = module.layers[0];
  CHECK(layer.tokens_min == 3);
  CHECK(layer.tokens_max == 3);
  CHECK(layer.sync == ir::Sync::Auto);
  const auto &qkv = std::get<ir::QkvAttrs>(layer.find(ir::Op::qkv)->attrs);
  CHECK(qkv.rotary == 12); // the table's columns
  CHECK(qkv.pairing == ir::Pairing::Half);
  CHECK(qkv.gate_rows == ir::GateRows::Block);
  CHECK(std::get<ir::AttnAttrs>(layer.find(ir::Op::attn)->attrs).scale == 0);
  CHECK(std::get<ir::GatherAttrs>(layer.find(ir::Op::gather)->attrs).by == ir::GatherBy::Elected);
  const ir::Value &w = layer.values[layer.find(ir::Op::qkv)->operands[1]];
  CHECK(w.weight.scales == ir::ScaleLayout::Linear);
  CHECK(w.weight.global == ir::GlobalScale::Multiply);
  const ir::Value &f = layer.values[layer.find(ir::Op::wo)->operands[1]];
  CHECK(f.weight.fp8_scale == ir::Fp8Scale::Tensor);
  const ir::Value &kv = layer.values[layer.find(ir::Op::attn)->operands[1]];
  CHECK(kv.cache.page == 64);
  CHECK_FALSE(kv.cache.hnd);
  CHECK(kv.cache.joint);
}

TEST_CASE("ir: line endings, tabs and a missing last newline do not matter") {
  const std::string unix_text = kLayer;
  std::string windows;
  for (char c : unix_text) windows += c == '\n' ? "\r\n" : std::string(1, c == ' ' ? '\t' : c);
  CHECK(dump(loaded(windows)) == dump(loaded(unix_text)));
  CHECK(dump(loaded(unix_text.substr(0, unix_text.size() - 1))) == dump(loaded(unix_text)));
}

TEST_CASE("ir: tokens of the lexer") {
  ir::Diagnostics diagnostics;
  const ir::Lexed lexed = ir::lex("a %b_1 @c 1..16 1e-6 2.5 -> - 2d // x  \n  // y", diagnostics);
  using T = ir::Tok;
  const T kinds[] = {T::Word, T::Percent, T::At,    T::Integer, T::DotDot,    T::Integer,
                     T::Real, T::Real,    T::Arrow, T::Minus,   T::DigitWord, T::End};
  REQUIRE(lexed.tokens.size() == std::size(kinds));
  for (size_t i = 0; i < std::size(kinds); ++i) CHECK(lexed.tokens[i].kind == kinds[i]);
  CHECK(lexed.tokens[1].text == "b_1");
  CHECK(lexed.tokens[5].integer == 16);
  CHECK(lexed.tokens[6].real == 1e-6);
  REQUIRE(lexed.comments.size() == 2);
  CHECK(lexed.comments[0].text == "// x");
  CHECK_FALSE(lexed.comments[0].own_line);
  CHECK(lexed.comments[1].own_line);
  CHECK(diagnostics.empty());
}

TEST_CASE("ir: an error shows its line, a caret under the place, and notes elsewhere") {
  const std::string text =
      "layer @a {\n  tokens 4\n\tin %x : bf16[tokens, 64]\n  in %x : bf16[tokens, 64] // \xc3\xa9\n}\n";
  const Status status = ir::parse("dir/a.phase", text).status();
  CHECK(status.text() == "dir/a.phase:4:6: error: %x is defined twice; every value has one definition\n"
                         "    in %x : bf16[tokens, 64] // \xc3\xa9\n"
                         "       ^~\n"
                         "dir/a.phase:3:5: note: the first definition is here\n"
                         "   in %x : bf16[tokens, 64]\n"
                         "      ^~");
  const ir::Parsed parsed = ir::parseAll("a", text);
  const std::string coloured = ir::render(parsed.diagnostics, "a", text, true);
  CHECK(coloured.find("\033[1;31merror: \033[0m") != std::string::npos);
  CHECK(ir::render(parsed.diagnostics, "a", text).find('\033') == std::string::npos);
}

TEST_CASE("ir: positions count code points, and rendering never emits control characters") {
  CHECK(ir::locate("a\xc3\xa9z", 3).column == 3);
  CHECK(ir::locate("a\nbc", 3).line == 2);
  CHECK(ir::locate("a\nbc", 99).column == 3);
  ir::Diagnostics diagnostics;
  const std::string text = std::string(5000, 'x') + "\033[31m" + std::string(5000, 'y');
  diagnostics.error({5000, 5005}, "here");
  const std::string rendered = ir::render(diagnostics, "p", text);
  CHECK(rendered.find('\033') == std::string::npos);
  CHECK(rendered.size() < 600);
  CHECK(rendered.find("^~~~~") != std::string::npos);
  CHECK(rendered.find("p:1:5001: error: here") == 0);
}

TEST_CASE("ir: errors come in text order, and only so many") {
  ir::Diagnostics diagnostics;
  for (uint32_t i = 0; i < 80; ++i) diagnostics.error({79 - i, 80 - i}, "e" + std::to_string(79 - i));
  CHECK(diagnostics.size() == ir::Diagnostics::kMax);
  CHECK(diagnostics.dropped() == 30);
  CHECK(diagnostics.full());
  CHECK(diagnostics.sorted().front().text == "e30");
  const Status status = diagnostics.status("p", std::string(100, ' '));
  CHECK(status.text().find("30 more errors are not shown") != std::string::npos);
}

TEST_CASE("ir: suggestions are near misses only") {
  const std::vector<std::string> words = {"norm", "gather", "eps", "wo"};
  CHECK(nearest("nrom", words) == "norm");
  CHECK(nearest("esp", words) == "eps");
  CHECK(nearest("gathr", words) == "gather");
  CHECK(nearest("reduce", words).empty());
  CHECK(nearest("", words).empty());
  CHECK(nearest(std::string(10000, 'n'), words).empty());
  CHECK(didYouMean("gathe", words, "%") == "; did you mean '%gather'?");
  CHECK(listWords({"a"}) == "a");
  CHECK(listWords({"a", "b", "c"}) == "a, b or c");
}
