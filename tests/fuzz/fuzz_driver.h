// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

// A fuzz target is one file, NAME_fuzz.cpp, that defines these two, and one line fettle_fuzz(NAME LIBS ...).

/// Reads untrusted bytes. Returns 0; whatever breaks a promise calls std::abort().
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

/// A few small valid inputs to mutate.
std::vector<std::string> fuzz_seeds();

namespace fettle::test {

/// A promise about what the reader gave back.
inline void fuzz_check(bool holds) {
  if (!holds) std::abort();
}

}  // namespace fettle::test
