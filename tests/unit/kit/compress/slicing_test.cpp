// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/slicing.h"

#include "fettle_kit/calibrate/structured.h"
#include "fettle_kit/model/sliced_config.h"

#include "plugins/harness.h"
#include "unit/kit/compress/tiny_families.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

namespace fettle::test {
namespace {

using namespace fettle::kit;
using Indices = std::vector<std::int64_t>;

constexpr DecoderShape tiny{4, 32, 64, 4, 2, 8};

std::string block(std::int64_t layer, const char* rest) { return "model.layers." + std::to_string(layer) + "." + rest; }

/// The path of what stays of a checkpoint.
std::string sliced(const std::string& dense, const KeptParts& kept, bool norm_gain = true) {
  const std::string folder = temporary_folder();
  const auto checkpoint = Checkpoint::open(dense);
  const auto bytes = write_sliced(folder, *checkpoint, kept, norm_gain);
  EXPECT_TRUE(bytes.ok()) << bytes.error().message();
  return folder;
}

/// Other parts in every block, so that a mix-up of blocks shows.
KeptParts some_parts(bool heads_go, bool groups_go) {
  KeptParts kept = KeptParts::all(tiny);
  for (std::int64_t l = 0; l < tiny.layers; ++l) {
    const auto at = static_cast<std::size_t>(l);
    std::erase_if(kept.ffn[at], [&](std::int64_t i) { return (i + l) % 4 == 0; });
    if (groups_go) kept.kv_heads[at] = {l % 2};
    kept.heads[at].clear();
    for (const std::int64_t g : kept.kv_heads[at])
      for (std::int64_t h = 0; h < 2; ++h)
        if (!heads_go || h == (g + l) % 2) kept.heads[at].push_back(2 * g + h);
  }
  return kept;
}

void zero_entries(Tensors& tensors, const std::string& name, const Indices& entries) {
  if (const auto found = tensors.find(name); found != tensors.end()) zero_rows(found->second, 1, entries);
}

Indices spread(const Indices& parts, std::int64_t unit) {
  Indices all;
  for (const std::int64_t p : parts)
    for (std::int64_t i = 0; i < unit; ++i) all.push_back(p * unit + i);
  return all;
}

/// Zeroes what `kept` lacks: whatever it would have written, or been read from.
void mask(Tensors& tensors, const KeptParts& kept) {
  const Indices hidden = others(kept.hidden, tiny.hidden);
  zero_cols(tensors.at("model.embed_tokens.weight"), tiny.hidden, hidden);
  for (std::int64_t l = 0; l < tiny.layers; ++l) {
    const auto at = static_cast<std::size_t>(l);
    const Indices ffn = others(kept.ffn[at], tiny.ffn), heads = spread(others(kept.heads[at], tiny.heads), 8);
    zero_rows(tensors.at(block(l, "mlp.gate_proj.weight")), tiny.hidden, ffn);
    zero_rows(tensors.at(block(l, "mlp.up_proj.weight")), tiny.hidden, ffn);
    zero_entries(tensors, block(l, "mlp.gate_proj.bias"), ffn);
    zero_entries(tensors, block(l, "mlp.up_proj.bias"), ffn);
    zero_cols(tensors.at(block(l, "self_attn.o_proj.weight")), tiny.heads * tiny.head_dim, heads);
    zero_rows(tensors.at(block(l, "self_attn.o_proj.weight")), tiny.heads * tiny.head_dim, hidden);
    zero_rows(tensors.at(block(l, "mlp.down_proj.weight")), tiny.ffn, hidden);
    zero_entries(tensors, block(l, "self_attn.o_proj.bias"), hidden);
    zero_entries(tensors, block(l, "mlp.down_proj.bias"), hidden);
  }
}

class SlicingOf : public ::testing::TestWithParam<std::string> {
 protected:
  Json config = tiny_family(GetParam());
  std::string dense = tiny_checkpoint(config);

  double sliced_against_masked(const KeptParts& kept) const {
    const std::string masked = tiny_checkpoint(config, [&](Tensors& tensors) { mask(tensors, kept); });
    EXPECT_GT(relative_difference(tiny_logits(masked), tiny_logits(dense)), 1e-3) << "the mask hits nothing";
    return relative_difference(tiny_logits(sliced(dense, kept)), tiny_logits(masked));
  }
};

TEST_P(SlicingOf, FfnNeuronsEqualsMaskingThem) { EXPECT_LE(sliced_against_masked(some_parts(false, false)), 1e-5); }
TEST_P(SlicingOf, HeadsEqualsMaskingThem) { EXPECT_LE(sliced_against_masked(some_parts(true, false)), 1e-5); }
TEST_P(SlicingOf, KvGroupsEqualsMaskingThem) { EXPECT_LE(sliced_against_masked(some_parts(false, true)), 1e-5); }

TEST_P(SlicingOf, HiddenChannelsEqualsMaskingThemThanksToTheGainOfNorms) {
  KeptParts kept = KeptParts::all(tiny);
  std::erase_if(kept.hidden, [](std::int64_t i) { return i % 4 == 1; });
  EXPECT_LE(sliced_against_masked(kept), 1e-5);
}

TEST_P(SlicingOf, AllAxesAtOnceEqualsMaskingThem) {
  KeptParts kept = some_parts(true, true);
  std::erase_if(kept.hidden, [](std::int64_t i) { return i % 8 == 3; });
  EXPECT_LE(sliced_against_masked(kept), 1e-5);
}

TEST_P(SlicingOf, ReorderedPartsIsTheSameModel) {
  KeptParts kept = KeptParts::all(tiny);
  std::reverse(kept.hidden.begin(), kept.hidden.end());
  for (std::size_t l = 0; l < 4; ++l) {
    std::rotate(kept.ffn[l].begin(), kept.ffn[l].begin() + 7 + static_cast<std::ptrdiff_t>(l), kept.ffn[l].end());
    kept.kv_heads[l] = {1, 0};
    kept.heads[l] = {3, 2, 0, 1};
  }
  EXPECT_LE(relative_difference(tiny_logits(sliced(dense, kept)), tiny_logits(dense)), 1e-5);
}

// Windows of attention alternate in some families, start at a block in others: whichever block goes, the others keep
// theirs.
TEST_P(SlicingOf, RemovedBlocksThatDoNothingLeaveTheModelUnchanged) {
  for (std::int64_t gone = 0; gone < tiny.layers; ++gone) {
    const std::string idle = tiny_checkpoint(config, [&](Tensors& tensors) {
      for (const char* name :
           {"self_attn.o_proj.weight", "mlp.down_proj.weight", "self_attn.o_proj.bias", "mlp.down_proj.bias"})
        if (const auto found = tensors.find(block(gone, name)); found != tensors.end())
          std::fill(found->second.begin(), found->second.end(), 0.0f);
    });
    KeptParts kept = KeptParts::all(tiny);
    kept.layers.erase(kept.layers.begin() + gone);
    EXPECT_LE(relative_difference(tiny_logits(sliced(idle, kept)), tiny_logits(idle)), 1e-6) << "block " << gone;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, SlicingOf, ::testing::ValuesIn(tiny_family_names()), [](const auto& row) {
  std::string name = row.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(Slicing, CopiesKeptWeightsBitForBit) {
  const std::string dense = tiny_checkpoint(tiny_family("llama"));
  KeptParts kept = KeptParts::all(tiny);
  kept.ffn.assign(4, {1, 5, 60});
  const auto before = Checkpoint::open(dense), after = Checkpoint::open(sliced(dense, kept));
  const TensorView &wide = *before->find(block(2, "mlp.up_proj.weight")),
                   &narrow = *after->find(block(2, "mlp.up_proj.weight"));
  ASSERT_EQ(narrow.shape, (std::vector<std::int64_t>{3, 32}));
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_EQ(std::memcmp(narrow.bytes.data() + i * 128,
                          wide.bytes.data() + static_cast<std::size_t>(kept.ffn[2][i]) * 128, 128),
              0);
}

TEST(Slicing, LeavesTheGainOfNormsAloneIfAsked) {
  const std::string dense = tiny_checkpoint(tiny_family("llama"));
  KeptParts kept = KeptParts::all(tiny);
  kept.hidden.resize(16);
  const auto before = Checkpoint::open(dense), after = Checkpoint::open(sliced(dense, kept, false));
  const char* const name = "model.layers.0.input_layernorm.weight";
  EXPECT_EQ(std::memcmp(after->find(name)->bytes.data(), before->find(name)->bytes.data(), 16 * 4), 0);
}

TEST(Slicing, CarriesRotaryFrequenciesAlong) {
  const std::string dense = temporary_folder();
  const std::string name = block(1, "self_attn.rotary_emb.inv_freq");
  const auto plain = Checkpoint::open(tiny_checkpoint(tiny_family("llama")));
  std::vector<TensorSpec> specs{{name, DType::f32, {4}}};
  for (const TensorView* t : plain->tensors()) specs.push_back({t->name, t->dtype, t->shape});
  const std::vector<float> frequencies{1, 2, 3, 4};
  ASSERT_TRUE(write_checkpoint(
                  dense, plain->config(), specs,
                  [&](const TensorSpec& spec, const TensorSink& sink) {
                    return sink(spec.name == name ? std::as_bytes(std::span(frequencies))
                                                  : plain->find(spec.name)->bytes);
                  },
                  "")
                  .ok());
  KeptParts kept = KeptParts::all(tiny);
  kept.layers = {1, 3};
  const auto after = Checkpoint::open(sliced(dense, kept));
  EXPECT_NE(after->find(block(0, "self_attn.rotary_emb.inv_freq")), nullptr);
}

struct BadKept {
  const char* name;
  void (*spoil)(KeptParts&);
  const char* message;
};

class KeptRefused : public ::testing::TestWithParam<BadKept> {};

TEST_P(KeptRefused, WithAReason) {
  KeptParts kept = KeptParts::all(tiny);
  GetParam().spoil(kept);
  EXPECT_EQ(check_kept(kept, tiny).message(), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(Parts, KeptRefused,
                         ::testing::Values(BadKept{"no_block", [](KeptParts& k) { k.layers.clear(); },
                                                   "the kept blocks are not ascending indices of blocks"},
                                           BadKept{"shuffled_blocks",
                                                   [](KeptParts& k) { std::swap(k.layers[0], k.layers[1]); },
                                                   "the kept blocks are not ascending indices of blocks"},
                                           BadKept{"channel_twice", [](KeptParts& k) { k.hidden[1] = 0; },
                                                   "the kept hidden channels are not distinct indices"},
                                           BadKept{"neuron_beyond", [](KeptParts& k) { k.ffn[2].back() = 64; },
                                                   "the kept parts of block 2 are not distinct indices"},
                                           BadKept{"other_size", [](KeptParts& k) { k.ffn[2].pop_back(); },
                                                   "block 2 keeps other sizes than block 0"},
                                           BadKept{"head_of_another_group",
                                                   [](KeptParts& k) {
                                                     k.heads.assign(4, {0, 1, 2});
                                                   },
                                                   "block 0 keeps other counts of query heads for its KV heads"},
                                           BadKept{"blocks_missing", [](KeptParts& k) { k.ffn.pop_back(); },
                                                   "the kept parts are not of as many blocks as the model has"}),
                         [](const auto& row) { return row.param.name; });

TEST(Slicing, RefusesATensorNobodyKnows) {
  const std::string dense = temporary_folder();
  const Json config = tiny_family("llama");
  ASSERT_TRUE(write_checkpoint(
                  dense, config, {{"model.layers.0.mlp.router.weight", DType::f32, {8, 32}}},
                  [](const TensorSpec&, const TensorSink& sink) { return sink(std::vector<std::byte>(8 * 32 * 4)); },
                  "")
                  .ok());
  const auto checkpoint = Checkpoint::open(dense);
  EXPECT_EQ(slice_tensors(*checkpoint, tiny, KeptParts::all(tiny)).error().message(),
            "tensor 'model.layers.0.mlp.router.weight' is none that the model's family has, so nobody knows how to cut "
            "it; remove it from the checkpoint");
}

TEST(Slicing, RefusesATensorOfAnotherShape) {
  const std::string dense = temporary_folder();
  ASSERT_TRUE(write_checkpoint(
                  dense, tiny_family("llama"), {{"model.norm.weight", DType::f32, {31}}},
                  [](const TensorSpec&, const TensorSink& sink) { return sink(std::vector<std::byte>(31 * 4)); }, "")
                  .ok());
  const auto checkpoint = Checkpoint::open(dense);
  EXPECT_EQ(slice_tensors(*checkpoint, tiny, KeptParts::all(tiny)).error().message(),
            "tensor 'model.norm.weight' has shape [31], which does not fit config.json");
}

Json config_without(const char* family, std::vector<std::int64_t> layers, void (*edit)(Json&) = nullptr) {
  Json config = tiny_family(family);
  if (edit) edit(config);
  KeptParts kept = KeptParts::all(tiny);
  kept.layers = std::move(layers);
  const auto result = sliced_config(config, "config.json", kept);
  return result.ok() ? *result : Json(result.error().message());
}

TEST(SlicedConfig, SaysTheWindowOfEachBlockWhereTheRhythmBreaks) {
  EXPECT_EQ(config_without("gemma2", {0, 2, 3})["layer_types"],
            (Json{"sliding_attention", "sliding_attention", "full_attention"}));
}

TEST(SlicedConfig, KeepsTheLinesOfTheBlocksThatStay) {
  const auto with_types = [](Json& c) {
    c["layer_types"] = {"sliding_attention", "full_attention", "full_attention", "sliding_attention"};
  };
  EXPECT_EQ(config_without("mistral", {0, 2, 3}, with_types)["layer_types"],
            (Json{"sliding_attention", "full_attention", "sliding_attention"}));
}

TEST(SlicedConfig, CountsTheBlocksBeforeTheFirstWindowAnew) {
  EXPECT_EQ(config_without("qwen2", {1, 2, 3})["max_window_layers"], 1);
}

TEST(SlicedConfig, NamesTheHeadWidthOnceItNoLongerFollows) {
  Json config = tiny_family("llama");
  config.erase("head_dim");
  KeptParts kept = KeptParts::all(tiny);
  kept.hidden.resize(24);
  const auto result = sliced_config(config, "config.json", kept);
  ASSERT_TRUE(result.ok()) << result.error().message();
  EXPECT_EQ((*result)["head_dim"], 8);
  EXPECT_EQ((*result)["hidden_size"], 24);
}

TEST(SlicedConfig, RefusesAListWithAnEntryForEachBlock) {
  EXPECT_EQ(config_without("llama", {0, 1},
                           [](Json& c) {
                             c["no_rope_layers"] = {1, 1, 1, 0};
                           }),
            "config.json: 'no_rope_layers' has an entry for each of the 4 blocks, and it is not known what becomes of "
            "it when blocks go");
}

}  // namespace
}  // namespace fettle::test
