// SPDX-License-Identifier: Apache-2.0
// Three steps of AdamW on a distillation loss against torch's (../shared/goldens/distill).
#include "fettle_kit/io/safetensors.h"
#include "fettle_kit/model/network.h"
#include "fettle_kit/tensor/dtype.h"
#include "fettle_kit/train/next_token.h"
#include "fettle_kit/train/training.h"

#include "unit/kit/io/scratch_folder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace fettle::test {
namespace {

using namespace fettle::kit;

const std::string goldens = std::string(FETTLE_TEST_SHARED) + "/goldens/distill";

std::vector<float> floats(const TensorView& tensor) {
  std::vector<float> out(static_cast<std::size_t>(tensor.elements()));
  info(tensor.dtype).to_f32(tensor.bytes.data(), out.data(), out.size());
  return out;
}

class AdamwGolden : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(goldens)) GTEST_SKIP() << "the reference values are not here: " << goldens;
    golden_.emplace(*SafetensorsReader::open(goldens + "/golden.safetensors"));
    student_.emplace(*Network::open(*backend_, *Weights::open(goldens + "/student"), {}));
    NetworkOptions frozen;
    frozen.frozen = true;
    teacher_.emplace(*Network::open(*backend_, *Weights::open(goldens + "/teacher"), frozen));
    const TensorView& ids = *golden_->find("input_ids");
    std::vector<std::int64_t> wide(static_cast<std::size_t>(ids.elements()));
    std::memcpy(wide.data(), ids.bytes.data(), ids.bytes.size());
    data_.emplace(std::vector<std::int32_t>(wide.begin(), wide.end()), ids.shape[1], "", true);
  }

  /// Forward KL at temperature 2, all positions count.
  Result<double> loss(const MicroBatch& batch) {
    const Batch shape{batch.sequences, batch.length};
    FETTLE_TRY(teacher_->forward(batch.ids, shape));
    FETTLE_TRY(student_->forward(batch.ids, shape));
    LossTarget target;
    target.spec.divergence = Divergence::forward_kl;
    target.spec.temperature = 2;
    target.teacher_hidden = teacher_->hidden();
    target.teacher_head = teacher_->head();
    target.teacher_scale = 1 / static_cast<double>(batch.denominator);
    const LossSums sums = student_->head_loss(target);
    student_->backward();
    return sums.divergence / static_cast<double>(batch.denominator);
  }

  void train(std::int64_t steps, double clip) {
    auto tensors = trained_tensors(*student_, {});
    for (TrainedTensor& t : *tensors) t.decay = true;
    TrainingTask task = training_of(*student_, *tensors, *data_);
    task.loss = [this](const MicroBatch& batch) { return loss(batch); };
    task.counted = [](std::span<const std::int32_t> ids) { return static_cast<std::int64_t>(ids.size()); };
    TrainingOptions options;
    options.steps = steps;
    options.batch = options.micro_batch = 4;
    options.schedule = {Decay::constant, 0.01, 0, 0, 0};
    options.clip = clip;
    options.folder = folder_.path();
    TrainingWatch watch;
    watch.point = [this](const char* name, double, double y) { series_[name].push_back(y); };
    const auto trained = kit::train(task, options, watch);
    ASSERT_TRUE(trained.ok()) << trained.error().message();
  }

  /// To 1e-5, but where the gradient g itself is all but cancelled: AdamW divides by |g| + epsilon, so that a rounding
  /// r of its sum (r = 4e-9, for terms of up to 0.07 in f32) moves the first step by rate * r * epsilon / (|g| +
  /// epsilon)^2. Of the 66,288 numbers one is moved by more than 1e-5 so, with g = -7e-8.
  void expect_parameters(const std::string& prefix) {
    for (const Parameter& p : student_->parameters()) {
      const TensorView* expected = golden_->find(prefix + p.name);
      ASSERT_NE(expected, nullptr) << prefix << p.name;
      const std::vector<float> want = floats(*expected);
      std::vector<float> have(want.size());
      backend_->download(have, p.value);
      const std::vector<float> gradient = floats(*golden_->find("grad.fkl_t2." + p.name));
      for (std::size_t i = 0; i < want.size(); ++i) {
        const double g = std::fabs(gradient[i]) + 1e-8;
        ASSERT_NEAR(have[i], want[i], 1e-5 + 0.01 * 4e-9 * 1e-8 / (g * g)) << p.name << " at " << i;
      }
    }
  }

  void expect_series(const char* series, const char* golden, double tolerance) {
    const auto want = floats(*golden_->find(golden));
    for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(series_[series][i], want[i], tolerance) << "step " << i + 1;
  }

  ScratchFolder folder_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  std::optional<SafetensorsReader> golden_;
  std::optional<Network> student_, teacher_;
  std::optional<TokenSet> data_;
  std::map<std::string, std::vector<double>> series_;
};

TEST_F(AdamwGolden, TakesTheFirstStepOfTorch) {
  train(1, 0);
  expect_parameters("adamw.step1.");
}

TEST_F(AdamwGolden, TakesThreeStepsOfTorch) {
  train(3, 0);
  expect_parameters("adamw.step3.");
  expect_series("loss", "adamw.losses", 1e-5);
  expect_series("gradient_norm", "adamw.grad_norms", 1e-5);
}

TEST_F(AdamwGolden, TakesThreeClippedStepsOfTorch) {
  train(3, 0.5);
  expect_parameters("adamw_clip.step3.");
  expect_series("loss", "adamw_clip.losses", 1e-5);
  expect_series("gradient_norm", "adamw_clip.grad_norms", 1e-5);
}

}  // namespace
}  // namespace fettle::test
