// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/output_file.h"
#include "fettle_kit/kernels/gemm_bf16.h"
#include "fettle_kit/text/token_set.h"

#include "plugins/harness.h"
#include "unit/kit/model/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

namespace fettle::test {
namespace {

const std::string shared = FETTLE_TEST_SHARED;

std::string tiny_model() {
  const std::string folder = temporary_folder();
  EXPECT_TRUE(write_tiny_model(folder).ok());
  return folder;
}

std::string tokens(std::int64_t sequences, std::int64_t length, std::int32_t modulus = 48) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < sequences * length; ++i) ids.push_back(static_cast<std::int32_t>(i * i % modulus));
  const std::string folder = temporary_folder();
  EXPECT_TRUE(kit::TokenSet(ids, length, "sha256:0", true).save(folder).ok());
  return folder;
}

std::string text_folder(const std::string& text) {
  const std::string folder = temporary_folder();
  EXPECT_TRUE(kit::write_text_file(folder + "/text.txt", text).ok());
  return folder;
}

Step perplexity() { return {"eval_perplexity", "eval.perplexity"}; }

TEST(EvalPerplexity, ReportsEveryNumberToTheHostAndTheFile) {
  const StepResult result =
      perplexity().input("model", "model", tiny_model()).input("tokens", "tokens", tokens(5, 30)).run();
  ASSERT_TRUE(result.ok()) << result.message;
  EXPECT_EQ(result.value("tokens"), 5 * 29);
  EXPECT_EQ(result.value("windows"), 5);
  EXPECT_NEAR(result.value("ppl"), std::exp(result.value("nll")), 1e-9 * result.value("ppl"));
  EXPECT_GT(result.metrics.at("nll").standard_error, 0);
  EXPECT_TRUE(std::isnan(result.metrics.at("tokens").standard_error));
  EXPECT_FALSE(result.metrics.contains("bits_per_byte"));  // this model has no tokenizer

  const auto file = kit::read_json_file(result.outputs.at("metrics") + "/metrics.json");
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)["ppl"]["value"], result.value("ppl"));
  EXPECT_EQ((*file)["ppl"]["standard_error"], result.metrics.at("ppl").standard_error);
  EXPECT_EQ((*file)["nll"]["unit"], "nats a token");
  EXPECT_FALSE((*file)["tokens"].contains("standard_error"));
  ASSERT_FALSE(result.progress.empty());
  EXPECT_EQ(result.progress.back().done, 5u);
}

TEST(EvalPerplexity, ThreadsDoNotChangeTheFile) {
  const std::string model = tiny_model(), ids = tokens(7, 20);
  const auto bytes = [&](unsigned threads) {
    const auto result =
        perplexity().input("model", "model", model).input("tokens", "tokens", ids).threads(threads).run();
    return *kit::read_text_file(result.outputs.at("metrics") + "/metrics.json");
  };
  EXPECT_EQ(bytes(1), bytes(3));
}

TEST(EvalPerplexity, WindowsCapsHowMuchIsMeasured) {
  const StepResult result = perplexity()
                                .input("model", "model", tiny_model())
                                .input("tokens", "tokens", tokens(5, 30))
                                .param("windows", 2)
                                .run();
  ASSERT_TRUE(result.ok()) << result.message;
  EXPECT_EQ(result.value("tokens"), 2 * 29);
}

TEST(EvalPerplexity, MeasuresTextWithTheModelsOwnTokenizer) {
  if (!std::filesystem::exists(shared + "/models/prose-3m")) GTEST_SKIP() << "the model prose-3m is not here";
  std::string text;
  for (int i = 0; i < 100; ++i) text += "It was a cold evening in November when the driver came. ";
  const StepResult result = perplexity()
                                .input("model", "model", shared + "/models/prose-3m")
                                .input("text", "text", text_folder(text))
                                .param("length", 128)
                                .run();
  ASSERT_TRUE(result.ok()) << result.message;
  EXPECT_LT(result.value("ppl"), 1024);  // better than chance
  EXPECT_GT(result.value("bits_per_byte"), 0);
  EXPECT_GT(result.metrics.at("bits_per_byte").standard_error, 0);
}

struct Refusal {
  const char* name;
  bool text, tokens;
  nlohmann::ordered_json length;
  std::string where, message;
};

class EvalPerplexityRefusals : public ::testing::TestWithParam<Refusal> {};

TEST_P(EvalPerplexityRefusals, HappenWhilePlanning) {
  const Refusal& r = GetParam();
  Step step = perplexity();
  step.input("model", "model", tiny_model());
  if (r.text) step.input("text", "text", text_folder("hello"));
  if (r.tokens) step.input("tokens", "tokens", tokens(2, 10));
  if (!r.length.is_null()) step.param("length", r.length);
  EXPECT_EQ(step.estimate().message, r.message);
  EXPECT_EQ(step.estimate().where, r.where);
}

INSTANTIATE_TEST_SUITE_P(
    Ports, EvalPerplexityRefusals,
    ::testing::Values(Refusal{"neither", false, false, nullptr, "text",
                              "connect port 'text' or port 'tokens': there is nothing to measure on"},
                      Refusal{"both", true, true, nullptr, "tokens",
                              "ports 'text' and 'tokens' are both connected; leave one away"},
                      Refusal{"length_of_tokens", false, true, 20, "length",
                              "'length' is for port 'text'; sequences of tokens keep the length they have"}),
    [](const auto& row) { return row.param.name; });

TEST(EvalPerplexity, RefusesTokensOfAnotherTokenizer) {
  if (!std::filesystem::exists(shared + "/models/prose-3m")) GTEST_SKIP() << "the model prose-3m is not here";
  const StepResult result =
      perplexity().input("model", "model", shared + "/models/prose-3m").input("tokens", "tokens", tokens(2, 10)).run();
  EXPECT_EQ(result.code, FETTLE_INVALID_ARGUMENT);
  EXPECT_EQ(result.where, "tokens");
  EXPECT_THAT(result.message,
              testing::StartsWith("the tokens were made with tokenizer sha256:0, but the model's is sha256:"));
  EXPECT_THAT(result.message, testing::EndsWith("; make them with the model's"));
}

TEST(EvalPerplexity, RefusesIdsOutsideTheVocabulary) {
  const StepResult result =
      perplexity().input("model", "model", tiny_model()).input("tokens", "tokens", tokens(2, 10, 60)).run();
  EXPECT_EQ(result.code, FETTLE_INVALID_ARGUMENT);
  EXPECT_EQ(result.message,
            "token id 49 is outside the model's vocabulary of 48; were the tokens made with another tokenizer?");
}

TEST(EvalPerplexity, StopsWhenCancelled) {
  const StepResult result = perplexity()
                                .input("model", "model", tiny_model())
                                .input("tokens", "tokens", tokens(5, 30))
                                .cancel_at_poll(3)
                                .run();
  EXPECT_EQ(result.code, FETTLE_CANCELLED);
  EXPECT_TRUE(std::filesystem::is_empty(result.outputs.at("metrics")));
}

TEST(EvalPerplexity, EstimatesFromAttributesAlone) {
  const StepResult result = perplexity()
                                .input("model", "model", "",
                                       {{"parameters", "1000000"},
                                        {"hidden", "256"},
                                        {"ffn", "768"},
                                        {"vocab", "1024"},
                                        {"layers", "4"},
                                        {"context", "512"}})
                                .input("tokens", "tokens", "", {{"sequences", "100"}, {"length", "512"}})
                                .estimate();
  ASSERT_TRUE(result.ok()) << result.message;
  EXPECT_EQ(result.estimate.flops, 2e6 * 51200);
  EXPECT_GT(result.estimate.memory_bytes, 2048u * (256 + 256 + 2 * 768) * 4);
}

/// However large the model is.
TEST(EvalPerplexity, EstimatesAPanelOfAQuantizedCheckpointAsF32) {
  const auto memory = [](const char* weights, const char* ffn, const char* layers) {
    return perplexity()
        .input("model", "model", "",
               {{"layout", "hf"},
                {"weights", weights},
                {"hidden", "256"},
                {"ffn", ffn},
                {"heads", "4"},
                {"kv_heads", "2"},
                {"vocab", "1024"},
                {"layers", layers},
                {"context", "512"}})
        .input("tokens", "tokens", "", {{"sequences", "1"}, {"length", "512"}})
        .estimate()
        .estimate.memory_bytes;
  };
  EXPECT_EQ(memory("gptq.int4", "2048", "4") - memory("bf16", "2048", "4"), 4u * 256 * 2048);
  EXPECT_EQ(memory("gptq.int4", "65536", "90") - memory("bf16", "65536", "90"), 16u << 20);
}

TEST(EvalPerplexity, EstimatesTheFactorsThatBf16ProductsPack) {
  const auto memory = [](const char* precision) {
    return perplexity()
        .input("model", "model", "",
               {{"layout", "hf"}, {"weights", "bf16"}, {"hidden", "256"}, {"ffn", "768"}, {"vocab", "1024"}})
        .input("tokens", "tokens", "", {{"sequences", "1"}, {"length", "512"}})
        .param("precision", precision)
        .estimate()
        .estimate.memory_bytes;
  };
  EXPECT_EQ(memory("bf16") - memory("f32"), static_cast<std::uint64_t>(kit::bf16_packed_bytes(512)));
}

}  // namespace
}  // namespace fettle::test
