// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/gguf_blocks.h"
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/gguf.h"
#include "fettle_kit/model/gguf_layout.h"
#include "fettle_kit/tensor/block_codec.h"

#include "plugins/harness.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

namespace fettle::test {
namespace {

using namespace fettle::kit;

/// A Llama checkpoint with random weights and a byte-level tokenizer, as small as the case allows.
struct Sample {
  std::int64_t hidden = 256, ffn = 512, heads = 4, kv_heads = 2, layers = 2, vocab = 300;
  bool tied = true;
  DType dtype = DType::bf16;
  std::string model_type = "llama";
  float poison = 0;  ///< not 0: element 5 of layer 1's v_proj

  std::string write() const;
};

std::vector<TensorSpec> specs_of(const Sample& s) {
  const std::int64_t kv = s.hidden / s.heads * s.kv_heads;
  std::vector<TensorSpec> specs{{"model.embed_tokens.weight", s.dtype, {s.vocab, s.hidden}},
                                {"model.norm.weight", s.dtype, {s.hidden}}};
  if (!s.tied) specs.push_back({"lm_head.weight", s.dtype, {s.vocab, s.hidden}});
  for (std::int64_t i = 0; i < s.layers; ++i) {
    const std::string p = fmt::format("model.layers.{}.", i);
    specs.push_back({p + "input_layernorm.weight", s.dtype, {s.hidden}});
    specs.push_back({p + "post_attention_layernorm.weight", s.dtype, {s.hidden}});
    specs.push_back({p + "self_attn.q_proj.weight", s.dtype, {s.hidden, s.hidden}});
    specs.push_back({p + "self_attn.k_proj.weight", s.dtype, {kv, s.hidden}});
    specs.push_back({p + "self_attn.v_proj.weight", s.dtype, {kv, s.hidden}});
    specs.push_back({p + "self_attn.o_proj.weight", s.dtype, {s.hidden, s.hidden}});
    if (s.model_type == "qwen3")
      for (const char* name : {"q_norm", "k_norm"})
        specs.push_back({p + "self_attn." + name + ".weight", s.dtype, {s.hidden / s.heads}});
    specs.push_back({p + "mlp.gate_proj.weight", s.dtype, {s.ffn, s.hidden}});
    specs.push_back({p + "mlp.up_proj.weight", s.dtype, {s.ffn, s.hidden}});
    specs.push_back({p + "mlp.down_proj.weight", s.dtype, {s.hidden, s.ffn}});
  }
  return specs;
}

Json tokenizer_json(std::int64_t vocab, const std::string& split) {
  Json entries = Json::object();
  for (std::int64_t i = 0; i < vocab - 2; ++i) entries[fmt::format("t{}", i)] = i;
  Json pre{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  if (!split.empty())
    pre = {{"type", "Split"}, {"pattern", {{"Regex", split}}}, {"behavior", "Isolated"}, {"invert", false}};
  return Json{
      {"version", "1.0"},
      {"added_tokens", Json::array({{{"id", vocab - 2}, {"content", "<|begin|>"}, {"special", true}}})},
      {"normalizer", nullptr},
      {"pre_tokenizer", pre},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", entries}, {"merges", Json::array({"t 0", Json::array({"t", "1"})})}}}};
}

std::string Sample::write() const {
  const std::string folder = temporary_folder();
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 0.05f);
  const TensorSource source = [&](const TensorSpec& spec, const TensorSink& sink) -> Status {
    std::size_t n = 1;
    for (const std::int64_t d : spec.shape) n *= static_cast<std::size_t>(d);
    std::vector<float> values(n);
    for (float& v : values) v = normal(random);
    if (poison != 0 && spec.name == "model.layers.1.self_attn.v_proj.weight")
      values[static_cast<std::size_t>(hidden) + 5] = poison;
    std::vector<std::byte> bytes(bytes_of(spec.dtype, n));
    info(spec.dtype).from_f32(values.data(), bytes.data(), n);
    return sink(bytes);
  };
  Json config{{"architectures", Json::array({"LlamaForCausalLM"})},
              {"model_type", model_type},
              {"hidden_size", hidden},
              {"intermediate_size", ffn},
              {"num_hidden_layers", layers},
              {"num_attention_heads", heads},
              {"num_key_value_heads", kv_heads},
              {"vocab_size", vocab},
              {"max_position_embeddings", 128},
              {"rms_norm_eps", 1e-5},
              {"rope_theta", 10000.0},
              {"tie_word_embeddings", tied},
              {"bos_token_id", vocab - 2}};
  if (model_type == "qwen3") config["head_dim"] = hidden / heads;
  const Status written = write_checkpoint(folder, config, specs_of(*this), source, "");
  EXPECT_TRUE(written.ok()) << written.message();
  std::ofstream(folder + "/tokenizer.json") << tokenizer_json(vocab, "").dump();
  return folder;
}

Step quantize(const std::string& model) {
  return Step("quantize_gguf", "quantize.gguf").input("model", "model", model, {{"layout", "hf"}});
}

std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string file_of(const StepResult& r) { return r.outputs.at("model") + "/model.gguf"; }

std::vector<float> f32_of(const TensorView& t) {
  std::vector<float> out(static_cast<std::size_t>(t.elements()));
  info(t.dtype).to_f32(t.bytes.data(), out.data(), out.size());
  return out;
}

TEST(QuantizeGguf, WritesOneFileWithTensorsInTheOrderOfLlamaCpp) {
  const StepResult r = quantize(Sample{.layers = 11, .tied = false}.write()).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto file = GgufReader::open(file_of(r));
  ASSERT_TRUE(file.ok()) << file.error().message();
  std::vector<std::string> names;
  for (const TensorView& t : file->tensors()) names.push_back(t.name);
  ASSERT_EQ(names.size(), 3 + 11 * 9u);
  EXPECT_EQ(std::vector(names.begin(), names.begin() + 12),
            (std::vector<std::string>{"output.weight", "output_norm.weight", "token_embd.weight", "blk.0.attn_k.weight",
                                      "blk.0.attn_norm.weight", "blk.0.attn_output.weight", "blk.0.attn_q.weight",
                                      "blk.0.attn_v.weight", "blk.0.ffn_down.weight", "blk.0.ffn_gate.weight",
                                      "blk.0.ffn_norm.weight", "blk.0.ffn_up.weight"}));
  EXPECT_EQ(names.back(), "blk.10.ffn_up.weight");
}

TEST(QuantizeGguf, QuantizesEveryTypeAsTheReferenceDoes) {
  const std::string folder = Sample{}.write();
  const auto model = Checkpoint::open(folder);
  const auto down = f32_of(*model->find("model.layers.0.mlp.down_proj.weight"));
  for (const char* type : {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q6_K", "Q5_K_S", "IQ4_NL", "IQ4_XS", "TQ1_0",
                           "TQ2_0", "NVFP4", "Q1_0", "Q2_0", "IQ3_S"}) {
    const StepResult r = quantize(folder).param("type", type).run();
    ASSERT_TRUE(r.ok()) << r.message;
    const auto file = GgufReader::open(file_of(r));
    const TensorView& t = *file->tensor("blk.0.ffn_down.weight");
    std::vector<std::byte> expected(t.bytes.size());
    encode_blocks_reference(t.dtype, down.data(), expected.data(), 256, 512, nullptr);
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), t.bytes.begin(), t.bytes.end())) << type;
  }
}

TEST(QuantizeGguf, PutsTheRowsOfQAndKInPairs) {
  const std::string folder = Sample{}.write();
  const StepResult r = quantize(folder).param("type", "BF16").run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto model = Checkpoint::open(folder);
  const auto file = GgufReader::open(file_of(r));
  const TensorView &hf = *model->find("model.layers.1.self_attn.k_proj.weight"),
                   &gguf = *file->tensor("blk.1.attn_k.weight");
  const auto row = [](const TensorView& t, std::size_t i) { return t.bytes.subspan(i * 512, 512); };
  const auto same = [&](std::size_t in_file, std::size_t in_checkpoint) {
    const auto a = row(gguf, in_file), b = row(hf, in_checkpoint);
    return std::equal(a.begin(), a.end(), b.begin());
  };
  // heads of 64: pair i of a head is rows i and 32 + i
  EXPECT_TRUE(same(0, 0) && same(1, 32) && same(2, 1) && same(3, 33) && same(63, 63));
  EXPECT_TRUE(same(64, 64) && same(65, 96));
}

TEST(QuantizeGguf, LeavesRowsAloneWhereLlamaCppDoes) {
  const std::string folder = Sample{.model_type = "qwen3"}.write();
  const StepResult r = quantize(folder).param("type", "BF16").run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto model = Checkpoint::open(folder);
  const auto file = GgufReader::open(file_of(r));
  EXPECT_EQ(f32_of(*model->find("model.layers.0.self_attn.q_proj.weight")),
            f32_of(*file->tensor("blk.0.attn_q.weight")));
}

/// Rows of the file's one tensor are those that the checkpoint stores as one, and stand as they are.
TEST(QuantizeGguf, KeepsFusedTensorsOfPhi3Whole) {
  const std::string folder = Sample{.tied = false, .model_type = "phi3"}.write();
  const StepResult r = quantize(folder).param("type", "BF16").run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto file = GgufReader::open(file_of(r));
  ASSERT_TRUE(file.ok()) << file.error().message();
  const auto shard = SafetensorsReader::open(folder + "/model.safetensors");
  for (const auto& [gguf, hf] : {std::pair{"blk.1.attn_qkv.weight", "model.layers.1.self_attn.qkv_proj.weight"},
                                 std::pair{"blk.0.ffn_up.weight", "model.layers.0.mlp.gate_up_proj.weight"}}) {
    const TensorView *found = file->tensor(gguf), *stored = nullptr;
    for (const TensorView& t : shard->tensors())
      if (t.name == hf) stored = &t;
    ASSERT_TRUE(found && stored) << gguf;
    EXPECT_EQ(found->shape, stored->shape);
    EXPECT_TRUE(std::equal(found->bytes.begin(), found->bytes.end(), stored->bytes.begin(), stored->bytes.end()));
  }
  EXPECT_EQ(file->tensors().size(), 3 + 2 * 6U);
}

/// By a name like the original's llama.cpp expects the original's vocabulary.
TEST(QuantizeGguf, DoesNotCallAModelWithAnotherVocabularyPhi3) {
  const std::string folder = Sample{.model_type = "phi3"}.write();
  const StepResult r = quantize(folder).param("type", "Q8_0").run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(GgufReader::open(file_of(r))->text("general.name"), "model-1.3M");
  const StepResult named = quantize(folder).param("metadata", {{"general.name", "My Phi-3"}}).run();
  EXPECT_EQ(named.code, FETTLE_INVALID_ARGUMENT);
  EXPECT_EQ(
      named.message,
      "llama.cpp does not load a model called 'My Phi-3' whose vocabulary has no token '</s>': it takes it for the "
      "original Phi-3; choose another 'general.name'");
}

/// attn_qkv counts as attn_v, ffn_up as itself.
TEST(QuantizeGguf, ChoosesTypesOfFusedTensorsAsLlamaCppDoes) {
  const auto type = [](const char* mix, int layer, const char* name) {
    const StepResult r = quantize(Sample{.layers = 8, .model_type = "phi3"}.write()).param("type", mix).run();
    EXPECT_TRUE(r.ok()) << r.message;
    const std::string file = file_of(r);
    return GgufReader::open(file)->tensor(fmt::format("blk.{}.{}.weight", layer, name))->dtype;
  };
  EXPECT_EQ(type("Q4_K_M", 0, "attn_qkv"), DType::q6_k);  // the first eighth
  EXPECT_EQ(type("Q4_K_M", 1, "attn_qkv"), DType::q4_k);
  EXPECT_EQ(type("Q4_K_M", 3, "attn_qkv"), DType::q6_k);  // every third between
  EXPECT_EQ(type("Q4_K_M", 3, "ffn_up"), DType::q4_k);
  EXPECT_EQ(type("Q3_K_M", 1, "attn_qkv"), DType::q5_k);
  EXPECT_EQ(type("Q3_K_M", 2, "attn_qkv"), DType::q4_k);
  EXPECT_EQ(type("Q2_K", 5, "attn_qkv"), DType::q3_k);
}

TEST(QuantizeGguf, SameBytesForAnyNumberOfThreads) {
  const std::string folder = Sample{.hidden = 512, .ffn = 1024}.write();
  for (const char* type : {"Q4_K_M", "IQ3_S"}) {
    const StepResult one = quantize(folder).param("type", type).threads(1).run(),
                     four = quantize(folder).param("type", type).threads(4).run();
    ASSERT_TRUE(one.ok() && four.ok());
    EXPECT_EQ(slurp(file_of(one)), slurp(file_of(four))) << type;
  }
}

TEST(QuantizeGguf, SaysWhichTensorsFellBack) {
  const StepResult r = quantize(Sample{.hidden = 64, .ffn = 96}.write()).param("type", "Q4_K_M").run();
  ASSERT_TRUE(r.ok()) << r.message;
  ASSERT_EQ(r.warnings().size(), 1u);
  EXPECT_EQ(r.warnings()[0],
            "type Q4_K_M: rows that the block size does not divide are stored in another type: "
            "blk.*.attn_k.weight (2 tensors, rows of 64: q5_0 instead of q4_k), "
            "blk.*.attn_output.weight (2 tensors, rows of 64: q5_0 instead of q4_k), "
            "blk.*.attn_q.weight (2 tensors, rows of 64: q5_0 instead of q4_k), "
            "blk.*.attn_v.weight (rows of 64: q5_0 instead of q4_k), "
            "blk.*.attn_v.weight (rows of 64: q8_0 instead of q6_k), "
            "blk.*.ffn_down.weight (rows of 96: q5_0 instead of q4_k), "
            "blk.*.ffn_down.weight (rows of 96: q8_0 instead of q6_k), "
            "blk.*.ffn_gate.weight (2 tensors, rows of 64: q5_0 instead of q4_k), "
            "blk.*.ffn_up.weight (2 tensors, rows of 64: q5_0 instead of q4_k)");
}

TEST(QuantizeGguf, RefusesNanAndNamesItsPlace) {
  const StepResult r = quantize(Sample{.poison = NAN}.write()).run();
  EXPECT_EQ(r.code, FETTLE_CORRUPT_DATA);
  EXPECT_EQ(r.message,
            "tensor 'model.layers.1.self_attn.v_proj.weight' holds NaN at row 1, column 5; repair the model, or set "
            "'nan: keep' "
            "to quantize it as it is");
  EXPECT_FALSE(std::filesystem::exists(r.outputs.at("model") + "/model.gguf"));
}

TEST(QuantizeGguf, KeepsNanOnRequestAndWarns) {
  const std::string folder = Sample{.poison = INFINITY}.write();
  const StepResult r = quantize(folder).param("type", "Q8_0").param("nan", "keep").run();
  ASSERT_TRUE(r.ok()) << r.message;
  ASSERT_EQ(r.warnings().size(), 1u);
  EXPECT_EQ(
      r.warnings()[0],
      "tensor 'model.layers.1.self_attn.v_proj.weight' holds 1 values that are NaN or infinite; they were stored as 0");
}

TEST(QuantizeGguf, TiedModelsHaveNoOutputMatrix) {
  const StepResult r = quantize(Sample{}.write()).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto file = GgufReader::open(file_of(r));
  EXPECT_EQ(file->tensor("output.weight"), nullptr);
  EXPECT_EQ(file->tensor("token_embd.weight")->dtype, DType::q6_k);
}

TEST(QuantizeGguf, OverridesAndOutputTypeAreObeyed) {
  const StepResult r = quantize(Sample{.tied = false}.write())
                           .param("overrides", {{"*.attn_q.*", "F16"}, {"*mlp.up_proj*", "q8_0"}})
                           .param("output_type", "q5_k")
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto file = GgufReader::open(file_of(r));
  EXPECT_EQ(file->tensor("blk.0.attn_q.weight")->dtype, DType::f16);
  EXPECT_EQ(file->tensor("blk.1.ffn_up.weight")->dtype, DType::q8_0);
  EXPECT_EQ(file->tensor("output.weight")->dtype, DType::q5_k);
}

TEST(QuantizeGguf, WritesMetadataInTheQuantizersOrder) {
  const StepResult r =
      quantize(Sample{}.write())
          .param("metadata", {{"general.name", "sample"}, {"llama.context_length", "256"}, {"general.license", "mit"}})
          .run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto file = GgufReader::open(file_of(r));
  std::vector<std::string> keys;
  for (const auto& [key, value] : file->metadata()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"general.architecture",
                                            "general.type",
                                            "general.name",
                                            "general.size_label",
                                            "general.license",
                                            "llama.block_count",
                                            "llama.embedding_length",
                                            "llama.feed_forward_length",
                                            "llama.attention.head_count",
                                            "llama.attention.head_count_kv",
                                            "llama.rope.freq_base",
                                            "llama.attention.layer_norm_rms_epsilon",
                                            "llama.vocab_size",
                                            "llama.rope.dimension_count",
                                            "tokenizer.ggml.model",
                                            "tokenizer.ggml.pre",
                                            "tokenizer.ggml.tokens",
                                            "tokenizer.ggml.token_type",
                                            "tokenizer.ggml.merges",
                                            "tokenizer.ggml.bos_token_id",
                                            "general.quantization_version",
                                            "general.file_type",
                                            "llama.context_length"}));
  EXPECT_EQ(file->text("general.name"), "sample");
  EXPECT_EQ(file->integer("llama.context_length", 0), 256);
  EXPECT_EQ(file->integer("general.file_type", 0), 15);
}

TEST(QuantizeGguf, RefusesMetadataOfAnotherType) {
  const StepResult r = quantize(Sample{}.write()).param("metadata", {{"llama.context_length", "long"}}).run();
  EXPECT_EQ(r.message, "metadata key 'llama.context_length' cannot be 'long': it holds another type of value");
}

TEST(QuantizeGguf, RefusesUnknownPreTokenizersUnlessNamed) {
  const std::string folder = Sample{}.write();
  std::ofstream(folder + "/tokenizer.json") << tokenizer_json(300, "[a-z]+").dump();
  const StepResult refused = quantize(folder).run();
  EXPECT_EQ(refused.code, FETTLE_UNSUPPORTED);
  EXPECT_EQ(refused.message,
            folder +
                "/tokenizer.json: llama.cpp has no known name for a pre-tokenizer of the form 'split [a-z]+'; if you "
                "know the name, give it as parameter 'pre'");
  const StepResult named = quantize(folder).param("pre", "gpt-2").run();
  ASSERT_TRUE(named.ok()) << named.message;
  EXPECT_EQ(GgufReader::open(file_of(named))->text("tokenizer.ggml.pre"), "gpt-2");
}

TEST(QuantizeGguf, RefusesOtherFamiliesByName) {
  const StepResult r = quantize(Sample{.model_type = "falcon"}.write()).run();
  EXPECT_EQ(r.message,
            "config.json: model type 'falcon' cannot be written as GGUF; supported are llama, mistral, qwen2, qwen3, "
            "phi3, gemma2, gemma3_text, mixtral and qwen3_moe");
}

TEST(GgufLayout, RefusesAGemma2ThatLlamaCppWouldComputeOtherwise) {
  const Json good{{"model_type", "gemma2"}, {"num_hidden_layers", 2},       {"hidden_size", 32},
                  {"head_dim", 8},          {"num_attention_heads", 4},     {"query_pre_attn_scalar", 8},
                  {"rope_theta", 10000.0},  {"attn_logit_softcapping", 50}, {"final_logit_softcapping", 30}};
  EXPECT_TRUE(gguf_tensors(good, {}).ok());
  const auto message = [&](const char* key, Json value) {
    Json config = good;
    config[key] = std::move(value);
    return gguf_tensors(config, {}).error().message();
  };
  EXPECT_EQ(message("query_pre_attn_scalar", 16),
            "config.json: 'query_pre_attn_scalar' is 16, but llama.cpp scales gemma2 by 8");
  EXPECT_EQ(
      message("layer_types", Json::array({"full_attention", "full_attention"})),
      "config.json: 'layer_types' has \"full_attention\" at layer 0, but llama.cpp gives gemma2 full attention in "
      "every second layer and a window in the others");
  EXPECT_EQ(message("attn_logit_softcapping", nullptr),
            "config.json: 'attn_logit_softcapping' is null, but llama.cpp caps the logits of gemma2");
  EXPECT_EQ(message("rope_theta", 1e6),
            "config.json: 'rope_theta' is 1e+06, but a gemma2 GGUF file cannot say so: it is 10000");
}

Json long_phi3() {
  return Json{{"model_type", "phi3"},
              {"num_hidden_layers", 2},
              {"hidden_size", 32},
              {"intermediate_size", 64},
              {"num_attention_heads", 4},
              {"num_key_value_heads", 2},
              {"max_position_embeddings", 1024},
              {"original_max_position_embeddings", 64},
              {"rms_norm_eps", 1e-5},
              {"rope_theta", 10000.0},
              {"sliding_window", 100},
              {"rope_scaling", {{"type", "longrope"}, {"short_factor", {1, 1, 1, 2}}, {"long_factor", {2, 3, 4, 5}}}}};
}

TEST(GgufLayout, WritesLongRopeAsTheConverterDoes) {
  const auto tensors = gguf_tensors(long_phi3(), {});
  ASSERT_TRUE(tensors.ok()) << tensors.error().message();
  ASSERT_EQ(tensors->size(), 2U);
  EXPECT_EQ((*tensors)[0].name, "rope_factors_long.weight");
  EXPECT_EQ((*tensors)[0].factors, (std::vector<float>{2, 3, 4, 5}));
  EXPECT_EQ((*tensors)[1].name, "rope_factors_short.weight");
  EXPECT_EQ((*tensors)[1].factors, (std::vector<float>{1, 1, 1, 2}));
  const auto metadata = gguf_model_metadata(long_phi3(), nullptr, 1000);
  ASSERT_TRUE(metadata.ok()) << metadata.error().message();
  std::vector<std::string> keys;
  for (const auto& [key, value] : *metadata) keys.push_back(key);
  EXPECT_EQ(keys,
            (std::vector<std::string>{
                "general.architecture", "phi3.rope.scaling.attn_factor", "general.type", "general.name",
                "general.size_label", "phi3.context_length", "phi3.rope.scaling.original_context_length",
                "phi3.embedding_length", "phi3.feed_forward_length", "phi3.block_count", "phi3.attention.head_count",
                "phi3.attention.head_count_kv", "phi3.attention.layer_norm_rms_epsilon", "phi3.rope.dimension_count",
                "phi3.rope.freq_base", "phi3.attention.sliding_window"}));
  EXPECT_FLOAT_EQ(std::get<float>((*metadata)[1].second), std::sqrt(1 + std::log(16.0F) / std::log(64.0F)));
}

TEST(GgufLayout, RefusesAPhi3ThatLlamaCppWouldNotLoad) {
  const auto message = [&](const char* key, Json value) {
    Json config = long_phi3();
    config[key] = std::move(value);
    return gguf_tensors(config, {}).error().message();
  };
  EXPECT_EQ(
      message("head_dim", 6),
      "config.json: the heads are 24 wide in all, but llama.cpp wants 'hidden_size' of them in a phi3, 32: keep all "
      "heads when you prune one for llama.cpp");
  EXPECT_EQ(message("num_attention_heads", std::int64_t{1} << 40),
            "config.json: it has 1099511627776 heads of 0 numbers");
  EXPECT_EQ(message("rope_scaling", {{"rope_type", "yarn"}}),
            "config.json: rope type 'yarn' has no place in a phi3 GGUF file; known are default and longrope");
  EXPECT_EQ(message("rope_scaling", {{"rope_type", "longrope"}, {"long_factor", {1, 1, 1, 1}}, {"short_factor", {1}}}),
            "config.json: rope's 'short_factor' is not 4 positive numbers, one a pair");
  EXPECT_EQ(message("original_max_position_embeddings", 1),
            "config.json: 'original_max_position_embeddings' is 1, expected 2 or more");
}

TEST(QuantizeGguf, RefusesAConfigThatNoDecoderHas) {
  const std::string folder = Sample{}.write();
  const auto with = [&](const char* key, Json value) {
    Json config = *read_json_file(folder + "/config.json");
    config[key] = std::move(value);
    const std::string copy = temporary_folder();
    std::filesystem::copy(folder, copy, std::filesystem::copy_options::recursive);
    std::ofstream(copy + "/config.json") << config.dump();
    std::string message = quantize(copy).run().message;
    if (message.starts_with(copy)) message.replace(0, copy.size(), "<folder>");
    return message;
  };
  EXPECT_EQ(with("num_key_value_heads", -1),
            "<folder>/config.json: 'num_key_value_heads' is -1, expected an integer from 1 to 16384");
  EXPECT_EQ(with("intermediate_size", 384),
            "<folder>: tensor 'model.layers.0.mlp.gate_proj.weight' has shape [512, 256], but config.json asks for "
            "[384, 256]");
  EXPECT_EQ(with("num_hidden_layers", 9), "<folder>: tensor 'model.layers.2.self_attn.q_proj.weight' is missing");
}

TEST(QuantizeGguf, EstimatesModelsOfAbsurdSizesAtOnce) {
  const char* huge = "1099511627776";
  EXPECT_TRUE(Step("quantize_gguf", "quantize.gguf")
                  .input("model", "model", "nowhere",
                         {{"layout", "hf"},
                          {"layers", huge},
                          {"hidden", huge},
                          {"ffn", huge},
                          {"heads", huge},
                          {"kv_heads", huge},
                          {"vocab", huge},
                          {"bytes", "1000"}})
                  .estimate()
                  .ok());
}

TEST(QuantizeGguf, RefusesUnknownTypes) {
  EXPECT_EQ(quantize("").param("type", "Q7_K").validate().message.substr(0, 38),
            "unknown type 'Q7_K'; known are F32, F1");
  const StepResult tensor = quantize("").param("overrides", {{"*", "q7"}}).validate();
  EXPECT_EQ(tensor.message.substr(0, 34), "unknown tensor type 'q7'; known ar");
  EXPECT_EQ(tensor.where, "overrides");
  EXPECT_EQ(quantize("").param("keep_output", true).param("output_type", "q8_0").validate().message,
            "give one of 'keep_output' and 'output_type'");
}

/// An importance matrix as llama.cpp writes it.
std::string importance_folder(const std::map<std::string, std::vector<float>>& sums, float count) {
  const std::string folder = temporary_folder();
  std::vector<TensorSpec> specs;
  for (const auto& [tensor, values] : sums) {
    specs.push_back({tensor + ".counts", DType::f32, {1}});
    specs.push_back({tensor + ".in_sum2", DType::f32, {static_cast<std::int64_t>(values.size())}});
  }
  auto writer = GgufWriter::create(folder + "/imatrix.gguf",
                                   {{"general.type", std::string("imatrix")},
                                    {"imatrix.datasets", std::vector<std::string>{"prose"}},
                                    {"imatrix.chunk_count", std::uint32_t{3}},
                                    {"imatrix.chunk_size", std::uint32_t{64}}},
                                   specs);
  for (const auto& [tensor, values] : sums) {
    EXPECT_TRUE(writer->append(tensor + ".counts", std::as_bytes(std::span(&count, 1))).ok());
    EXPECT_TRUE(writer->append(tensor + ".in_sum2", std::as_bytes(std::span(values))).ok());
  }
  EXPECT_TRUE(writer->finish().ok());
  return folder;
}

std::string importance_folder(const std::string& tensor, const std::vector<float>& sums, float count) {
  return importance_folder({{tensor, sums}}, count);
}

/// For every matrix of the layers of a sample.
std::string whole_importance(const Sample& s) {
  std::map<std::string, std::vector<float>> sums;
  for (std::int64_t layer = 0; layer < s.layers; ++layer)
    for (const char* part : {"attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up"}) {
      std::vector<float> of_tensor(static_cast<std::size_t>(std::string(part) == "ffn_down" ? s.ffn : s.hidden));
      for (std::size_t i = 0; i < of_tensor.size(); ++i) of_tensor[i] = static_cast<float>(1 + i % 7);
      sums[fmt::format("blk.{}.{}.weight", layer, part)] = of_tensor;
    }
  return importance_folder(sums, 4);
}

TEST(QuantizeGguf, WeighsColumnsByTheImportanceMatrix) {
  const std::string folder = Sample{.layers = 1}.write();
  std::vector<float> sums(512);
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i] = static_cast<float>(i % 7) * 8;
  const StepResult r = quantize(folder)
                           .param("type", "Q6_K")
                           .input("imatrix", "stats", importance_folder("blk.0.ffn_down.weight", sums, 4))
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto file = GgufReader::open(file_of(r));
  const TensorView& t = *file->tensor("blk.0.ffn_down.weight");
  for (float& s : sums) s /= 4;
  std::vector<std::byte> expected(t.bytes.size());
  const auto model = Checkpoint::open(folder);
  encode_blocks_reference(t.dtype, f32_of(*model->find("model.layers.0.mlp.down_proj.weight")).data(), expected.data(),
                          256, 512, sums.data());
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), t.bytes.begin(), t.bytes.end()));
  EXPECT_EQ(file->text("quantize.imatrix.dataset"), "prose");
  EXPECT_EQ(file->integer("quantize.imatrix.chunks_count", 0), 3);
  ASSERT_EQ(r.warnings().size(), 1u);
  EXPECT_EQ(r.warnings()[0].substr(0, 91),
            "the importance matrix has nothing for 6 tensors, which are quantized without it: 'blk.0.att");
}

TEST(QuantizeGguf, WritesTheTypesThatNeedImportance) {
  const Sample sample{.layers = 1};
  const std::string folder = sample.write(), importance = whole_importance(sample);
  for (const char* type : {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS"}) {
    const StepResult r = quantize(folder).param("type", type).input("imatrix", "stats", importance).run();
    ASSERT_TRUE(r.ok()) << r.message;
    const auto file = GgufReader::open(file_of(r));
    const TensorView& t = *file->tensor("blk.0.attn_q.weight");
    const auto q = f32_of(*Checkpoint::open(folder)->find("model.layers.0.self_attn.q_proj.weight"));
    std::vector<float> paired(q.size()), columns(256);
    for (std::int64_t r2 = 0; r2 < 256; ++r2)
      std::copy_n(q.begin() + gguf_source_row(r2, 64) * 256, 256, paired.begin() + r2 * 256);
    for (std::size_t i = 0; i < columns.size(); ++i) columns[i] = static_cast<float>(1 + i % 7) / 4;
    std::vector<std::byte> expected(t.bytes.size());
    encode_blocks_reference(t.dtype, paired.data(), expected.data(), 256, 256, columns.data());
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), t.bytes.begin(), t.bytes.end())) << type;
  }
}

TEST(QuantizeGguf, SaysWhereImportanceIsMissing) {
  const std::string folder = Sample{.layers = 1}.write();
  EXPECT_EQ(quantize(folder).param("type", "IQ2_XXS").run().message,
            "type IQ2_XXS needs an importance matrix; connect the port 'imatrix', or take Q2_K");
  EXPECT_EQ(quantize(folder).param("overrides", {{"*ffn_up*", "iq1_m"}}).run().message,
            "tensor 'blk.0.ffn_up.weight' as iq1_m needs an importance matrix; connect the port 'imatrix', or give the "
            "tensor another type");
  const StepResult uncovered =
      quantize(folder)
          .param("type", "IQ2_XS")
          .input("imatrix", "stats", importance_folder("blk.0.ffn_down.weight", std::vector<float>(512, 1), 4))
          .run();
  EXPECT_EQ(uncovered.where, "imatrix");
  EXPECT_EQ(
      uncovered.message,
      "the importance matrix has nothing for tensor 'blk.0.attn_k.weight', and iq2_xs cannot do without; calibrate "
      "one on this model, or give the tensor another type");
}

TEST(QuantizeGguf, GoesBelowThreeBitsForATargetWithImportance) {
  const Sample sample{.layers = 3, .vocab = 40};
  const StepResult r =
      quantize(sample.write()).param("target", "2.2bpw").input("imatrix", "stats", whole_importance(sample)).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_LE(r.value("bits_per_weight"), 2.2);
  EXPECT_GT(r.value("bits_per_weight"), 2.0);
}

/// Mean squared error of one tensor against the checkpoint.
double mean_error(const std::string& folder, const StepResult& r, const std::string& hf_name, const std::string& name) {
  const auto model = Checkpoint::open(folder);
  const auto file = GgufReader::open(file_of(r));
  const auto a = f32_of(*model->find(hf_name)), b = f32_of(*file->tensor(name));
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    sum += (static_cast<double>(a[i]) - static_cast<double>(b[i])) *
           (static_cast<double>(a[i]) - static_cast<double>(b[i]));
  return sum / static_cast<double>(a.size());
}

TEST(QuantizeGguf, BetterModeErrsLessAndSaysSoInTheFile) {
  const std::string folder = Sample{}.write();
  for (const char* type : {"Q4_0", "Q5_0", "Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K"}) {
    const StepResult plain = quantize(folder).param("type", type).run(),
                     better = quantize(folder).param("type", type).param("mode", "better").run();
    ASSERT_TRUE(plain.ok() && better.ok()) << plain.message << better.message;
    EXPECT_EQ(GgufReader::open(file_of(plain))->find("fettle.quantize.mode"), nullptr) << type;
    EXPECT_EQ(GgufReader::open(file_of(better))->text("fettle.quantize.mode"), "better") << type;
    EXPECT_EQ(better.value("bytes"), plain.value("bytes")) << type;
    const char *hf = "model.layers.1.mlp.up_proj.weight", *name = "blk.1.ffn_up.weight";
    EXPECT_LT(mean_error(folder, better, hf, name), mean_error(folder, plain, hf, name)) << type;
  }
}

TEST(QuantizeGguf, BetterModeGivesTheSameBytesForAnyNumberOfThreads) {
  const std::string folder = Sample{.dtype = DType::f32}.write();
  const auto bytes = [&](unsigned threads) {
    return slurp(file_of(quantize(folder).param("mode", "better").threads(threads).run()));
  };
  EXPECT_EQ(bytes(1), bytes(4));
}

TEST(QuantizeGguf, BetterModeRefusesTypesThatItDoesNotImprove) {
  const StepResult r = quantize("").param("type", "Q8_0").param("mode", "better").validate();
  EXPECT_EQ(r.code, FETTLE_INVALID_ARGUMENT);
  EXPECT_EQ(r.where, "mode");
  EXPECT_EQ(r.message,
            "there is no better search for type 'Q8_0'; known are Q4_0, Q5_0, Q2_K, Q2_K_S, Q3_K_S, Q3_K_M, Q3_K_L, "
            "Q4_K_S, Q4_K_M, Q5_K_S, Q5_K_M, Q6_K; or take 'mode: compatible'");
  const StepResult weighted = quantize(Sample{}.write())
                                  .param("type", "Q2_K")
                                  .param("mode", "better")
                                  .input("imatrix", "stats", "unread")
                                  .estimate();
  EXPECT_EQ(
      weighted.message,
      "there is no better search for type 'Q2_K' with an importance matrix; known are Q4_0, Q5_0, Q4_K_S, Q4_K_M, "
      "Q5_K_S, Q5_K_M, Q6_K; or take 'mode: compatible'");
}

TEST(QuantizeGguf, RefusesAnImportanceMatrixOfAnotherModel) {
  const StepResult r =
      quantize(Sample{}.write())
          .input("imatrix", "stats", importance_folder("blk.0.ffn_down.weight", std::vector<float>(64, 1), 4))
          .run();
  EXPECT_EQ(r.message,
            "the importance matrix has 64 columns for tensor 'blk.0.ffn_down.weight', which has 512: it was made from "
            "another model");
}

TEST(QuantizeGguf, ReportsSizes) {
  const StepResult r = quantize(Sample{}.write()).param("type", "Q8_0").run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_NEAR(r.value("bits_per_weight"), 8.5, 0.05);
  EXPECT_NEAR(r.value("size_ratio"), 8.5 / 16, 0.005);
  EXPECT_EQ(r.value("tensors_q8_0"), 15);
  EXPECT_EQ(r.value("tensors_f32"), 5);
}

TEST(QuantizeGguf, EstimatesTheSizeWithinATenth) {
  const Sample sample{.hidden = 512, .ffn = 1024, .layers = 3, .vocab = 1000};
  const std::string folder = sample.write();
  const Attributes attributes{
      {"layout", "hf"}, {"architecture", "llama"}, {"layers", "3"},   {"hidden", "512"}, {"ffn", "1024"},
      {"heads", "4"},   {"kv_heads", "2"},         {"vocab", "1000"}, {"tied", "true"},  {"bytes", "12000000"}};
  Step step("quantize_gguf", "quantize.gguf");
  step.input("model", "model", folder, attributes);
  const StepResult planned = step.estimate(), done = step.run();
  ASSERT_TRUE(planned.ok() && done.ok()) << planned.message << done.message;
  const auto actual = static_cast<double>(std::filesystem::file_size(file_of(done)));
  EXPECT_NEAR(static_cast<double>(planned.estimate.disk_bytes), actual, actual * 0.1);
  EXPECT_EQ(planned.foretold.at("model").at("layout"), "gguf");
  EXPECT_EQ(planned.foretold.at("model").at("weights"), "gguf.Q4_K_M");
  EXPECT_EQ(planned.foretold.at("model").at("hidden"), "512");
}

TEST(QuantizeGguf, FitsTheTargetWithMeasuredErrors) {
  const std::string folder = Sample{.layers = 3}.write();
  const auto bytes = [&](const char* target) {
    const StepResult r = quantize(folder).param("target", target).run();
    EXPECT_TRUE(r.ok()) << r.message;
    return std::pair(r.value("bits_per_weight"), std::filesystem::file_size(file_of(r)));
  };
  const auto [bits, size] = bytes("4.5bpw");
  EXPECT_LE(bits, 4.5);
  EXPECT_GT(bits, 4.2);
  const auto [more_bits, same_size] = bytes(fmt::format("{}B", size).c_str());
  EXPECT_LE(same_size, size);
  EXPECT_GT(more_bits, 4.2);
}

TEST(QuantizeGguf, SaysWhatTheTypesCost) {
  const StepResult r = quantize(Sample{.layers = 1}.write()).param("target", "5bpw").run();
  ASSERT_TRUE(r.ok()) << r.message;
  const std::string table = slurp(r.outputs.at("types") + "/types.md");
  EXPECT_TRUE(
      table.starts_with("| tensor | shape | type | bits a weight | bytes | relative error |\n"
                        "|---|---|---|---|---|---|\n"
                        "| output_norm.weight | 256 | f32 | 32 | 1,024 |  |\n"
                        "| token_embd.weight | 300 x 256 | "))
      << table;
  const StepResult fixed = quantize(Sample{.layers = 1}.write()).param("type", "Q8_0").run();
  EXPECT_TRUE(slurp(fixed.outputs.at("types") + "/types.md")
                  .starts_with("| tensor | shape | type | bits a weight | bytes |\n|---|---|---|---|---|\n"));
}

TEST(QuantizeGguf, KeepsOverridesWhateverTheTarget) {
  const StepResult r = quantize(Sample{.layers = 1}.write())
                           .param("target", "4.5bpw")
                           .param("overrides", {{"*attn_q*", "q8_0"}})
                           .param("embedding_type", "q4_0")
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto file = GgufReader::open(file_of(r));
  EXPECT_EQ(file->tensor("blk.0.attn_q.weight")->dtype, DType::q8_0);
  EXPECT_EQ(file->tensor("token_embd.weight")->dtype, DType::q4_0);
}

TEST(QuantizeGguf, SaysHowSmallAModelCanGet) {
  const StepResult r = quantize(Sample{.layers = 1}.write()).param("target", "2bpw").run();
  EXPECT_EQ(r.where, "target");
  EXPECT_EQ(r.message,
            "the smallest types make a file of 228,464 bytes, 2.66 bits a weight, which is beyond the target; allow "
            "more, or prune the model first");
}

TEST(QuantizeGguf, WritesTheSameChoiceForAnyThreadCount) {
  const std::string folder = Sample{.layers = 2}.write();
  const StepResult one = quantize(folder).param("target", "4bpw").threads(1).run();
  const StepResult many = quantize(folder).param("target", "4bpw").threads(5).run();
  ASSERT_TRUE(one.ok() && many.ok()) << one.message << many.message;
  EXPECT_EQ(slurp(file_of(one)), slurp(file_of(many)));
}

TEST(QuantizeGguf, SplitsTheModel) {
  const std::string folder = Sample{.layers = 2}.write();
  const StepResult whole = quantize(folder).param("type", "Q8_0").run();
  const StepResult split = quantize(folder).param("type", "Q8_0").param("part_size", 400000).run();
  ASSERT_TRUE(whole.ok() && split.ok()) << whole.message << split.message;
  const std::string first = split.outputs.at("model") + "/model-00001-of-00005.gguf";
  const auto part = GgufReader::open(first);
  ASSERT_TRUE(part.ok()) << part.error().message();
  EXPECT_EQ(*part->get<std::uint16_t>("split.no"), 0);
  EXPECT_EQ(*part->get<std::uint16_t>("split.count"), 5);
  EXPECT_EQ(*part->get<std::int32_t>("split.tensors.count"), 20);
  const auto second = GgufReader::open(split.outputs.at("model") + "/model-00002-of-00005.gguf");
  EXPECT_EQ(second->metadata().size(), 3u);

  const auto one = GgufReader::open(file_of(whole)), all = GgufReader::open_model(split.outputs.at("model"));
  ASSERT_TRUE(all.ok()) << all.error().message();
  ASSERT_EQ(all->tensors().size(), one->tensors().size());
  for (std::size_t i = 0; i < one->tensors().size(); ++i) {
    const TensorView &a = one->tensors()[i], &b = all->tensors()[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_TRUE(std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end())) << a.name;
  }
  EXPECT_EQ(all->text("general.architecture"), "llama");
}

TEST(QuantizeGguf, WritesAModelfileForOllama) {
  const std::string folder = Sample{.layers = 1}.write();
  std::ofstream(folder + "/generation_config.json") << R"({"temperature": 0.5, "top_k": 20, "top_p": 0.75})";
  const StepResult r = quantize(folder).param("modelfile", true).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(slurp(r.outputs.at("model") + "/Modelfile"),
            "FROM ./model.gguf\nPARAMETER top_k 20\nPARAMETER top_p 0.75\nPARAMETER temperature 0.5\n");
  EXPECT_EQ(quantize(folder).param("modelfile", true).param("part_size", 4096).run().message,
            "Ollama reads models in one file; give one of 'modelfile' and 'part_size'");
}

TEST(QuantizeGguf, StopsWhenCancelled) {
  const StepResult r = quantize(Sample{}.write()).cancel_at_poll(2).run();
  EXPECT_EQ(r.code, FETTLE_CANCELLED);
  EXPECT_FALSE(std::filesystem::exists(r.outputs.at("model") + "/model.gguf"));
}

TEST(GgufLayout, ConfigComesBackFromTheFile) {
  const StepResult r = quantize(Sample{.tied = false}.write()).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto config = config_from_gguf(*GgufReader::open(file_of(r)));
  ASSERT_TRUE(config.ok()) << config.error().message();
  EXPECT_EQ((*config)["model_type"], "llama");
  EXPECT_EQ((*config)["hidden_size"], 256);
  EXPECT_EQ((*config)["num_key_value_heads"], 2);
  EXPECT_EQ((*config)["head_dim"], 64);
  EXPECT_EQ((*config)["vocab_size"], 300);
  EXPECT_EQ((*config)["tie_word_embeddings"], false);
  EXPECT_EQ((*config)["bos_token_id"], 298);
  EXPECT_FLOAT_EQ((*config)["rms_norm_eps"].get<float>(), 1e-5f);
}

}  // namespace
}  // namespace fettle::test
