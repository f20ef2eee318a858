// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/dense_checkpoint.h"

#include "plugins/harness.h"
#include "plugins/prose.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace fettle::test
