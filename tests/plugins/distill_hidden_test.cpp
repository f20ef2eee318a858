// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/checkpoint.h"

#include "plugins/distillation.h"

#include <gmock/gmock.h>

#include <algorithm>

namespace fettle::test {
namespace {

Step distill(const std::string& student, const std::string& teacher) {
  Step step("distill_hidden", "distill.hidden");
  step.input("student", "model", student).input("teacher", "model", teacher);
  step.input("data", "tokens", saved(tiny_tokens()));
  step.param("precision", "f32").param("steps", 30).param("batch", 4).param("micro_batch", 2).param("lr", 3e-3);
  return step;
}

std::string wide_teacher() {
  kit::Json config = tiny_llama_config();
  config["hidden_size"] = 48;
  config["num_hidden_layers"] = 3;
  return tiny_model(9, config);
}

TEST(DistillHidden, StreamsComeCloserByEitherDistanceAndProjection) {
  const std::string student = tiny_model(1), wide = wide_teacher(), same_width = tiny_teacher();
  for (const char* distance : {"mse", "cosine"}) {
    for (const char* projection : {"identity", "learned"}) {
      const std::string teacher = projection == std::string("learned") ? wide : same_width;
      const auto after = [&](int steps) {
        const StepResult r = distill(student, teacher)
                                 .param("distance", distance)
                                 .param("projection", projection)
                                 .param("weight", 5)
                                 .param("steps", steps)
                                 .run();
        EXPECT_TRUE(r.ok()) << r.message;
        return r.value("hidden_loss");
      };
      EXPECT_LT(after(30), 0.8 * after(1)) << distance << ' ' << projection;
    }
  }
}

TEST(DistillHidden, AStudentThatIsItsTeacherKeepsItsWeightsBitForBit) {
  const std::string model = tiny_model(3);
  for (const char* distance : {"mse", "cosine"}) {
    const StepResult r = distill(model, model).param("distance", distance).param("weight_decay", 0).run();
    ASSERT_TRUE(r.ok()) << r.message;
    const auto before = kit::Checkpoint::open(model), after = kit::Checkpoint::open(r.outputs.at("model"));
    for (const kit::TensorView* t : before->tensors())
      EXPECT_TRUE(std::ranges::equal((*after->require(t->name))->bytes, t->bytes)) << distance << ' ' << t->name;
    EXPECT_EQ(r.value("hidden_loss"), 0);
  }
}

TEST(DistillHidden, SameBytesForAnyNumberOfThreadsAndWithCheckpointing) {
  const std::string student = tiny_model(1), teacher = wide_teacher();
  const auto weights = [&](unsigned threads, bool checkpointing) {
    const StepResult r = distill(student, teacher)
                             .param("projection", "learned")
                             .param("distance", "cosine")
                             .param("steps", 5)
                             .param("checkpointing", checkpointing)
                             .threads(threads)
                             .run();
    EXPECT_TRUE(r.ok()) << r.message;
    return bytes_of(r.outputs.at("model") + "/model.safetensors");
  };
  const std::string one = weights(1, false);
  EXPECT_EQ(one, weights(8, false));
  EXPECT_EQ(one, weights(2, true));
}

// The projections are trained, so they are part of the state.
TEST(DistillHidden, GoesOnAfterACancelledRunToTheSameBytes) {
  const std::string student = tiny_model(1), teacher = wide_teacher();
  const auto step = [&] { return distill(student, teacher).param("projection", "learned").param("steps", 8); };
  const StepResult whole = step().run();
  ASSERT_TRUE(whole.ok()) << whole.message;
  for (const std::uint64_t poll : {4U, 9U}) {
    const std::string folder = temporary_folder();
    ASSERT_EQ(step().checkpoint(folder).cancel_at_poll(poll).run().code, FETTLE_CANCELLED) << poll;
    const StepResult resumed = step().checkpoint(folder).run();
    ASSERT_TRUE(resumed.ok()) << resumed.message;
    ASSERT_FALSE(resumed.log.empty());
    EXPECT_TRUE(resumed.log[0].text.starts_with("going on after step ")) << resumed.log[0].text;
    EXPECT_EQ(bytes_of(resumed.outputs.at("model") + "/model.safetensors"),
              bytes_of(whole.outputs.at("model") + "/model.safetensors"));
    EXPECT_EQ(resumed.value("hidden_loss"), whole.value("hidden_loss"));
  }
}

TEST(DistillHidden, RefusesWidthsThatDiffer) {
  const StepResult r = distill(tiny_model(1), wide_teacher()).run();
  EXPECT_EQ(r.message,
            "the student is 32 wide, the teacher 48, so their streams cannot be compared as they are; use 'learned'");
  EXPECT_EQ(r.where, "projection");
}

TEST(DistillHidden, NeedsTheTeacherItself) {
  const StepResult r = Step("distill_hidden", "distill.hidden")
                           .input("student", "model", tiny_model(1))
                           .input("data", "tokens", saved(tiny_tokens()))
                           .run();
  EXPECT_EQ(r.message, "connect port 'teacher': targets do not hold what lies inside it");
}

TEST(DistillHidden, TakesTheLayersThatItIsTold) {
  EXPECT_TRUE(
      distill(tiny_model(1), tiny_teacher()).param("steps", 1).param("layers", {{"0", 0}, {"2", 3}}).run().ok());
  EXPECT_EQ(distill(tiny_model(1), tiny_teacher()).param("layers", {{"5", 1}}).run().message,
            "'5' is no layer of the student, which has 0 (the embedding) to 2");
}

}  // namespace
}  // namespace fettle::test
