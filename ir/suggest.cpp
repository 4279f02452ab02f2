// suggest.cpp: edit distance over small candidate lists, and the word lists of error texts.
#include "ir/suggest.h"

#include "llvm/ADT/StringRef.h"

namespace phasec {

namespace {
constexpr size_t kLongestWord = 64; // nobody misspells a longer one, and edit distance is quadratic

/// Two neighbouring letters swapped: one slip, though two edits.
bool isSwap(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  size_t i = 0;
  while (i < a.size() && a[i] == b[i]) ++i;
  return i + 1 < a.size() && a[i] == b[i + 1] && a[i + 1] == b[i] && a.substr(i + 2) == b.substr(i + 2);
}
} // namespace

std::string nearest(std::string_view word, const std::vector<std::string> &candidates) {
  if (word.empty() || word.size() > kLongestWord) return "";
  const llvm::StringRef wanted(word.data(), word.size());
  unsigned best_distance = static_cast<unsigned>((word.size() + 2) / 3) + 1;
  std::string best;
  for (const std::string &candidate : candidates) {
    if (candidate.empty() || candidate.size() > kLongestWord) continue;
    const unsigned distance =
        isSwap(word, candidate) ? 1 : wanted.edit_distance(candidate, /*AllowReplacements=*/true, best_distance);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string didYouMean(std::string_view word, const std::vector<std::string> &candidates, std::string_view sigil) {
  const std::string best = nearest(word, candidates);
  if (best.empty()) return "";
  return "; did you mean '" + std::string(sigil) + best + "'?";
}

std::string listWords(const std::vector<std::string> &words, std::string_view last_separator) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? last_separator : std::string_view(", ");
    text += words[i];
  }
  return text;
}

std::vector<std::string> splitWords(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t end = text.find(separator);
    parts.emplace_back(text.substr(0, end));
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
  return parts;
}

} // namespace phasec
