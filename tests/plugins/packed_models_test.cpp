// SPDX-License-Identifier: Apache-2.0
// Quantized checkpoints in every layout run as the checkpoint of their values does, bit for bit, although no matrix is
// ever decoded as a whole.
#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/eval/perplexity.h"
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/model/decoder.h"

#include "plugins/harness.h"
#include "plugins/prose.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace fettle::test {
namespace {

using namespace fettle::kit;

struct Layout {
  const char* name;
  const char* technique;
  nlohmann::ordered_json params;
};

class PackedModel : public ::testing::TestWithParam<Layout> {
 protected:
  /// The trained model in this layout.
  std::string packed() const {
    std::string plugin = GetParam().technique;
    std::replace(plugin.begin(), plugin.end(), '.', '_');
    Step step(plugin, GetParam().technique);
    step.input("model", "model", prose_model(), {{"layout", "hf"}});
    for (const auto& [name, value] : GetParam().params.items()) step.param(name, value);
    const StepResult result = step.run();
    if (!result.ok()) throw std::runtime_error(result.message);
    const std::string folder = result.outputs.at("model"), config_file = folder + "/config.json";
    Json config = *read_json_file(config_file);
    for (Json& group : config["quantization_config"]["config_groups"]) group["input_activations"] = nullptr;
    const Status written = write_json_file(config_file, config);  // a plain model does not round its inputs
    if (!written.ok()) throw std::runtime_error(written.message());
    return folder;
  }

  /// The values of a checkpoint in any layout as a plain one of f32.
  static std::string dequantized(const std::string& folder) {
    const DenseCheckpoint model = *DenseCheckpoint::open(folder);
    std::vector<TensorSpec> specs;
    for (const DenseTensor& t : model.tensors()) specs.push_back({t.name, DType::f32, t.shape});
    Json config = model.stored().config();
    config.erase("quantization_config");
    const std::string plain = temporary_folder();
    const Status written = write_checkpoint(
        plain, config, specs,
        [&](const TensorSpec& spec, const TensorSink& sink) {
          const std::int64_t cols = spec.shape.back(), rows = spec.shape.size() == 2 ? spec.shape[0] : 1;
          std::vector<float> values(static_cast<std::size_t>(rows * cols));
          const DenseTensor& t = *model.find(spec.name);
          if (t.packed)
            t.packed->read(0, MutMatrix(values.data(), rows, cols));
          else
            info(t.stored->dtype).to_f32(t.stored->bytes.data(), values.data(), values.size());
          return sink(std::as_bytes(std::span(values)));
        },
        "");
    if (!written.ok()) throw std::runtime_error(written.message());
    return plain;
  }

  static Decoder open(const std::string& folder, Precision precision) {
    return *Decoder::open(*Weights::open(folder), precision);
  }

  static std::vector<std::int32_t> ids(std::int64_t count) {
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < count; ++i) ids.push_back(static_cast<std::int32_t>(i * 37 % 1000));
    return ids;
  }

  static std::vector<float> logits(const Decoder& model, std::int64_t length) {
    Rows x(length, model.config().hidden), logits(length, model.config().vocab);
    const Status ran = model.forward(x, ids(length), {1, length});
    if (!ran.ok()) throw std::runtime_error(ran.message());
    model.logits(logits, x);
    const ConstMatrix all = logits;
    return {all.data, all.data + all.rows * all.cols};
  }
};

TEST_P(PackedModel, HasTheLogitsAndThePerplexityOfItsValues) {
  const std::string folder = packed(), plain = dequantized(folder);
  for (const Precision precision : {Precision::real, Precision::bf16}) {
    const Decoder model = open(folder, precision), values = open(plain, precision);
    const TokenSet windows(ids(3 * 64), 64, "", false);
    EXPECT_EQ(perplexity(model, windows)->window_nll, perplexity(values, windows)->window_nll);
    for (const std::int64_t length : {1, 8, 50}) EXPECT_EQ(logits(model, length), logits(values, length)) << length;
  }
}

TEST_P(PackedModel, HasTheSameBitsForAnyNumberOfThreads) {
  const Decoder model = open(packed(), Precision::real);
  std::vector<float> first;
  for (const int threads : {1, 2, 3, 7})
    tbb::task_arena(threads).execute([&] {
      const std::vector<float> made = logits(model, 40);
      if (first.empty()) first = made;
      EXPECT_EQ(made, first) << threads;
    });
}

TEST_P(PackedModel, MakesTheSameOfOneTokenAtATimeThroughTheCache) {
  const Decoder model = open(packed(), Precision::real);
  const std::vector<std::int32_t> tokens = ids(24);
  Rows whole(24, model.config().hidden);
  ASSERT_TRUE(model.forward(whole, tokens, {1, 24}).ok());
  KvCache cache(model.config(), 24);
  for (std::int64_t t = 0; t < 24; ++t) {
    Rows x(1, model.config().hidden);
    ASSERT_TRUE(model.forward(x, std::span(tokens).subspan(static_cast<std::size_t>(t), 1), {1, 1}, &cache).ok());
    EXPECT_EQ(std::memcmp(MutMatrix(x).data, MutMatrix(whole).row(t).data(), sizeof(float) * 256), 0) << t;
  }
}

/// What a block refers to is the file, and a reader of its rows.
TEST_P(PackedModel, HoldsNoMatrixAsFloats) {
  const Decoder model = open(packed(), Precision::real);
  const BlockWeights& block = model.block_weights(0);
  for (const Linear* linear : {&block.q, &block.k, &block.v, &block.o, &block.gate, &block.up, &block.down}) {
    EXPECT_NE(linear->weight.source, nullptr);
    EXPECT_EQ(linear->weight.data, nullptr);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, PackedModel,
    ::testing::Values(Layout{"int4", "quantize.rtn", {{"bits", 4}}},
                      Layout{
                          "int2_asymmetric", "quantize.rtn", {{"bits", 2}, {"symmetric", false}, {"group_size", 32}}},
                      Layout{"int4_tensor", "quantize.rtn", {{"bits", 4}, {"sharing", "tensor"}}},
                      Layout{"gptq", "quantize.rtn", {{"bits", 4}, {"format", "gptq"}}},
                      Layout{"gptq_v2_int3",
                             "quantize.rtn",
                             {{"bits", 3}, {"format", "gptq_v2"}, {"symmetric", false}, {"group_size", 64}}},
                      Layout{"awq", "quantize.rtn", {{"bits", 4}, {"format", "awq"}, {"symmetric", false}}},
                      Layout{"int8", "quantize.int8", {{"smooth", "none"}}},
                      Layout{"fp8", "quantize.fp8", nlohmann::ordered_json::object()},
                      Layout{"fp8_block", "quantize.fp8", {{"sharing", "block"}}},
                      Layout{"nvfp4", "quantize.nvfp4", nlohmann::ordered_json::object()},
                      Layout{"mxfp4", "quantize.mxfp4", nlohmann::ordered_json::object()},
                      Layout{"modelopt_nvfp4", "quantize.nvfp4", {{"format", "modelopt"}}}),
    [](const auto& row) { return std::string(row.param.name); });

}  // namespace
}  // namespace fettle::test
