// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/grid.h"
#include "fettle_kit/eval/compare.h"
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/kernels/gemm.h"
#include "fettle_kit/model/decoder.h"
#include "fettle_kit/model/network.h"

#include "plugins/distill/qat/as_exported.h"
#include "plugins/distill/qat/exports.h"
#include "plugins/distillation.h"
#include "plugins/prose.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fettle::test {
namespace {

using namespace fettle::kit;
using distill_qat::Export;

using ParamList = std::vector<std::pair<const char*, nlohmann::ordered_json>>;

Step with(Step step, const ParamList& params) {
  for (const auto& [name, value] : params) step.param(name, value);
  return step;
}

/// Four steps on the prose model in f32, with itself as the teacher.
Step qat(const std::string& student = prose_model()) {
  Step step("distill_qat", "distill.qat");
  step.input("student", "model", student, {}, "sha256:student")
      .input("teacher", "model", prose_model(), {}, "sha256:teacher")
      .input("data", "tokens", prose_tokens(8));
  step.param("precision", "f32").param("steps", 4).param("batch", 2).param("micro_batch", 2).param("lr", 1e-4);
  return step;
}

/// How a scheme of distill.qat is written, and how the technique that exports it.
struct Scheme {
  const char* name;
  ParamList training;
  std::string plugin, technique;
  ParamList export_;
  bool elsewhere = false;  ///< training starts from another grid than that of the untrained model's file

  std::string exported(const std::string& model) const {
    Step step(plugin, technique);
    step.input("model", "model", model, {{"layout", "hf"}});
    const StepResult r = with(step, export_).run();
    EXPECT_TRUE(r.ok()) << r.message;
    return r.outputs.at("model");
  }
};

Scheme gguf(const char* name, const char* type, const char* dtype = "same") {
  return {
      name, {{"scheme", "gguf"}, {"type", type}, {"dtype", dtype}}, "quantize_gguf", "quantize.gguf", {{"type", type}},
      false};
}
Scheme integer(const char* name, const ParamList& grid, const char* dtype = "same") {
  ParamList training{{"scheme", "integer"}, {"dtype", dtype}};
  training.insert(training.end(), grid.begin(), grid.end());
  // Scales have the type of the checkpoint, and that of the untrained model is bf16.
  return {name, training, "quantize_rtn", "quantize.rtn", grid, dtype == std::string("f32")};
}
Scheme floats(const char* name, const std::string& scheme, const ParamList& scales = {}, const char* dtype = "same") {
  ParamList training{{"scheme", scheme}, {"dtype", dtype}};
  training.insert(training.end(), scales.begin(), scales.end());
  ParamList exporting = scales;
  exporting.emplace_back("activations", "none");  // training sees weights alone
  return {name, training, "quantize_" + scheme, "quantize." + scheme, exporting, dtype == std::string("f32")};
}
/// Learned steps are told to nobody but the training.
Scheme learned(const char* name, const ParamList& grid) {
  Scheme scheme = integer(name, grid);
  scheme.training.emplace_back("learn_steps", true);
  scheme.elsewhere = true;
  return scheme;
}

const std::vector<Scheme>& schemes() {
  static const std::vector<Scheme> all{
      gguf("Q4_0", "Q4_0"),
      gguf("Q4_0_of_f32", "Q4_0", "f32"),
      gguf("Q5_0_of_f16", "Q5_0", "f16"),
      gguf("Q8_0", "Q8_0"),
      gguf("Q4_K_M", "Q4_K_M"),
      gguf("F16", "F16"),
      integer("four_bits_a_row", {{"bits", 4}, {"sharing", "channel"}}),
      integer("four_bits_a_row_of_f32", {{"bits", 4}, {"sharing", "channel"}}, "f32"),
      integer("four_bits_in_groups", {{"bits", 4}, {"group_size", 128}, {"format", "gptq"}}),
      integer("three_bits_asymmetric", {{"bits", 3}, {"group_size", 64}, {"symmetric", false}, {"format", "gptq_v2"}}),
      integer("two_bits_searched", {{"bits", 2}, {"group_size", 32}, {"search", 2.4}, {"format", "gptq"}}),
      integer("eight_bits_a_matrix", {{"bits", 8}, {"sharing", "tensor"}}),
      learned("two_bits_learned", {{"bits", 2}, {"group_size", 32}, {"format", "gptq"}}),
      learned("four_bits_a_row_learned", {{"bits", 4}, {"sharing", "channel"}}),
      floats("fp8", "fp8"),
      floats("fp8_of_f32", "fp8", {}, "f32"),
      floats("nvfp4", "nvfp4"),
      floats("nvfp4_plain", "nvfp4", {{"scales", "plain"}}),
      floats("mxfp4", "mxfp4"),
      integer("mixed_bits", {{"bits", 4}, {"bits_for", {{"*down_proj*", 8}}}, {"ignore", {"*.layers.0.*"}}}),
  };
  return all;
}

double measured_kl(const std::string& model, const TokenSet& tokens) {
  const auto q = Decoder::open(*Weights::open(model)), p = Decoder::open(*Weights::open(prose_model()));
  return compare(*q, *p, tokens)->kl.value;
}

std::string weights_of(const StepResult& r) {
  EXPECT_TRUE(r.ok()) << r.message;
  return file_bytes(r.outputs.at("model") + "/model.safetensors");
}

std::vector<float> floats(Backend& backend, const Array& x) {
  std::vector<float> values(static_cast<std::size_t>(x.size()));
  backend.download(values, x);
  return values;
}

/// A network in training on `model`, as distill.qat sets it up.
Network in_training(Backend& backend, const std::string& model, const distill_qat::Params& p, DType stored) {
  Network network = *Network::open(backend, *Weights::open(model), {});
  std::vector<std::string> warnings;
  const auto checkpoint = Checkpoint::open(model);
  const auto exports = plan_exports(p, *checkpoint, network, stored, warnings);
  EXPECT_TRUE(exports.ok()) << exports.error().message();
  const auto shown = show_exports(network, *exports, stored);
  EXPECT_TRUE(shown.ok()) << shown.error().message();
  return network;
}

class QatScheme : public testing::TestWithParam<Scheme> {};

TEST_P(QatScheme, TrainsOnExactlyWhatTheFileWillHold) {
  const Scheme& scheme = GetParam();
  const std::string held = prose_tokens(2);
  const StepResult r = with(qat().input("held_out", "tokens", held), scheme.training).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const TokenSet tokens = *TokenSet::open(held);
  const std::string file = scheme.exported(r.outputs.at("model"));

  // Before the first step it is what quantizing alone costs, after the last what the file costs.
  const double ptq = measured_kl(scheme.exported(prose_model()), tokens), kl = measured_kl(file, tokens);
  if (!scheme.elsewhere) {
    EXPECT_NEAR(r.value("ptq_kl"), ptq, 1e-5 * ptq + 1e-9);
    EXPECT_NEAR(r.value("held_out_first"), ptq, 1e-5 * ptq + 1e-9);
  }
  EXPECT_NEAR(r.value("kl"), kl, 1e-5 * kl + 1e-9);

  // The numbers of every tensor, and the logits, are those of the file, bit for bit.
  distill_qat::Params p;
  ASSERT_EQ(scheme.training[0].first, std::string("scheme"));
  p.scheme = scheme.training[0].second;
  for (const auto& [name, value] : scheme.training) {
    const std::string key = name;
    if (key == "type") p.type = value;
    if (key == "scales") p.scales = value;
    if (key == "bits") p.bits = value;
    if (key == "sharing") p.sharing = value;
    if (key == "group_size") p.group_size = value;
    if (key == "symmetric") p.symmetric = value;
    if (key == "format") p.format = value;
    if (key == "search") p.search = value;
    if (key == "ignore") p.ignore = value;
    if (key == "bits_for")
      for (const auto& [glob, bits] : value.items()) p.bits_for.emplace_back(glob, bits);
  }
  const auto backend = make_cpu_backend();
  const auto model = Checkpoint::open(r.outputs.at("model"));
  Network network = in_training(*backend, r.outputs.at("model"), p, weight_type(*model));
  const Network exported = *Network::open(*backend, *Weights::open(file), {});
  for (std::size_t i = 0; i < network.parameters().size(); ++i)
    ASSERT_EQ(floats(*backend, network.parameters()[i].used), floats(*backend, exported.parameters()[i].value))
        << network.parameters()[i].name;

  const Batch batch{1, 48};
  const auto ids = tokens.ids().first(48);
  ASSERT_TRUE(network.forward(ids, batch).ok());
  const std::int64_t vocab = network.config().vocab, hidden = network.config().hidden;
  std::vector<float> logits(static_cast<std::size_t>(48 * vocab)), expected(logits.size());
  const Array computed = backend->allocate(48, vocab);
  backend->logits(computed, network.hidden(), network.head(), network.config().logit_softcap, Precision::real);
  const auto decoder = Decoder::open(*Weights::open(file));
  Rows x(48, hidden);
  ASSERT_TRUE(decoder->forward(x, ids, batch).ok());
  decoder->logits(MutMatrix(expected.data(), 48, vocab), x);
  EXPECT_EQ(floats(*backend, computed), expected);
}

INSTANTIATE_TEST_SUITE_P(Schemes, QatScheme, testing::ValuesIn(schemes()),
                         [](const auto& of) { return std::string(of.param.name); });

TEST(DistillQat, TheFirstLossIsWhatQuantizingAloneCosts) {
  const std::string data = prose_tokens(2);
  Step step("distill_qat", "distill.qat");
  const StepResult r = step.input("student", "model", prose_model())
                           .input("teacher", "model", prose_model())
                           .input("data", "tokens", data)
                           .param("precision", "f32")
                           .param("steps", 1)
                           .param("batch", 2)
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  const double ptq = measured_kl(gguf("", "Q4_0").exported(prose_model()), *TokenSet::open(data));
  EXPECT_NEAR(r.value("first_loss"), ptq, 1e-5 * ptq);
}

TEST(DistillQat, LosesLessThanQuantizingAlone) {
  const StepResult r = qat()
                           .input("held_out", "tokens", prose_tokens(8))
                           .param("scheme", "integer")
                           .param("bits", 2)
                           .param("format", "gptq")
                           .param("precision", "bf16")
                           .param("steps", 30)
                           .param("batch", 4)
                           .param("lr", 3e-4)
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_LT(r.value("kl"), 0.6 * r.value("ptq_kl"));
  EXPECT_EQ(r.value("quantized_tensors"), 28);
}

TEST(DistillQat, CrossEntropyToTheTextNeedsNoTeacher) {
  Step step("distill_qat", "distill.qat");
  const StepResult r = step.input("student", "model", prose_model())
                           .input("data", "tokens", prose_tokens(4))
                           .param("ce", 1)
                           .param("steps", 10)
                           .param("batch", 4)
                           .param("lr", 1e-3)
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_LT(r.value("loss"), r.value("first_loss"));
}

TEST(DistillQat, ALearningRateOf0ChangesNothing) {
  for (const char* scheme : {"gguf", "integer"}) {
    const StepResult r = qat().param("scheme", scheme).param("lr", 0).param("min_lr", 0).run();
    ASSERT_TRUE(r.ok()) << r.message;
    EXPECT_THAT(r.warnings(), testing::ElementsAre("the learning rate is 0: nothing will change"));
    const auto before = Checkpoint::open(prose_model()), after = Checkpoint::open(r.outputs.at("model"));
    for (const TensorView* t : before->tensors())
      EXPECT_TRUE(std::ranges::equal((*after->require(t->name))->bytes, t->bytes)) << scheme << ' ' << t->name;
  }
}

TEST(DistillQat, WithoutAQuantizerIsOrdinaryDistillationBitForBit) {
  const std::string student = tiny_model(1), teacher = tiny_teacher(), data = saved(tiny_tokens());
  for (const char* precision : {"f32", "bf16"}) {
    const auto trained = [&](Step step) {
      return weights_of(step.input("student", "model", student)
                            .input("teacher", "model", teacher)
                            .input("data", "tokens", data)
                            .param("precision", precision)
                            .param("steps", 8)
                            .param("batch", 4)
                            .param("lr", 3e-3)
                            .param("min_lr", 1e-5)
                            .param("weight_decay", 0.1)
                            .run());
    };
    EXPECT_EQ(trained(Step("distill_qat", "distill.qat").param("scheme", "none")),
              trained(Step("distill_logits", "distill.logits")))
        << precision;
  }
}

TEST(DistillQat, SameBytesForAnyNumberOfThreadsAndWithCheckpointing) {
  for (const char* scheme : {"gguf", "integer"})
    for (const char* precision : {"f32", "bf16"}) {
      const auto step = [&] { return qat().param("scheme", scheme).param("precision", precision).param("steps", 3); };
      const std::string one = weights_of(step().threads(1).run());
      EXPECT_EQ(one, weights_of(step().threads(8).run())) << scheme << ' ' << precision;
      EXPECT_EQ(one, weights_of(step().param("checkpointing", true).run())) << scheme << ' ' << precision;
    }
}

TEST(DistillQat, GoesOnWhereItWasStopped) {
  const auto step = [] {
    return qat().param("scheme", "integer").param("bits", 3).param("format", "gptq").param("save_every", 1);
  };
  const std::string folder = temporary_folder();
  ASSERT_EQ(step().checkpoint(folder).cancel_at_poll(3).run().code, FETTLE_CANCELLED);
  ASSERT_TRUE(std::filesystem::exists(folder + "/state.safetensors"));
  EXPECT_EQ(weights_of(step().checkpoint(folder).run()), weights_of(step().run()));
}

/// Of a state of another grid nothing is taken.
TEST(DistillQat, DoesNotGoOnWithTheStateOfAnotherScheme) {
  const std::string folder = temporary_folder();
  const auto step = [&](int bits) {
    return qat().param("scheme", "integer").param("bits", bits).param("save_every", 1).checkpoint(folder);
  };
  ASSERT_EQ(step(8).cancel_at_poll(3).run().code, FETTLE_CANCELLED);
  EXPECT_THAT(step(4).run().warnings(), testing::ElementsAre(testing::StartsWith("the saved state of this training is "
                                                                                 "not used")));
}

/// Codes of a matrix of f32 weights, four bits a row.
CodedMatrix codes_of(const std::string& model, const std::string& name) {
  const auto checkpoint = Checkpoint::open(model);
  const TensorView& t = **checkpoint->require(name);
  std::vector<float> w(static_cast<std::size_t>(t.elements()));
  info(t.dtype).to_f32(t.bytes.data(), w.data(), w.size());
  GridScheme scheme;
  scheme.sharing = Sharing::channel;
  return round_to_grid(ConstMatrix(w.data(), t.rows(), t.cols()), scheme);
}

TEST(DistillQat, ATinyStepMovesOnlyCodesThatWereAboutToChange) {
  const double rate = 1e-6;
  const StepResult r = qat()
                           .param("scheme", "integer")
                           .param("sharing", "channel")
                           .param("dtype", "f32")
                           .param("steps", 1)
                           .param("lr", rate)
                           .param("warmup", 0)
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  const std::string name = "model.layers.2.mlp.gate_proj.weight";
  const CodedMatrix before = codes_of(prose_model(), name), after = codes_of(r.outputs.at("model"), name);
  const auto checkpoint = Checkpoint::open(prose_model());
  const TensorView& t = **checkpoint->require(name);
  std::vector<float> w(static_cast<std::size_t>(t.elements()));
  info(t.dtype).to_f32(t.bytes.data(), w.data(), w.size());
  std::int64_t moved = 0;
  for (std::int64_t i = 0; i < t.rows(); ++i)
    for (std::int64_t j = 0; j < t.cols(); ++j) {
      const auto at = static_cast<std::size_t>(i * t.cols() + j);
      if (before.codes[at] == after.codes[at]) continue;
      ++moved;
      // AdamW's first step is at most the rate; so moves the weight, and 7.5 steps of the scale together as much.
      const double scale = double{before.scales[static_cast<std::size_t>(i)]}, level = double{w[at]} / scale;
      const double from_boundary = std::fabs(level - std::floor(level) - 0.5);
      EXPECT_LT(from_boundary, 2.2 * rate / scale);
    }
  EXPECT_GT(moved, 0);
  EXPECT_LT(moved, t.elements() / 500);
}

/// A matrix [1, 32] whose third weight lies beyond the end of Q4_0's grid.
struct Clipped {
  std::unique_ptr<Backend> backend = make_cpu_backend();
  Array master = backend->allocate(1, 32), gradient = backend->allocate(1, 32), used = backend->allocate(1, 32);
  distill_qat::AsExported as{DType::f32, fake_gguf(DType::q4_0)};
  Clipped() {
    std::vector<float> w(32, 0.5F);
    w[0] = -8, w[2] = 7.8F;
    backend->upload(master, w);
    backend->fill(gradient, 1);
  }
};

TEST(AsExported, TheGradientOfClippedWeightsIsZeroAndTheMasterStays) {
  Clipped c;
  const std::vector<float> before = floats(*c.backend, c.master);
  c.as.apply(*c.backend, c.used, c.master);
  c.as.filter_gradient(*c.backend, c.gradient, c.master);
  std::vector<float> expected(32, 1.0F);
  expected[2] = 0;
  EXPECT_EQ(floats(*c.backend, c.gradient), expected);
  EXPECT_EQ(floats(*c.backend, c.master), before);
  EXPECT_EQ(floats(*c.backend, c.used)[2], 7);
}

TEST(AsExported, ShowsWhatIsNotFiniteAsItIs) {
  Clipped c;
  std::vector<float> w(32, 1.0F);
  w[5] = std::numeric_limits<float>::infinity();
  c.backend->upload(c.master, w);
  c.as.apply(*c.backend, c.used, c.master);
  EXPECT_EQ(floats(*c.backend, c.used), w);
}

/// A row of four bits whose bound is set to 7.5, so that a step is 1.
struct OneRow {
  std::unique_ptr<Backend> backend = make_cpu_backend();
  Array master = backend->allocate(1, 4), gradient = backend->allocate(1, 4);
  std::vector<float> weights{-8, 3.2F, 1, 0.2F};
  std::optional<distill_qat::LearnedRange> range;
  OneRow() {
    backend->upload(master, weights);
    GridScheme scheme;
    scheme.sharing = Sharing::channel;
    range.emplace(*backend, master, scheme);
    backend->upload(range->tensor("").value, std::vector<float>{7.5F});
  }
  std::vector<float> cut() {
    std::vector<float> out(4);
    range->apply(MutMatrix(out.data(), 1, 4), master);
    return out;
  }
};

TEST(LearnedRange, CutsWeightsToTheBoundAndKeepsTheBoundInReach) {
  OneRow row;
  EXPECT_EQ(row.cut(), (std::vector<float>{-7.5F, 3.2F, 1, 0.2F}));
  row.backend->upload(row.range->tensor("").value, std::vector<float>{20});
  EXPECT_EQ(row.cut(), row.weights);
  EXPECT_EQ(floats(*row.backend, row.range->tensor("").value), std::vector<float>{8});
  row.backend->upload(row.range->tensor("").value, std::vector<float>{-1});
  EXPECT_EQ(row.cut(), (std::vector<float>{-0.5F, 0.5F, 0.5F, 0.2F}));
}

// round(w / s) - w / s inside the grid, the end of the grid outside, times what came in; one step is bound / 7.5.
TEST(LearnedRange, HasTheGradientOfLsq) {
  OneRow row;
  std::vector<float> g{1, 2, 3, 4};
  row.range->differentiate(MutMatrix(g.data(), 1, 4), ConstMatrix(row.weights.data(), 1, 4));
  EXPECT_EQ(g, (std::vector<float>{0, 2, 3, 4}));
  const double sum = -8 * 1 + (3 - 3.2) * 2 + 0 * 3 + (0 - 0.2) * 4;
  EXPECT_NEAR(floats(*row.backend, row.range->tensor("").gradient)[0], sum / 7.5 / std::sqrt(4 * 7.0), 1e-6);
}

TEST(DistillQat, RefusesWhatDoesNotFitTogether) {
  const auto message = [](const ParamList& params) { return with(qat(), params).validate().message; };
  EXPECT_EQ(message({{"scheme", "integer"}, {"type", "Q4_0"}}), "'type' is of scheme gguf, but the scheme is integer");
  EXPECT_EQ(message({{"type", "F32"}}), "F32 rounds nothing; use scheme: none");
  EXPECT_EQ(message({{"type", "Q2_K_S"}}),
            "Q2_K_S needs an importance matrix, which weights in training do not have; use Q2_K");
  EXPECT_EQ(message({{"type", "IQ2_XS"}}),
            "IQ2_XS needs an importance matrix, which weights in training do not have; use Q2_K");
  EXPECT_THAT(message({{"type", "Q4"}}), testing::StartsWith("unknown type 'Q4'; known are F32, F16, BF16, Q4_0"));
  EXPECT_EQ(message({{"scheme", "integer"}, {"bits", 3}}),
            "3 bits: releases of compressed-tensors before 0.16 pack them in another way, so clients would disagree; "
            "use 2, 4 or 8, or format: gptq");
  EXPECT_EQ(message({{"scales", "plain"}}), "'scales' is of nvfp4 and mxfp4, but the scheme is gguf");
  EXPECT_EQ(message({{"scheme", "nvfp4"}, {"scales", "floor"}}),
            "unknown scales 'floor' of nvfp4; known are plain, four_over_six, sweep");
  EXPECT_EQ(message({{"learn_steps", true}}),
            "steps are learned for scheme: integer with symmetric: true, sharing: group or channel, and no search");
  EXPECT_TRUE(with(qat(), {{"scheme", "none"}}).validate().ok());
}

TEST(DistillQat, RefusesRowsThatGroupsDoNotDivide) {
  Step planned("distill_qat", "distill.qat");
  planned.input("student", "model", "", {{"hidden", "288"}, {"ffn", "768"}})
      .input("teacher", "model", "", {})
      .input("data", "tokens", "", {})
      .param("scheme", "integer");
  EXPECT_EQ(planned.estimate().message,
            "the student has rows of 288 weights, which groups of 128 do not divide; choose another group_size, or "
            "sharing: channel");
  EXPECT_EQ(planned.estimate().where, "group_size");
  Step narrow("distill_qat", "distill.qat");
  narrow.input("student", "model", "", {{"hidden", "40"}, {"ffn", "96"}})
      .input("teacher", "model", "", {})
      .input("data", "tokens", "", {})
      .param("scheme", "nvfp4");
  EXPECT_EQ(narrow.estimate().message,
            "the student has rows of 40 weights, which blocks of 16 do not divide; use scheme: fp8");

  const StepResult r = qat().param("scheme", "integer").param("group_size", 96).run();
  EXPECT_EQ(r.message,
            "tensor 'model.layers.0.mlp.gate_proj.weight' has rows of 256 weights, which groups of 96 do not divide; "
            "use sharing: channel or put it into 'ignore'");
}

TEST(DistillQat, RefusesATypeWhoseBlocksDivideNoRow) {
  const std::string student = tiny_model(1);
  Step step("distill_qat", "distill.qat");
  const StepResult r = step.input("student", "model", student)
                           .input("teacher", "model", student)
                           .input("data", "tokens", saved(tiny_tokens()))
                           .param("type", "Q6_K")
                           .run();
  EXPECT_EQ(r.message,
            "no tensor of the student would be Q6_K: its blocks of 256 weights divide no row; use a type with blocks "
            "of 32, such as Q4_0");
  EXPECT_EQ(r.where, "type");
}

TEST(DistillQat, WarnsOfRowsThatTheFileWillHoldInAnotherType) {
  Json config = tiny_llama_config();
  config["hidden_size"] = 256;
  config["head_dim"] = 64;
  config["intermediate_size"] = 288;
  const std::string student = tiny_model(1, config);
  Step step("distill_qat", "distill.qat");
  const StepResult r = step.input("student", "model", student)
                           .input("teacher", "model", student)
                           .input("data", "tokens", saved(tiny_tokens()))
                           .param("type", "Q4_K_S")
                           .param("steps", 1)
                           .param("batch", 2)
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_THAT(r.warnings(), testing::ElementsAre("type Q4_K_S: rows of 288 are stored as q5_0 instead of q4_k, in 2 "
                                                 "tensors; so they are in training"));
}

TEST(DistillQat, AWeightThatIsNaNIsNamed) {
  const std::string student = tiny_model(1), path = student + "/model.safetensors";
  std::streamoff at = 0;
  {
    const auto file = SafetensorsReader::open(path);
    at = file->find("model.layers.1.mlp.up_proj.weight")->bytes.data() - file->file().bytes().data();
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(at).write(reinterpret_cast<const char*>(&nan), 4).flush();
  Step step("distill_qat", "distill.qat");
  const StepResult r = step.input("student", "model", student)
                           .input("teacher", "model", tiny_model(1))
                           .input("data", "tokens", saved(tiny_tokens()))
                           .run();
  EXPECT_EQ(r.code, FETTLE_INVALID_ARGUMENT);
  EXPECT_EQ(r.message,
            "tensor 'model.layers.1.mlp.up_proj.weight' holds a weight that is NaN or infinite, which no grid holds; "
            "repair the model");
}

TEST(DistillQat, AsksForSomebodyToLearnFrom) {
  Step step("distill_qat", "distill.qat");
  const StepResult r = step.input("student", "model", prose_model()).input("data", "tokens", prose_tokens(2)).run();
  EXPECT_EQ(r.message, "connect port 'teacher' or port 'targets': there is nobody to learn from");
}

}  // namespace
}  // namespace fettle::test
