// nvrtc_log.h: the compiler's log as located diagnostics in the templates' files and lines.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace phasec {

/// One message of the front end or of ptxas. line and column are 1-based; 0: not known.
struct CompilerMessage {
  std::string file;
  int line = 0, column = 0;
  std::string severity; ///< "error", "catastrophic error", "warning", "remark"
  std::string text;
  std::string source_line;        ///< as the template has it; empty when it cannot be found
  std::vector<std::string> notes; ///< "detected during instantiation of ..."
  bool isError() const { return severity.find("error") != std::string::npos; }
};

/// Messages of `log` in its order. `source` is the program (its #line directives map places to text) and `ptx` what the
/// front end made of it: a ptxas message names a line of PTX, which is traced back to the inline assembly it came from.
std::vector<CompilerMessage> parseCompilerLog(std::string_view log, std::string_view source, std::string_view ptx,
                                              std::string_view program_name);

/// The errors among `messages`, each with its source line and caret, at most `limit` of them; no newline at the end.
std::string renderErrors(const std::vector<CompilerMessage> &messages, size_t limit = 8);

} // namespace phasec
