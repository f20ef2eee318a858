// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/gguf_mix.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

std::vector<GgufMixTensor> llama(int layers, std::int64_t cols, bool tied = false) {
  std::vector<GgufMixTensor> tensors;
  if (!tied) tensors.push_back({"output.weight", "lm_head.weight", {1024, cols}, DType::bf16});
  tensors.push_back({"output_norm.weight", "", {cols}, DType::bf16});
  tensors.push_back({"token_embd.weight", "model.embed_tokens.weight", {1024, cols}, DType::bf16});
  for (int i = 0; i < layers; ++i) {
    const std::string blk = "blk." + std::to_string(i) + ".";
    for (const char* part : {"attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up"})
      tensors.push_back({blk + part + ".weight", "", {cols, cols}, DType::bf16});
    tensors.push_back({blk + "attn_norm.weight", "", {cols}, DType::bf16});
  }
  return tensors;
}

std::map<std::string, GgufMixChoice> chosen(std::string_view type, const std::vector<GgufMixTensor>& tensors,
                                            int layers, const GgufMixOptions& options = {}, std::int64_t kv_heads = 4,
                                            bool importance = false) {
  const auto choices =
      choose_gguf_types(*find_gguf_file_type(type), {"llama", layers, 8, kv_heads, importance}, tensors, options);
  std::map<std::string, GgufMixChoice> out;
  EXPECT_TRUE(choices.ok()) << choices.error().message();
  for (std::size_t i = 0; i < tensors.size(); ++i) out[tensors[i].name] = (*choices)[i];
  return out;
}

/// The types of one role, layer by layer, with the digit of each: "6446" for q6_k, q4_k, q4_k, q6_k.
std::string by_layer(std::string_view type, const std::string& role, int layers, std::int64_t kv_heads = 4,
                     bool importance = false) {
  const auto types = chosen(type, llama(layers, 256), layers, {}, kv_heads, importance);
  std::string out;
  for (int i = 0; i < layers; ++i)
    out += info(types.at("blk." + std::to_string(i) + "." + role + ".weight").type).name[1];
  return out;
}

TEST(GgufFileTypes, AreFoundInAnyCaseAndByAlias) {
  EXPECT_EQ(find_gguf_file_type("q4_k_m")->id, 15);
  EXPECT_EQ(find_gguf_file_type("Q4_K")->name, "Q4_K_M");
  EXPECT_EQ(find_gguf_file_type("bf16")->type, DType::bf16);
  EXPECT_EQ(find_gguf_file_type("Q7_K"), nullptr);
}

struct MixCase {
  const char *name, *type, *role;
  int layers;
  std::int64_t kv_heads;
  const char* expected;
};

class GgufMixRule : public ::testing::TestWithParam<MixCase> {};

TEST_P(GgufMixRule, ChoosesByLayer) {
  const auto& c = GetParam();
  EXPECT_EQ(by_layer(c.type, c.role, c.layers, c.kv_heads), c.expected);
}

INSTANTIATE_TEST_SUITE_P(Rows, GgufMixRule,
                         ::testing::Values(MixCase{"q4_k_m_v", "Q4_K_M", "attn_v", 16, 4, "6644644644644666"},
                                           MixCase{"q4_k_m_down", "Q4_K_M", "ffn_down", 8, 4, "64464466"},
                                           MixCase{"q5_k_m_down", "Q5_K_M", "ffn_down", 8, 4, "65565566"},
                                           MixCase{"q4_k_m_others", "Q4_K_M", "attn_q", 4, 4, "4444"},
                                           MixCase{"q4_k_s_v", "Q4_K_S", "attn_v", 6, 4, "555544"},
                                           MixCase{"q4_k_s_down", "Q4_K_S", "ffn_down", 8, 4, "54444444"},
                                           MixCase{"q3_k_m_v", "Q3_K_M", "attn_v", 4, 4, "5544"},
                                           MixCase{"q3_k_l_output", "Q3_K_L", "attn_output", 2, 4, "55"},
                                           MixCase{"q2_k_v_without_grouped_heads", "Q2_K", "attn_v", 2, 4, "33"},
                                           MixCase{"q2_k_v_with_grouped_heads", "Q2_K", "attn_v", 2, 2, "44"},
                                           MixCase{"q6_k_down", "Q6_K", "ffn_down", 2, 4, "66"}),
                         [](const auto& row) { return row.param.name; });

/// As by_layer, in whole names and with an importance matrix: "iq3_s 2, iq3_xxs 6".
std::string runs_by_layer(std::string_view type, const std::string& role, std::int64_t kv_heads = 4) {
  const auto types = chosen(type, llama(8, 256), 8, {}, kv_heads, true);
  std::vector<std::pair<std::string, int>> runs;
  for (int i = 0; i < 8; ++i) {
    const std::string name(info(types.at("blk." + std::to_string(i) + "." + role + ".weight").type).name);
    if (runs.empty() || runs.back().first != name) runs.emplace_back(name, 0);
    ++runs.back().second;
  }
  std::string out;
  for (const auto& [name, count] : runs) out += (out.empty() ? "" : ", ") + name + " " + std::to_string(count);
  return out;
}

struct LatticeMixCase {
  const char *type, *q, *v, *grouped_v, *output, *gate, *down, *head, *embedding;
};

class LatticeMixRule : public ::testing::TestWithParam<LatticeMixCase> {};

TEST_P(LatticeMixRule, ChoosesByRole) {
  const auto& c = GetParam();
  EXPECT_EQ(runs_by_layer(c.type, "attn_q"), c.q);
  EXPECT_EQ(runs_by_layer(c.type, "attn_k"), c.q);
  EXPECT_EQ(runs_by_layer(c.type, "attn_v"), c.v);
  EXPECT_EQ(runs_by_layer(c.type, "attn_v", 2), c.grouped_v);
  EXPECT_EQ(runs_by_layer(c.type, "attn_output"), c.output);
  EXPECT_EQ(runs_by_layer(c.type, "ffn_gate"), c.gate);
  EXPECT_EQ(runs_by_layer(c.type, "ffn_up"), c.gate);
  EXPECT_EQ(runs_by_layer(c.type, "ffn_down"), c.down);
  const auto types = chosen(c.type, llama(8, 256), 8, {}, 4, true);
  EXPECT_EQ(info(types.at("output.weight").type).name, c.head);
  EXPECT_EQ(info(types.at("token_embd.weight").type).name, c.embedding);
  EXPECT_EQ(info(chosen(c.type, llama(8, 256, true), 8, {}, 4, true).at("token_embd.weight").type).name, c.head);
}

INSTANTIATE_TEST_SUITE_P(Rows, LatticeMixRule,
                         ::testing::Values(LatticeMixCase{"IQ1_S", "iq1_s 8", "q2_k 8", "q4_k 8", "iq2_xxs 8",
                                                          "iq1_s 8", "q2_k 1, iq1_s 7", "q5_k", "q2_k"},
                                           LatticeMixCase{"IQ1_M", "iq1_m 8", "q2_k 8", "q4_k 8", "iq2_xxs 8",
                                                          "iq1_m 8", "q2_k 1, iq1_m 7", "q5_k", "q2_k"},
                                           LatticeMixCase{"IQ2_XXS", "iq2_xxs 8", "q2_k 8", "q4_k 8", "iq2_xxs 8",
                                                          "iq2_xxs 8", "q2_k 1, iq2_xxs 7", "q5_k", "q2_k"},
                                           LatticeMixCase{"IQ2_XS", "iq2_xs 8", "q2_k 8", "q4_k 8", "iq2_xs 8",
                                                          "iq2_xs 8", "q2_k 1, iq2_xs 7", "q5_k", "q2_k"},
                                           LatticeMixCase{"IQ2_S", "iq2_xs 8", "iq3_s 8", "q4_k 8", "iq3_s 8",
                                                          "iq2_xs 8", "iq3_s 1, iq2_xs 7", "q5_k", "iq3_s"},
                                           LatticeMixCase{"IQ2_M", "iq2_s 8", "iq3_s 8", "q4_k 8", "iq3_s 8", "iq2_s 8",
                                                          "iq3_s 1, iq2_s 7", "q5_k", "iq3_s"},
                                           LatticeMixCase{"IQ3_XXS", "iq2_s 8", "iq3_xxs 8", "q4_k 8", "iq3_s 8",
                                                          "iq3_xxs 8", "iq3_xxs 8", "q5_k", "iq3_s"},
                                           LatticeMixCase{"IQ3_XS", "iq3_xxs 8", "iq3_s 8", "q4_k 8", "iq3_s 8",
                                                          "iq3_s 1, iq3_xxs 6, iq3_s 1", "iq3_s 8", "q6_k", "iq3_s"},
                                           LatticeMixCase{"IQ3_S", "iq3_s 8", "iq3_s 8", "q4_k 8", "iq3_s 8", "iq3_s 8",
                                                          "iq3_s 8", "q6_k", "iq3_s"},
                                           LatticeMixCase{"IQ3_M", "iq3_s 8", "q4_k 8", "q4_k 8", "q4_k 8", "iq3_s 8",
                                                          "q4_k 1, iq3_s 7", "q6_k", "iq3_s"}),
                         [](const auto& row) { return row.param.type; });

TEST(GgufMix, HeadIsQ6KUnlessTheFileIsQ80) {
  EXPECT_EQ(chosen("Q4_0", llama(1, 256), 1)["output.weight"].type, DType::q6_k);
  EXPECT_EQ(chosen("Q8_0", llama(1, 256), 1)["output.weight"].type, DType::q8_0);
  EXPECT_EQ(chosen("Q4_K_M", llama(1, 256, true), 1)["token_embd.weight"].type, DType::q6_k);
  EXPECT_EQ(chosen("Q4_K_M", llama(1, 256), 1)["token_embd.weight"].type, DType::q4_k);
}

TEST(GgufMix, NormsStayF32) {
  for (const char* type : {"F16", "Q8_0", "Q4_K_M"}) {
    EXPECT_EQ(chosen(type, llama(1, 256), 1)["output_norm.weight"].type, DType::f32);
    EXPECT_EQ(chosen(type, llama(1, 256), 1)["blk.0.attn_norm.weight"].type, DType::f32);
  }
}

TEST(GgufMix, RowsThatDoNotFitFallBackAndSayWhatWasWanted) {
  const auto types = chosen("Q4_K_M", llama(1, 96), 1);
  EXPECT_EQ(types.at("blk.0.attn_q.weight").type, DType::q5_0);
  EXPECT_EQ(types.at("blk.0.attn_q.weight").wanted, DType::q4_k);
  EXPECT_EQ(types.at("output.weight").type, DType::q8_0);
  EXPECT_EQ(types.at("output.weight").wanted, std::nullopt);
  EXPECT_EQ(chosen("Q6_K", llama(1, 96), 1).at("blk.0.attn_q.weight").type, DType::q8_0);
  EXPECT_EQ(chosen("Q4_K_M", llama(1, 100), 1).at("blk.0.attn_q.weight").type, DType::f16);
  EXPECT_EQ(chosen("Q8_0", llama(1, 100), 1).at("blk.0.attn_q.weight").type, DType::f16);
  EXPECT_EQ(chosen("IQ3_S", llama(1, 96), 1).at("blk.0.attn_q.weight").type, DType::iq4_nl);
}

TEST(GgufMix, FirstMatchingOverrideWinsByEitherName) {
  const GgufMixOptions options{
      {{"*.attn_q.*", DType::q8_0}, {"*attn_*", DType::f16}, {"model.embed*", DType::bf16}}, {}, {}, false};
  const auto types = chosen("Q4_K_M", llama(1, 256), 1, options);
  EXPECT_EQ(types.at("blk.0.attn_q.weight").type, DType::q8_0);
  EXPECT_EQ(types.at("blk.0.attn_k.weight").type, DType::f16);
  EXPECT_EQ(types.at("token_embd.weight").type, DType::bf16);
}

TEST(GgufMix, OverriddenTensorsDoNotCount) {
  const auto tensors = llama(8, 256);
  const auto types = chosen("Q4_K_M", tensors, 8, {{{"blk.0.ffn_down.*", DType::q4_0}}, {}, {}, false});
  EXPECT_EQ(types.at("blk.1.ffn_down.weight").type, DType::q6_k);  // met first, so it counts as layer 0
}

TEST(GgufMix, OutputAndEmbeddingTypes) {
  const auto types = chosen("Q4_K_M", llama(1, 256), 1, {{}, DType::q8_0, DType::q5_k, false});
  EXPECT_EQ(types.at("output.weight").type, DType::q8_0);
  EXPECT_EQ(types.at("token_embd.weight").type, DType::q5_k);
  EXPECT_EQ(chosen("Q4_K_M", llama(1, 256, true), 1, {{}, DType::q8_0, {}, false}).at("token_embd.weight").type,
            DType::q8_0);
  EXPECT_EQ(chosen("Q4_K_M", llama(1, 256), 1, {{}, {}, {}, true}).at("output.weight").type, DType::bf16);
}

TEST(GgufMix, ImportanceMakesQ40SpendQ41OnTheFirstLayers) {
  const auto tensors = llama(8, 256);
  EXPECT_EQ(chosen("Q4_0", tensors, 8, {}, 4, true).at("blk.0.ffn_down.weight").type, DType::q4_1);
  EXPECT_EQ(chosen("Q4_0", tensors, 8, {}, 4, false).at("blk.0.ffn_down.weight").type, DType::q4_0);
}

TEST(GgufMix, Q2KSDemandsImportance) {
  const auto tensors = llama(1, 256);
  const auto choices = choose_gguf_types(*find_gguf_file_type("Q2_K_S"), {"llama", 1, 8, 4, false}, tensors, {});
  ASSERT_FALSE(choices.ok());
  EXPECT_EQ(choices.error().message(),
            "type Q2_K_S needs an importance matrix; connect the port 'imatrix', or take Q2_K");
}

TEST(GgufMix, VeryLowTypesDemandImportance) {
  const auto tensors = llama(1, 256);
  const auto message = [&](const char* type) {
    const auto choices = choose_gguf_types(*find_gguf_file_type(type), {"llama", 1, 8, 4, false}, tensors, {});
    return choices.ok() ? std::string() : choices.error().message();
  };
  EXPECT_EQ(message("IQ2_XS"), "type IQ2_XS needs an importance matrix; connect the port 'imatrix', or take Q2_K");
  EXPECT_EQ(message("IQ3_XXS"), "type IQ3_XXS needs an importance matrix; connect the port 'imatrix', or take IQ3_S");
  EXPECT_EQ(message("IQ3_S"), "");
  EXPECT_FALSE(needs_gguf_importance("token_embd.weight", DType::iq3_xxs));
  EXPECT_TRUE(needs_gguf_importance("token_embd.weight", DType::iq2_xs));
}

/// A mixture-of-experts model of 8 layers: the experts' matrices are stacked.
std::string moe_layers(std::string_view type, const std::string& role, std::int64_t experts) {
  std::vector<GgufMixTensor> tensors;
  for (int i = 0; i < 8; ++i) {
    const std::string blk = "blk." + std::to_string(i) + ".";
    for (const char* part : {"attn_k", "attn_output", "attn_q", "attn_v"})
      tensors.push_back({blk + part + ".weight", "", {256, 256}, DType::bf16});
    for (const char* part : {"ffn_down_exps", "ffn_gate_exps", "ffn_up_exps"})
      tensors.push_back({blk + part + ".weight", "", {experts, 256, 256}, DType::bf16});
    tensors.push_back({blk + "ffn_gate_inp.weight", "", {experts, 256}, DType::bf16});
  }
  const auto choices = choose_gguf_types(*find_gguf_file_type(type), {"llama", 8, 8, 4, true, experts}, tensors, {});
  EXPECT_TRUE(choices.ok()) << choices.error().message();
  std::string out;
  for (std::size_t i = 0; i < tensors.size(); ++i)
    if (tensors[i].name.ends_with("." + role + ".weight")) out += info((*choices)[i].type).name[1];
  return out;
}

TEST(GgufMix, GivesEightExpertsBetterAttention) {
  EXPECT_EQ(moe_layers("Q4_K_M", "attn_v", 8), "88888888");
  EXPECT_EQ(moe_layers("Q4_K_M", "attn_k", 8), "88888888");
  EXPECT_EQ(moe_layers("Q4_K_M", "attn_output", 8), "55555555");
  EXPECT_EQ(moe_layers("Q6_K", "attn_output", 8), "66666666");
  EXPECT_EQ(moe_layers("Q4_K_M", "attn_k", 16), "44444444");
  EXPECT_EQ(moe_layers("Q4_K_M", "ffn_down_exps", 8), "64464466");
  EXPECT_EQ(moe_layers("IQ3_S", "attn_output", 8), "55555555");
  EXPECT_EQ(moe_layers("IQ2_XS", "attn_output", 8), "55555555");
  EXPECT_EQ(moe_layers("IQ2_XS", "attn_k", 8), "44444444");
  EXPECT_EQ(moe_layers("IQ2_XS", "attn_v", 4), "44444444");
  EXPECT_EQ(moe_layers("MXFP4_MOE", "ffn_down_exps", 8), "xxxxxxxx");  // the x of mxfp4
  EXPECT_EQ(moe_layers("MXFP4_MOE", "attn_q", 8), "88888888");
  EXPECT_EQ(moe_layers("Q4_K_M", "ffn_gate_inp", 8), "33333333");  // f32: a router
}

}  // namespace
}  // namespace fettle::kit
