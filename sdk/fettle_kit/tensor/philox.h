// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

namespace fettle::kit {

/// Philox4x32-10 (Salmon et al. 2011, section 4.3): four random words from a counter and a key, without state, so that
/// any element of a random sequence can be computed by any thread.
inline std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0], b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key = {key[0] + 0x9E3779B9, key[1] + 0xBB67AE85};
  }
  return counter;
}

/// Element `index` of the random sequence of `seed`: uniform over all 64 bits.
inline std::uint64_t philox(std::uint64_t seed, std::uint64_t index) {
  const auto words = philox4x32({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), 0, 0},
                                {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  return words[0] | static_cast<std::uint64_t>(words[1]) << 32;
}

/// The same, uniform over 0 .. end - 1 up to a bias below end / 2^64.
inline std::uint64_t philox_below(std::uint64_t seed, std::uint64_t index, std::uint64_t end) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>(Wide{philox(seed, index)} * end >> 64);
}

/// Element `index` of stream `stream` of `seed`, uniform in [0, 1) with 53 random bits.
inline double philox_uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
  const auto words = philox4x32({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                                 static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
                                {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  return static_cast<double>((words[0] | static_cast<std::uint64_t>(words[1]) << 32) >> 11) * 0x1p-53;
}

}  // namespace fettle::kit
