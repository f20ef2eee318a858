// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/gguf.h"
#include "fettle_kit/model/decoder.h"
#include "fettle_kit/model/gguf_layout.h"
#include "fettle_kit/model/network.h"
#include "fettle_kit/tensor/dtype.h"

#include "unit/kit/model/gguf_of_checkpoint.h"
#include "unit/kit/model/tiny_model.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

const std::string goldens = std::string(FETTLE_TEST_SHARED) + "/goldens/";

template <class T>
T must(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.error().message());
  return *std::move(result);
}
void must(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

std::vector<float> logits_of(const Decoder& model) {
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 40; ++i) ids.push_back(i * 7 % 40);
  Rows x(40, model.config().hidden), logits(40, model.config().vocab);
  must(model.forward(x, ids, {1, 40}));
  model.logits(logits, x);
  const ConstMatrix view = logits;
  return {view.data, view.data + view.rows * view.cols};
}

class GgufWeights : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::replace(name.begin(), name.end(), '/', '_');
    folder_ = ::testing::TempDir() + "gguf_weights_" + name;
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_ + "/hf");
    std::filesystem::create_directories(folder_ + "/gguf");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string folder_;
};

class GgufOfGoldens : public GgufWeights, public ::testing::WithParamInterface<std::string> {};

TEST_P(GgufOfGoldens, GivesTheLogitsOfItsCheckpoint) {
  const std::string golden = goldens + GetParam();
  if (!std::filesystem::exists(golden)) GTEST_SKIP() << "the reference models are not here";
  test::write_gguf(folder_ + "/gguf/model.gguf", must(Checkpoint::open(golden)));
  const Decoder hf = must(Decoder::open(must(Weights::open(golden))));
  const Decoder gguf = must(Decoder::open(must(Weights::open(folder_ + "/gguf"))));
  EXPECT_TRUE(gguf.weights().from_gguf());
  EXPECT_EQ(hf.config().parameters(), gguf.config().parameters());
  const auto expected = logits_of(hf), found = logits_of(gguf);
  if (GetParam() == "llama-rope3-tied") {  // its factors are stored, not the frequencies: an ulp apart
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-4);
  } else {
    EXPECT_EQ(found, expected);
  }
}

TEST_P(GgufOfGoldens, GivesANetworkTheParametersOfItsCheckpoint) {
  const std::string golden = goldens + GetParam();
  if (!std::filesystem::exists(golden)) GTEST_SKIP() << "the reference models are not here";
  test::write_gguf(folder_ + "/gguf/model.gguf", must(Checkpoint::open(golden)));
  const auto backend = make_cpu_backend();
  const Network hf = must(Network::open(*backend, must(Weights::open(golden)), {}));
  const Network gguf = must(Network::open(*backend, must(Weights::open(folder_ + "/gguf")), {}));
  ASSERT_EQ(gguf.parameters().size(), hf.parameters().size());
  for (std::size_t i = 0; i < hf.parameters().size(); ++i) {
    const Parameter &expected = hf.parameters()[i], &found = gguf.parameters()[i];
    std::vector<float> a(static_cast<std::size_t>(expected.elements())), b(a.size());
    backend->download(a, expected.value);
    backend->download(b, found.value);
    EXPECT_EQ(b, a) << expected.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, GgufOfGoldens,
                         ::testing::Values("llama", "llama-rope3-tied", "smollm-like", "qwen2", "qwen3"),
                         [](const auto& row) {
                           std::string name = row.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

/// Its projections are parts of attn_qkv and ffn_up there.
TEST_F(GgufWeights, APhi3GivesTheLogitsOfItsCheckpoint) {
  const std::string checkpoint = std::string(FETTLE_TEST_SOURCE_DIR) + "/tests/data/phi3";
  test::write_gguf(folder_ + "/gguf/model.gguf", must(Checkpoint::open(checkpoint)));
  const Decoder hf = must(Decoder::open(must(Weights::open(checkpoint))));
  const Decoder gguf = must(Decoder::open(must(Weights::open(folder_ + "/gguf"))));
  EXPECT_EQ(hf.config().windows, gguf.config().windows);
  EXPECT_EQ(logits_of(gguf), logits_of(hf));
}

TEST_F(GgufWeights, AMissingFusedTensorIsNamed) {
  const std::string path = folder_ + "/gguf/model.gguf";
  test::write_gguf(path, must(Checkpoint::open(std::string(FETTLE_TEST_SOURCE_DIR) + "/tests/data/phi3")),
                   [](std::vector<GgufTensor>& tensors) {
                     std::erase_if(tensors, [](const GgufTensor& t) { return t.name == "blk.1.attn_qkv.weight"; });
                   });
  EXPECT_EQ(Decoder::open(must(Weights::open(folder_ + "/gguf"))).error().message(),
            path + ": tensor 'blk.1.attn_qkv.weight' is missing");
}

TEST_F(GgufWeights, MessagesNameTheTensorAsItStandsInTheFile) {
  must(test::write_tiny_model(folder_ + "/hf"));
  const std::string path = folder_ + "/gguf/model.gguf";
  test::write_gguf(path, must(Checkpoint::open(folder_ + "/hf")), [](std::vector<GgufTensor>& tensors) {
    for (GgufTensor& t : tensors)
      if (t.name == "blk.1.ffn_up.weight") t.name = "blk.1.other.weight";
  });
  EXPECT_EQ(Decoder::open(must(Weights::open(folder_ + "/gguf"))).error().message(),
            path + ": tensor 'blk.1.ffn_up.weight' is missing");
}

TEST_F(GgufWeights, AFolderWithoutAModelSaysSo) {
  EXPECT_EQ(Weights::open(folder_ + "/gguf").error().message(),
            folder_ + "/gguf: no model here: neither config.json nor a .gguf file");
  EXPECT_EQ(Weights::open(folder_ + "/none").error().message(), folder_ + "/none: there is no such file or folder");
}

TEST_F(GgufWeights, AFolderWithTwoAsksWhich) {
  must(test::write_tiny_model(folder_ + "/hf"));
  const Checkpoint model = must(Checkpoint::open(folder_ + "/hf"));
  test::write_gguf(folder_ + "/gguf/a.gguf", model);
  test::write_gguf(folder_ + "/gguf/b.gguf", model);
  EXPECT_EQ(Weights::open(folder_ + "/gguf").error().message(),
            folder_ + "/gguf: holds 'a.gguf' and 'b.gguf'; name the one you mean");
  EXPECT_TRUE(Weights::open(folder_ + "/gguf/b.gguf").ok());
}

}  // namespace
}  // namespace fettle::kit
