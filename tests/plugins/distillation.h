// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/text/token_set.h"

#include "plugins/harness.h"
#include "unit/kit/model/tiny_model.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

// Small models and tokens for the tests of the techniques that distil.

namespace fettle::test {

inline std::string tiny_model(std::uint32_t seed, const kit::Json& config = tiny_llama_config()) {
  std::string folder = temporary_folder();
  EXPECT_TRUE(write_tiny_model(folder, config, seed).ok());
  return folder;
}

/// Three blocks and more neurons than the student has.
inline std::string tiny_teacher(std::uint32_t seed = 9) {
  kit::Json config = tiny_llama_config();
  config["num_hidden_layers"] = 3;
  config["intermediate_size"] = 96;
  return tiny_model(seed, config);
}

inline kit::TokenSet tiny_tokens(std::int64_t sequences = 8, std::int32_t factor = 7, std::int64_t length = 16) {
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < sequences * length; ++i) ids.push_back((i * factor + i * i / 5) % 48);
  return {ids, length, "sha256:0", true};
}

inline std::string saved(const kit::TokenSet& set) {
  std::string folder = temporary_folder();
  EXPECT_TRUE(set.save(folder).ok());
  return folder;
}

inline std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace fettle::test
