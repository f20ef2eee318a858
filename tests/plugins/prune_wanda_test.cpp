// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/mask.h"
#include "fettle_kit/eval/perplexity.h"
#include "fettle_kit/eval/windows.h"
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/text/token_set.h"

#include "plugins/harness.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

namespace fettle::test {
namespace {

using namespace fettle::kit;

const std::string prose = std::string(FETTLE_TEST_SOURCE_DIR) + "/pipelines/data/prose-3m";
constexpr const char* down = "model.layers.2.mlp.down_proj.weight";

TokenSet windows() {
  const auto tokenizer = Tokenizer::open(prose);
  const auto text = read_text(std::string(FETTLE_TEST_SOURCE_DIR) + "/pipelines/data/held-out.txt");
  return *windows_of_text(*tokenizer, *text, 128, 0);
}

/// A "tokens" artifact: the first half of the text, so that the second half stays unseen.
std::string calibration() {
  static const std::string folder = [] {
    const TokenSet all = windows();
    const std::int64_t half = all.sequences() / 2;
    const TokenSet first({all.ids().begin(), all.ids().begin() + half * all.length()}, all.length(),
                         all.tokenizer_digest(), all.bos());
    const std::string path = temporary_folder();
    EXPECT_TRUE(first.save(path).ok());
    return path;
  }();
  return folder;
}

double nll_on_unseen_text(const std::string& model) {
  const TokenSet all = windows();
  const std::int64_t half = all.sequences() / 2;
  const TokenSet second({all.ids().begin() + half * all.length(), all.ids().end()}, all.length(),
                        all.tokenizer_digest(), all.bos());
  return perplexity(*Decoder::open(*Weights::open(model)), second)->nll.value;
}

Step wanda() {
  return Step("prune_wanda", "prune.wanda")
      .input("model", "model", prose, {{"layout", "hf"}})
      .input("calibration", "tokens", calibration());
}

std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(PruneWanda, PrunesTheSameNumberOfEveryRow) {
  const StepResult r = wanda().param("share", 0.5).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto masks = read_masks(r.outputs.at("mask"));
  ASSERT_TRUE(masks.ok()) << masks.error().message();
  const Mask& mask = masks->at(down);
  for (std::int64_t i = 0; i < mask.rows(); ++i) {
    std::int64_t kept = 0;
    for (std::int64_t j = 0; j < mask.cols(); ++j) kept += mask.kept(i, j);
    EXPECT_EQ(kept, mask.cols() / 2);
  }
}

TEST(PruneWanda, ZeroesWhatTheMaskSaysAndNothingElse) {
  const StepResult r = wanda().param("pattern", "2:4").run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto before = Checkpoint::open(prose), after = Checkpoint::open(r.outputs.at("model"));
  const auto masks = read_masks(r.outputs.at("mask"));
  const TensorView &old = *before->find(down), &now = *after->find(down);
  const Mask& mask = masks->at(down);
  for (std::int64_t i = 0; i < mask.rows(); ++i)
    for (std::int64_t j = 0; j < mask.cols(); ++j) {
      const auto at = static_cast<std::size_t>(i * mask.cols() + j) * 2;
      const bool zero = now.bytes[at] == std::byte{0} && now.bytes[at + 1] == std::byte{0};
      const bool same = now.bytes[at] == old.bytes[at] && now.bytes[at + 1] == old.bytes[at + 1];
      ASSERT_TRUE(mask.kept(i, j) ? same : zero);
    }
}

// The methods page gates the ratio of losses at 1.2; this small text keeps only the direction.
TEST(PruneWanda, LosesLessThanMagnitudeOnUnseenText) {
  const StepResult w = wanda().param("share", 0.5).run();
  const StepResult m = Step("prune_magnitude", "prune.magnitude")
                           .input("model", "model", prose, {{"layout", "hf"}})
                           .param("share", 0.5)
                           .run();
  ASSERT_TRUE(w.ok() && m.ok()) << w.message << m.message;
  const double dense = nll_on_unseen_text(prose);
  EXPECT_LT(nll_on_unseen_text(w.outputs.at("model")) - dense, nll_on_unseen_text(m.outputs.at("model")) - dense);
}

TEST(PruneWanda, WritesTheSameBytesForAnyThreadCount) {
  const StepResult one = wanda().param("share", 0.5).threads(1).run();
  const StepResult many = wanda().param("share", 0.5).threads(5).run();
  ASSERT_TRUE(one.ok() && many.ok()) << one.message << many.message;
  EXPECT_EQ(slurp(one.outputs.at("model") + "/model.safetensors"),
            slurp(many.outputs.at("model") + "/model.safetensors"));
}

TEST(PruneWanda, PropagationChangesLaterBlocksOnly) {
  const StepResult compressed = wanda().param("share", 0.5).run();
  const StepResult dense = wanda().param("share", 0.5).param("propagation", "dense").run();
  ASSERT_TRUE(compressed.ok() && dense.ok());
  const auto a = read_masks(compressed.outputs.at("mask")), b = read_masks(dense.outputs.at("mask"));
  EXPECT_EQ(a->at("model.layers.0.mlp.down_proj.weight"), b->at("model.layers.0.mlp.down_proj.weight"));
  EXPECT_NE(a->at(down), b->at(down));
}

TEST(PruneWanda, StopsWhenCancelled) {
  EXPECT_EQ(wanda().param("share", 0.5).cancel_at_poll(3).run().code, FETTLE_CANCELLED);
}

TEST(PruneWanda, RefusesATensorWithoutMeasuredInputs) {
  const StepResult r = wanda().param("share", 0.5).param("targets", {"*embed_tokens*"}).run();
  EXPECT_EQ(
      r.message,
      "tensor 'model.embed_tokens.weight' is not one of the seven linears of a block, so it has no measured inputs; "
      "narrow 'targets', or use prune.magnitude for it");
}

}  // namespace
}  // namespace fettle::test
