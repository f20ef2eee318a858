// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/json.h"
#include "fettle_kit/text/token_set.h"

#include "plugins/harness.h"
#include "unit/kit/model/tiny_model.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

namespace fettle::test {
namespace {

std::string tiny_model(std::uint32_t seed, const kit::Json& config = tiny_llama_config()) {
  const std::string folder = temporary_folder();
  EXPECT_TRUE(write_tiny_model(folder, config, seed).ok());
  return folder;
}

std::string tokens() {
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 6 * 20; ++i) ids.push_back(i * i % 48);
  const std::string folder = temporary_folder();
  EXPECT_TRUE(kit::TokenSet(ids, 20, "sha256:0", true).save(folder).ok());
  return folder;
}

Step compare() { return {"eval_compare", "eval.compare"}; }

TEST(EvalCompare, AModelEqualsItself) {
  const std::string model = tiny_model(1);
  const StepResult r = compare()
                           .input("candidate", "model", model)
                           .input("reference", "model", model)
                           .input("tokens", "tokens", tokens())
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.value("kl"), 0);
  EXPECT_EQ(r.value("delta_nll"), 0);
  EXPECT_EQ(r.value("top1"), 1);
  EXPECT_EQ(r.value("size_ratio"), 1);
  EXPECT_EQ(r.value("ppl"), r.value("reference_ppl"));
  EXPECT_EQ(r.value("tokens"), 6 * 19);
  EXPECT_TRUE(std::filesystem::exists(r.outputs.at("metrics") + "/metrics.json"));
}

TEST(EvalCompare, AnotherModelDiffersWithAStandardErrorAndASize) {
  kit::Json wide = tiny_llama_config();
  wide["intermediate_size"] = 128;
  const StepResult r = compare()
                           .input("candidate", "model", tiny_model(1))
                           .input("reference", "model", tiny_model(1, wide))
                           .input("tokens", "tokens", tokens())
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_GT(r.value("kl"), 0);
  EXPECT_LT(r.value("top1"), 1);
  for (const char* name : {"ppl", "reference_ppl", "delta_nll", "kl", "top1"})
    EXPECT_GT(r.metrics.at(name).standard_error, 0) << name;
  EXPECT_NEAR(r.value("delta_nll"), std::log(r.value("ppl") / r.value("reference_ppl")), 1e-9);
  const double block = 2 * 32 * 32 + 2 * 16 * 32 + 2 * 32, shared = 2 * 48 * 32 + 32;
  EXPECT_EQ(r.value("bytes"), 4 * (shared + 2 * (block + 3 * 32 * 64)));
  EXPECT_NEAR(r.value("size_ratio"), (shared + 2 * (block + 3 * 32 * 64)) / (shared + 2 * (block + 3 * 32 * 128)),
              1e-12);
}

TEST(EvalCompare, WantsTextOrTokens) {
  const StepResult r =
      compare().input("candidate", "model", tiny_model(1)).input("reference", "model", tiny_model(2)).run();
  EXPECT_EQ(r.message, "connect port 'text' or port 'tokens': there is nothing to measure on");
  EXPECT_EQ(r.where, "text");
}

TEST(EvalCompare, StopsWhenCancelled) {
  const StepResult r = compare()
                           .input("candidate", "model", tiny_model(1))
                           .input("reference", "model", tiny_model(2))
                           .input("tokens", "tokens", tokens())
                           .cancel_at_poll(2)
                           .run();
  EXPECT_EQ(r.code, FETTLE_CANCELLED);
}

TEST(EvalCompare, EstimatesBothModels) {
  const Attributes model{
      {"parameters", "1000000"}, {"hidden", "256"}, {"ffn", "768"}, {"vocab", "1024"}, {"layers", "4"}};
  const StepResult r = compare()
                           .input("candidate", "model", "", model)
                           .input("reference", "model", "", model)
                           .input("tokens", "tokens", "", {{"sequences", "100"}, {"length", "512"}})
                           .param("windows", 10)
                           .estimate();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.estimate.flops, 2 * 2e6 * 5120);
}

}  // namespace
}  // namespace fettle::test
