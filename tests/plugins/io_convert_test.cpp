// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/io/gguf.h"
#include "fettle_kit/model/gguf_layout.h"
#include "fettle_kit/model/model_tokenizer.h"

#include "plugins/harness.h"
#include "plugins/prose.h"
#include "unit/kit/compress/tiny_families.h"
#include "unit/kit/model/gguf_of_checkpoint.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace fettle::test {
namespace {

using namespace fettle::kit;

StepResult convert(const std::string& model, const char* to) {
  return Step("io_convert", "io.convert").input("model", "model", model).param("to", to).run();
}

std::string quantized(const char* format) {
  const StepResult r = Step("quantize_rtn", "quantize.rtn")
                           .input("model", "model", prose_model(), {{"layout", "hf"}})
                           .param("format", format)
                           .run();
  EXPECT_TRUE(r.ok()) << r.message;
  return r.outputs.at("model");
}

TEST(IoConvert, GivesThePackedWeightsAsFloats) {
  for (const char* format : {"compressed-tensors", "gptq"}) {
    const std::string source = quantized(format);
    const StepResult r = convert(source, "f32");
    ASSERT_TRUE(r.ok()) << r.message;
    const auto packed = DenseCheckpoint::open(source), plain = DenseCheckpoint::open(r.outputs.at("model"));
    ASSERT_TRUE(packed && plain);
    EXPECT_EQ(plain->layout(), "");
    ASSERT_EQ(packed->tensors().size(), plain->tensors().size());
    for (const DenseTensor& t : packed->tensors()) {
      const DenseTensor* const other = plain->find(t.name);
      ASSERT_NE(other, nullptr) << t.name;
      EXPECT_EQ(other->stored->dtype, DType::f32);
      if (t.packed == nullptr) continue;
      std::vector<float> row(static_cast<std::size_t>(t.shape[1])), back(row.size());
      DenseCheckpoint::read(t, t.shape[0] - 1, MutMatrix(row.data(), 1, t.shape[1]));
      DenseCheckpoint::read(*other, t.shape[0] - 1, MutMatrix(back.data(), 1, t.shape[1]));
      EXPECT_EQ(row, back) << t.name;
    }
  }
}

TEST(IoConvert, WritesAPlainConfig) {
  const StepResult r = convert(quantized("gptq"), "f16");
  ASSERT_TRUE(r.ok()) << r.message;
  const auto model = Checkpoint::open(r.outputs.at("model"));
  EXPECT_FALSE(model->config().contains("quantization_config"));
  EXPECT_EQ(model->config().value("torch_dtype", model->config().value("dtype", "")), "float16");
}

TEST(IoConvert, CopiesAPlainCheckpointOfThatType) {
  const StepResult r = convert(prose_model(), "bf16");
  ASSERT_TRUE(r.ok()) << r.message;
  const auto a = Checkpoint::open(prose_model()), b = Checkpoint::open(r.outputs.at("model"));
  for (const TensorView* t : a->tensors()) {
    const TensorView* const other = b->find(t->name);
    ASSERT_TRUE(other != nullptr && std::equal(t->bytes.begin(), t->bytes.end(), other->bytes.begin())) << t->name;
  }
}

TEST(IoConvert, ScoresLikeTheQuantizedCheckpointItself) {
  const std::string source = quantized("compressed-tensors");
  const StepResult r = convert(source, "f32");
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(prose_nll(source), prose_nll(r.outputs.at("model")));
}

std::string gguf_of_prose(const char* type) {
  const StepResult r = Step("quantize_gguf", "quantize.gguf")
                           .input("model", "model", prose_model(), {{"layout", "hf"}})
                           .param("type", type)
                           .run();
  EXPECT_TRUE(r.ok()) << r.message;
  return r.outputs.at("model");
}

void expect_same_tensors(const std::string& expected, const std::string& found) {
  const auto a = Checkpoint::open(expected), b = Checkpoint::open(found);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->tensors().size(), b->tensors().size());
  for (const TensorView* t : a->tensors()) {
    const TensorView* const other = b->find(t->name);
    ASSERT_NE(other, nullptr) << t->name;
    EXPECT_EQ(other->shape, t->shape) << t->name;
    EXPECT_EQ(other->dtype, t->dtype) << t->name;
    ASSERT_TRUE(std::equal(t->bytes.begin(), t->bytes.end(), other->bytes.begin(), other->bytes.end())) << t->name;
  }
}

TEST(IoConvertFromGguf, GivesBackTheCheckpointThatBecameBf16) {
  const StepResult r = convert(gguf_of_prose("BF16"), "bf16");
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.warnings(), std::vector<std::string>());
  const std::string& folder = r.outputs.at("model");
  expect_same_tensors(prose_model(), folder);
  const auto expected = Checkpoint::open(prose_model()), found = Checkpoint::open(folder);
  for (const char* key :
       {"architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps", "rope_theta", "max_position_embeddings",
        "tie_word_embeddings", "torch_dtype", "bos_token_id", "eos_token_id"})
    EXPECT_EQ(found->config()[key], expected->config()[key]) << key;
  EXPECT_EQ(prose_nll(folder), prose_nll(prose_model()));
}

TEST(IoConvertFromGguf, KeepsTheTokenizer) {
  const std::string gguf = gguf_of_prose("Q8_0");
  const StepResult r = convert(gguf, "f16");
  ASSERT_TRUE(r.ok()) << r.message;
  const auto before = Tokenizer::open(prose_model()), after = Tokenizer::open(r.outputs.at("model"));
  ASSERT_TRUE(before.ok() && after.ok());
  const std::string text = "It was the best of times, it was the worst of times: 1859 pages, \xC3\xA9t\xC3\xA9 \t\n!";
  EXPECT_EQ(after->encode(text), before->encode(text));
  // What the converter would make of it again.
  const auto again =
      gguf_tokenizer_metadata(r.outputs.at("model"), Checkpoint::open(r.outputs.at("model"))->config(), "");
  ASSERT_TRUE(again.ok()) << again.error().message();
  const auto file = GgufReader::open_model(gguf);
  for (const auto& [key, value] : *again) {
    const GgufValue* const first = file->find(key);
    ASSERT_NE(first, nullptr) << key;
    EXPECT_EQ(value, *first) << key;
  }
}

TEST(IoConvertFromGguf, QuantizingTheResultGivesTheSameFile) {
  const StepResult r = convert(gguf_of_prose("F32"), "bf16");
  ASSERT_TRUE(r.ok()) << r.message;
  const StepResult again = Step("quantize_gguf", "quantize.gguf")
                               .input("model", "model", r.outputs.at("model"), {{"layout", "hf"}})
                               .param("type", "Q4_K_M")
                               .run();
  ASSERT_TRUE(again.ok()) << again.message;
  const auto expected = GgufReader::open_model(gguf_of_prose("Q4_K_M")),
             found = GgufReader::open_model(again.outputs.at("model"));
  ASSERT_EQ(found->tensors().size(), expected->tensors().size());
  for (std::size_t i = 0; i < expected->tensors().size(); ++i) {
    const TensorView &a = expected->tensors()[i], &b = found->tensors()[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_TRUE(std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end())) << a.name;
  }
}

class IoConvertFromGgufType : public ::testing::TestWithParam<const char*> {};

TEST_P(IoConvertFromGgufType, HoldsWhatTheFileSays) {
  const std::string gguf = gguf_of_prose(GetParam());
  const StepResult r = convert(gguf, "f32");
  ASSERT_TRUE(r.ok()) << r.message;
  const auto file = GgufReader::open_model(gguf);
  const auto model = Checkpoint::open(r.outputs.at("model"));
  const auto values = [](const TensorView& t) {
    std::vector<float> out(static_cast<std::size_t>(t.elements()));
    info(t.dtype).to_f32(t.bytes.data(), out.data(), out.size());
    return out;
  };
  EXPECT_EQ(values(*model->find("model.layers.1.mlp.down_proj.weight")),
            values(*file->tensor("blk.1.ffn_down.weight")));
  EXPECT_EQ(values(*model->find("model.embed_tokens.weight")), values(*file->tensor("token_embd.weight")));
  const auto q = values(*model->find("model.layers.0.self_attn.q_proj.weight")),
             paired = values(*file->tensor("blk.0.attn_q.weight"));
  const auto cols = static_cast<std::ptrdiff_t>(model->config()["hidden_size"].get<std::int64_t>()),
             half = static_cast<std::ptrdiff_t>(model->config()["head_dim"].get<std::int64_t>() / 2);
  EXPECT_TRUE(std::equal(q.begin(), q.begin() + cols, paired.begin()));  // row 0 stays
  EXPECT_TRUE(std::equal(q.begin() + cols, q.begin() + 2 * cols, paired.begin() + 2 * cols));
  EXPECT_TRUE(std::equal(q.begin() + half * cols, q.begin() + (half + 1) * cols, paired.begin() + cols));
}

INSTANTIATE_TEST_SUITE_P(Types, IoConvertFromGgufType,
                         ::testing::Values("F32", "F16", "Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_S",
                                           "Q6_K", "IQ4_NL", "IQ4_XS", "IQ3_S", "TQ1_0", "TQ2_0"),
                         [](const auto& row) { return std::string(row.param); });

/// Families whose rows are permuted, whose biases are, whose rope is scaled, whose heads are normalized.
class IoConvertFromGgufFamily : public ::testing::TestWithParam<const char*> {};

TEST_P(IoConvertFromGgufFamily, GivesBackItsCheckpoint) {
  const std::string golden = std::string(FETTLE_TEST_SHARED) + "/goldens/" + GetParam();
  if (!std::filesystem::exists(golden)) GTEST_SKIP() << "the reference models are not here";
  const std::string folder = temporary_folder();
  write_gguf(folder + "/model.gguf", *Checkpoint::open(golden));
  const StepResult r = convert(folder, "f32");
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.warnings(),
            std::vector<std::string>{"no tokenizer.json written: " + folder +
                                     "/model.gguf: it holds no tokenizer: 'tokenizer.ggml.tokens' is missing"});
  const StepResult plain = convert(golden, "f32");
  const auto expected = Checkpoint::open(plain.outputs.at("model")), found = Checkpoint::open(r.outputs.at("model"));
  for (const TensorView* t : found->tensors()) {
    const TensorView* const other = expected->find(t->name);
    ASSERT_NE(other, nullptr) << t->name;
    EXPECT_TRUE(std::equal(t->bytes.begin(), t->bytes.end(), other->bytes.begin(), other->bytes.end())) << t->name;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, IoConvertFromGgufFamily,
                         ::testing::Values("llama", "llama-bias", "llama-rope3-tied", "qwen2", "qwen3"),
                         [](const auto& row) {
                           std::string name = row.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(IoConvertFromGguf, TakesTheOneFromGemmasNorms) {
  for (const char* name : {"gemma2", "gemma3_text"}) {
    Json config = tiny_family(name);
    config["query_pre_attn_scalar"] = config["head_dim"];  // as llama.cpp has it
    config["rope_theta"] = 10000.0;
    config.erase("sliding_window_pattern");
    const std::string model = tiny_checkpoint(config), folder = temporary_folder();
    write_gguf(folder + "/model.gguf", *Checkpoint::open(model));
    const StepResult r = convert(folder, "f32");
    ASSERT_TRUE(r.ok()) << r.message;
    EXPECT_LT(relative_difference(tiny_logits(r.outputs.at("model")), tiny_logits(model)), 1e-5) << name;
    EXPECT_LT(relative_difference(tiny_logits(folder), tiny_logits(model)), 1e-5) << name;
  }
}

TEST(IoConvertFromGguf, ReadsAModelInParts) {
  const StepResult split = Step("quantize_gguf", "quantize.gguf")
                               .input("model", "model", prose_model(), {{"layout", "hf"}})
                               .param("type", "BF16")
                               .param("part_size", 2'000'000)
                               .run();
  ASSERT_TRUE(split.ok()) << split.message;
  const StepResult r = convert(split.outputs.at("model"), "bf16");
  ASSERT_TRUE(r.ok()) << r.message;
  expect_same_tensors(prose_model(), r.outputs.at("model"));
}

TEST(IoConvertFromGguf, SameBytesForAnyNumberOfThreads) {
  const std::string gguf = gguf_of_prose("Q4_K_M");
  const auto bytes = [&](unsigned threads) {
    const StepResult r = Step("io_convert", "io.convert").input("model", "model", gguf).threads(threads).run();
    EXPECT_TRUE(r.ok()) << r.message;
    return file_bytes(r.outputs.at("model") + "/model.safetensors");
  };
  EXPECT_EQ(bytes(1), bytes(4));
}

TEST(IoConvertFromGguf, NamesATensorItDoesNotKnow) {
  const std::string folder = temporary_folder();
  write_gguf(folder + "/model.gguf", *Checkpoint::open(prose_model()), [](std::vector<GgufTensor>& tensors) {
    tensors.push_back(tensors.back());
    tensors.back().name = "blk.0.attn_sinks.weight";
  });
  const StepResult r = convert(folder, "bf16");
  EXPECT_EQ(r.code, FETTLE_UNSUPPORTED);
  EXPECT_EQ(r.message, folder +
                           "/model.gguf: tensor 'blk.0.attn_sinks.weight' has no place in a checkpoint of "
                           "architecture 'llama'");
}

TEST(IoConvertFromGguf, NamesATensorThatIsMissing) {
  const std::string folder = temporary_folder();
  write_gguf(folder + "/model.gguf", *Checkpoint::open(prose_model()), [](std::vector<GgufTensor>& tensors) {
    std::erase_if(tensors, [](const GgufTensor& t) { return t.name == "blk.2.ffn_up.weight"; });
  });
  const StepResult r = convert(folder, "bf16");
  EXPECT_EQ(r.code, FETTLE_CORRUPT_DATA);
  EXPECT_EQ(r.message, folder + "/model.gguf: tensor 'blk.2.ffn_up.weight' is missing");
}

const StepResult& two_of_four() {
  static const StepResult result = Step("prune_magnitude", "prune.magnitude")
                                       .input("model", "model", prose_model(), {{"layout", "hf"}})
                                       .param("pattern", "2:4")
                                       .run();
  return result;
}

Step compress(const std::string& model) {
  return Step("io_convert", "io.convert").input("model", "model", model).param("compress", "2:4");
}

TEST(IoConvert, CompressesTwoOfFourAndGivesTheSameWeightsBack) {
  const std::string sparse = two_of_four().outputs.at("model");
  const StepResult packed = compress(sparse).run();
  ASSERT_TRUE(packed.ok()) << packed.message;
  EXPECT_EQ(packed.value("compressed"), 4 * 7);
  EXPECT_LT(packed.value("bytes"), 0.7 * packed.value("bytes_before"));  // the embedding stays
  EXPECT_LT(file_bytes(packed.outputs.at("model") + "/model.safetensors").size(), packed.value("bytes") + 10000);
  const auto stored = Checkpoint::open(packed.outputs.at("model"));
  EXPECT_EQ(stored->find("model.layers.0.mlp.up_proj.weight"), nullptr);
  EXPECT_EQ(stored->find("model.layers.0.mlp.up_proj.weight_values")->cols(), 128);
  EXPECT_EQ(stored->find("model.layers.0.mlp.up_proj.weight_meta")->cols(), 16);

  const StepResult back = convert(packed.outputs.at("model"), "bf16");
  ASSERT_TRUE(back.ok()) << back.message;
  EXPECT_EQ(back.value("unpacked"), 4 * 7);
  const auto before = Checkpoint::open(sparse), after = Checkpoint::open(back.outputs.at("model"));
  EXPECT_FALSE(after->config().contains("quantization_config"));
  ASSERT_EQ(before->tensors().size(), after->tensors().size());
  for (const TensorView* t : before->tensors()) {
    const TensorView* const other = after->find(t->name);
    ASSERT_TRUE(other != nullptr && std::equal(t->bytes.begin(), t->bytes.end(), other->bytes.begin())) << t->name;
  }
}

TEST(IoConvert, CompressedModelsAreReadAsTheyAre) {
  const StepResult packed = compress(two_of_four().outputs.at("model")).run();
  ASSERT_TRUE(packed.ok()) << packed.message;
  EXPECT_EQ(prose_nll(packed.outputs.at("model")), prose_nll(two_of_four().outputs.at("model")));
}

TEST(IoConvert, ForetellsTheCompressedLayout) {
  EXPECT_EQ(compress(prose_model()).estimate().foretold.at("model").at("weights"), "sparse24.sm80");
}

TEST(IoConvert, HasNothingToCompressInADenseModel) {
  EXPECT_EQ(compress(prose_model()).run().message,
            "no matrix of the model is 2:4 sparse, so there is nothing to compress; prune it with pattern 2:4 first");
}

TEST(IoConvert, CompressesOnlySixteenBits) {
  const StepResult r = compress(prose_model()).param("to", "f32").validate();
  EXPECT_EQ(r.message, "the 2:4 layout holds weights of 16 bits; use to: bf16 or to: f16");
  EXPECT_EQ(r.where, "to");
}

}  // namespace
}  // namespace fettle::test
