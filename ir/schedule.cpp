// schedule.cpp: the knob table and the effective schedule. Every way of setting a knob (file, configuration file,
// command line, host) ends in Schedule::set, so a value that is refused is refused in the same words everywhere.
#include "ir/suggest.h"
#include "phasec/config.h"

#include <charconv>

namespace phasec {

const char *name(Origin origin) {
  switch (origin) {
  case Origin::Default: return "default";
  case Origin::File: return "file";
  case Origin::Tuned: return "tuned";
  case Origin::Environment: return "environment";
  case Origin::ConfigFile: return "config_file";
  case Origin::Flag: return "flag";
  case Origin::Host: return "host";
  }
  return "default";
}

const std::vector<KnobInfo> &knobs() {
  static const std::vector<KnobInfo> table = {
#define PHASEC_KNOB_INT(name, value, lo, hi, doc) {#name, true, value, lo, hi, "", "", doc},
#define PHASEC_KNOB_ENUM(name, value, set, doc) {#name, false, 0, 0, 0, value, set, doc},
#include "knobs.def"
  };
  return table;
}

namespace {

int indexOf(std::string_view knob) {
  const std::vector<KnobInfo> &table = knobs();
  for (size_t i = 0; i < table.size(); ++i)
    if (knob == table[i].name) return static_cast<int>(i);
  return -1;
}

Status unknownKnob(std::string_view knob) {
  std::vector<std::string> names;
  for (const KnobInfo &info : knobs()) names.emplace_back(info.name);
  std::string text = "unknown knob '" + std::string(knob) + "'" + didYouMean(knob, names);
  return Status::usage(text + " (knobs: " + listWords(names, ", ") + ")");
}

/// wo_split is the one integer whose legal values are not a range.
Status checkWoSplit(int64_t value) {
  if (value == 0) return {}; // "none": the value of a layer without `wo`
  std::vector<std::string> set;
  for (int split : kWoSplits) {
    if (value == split) return {};
    set.push_back(std::to_string(split));
  }
  return Status::usage("wo_split must be " + listWords(set) + ", not " + std::to_string(value));
}

Result<int64_t> parseInteger(const KnobInfo &info, std::string_view text) {
  int64_t value = 0;
  const char *end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  const bool well_formed = !text.empty() && error == std::errc() && stop == end;
  // Values outside wo_split's set are named by its own message; everything else by the range.
  if (well_formed && std::string_view(info.name) == "wo_split") {
    PHASEC_TRY(checkWoSplit(value));
    return value;
  }
  if (!well_formed || value < info.int_min || value > info.int_max)
    return Status::usage(std::string(info.name) + " must be an integer from " + std::to_string(info.int_min) + " to " +
                         std::to_string(info.int_max) + ", not '" + std::string(text) + "'");
  return value;
}

Status checkWord(const KnobInfo &info, std::string_view text) {
  const std::vector<std::string> words = splitWords(info.words, '|');
  for (const std::string &word : words)
    if (word == text) return {};
  return Status::usage(std::string(info.name) + " must be " + listWords(words) + ", not '" + std::string(text) + "'" +
                       didYouMean(text, words));
}

} // namespace

Schedule::Schedule() {
  for (const KnobInfo &info : knobs()) {
    Value value;
    value.integer = info.int_default;
    value.text = info.is_int ? std::to_string(info.int_default) : info.word_default;
    values_.push_back(std::move(value));
  }
}

Status Schedule::set(std::string_view knob, std::string_view value, Origin origin) {
  const int index = indexOf(knob);
  if (index < 0) return unknownKnob(knob);
  const KnobInfo &info = knobs()[index];
  Value next;
  next.origin = origin;
  if (info.is_int) {
    PHASEC_ASSIGN(next.integer, parseInteger(info, value));
    next.text = std::to_string(next.integer); // "08" and "8" are one value and one key
  } else {
    PHASEC_TRY(checkWord(info, value));
    next.text = std::string(value);
  }
  if (origin >= values_[index].origin) values_[index] = std::move(next);
  return {};
}

int64_t Schedule::integer(std::string_view knob) const {
  const int index = indexOf(knob);
  assert(index >= 0 && knobs()[index].is_int && "not an integer knob");
  return index < 0 ? 0 : values_[index].integer;
}

const std::string &Schedule::word(std::string_view knob) const {
  static const std::string empty;
  const int index = indexOf(knob);
  assert(index >= 0 && !knobs()[index].is_int && "not a word knob");
  return index < 0 ? empty : values_[index].text;
}

std::string Schedule::text(std::string_view knob) const {
  const int index = indexOf(knob);
  assert(index >= 0 && "no such knob");
  return index < 0 ? "" : values_[index].text;
}

Origin Schedule::origin(std::string_view knob) const {
  const int index = indexOf(knob);
  assert(index >= 0 && "no such knob");
  return index < 0 ? Origin::Default : values_[index].origin;
}

std::string Schedule::canonical() const {
  std::string text;
  for (size_t i = 0; i < values_.size(); ++i) {
    if (i > 0) text += ' ';
    text += std::string(knobs()[i].name) + "=" + values_[i].text;
  }
  return text;
}

} // namespace phasec
