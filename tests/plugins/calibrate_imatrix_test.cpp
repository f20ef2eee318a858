// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/block_walk.h"
#include "fettle_kit/io/gguf.h"
#include "fettle_kit/io/imatrix.h"

#include "plugins/harness.h"
#include "plugins/prose.h"
#include "unit/kit/compress/tiny_families.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace fettle::test {
namespace {

using namespace fettle::kit;

Step imatrix(const std::string& tokens) {
  return Step("calibrate_imatrix", "calibrate.imatrix")
      .input("model", "model", prose_model(), {{"layout", "hf"}})
      .input("data", "tokens", tokens);
}
Step imatrix() { return imatrix(prose_tokens(4)); }

TEST(CalibrateImatrix, HoldsTheSevenMatricesOfEveryBlock) {
  const StepResult r = imatrix().param("dataset", "held-out.txt").run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto file = Imatrix::open(r.outputs.at("imatrix"));
  ASSERT_TRUE(file.ok()) << file.error().message();
  EXPECT_EQ(file->entries.size(), 4 * 7u);
  EXPECT_EQ(file->chunks, 4u);
  EXPECT_EQ(file->chunk_size, 128u);
  EXPECT_EQ(file->datasets, std::vector<std::string>{"held-out.txt"});
  EXPECT_EQ(file->entries.at("blk.3.attn_output.weight").counts, std::vector<float>{4 * 128});
  EXPECT_EQ(r.value("tokens"), 4 * 128);
}

TEST(CalibrateImatrix, NamesFusedMatricesOnce) {
  const StepResult r = Step("calibrate_imatrix", "calibrate.imatrix")
                           .input("model", "model", tiny_checkpoint(tiny_family("phi3")), {{"layout", "hf"}})
                           .input("data", "tokens", tiny_tokens())
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto file = Imatrix::open(r.outputs.at("imatrix"));
  ASSERT_TRUE(file.ok()) << file.error().message();
  EXPECT_EQ(file->entries.size(), 4 * 4u);
  for (const char* name : {"attn_qkv", "attn_output", "ffn_up", "ffn_down"})
    EXPECT_TRUE(file->entries.contains("blk.2." + std::string(name) + ".weight")) << name;
}

TEST(CalibrateImatrix, SumsTheSquaresOfWhatEachColumnSees) {
  const StepResult r = imatrix(prose_tokens(2)).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto file = Imatrix::open(r.outputs.at("imatrix"));
  auto weights = Weights::open(prose_model());
  const auto model = Decoder::open(*std::move(weights));
  const auto tokens = TokenSet::open(prose_tokens(2));
  auto walk = BlockWalk::start(*model, *tokens);
  std::vector<double> sums;
  ASSERT_TRUE(walk->observe([&](Site site, ConstMatrix x) {
                    if (site != Site::mlp_hidden) return;
                    sums.resize(static_cast<std::size_t>(x.cols));
                    for (std::int64_t i = 0; i < x.rows; ++i)
                      for (std::int64_t j = 0; j < x.cols; ++j)
                        sums[static_cast<std::size_t>(j)] += std::pow(static_cast<double>(x.row(i)[j]), 2);
                  })
                  .ok());
  EXPECT_THAT(file->entries.at("blk.0.ffn_down.weight").sums, testing::Pointwise(testing::FloatEq(), sums));
}

TEST(CalibrateImatrix, WritesTheFormOfLlamaCpp) {
  const StepResult r = imatrix().run();
  const auto file = GgufReader::open(r.outputs.at("imatrix") + "/imatrix.gguf");
  ASSERT_TRUE(file.ok()) << file.error().message();
  EXPECT_EQ(file->text("general.type"), "imatrix");
  ASSERT_NE(file->get<std::vector<std::string>>("imatrix.datasets"), nullptr);
  EXPECT_NE(file->get<std::uint32_t>("imatrix.chunk_count"), nullptr);
  EXPECT_NE(file->get<std::uint32_t>("imatrix.chunk_size"), nullptr);
  EXPECT_EQ(file->tensors()[0].name, "blk.0.attn_k.weight.in_sum2");
  EXPECT_EQ(file->tensors()[0].shape, std::vector<std::int64_t>{256});
  EXPECT_EQ(file->tensors()[1].name, "blk.0.attn_k.weight.counts");
  EXPECT_EQ(file->tensors()[1].shape, std::vector<std::int64_t>{1});
}

TEST(CalibrateImatrix, WritesTheSameBytesForAnyThreadCount) {
  const StepResult one = imatrix().threads(1).run(), many = imatrix().threads(5).run();
  ASSERT_TRUE(one.ok() && many.ok()) << one.message << many.message;
  EXPECT_EQ(file_bytes(one.outputs.at("imatrix") + "/imatrix.gguf"),
            file_bytes(many.outputs.at("imatrix") + "/imatrix.gguf"));
}

TEST(CalibrateImatrix, LowersWhatQuantizingLoses) {
  const StepResult measured = imatrix(prose_calibration()).run();
  ASSERT_TRUE(measured.ok()) << measured.message;
  const auto quantized = [&](bool weighted) {
    Step step("quantize_gguf", "quantize.gguf");
    step.input("model", "model", prose_model(), {{"layout", "hf"}}).param("type", "Q2_K");
    if (weighted) step.input("imatrix", "stats", measured.outputs.at("imatrix"));
    const StepResult r = step.run();
    EXPECT_TRUE(r.ok()) << r.message;
    EXPECT_THAT(r.warnings(), testing::IsEmpty());
    return prose_nll(r.outputs.at("model"));
  };
  EXPECT_LT(quantized(true), quantized(false));
}

TEST(CalibrateImatrix, ReadsGgufModelsToo) {
  Step quantize("quantize_gguf", "quantize.gguf");
  quantize.input("model", "model", prose_model(), {{"layout", "hf"}}).param("type", "BF16");
  const StepResult file = quantize.run();
  ASSERT_TRUE(file.ok()) << file.message;
  const StepResult r = Step("calibrate_imatrix", "calibrate.imatrix")
                           .input("model", "model", file.outputs.at("model"), {{"layout", "gguf"}})
                           .input("data", "tokens", prose_tokens(4))
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(file_bytes(r.outputs.at("imatrix") + "/imatrix.gguf"),
            file_bytes(imatrix().run().outputs.at("imatrix") + "/imatrix.gguf"));
}

TEST(CalibrateImatrix, StopsWhenCancelled) { EXPECT_EQ(imatrix().cancel_at_poll(2).run().code, FETTLE_CANCELLED); }

}  // namespace
}  // namespace fettle::test
