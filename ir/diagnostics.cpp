// diagnostics.cpp: collecting errors and drawing them: position, source line, caret.
#include "ir/diagnostics.h"

#include <algorithm>

namespace phasec::ir {

namespace {

constexpr size_t kExcerptColumns = 160; // a longer source line is shown as a window around the caret

/// Bytes of a UTF-8 sequence after its first.
bool isContinuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

/// Escape sequences in a file must not reach the terminal; a tab becomes one column.
char printable(char c) {
  const auto byte = static_cast<unsigned char>(c);
  if (c == '\t') return ' ';
  return byte < 0x20 || byte == 0x7F ? '?' : c;
}

struct Paint {
  const char *bold, *red, *cyan, *green, *reset;
};
constexpr Paint kColours = {"\033[1m", "\033[1;31m", "\033[1;36m", "\033[1;32m", "\033[0m"};
constexpr Paint kPlain = {"", "", "", "", ""};

/// The source line around `range` and the underline below it, or "" when the text is empty.
std::string excerpt(std::string_view text, Range range, const Paint &paint) {
  if (text.empty()) return "";
  const size_t begin = std::min<size_t>(range.begin, text.size());
  const size_t previous = begin == 0 ? std::string_view::npos : text.rfind('\n', begin - 1);
  const size_t line_begin = previous == std::string_view::npos ? 0 : previous + 1;
  size_t line_end = text.find('\n', begin);
  if (line_end == std::string_view::npos) line_end = text.size();
  if (line_end > line_begin && text[line_end - 1] == '\r') --line_end;

  size_t from = line_begin, to = line_end;
  if (to - from > kExcerptColumns) {
    if (begin - from > kExcerptColumns / 2) from = begin - kExcerptColumns / 2;
    while (from < begin && isContinuation(text[from])) ++from;
    to = std::min(to, from + kExcerptColumns);
    while (to < line_end && isContinuation(text[to])) ++to;
  }
  std::string line = "  ", marks = "  ";
  for (size_t i = from; i < to; ++i) line += printable(text[i]);
  for (size_t i = from; i < std::min(begin, to); ++i)
    if (!isContinuation(text[i])) marks += ' ';
  marks += paint.green;
  marks += '^';
  for (size_t i = begin + 1; i < std::min<size_t>(range.end, to); ++i)
    if (!isContinuation(text[i])) marks += '~';
  marks += paint.reset;
  return line + "\n" + marks + "\n";
}

std::string entry(std::string_view path, std::string_view text, Range range, bool is_note, const std::string &message,
                  const Paint &paint) {
  const LineColumn at = locate(text, range.begin);
  std::string out = paint.bold;
  out += std::string(path) + ":" + std::to_string(at.line) + ":" + std::to_string(at.column) + ": ";
  out += paint.reset;
  out += std::string(is_note ? paint.cyan : paint.red) + (is_note ? "note: " : "error: ") + paint.reset;
  out += paint.bold + message + paint.reset + "\n";
  return out + excerpt(text, range, paint);
}

} // namespace

Diagnostic &Diagnostics::error(Range range, std::string text) {
  if (list_.size() >= kMax) {
    ++dropped_;
    scratch_ = Diagnostic();
    return scratch_;
  }
  list_.push_back({range, std::move(text), {}});
  return list_.back();
}

std::vector<Diagnostic> Diagnostics::sorted() const {
  std::vector<Diagnostic> list = list_;
  std::stable_sort(list.begin(), list.end(),
                   [](const Diagnostic &a, const Diagnostic &b) { return a.range.begin < b.range.begin; });
  return list;
}

Status Diagnostics::status(std::string_view path, std::string_view text) const {
  if (empty()) return {};
  return Status::input(render(*this, path, text));
}

LineColumn locate(std::string_view text, uint32_t offset) {
  LineColumn at;
  const size_t end = std::min<size_t>(offset, text.size());
  for (size_t i = 0; i < end; ++i) {
    if (text[i] == '\n') {
      ++at.line;
      at.column = 1;
    } else if (!isContinuation(text[i])) {
      ++at.column;
    }
  }
  return at;
}

std::string render(const Diagnostic &diagnostic, std::string_view path, std::string_view text, bool colour) {
  const Paint &paint = colour ? kColours : kPlain;
  std::string out = entry(path, text, diagnostic.range, false, diagnostic.text, paint);
  for (const Diagnostic::Note &note : diagnostic.notes) {
    if (note.range.end == 0)
      out += std::string(paint.cyan) + "  note: " + paint.reset + note.text + "\n";
    else
      out += entry(path, text, note.range, true, note.text, paint);
  }
  return out;
}

std::string render(const Diagnostics &diagnostics, std::string_view path, std::string_view text, bool colour) {
  std::string out;
  for (const Diagnostic &diagnostic : diagnostics.sorted()) out += render(diagnostic, path, text, colour);
  if (diagnostics.dropped() > 0) out += std::to_string(diagnostics.dropped()) + " more errors are not shown\n";
  if (!out.empty()) out.pop_back();
  return out;
}

} // namespace phasec::ir
