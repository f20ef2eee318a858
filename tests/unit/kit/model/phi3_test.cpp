// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/json.h"
#include "fettle_kit/model/decoder.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <string>

namespace fettle::kit {
namespace {

// tests/data/phi3/make.py: q, k and v in one tensor, gate and up in another, a window of 9 positions.
TEST(Phi3, PredictsWhatTransformersPredicts) {
  const std::string folder = std::string(FETTLE_TEST_SOURCE_DIR) + "/tests/data/phi3";
  const auto golden = read_json_file(folder + "/logits.json");
  ASSERT_TRUE(golden.ok()) << golden.error().message();
  auto weights = Weights::open(folder);
  ASSERT_TRUE(weights.ok()) << weights.error().message();
  const auto model = Decoder::open(*std::move(weights));
  ASSERT_TRUE(model.ok()) << model.error().message();
  const auto ids = golden->at("ids").get<std::vector<std::int32_t>>();
  const auto count = static_cast<std::int64_t>(ids.size());
  Rows x(count, model->config().hidden), logits(count, model->config().vocab);
  ASSERT_TRUE(model->forward(x, ids, {1, count}).ok());
  model->logits(logits, x);
  for (std::size_t i = 0; i < 2; ++i) {
    const auto expected = golden->at("logits")[i].get<std::vector<double>>();
    const auto row = ConstMatrix(logits).row(golden->at("rows")[i].get<std::int64_t>());
    double largest = 0, difference = 0;
    for (std::size_t j = 0; j < row.size(); ++j) {
      largest = std::max(largest, std::fabs(expected[j]));
      difference = std::max(difference, std::fabs(expected[j] - static_cast<double>(row[j])));
    }
    EXPECT_LE(difference, 1e-4 * largest) << "row " << i;
  }
}

}  // namespace
}  // namespace fettle::kit
