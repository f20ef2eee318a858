// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/block_walk.h"

#include "fettle_kit/calibrate/block_linears.h"

#include "unit/kit/io/scratch_folder.h"
#include "unit/kit/model/tiny_model.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <set>
#include <string>

namespace fettle::kit {
namespace {

class BlockWalkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = ::testing::TempDir() + "fettle_block_walk";
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
    ASSERT_TRUE(test::write_tiny_model(folder).ok());
    auto weights = Weights::open(folder);
    ASSERT_TRUE(weights.ok()) << weights.error().message();
    auto decoder = Decoder::open(*std::move(weights));
    ASSERT_TRUE(decoder.ok());
    model_.emplace(*std::move(decoder));
    std::vector<std::int32_t> ids(3 * 16);
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 7 % 48);
    tokens_.emplace(ids, 16, "sha256:none", false);
  }

  /// Inputs of every site of every block, block after block.
  std::vector<std::vector<float>> inputs(bool observe_twice, bool zero_first_block) {
    std::vector<std::vector<float>> seen;
    auto walk = BlockWalk::start(*model_, *tokens_);
    EXPECT_TRUE(walk.ok());
    while (!walk->done()) {
      if (observe_twice) {
        EXPECT_TRUE(walk->observe([](Site, ConstMatrix) {}).ok());
      }
      EXPECT_TRUE(
          walk->observe([&](Site, ConstMatrix x) { seen.emplace_back(x.data, x.data + x.rows * x.cols); }).ok());
      BlockWeights changed = model_->block_weights(walk->layer());
      const std::vector<float> zeros(static_cast<std::size_t>(changed.down.weight.rows * changed.down.weight.cols));
      if (zero_first_block && walk->layer() == 0) {
        changed.down.weight.data = reinterpret_cast<const std::byte*>(zeros.data());
        EXPECT_TRUE(walk->advance(&changed).ok());
      } else {
        EXPECT_TRUE(walk->advance(nullptr).ok());
      }
    }
    return seen;
  }

  std::optional<Decoder> model_;
  std::optional<TokenSet> tokens_;
};

TEST_F(BlockWalkTest, ShowsEverySiteOfEveryBlockInOrder) {
  auto walk = BlockWalk::start(*model_, *tokens_);
  ASSERT_TRUE(walk.ok());
  std::vector<Site> sites;
  ASSERT_TRUE(walk->observe([&](Site site, ConstMatrix x) {
                    sites.push_back(site);
                    EXPECT_EQ(x.cols, width_of(site, model_->config()));
                    EXPECT_EQ(x.rows, 48);
                  })
                  .ok());
  EXPECT_EQ(sites, (std::vector<Site>{Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_hidden}));
}

TEST_F(BlockWalkTest, SeesWhatTheForwardPassSees) {
  // The last site of the last block is what a forward pass of each sequence alone computes there.
  const auto seen = inputs(false, false);
  ASSERT_EQ(seen.size(), 4U * 2);
  for (std::int64_t s = 0; s < 3; ++s) {
    Rows x(16, model_->config().hidden);
    ASSERT_TRUE(model_->embed(x, tokens_->sequence(s)).ok());
    const auto positions = model_->positions(0, 16);
    std::vector<float> expected;
    for (std::int64_t layer = 0; layer < 2; ++layer)
      model_->block(x, layer, model_->block_weights(layer), {1, 16}, positions, nullptr,
                    [&](Site, ConstMatrix m) { expected.assign(m.data, m.data + m.rows * m.cols); });
    const std::size_t part = expected.size();
    EXPECT_EQ(
        std::vector<float>(seen.back().begin() + static_cast<std::ptrdiff_t>(part * static_cast<std::size_t>(s)),
                           seen.back().begin() + static_cast<std::ptrdiff_t>(part * static_cast<std::size_t>(s + 1))),
        expected);
  }
}

TEST_F(BlockWalkTest, ObservingDoesNotMoveTheBoundary) { EXPECT_EQ(inputs(true, false), inputs(false, false)); }

TEST_F(BlockWalkTest, PropagatesWhatTheChangedBlockPutsOut) {
  const auto dense = inputs(false, false), changed = inputs(false, true);
  for (std::size_t site = 0; site < 4; ++site) EXPECT_EQ(changed[site], dense[site]);
  EXPECT_NE(changed[4], dense[4]);
}

TEST_F(BlockWalkTest, PassesWithOneRunWhereObservingAndAdvancingTakeTwo) {
  std::vector<std::vector<float>> seen;
  std::vector<float> out;
  auto walk = BlockWalk::start(*model_, *tokens_);
  ASSERT_TRUE(walk.ok());
  while (!walk->done()) {
    const auto copy = [](ConstMatrix x) { return std::vector<float>(x.data, x.data + x.rows * x.cols); };
    const Status passed = walk->pass([&](Site, ConstMatrix x) { seen.push_back(copy(x)); },
                                     [&](ConstMatrix before, ConstMatrix after) {
                                       if (!out.empty()) {
                                         EXPECT_EQ(copy(before), out);
                                       }
                                       out = copy(after);
                                     });
    ASSERT_TRUE(passed.ok());
  }
  EXPECT_EQ(seen, inputs(false, false));
}

/// KiB of the mappings of a file that are in memory.
long resident_kib(const std::string& file) {
  std::ifstream maps("/proc/self/smaps");
  long total = 0;
  bool of_file = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find('-') < line.find(' ')) of_file = line.ends_with(file);  // "55d0c0a00000-55d0c0a21000 r--s ..."
    if (of_file && line.starts_with("Rss:")) total += std::strtol(line.c_str() + 4, nullptr, 10);
  }
  return total;
}

TEST_F(BlockWalkTest, ReleasesThePagesOfABlockThatItHasLeft) {
  const test::ScratchFolder folder;
  auto config = test::tiny_llama_config();
  config["intermediate_size"] = 8192;  // 3 MiB a block, nearly all of the file
  ASSERT_TRUE(test::write_tiny_model(folder.path(), config).ok());
  auto weights = Weights::open(folder.path());
  ASSERT_TRUE(weights.ok());
  const auto model = Decoder::open(*std::move(weights));
  ASSERT_TRUE(model.ok());
  auto walk = BlockWalk::start(*model, *tokens_);
  ASSERT_TRUE(walk.ok());
  for (int block = 0; block < 2; ++block) {
    ASSERT_TRUE(walk->observe([](Site, ConstMatrix) {}).ok());
    EXPECT_GT(resident_kib(folder.path() + "/model.safetensors"), 2500);
    ASSERT_TRUE(walk->advance(nullptr).ok());
    EXPECT_LT(resident_kib(folder.path() + "/model.safetensors"), 1000);
  }
}

TEST_F(BlockWalkTest, StopsWhenTold) {
  auto walk = BlockWalk::start(*model_, *tokens_, [] { return true; });
  ASSERT_TRUE(walk.ok());
  EXPECT_EQ(walk->observe([](Site, ConstMatrix) {}).code(), Code::cancelled);
}

TEST_F(BlockWalkTest, RefusesSequencesLongerThanTheContext) {
  const TokenSet longer(std::vector<std::int32_t>(65), 65, "sha256:none", false);
  EXPECT_EQ(BlockWalk::start(*model_, longer).error().message(),
            "calibration sequences have 65 tokens, but the model's context is 64; cut them shorter with 'length' of "
            "data.tokens");
}

}  // namespace
}  // namespace fettle::kit
