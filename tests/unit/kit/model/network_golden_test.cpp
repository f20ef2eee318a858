// SPDX-License-Identifier: Apache-2.0
// Losses and gradients of whole models against transformers (goldens.h; computed there in f32 by autograd).
#include "fettle_kit/io/safetensors.h"
#include "fettle_kit/model/network.h"
#include "fettle_kit/tensor/dtype.h"

#include "unit/kit/model/goldens.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

std::vector<float> floats(const TensorView& tensor) {
  std::vector<float> out(static_cast<std::size_t>(tensor.elements()));
  info(tensor.dtype).to_f32(tensor.bytes.data(), out.data(), out.size());
  return out;
}

std::vector<std::int32_t> ids_of(const TensorView& tensor) {
  std::vector<std::int64_t> wide(static_cast<std::size_t>(tensor.elements()));
  std::memcpy(wide.data(), tensor.bytes.data(), wide.size() * sizeof(std::int64_t));
  return {wide.begin(), wide.end()};
}

/// The token after each position; the last of a sequence has none.
std::vector<std::int32_t> next_tokens(const std::vector<std::int32_t>& ids, std::int64_t length) {
  std::vector<std::int32_t> labels(ids.size(), -1);
  for (std::size_t i = 0; i + 1 < ids.size(); ++i)
    if ((i + 1) % static_cast<std::size_t>(length) != 0) labels[i] = ids[i + 1];
  return labels;
}

double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    difference += std::pow(double{got[i]} - want[i], 2);
    norm += std::pow(double{want[i]}, 2);
  }
  return std::sqrt(difference / norm);
}

class NetworkGolden : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    folder_ = test::golden_folder(GetParam());
    if (!std::filesystem::exists(folder_)) GTEST_SKIP() << "the golden models are not here: " << folder_;
  }
  std::filesystem::path folder_;
};

TEST_P(NetworkGolden, GivesTheLossAndTheGradientsOfTransformers) {
  const auto golden = SafetensorsReader::open(folder_ / "golden.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.error().message();
  const TensorView& input = *golden->find("input_ids");
  const std::vector<std::int32_t> ids = ids_of(input);
  const std::vector<std::int32_t> labels = next_tokens(ids, input.shape[1]);

  const auto backend = make_cpu_backend();
  auto weights = Weights::open(folder_);
  ASSERT_TRUE(weights.ok()) << weights.error().message();
  auto network = Network::open(*backend, *weights, {});
  ASSERT_TRUE(network.ok()) << network.error().message();
  const Status status = network->forward(ids, {.sequences = input.shape[0], .length = input.shape[1]});
  ASSERT_TRUE(status.ok()) << status.message();

  const std::vector<float> hidden = floats(*golden->find("hidden.final"));
  std::vector<float> got(hidden.size());
  backend->download(got, network->hidden());
  for (std::size_t i = 0; i < hidden.size(); ++i) ASSERT_NEAR(got[i], hidden[i], 1e-4) << "hidden state " << i;

  LossTarget target;
  target.labels = labels;
  const auto count = static_cast<double>(input.shape[0] * (input.shape[1] - 1));
  target.label_scale = 1 / count;
  const LossSums sums = network->head_loss(target);
  EXPECT_EQ(sums.labels, static_cast<std::int64_t>(count));
  EXPECT_NEAR(sums.cross_entropy / count, floats(*golden->find("loss"))[0], 1e-5);

  network->backward();
  int compared = 0;
  for (const Parameter& p : network->parameters()) {
    const TensorView* want = golden->find("grad." + p.name);
    if (!want) continue;
    std::vector<float> gradient(static_cast<std::size_t>(p.elements()));
    backend->download(gradient, p.gradient);
    EXPECT_LE(relative_error(gradient, floats(*want)), 1e-4) << p.name;
    ++compared;
  }
  EXPECT_GT(compared, 4);
}

INSTANTIATE_TEST_SUITE_P(Models, NetworkGolden, testing::ValuesIn(test::kGoldens),
                         [](const auto& row) { return test::golden_label(row.param); });

}  // namespace
}  // namespace fettle::kit
