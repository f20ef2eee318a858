// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fettle::test {

/// Puts a GGUF file together field by field, right or wrong.
struct GgufBytes {
  std::string bytes;

  GgufBytes& header(std::uint32_t version, std::uint64_t tensors, std::uint64_t pairs) {
    bytes += "GGUF";
    return u32(version).u64(tensors).u64(pairs);
  }
  GgufBytes& text(std::string_view value) {
    u64(value.size());
    bytes += value;
    return *this;
  }
  GgufBytes& u8(std::uint8_t value) { return put(value); }
  GgufBytes& u32(std::uint32_t value) { return put(value); }
  GgufBytes& i32(std::int32_t value) { return put(value); }
  GgufBytes& u64(std::uint64_t value) { return put(value); }
  GgufBytes& i64(std::int64_t value) { return put(value); }
  GgufBytes& zeros(std::size_t count) {
    bytes.append(count, '\0');
    return *this;
  }
  GgufBytes& align(std::size_t alignment) { return zeros((alignment - bytes.size() % alignment) % alignment); }

 private:
  template <class T>
  GgufBytes& put(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
};

}  // namespace fettle::test
