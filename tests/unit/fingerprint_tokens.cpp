// fingerprint_tokens.cpp: what moves the key and what does not.
#include "compiler/fingerprint.h"

#include <doctest/doctest.h>

#include <random>
#include <set>

using namespace phasec;

namespace {

const std::vector<std::string> kOptions = {"-std=c++20", "--fmad=false"};
const char *kSource = "// generated\n"
                      "#define PHASEC_SM 90\n"
                      "#line 1 \"base.cuh\"\n"
                      "using u32 = unsigned int;\n"
                      "#line 1 \"phases/gather.cuh\"\n"
                      "/* the slot sum */\n"
                      "__device__ float gather(float a, float b) { return a + b * 0x1.8p-3f; }\n"
                      "#line 40 \"phasec_layer.cu\"\n"
                      "extern \"C\" __global__ void phasec_layer(float *p) { p[0] = gather(p[1], p[2]); }\n";

std::string keyOf(std::string_view source) { return fingerprint(source, kOptions, "sm_90a", 1).hex(); }

std::string replaced(std::string text, const std::string &from, const std::string &to) {
  size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

void same(const char *a, const char *b) {
  CHECK_MESSAGE(tokenDigest(a) == tokenDigest(b), std::string(a) << "  |  " << std::string(b));
}
void differ(const char *a, const char *b) {
  CHECK_MESSAGE(tokenDigest(a) != tokenDigest(b), std::string(a) << "  |  " << std::string(b));
}

} // namespace

TEST_CASE("golden digests: a change here orphans every cache there is") {
  CHECK(byteDigest("") == "99aa06d3014798d86001c324468d497f"); // XXH3-128 of nothing, as published
  CHECK(tokenDigest("") == byteDigest(""));
  CHECK(tokenDigest("int x = a+b; // sum") == byteDigest(std::string_view("int\0x\0=\0a\0+\0b\0;\0", 16)));
  CHECK(tokenDigest("int x = a+b; // sum") == "82e637bba68a8a87c3e1a0005031cca3");
  CHECK(keyOf(kSource) == "28ff60ec9819810e334348f843081acf");
  CHECK(fingerprint("", {}, "", 0).hex() == "4d076691c668cafd7e7da738518ecb76");
}

TEST_CASE("comments, blank space and #line leave no trace") {
  same("a+b", "a + b");
  same("a+b", "a/* c */+// d\n\tb\r\n");
  same("a\n\n\nb", "a b");
  same("a // b \\\n still a comment\n c", "a c");
  same("#line 7 \"x.cuh\"\na", "a");
  same("# 7 \"x.cuh\"\na", "a");
  same("#define A 1\nb", "#define   A\t1 // one\n\n b");
  same("#define A \\\n  1\nb", "#define A 1\nb");
  same("#define A \\\r\n  1\nb", "#define A 1\nb");
  same("#pragma unroll\nx", "#  pragma   unroll\nx");
  same("f(\"x\")", "f( \"x\" )");
  same("a /* never closed", "a");
  same("x< ::y", "x<::y"); // < and ::, by the exception for digraphs
}

TEST_CASE("everything that can mean something does") {
  differ("a + +b", "a ++b");
  differ("a - -b", "a --b");
  differ("a & &b", "a &&b");
  differ("a b", "ab");
  differ("1 2", "12");
  differ("1.5f", "1.5 f");
  differ("0x1p+3", "0x1p +3");
  differ("1'000", "1000");
  differ("\"a b\"", "\"a  b\"");
  differ("\"a // b\"", "\"a\"");
  differ("\"a\\\" // b\"", "\"a\\\"\"");
  differ("'\"' // x\n'\"'", "'\"'");
  differ("L\"x\"", "L \"x\"");
  differ("\"a\" \"b\"", "\"a\"\"b \"");
  differ("R\"(a\n// b)\"", "R\"(a\n)\"");
  differ("R\"x(a)\" )x\"", "R\"x(a)\")x\"");
  differ("#define A 1\nb", "#define A 1 b");
  differ("#define A(x) x\n", "#define A (x) x\n");
  differ("#define A\n(x)\n", "#define A(x)\n");
  differ("#pragma unroll\nx", "#pragma unroll x\n");
  differ("#if A\n#endif", "#if A #endif");
  differ("#include <a b.h>\n", "#include <ab.h>\n");
  differ("a\\\nb", "a b");
  differ("asm(\"add %0, 1;\");", "asm(\"add %0, 2;\");");
}

TEST_CASE("a source that can see its own lines or spelling is hashed with them") {
  differ("int a = __LINE__;", "\nint a = __LINE__;");
  differ("f(__FILE__); // a", "f(__FILE__); // b");
  differ("#define S(x) #x\nS(a+b)", "#define S(x) #x\nS(a + b)");
  same("#define S(x, y) x##y\nS(a, b)", "#define S(x,y) x##y\nS(a,b)");
}

TEST_CASE("the key: comments and file names do not move it, each input does") {
  std::string key = keyOf(kSource);
  CHECK(key.size() == 32);
  CHECK(keyOf(replaced(kSource, "the slot sum", "the sum over slots, in order")) == key);
  CHECK(keyOf(replaced(kSource, "// generated\n", "")) == key);
  CHECK(keyOf(replaced(kSource, "#line 40", "#line 41")) == key);
  CHECK(keyOf(replaced(kSource, "a + b *", "a+b*")) == key);

  std::set<std::string> keys = {key};
  keys.insert(keyOf(replaced(kSource, "a + b", "b + a")));
  keys.insert(keyOf(replaced(kSource, "0x1.8p-3f", "0x1.8p-4f")));
  keys.insert(keyOf(replaced(kSource, "PHASEC_SM 90", "PHASEC_SM 80")));
  keys.insert(fingerprint(kSource, {"-std=c++20"}, "sm_90a", 1).hex());
  keys.insert(fingerprint(kSource, {"--fmad=false", "-std=c++20"}, "sm_90a", 1).hex());
  keys.insert(fingerprint(kSource, {"-std=c++20 --fmad=false"}, "sm_90a", 1).hex());
  keys.insert(fingerprint(kSource, kOptions, "sm_100a", 1).hex());
  keys.insert(fingerprint(kSource, kOptions, "sm_103a", 1).hex());
  keys.insert(fingerprint(kSource, kOptions, "sm_90a", 2).hex());
  keys.insert(fingerprint(kSource, kOptions, "sm_90a", 256).hex());
  CHECK(keys.size() == 11);
}

TEST_CASE("line tables make lines count") {
  std::vector<std::string> options = {"-lineinfo"};
  std::string key = fingerprint(kSource, options, "sm_90a", 1).hex();
  CHECK(fingerprint(replaced(kSource, "#line 40", "#line 41"), options, "sm_90a", 1).hex() != key);
  CHECK(fingerprint(replaced(kSource, "// generated\n", "// generated\n\n"), options, "sm_90a", 1).hex() != key);
}

TEST_CASE("sections: one per template, and an edit changes its own only") {
  KernelFingerprint before = fingerprint(kSource, kOptions, "sm_90a", 1);
  std::vector<std::string> names;
  for (const auto &section : before.sections) names.push_back(section.name);
  CHECK(names == std::vector<std::string>{"kernel", "template:base.cuh", "template:phases/gather.cuh", "options",
                                          "target", "abi"});
  CHECK(before.source == tokenDigest(kSource));
  CHECK(before.sections[3].text == "-std=c++20 --fmad=false");
  CHECK(before.sections[4].text == "sm_90a");
  CHECK(before.sections[5].text == "1");

  const std::pair<std::pair<const char *, const char *>, size_t> edits[] = {{{"p[1], p[2]", "p[2], p[1]"}, 0},
                                                                            {{"unsigned int", "unsigned"}, 1},
                                                                            {{"a + b", "a - b"}, 2},
                                                                            {{"SM 90", "SM 89"}, 0}};
  for (const auto &row : edits) {
    const auto &edit = row.first;
    const size_t index = row.second;
    KernelFingerprint after = fingerprint(replaced(kSource, edit.first, edit.second), kOptions, "sm_90a", 1);
    CHECK_FALSE(after == before);
    for (size_t i = 0; i < before.sections.size(); i++)
      CHECK_MESSAGE((after.sections[i].digest != before.sections[i].digest) == (i == index), edit.first << " " << i);
  }
}

TEST_CASE("a template's stream is remembered: it is the same the second time, and the one of a text that is not") {
  std::mt19937 random(11);
  const char *const pieces[] = {"a", "b ", "+", "#define S(x) ", "#x", "\n", "// c\n", "/* d", "*/", "\"s\"", "1.5f", "\\\n", "__LINE__", "R\"(", ")\""};
  for (int i = 0; i < 2000; i++) { // more texts than are kept
    std::string text;
    for (int n = int(random() % 40); n > 0; n--) text += pieces[random() % std::size(pieces)];
    auto under = [&](const char *file) {
      return fingerprint("k;\n#line 1 \"" + std::string(file) + "\"\n" + text + "\n#line 9 \"k.cu\"\nz;\n", kOptions, "sm_90a", 1);
    };
    // A .cu file's text is not remembered. Where the text itself counts, its #line does too.
    KernelFingerprint first = under("t.cuh"), second = under("t.cuh"), plain = under("t.cu");
    CHECK(first == second);
    for (size_t s = 0; s < first.sections.size(); s++) CHECK(first.sections[s].digest == second.sections[s].digest);
    bool text_counts = tokenDigest(text) != tokenDigest("\n" + text);
    if (!text_counts)
      CHECK_MESSAGE(first == plain, text);
  }
}

TEST_CASE("the tokenizer ends on any bytes, and the end of the text is never read past") {
  std::mt19937 random(7);
  const std::string alphabet = "ab1.\"'\\\n\r#/*()R<>=+ \tdefineuL_%:\xff";
  std::set<std::string> digests;
  for (int i = 0; i < 20000; i++) {
    std::string text(random() % 24, ' ');
    for (char &c : text) c = alphabet[random() % alphabet.size()];
    std::vector<char> exact(text.begin(), text.end()); // no byte behind the end for a sanitizer to forgive
    digests.insert(tokenDigest(std::string_view(exact.data(), exact.size())));
    fingerprint(std::string_view(exact.data(), exact.size()), {}, "", 0);
  }
  CHECK(digests.size() > 10000);
}
