// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/cheapest_zeros.h"
#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/tensor/philox.h"

#include "plugins/harness.h"
#include "plugins/prose.h"
#include "plugins/quantize/gptq/gptq.h"
#include "unit/kit/model/tiny_model.h"

#include <gtest/gtest.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fettle::test {
namespace {

using namespace fettle::kit;

// --- the idea, on matrices ---

constexpr std::int64_t rows = 48, cols = 256;

/// Correlated inputs with channels of very different sizes, and weights.
struct Layer {
  std::vector<float> w = std::vector<float>(rows * cols);
  Square gram{cols};
};

double deviate(std::uint64_t seed, std::uint64_t index) {  // roughly normal: a sum of twelve uniform ones
  double sum = -6;
  for (std::uint64_t k = 0; k < 12; ++k) sum += philox_uniform(seed, k, index);
  return sum;
}

Layer make_layer(std::int64_t tokens = 1024) {
  Layer l;
  for (std::size_t i = 0; i < l.w.size(); ++i) l.w[i] = static_cast<float>(deviate(1, i));
  std::vector<double> x(static_cast<std::size_t>(tokens * cols));
  for (std::int64_t t = 0; t < tokens; ++t) {
    const double common = deviate(2, static_cast<std::uint64_t>(t));
    for (std::int64_t j = 0; j < cols; ++j)
      x[static_cast<std::size_t>(t * cols + j)] = (deviate(3, static_cast<std::uint64_t>(t * cols + j)) + common) *
                                                  (0.2 + static_cast<double>(j * 37 % 97) / 30);
  }
  for (std::int64_t i = 0; i < cols; ++i)
    for (std::int64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (std::int64_t t = 0; t < tokens; ++t)
        sum += x[static_cast<std::size_t>(t * cols + i)] * x[static_cast<std::size_t>(t * cols + j)];
      l.gram(i, j) = l.gram(j, i) = sum;
    }
  return l;
}

const Layer& layer() {
  static const Layer l = make_layer();
  return l;
}

/// tr(D H D^T) for D = w - q, H with the damping.
double loss(const std::vector<float>& w, const std::vector<float>& q, const Square& gram, double damping) {
  double mean = 0;
  for (std::int64_t j = 0; j < cols; ++j) mean += gram(j, j) / cols;
  double total = 0;
  std::vector<double> d(cols);
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < cols; ++j)
      d[static_cast<std::size_t>(j)] = static_cast<double>(w[static_cast<std::size_t>(i * cols + j)]) -
                                       static_cast<double>(q[static_cast<std::size_t>(i * cols + j)]);
    for (std::int64_t j = 0; j < cols; ++j) {
      double sum = damping * mean * d[static_cast<std::size_t>(j)];
      for (std::int64_t k = 0; k < cols; ++k)
        sum += gram(std::max(j, k), std::min(j, k)) * d[static_cast<std::size_t>(k)];
      total += sum * d[static_cast<std::size_t>(j)];
    }
  }
  return total;
}

struct Outcome {
  std::vector<float> values;
  gptq::Quantized result;
};

Outcome run(const Layer& l, bool act_order, const gptq::Options& options, double damping = 0.01) {
  Outcome r{l.w, {}};
  const auto inputs = gptq::prepare(l.gram, act_order, damping);
  EXPECT_TRUE(inputs.ok());
  r.result = gptq::quantize(MutMatrix(r.values.data(), rows, cols), *inputs, options);
  return r;
}

gptq::Options options(int bits, std::int64_t group, bool static_groups = false, bool symmetric = true) {
  gptq::Options o;
  o.scheme.bits = bits;
  o.scheme.group_size = group;
  o.scheme.symmetric = symmetric;
  o.scheme.sharing = group == 0 ? Sharing::channel : Sharing::group;
  o.scheme.scale_type = DType::f16;
  o.static_groups = static_groups;
  return o;
}

std::vector<float> read(const CodedMatrix& coded) {
  std::vector<float> values(static_cast<std::size_t>(coded.rows * coded.cols));
  coded.read(0, MutMatrix(values.data(), coded.rows, coded.cols));
  return values;
}

struct Variant {
  const char* name;
  int bits;
  std::int64_t group;  ///< 0: a row
  bool act_order, static_groups, symmetric;
};

class Gptq : public ::testing::TestWithParam<Variant> {
 protected:
  static gptq::Options chosen() {
    const Variant& v = GetParam();
    return options(v.bits, v.group, v.static_groups, v.symmetric);
  }
};

TEST_P(Gptq, SumOfSquaredErrorsIsTheLossOfTheWholeMatrix) {
  const Outcome r = run(layer(), GetParam().act_order, chosen());
  EXPECT_NEAR(r.result.report.error / loss(layer().w, r.values, layer().gram, 0.01), 1, 1e-3);
}

/// Permutation undone, indices of groups right, codes in range: what the file will be read as is what the sweep chose.
TEST_P(Gptq, CodesAreTheValuesItReturns) {
  const Outcome r = run(layer(), GetParam().act_order, chosen());
  EXPECT_EQ(read(r.result.coded), r.values);
  EXPECT_LT(*std::max_element(r.result.coded.codes.begin(), r.result.coded.codes.end()), 1 << GetParam().bits);
}

TEST_P(Gptq, UncorrelatedInputsGiveRoundToNearestBitForBit) {
  Layer l = layer();
  l.gram = Square(cols);
  for (std::int64_t j = 0; j < cols; ++j) l.gram(j, j) = 3;
  const Outcome r = run(l, GetParam().act_order, chosen());
  const CodedMatrix rounded = round_to_grid(ConstMatrix(l.w.data(), rows, cols), chosen().scheme);
  EXPECT_EQ(r.result.coded.codes, rounded.codes);
  EXPECT_EQ(r.values, read(rounded));
}

TEST_P(Gptq, DoesNotDependOnTheBlock) {
  gptq::Options wide = chosen(), narrow = wide;
  wide.block = cols;
  narrow.block = 32;
  const Outcome a = run(layer(), GetParam().act_order, wide), b = run(layer(), GetParam().act_order, narrow);
  EXPECT_EQ(a.values, b.values);
  EXPECT_EQ(a.result.coded.codes, b.result.coded.codes);
}

TEST_P(Gptq, LosesLessThanRoundToNearest) {
  const Outcome r = run(layer(), GetParam().act_order, chosen());
  const auto rounded = read(round_to_grid(ConstMatrix(layer().w.data(), rows, cols), chosen().scheme));
  EXPECT_LT(loss(layer().w, r.values, layer().gram, 0), 0.85 * loss(layer().w, rounded, layer().gram, 0));
}

INSTANTIATE_TEST_SUITE_P(Rows, Gptq,
                         ::testing::Values(Variant{"b4_g128", 4, 128, false, false, true},
                                           Variant{"b4_g32", 4, 32, false, false, true},
                                           Variant{"b4_g32_static", 4, 32, false, true, true},
                                           Variant{"b3_row", 3, 0, false, false, true},
                                           Variant{"b3_g64_asym", 3, 64, false, false, false},
                                           Variant{"b2_g64_order", 2, 64, true, false, true},
                                           Variant{"b4_g64_order_static", 4, 64, true, true, true},
                                           Variant{"b8_row_order", 8, 0, true, false, false}),
                         [](const auto& row) { return row.param.name; });

TEST(GptqMatrix, KeepsMaskedWeightsAtZeroAndMakesUpForThem) {
  Mask mask(rows, cols);
  std::vector<float> zeroed = layer().w;
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j)
      if ((i + j) % 4 < 2) {
        mask.prune(i, j);
        zeroed[static_cast<std::size_t>(i * cols + j)] = 0;
      }
  for (const bool symmetric : {true, false})
    for (const bool act_order : {true, false}) {
      gptq::Options o = options(4, 64, false, symmetric);
      o.mask = &mask;
      const Outcome r = run(layer(), act_order, o);
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < cols; ++j)
          if (!mask.kept(i, j)) {
            ASSERT_EQ(r.values[static_cast<std::size_t>(i * cols + j)], 0.0F);
          }
      EXPECT_EQ(read(r.result.coded), r.values);
      const auto rounded = read(round_to_grid(ConstMatrix(zeroed.data(), rows, cols), o.scheme));
      EXPECT_LT(loss(layer().w, r.values, layer().gram, 0), 0.9 * loss(layer().w, rounded, layer().gram, 0));
    }
}

SparsityTarget two_of_four() { return {0, Group::matrix, NofM{2, 4}}; }

/// SparseGPT, then round to nearest on the same grid, zeros kept.
std::vector<float> pruned_then_rounded(const SparsityTarget& target, const GridScheme& scheme) {
  class Prune final : public SweepRule {
   public:
    explicit Prune(const SparsityTarget& t) : zeros(rows, cols, t) {}
    void begin_block(std::int64_t first, ConstMatrix w, std::span<const double> diagonal) override {
      zeros.begin_block(first, w, diagonal);
    }
    float value(std::int64_t row, std::int64_t column, std::span<const float> rest,
                std::span<const double> diagonal) override {
      zeros.reach(row, 1, column, rest.data(), 0, diagonal);
      return zeros.mask().kept(row, column) ? rest[0] : 0.0F;
    }
    CheapestZeros zeros;
  };
  std::vector<float> w = layer().w;
  Prune rule(target);
  EXPECT_TRUE(sweep_columns(MutMatrix(w.data(), rows, cols), layer().gram, rule).ok());
  return read(round_to_grid(ConstMatrix(w.data(), rows, cols), scheme));
}

TEST(GptqMatrix, PrunesAndRoundsInOneSweepBetterThanOneAfterTheOther) {
  for (const SparsityTarget& target : {two_of_four(), SparsityTarget{0.5, Group::matrix, std::nullopt}}) {
    gptq::Options o = options(4, 64);
    o.prune = target;
    const Outcome r = run(layer(), false, o);
    EXPECT_NEAR(r.result.report.error / loss(layer().w, r.values, layer().gram, 0.01), 1, 1e-3);
    EXPECT_EQ(read(r.result.coded), r.values);
    EXPECT_EQ(r.result.pruned, rows * cols / 2);
    const auto sequential = pruned_then_rounded(target, o.scheme);
    EXPECT_LE(loss(layer().w, r.values, layer().gram, 0), loss(layer().w, sequential, layer().gram, 0));
  }
}

TEST(GptqMatrix, PrunesTwoOfEveryFourWhileItRounds) {
  for (const std::int64_t group : {0, 32, 128}) {
    gptq::Options o = options(3, group);
    o.prune = two_of_four();
    const Outcome r = run(layer(), false, o);
    for (std::size_t first = 0; first < r.values.size(); first += 4) {
      int kept = 0;
      for (std::size_t j = first; j < first + 4; ++j) kept += r.values[j] != 0;
      ASSERT_LE(kept, 2);
    }
  }
}

TEST(GptqMatrix, WeightsOfDeadInputsBecomeZero) {
  Layer l = layer();
  for (std::int64_t j = 0; j < cols; ++j) l.gram(7, j) = l.gram(j, 7) = 0;
  const Outcome r = run(l, true, options(4, 128));
  EXPECT_EQ(r.result.report.dead_columns, 1);
  for (std::int64_t i = 0; i < rows; ++i) ASSERT_EQ(r.values[static_cast<std::size_t>(i * cols + 7)], 0.0F);
}

TEST(GptqMatrix, KeepsAMatrixOfZeros) {
  Layer l = layer();
  std::fill(l.w.begin(), l.w.end(), 0.0F);
  for (const bool symmetric : {true, false}) EXPECT_EQ(run(l, false, options(4, 64, false, symmetric)).values, l.w);
}

TEST(GptqMatrix, HoldsAConstantMatrixWhereTheGridIsAsymmetric) {
  Layer l = layer();
  std::fill(l.w.begin(), l.w.end(), 0.5F);
  gptq::Options o = options(4, 64, false, false);
  o.scheme.scale_type = DType::f32;
  for (const float value : run(l, false, o).values) ASSERT_NEAR(value, 0.5F, 1e-5);
}

TEST(GptqMatrix, TriesMoreDampingAndSaysSo) {
  Square gram(2);
  gram(0, 0) = gram(1, 1) = 1;
  gram(1, 0) = 1.05;  // not a Gram matrix: its least eigenvalue is -0.05
  std::vector<double> tried;
  const auto inputs =
      gptq::prepare(gram, false, 0.01, [&](double damping, const std::string&) { tried.push_back(damping); });
  ASSERT_TRUE(inputs.ok());
  ASSERT_EQ(tried.size(), 1U);
  EXPECT_NEAR(tried[0], 0.1, 1e-12);
  EXPECT_NEAR(inputs->damping, 0.1, 1e-12);
}

TEST(GptqMatrix, GivesUpOnWhatNoDampingHelps) {
  Square gram(2);
  gram(0, 0) = gram(1, 1) = 1;
  gram(1, 0) = 5;
  EXPECT_TRUE(gptq::prepare(gram, false, 0.01)
                  .error()
                  .message()
                  .starts_with("the matrix is not positive definite: pivot 2 of 2 is -10.4"));
}

TEST(GptqMatrix, IsTheSameForAnyThreadCount) {
  const auto with_threads = [](int n) {
    tbb::task_arena arena(n);
    return arena.execute([] { return run(layer(), true, options(3, 64)).result.coded.codes; });
  };
  EXPECT_EQ(with_threads(1), with_threads(4));
}

// --- the plugin ---

constexpr const char* q = "model.layers.2.self_attn.q_proj.weight";

/// Attention only: its 256 inputs fit the little text that the project carries.
Step gptq_step(const std::string& model = prose_model()) {
  return Step("quantize_gptq", "quantize.gptq")
      .input("model", "model", model, {{"layout", "hf"}})
      .input("calibration", "tokens", prose_calibration())
      .param("targets", {"*.self_attn.*_proj.weight"});
}

StepResult rtn(int bits) {
  return Step("quantize_rtn", "quantize.rtn")
      .input("model", "model", prose_model(), {{"layout", "hf"}})
      .param("targets", {"*.self_attn.*_proj.weight"})
      .param("format", "gptq")
      .param("bits", bits)
      .run();
}

TEST(QuantizeGptq, LosesLessThanRoundToNearestOnUnseenText) {
  const StepResult g = gptq_step().param("bits", 3).run();
  const StepResult r = rtn(3);
  ASSERT_TRUE(g.ok() && r.ok()) << g.message << r.message;
  const double dense = prose_nll(prose_model());
  EXPECT_LT(prose_nll(g.outputs.at("model")) - dense, 0.9 * (prose_nll(r.outputs.at("model")) - dense));
}

TEST(QuantizeGptq, TellsGroupsInTheirOwnOrder) {
  const StepResult r = gptq_step().param("act_order", true).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = Checkpoint::open(r.outputs.at("model"));
  EXPECT_EQ(written->config().at("quantization_config").at("desc_act"), true);
  const TensorView& index = *written->find("model.layers.2.self_attn.q_proj.g_idx");
  std::vector<std::int32_t> groups(256);
  std::memcpy(groups.data(), index.bytes.data(), index.bytes.size());
  EXPECT_EQ(std::count(groups.begin(), groups.end(), 0), 128);
  EXPECT_FALSE(std::is_sorted(groups.begin(), groups.end()));
}

TEST(QuantizeGptq, StaticGroupsNeedNoIndex) {
  const StepResult r =
      gptq_step().param("act_order", true).param("static_groups", true).param("format", "compressed-tensors").run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = DenseCheckpoint::open(r.outputs.at("model"));
  ASSERT_TRUE(written.ok()) << written.error().message();
  EXPECT_NE(written->find(q)->packed, nullptr);
  const auto& config = written->stored().config().at("quantization_config");
  EXPECT_EQ(config["config_groups"]["group_0"]["weights"]["actorder"], "weight");
}

TEST(QuantizeGptq, KeepsTheZerosOfASparseModel) {
  const StepResult sparse = Step("prune_magnitude", "prune.magnitude")
                                .input("model", "model", prose_model(), {{"layout", "hf"}})
                                .param("pattern", "2:4")
                                .run();
  ASSERT_TRUE(sparse.ok()) << sparse.message;
  const StepResult r = gptq_step(sparse.outputs.at("model")).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto before = DenseCheckpoint::open(sparse.outputs.at("model")),
             after = DenseCheckpoint::open(r.outputs.at("model"));
  std::vector<float> a(256 * 256), b(a.size());
  DenseCheckpoint::read(*before->find(q), 0, MutMatrix(a.data(), 256, 256));
  DenseCheckpoint::read(*after->find(q), 0, MutMatrix(b.data(), 256, 256));
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i] == 0) {
      ASSERT_EQ(b[i], 0.0F);
    }
}

TEST(QuantizeGptq, HonoursAMaskOfItsOwn) {
  const StepResult sparse = Step("prune_magnitude", "prune.magnitude")
                                .input("model", "model", prose_model(), {{"layout", "hf"}})
                                .param("pattern", "2:4")
                                .run();
  const StepResult r = gptq_step().input("mask", "mask", sparse.outputs.at("mask")).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto masks = read_masks(sparse.outputs.at("mask"));
  const auto after = DenseCheckpoint::open(r.outputs.at("model"));
  std::vector<float> b(256 * 256);
  DenseCheckpoint::read(*after->find(q), 0, MutMatrix(b.data(), 256, 256));
  for (std::int64_t i = 0; i < 256; ++i)
    for (std::int64_t j = 0; j < 256; ++j)
      if (!masks->at(q).kept(i, j)) {
        ASSERT_EQ(b[static_cast<std::size_t>(i * 256 + j)], 0.0F);
      }
}

TEST(QuantizeGptq, PrunesAndRoundsInOneStepBetterThanInTwo) {
  const StepResult sparse = Step("prune_sparsegpt", "prune.sparsegpt")
                                .input("model", "model", prose_model(), {{"layout", "hf"}})
                                .input("calibration", "tokens", prose_calibration())
                                .param("targets", {"*.self_attn.*_proj.weight"})
                                .param("pattern", "2:4")
                                .run();
  ASSERT_TRUE(sparse.ok()) << sparse.message;
  const StepResult rounded = Step("quantize_rtn", "quantize.rtn")
                                 .input("model", "model", sparse.outputs.at("model"), {{"layout", "hf"}})
                                 .param("targets", {"*.self_attn.*_proj.weight"})
                                 .param("format", "gptq")
                                 .run();
  const StepResult joint = gptq_step().param("prune_pattern", "2:4").run();
  ASSERT_TRUE(rounded.ok() && joint.ok()) << rounded.message << joint.message;
  EXPECT_EQ(joint.value("sparsity"), 0.5);
  EXPECT_LE(prose_nll(joint.outputs.at("model")), prose_nll(rounded.outputs.at("model")));
}

TEST(QuantizeGptq, RefusesPatternsItCannotPruneWhileItRounds) {
  EXPECT_EQ(gptq_step().param("prune_pattern", "2:4").param("act_order", true).validate().message,
            "act_order scatters the neighbours that a pattern is about; give prune_share, or leave act_order out");
  EXPECT_EQ(gptq_step().param("prune_pattern", "3:5").validate().message,
            "groups of 128 weights share a scale, which groups of 5 do not divide");
  EXPECT_EQ(gptq_step().param("prune_pattern", "2:4").param("prune_share", 0.5).validate().message,
            "'prune_share' and 'prune_pattern' both say how much goes; give one");
  EXPECT_EQ(gptq_step().param("prune_pattern", "3:5").param("sharing", "channel").run().message,
            "tensor 'model.layers.0.self_attn.k_proj.weight' has rows of 256 weights, which groups of 5 do not divide; "
            "put it into 'ignore' or choose another pattern");
}

TEST(QuantizeGptq, MeasuresAgainAfterEachStepWhenTrueSequential) {
  const StepResult plain = gptq_step().param("bits", 2).param("held_out", 2).run();
  const StepResult r = gptq_step().param("bits", 2).param("held_out", 2).param("true_sequential", true).run();
  ASSERT_TRUE(r.ok() && plain.ok()) << r.message;
  EXPECT_EQ(r.metrics.at("matrices").value, 16);
  EXPECT_NE(r.value("reconstruction_error"), plain.value("reconstruction_error"));
}

TEST(QuantizeGptq, WritesTheSameBytesForAnyThreadCount) {
  const StepResult one = gptq_step().param("act_order", true).threads(1).run();
  const StepResult many = gptq_step().param("act_order", true).threads(5).run();
  ASSERT_TRUE(one.ok() && many.ok()) << one.message << many.message;
  EXPECT_EQ(file_bytes(one.outputs.at("model") + "/model.safetensors"),
            file_bytes(many.outputs.at("model") + "/model.safetensors"));
}

TEST(QuantizeGptq, RefusesFewerThanTwoTokensAnInput) {
  const StepResult r = Step("quantize_gptq", "quantize.gptq")
                           .input("model", "model", prose_model(), {{"layout", "hf"}})
                           .input("calibration", "tokens", prose_tokens(2))
                           .run();
  EXPECT_EQ(r.message,
            "256 calibration tokens are too few for the 256 inputs of 'model.layers.0.self_attn.q_proj.weight': below "
            "512 rounding to nearest is better; give data.tokens more sequences (16 tokens an input are good)");
}

TEST(QuantizeGptq, WarnsBelowSixteenTokensAnInput) {
  const StepResult r = gptq_step().run();
  EXPECT_EQ(r.warnings(),
            std::vector<std::string>{
                std::to_string(static_cast<int>(r.value("calibration_tokens"))) +
                " calibration tokens are few for the 256 inputs of 'model.layers.0.self_attn.q_proj.weight'; "
                "from 4096 on the result stops improving"});
}

TEST(QuantizeGptq, RefusesAnIndexThatCompressedTensorsNoLongerLoads) {
  EXPECT_EQ(
      gptq_step().param("act_order", true).param("format", "compressed-tensors").validate().message,
      "compressed-tensors 0.20 no longer loads groups in another order than the columns; use static_groups: true, "
      "or format: gptq");
}

TEST(QuantizeGptq, WritesAwqFilesButNoIndexIntoThem) {
  const StepResult r = gptq_step().param("format", "awq").param("act_order", true).param("static_groups", true).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = DenseCheckpoint::open(r.outputs.at("model"));
  EXPECT_EQ(written->layout(), "awq");
  EXPECT_NE(written->find(q)->packed, nullptr);
  EXPECT_EQ(gptq_step().param("format", "awq").param("act_order", true).validate().message,
            "AWQ files cannot tell groups in another order than the columns; use static_groups: true, or format: gptq");
}

TEST(QuantizeGptq, RefusesMatricesWithoutMeasuredInputs) {
  const std::string folder = temporary_folder();  // with a head of its own
  ASSERT_TRUE(write_tiny_model(folder).ok());
  EXPECT_EQ(gptq_step(folder)
                .param("targets", {"lm_head.weight"})
                .param("group_size", 32)
                .param("format", "compressed-tensors")
                .run()
                .message,
            "tensor 'lm_head.weight' is not one of the seven linears of a block, so it has no measured inputs; narrow "
            "'targets', or use quantize.rtn for it");
}

}  // namespace
}  // namespace fettle::test
