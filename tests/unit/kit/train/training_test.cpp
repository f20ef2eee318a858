// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/train/training.h"

#include "unit/kit/io/scratch_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace fettle::test {
namespace {

using namespace fettle::kit;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

using Numbers = std::vector<float>;
using Points = std::vector<std::pair<double, double>>;

/// The numbers of an array where they lie: on the cpu backend in our own memory.
float* data_of(Backend& backend, const Array& x) {
  float* data = nullptr;
  backend.host_view(x, Access::read_write, [&](MutMatrix view) { data = view.data; });
  return data;
}

/// Two tensors are drawn to where the data says: sequence s wants both at its first id, loss (w - id)^2 / 2 summed over
/// all numbers. A sequence is 3 ids long, so 2 of its positions count.
class Toy {
 public:
  explicit Toy(std::vector<std::int32_t> wishes = {1, 2, 3, 4, 5, 6, 7, 8}) : data_(ids_of(wishes), 3, "", false) {
    for (const char* name : {"matrix", "vector"}) {
      TrainedTensor t;
      t.name = name;
      t.value = backend.allocate(1, 2, Element::real);
      t.gradient = backend.allocate(1, 2, Element::real);
      t.decay = t.name == "matrix";
      backend.upload(t.value, Numbers{1, -1});
      tensors.push_back(t);
    }
    options.steps = 6;
    options.batch = 3;
    options.micro_batch = 3;
    options.schedule = {Decay::constant, 0.1, 0, 0, 0};
    options.folder = folder_.path();
    task.backend = &backend;
    task.data = &data_;
    task.loss = [this](const MicroBatch& batch) { return loss(batch); };
    watch.stop = [this] { return ++polls == stop_at_poll; };
    watch.point = [this](const char* name, double x, double y) { series[name].emplace_back(x, y); };
    watch.warn = [this](const std::string& text) { warnings.push_back(text); };
    watch.info = [this](const std::string& text) { infos.push_back(text); };
  }

  Result<Trained> train() {
    task.tensors = tensors;
    return kit::train(task, options, watch);
  }
  Numbers value(std::size_t tensor) {
    Numbers numbers(2);
    backend.download(numbers, tensors[tensor].value);
    return numbers;
  }
  std::string state() const { return options.folder + "/state.safetensors"; }
  /// Trains to the middle and stops there, so that a state lies in the folder.
  void train_half() {
    stop_at_poll = options.steps / 2 + 1;
    EXPECT_EQ(train().error().code(), Code::cancelled);
    stop_at_poll = 0;
  }

  std::unique_ptr<Backend> processor = make_cpu_backend();
  Backend& backend = *processor;
  std::vector<TrainedTensor> tensors;
  TrainingTask task;
  TrainingOptions options;
  TrainingWatch watch;
  std::int64_t polls = 0, stop_at_poll = 0;
  std::map<std::string, Points> series;
  std::vector<std::string> warnings, infos;
  std::vector<std::int64_t> denominators;
  std::vector<std::int64_t> samples;

 private:
  static std::vector<std::int32_t> ids_of(const std::vector<std::int32_t>& wishes) {
    std::vector<std::int32_t> ids;
    for (const std::int32_t w : wishes) ids.insert(ids.end(), {w, 0, 0});
    return ids;
  }
  double loss(const MicroBatch& batch) {
    denominators.push_back(batch.denominator);
    samples.insert(samples.end(), batch.samples.begin(), batch.samples.end());
    double sum = 0;
    for (std::int64_t s = 0; s < batch.sequences; ++s)
      for (TrainedTensor& t : tensors)
        for (std::int64_t i = 0; i < 2; ++i) {
          const float off =
              data_of(backend, t.value)[i] - static_cast<float>(batch.ids[static_cast<std::size_t>(s * batch.length)]);
          sum += 0.5 * off * off;
          data_of(backend, t.gradient)[i] += off / static_cast<float>(batch.denominator);
        }
    return sum / static_cast<double>(batch.denominator);
  }

  ScratchFolder folder_;
  TokenSet data_;
};

// By hand: wishes of the only sequence 3, both values 1; gradient (1 - 3) / 2 = -1, so m/c1 = -1, v/c2 = 1, and the
// first step is the learning rate, plus decay for the matrix.
TEST(Training, TakesTheStepOfAdamw) {
  Toy toy({3});
  toy.options.steps = 1;
  toy.options.batch = 1;
  toy.options.clip = 0;
  toy.options.adamw.decay = 0.5;
  toy.backend.upload(toy.tensors[0].value, Numbers{1, 1});
  toy.backend.upload(toy.tensors[1].value, Numbers{1, 1});
  ASSERT_TRUE(toy.train());
  EXPECT_THAT(toy.value(0), ::testing::Each(::testing::FloatNear(1 + 0.1F - 0.1F * 0.5F, 1e-6F)));
  EXPECT_THAT(toy.value(1), ::testing::Each(::testing::FloatNear(1.1F, 1e-6F)));
}

TEST(Training, DividesByThePositionsOfTheWholeBatch) {
  Toy toy;
  toy.options.steps = 1;
  toy.options.micro_batch = 1;
  ASSERT_TRUE(toy.train());
  EXPECT_THAT(toy.denominators, ElementsAre(6, 6, 6));
}

TEST(Training, CountsThePositionsThatTheTaskCounts) {
  Toy toy;
  toy.options.steps = 1;
  toy.task.counted = [](std::span<const std::int32_t> ids) { return ids[0] > 4 ? 3 : 0; };
  ASSERT_TRUE(toy.train());
  std::int64_t expected = 0;
  for (const std::int64_t sample : toy.samples) expected += sample >= 4 ? 3 : 0;
  EXPECT_THAT(toy.denominators, ElementsAre(expected));
}

TEST(Training, GivesTheSameHoweverABatchIsSplit) {
  Toy whole, split;
  split.options.micro_batch = 2;
  ASSERT_TRUE(whole.train());
  ASSERT_TRUE(split.train());
  for (int i : {0, 1})
    EXPECT_NEAR(whole.value(0)[static_cast<std::size_t>(i)], split.value(0)[static_cast<std::size_t>(i)], 1e-5);
}

TEST(Training, ShowsEverySequenceOnceBeforeAnyComesAgain) {
  Toy toy;
  toy.options.batch = 4;
  toy.options.steps = 2;
  ASSERT_TRUE(toy.train());
  EXPECT_THAT(toy.samples, ::testing::UnorderedElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

TEST(Training, ClipsTheNormOfAllGradientsTogether) {
  Toy toy({1});  // gradients 0, -1, 0, -1
  toy.options.steps = 1;
  toy.options.batch = 1;
  toy.options.clip = 0.5;
  toy.options.adamw = {0, 0, 1, 0};  // the step is g / (|g| + 1): shows the size of g
  ASSERT_TRUE(toy.train());
  EXPECT_NEAR(toy.series["gradient_norm"][0].second, std::sqrt(2), 1e-6);
  const double g = 0.5 / std::sqrt(2);
  EXPECT_NEAR(toy.value(0)[1], -1 + 0.1 * g / (g + 1), 1e-6);
}

TEST(Training, ScalesTheLearningRateOfATensor) {
  Toy toy;
  toy.tensors[1].rate_factor = 0;
  ASSERT_TRUE(toy.train());
  EXPECT_EQ(toy.value(1), (Numbers{1, -1}));
  EXPECT_NE(toy.value(0), (Numbers{1, -1}));
}

TEST(Training, KeepsTheCopyInStepWithTheValue) {
  Toy toy;
  toy.tensors[0].used = toy.backend.allocate(1, 2, Element::real);
  ASSERT_TRUE(toy.train());
  Numbers used(2);
  toy.backend.download(used, toy.tensors[0].used);
  EXPECT_EQ(used, toy.value(0));
}

TEST(Training, KeepsMaskedWeightsAtExactlyZero) {
  Toy toy;
  toy.tensors[0].mask = toy.backend.allocate(1, 2, Element::real);
  toy.backend.upload(toy.tensors[0].mask, Numbers{0, 1});
  ASSERT_TRUE(toy.train());
  EXPECT_EQ(toy.value(0)[0], 0.0F);
  EXPECT_FALSE(std::signbit(toy.value(0)[0]));
  EXPECT_NE(toy.value(0)[1], -1.0F);
}

TEST(Training, LeavesMaskedGradientsOutOfTheNorm) {
  Toy toy({1});
  toy.options.steps = 1;
  toy.options.batch = 1;
  toy.tensors[0].mask = toy.backend.allocate(1, 2, Element::real);
  toy.backend.upload(toy.tensors[0].mask, Numbers{1, 0});
  ASSERT_TRUE(toy.train());
  EXPECT_NEAR(toy.series["gradient_norm"][0].second, 1, 1e-6);
}

TEST(Training, ReportsItsSeries) {
  Toy toy({3});
  toy.options.steps = 2;
  toy.options.batch = 1;
  toy.task.evaluate = [] { return Result<double>(7.0); };
  const auto trained = toy.train();
  ASSERT_TRUE(trained);
  EXPECT_THAT(toy.series["lr"], ElementsAre(std::pair(1.0, 0.1), std::pair(2.0, 0.1)));
  EXPECT_THAT(toy.series["loss"], ::testing::SizeIs(2));
  EXPECT_EQ(toy.series["loss"][0], (std::pair{1.0, trained->first_loss}));
  EXPECT_EQ(toy.series["loss"][1], (std::pair{2.0, trained->last_loss}));
  EXPECT_DOUBLE_EQ(trained->first_loss, (0.5 * 4 + 0.5 * 16) * 2 / 2);
  EXPECT_THAT(toy.series["held_out_loss"], ElementsAre(std::pair(0.0, 7.0), std::pair(2.0, 7.0)));
  EXPECT_EQ(trained->tokens, 6);
}

// ---- the best weights

/// Evaluations that say what they are told, and what the weights were.
struct Oracle {
  explicit Oracle(Toy& toy, std::vector<double> losses) : losses_(std::move(losses)) {
    toy.task.evaluate = [this, &toy]() -> Result<double> {
      values.push_back(toy.value(0));
      return losses_.at(values.size() - 1);
    };
  }
  std::vector<Numbers> values;

 private:
  std::vector<double> losses_;
};

TEST(Training, ReturnsTheWeightsThatHeldOutDataLikesBest) {
  Toy toy;
  Oracle oracle(toy, {9, 5, 3, 4});
  toy.options.evaluate_every = 2;
  const auto trained = toy.train();
  ASSERT_TRUE(trained) << trained.error().message();
  EXPECT_EQ(trained->best_step, 4);
  EXPECT_EQ(trained->held_out_first, 9);
  EXPECT_EQ(trained->held_out_best, 3);
  EXPECT_FALSE(trained->stopped_early);
  EXPECT_EQ(toy.value(0), oracle.values[2]);
}

TEST(Training, ReturnsTheFirstWeightsIfTrainingOnlyHurts) {
  Toy toy;
  Oracle oracle(toy, {1, 2});
  const auto trained = toy.train();
  ASSERT_TRUE(trained);
  EXPECT_EQ(trained->best_step, 0);
  EXPECT_EQ(toy.value(0), (Numbers{1, -1}));
}

TEST(Training, StopsWhenPatienceEnds) {
  Toy toy;
  Oracle oracle(toy, {9, 5, 6, 7, 1});
  toy.options.evaluate_every = 1;
  toy.options.patience = 2;
  const auto trained = toy.train();
  ASSERT_TRUE(trained);
  EXPECT_EQ(trained->steps, 3);
  EXPECT_EQ(trained->best_step, 1);
  EXPECT_TRUE(trained->stopped_early);
  EXPECT_EQ(toy.value(0), oracle.values[1]);
}

// ---- going on

/// Trains with the run cut at every poll in turn, and expects the bytes of a run that nobody cut.
void expect_the_same_after_any_cut(const std::function<void(Toy&)>& prepare) {
  Toy whole;
  prepare(whole);
  const auto expected = whole.train();
  ASSERT_TRUE(expected) << expected.error().message();
  for (std::int64_t poll = 1; poll <= whole.polls; ++poll) {
    Toy cut;
    prepare(cut);
    cut.stop_at_poll = poll;
    ASSERT_EQ(cut.train().error().code(), Code::cancelled);
    Toy next;  // another process: nothing is left but the folder
    prepare(next);
    next.options.folder = cut.options.folder;
    const auto resumed = next.train();
    ASSERT_TRUE(resumed) << resumed.error().message();
    EXPECT_THAT(next.warnings, IsEmpty());
    for (std::size_t t : {0, 1}) EXPECT_EQ(next.value(t), whole.value(t)) << "cut at poll " << poll;
    EXPECT_EQ(next.series, whole.series) << "cut at poll " << poll;
    EXPECT_EQ(resumed->steps, expected->steps);
    EXPECT_EQ(resumed->best_step, expected->best_step);
    EXPECT_EQ(resumed->first_loss, expected->first_loss);
    EXPECT_EQ(resumed->last_loss, expected->last_loss);
  }
}

TEST(Training, GoesOnAfterAnyCutToTheSameBits) {
  expect_the_same_after_any_cut([](Toy& toy) { toy.options.micro_batch = 2; });
}

TEST(Training, GoesOnToTheSameBestWeights) {
  expect_the_same_after_any_cut([](Toy& toy) {
    toy.options.evaluate_every = 1;
    toy.options.patience = 3;
    toy.task.evaluate = [&toy]() -> Result<double> {
      if (toy.watch.stop()) return cancelled_status();
      return std::fabs(toy.value(0)[1] + 0.75);  // best after two or three steps
    };
  });
}

TEST(Training, GoesOnFromTheLastStateWhenKilled) {
  Toy whole;
  ASSERT_TRUE(whole.train());
  Toy killed;
  killed.options.save_every = 2;
  int micro_batches = 0;
  const auto loss = killed.task.loss;
  killed.task.loss = [&](const MicroBatch& batch) -> Result<double> {
    if (++micro_batches == 6) return Status(Code::io, "killed");  // in step 6: states were written after 2 and 4
    return loss(batch);
  };
  ASSERT_EQ(killed.train().error().message(), "killed");
  Toy next;
  next.options.folder = killed.options.folder;
  ASSERT_TRUE(next.train());
  EXPECT_THAT(next.infos, ElementsAre("going on after step 4 of 6"));
  EXPECT_EQ(next.value(0), whole.value(0));
}

TEST(Training, RemovesWhatAKilledRunLeftHalfWritten) {
  Toy toy;
  std::ofstream(toy.options.folder + "/.fettle-1-1.tmp") << "half";
  ASSERT_TRUE(toy.train());
  EXPECT_FALSE(fs::exists(toy.options.folder + "/.fettle-1-1.tmp"));
}

TEST(Training, StartsAnewFromADamagedState) {
  Toy toy, whole;
  ASSERT_TRUE(whole.train());
  toy.train_half();
  std::fstream file(toy.state(), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-100, std::ios::end);
  file.put('\x55');
  file.close();
  Toy next;
  next.options.folder = toy.options.folder;
  ASSERT_TRUE(next.train());
  EXPECT_THAT(next.warnings, ElementsAre("the saved state of this training is not used: " + toy.state() +
                                         ": the content does not fit its checksum; training starts anew"));
  EXPECT_EQ(next.value(0), whole.value(0));
}

TEST(Training, StartsAnewFromTheStateOfAnotherTraining) {
  Toy toy;
  toy.train_half();
  Toy next;
  next.options.folder = toy.options.folder;
  next.options.identity = "with another teacher";
  ASSERT_TRUE(next.train());
  EXPECT_THAT(next.warnings, ElementsAre("the saved state of this training is not used: " + toy.state() +
                                         ": the state of another training; training starts anew"));
}

TEST(Training, StartsAnewFromATruncatedState) {
  Toy toy;
  toy.train_half();
  fs::resize_file(toy.state(), 60);
  Toy next;
  next.options.folder = toy.options.folder;
  ASSERT_TRUE(next.train());
  ASSERT_EQ(next.warnings.size(), 1U);
  EXPECT_TRUE(next.warnings[0].starts_with("the saved state of this training is not used: " + toy.state()));
}

// ---- numbers that are none

TEST(Training, StopsAtALossThatIsNoNumber) {
  Toy toy;
  const auto loss = toy.task.loss;
  toy.task.loss = [&](const MicroBatch& batch) -> Result<double> {
    if (batch.step == 2) return std::nan("");
    return loss(batch);
  };
  EXPECT_EQ(toy.train().error().message(),
            "step 3 of 6: the loss is not a finite number, though all weights are; the weights after step 2 are kept "
            "in '" +
                toy.state() + "'; lower 'lr', lengthen 'warmup', or check the data and the model for NaN");
  EXPECT_TRUE(fs::exists(toy.state()));
}

TEST(Training, NamesTheFirstGradientThatIsNoNumber) {
  Toy toy;
  const auto loss = toy.task.loss;
  toy.task.loss = [&](const MicroBatch& batch) -> Result<double> {
    auto value = loss(batch);
    if (batch.step == 0) data_of(toy.backend, toy.tensors[1].gradient)[1] = INFINITY;
    return value;
  };
  EXPECT_EQ(toy.train().error().message(),
            "step 1 of 6: the gradient is not a finite number; first bad tensor: gradient of 'vector'; the weights "
            "after step 0 are kept in '" +
                toy.state() + "'; lower 'lr', lengthen 'warmup', or check the data and the model for NaN");
}

TEST(Training, NamesTheFirstWeightThatIsNoNumber) {
  Toy toy;
  toy.backend.upload(toy.tensors[0].value, Numbers{1, NAN});
  EXPECT_EQ(
      toy.train().error().message(),
      "step 1 of 6: the loss is not a finite number; first bad tensor: weights of 'matrix'; no earlier weights are "
      "kept; lower 'lr', lengthen 'warmup', or check the data and the model for NaN");
  EXPECT_FALSE(fs::exists(toy.state()));
}

TEST(Training, StopsAtAHeldOutLossThatIsNoNumber) {
  Toy toy;
  Oracle oracle(toy, {1, NAN});
  toy.options.evaluate_every = 3;
  EXPECT_EQ(toy.train().error().message(),
            "after step 3 of 6: the held-out loss is not a finite number, though all weights are; the weights after "
            "step 3 are kept in '" +
                toy.state() + "'; lower 'lr', lengthen 'warmup', or check the data and the model for NaN");
}

// ---- options

struct OptionCase {
  const char* name;
  std::function<void(Toy&)> change;
  const char* message;
};
void PrintTo(const OptionCase& c, std::ostream* out) { *out << c.name; }

class BadOptions : public ::testing::TestWithParam<OptionCase> {};
TEST_P(BadOptions, AreRefused) {
  Toy toy;
  GetParam().change(toy);
  const auto trained = toy.train();
  ASSERT_FALSE(trained);
  EXPECT_EQ(trained.error().message(), GetParam().message);
}
INSTANTIATE_TEST_SUITE_P(
    Options, BadOptions,
    ::testing::Values(
        OptionCase{"steps", [](Toy& toy) { toy.options.steps = 0; }, "steps is 0, but must be at least 1"},
        OptionCase{"batch", [](Toy& toy) { toy.options.batch = 0; }, "batch is 0, but must be at least 1"},
        OptionCase{"micro_batch", [](Toy& toy) { toy.options.micro_batch = -1; },
                   "micro_batch is -1, but must be at least 1"},
        OptionCase{"too_long", [](Toy& toy) { toy.options.steps = std::int64_t{1} << 62; },
                   "4,611,686,018,427,387,904 steps of 3 sequences are more tokens than can be counted"},
        OptionCase{"frozen", [](Toy& toy) { toy.tensors.clear(); }, "nothing to train: every tensor is frozen"},
        OptionCase{"nothing_counts", [](Toy& toy) { toy.task.counted = [](auto) { return 0; }; },
                   "step 1: no position of the batch counts"}),
    [](const auto& c) { return c.param.name; });

class OddOptions : public ::testing::TestWithParam<OptionCase> {};
TEST_P(OddOptions, AreWarnedOf) {
  Toy toy;
  GetParam().change(toy);
  ASSERT_TRUE(toy.train());
  EXPECT_THAT(toy.warnings, ElementsAre(GetParam().message));
}
INSTANTIATE_TEST_SUITE_P(
    Options, OddOptions,
    ::testing::Values(OptionCase{"zero", [](Toy& toy) { toy.options.schedule.peak = 0; },
                                 "the learning rate is 0: nothing will change"},
                      OptionCase{"absurd", [](Toy& toy) { toy.options.schedule.peak = 3; },
                                 "a learning rate of 3 is far above what AdamW follows (1e-5 to 1e-2)"},
                      OptionCase{"rising", [](Toy& toy) { toy.options.schedule.floor = 0.2; },
                                 "the learning rate ends at 0.2, above its peak of 0.1"},
                      OptionCase{"warm_up", [](Toy& toy) { toy.options.schedule.warmup = 6; },
                                 "the warm-up of 6 steps takes all of the 6 steps"},
                      OptionCase{"batch", [](Toy& toy) { toy.options.batch = 9; },
                                 "a batch of 9 sequences, but the data has 8: sequences repeat inside a batch"}),
    [](const auto& c) { return c.param.name; });

}  // namespace
}  // namespace fettle::test
