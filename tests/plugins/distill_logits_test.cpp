// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/mask.h"
#include "fettle_kit/eval/compare.h"
#include "fettle_kit/io/checkpoint.h"

#include "plugins/distillation.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <utility>

namespace fettle::test {
namespace {

using namespace fettle::kit;

/// Eight steps of one batch each, in f32.
Step distill(const std::string& student, const std::optional<std::string>& teacher = tiny_teacher(),
             const TokenSet& data = tiny_tokens()) {
  Step step("distill_logits", "distill.logits");
  step.input("student", "model", student, {}, "sha256:student").input("data", "tokens", saved(data));
  if (teacher) step.input("teacher", "model", *teacher, {}, "sha256:teacher");
  step.param("precision", "f32").param("steps", 8).param("batch", 4).param("micro_batch", 2).param("lr", 3e-3);
  return step;
}

/// KL(teacher || student) as eval.compare measures it.
double measured_kl(const std::string& student, const std::string& teacher, const TokenSet& tokens) {
  const auto q = Decoder::open(*Weights::open(student)), p = Decoder::open(*Weights::open(teacher));
  return compare(*q, *p, tokens)->kl.value;
}

std::string weights_of(const StepResult& r) { return bytes_of(r.outputs.at("model") + "/model.safetensors"); }

TEST(DistillLogits, TheStudentComesCloserToTheTeacher) {
  const std::string student = tiny_model(1), teacher = tiny_teacher();
  for (const char* precision : {"f32", "bf16"}) {
    const StepResult r = distill(student, teacher).param("precision", precision).param("steps", 40).run();
    ASSERT_TRUE(r.ok()) << r.message;
    EXPECT_LT(measured_kl(r.outputs.at("model"), teacher, tiny_tokens()),
              0.7 * measured_kl(student, teacher, tiny_tokens()))
        << precision;
    EXPECT_EQ(r.series.at("loss").size(), 40u);
    EXPECT_EQ(r.value("steps"), 40);
    EXPECT_EQ(r.value("tokens"), 40 * 4 * 16);
    EXPECT_THAT(r.warnings(), testing::IsEmpty());
  }
}

TEST(DistillLogits, TheFirstLossIsWhatCompareMeasures) {
  const std::string student = tiny_model(1), teacher = tiny_teacher();
  const TokenSet tokens = tiny_tokens(4);
  const StepResult r =
      distill(student, teacher, tokens).param("steps", 1).input("held_out", "tokens", saved(tokens)).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const double kl = measured_kl(student, teacher, tokens);
  EXPECT_NEAR(r.value("first_loss"), kl, 1e-5 * kl);
  EXPECT_NEAR(r.value("held_out_first"), kl, 1e-5 * kl);
  EXPECT_NEAR(r.value("held_out_loss"), measured_kl(r.outputs.at("model"), teacher, tokens), 1e-5 * kl);
}

TEST(DistillLogits, AStudentThatIsItsTeacherKeepsItsWeightsBitForBit) {
  const std::string model = tiny_model(3);
  for (const char* loss : {"forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "taid"}) {
    for (const char* precision : {"f32", "bf16"}) {
      const StepResult r =
          distill(model, model).param("loss", loss).param("precision", precision).param("weight_decay", 0).run();
      ASSERT_TRUE(r.ok()) << r.message;
      const auto before = Checkpoint::open(model), after = Checkpoint::open(r.outputs.at("model"));
      for (const TensorView* t : before->tensors()) {
        const TensorView& found = **after->require(t->name);
        ASSERT_EQ(found.dtype, t->dtype);
        EXPECT_TRUE(std::ranges::equal(found.bytes, t->bytes)) << loss << ' ' << t->name;
      }
      EXPECT_EQ(r.value("loss"), 0);
    }
  }
}

TEST(DistillLogits, SameBytesForAnyNumberOfThreadsAndWithCheckpointing) {
  const std::string student = tiny_model(1), teacher = tiny_teacher();
  for (const char* precision : {"f32", "bf16"}) {
    const std::string one = weights_of(distill(student, teacher).param("precision", precision).threads(1).run());
    EXPECT_EQ(one, weights_of(distill(student, teacher).param("precision", precision).threads(8).run()));
    EXPECT_EQ(one,
              weights_of(distill(student, teacher).param("precision", precision).param("checkpointing", true).run()));
  }
}

TEST(DistillLogits, GoesOnAfterACancelledRunToTheSameBytes) {
  const std::string student = tiny_model(1), teacher = tiny_teacher();
  const auto step = [&] {
    return distill(student, teacher).input("held_out", "tokens", saved(tiny_tokens(4, 11))).param("evaluate_every", 2);
  };
  const StepResult whole = step().run();
  ASSERT_TRUE(whole.ok()) << whole.message;
  for (const std::uint64_t poll : {6U, 9U, 15U}) {
    const std::string folder = temporary_folder();
    ASSERT_EQ(step().checkpoint(folder).cancel_at_poll(poll).run().code, FETTLE_CANCELLED) << poll;
    const StepResult resumed = step().checkpoint(folder).run();
    ASSERT_TRUE(resumed.ok()) << resumed.message;
    ASSERT_FALSE(resumed.log.empty());
    EXPECT_TRUE(resumed.log[0].text.starts_with("going on after step ")) << resumed.log[0].text;
    EXPECT_EQ(weights_of(resumed), weights_of(whole));
    EXPECT_EQ(resumed.series, whole.series);
  }
}

TEST(DistillLogits, TheSplitIntoMicroBatchesChangesOnlyRoundings) {
  const std::string student = tiny_model(1), teacher = tiny_teacher();
  const StepResult whole = distill(student, teacher).param("micro_batch", 4).run();
  const StepResult single = distill(student, teacher).param("micro_batch", 1).run();
  EXPECT_NEAR(whole.value("loss"), single.value("loss"), 1e-5 * whole.value("loss"));
}

TEST(DistillLogits, LearnsFromATeacherOfAnotherFamily) {
  Json config = tiny_llama_config();
  config["architectures"] = {"Qwen2ForCausalLM"};
  config["model_type"] = "qwen2";
  config["hidden_size"] = 48;
  config["head_dim"] = 12;
  std::vector<TensorSpec> tensors = tiny_tensors(config);
  for (int layer = 0; layer < 2; ++layer)
    for (const auto& [name, rows] : {std::pair{"q", 48}, std::pair{"k", 24}, std::pair{"v", 24}})
      tensors.push_back(
          {"model.layers." + std::to_string(layer) + ".self_attn." + name + "_proj.bias", DType::f32, {rows}});
  const std::string teacher = temporary_folder(), student = tiny_model(1);
  ASSERT_TRUE(write_tiny_model(teacher, config, tensors, 5).ok());
  const StepResult r = distill(student, teacher).param("steps", 40).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_LT(measured_kl(r.outputs.at("model"), teacher, tiny_tokens()),
            0.8 * measured_kl(student, teacher, tiny_tokens()));
}

/// Targets of the teacher for the data, by distill.targets.
std::string targets(const std::string& teacher, const std::string& content, double temperature = 1, int k = 48) {
  const StepResult r = Step("distill_targets", "distill.targets")
                           .input("teacher", "model", teacher, {}, "sha256:teacher")
                           .input("data", "tokens", saved(tiny_tokens()))
                           .param("content", content)
                           .param("k", k)
                           .param("temperature", temperature)
                           .run();
  EXPECT_TRUE(r.ok()) << r.message;
  return r.outputs.at("targets");
}

TEST(DistillLogits, CachedTargetsTeachAsTheTeacherDoes) {
  const std::string student = tiny_model(1), teacher = tiny_teacher();
  const StepResult live = distill(student, teacher).param("temperature", 2).run();
  for (const char* content : {"hidden", "top"}) {  // k is the whole vocabulary
    const StepResult cached = distill(student, std::nullopt)
                                  .input("targets", "targets", targets(teacher, content, 2))
                                  .param("temperature", 2)
                                  .run();
    ASSERT_TRUE(cached.ok()) << cached.message;
    EXPECT_NEAR(cached.value("first_loss"), live.value("first_loss"), 2e-3 * live.value("first_loss")) << content;
    EXPECT_NEAR(cached.value("loss"), live.value("loss"), 5e-3 * live.value("loss")) << content;
  }
}

TEST(DistillLogits, RandomDrawsTeachToo) {
  const std::string student = tiny_model(1), teacher = tiny_teacher();
  const StepResult r =
      distill(student, std::nullopt).input("targets", "targets", targets(teacher, "samples")).param("steps", 60).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_LT(measured_kl(r.outputs.at("model"), teacher, tiny_tokens()),
            0.8 * measured_kl(student, teacher, tiny_tokens()));
}

TEST(DistillLogits, CrossEntropyAloneNeedsNoTeacher) {
  const StepResult r = distill(tiny_model(1), std::nullopt).param("ce", 1).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_LT(r.value("loss"), r.value("first_loss"));
}

TEST(DistillLogits, MaskedWeightsStayZeroAndTheOthersMove) {
  const std::string student = tiny_model(1);
  const StepResult pruned =
      Step("prune_magnitude", "prune.magnitude").input("model", "model", student).param("pattern", "2:4").run();
  ASSERT_TRUE(pruned.ok()) << pruned.message;
  const StepResult r =
      distill(pruned.outputs.at("model")).input("mask", "mask", pruned.outputs.at("mask")).param("steps", 30).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto masks = read_masks(pruned.outputs.at("mask"));
  const auto before = Checkpoint::open(pruned.outputs.at("model")), after = Checkpoint::open(r.outputs.at("model"));
  for (const auto& [name, mask] : *masks) {
    std::vector<float> old_values(static_cast<std::size_t>(mask.rows() * mask.cols())), values(old_values.size());
    info(DType::f32).to_f32((*before->require(name))->bytes.data(), old_values.data(), values.size());
    info(DType::f32).to_f32((*after->require(name))->bytes.data(), values.data(), values.size());
    for (std::int64_t i = 0; i < mask.rows(); ++i)
      for (std::int64_t j = 0; j < mask.cols(); ++j)
        ASSERT_TRUE(mask.kept(i, j) || values[static_cast<std::size_t>(i * mask.cols() + j)] == 0.0F) << name;
    EXPECT_NE(values, old_values) << name;
  }
}

TEST(DistillLogits, FrozenTensorsStayAsTheyAre) {
  const std::string student = tiny_model(1);
  const StepResult r = distill(student).param("frozen", {"*embed*", "*.layers.0.*"}).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto before = Checkpoint::open(student), after = Checkpoint::open(r.outputs.at("model"));
  for (const TensorView* t : before->tensors()) {
    const bool frozen = t->name.find("embed") != t->name.npos || t->name.find("layers.0.") != t->name.npos;
    EXPECT_EQ(std::ranges::equal((*after->require(t->name))->bytes, t->bytes), frozen) << t->name;
  }
}

TEST(DistillLogits, AsksForSomebodyToLearnFrom) {
  const StepResult r = distill(tiny_model(1), std::nullopt).run();
  EXPECT_EQ(r.message, "connect port 'teacher' or port 'targets': there is nobody to learn from");
  EXPECT_EQ(r.where, "teacher");
}

TEST(DistillLogits, WarnsOfATeacherThatIsSmaller) {
  const StepResult r = distill(tiny_teacher(), tiny_model(1)).param("steps", 1).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_THAT(r.warnings(),
              testing::ElementsAre("the teacher is smaller than the student: 21,664 and 40,160 parameters; "
                                   "are they swapped?"));
}

TEST(DistillLogits, WarnsOfALearningRateOf0) {
  const StepResult r = distill(tiny_model(1)).param("lr", 0).param("min_lr", 0).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_THAT(r.warnings(), testing::ElementsAre("the learning rate is 0: nothing will change"));
}

TEST(DistillLogits, WarnsOfALearningRateFarTooHigh) {
  const StepResult r = distill(tiny_model(1)).param("lr", 3).param("steps", 1).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_THAT(r.warnings(),
              testing::ElementsAre("a learning rate of 3 is far above what AdamW follows (1e-5 to 1e-2)"));
}

TEST(DistillLogits, RefusesTokensNobodyCanRead) {
  EXPECT_EQ(distill(tiny_model(1), tiny_teacher(), {{}, 16, "sha256:0", true}).run().message, "there are no sequences");
  EXPECT_EQ(distill(tiny_model(1), tiny_teacher(), {{1, 2, 3, 48}, 4, "sha256:0", true}).run().message,
            "id 48 is outside the student's vocabulary of 48; cut the text with the tokenizer of this model");
}

TEST(DistillLogits, RefusesATeacherWithASmallerVocabularyForReverseKl) {
  Json config = tiny_llama_config();
  config["vocab_size"] = 64;
  const std::string student = tiny_model(1, config);
  EXPECT_EQ(distill(student, tiny_teacher()).param("loss", "reverse_kl").run().message,
            "'reverse_kl' needs a teacher with all tokens of the student, but its vocabulary of 48 is smaller than the "
            "student's of 64; use 'forward_kl'");
  EXPECT_TRUE(distill(student, tiny_teacher()).run().ok());
  EXPECT_TRUE(distill(tiny_model(1), student).run().ok()) << "more tokens than the student has are cut off";
}

TEST(DistillLogits, RefusesTargetsThatDoNotFit) {
  const std::string student = tiny_model(1), teacher = tiny_teacher();
  const auto message = [&](const std::string& found, const TokenSet& data, const std::string& loss = "forward_kl") {
    return distill(student, std::nullopt, data).input("targets", "targets", found).param("loss", loss).run().message;
  };
  EXPECT_EQ(message(targets(teacher, "hidden"), tiny_tokens(8, 5)),
            "the targets were made from other tokens than those of port 'data'; make them again with distill.targets");
  EXPECT_EQ(
      message(targets(teacher, "top", 2), tiny_tokens()),
      "temperature is 1, but the targets were made at 2, and what they leave out cannot be converted; use that, or "
      "targets with 'content: hidden'");
  EXPECT_EQ(message(targets(teacher, "samples"), tiny_tokens(), "jsd"),
            "random draws know of no loss but 'forward_kl'; use other targets");
  EXPECT_EQ(message(targets(teacher, "top"), tiny_tokens(), "taid"),
            "'taid' needs all logits of the teacher; use targets with 'content: hidden'");
  EXPECT_EQ(Step("distill_logits", "distill.logits")
                .input("student", "model", student)
                .input("teacher", "model", teacher, {}, "sha256:other")
                .input("data", "tokens", saved(tiny_tokens()))
                .input("targets", "targets", targets(teacher, "hidden"))
                .run()
                .message,
            "the targets were made by the teacher 'sha256:teacher', port 'teacher' holds 'sha256:other'");
}

/// Puts a NaN into the first value of a tensor.
void spoil(const std::string& model, const char* tensor) {
  const std::string path = model + "/model.safetensors";
  std::streamoff at = 0;
  {
    const auto file = SafetensorsReader::open(path);
    at = file->find(tensor)->bytes.data() - file->file().bytes().data();
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(at).write(reinterpret_cast<const char*>(&nan), 4).flush();
}

TEST(DistillLogits, AWeightThatIsNaNIsNamed) {
  const std::string student = tiny_model(1);
  spoil(student, "model.layers.1.mlp.up_proj.weight");
  const StepResult r = distill(student).run();
  EXPECT_EQ(r.code, FETTLE_INVALID_ARGUMENT);
  EXPECT_EQ(r.message,
            "step 1 of 8: the loss is not a finite number; first bad tensor: weights of "
            "'model.layers.1.mlp.up_proj.weight'; no earlier weights are kept; lower 'lr', lengthen 'warmup', or check "
            "the data and the model for NaN");
}

TEST(DistillLogits, AWeightOfTheTeacherThatIsNaNIsNamed) {
  const std::string teacher = tiny_teacher();
  spoil(teacher, "model.layers.2.mlp.down_proj.weight");
  const std::string folder = temporary_folder();
  EXPECT_EQ(distill(tiny_model(1), teacher).checkpoint(folder).run().message,
            "step 1 of 8: the loss is not a finite number; first bad tensor: weights of the teacher's "
            "'model.layers.2.mlp.down_proj.weight'; the weights after step 0 are kept in '" +
                folder + "/state.safetensors'; lower 'lr', lengthen 'warmup', or check the data and the model for NaN");
}

/// Token 47 stands in the last sequence alone, so the teacher's spoilt row of it is met late.
TEST(DistillLogits, KeepsTheLastGoodWeightsWhenTheLossBecomesNaN) {
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 8 * 16; ++i) ids.push_back(i == 7 * 16 ? 47 : i * 7 % 40);
  const TokenSet data(ids, 16, "sha256:0", true);
  const std::string student = tiny_model(1), teacher = tiny_teacher(), folder = temporary_folder();
  std::fstream file(teacher + "/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  {
    const auto reader = SafetensorsReader::open(teacher + "/model.safetensors");
    const auto* embedding = reader->find("model.embed_tokens.weight");
    const float nan = std::numeric_limits<float>::quiet_NaN();
    file.seekp(embedding->bytes.data() - reader->file().bytes().data() + 47 * 32 * 4);
    file.write(reinterpret_cast<const char*>(&nan), 4).flush();
  }
  const StepResult r = distill(student, teacher, data).param("batch", 1).checkpoint(folder).run();
  ASSERT_THAT(r.message, testing::MatchesRegex("step [2-8] of 8: the loss is not a finite number; first bad tensor: "
                                               "weights of the teacher's 'model.embed_tokens.weight'; the weights "
                                               "after step [1-7] are kept in '.*/state.safetensors'; lower 'lr', .*"));
  EXPECT_TRUE(std::filesystem::exists(folder + "/state.safetensors"));
}

TEST(DistillLogits, StopsWhenCancelled) {
  EXPECT_EQ(distill(tiny_model(1)).cancel_at_poll(3).run().code, FETTLE_CANCELLED);
}

TEST(DistillLogits, StopsEarlyAndReturnsTheBestWeights) {
  // So fast that the held-out loss soon rises.
  const StepResult r = distill(tiny_model(1))
                           .input("held_out", "tokens", saved(tiny_tokens(4, 11)))
                           .param("steps", 60)
                           .param("lr", 0.05)
                           .param("evaluate_every", 2)
                           .param("patience", 2)
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_LT(r.value("steps"), 60);
  EXPECT_NEAR(measured_kl(r.outputs.at("model"), tiny_teacher(), tiny_tokens(4, 11)), r.value("held_out_loss"),
              1e-5 * r.value("held_out_loss"));
}

TEST(DistillLogits, EstimatesBothModelsAndForetellsTheStudents) {
  const Attributes student{{"parameters", "1000000"}, {"hidden", "256"}, {"ffn", "768"},     {"vocab", "1024"},
                           {"layers", "4"},           {"heads", "4"},    {"weights", "f16"}, {"tokenizer", "sha256:1"}};
  Step step("distill_logits", "distill.logits");
  step.input("student", "model", "", student)
      .input("teacher", "model", "", student)
      .input("data", "tokens", "", {{"sequences", "100"}, {"length", "100"}});
  const StepResult r = step.estimate();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.foretold.at("model").at("weights"), "f16");
  EXPECT_EQ(r.foretold.at("model").at("tokenizer"), "sha256:1");
  EXPECT_GT(r.estimate.memory_bytes, 12'000'000u);
  const StepResult alone = Step("distill_logits", "distill.logits")
                               .input("student", "model", "", student)
                               .input("data", "tokens", "", {{"sequences", "100"}, {"length", "100"}})
                               .param("ce", 1)
                               .estimate();
  EXPECT_NEAR(r.estimate.flops / alone.estimate.flops, 4.0 / 3, 0.01);
}

}  // namespace
}  // namespace fettle::test
