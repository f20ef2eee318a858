// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/abi.h"
#include "fettle_kit/io/message.h"

#include "host/pipeline/node.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fettle::host {

/// A scalar read as one of the types of abi.h: vars, parameters and the settings of a step are all read by this.
struct Scalar {
  std::int64_t integer = 0;  ///< bool, int, count, size in bytes
  double real = 0;           ///< float, duration in seconds; the others as a double, for ranges
  std::string text;          ///< string, path
};

/// Nothing if the node is not written as the type (a fettle_type) demands. Counts may end in k, M, G, T (powers of
/// 1000), sizes must end in a unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB), durations too (ms, s, min, h, d).
std::optional<Scalar> read_scalar(const Node& node, std::uint32_t type);

/// A number with an optional unit, as gates write it: 3, 1.5GiB, 2M, 15min, 5%.
std::optional<double> read_quantity(std::string_view text);

/// "expected a size with its unit, such as 500MiB" for what was found.
std::string expectation(std::uint32_t type, const Node& found);
/// "'abc'", "a list", "a map", "nothing".
std::string describe(const Node& node);
using kit::grouped;
/// "path", "int", ...: as vars and the reference pages write types.
std::string_view type_name(std::uint32_t type);

/// True for a plain scalar that YAML 1.2 core resolves to null, bool, int or float.
bool is_null_text(std::string_view text);
bool is_typed_plain(const Node& node);

}  // namespace fettle::host
