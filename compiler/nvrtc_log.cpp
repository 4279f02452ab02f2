// nvrtc_log.cpp: reads "file(line): error: text" with its echoed line, caret and notes, and ptxas's messages.
#include "compiler/nvrtc_log.h"

#include <algorithm>
#include <charconv>

namespace phasec {
namespace {

std::vector<std::string_view> splitLines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    lines.push_back(line);
    text.remove_prefix(std::min(text.size(), end + 1));
  }
  return lines;
}

std::string_view trim(std::string_view text) {
  size_t begin = text.find_first_not_of(" \t"), end = text.find_last_not_of(" \t\r\n");
  return begin == std::string_view::npos ? std::string_view() : text.substr(begin, end - begin + 1);
}

bool readNumber(std::string_view text, int &value) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

/// One physical line of the program under the name its #line directives give it.
struct PlacedLine {
  std::string_view file;
  int line;
  std::string_view text;
};

std::vector<PlacedLine> placeLines(std::string_view source, std::string_view program_name) {
  std::vector<PlacedLine> placed;
  std::string_view file = program_name;
  int line = 1;
  for (std::string_view text : splitLines(source)) {
    if (text.substr(0, 6) == "#line ") {
      std::string_view rest = text.substr(6);
      size_t open = rest.find('"'), close = rest.rfind('"');
      int next = 0;
      if (readNumber(trim(rest.substr(0, std::min(open, rest.size()))), next)) {
        line = next;
        if (open < close && close != std::string_view::npos) file = rest.substr(open + 1, close - open - 1);
        continue;
      }
    }
    placed.push_back({file, line++, text});
  }
  return placed;
}

/// "gather.cuh(41): error: text" and "phasec_layer.cu(3): warning #177-D: text"; nothing else.
bool readHead(std::string_view line, CompilerMessage &message) {
  static constexpr std::string_view kSeverities[] = {"error", "catastrophic error", "warning", "remark",
                                                     "internal error"};
  for (size_t colon = line.find("): "); colon != std::string_view::npos; colon = line.find("): ", colon + 1)) {
    size_t open = line.rfind('(', colon);
    if (open == std::string_view::npos || open == 0 || line[0] == ' ') continue;
    if (!readNumber(line.substr(open + 1, colon - open - 1), message.line)) continue;
    std::string_view rest = line.substr(colon + 3);
    for (std::string_view severity : kSeverities) {
      if (rest.substr(0, severity.size()) != severity) continue;
      std::string_view tail = rest.substr(severity.size());
      size_t end = tail.find(':');
      if (end == std::string_view::npos || (end > 0 && tail.substr(0, 2) != " #")) continue;
      message.file = line.substr(0, open);
      message.severity = severity;
      message.text = trim(tail.substr(end + 1));
      return true;
    }
  }
  return false;
}

/// "ptxas application ptx input, line 26; error   : text".
bool readAssembler(std::string_view line, CompilerMessage &message, int &ptx_line) {
  constexpr std::string_view kLine = ", line ";
  if (line.substr(0, 6) != "ptxas ") return false;
  size_t colon = line.find(" : ");
  for (std::string_view severity : {"error", "fatal"}) {
    size_t at = line.find(severity);
    if (at == std::string_view::npos || colon == std::string_view::npos || at > colon) continue;
    message.severity = "error";
    message.text = "ptxas: " + std::string(trim(line.substr(colon + 3)));
    size_t place = line.find(kLine), end = line.find(';');
    if (place == std::string_view::npos || end == std::string_view::npos || end < place + kLine.size() ||
        !readNumber(line.substr(place + kLine.size(), end - place - kLine.size()), ptx_line))
      ptx_line = 0;
    return true;
  }
  return false;
}

/// Puts a ptxas message at the inline assembly whose opcode stands on line `ptx_line` of the PTX.
void traceToSource(CompilerMessage &message, int ptx_line, std::string_view ptx,
                   const std::vector<PlacedLine> &placed) {
  std::vector<std::string_view> lines = splitLines(ptx);
  if (ptx_line < 1 || size_t(ptx_line) > lines.size()) return;
  std::string_view instruction = trim(lines[ptx_line - 1]);
  message.notes.push_back("PTX line " + std::to_string(ptx_line) + ": " + std::string(instruction));
  std::string_view opcode = instruction;
  if (opcode.substr(0, 1) == "@") opcode = trim(opcode.substr(std::min(opcode.find(' '), opcode.size())));
  opcode = opcode.substr(0, opcode.find_first_of(" \t;"));
  if (opcode.empty()) return;
  for (const PlacedLine &line : placed) {
    size_t at = line.text.find(opcode), quote = line.text.find('"');
    if (at == std::string_view::npos || quote == std::string_view::npos || quote > at) continue;
    message.file = line.file;
    message.line = line.line;
    message.column = int(at) + 1;
    message.source_line = line.text;
    return;
  }
}

void addSourceLine(CompilerMessage &message, std::string_view echoed, const std::vector<PlacedLine> &placed) {
  for (const PlacedLine &line : placed)
    if (line.line == message.line && line.file == message.file) {
      message.source_line = line.text;
      return;
    }
  message.source_line = echoed;
}

/// Replaces "at line 3 of phasec_layer.cu" by the form of every other place.
std::string withPlace(std::string_view note) {
  constexpr std::string_view kAt = " at line ", kOf = " of ";
  size_t at = note.rfind(kAt);
  size_t of = at == std::string_view::npos ? at : note.find(kOf, at + kAt.size());
  if (of == std::string_view::npos) return std::string(note);
  std::string_view line = note.substr(at + kAt.size(), of - at - kAt.size()), file = note.substr(of + kOf.size());
  size_t end = std::min(file.find_first_of(" )"), file.size()); // "(declared at line 3 of a.cuh)"
  return std::string(note.substr(0, at)) + " at " + std::string(file.substr(0, end)) + ":" + std::string(line) +
         std::string(file.substr(end));
}

} // namespace

std::vector<CompilerMessage> parseCompilerLog(std::string_view log, std::string_view source, std::string_view ptx,
                                              std::string_view program_name) {
  constexpr size_t kEchoIndent = 2; // the front end indents the lines it echoes, and the caret below, by this much
  std::vector<PlacedLine> placed = placeLines(source, program_name);
  std::vector<std::string_view> lines = splitLines(log);
  std::vector<CompilerMessage> messages;
  for (size_t i = 0; i < lines.size(); ++i) {
    CompilerMessage message;
    int ptx_line = 0;
    if (readAssembler(lines[i], message, ptx_line)) {
      traceToSource(message, ptx_line, ptx, placed);
      // "ptxas fatal : aborted due to errors" says nothing once the errors themselves have been said.
      if (message.line || messages.empty()) messages.push_back(std::move(message));
      continue;
    }
    if (!readHead(lines[i], message)) continue;
    std::vector<std::string_view> body; // indented lines: more of the message, the echoed line, its caret, notes
    while (i + 1 < lines.size() && !lines[i + 1].empty() && lines[i + 1][0] == ' ') body.push_back(lines[++i]);
    auto caret = std::find_if(body.begin(), body.end(), [](std::string_view line) { return trim(line) == "^"; });
    std::string_view echoed;
    if (caret != body.end() && caret != body.begin()) {
      echoed = caret[-1].substr(std::min(caret[-1].size(), kEchoIndent));
      message.column = int(caret->find('^')) - int(kEchoIndent) + 1;
      body.erase(caret - 1, caret + 1);
    }
    for (std::string_view note : body) message.notes.push_back(withPlace(trim(note)));
    addSourceLine(message, echoed, placed);
    messages.push_back(std::move(message));
  }
  return messages;
}

std::string renderErrors(const std::vector<CompilerMessage> &messages, size_t limit) {
  std::string text;
  size_t errors = 0;
  for (const CompilerMessage &message : messages) {
    if (!message.isError() || ++errors > limit) continue;
    if (!text.empty()) text += '\n';
    if (!message.file.empty()) text += message.file + ":";
    if (message.line) text += std::to_string(message.line) + ":";
    if (message.column) text += std::to_string(message.column) + ":";
    text += (message.file.empty() ? "" : " ") + message.severity + ": " + message.text;
    if (!message.source_line.empty()) {
      text += "\n  " + message.source_line;
      if (message.column) {
        text += "\n  ";
        // A tab above needs a tab here, whatever its width is.
        for (int i = 0; i + 1 < message.column; ++i)
          text += size_t(i) < message.source_line.size() && message.source_line[i] == '\t' ? '\t' : ' ';
        text += '^';
      }
    }
    for (const std::string &note : message.notes) text += "\n  note: " + note;
  }
  if (errors > limit) text += "\nand " + std::to_string(errors - limit) + " more errors";
  return text;
}

} // namespace phasec
