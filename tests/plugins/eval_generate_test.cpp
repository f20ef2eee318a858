// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/output_file.h"

#include "plugins/harness.h"
#include "unit/kit/model/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

namespace fettle::test {
namespace {

const std::string shared = FETTLE_TEST_SHARED;
const std::string prose = shared + "/models/prose-3m";

Step generate() { return {"eval_generate", "eval.generate"}; }

std::string generation(const StepResult& result) {
  return *kit::read_text_file(result.outputs.at("text") + "/generation.txt");
}

class EvalGenerate : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(prose)) GTEST_SKIP() << "the model prose-3m is not here";
  }
};

TEST_F(EvalGenerate, WritesPromptsWithTheLikeliestContinuations) {
  const StepResult r =
      generate()
          .input("model", "model", prose)
          .param("prompts", {"The driver calls this function to", "\"I do not understand you,\" said the old man,"})
          .param("max_tokens", 32)
          .run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(
      generation(r),
      "The driver calls this function to the `Get-Process` cmdlet.\n\n### Example 3: Read-only\n\n"
      "\n----\n\n"
      "\"I do not understand you,\" said the old man, \"and I have been a clear to the moment of the mind. I'm not a "
      "moment, and I have been\n");
  EXPECT_EQ(r.value("tokens"), 64);
}

TEST_F(EvalGenerate, SamplesBySeed) {
  const auto sample = [](std::uint64_t seed) {
    return generation(generate()
                          .input("model", "model", prose)
                          .param("prompts", {"It was"})
                          .param("temperature", 1.0)
                          .param("top_p", 0.95)
                          .seed(seed)
                          .run());
  };
  EXPECT_EQ(sample(1), sample(1));
  EXPECT_NE(sample(1), sample(2));
}

TEST_F(EvalGenerate, AnyThreadCountWritesTheSame) {
  const auto text = [](unsigned threads) {
    return generation(generate().input("model", "model", prose).param("prompts", {"It was"}).threads(threads).run());
  };
  EXPECT_EQ(text(1), text(3));
}

TEST_F(EvalGenerate, APromptBeyondTheContextIsNamed) {
  std::string longest;
  for (int i = 0; i < 600; ++i) longest += " the";
  const StepResult r = generate().input("model", "model", prose).param("prompts", {"It was", longest}).run();
  EXPECT_EQ(r.code, FETTLE_INVALID_ARGUMENT);
  EXPECT_EQ(r.message, "prompt 2: the prompt has 601 tokens, but the model's context is 512");
}

TEST_F(EvalGenerate, StopsWhenCancelled) {
  const StepResult r = generate().input("model", "model", prose).param("prompts", {"It was"}).cancel_at_poll(10).run();
  EXPECT_EQ(r.code, FETTLE_CANCELLED);
  EXPECT_TRUE(std::filesystem::is_empty(r.outputs.at("text")));
}

TEST(EvalGenerateParameters, NeedAPrompt) {
  const StepResult r = generate().param("prompts", nlohmann::ordered_json::array()).validate();
  EXPECT_EQ(r.message, "give at least one prompt");
  EXPECT_EQ(r.where, "prompts");
}

TEST(EvalGenerateParameters, RefuseChoicesAmongSamplesThatAreNotTaken) {
  const StepResult r = generate().param("prompts", {"a"}).param("top_p", 0.9).validate();
  EXPECT_EQ(r.message, "'top_k' and 'top_p' choose among samples, but 'temperature' is 0, which takes no samples");
  EXPECT_EQ(r.where, "top_p");
  EXPECT_TRUE(generate().param("prompts", {"a"}).param("top_p", 0.9).param("temperature", 1).validate().ok());
}

TEST(EvalGenerateModel, WithoutATokenizerIsRefused) {
  const std::string folder = temporary_folder();
  ASSERT_TRUE(write_tiny_model(folder).ok());
  const StepResult r = generate().input("model", "model", folder).param("prompts", {"a"}).run();
  EXPECT_FALSE(r.ok());
  EXPECT_THAT(r.message, testing::HasSubstr("tokenizer.json"));
}

}  // namespace
}  // namespace fettle::test
