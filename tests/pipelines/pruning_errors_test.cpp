// SPDX-License-Identifier: Apache-2.0
// What cannot be pruned is refused while planning, with the place in the pipeline.
#include "unit/host/cli/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

namespace fettle::test {
namespace {

namespace fs = std::filesystem;

struct Mistake {
  const char* name;
  const char* steps;
  const char* message;
};

class PruningMistake : public ::testing::TestWithParam<Mistake> {};

TEST_P(PruningMistake, IsRefusedWhilePlanning) {
  const Folder folder;
  fs::create_directory_symlink(fs::path(FETTLE_TEST_SOURCE_DIR) / "pipelines/data", folder / "data");
  write_text(folder / "p.yaml", std::string("fettle: 1\n"
                                            "inputs:\n"
                                            "  base: {kind: model, path: ./data/prose-3m}\n"
                                            "  text: {kind: text, path: ./data/held-out.txt}\n"
                                            "steps:\n"
                                            "  tokens: {use: data.tokens, in: {text: text, tokenizer: base}, with: "
                                            "{length: 128, sequences: 4}}\n") +
                                    GetParam().steps);
  const Outcome planned = fettle(folder.path(), {"plan", "p.yaml", "--store", "store"});
  EXPECT_EQ(planned.code, 4) << planned.err;
  EXPECT_THAT(planned.err, ::testing::HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Rows, PruningMistake,
    ::testing::Values(
        Mistake{"share_beyond_one",
                "  pruned: {use: prune.wanda, in: {model: base, calibration: tokens}, with: {share: 1.5}}\n",
                "p.yaml:7:84: error: step 'pruned': parameter 'share' is 1.5, must be from 0 to 1\n"},
        Mistake{"no_pattern", "  pruned: {use: prune.magnitude, in: {model: base}, with: {pattern: '5:4'}}\n",
                "error: step 'pruned': parameter 'pattern': pattern '5:4' is not N:M with 1 <= N <= M <= 64; 2:4 keeps "
                "two of "
                "every four weights\n"},
        Mistake{"quantized_already",
                "  small: {use: quantize.rtn, in: {model: base}}\n"
                "  pruned: {use: prune.magnitude, in: {model: small}, with: {share: 0.5}}\n",
                "p.yaml:8:46: error: step 'pruned': input 'model' of prune.magnitude accepts weights f32, f16, bf16 or "
                "mixed, but 'small' has 'compressed-tensors.pack-quantized'\n"},
        Mistake{
            "too_few_tokens",
            "  pruned: {use: prune.sparsegpt, in: {model: base, calibration: tokens}, with: {share: 0.5}}\n",
            "p.yaml:7:65: error: step 'pruned': 'calibration': 512 calibration tokens are too few for the 768 inputs "
            "of 'model.layers.0.mlp.down_proj.weight': below 1536 the update is worse than none; give data.tokens "
            "more sequences (16 tokens an input are good)\n"},
        Mistake{
            "heads_that_groups_do_not_divide",
            "  narrow: {use: prune.width, in: {model: base}, with: {head_count: 3, score: weight}}\n",
            "p.yaml:7:68: error: step 'narrow': 'head_count': head_count is 3, but every one of the 2 KV heads keeps "
            "equally many query heads; 2 or 4 would fit\n"}),
    [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace fettle::test
