// A small JSON reader for plans: no library, so that the reference needs nothing but the C++ runtime.
#ifndef PHASEC_TESTS_REFERENCE_JSON_H
#define PHASEC_TESTS_REFERENCE_JSON_H

#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace phasec_reference {

struct Json {
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };

  Kind kind = Kind::kNull;
  bool boolean = false;
  double number = 0;
  std::string string;
  std::vector<Json> array;
  std::map<std::string, Json> object;

  // The member of an object, null when this is no object or has no such member.
  const Json *get(const std::string &key) const;
  // True for a number without a fraction that a double holds exactly.
  bool isInteger() const;
};

// False with the offset of the problem in *error. Duplicate keys are refused.
bool parseJson(const std::string &text, Json *out, std::string *error);

} // namespace phasec_reference

#endif
