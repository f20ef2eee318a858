// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/foreseen.h"

#include "fettle_kit/model/family.h"

#include <fmt/format.h>

#include <string>
#include <vector>

namespace fettle::kit {

Status check_family(const Inputs& inputs, const char* port) {
  const std::string type(inputs.at(port).attribute("architecture"));
  if (type.empty()) return {};
  std::vector<std::string_view> known;
  for (const Family& family : families()) {
    // GGUF names text models without the suffix that transformers has for those beside vision models.
    std::string_view name = family.model_type;
    if (name == type || (name.ends_with("_text") && name.substr(0, name.size() - 5) == type)) return {};
    known.push_back(name);
  }
  return {Code::unsupported,
          fmt::format("model type '{}' is not supported; supported are {}", type, fmt::join(known, ", ")), port};
}

Status check_same_vocabulary(const Inputs& inputs, const char* port, const char* other) {
  const double size = inputs.at(port).number("vocab"), expected = inputs.at(other).number("vocab");
  if (size == 0 || expected == 0 || size == expected) return {};
  return {
      Code::invalid_argument,
      fmt::format("the model at '{}' has a vocabulary of {}, the one at '{}' of {}; they cannot be compared token by "
                  "token",
                  port, size, other, expected),
      port};
}

}  // namespace fettle::kit
