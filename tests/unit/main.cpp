// main.cpp: the entry point of every unit test program: doctest's, plus skipping (skip.h).
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "tests/unit/skip.h"

#include <cstdio>

namespace {

constexpr int kSkipped = 77; // SKIP_RETURN_CODE in tests/CMakeLists.txt

int skipped_count = 0;
int assertion_count = 0;

// Counts assertions: a program in which some tests ran and others were skipped has not been skipped.
struct Counter : doctest::IReporter {
  explicit Counter(const doctest::ContextOptions &) {}
  void test_run_end(const doctest::TestRunStats &stats) override { assertion_count = stats.numAsserts; }
  void report_query(const doctest::QueryData &) override {}
  void test_run_start() override {}
  void test_case_start(const doctest::TestCaseData &) override {}
  void test_case_reenter(const doctest::TestCaseData &) override {}
  void test_case_end(const doctest::CurrentTestCaseStats &) override {}
  void test_case_exception(const doctest::TestCaseException &) override {}
  void subcase_start(const doctest::SubcaseSignature &) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData &) override {}
  void log_message(const doctest::MessageData &) override {}
  void test_case_skipped(const doctest::TestCaseData &) override {}
};
REGISTER_LISTENER("counter", 1, Counter);

} // namespace

void phasec::test::skip(const std::string &reason) {
  ++skipped_count;
  const auto *test = doctest::getContextOptions()->currentTest;
  std::printf("SKIPPED %s: %s\n", test ? test->m_name : "?", reason.c_str());
  std::fflush(stdout);
}

int main(int argc, char **argv) {
  doctest::Context context(argc, argv);
  const int status = context.run();
  if (status == 0 && skipped_count > 0 && assertion_count == 0) return kSkipped;
  return status;
}
