// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/importance.h"
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/model/decoder.h"

#include "plugins/harness.h"
#include "plugins/prose.h"
#include "unit/kit/compress/tiny_families.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

namespace fettle::test {
namespace {

using namespace fettle::kit;
using Indices = std::vector<std::int64_t>;

std::string block(std::int64_t layer, const char* rest) { return "model.layers." + std::to_string(layer) + "." + rest; }

/// Planned on the attributes of the tiny model, run on the files.
Step prune(const std::string& model, const Attributes& more = {}) {
  Attributes attributes{{"layout", "hf"},  {"layers", "4"}, {"hidden", "32"},        {"ffn", "64"},      {"heads", "4"},
                        {"kv_heads", "2"}, {"vocab", "48"}, {"parameters", "50000"}, {"bytes", "200000"}};
  for (const auto& [key, value] : more) attributes[key] = value;
  return Step("prune_width", "prune.width").input("model", "model", model, attributes, "sha256:model");
}

Step prune_tiny() {
  static const std::string model = tiny_checkpoint(tiny_family("llama"));
  return prune(model).input("calibration", "tokens", tiny_tokens(), {{"sequences", "12"}, {"length", "32"}});
}

Step prune_prose() { return prune(prose_model()).input("calibration", "tokens", prose_calibration()); }

Importance importance_of(const std::string& model, const std::string& tokens) {
  const StepResult r = Step("calibrate_importance", "calibrate.importance")
                           .input("model", "model", model)
                           .input("calibration", "tokens", tokens)
                           .run();
  EXPECT_TRUE(r.ok()) << r.message;
  return *Importance::open(r.outputs.at("importance"));
}

TEST(PruneWidth, IsAnIdentityWhereEverythingStays) {
  const StepResult r =
      prune_prose().param("ffn", 1).param("heads", 1).param("kv_heads", 1).param("hidden", 1).param("measure", 0).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto before = Checkpoint::open(prose_model()), after = Checkpoint::open(r.outputs.at("model"));
  ASSERT_EQ(before->tensors().size(), after->tensors().size());
  for (const TensorView* t : before->tensors()) {
    const TensorView* const other = after->find(t->name);
    ASSERT_TRUE(other != nullptr && std::equal(t->bytes.begin(), t->bytes.end(), other->bytes.begin())) << t->name;
  }
}

TEST(PruneWidth, RemovesDeadNeuronsFirstAndChangesNothingByIt) {
  const Indices dead{0, 5, 17, 18, 40, 41, 42, 63, 7, 8, 9, 10, 50, 51, 52, 53};
  const std::string model = tiny_checkpoint(tiny_family("llama"), [&](Tensors& tensors) {
    for (std::int64_t l = 0; l < 4; ++l) {
      zero_rows(tensors.at(block(l, "mlp.up_proj.weight")), 32, dead);
      zero_rows(tensors.at(block(l, "mlp.gate_proj.weight")), 32, dead);
    }
  });
  const StepResult r =
      prune(model).input("calibration", "tokens", tiny_tokens()).param("ffn", 0.75).param("multiple", 16).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.value("ffn"), 48);
  EXPECT_LE(relative_difference(tiny_logits(r.outputs.at("model")), tiny_logits(model)), 1e-6);
}

TEST(PruneWidth, ScoresDependOnHowANeuronIsScaled) {
  const Json config = tiny_family("llama");
  const std::string plain = tiny_checkpoint(config);
  const std::string scaled = tiny_checkpoint(config, [](Tensors& tensors) {
    for (std::size_t j = 0; j < 32; ++j) {
      tensors.at(block(1, "mlp.up_proj.weight"))[3 * 32 + j] *= 4;        // row 3
      tensors.at(block(1, "mlp.down_proj.weight"))[j * 64 + 3] *= 0.25f;  // column 3
    }
  });
  EXPECT_LE(relative_difference(tiny_logits(scaled), tiny_logits(plain)), 1e-6);
  const std::string tokens = tiny_tokens();
  const Importance before = importance_of(plain, tokens), after = importance_of(scaled, tokens);
  EXPECT_EQ(ConstMatrix(after.ffn)(1, 3), 4 * ConstMatrix(before.ffn)(1, 3));
  EXPECT_EQ(ConstMatrix(after.ffn)(1, 4), ConstMatrix(before.ffn)(1, 4));
}

TEST(PruneWidth, KeepsEquallyManyQueryHeadsOfEveryKvHead) {
  const StepResult r = prune_tiny().param("heads", 0.5).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.value("heads"), 2);
  EXPECT_EQ(r.value("kv_heads"), 2);
  // One head of each pair, in every block, whichever is used more.
  const Importance scores = importance_of(tiny_checkpoint(tiny_family("llama")), tiny_tokens());
  const auto before = Checkpoint::open(tiny_checkpoint(tiny_family("llama"))),
             after = Checkpoint::open(r.outputs.at("model"));
  for (std::int64_t l = 0; l < 4; ++l) {
    const ConstMatrix heads = scores.heads;
    for (std::int64_t g = 0; g < 2; ++g) {
      const std::int64_t kept = heads(l, 2 * g) >= heads(l, 2 * g + 1) ? 2 * g : 2 * g + 1;
      const auto name = block(l, "self_attn.q_proj.weight");
      const auto bytes = [&](const TensorView& t, std::int64_t head) {
        return t.bytes.subspan(static_cast<std::size_t>(head) * 8 * 32 * 4, 8 * 32 * 4);
      };
      const auto a = bytes(*after->find(name), g), b = bytes(*before->find(name), kept);
      EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin())) << "block " << l << ", group " << g;
    }
  }
}

TEST(PruneWidth, RemovesKvGroupsOnRequest) {
  const StepResult r = prune_tiny().param("kv_head_count", 1).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.value("heads"), 2);
  EXPECT_EQ(r.value("kv_heads"), 1);
}

TEST(PruneWidth, CutsAllAxesAtOnceToAModelThatPredicts) {
  const StepResult r = prune_prose().param("ffn_size", 512).param("hidden_size", 192).param("head_count", 2).run();
  ASSERT_TRUE(r.ok()) << r.message;
  auto weights = Weights::open(r.outputs.at("model"));
  ASSERT_TRUE(weights.ok()) << weights.error().message();
  const ModelConfig& c = weights->config();
  EXPECT_EQ(c.hidden, 192);
  EXPECT_EQ(c.intermediate, 512);
  EXPECT_EQ(c.heads, 2);
  EXPECT_EQ(c.kv_heads, 2);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_LT(prose_nll(r.outputs.at("model")), std::log(1024.0));
  EXPECT_TRUE(std::filesystem::exists(r.outputs.at("model") + "/tokenizer.json"));
}

TEST(PruneWidth, LosesLessThanHalfOfWhatChanceLoses) {
  const StepResult by_use = prune_prose().param("ffn_size", 576).run();
  const StepResult by_chance = prune_prose().param("ffn_size", 576).param("score", "random").run();
  ASSERT_TRUE(by_use.ok() && by_chance.ok()) << by_use.message << by_chance.message;
  const double dense = prose_nll(prose_model());
  EXPECT_LE(prose_nll(by_use.outputs.at("model")) - dense, 0.6 * (prose_nll(by_chance.outputs.at("model")) - dense));
}

TEST(PruneWidth, RaisesTheGainOfNormsUnlessToldNotTo) {
  const StepResult with = prune_prose().param("hidden_size", 192).run();
  const StepResult without = prune_prose().param("hidden_size", 192).param("norm_gain", false).run();
  ASSERT_TRUE(with.ok() && without.ok()) << with.message << without.message;
  const auto first = [](const StepResult& r) {
    float gain = 0;
    const auto checkpoint = Checkpoint::open(r.outputs.at("model"));
    const TensorView& t = *checkpoint->find("model.norm.weight");
    info(t.dtype).to_f32(t.bytes.data(), &gain, 1);
    return gain;
  };
  EXPECT_NEAR(first(with) / first(without), std::sqrt(256.0 / 192), 1.0 / 128);  // bf16
}

TEST(PruneWidth, SearchesTheShapeOfLeastLossWithinABudget) {
  const StepResult r = prune_prose().param("params", 2500000).param("multiple", 32).param("measure", 4).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_LE(r.value("parameters"), 2500000);
  const auto& losses = r.series.at("candidate.nll");
  ASSERT_GT(losses.size(), 1U);
  double least = losses[0].second;
  std::size_t at = 0;
  for (std::size_t i = 0; i < losses.size(); ++i)
    if (losses[i].second < least) least = losses[i].second, at = i;
  EXPECT_EQ(r.value("nll"), least);
  EXPECT_EQ(r.value("hidden"), r.series.at("candidate.hidden")[at].second);
  EXPECT_EQ(r.value("ffn"), r.series.at("candidate.ffn")[at].second);
  EXPECT_EQ(r.log[1].text, "  parameters  hidden     ffn  heads      loss");
}

TEST(PruneWidth, SearchLeavesWhatIsSaidAlone) {
  const StepResult r =
      prune_prose().param("params", 2600000).param("hidden", 1.0).param("multiple", 32).param("measure", 2).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.value("hidden"), 256);
}

TEST(PruneWidth, ReportsSizesLossesAndWhatWasKept) {
  const StepResult r = prune_prose().param("ffn_size", 512).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.value("parameters_before"), 3410176);
  EXPECT_EQ(r.value("parameters"), 3410176 - 4 * 3 * 256 * 256);
  EXPECT_EQ(r.value("bytes_before") - r.value("bytes"), 2 * 4 * 3 * 256 * 256);
  EXPECT_GT(r.value("nll"), r.value("nll_before"));
  EXPECT_EQ(r.series.at("ffn.kept").size(), 4U);
  EXPECT_EQ(r.series.at("ffn.kept")[3].second, 512);
  EXPECT_GT(r.series.at("ffn.kept_score")[0].second, 2.0 / 3);
  EXPECT_EQ(r.series.at("heads.kept_score")[0].second, 1);
}

TEST(PruneWidth, UsesOneImportanceArtifactAsItWouldItsOwn) {
  const StepResult scores = Step("calibrate_importance", "calibrate.importance")
                                .input("model", "model", prose_model(), {}, "sha256:model")
                                .input("calibration", "tokens", prose_calibration())
                                .run();
  ASSERT_TRUE(scores.ok()) << scores.message;
  const StepResult given =
      prune(prose_model()).input("importance", "stats", scores.outputs.at("importance")).param("ffn_size", 512).run();
  const StepResult own = prune_prose().param("ffn_size", 512).run();
  ASSERT_TRUE(given.ok() && own.ok()) << given.message << own.message;
  EXPECT_EQ(file_bytes(given.outputs.at("model") + "/model.safetensors"),
            file_bytes(own.outputs.at("model") + "/model.safetensors"));
  EXPECT_TRUE(given.warnings().empty());
}

TEST(PruneWidth, WritesTheSameBytesForAnyThreadCount) {
  const auto bytes = [](unsigned threads) {
    const StepResult r = prune_prose().param("ffn", 0.67).param("hidden_size", 192).threads(threads).run();
    EXPECT_TRUE(r.ok()) << r.message;
    return file_bytes(r.outputs.at("model") + "/model.safetensors") + std::to_string(r.value("nll"));
  };
  EXPECT_EQ(bytes(1), bytes(5));
}

TEST(PruneWidth, RoundsASizeToWhatKQuantsCanStore) {
  const StepResult r = prune(prose_model(), {{"hidden", "256"}, {"ffn", "768"}})
                           .input("calibration", "tokens", "", {{"sequences", "16"}, {"length", "128"}})
                           .param("ffn", 0.6)
                           .estimate();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.foretold.at("model").at("ffn"), "512");
}

TEST(PruneWidth, ForetellsTheSizesAndNothingItLoses) {
  const StepResult r =
      prune(prose_model(), {{"sparsity", "2:4"}}).param("ffn_size", 32).param("score", "weight").estimate();
  ASSERT_TRUE(r.ok()) << r.message;
  const Attributes& model = r.foretold.at("model");
  EXPECT_EQ(model.at("ffn"), "32");
  EXPECT_EQ(model.at("hidden"), "32");
  EXPECT_EQ(model.at("parameters"), std::to_string(50000 - 4 * 32 * 3 * 32));
  EXPECT_EQ(model.count("sparsity"), 0U);
}

TEST(PruneWidth, WarnsWhereKQuantsNoLongerFit) {
  const StepResult r = prune_prose().param("ffn_size", 700).param("measure", 0).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.warnings().back(),
            "ffn 700: no multiple of 256, so k-quants (Q4_K, Q6_K, ...) will store matrices with so many inputs in "
            "other, larger types");
}

struct Refusal {
  const char* name;
  std::map<std::string, nlohmann::ordered_json> params;
  const char* where;
  const char* message;
};
void PrintTo(const Refusal& r, std::ostream* out) { *out << r.name; }

class PruneWidthRefuses : public ::testing::TestWithParam<Refusal> {};

TEST_P(PruneWidthRefuses, WhilePlanning) {
  Step step = prune_tiny();
  for (const auto& [name, value] : GetParam().params) step.param(name, value);
  StepResult r = step.validate();
  if (r.ok()) r = step.estimate();
  EXPECT_EQ(r.message, GetParam().message);
  EXPECT_EQ(r.where, GetParam().where);
}

INSTANTIATE_TEST_SUITE_P(
    Parameters, PruneWidthRefuses,
    ::testing::Values(
        Refusal{"nothing", {}, "", "says nothing to cut: give 'ffn', 'heads', 'kv_heads', 'hidden' or 'params'"},
        Refusal{"both",
                {{"ffn", 0.5}, {"ffn_size", 32}},
                "ffn_size",
                "'ffn' and 'ffn_size' both say how much stays; give one"},
        Refusal{"larger", {{"ffn_size", 65}}, "ffn_size", "ffn_size is 65, but the model has 64"},
        Refusal{"no_multiple",
                {{"hidden_size", 20}, {"multiple", 16}},
                "hidden_size",
                "hidden_size is 20, but must be a multiple of 16 ('multiple'); 16 or 32 would fit"},
        Refusal{"rounds_to_all",
                {{"ffn", 0.9}, {"multiple", 32}},
                "ffn",
                "0.9 of 64 is 58, which rounds to all of them by multiples of 32; keep less, or lower 'multiple'"},
        Refusal{"heads_and_groups",
                {{"head_count", 3}},
                "head_count",
                "head_count is 3, but every one of the 2 KV heads keeps equally many query heads; 2 or 4 would fit"},
        Refusal{"more_heads_than_groups_have",
                {{"head_count", 4}, {"kv_head_count", 1}},
                "head_count",
                "head_count is 4, but 1 KV heads have 2 query heads"},
        Refusal{"all_heads",
                {{"heads", 0.9}},
                "heads",
                "0.9 of the 2 query heads of a KV head rounds to all of them; 1 of them are 0.50"},
        Refusal{"all_groups",
                {{"kv_heads", 0.9}},
                "kv_heads",
                "0.9 of 2 KV heads rounds to all of them; 1 of them are 0.50"},
        Refusal{"more_groups", {{"kv_head_count", 3}}, "kv_head_count", "kv_head_count is 3, but the model has 2"},
        Refusal{"search_without_loss",
                {{"params", 1000}, {"measure", 0}},
                "measure",
                "'params' compares shapes by their loss, so it cannot be 0"}),
    [](const auto& row) { return row.param.name; });

TEST(PruneWidth, RefusesHeadsWhereEveryKvHeadHasOne) {
  const StepResult r = prune("", {{"heads", "2"}}).param("heads", 0.5).param("score", "weight").estimate();
  EXPECT_EQ(
      r.message,
      "every KV head has one query head, and heads go only from the groups of a KV head; use 'kv_heads' to remove "
      "both");
}

TEST(PruneWidth, RefusesToRankByNothing) {
  const StepResult r = prune("").param("ffn_size", 32).estimate();
  EXPECT_EQ(r.message,
            "needs something to rank by: connect 'importance' (from calibrate.importance) or 'calibration' (from "
            "data.tokens)");
}

TEST(PruneWidth, RefusesASearchWithoutText) {
  const StepResult r = prune("").param("params", 1000).param("score", "weight").estimate();
  EXPECT_EQ(r.message, "'params' compares shapes by their loss: connect 'calibration'");
}

TEST(PruneWidth, RefusesABudgetThatHoldsAlready) {
  const StepResult r = prune_prose().param("params", 4000000).run();
  EXPECT_EQ(r.where, "params");
  EXPECT_EQ(r.message, "the model has 3,410,176 parameters, which is within the budget of 4,000,000 already");
}

TEST(PruneWidth, RefusesABudgetThatNoWidthReaches) {
  const StepResult r = prune_prose().param("params", 1000000).param("multiple", 32).run();
  EXPECT_EQ(r.message,
            "no width fits 1,000,000 parameters: the smallest that may be tried has 1,578,400; lower 'floor' or "
            "'multiple', or remove blocks with prune.depth first");
}

TEST(PruneWidth, RefusesImportanceOfAnotherModelWhilePlanning) {
  const StepResult r = prune("")
                           .input("importance", "stats", "", {{"model", "sha256:0123456789abcdef"}})
                           .param("ffn_size", 32)
                           .estimate();
  EXPECT_EQ(r.where, "importance");
  EXPECT_EQ(r.message,
            "importance was measured on another model (sha256:0123456789ab...), not on the one to prune "
            "(sha256:model...); measure it with calibrate.importance on that one");
}

TEST(PruneWidth, RefusesImportanceOfAnotherModelWhenItRuns) {
  const StepResult scores = Step("calibrate_importance", "calibrate.importance")
                                .input("model", "model", prose_model(), {}, "sha256:other")
                                .input("calibration", "tokens", prose_tokens(8))
                                .run();
  ASSERT_TRUE(scores.ok()) << scores.message;
  const auto refused = [&](const std::string& model) {
    return prune(model)
        .input("importance", "stats", scores.outputs.at("importance"))
        .param("ffn_size", 32)
        .run()
        .message;
  };
  EXPECT_EQ(refused(prose_model()),
            "importance was measured on another model (sha256:other...), not on the one to prune (sha256:model...); "
            "measure it with calibrate.importance on that one");
  EXPECT_EQ(refused(tiny_checkpoint(tiny_family("llama"))),
            "importance was measured on a model of 4 layers, hidden 256, ffn 768, 4 heads, the one to prune has 4 "
            "layers, hidden 32, ffn 64, 4 heads");
}

TEST(PruneWidth, RefusesAQuantizedModel) {
  Json config = tiny_family("llama");
  config["quantization_config"] = {{"quant_method", "gptq"}};
  const std::string model = temporary_folder();
  const auto plain = Checkpoint::open(tiny_checkpoint(tiny_family("llama")));
  std::vector<TensorSpec> specs;
  for (const TensorView* t : plain->tensors()) specs.push_back({t->name, t->dtype, t->shape});
  ASSERT_TRUE(write_checkpoint(
                  model, config, specs,
                  [&](const TensorSpec& spec, const TensorSink& sink) { return sink(plain->find(spec.name)->bytes); },
                  "")
                  .ok());
  const StepResult r = prune(model).param("ffn_size", 32).param("score", "weight").run();
  EXPECT_EQ(r.where, "model");
  EXPECT_EQ(r.message,
            "the weights are quantized already, and packed codes cannot be cut; prune the original checkpoint, then "
            "quantize the result");
}

TEST(PruneWidth, RefusesTooFewTokens) {
  const StepResult r = prune(tiny_checkpoint(tiny_family("llama")))
                           .input("calibration", "tokens", tiny_tokens(2))
                           .param("ffn_size", 32)
                           .run();
  EXPECT_EQ(r.where, "calibration");
  EXPECT_EQ(r.message,
            "64 calibration tokens are too few to rank anything by, at least 256 are needed (8,192 for a ranking that "
            "holds); give data.tokens more sequences");
}

TEST(PruneWidth, StopsWhenCancelled) {
  EXPECT_EQ(prune_prose().param("ffn_size", 512).cancel_at_poll(2).run().code, FETTLE_CANCELLED);
}

}  // namespace
}  // namespace fettle::test
