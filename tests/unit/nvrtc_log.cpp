// nvrtc_log.cpp: the compiler's log, as recorded from NVRTC 13.0, becomes located diagnostics.
#include "compiler/nvrtc_log.h"

#include <doctest/doctest.h>

using namespace phasec;

namespace {

const char *kSource = "#define PHASEC_SM 90\n"
                      "#line 40 \"gather.cuh\"\n"
                      "template <class T> __device__ T f(T a) {\n"
                      "\t  return a.foo + undefined_name;\n"
                      "}\n"
                      "#line 3 \"phasec_layer.cu\"\n"
                      "extern \"C\" __global__ void k(int *p) { *p = f(3); int q = \"a\"; int zz; }\n";

} // namespace

TEST_CASE("front-end errors carry file, line, column, source line, caret and notes; warnings stay out") {
  const char *log = "phasec_layer.cu(3): warning #177-D: variable \"zz\" was declared but never referenced\n"
                    "  extern \"C\" __global__ void k(int *p) { *p = f(3); int q = \"a\"; int zz; }\n"
                    "                                                                      ^\n"
                    "\n"
                    "Remark: The warnings can be suppressed with \"-diag-suppress <warning-number>\"\n"
                    "\n"
                    "gather.cuh(41): error: identifier \"undefined_name\" is undefined\n"
                    "  \t  return a.foo + undefined_name;\n"
                    "  \t                 ^\n"
                    "\n"
                    "gather.cuh(41): error: expression must have class type but it has type \"int\"\n"
                    "  \t  return a.foo + undefined_name;\n"
                    "  \t         ^\n"
                    "          detected during instantiation of \"T f(T) [with T=int]\" at line 3 of phasec_layer.cu\n"
                    "\n"
                    "2 errors detected in the compilation of \"phasec_layer.cu\".\n";
  auto messages = parseCompilerLog(log, kSource, "", "phasec_layer.cu");
  REQUIRE(messages.size() == 3);
  CHECK(messages[0].severity == "warning");
  CHECK_FALSE(messages[0].isError());
  CHECK(messages[1].file == "gather.cuh");
  CHECK(messages[1].line == 41);
  CHECK(messages[1].column == 19);
  CHECK(messages[1].source_line == "\t  return a.foo + undefined_name;");
  CHECK(renderErrors(messages) ==
        "gather.cuh:41:19: error: identifier \"undefined_name\" is undefined\n"
        "  \t  return a.foo + undefined_name;\n"
        "  \t                 ^\n"
        "gather.cuh:41:11: error: expression must have class type but it has type \"int\"\n"
        "  \t  return a.foo + undefined_name;\n"
        "  \t         ^\n"
        "  note: detected during instantiation of \"T f(T) [with T=int]\" at phasec_layer.cu:3");
  CHECK(renderErrors(messages, 1).find("and 1 more errors") != std::string::npos);
}

TEST_CASE("without an echoed line the source line comes from the program") {
  auto messages =
      parseCompilerLog("gather.cuh(41): catastrophic error: too much of it\n", kSource, "", "phasec_layer.cu");
  REQUIRE(messages.size() == 1);
  CHECK(messages[0].isError());
  CHECK(renderErrors(messages) ==
        "gather.cuh:41: catastrophic error: too much of it\n  \t  return a.foo + undefined_name;");
}

TEST_CASE("a note that stands before the echoed line is kept as one") {
  const char *log = "gather.cuh(41): error: no instance of function template \"f\" matches the argument list\n"
                    "            argument types are: (int, int)\n"
                    "  \t  return a.foo + undefined_name;\n"
                    "  \t  ^\n";
  auto messages = parseCompilerLog(log, kSource, "", "phasec_layer.cu");
  REQUIRE(messages.size() == 1);
  CHECK(messages[0].column == 4);
  REQUIRE(messages[0].notes.size() == 1);
  CHECK(messages[0].notes[0] == "argument types are: (int, int)");
}

TEST_CASE("a ptxas error is traced from its PTX line to the template that holds the instruction") {
  const char *source = "#line 70 \"ptx.cuh\"\n"
                       "// bogus.u32 in a comment is not it\n"
                       "__device__ void f(int *p) {\n"
                       "  asm volatile(\"bogus.u32 %0, 1;\" : \"=r\"(*p));\n"
                       "}\n";
  const char *ptx = ".version 9.0\n{\n\t// begin inline\n\tbogus.u32 %r1, 1;\n}\n";
  const char *log = "ptxas application ptx input, line 4; error   : Not a name of any known instruction: 'bogus'\n"
                    "ptxas fatal   : Ptx assembly aborted due to errors\n";
  auto messages = parseCompilerLog(log, source, ptx, "phasec_layer.cu");
  REQUIRE(messages.size() == 1);
  CHECK(messages[0].file == "ptx.cuh");
  CHECK(messages[0].line == 72);
  CHECK(renderErrors(messages).find("note: PTX line 4: bogus.u32 %r1, 1;") != std::string::npos);
}

TEST_CASE("logs that fit no pattern give no message, however odd") {
  for (const char *log :
       {"", "\n\n", "nvrtc: error: invalid value for --gpu-architecture (-arch)\n", "(3): error: x\n",
        "a(): error: x\n", "a(3: error: x\n", "a(99999999999999999999): error: x\n",
        "ptxas info    : Used 8 registers\n", "a(3): errorless: x\n", "  a(3): error: indented\n", "a(3): error"})
    CHECK_MESSAGE(parseCompilerLog(log, kSource, "", "phasec_layer.cu").empty(), log);
  CHECK(renderErrors({}).empty());
}
