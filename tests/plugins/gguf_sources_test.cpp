// SPDX-License-Identifier: Apache-2.0
// quantize.gguf straight from checkpoints that do not hold each tensor of the file as a plain one: packed matrices,
// matrices of experts.
#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/gguf.h"
#include "fettle_kit/io/imatrix.h"
#include "fettle_kit/model/weights.h"
#include "fettle_kit/tensor/block_codec.h"

#include "plugins/harness.h"
#include "plugins/prose.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace fettle::test {
namespace {

using namespace fettle::kit;

StepResult to_gguf(const std::string& model, const char* type, unsigned threads = 2) {
  return Step("quantize_gguf", "quantize.gguf")
      .input("model", "model", model, {{"layout", "hf"}})
      .param("type", type)
      .threads(threads)
      .run();
}

std::string gguf_of(const std::string& model, const char* type, unsigned threads = 2) {
  const StepResult r = to_gguf(model, type, threads);
  EXPECT_TRUE(r.ok()) << r.message;
  return r.ok() ? r.outputs.at("model") + "/model.gguf" : "";
}

std::string as_floats(const std::string& model) {
  const StepResult r = Step("io_convert", "io.convert").input("model", "model", model).param("to", "f32").run();
  EXPECT_TRUE(r.ok()) << r.message;
  return r.ok() ? r.outputs.at("model") : "";
}

std::string quantized(const std::string& technique, const nlohmann::ordered_json& params) {
  std::string plugin = technique;
  std::replace(plugin.begin(), plugin.end(), '.', '_');
  Step step(plugin, technique);
  step.input("model", "model", prose_model(), {{"layout", "hf"}});
  for (const auto& [name, value] : params.items()) step.param(name, value);
  const StepResult r = step.run();
  EXPECT_TRUE(r.ok()) << r.message;
  return r.ok() ? r.outputs.at("model") : "";
}

/// The trained model as DeepSeek stores FP8: what compressed-tensors has, under other names.
std::string deepseek(const std::string& sharing) {
  const std::string source = quantized("quantize.fp8", {{"sharing", sharing}});
  const auto packed = Checkpoint::open(source);
  Json config = packed->config();
  config["quantization_config"] = {{"quant_method", "fp8"}, {"fmt", "e4m3"}, {"activation_scheme", "dynamic"}};
  const std::string scale = sharing == "block" ? ".weight_scale_inv" : ".weight_scale";
  if (sharing == "block") config["quantization_config"]["weight_block_size"] = {128, 128};
  std::vector<TensorSpec> specs;
  std::map<std::string, const TensorView*> views;
  for (const TensorView* t : packed->tensors()) {
    std::string name = t->name;
    if (name.ends_with(".weight_scale")) name = name.substr(0, name.rfind('.')) + scale;
    specs.push_back({name, t->dtype, t->shape});
    views[name] = t;
  }
  const std::string folder = temporary_folder();
  const Status written = write_checkpoint(
      folder, config, specs,
      [&](const TensorSpec& spec, const TensorSink& sink) { return sink(views.at(spec.name)->bytes); }, source);
  EXPECT_TRUE(written.ok()) << written.message();
  return folder;
}

struct Packed {
  const char* name;
  std::string (*make)();
};

class PackedSource : public ::testing::TestWithParam<Packed> {};

TEST_P(PackedSource, GivesTheBytesOfItsFloats) {
  const std::string packed = GetParam().make(), plain = as_floats(packed);
  for (const char* type : {"F32", "Q4_K_M"}) {
    const std::string direct = gguf_of(packed, type);
    EXPECT_EQ(file_bytes(direct), file_bytes(gguf_of(plain, type))) << type;
    EXPECT_EQ(file_bytes(direct), file_bytes(gguf_of(packed, type, 5))) << type;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, PackedSource,
    ::testing::Values(Packed{"deepseek", [] { return deepseek("block"); }},
                      Packed{"fp8_rows", [] { return deepseek("channel"); }},
                      Packed{"fp8_tensor",
                             [] {
                               return quantized("quantize.fp8", {{"sharing", "tensor"}});
                             }},
                      Packed{"fp8_channel",
                             [] {
                               return quantized("quantize.fp8", {{"sharing", "channel"}});
                             }},
                      Packed{"fp8_block",
                             [] {
                               return quantized("quantize.fp8", {{"sharing", "block"}});
                             }},
                      Packed{"int4",
                             [] {
                               return quantized("quantize.rtn", {{"bits", 4}, {"group_size", 64}});
                             }},
                      Packed{"int8",
                             [] {
                               return quantized("quantize.int8", {{"smooth", "none"}});
                             }},
                      Packed{"gptq",
                             [] {
                               return quantized("quantize.rtn", {{"bits", 3}, {"format", "gptq"}});
                             }},
                      Packed{"awq",
                             [] {
                               return quantized("quantize.rtn", {{"bits", 4}, {"format", "awq"}, {"symmetric", false}});
                             }},
                      Packed{"nvfp4", [] { return quantized("quantize.nvfp4", {}); }},
                      Packed{"mxfp4", [] { return quantized("quantize.mxfp4", {}); }},
                      Packed{"modelopt",
                             [] {
                               return quantized("quantize.nvfp4", {{"format", "modelopt"}});
                             }}),
    [](const auto& row) { return std::string(row.param.name); });

TEST(GgufSources, SizesTypesByTheValuesOfPackedWeights) {
  const std::string packed = quantized("quantize.rtn", {{"bits", 4}}), plain = as_floats(packed);
  const auto sized = [](const std::string& model) {
    const StepResult r = Step("quantize_gguf", "quantize.gguf")
                             .input("model", "model", model, {{"layout", "hf"}})
                             .param("target", "5bpw")
                             .run();
    EXPECT_TRUE(r.ok()) << r.message;
    return file_bytes(r.outputs.at("model") + "/model.gguf");
  };
  EXPECT_EQ(sized(packed), sized(plain));
}

TEST(GgufSources, RefusesAFormThatItCannotRead) {
  const std::string source = quantized("quantize.rtn", {{"bits", 4}}), file = source + "/config.json";
  Json config = *read_json_file(file);
  config["quantization_config"]["quant_method"] = "hqq";
  ASSERT_TRUE(write_json_file(file, config).ok());
  const StepResult r = to_gguf(source, "Q8_0");
  EXPECT_EQ(r.code, FETTLE_UNSUPPORTED);
  EXPECT_EQ(r.message, source +
                           "/config.json: quant_method 'hqq' cannot be read; known are gptq, awq, "
                           "compressed-tensors, modelopt, fp8, sparse24");
}

TEST(GgufSources, RefusesBytesThatNoConfigExplains) {
  const std::string source = deepseek("channel"), file = source + "/config.json";
  Json config = *read_json_file(file);
  config.erase("quantization_config");
  ASSERT_TRUE(write_json_file(file, config).ok());
  const StepResult r = to_gguf(source, "Q8_0");
  EXPECT_EQ(r.code, FETTLE_UNSUPPORTED);
  EXPECT_EQ(r.message,
            "tensor 'model.layers.0.mlp.down_proj.weight_scale' has no name in a GGUF file of architecture "
            "'llama'");
}

constexpr std::int64_t experts = 4, hidden = 64, width = 256, layers = 2;

/// A mixture of random experts that stores its matrices as the family does; `edit` may change what is written.
std::string mixture(const std::string& type, const std::function<void(Json&, std::vector<TensorSpec>&)>& edit = {}) {
  const bool mixtral = type == "mixtral";
  Json config{{"architectures", Json::array({mixtral ? "MixtralForCausalLM" : "Qwen3MoeForCausalLM"})},
              {"model_type", type},
              {"hidden_size", hidden},
              {"intermediate_size", mixtral ? width : 3 * width},
              {"num_hidden_layers", layers},
              {"num_attention_heads", 4},
              {"num_key_value_heads", 2},
              {"head_dim", 16},
              {"vocab_size", 1024},
              {"max_position_embeddings", 128},
              {"rms_norm_eps", 1e-5},
              {"rope_theta", 1e6},
              {"tie_word_embeddings", false},
              {mixtral ? "num_local_experts" : "num_experts", experts},
              {"num_experts_per_tok", 2}};
  if (!mixtral) config.update({{"moe_intermediate_size", width}, {"norm_topk_prob", true}});
  std::vector<TensorSpec> specs;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
    specs.push_back({name, DType::bf16, std::move(shape)});
  };
  add("model.embed_tokens.weight", {1024, hidden});
  add("lm_head.weight", {1024, hidden});
  add("model.norm.weight", {hidden});
  for (std::int64_t i = 0; i < layers; ++i) {
    const std::string at = "model.layers." + std::to_string(i) + ".";
    add(at + "input_layernorm.weight", {hidden});
    add(at + "post_attention_layernorm.weight", {hidden});
    for (const char* name : {"q_proj", "o_proj"}) add(at + "self_attn." + name + ".weight", {64, hidden});
    for (const char* name : {"k_proj", "v_proj"}) add(at + "self_attn." + name + ".weight", {32, hidden});
    if (!mixtral)
      for (const char* name : {"q_norm", "k_norm"}) add(at + "self_attn." + name + ".weight", {16});
    const std::string mlp = at + (mixtral ? "block_sparse_moe." : "mlp.");
    add(mlp + "gate.weight", {experts, hidden});
    for (std::int64_t e = 0; e < experts; ++e) {
      const std::string expert = mlp + "experts." + std::to_string(e) + ".";
      add(expert + (mixtral ? "w1" : "gate_proj") + ".weight", {width, hidden});
      add(expert + (mixtral ? "w3" : "up_proj") + ".weight", {width, hidden});
      add(expert + (mixtral ? "w2" : "down_proj") + ".weight", {hidden, width});
    }
  }
  if (edit) edit(config, specs);
  const std::string folder = temporary_folder();
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 0.05F);
  const Status written = write_checkpoint(
      folder, config, specs,
      [&](const TensorSpec& spec, const TensorSink& sink) {
        std::vector<std::byte> bytes(*byte_size(spec));
        if (spec.dtype == DType::f8_e4m3) {
          for (std::byte& b : bytes) b = static_cast<std::byte>(random() % 2 * 128 + random() % 120);  // any but NaN
          return sink(bytes);
        }
        std::vector<float> values(bytes.size() / bytes_of(spec.dtype, 1));
        for (float& v : values) v = normal(random);
        info(spec.dtype).from_f32(values.data(), bytes.data(), values.size());
        return sink(bytes);
      },
      prose_model());
  EXPECT_TRUE(written.ok()) << written.message();
  return folder;
}

TEST(GgufOfExperts, StacksTheirMatrices) {
  for (const char* type : {"mixtral", "qwen3_moe"}) {
    const bool mixtral = type == std::string("mixtral");
    const std::string folder = mixture(type), made = gguf_of(folder, "BF16");
    const auto model = Checkpoint::open(folder);
    const auto file = GgufReader::open(made);
    ASSERT_TRUE(file.ok()) << file.error().message();
    EXPECT_EQ(file->tensors().size(), 3 + layers * (mixtral ? 10U : 12U));
    const auto same = [&](const std::string& stack, const char* matrix) {
      const TensorView* const found = file->tensor("blk.1." + stack + ".weight");
      ASSERT_NE(found, nullptr) << stack;
      EXPECT_EQ(found->shape[0], experts);
      std::vector<std::byte> expected;
      for (std::int64_t e = 0; e < experts; ++e) {
        const std::string module = mixtral ? "block_sparse_moe" : "mlp";
        const auto part =
            model->find("model.layers.1." + module + ".experts." + std::to_string(e) + "." + matrix + ".weight");
        expected.insert(expected.end(), part->bytes.begin(), part->bytes.end());
      }
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), found->bytes.begin(), found->bytes.end())) << stack;
    };
    same("ffn_gate_exps", mixtral ? "w1" : "gate_proj");
    same("ffn_up_exps", mixtral ? "w3" : "up_proj");
    same("ffn_down_exps", mixtral ? "w2" : "down_proj");
    EXPECT_EQ(file->tensor("blk.0.ffn_gate_inp.weight")->dtype, DType::f32);
    const std::string arch = mixtral ? "llama" : "qwen3moe";
    EXPECT_EQ(file->text("general.architecture"), arch);
    EXPECT_EQ(file->text("general.size_label"), "4x255K");
    EXPECT_EQ(file->integer(arch + ".expert_count", 0), experts);
    EXPECT_EQ(file->integer(arch + ".expert_used_count", 0), 2);
    EXPECT_EQ(file->integer("qwen3moe.expert_feed_forward_length", 0), mixtral ? 0 : width);
  }
}

TEST(GgufOfExperts, SameBytesForAnyNumberOfThreads) {
  const std::string folder = mixture("qwen3_moe");
  EXPECT_EQ(file_bytes(gguf_of(folder, "Q4_K_M", 1)), file_bytes(gguf_of(folder, "Q4_K_M", 5)));
}

/// As the FP8 releases of these models are: every expert in blocks of 128 x 128.
TEST(GgufOfExperts, ReadsThemPacked) {
  const std::string folder = mixture("qwen3_moe", [](Json& config, std::vector<TensorSpec>& specs) {
    config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
    std::vector<TensorSpec> scales;
    for (TensorSpec& s : specs) {
      if (s.name.find(".experts.") == std::string::npos) continue;
      s.dtype = DType::f8_e4m3;
      scales.push_back({s.name + "_scale_inv", DType::f32, {(s.shape[0] + 127) / 128, (s.shape[1] + 127) / 128}});
    }
    specs.insert(specs.end(), scales.begin(), scales.end());
  });
  const std::string plain = as_floats(folder);
  for (const char* type : {"F32", "Q4_K_M"}) {
    const std::string direct = gguf_of(folder, type);
    EXPECT_EQ(file_bytes(direct), file_bytes(gguf_of(plain, type))) << type;
    EXPECT_EQ(file_bytes(direct), file_bytes(gguf_of(folder, type, 5))) << type;
  }
}

/// The mean squares of each expert's own inputs.
std::string importance_of_experts(std::size_t count) {
  Imatrix imatrix;
  Imatrix::Entry entry;
  for (std::size_t e = 0; e < count; ++e) {
    entry.counts.push_back(1);
    for (std::int64_t j = 0; j < width; ++j)
      entry.sums.push_back(static_cast<float>((j * 7 + static_cast<std::int64_t>(e) * 31) % 11 + 1));
  }
  imatrix.entries["blk.0.ffn_down_exps.weight"] = entry;
  const std::string file = temporary_folder() + "/imatrix.gguf";
  EXPECT_TRUE(imatrix.save(file).ok());
  return file;
}

Step weighted(const std::string& model, const std::string& imatrix, const char* type) {
  return Step("quantize_gguf", "quantize.gguf")
      .input("model", "model", model, {{"layout", "hf"}})
      .input("imatrix", "stats", imatrix)
      .param("type", type);
}

TEST(GgufOfExperts, WeighsEachByItsOwnImportance) {
  const std::string folder = mixture("mixtral"), imatrix = importance_of_experts(experts);
  const StepResult r = weighted(folder, imatrix, "Q4_K_S").run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto file = GgufReader::open(r.outputs.at("model") + "/model.gguf");
  const TensorView& stack = *file->tensor("blk.0.ffn_down_exps.weight");
  ASSERT_EQ(stack.dtype, DType::q4_k);
  const auto model = Checkpoint::open(folder);
  const auto means = Imatrix::open(imatrix)->entries.at("blk.0.ffn_down_exps.weight").means();
  const std::size_t bytes = stack.bytes.size() / experts;
  for (std::size_t e = 0; e < experts; ++e) {
    const TensorView& part =
        *model->find("model.layers.0.block_sparse_moe.experts." + std::to_string(e) + ".w2.weight");
    std::vector<float> values(hidden * width);
    info(part.dtype).to_f32(part.bytes.data(), values.data(), values.size());
    std::vector<std::byte> expected(bytes);
    encode_blocks_reference(DType::q4_k, values.data(), expected.data(), hidden, width, means.data() + e * width);
    EXPECT_TRUE(
        std::equal(expected.begin(), expected.end(), stack.bytes.begin() + static_cast<std::ptrdiff_t>(e * bytes)))
        << e;
  }
  const StepResult few = weighted(folder, importance_of_experts(1), "Q4_K_S").run();
  EXPECT_EQ(few.message,
            "the importance matrix has 256 columns for tensor 'blk.0.ffn_down_exps.weight', which has 1024: "
            "it was made from another model");
}

TEST(GgufOfExperts, ChoosesTypesForASizeOfStacksToo) {
  const std::string folder = mixture("mixtral"), imatrix = importance_of_experts(experts);
  const StepResult one = weighted(folder, imatrix, "Q4_K_M").param("target", "6bpw").threads(1).run(),
                   many = weighted(folder, imatrix, "Q4_K_M").param("target", "6bpw").threads(5).run();
  ASSERT_TRUE(one.ok() && many.ok()) << one.message;
  EXPECT_LE(one.value("bits_per_weight"), 6);
  EXPECT_EQ(file_bytes(one.outputs.at("model") + "/model.gguf"), file_bytes(many.outputs.at("model") + "/model.gguf"));
}

struct Broken {
  const char* name;
  const char* type;
  void (*edit)(Json&, std::vector<TensorSpec>&);
  const char* message;  ///< FOLDER stands for the checkpoint's
};

class BrokenExperts : public ::testing::TestWithParam<Broken> {};

TEST_P(BrokenExperts, AreRefused) {
  const std::string folder = mixture(GetParam().type, GetParam().edit);
  std::string expected = GetParam().message;
  if (const std::size_t at = expected.find("FOLDER"); at != std::string::npos) expected.replace(at, 6, folder);
  EXPECT_EQ(to_gguf(folder, "Q8_0").message, expected);
}

void without(std::vector<TensorSpec>& specs, const std::string& name) {
  std::erase_if(specs, [&](const TensorSpec& s) { return s.name == name; });
}
TensorSpec& spec_of(std::vector<TensorSpec>& specs, const std::string& name) {
  return *std::find_if(specs.begin(), specs.end(), [&](const TensorSpec& s) { return s.name == name; });
}

INSTANTIATE_TEST_SUITE_P(
    Rows, BrokenExperts,
    ::testing::Values(
        Broken{"missing", "mixtral",
               [](Json&, auto& specs) { without(specs, "model.layers.1.block_sparse_moe.experts.2.w1.weight"); },
               "tensor 'model.layers.1.block_sparse_moe.experts.w1.weight' has no expert 2, but config.json says that "
               "there are 4"},
        Broken{"too_many", "qwen3_moe", [](Json& config, auto&) { config["num_experts"] = 3; },
               "tensor 'model.layers.0.mlp.experts.3.down_proj.weight' is there, but config.json says that there are 3 "
               "experts"},
        Broken{"shape", "qwen3_moe",
               [](Json&, auto& specs) {
                 spec_of(specs, "model.layers.0.mlp.experts.1.up_proj.weight").shape = {hidden, width};
               },
               "tensor 'model.layers.0.mlp.experts.1.up_proj.weight' has not the shape of the other experts' matrices"},
        Broken{
            "width", "qwen3_moe", [](Json& config, auto&) { config["moe_intermediate_size"] = 128; },
            "FOLDER: tensor 'model.layers.0.mlp.experts.0.gate_proj.weight' has shape [256, 64], but config.json asks "
            "for [128, 64]"},
        Broken{"router", "mixtral",
               [](Json&, auto& specs) { without(specs, "model.layers.0.block_sparse_moe.gate.weight"); },
               "FOLDER: tensor 'model.layers.0.block_sparse_moe.gate.weight' is missing"},
        Broken{"attention", "mixtral",
               [](Json&, auto& specs) { without(specs, "model.layers.0.self_attn.v_proj.weight"); },
               "FOLDER: tensor 'model.layers.0.self_attn.v_proj.weight' is missing"},
        Broken{"unscaled", "qwen3_moe", [](Json& config, auto&) { config["norm_topk_prob"] = false; },
               "config.json: 'norm_topk_prob' is not true, but llama.cpp scales the weights of the experts in use to a "
               "sum "
               "of 1"},
        Broken{"dense_layers", "qwen3_moe", [](Json& config, auto&) { config["mlp_only_layers"] = {0}; },
               "config.json: some layers have no experts ('decoder_sparse_step', 'mlp_only_layers'), but llama.cpp has "
               "them in all"},
        Broken{"none_used", "mixtral", [](Json& config, auto&) { config["num_experts_per_tok"] = 0; },
               "config.json: it has 4 experts and uses 0 of them, expected 2 to 65536 and at least one of them"}),
    [](const auto& row) { return std::string(row.param.name); });

TEST(GgufOfExperts, BecomeTheCheckpointAgain) {
  for (const char* type : {"mixtral", "qwen3_moe"}) {
    const std::string folder = mixture(type);
    const StepResult r =
        Step("io_convert", "io.convert").input("model", "model", gguf_of(folder, "BF16")).param("to", "bf16").run();
    ASSERT_TRUE(r.ok()) << r.message;
    const auto expected = Checkpoint::open(folder), found = Checkpoint::open(r.outputs.at("model"));
    ASSERT_EQ(found->tensors().size(), expected->tensors().size());
    for (const TensorView* t : expected->tensors()) {
      const TensorView* const other = found->find(t->name);
      ASSERT_NE(other, nullptr) << t->name;
      EXPECT_EQ(other->shape, t->shape) << t->name;
      EXPECT_TRUE(std::equal(t->bytes.begin(), t->bytes.end(), other->bytes.begin(), other->bytes.end())) << t->name;
    }
    for (const char* key : {"model_type", "architectures", "hidden_size", "intermediate_size", "num_local_experts",
                            "num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"})
      EXPECT_EQ(found->config().value(key, Json()), expected->config().value(key, Json())) << key;
  }
}

TEST(GgufOfExperts, CannotBeComputedAndSaySo) {
  const std::string file = gguf_of(mixture("qwen3_moe"), "Q8_0");
  const auto weights = Weights::open(file);
  EXPECT_THAT(weights.error().message(),
              testing::StartsWith(file + ": model type 'qwen3_moe' is not supported; supported are llama"));
}

/// The GGUF file of a small Mixtral with other tensors, or other metadata.
std::string changed_mixture(const std::function<void(GgufMetadata&, std::vector<TensorSpec>&)>& change) {
  const auto file = GgufReader::open(gguf_of(mixture("mixtral"), "F32"));
  GgufMetadata metadata = file->metadata();
  std::vector<TensorSpec> specs;
  for (const TensorView& t : file->tensors()) specs.push_back({t.name, t.dtype, t.shape});
  change(metadata, specs);
  std::string path = temporary_folder() + "/model.gguf";
  auto writer = GgufWriter::create(path, metadata, specs);
  EXPECT_TRUE(writer.ok()) << writer.error().message();
  for (const TensorSpec& spec : specs) {
    const auto stored = file->tensor(spec.name)->bytes;
    std::int64_t elements = 1;
    for (const std::int64_t n : spec.shape) elements *= n;
    EXPECT_TRUE(writer->append(spec.name, stored.first(static_cast<std::size_t>(elements) * 4)).ok());
  }
  EXPECT_TRUE(writer->finish().ok());
  return path;
}

TEST(GgufOfExperts, AMissingStackIsNamedWhenTheyAreReadBack) {
  const std::string path = changed_mixture([](auto&, auto& specs) { without(specs, "blk.1.ffn_up_exps.weight"); });
  const StepResult r = Step("io_convert", "io.convert").input("model", "model", path).run();
  EXPECT_EQ(r.message, path +
                           ": the tensor for 'model.layers.1.block_sparse_moe.experts.0.w3.weight' is missing or has "
                           "another shape than the metadata asks for");
}

TEST(GgufOfExperts, AStackOfCountlessEmptyMatricesIsRefusedAtOnce) {
  const std::string path = changed_mixture([](auto&, auto& specs) {
    spec_of(specs, "blk.0.ffn_up_exps.weight").shape = {std::int64_t{1} << 40, 0, 64};
  });
  const StepResult r = Step("io_convert", "io.convert").input("model", "model", path).run();
  EXPECT_EQ(r.message, path +
                           ": tensor 'blk.0.ffn_up_exps.weight' has shape [1099511627776, 0, 64], expected a stack of "
                           "4 experts");
}

TEST(GgufOfExperts, MoreLayersOfExpertsThanTensorsAreRefusedAtOnce) {
  const std::string path = changed_mixture([](auto& metadata, auto&) {
    for (auto& [key, value] : metadata)
      if (key == "llama.block_count") value = std::uint32_t{4000};
  });
  const StepResult r = Step("io_convert", "io.convert").input("model", "model", path).run();
  EXPECT_THAT(r.message, testing::HasSubstr(": it has 4000 layers of 4 experts, but there are only "));
}

TEST(GgufOfExperts, AnArchitectureThatNobodyKnowsIsRefusedWithThoseKnown) {
  const std::string path = changed_mixture([](auto& metadata, auto&) {
    for (auto& [key, value] : metadata)
      if (key == "general.architecture") value = std::string("mamba");
  });
  EXPECT_EQ(Weights::open(path).error().message(),
            path +
                ": architecture 'mamba' is not supported; supported are llama, qwen2, qwen3, qwen3moe, phi3, gemma2 "
                "and gemma3");
}

}  // namespace
}  // namespace fettle::test
