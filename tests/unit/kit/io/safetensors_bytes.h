// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fettle::test {

/// A safetensors file as a string: the length of `header`, `header`, and `data_bytes` zeros.
inline std::string safetensors_bytes(std::string_view header, std::size_t data_bytes) {
  const auto length = static_cast<std::uint64_t>(header.size());
  std::string bytes(reinterpret_cast<const char*>(&length), 8);
  return bytes.append(header).append(data_bytes, '\0');
}

}  // namespace fettle::test
