// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace fettle::kit {

/// What a product does to its factors. Sums are real in any case.
enum class Precision {
  real,  ///< as they are: f32 on machines, f64 in the test oracle
  bf16,  ///< rounded to bf16 (to nearest, ties to even) where they are not stored so
};

/// As parameters spell it: "bf16", or "f32".
inline Precision precision_of(std::string_view name) { return name == "bf16" ? Precision::bf16 : Precision::real; }

}  // namespace fettle::kit
