// SPDX-License-Identifier: Apache-2.0
// Losses, gradients and optimizer steps of PyTorch (goldens/distill says how they were made).
#include "fettle_kit/io/safetensors.h"
#include "fettle_kit/model/network.h"
#include "fettle_kit/train/training.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

const std::string kGolden = std::string(FETTLE_TEST_SHARED) + "/goldens/distill";
constexpr std::int64_t kSequences = 4, kLength = 32, kRows = kSequences * kLength;

struct GoldenLoss {
  const char* name;
  Divergence divergence;
  float temperature;
  double label_share;
};

class DistillationGolden : public ::testing::TestWithParam<GoldenLoss> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kGolden)) GTEST_SKIP() << "the goldens are not here";
    file_ = std::make_unique<SafetensorsReader>(*SafetensorsReader::open(kGolden + "/golden.safetensors"));
    backend_ = make_cpu_backend();
    student_ = std::make_unique<Network>(*Network::open(*backend_, *Weights::open(kGolden + "/student"), {}));
    NetworkOptions frozen;
    frozen.frozen = true;
    teacher_ = std::make_unique<Network>(*Network::open(*backend_, *Weights::open(kGolden + "/teacher"), frozen));
    ids_.clear();
    for (const float id : numbers("input_ids")) ids_.push_back(static_cast<std::int32_t>(id));
  }

  std::vector<float> numbers(const std::string& name) const {
    const TensorView* t = file_->find(name);
    EXPECT_NE(t, nullptr) << name;
    std::vector<float> x(static_cast<std::size_t>(t->elements()));
    if (t->dtype == DType::i64 || t->dtype == DType::i32) {
      for (std::size_t i = 0; i < x.size(); ++i) {
        std::int64_t wide = 0;
        std::int32_t narrow = 0;
        if (t->dtype == DType::i64) {
          std::memcpy(&wide, t->bytes.data() + 8 * i, 8);
        } else {
          std::memcpy(&narrow, t->bytes.data() + 4 * i, 4);
          wide = narrow;
        }
        x[i] = static_cast<float>(wide);
      }
    } else {
      info(t->dtype).to_f32(t->bytes.data(), x.data(), x.size());
    }
    return x;
  }

  /// One pass over `ids`: the loss, with gradients in the network.
  double pass(std::span<const std::int32_t> ids, const GoldenLoss& golden) {
    const Batch batch{kSequences, kLength};
    EXPECT_TRUE(teacher_->forward(ids, batch).ok());
    EXPECT_TRUE(student_->forward(ids, batch).ok());
    std::vector<std::int32_t> labels;
    for (std::size_t i = 0; i < ids.size(); ++i)
      labels.push_back(static_cast<std::int64_t>(i) % kLength == kLength - 1 ? -1 : ids[i + 1]);
    LossTarget target;
    target.spec.divergence = golden.divergence;
    target.spec.temperature = golden.temperature;
    if (golden.label_share > 0) target.labels = labels;
    target.label_scale = golden.label_share / (kSequences * (kLength - 1));
    target.teacher_hidden = teacher_->hidden();
    target.teacher_head = teacher_->head();
    target.teacher_scale = (1 - golden.label_share) / kRows;
    const LossSums sums = student_->head_loss(target);
    student_->backward();
    return target.label_scale * sums.cross_entropy + target.teacher_scale * sums.divergence;
  }

  double relative_difference(const Array& found, const std::string& name) {
    const std::vector<float> expected = numbers(name);
    std::vector<float> x(expected.size());
    backend_->download(x, found);
    double difference = 0, norm = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      difference += std::pow(double{x[i]} - expected[i], 2);
      norm += std::pow(double{expected[i]}, 2);
    }
    return std::sqrt(difference / norm);
  }

  std::unique_ptr<SafetensorsReader> file_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Network> student_, teacher_;
  std::vector<std::int32_t> ids_;
};

TEST_P(DistillationGolden, LossAndGradients) {
  const GoldenLoss& golden = GetParam();
  EXPECT_NEAR(pass(ids_, golden), numbers(std::string("loss.") + golden.name)[0], 2e-6);
  for (const Parameter& p : student_->parameters())
    EXPECT_LT(relative_difference(p.gradient, "grad." + std::string(golden.name) + "." + p.name), 1e-5) << p.name;
}

INSTANTIATE_TEST_SUITE_P(All, DistillationGolden,
                         ::testing::Values(GoldenLoss{"fkl_t1", Divergence::forward_kl, 1, 0},
                                           GoldenLoss{"fkl_t2", Divergence::forward_kl, 2, 0},
                                           GoldenLoss{"rkl_t1", Divergence::reverse_kl, 1, 0},
                                           GoldenLoss{"jsd_t1", Divergence::jensen_shannon, 1, 0},
                                           GoldenLoss{"ce_half_fkl_t2_half", Divergence::forward_kl, 2, 0.5}),
                         [](const auto& c) { return c.param.name; });

class AdamwGolden : public DistillationGolden {
 protected:
  /// Trains on the one batch; x of the series are steps done.
  std::vector<double> train_steps(std::int64_t steps, double clip, std::vector<double>* norms) {
    std::vector<TrainedTensor> tensors;
    for (Parameter& p : student_->parameters()) {
      TrainedTensor t;
      t.name = p.name, t.value = p.value, t.gradient = p.gradient;
      tensors.push_back(t);
    }
    const TokenSet data(ids_, kLength, "sha256:0", true);
    TrainingTask task;
    task.backend = backend_.get();
    task.tensors = tensors;
    task.data = &data;
    task.begin_step = [&] { student_->zero_gradients(); };
    task.loss = [&](const MicroBatch& batch) -> Result<double> { return pass(batch.ids, GetParam()); };
    TrainingOptions options;
    options.steps = steps;
    options.batch = options.micro_batch = kSequences;
    options.schedule.decay = Decay::constant;
    options.schedule.peak = 0.01;
    options.clip = clip;
    options.folder = ::testing::TempDir();
    TrainingWatch watch;
    std::vector<double> losses;
    watch.point = [&](const char* series, double, double y) {
      if (std::string_view(series) == "loss") losses.push_back(y);
      if (std::string_view(series) == "gradient_norm" && norms != nullptr) norms->push_back(y);
    };
    EXPECT_TRUE(train(task, options, watch).ok());
    return losses;
  }
};

TEST_P(AdamwGolden, StepsWithoutClipping) {
  train_steps(1, 0, nullptr);
  for (const Parameter& p : student_->parameters())
    EXPECT_LT(relative_difference(p.value, "adamw.step1." + p.name), 1e-5) << p.name;
  SetUp();
  std::vector<double> norms;
  const std::vector<double> losses = train_steps(3, 0, &norms);
  for (const Parameter& p : student_->parameters())
    EXPECT_LT(relative_difference(p.value, "adamw.step3." + p.name), 1e-4) << p.name;
  const auto expected = numbers("adamw.losses"), expected_norms = numbers("adamw.grad_norms");
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(losses[i], expected[i], 1e-5);
    EXPECT_NEAR(norms[i], expected_norms[i], 1e-5);
  }
  EXPECT_NEAR(pass(ids_, GetParam()), expected[3], 1e-5);
}

TEST_P(AdamwGolden, StepsWithClipping) {
  std::vector<double> norms;
  const std::vector<double> losses = train_steps(3, 0.5, &norms);
  const auto expected = numbers("adamw_clip.losses"), expected_norms = numbers("adamw_clip.grad_norms");
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(losses[i], expected[i], 1e-5);
    EXPECT_NEAR(norms[i], expected_norms[i], 1e-5);
  }
  for (const Parameter& p : student_->parameters())
    EXPECT_LT(relative_difference(p.value, "adamw_clip.step3." + p.name), 1e-4) << p.name;
}

INSTANTIATE_TEST_SUITE_P(Steps, AdamwGolden, ::testing::Values(GoldenLoss{"fkl_t2", Divergence::forward_kl, 2, 0}),
                         [](const auto& c) { return c.param.name; });

}  // namespace
}  // namespace fettle::kit
