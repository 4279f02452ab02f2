// diagnostics.h: located errors. The parser and the verifier collect them; rendering is separate, so that tools can
// print them as JSON and terminals with carets.
#pragma once

#include "ir/layer.h"

#include <string>
#include <string_view>
#include <vector>

namespace phasec::ir {

/// One error: where, what was found and expected, what to do; and notes at other places that matter.
struct Diagnostic {
  struct Note {
    Range range; ///< {0,0}: the note has no place
    std::string text;
  };
  Range range;
  std::string text;
  std::vector<Note> notes;

  Diagnostic &note(Range where, std::string what) {
    notes.push_back({where, std::move(what)});
    return *this;
  }
};

/// Errors collected over one file. After kMax the rest is only counted: nobody reads the fifty-first.
class Diagnostics {
public:
  static constexpr size_t kMax = 50;

  /// Adds an error. The reference is valid until the next call.
  Diagnostic &error(Range range, std::string text);
  bool empty() const { return list_.empty(); }
  size_t size() const { return list_.size(); }
  /// Errors in the order of the text.
  std::vector<Diagnostic> sorted() const;
  size_t dropped() const { return dropped_; }
  /// Nothing more will be shown: time to stop looking.
  bool full() const { return dropped_ > 0; }
  Diagnostic &operator[](size_t index) { return list_[index]; }

  /// OK when empty; else ErrorKind::Input with the rendered text.
  Status status(std::string_view path, std::string_view text) const;

private:
  std::vector<Diagnostic> list_;
  Diagnostic scratch_; // takes errors past the cap
  size_t dropped_ = 0;
};

/// 1-based; a column is one code point, so that it matches what an editor shows.
struct LineColumn {
  int line = 1, column = 1;
};
LineColumn locate(std::string_view text, uint32_t offset);

/// `path:line:column: error: text`, the source line, a caret and underline; then its notes in the same form.
std::string render(const Diagnostic &diagnostic, std::string_view path, std::string_view text, bool colour = false);
/// All errors in text order, and how many more there were. No newline at the end.
std::string render(const Diagnostics &diagnostics, std::string_view path, std::string_view text, bool colour = false);

} // namespace phasec::ir
