// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>

namespace fettle::test {

/// Small random models with what transformers computes from them, of every family. The first two are in the project
/// (tests/data/make_family.py), the others beside it (../shared/goldens).
inline const std::string kGoldens[] = {"gemma2",      "phi3",    "llama", "llama-bias", "llama-rope3-tied",
                                       "smollm-like", "mistral", "qwen2", "qwen3",      "gemma3"};

inline std::string golden_folder(const std::string& name) {
  const std::string own = std::string(FETTLE_TEST_SOURCE_DIR) + "/tests/data/" + name;
  return std::filesystem::exists(own) ? own : std::string(FETTLE_TEST_SHARED) + "/goldens/" + name;
}

/// As a name of a test.
inline std::string golden_label(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

}  // namespace fettle::test
