// suggest.h: "did you mean": the candidate nearest to a misspelt word.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace phasec {

/// The candidate within a third of the word's length in edits, or "" when none is that near.
std::string nearest(std::string_view word, const std::vector<std::string> &candidates);

/// "; did you mean 'candidate'?" with `sigil` before the name, or "" when no candidate is near.
std::string didYouMean(std::string_view word, const std::vector<std::string> &candidates, std::string_view sigil = "");

/// "a, b or c".
std::string listWords(const std::vector<std::string> &words, std::string_view last_separator = " or ");

/// Splits "a|b|c" (or at another separator) into its parts; "" has none.
std::vector<std::string> splitWords(std::string_view text, char separator);

} // namespace phasec
