// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/network.h"

#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/io/safetensors.h"
#include "fettle_kit/io/sha256.h"

#include "kernels/kernel_testing.h"
#include "unit/kit/backend/f64_backend.h"
#include "unit/kit/io/scratch_folder.h"
#include "unit/kit/model/bits_by_instruction_set.h"
#include "unit/kit/model/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

using test::F64Backend;

constexpr Batch kBatch{.sequences = 2, .length = 9};
constexpr std::int64_t kVocab = 64;

struct FamilyCase {
  const char* name;
  const char* keys;  ///< changed in a Llama of hidden 32, 2 layers, vocabulary 64
};

ModelConfig config_of(const FamilyCase& family) {
  Json json = test::tiny_llama_config();
  json["vocab_size"] = kVocab;
  json.update(Json::parse(family.keys));
  auto config = read_model_config(json, family.name);
  EXPECT_TRUE(config.ok()) << config.error().message();
  return *config;
}

const FamilyCase kFamilies[] = {
    {"llama", "{}"},
    {"llama_tied_biases", R"({"tie_word_embeddings": true, "attention_bias": true, "mlp_bias": true})"},
    {"llama_rope3", R"({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
       "high_freq_factor": 4.0, "original_max_position_embeddings": 16}})"},
    {"mistral", R"({"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 4})"},
    {"qwen2", R"({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_key_value_heads": 1})"},
    {"qwen3", R"({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"})"},
    {"phi3", R"({"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "sliding_window": 4})"},
    {"gemma2", R"({"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "sliding_window": 4,
       "query_pre_attn_scalar": 12, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
       "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true})"},
    {"gemma3", R"({"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "sliding_window": 3,
       "sliding_window_pattern": 2, "query_pre_attn_scalar": 12, "hidden_activation": "gelu_pytorch_tanh",
       "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "tie_word_embeddings": true})"},
};

/// Norms away from 1 and biases away from 0, so that no gradient hides.
void stir(Network& network) {
  Random random(17);
  for (Parameter& p : network.parameters()) {
    if (p.shape.size() != 1) continue;
    network.backend().host_view(p.value, Access::read_write, [&](MutMatrix m) {
      for (float& x : m.row(0)) x += random.uniform(-0.3f, 0.3f);
    });
  }
  network.weights_changed();
}

Network stirred(Backend& backend, const ModelConfig& config, const NetworkOptions& options = {}) {
  auto network = Network::create(backend, config, 5, 0.25, options);
  EXPECT_TRUE(network.ok());
  stir(*network);
  return std::move(*network);
}

std::vector<std::int32_t> tokens(std::uint64_t seed) {
  Random random(seed);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < kBatch.rows(); ++i) ids.push_back(static_cast<std::int32_t>(random.below(kVocab)));
  return ids;
}

std::vector<std::int32_t> some_labels(std::uint64_t seed) {
  std::vector<std::int32_t> labels = tokens(seed);
  labels[3] = labels[8] = -1;
  return labels;
}

LossTarget label_target(const std::vector<std::int32_t>& labels) {
  LossTarget target;
  target.labels = labels;
  target.label_scale = 1.0 / static_cast<double>(labels.size() - 2);
  return target;
}

/// Forward and backward of one micro-batch; returns the loss.
double pass(Network& network, std::uint64_t seed, const Network::GradientHook& hook = {}) {
  const auto ids = tokens(seed), labels = some_labels(seed + 100);
  EXPECT_TRUE(network.forward(ids, kBatch).ok());
  const LossTarget target = label_target(labels);
  const LossSums sums = network.head_loss(target);
  network.backward(hook);
  return sums.cross_entropy * target.label_scale;
}

std::vector<float> floats(Backend& backend, const Array& x) {
  std::vector<float> out(static_cast<std::size_t>(x.size()));
  backend.download(out, x);
  return out;
}

std::vector<std::vector<float>> gradients(Network& network) {
  std::vector<std::vector<float>> out;
  for (const Parameter& p : network.parameters()) out.push_back(floats(network.backend(), p.gradient));
  return out;
}

void expect_same_gradients(const std::vector<std::vector<float>>& got, const std::vector<std::vector<float>>& want,
                           Network& network, const std::string& what) {
  for (std::size_t i = 0; i < want.size(); ++i)
    expect_same(got[i], want[i], what + ": " + network.parameters()[i].name);
}

class NetworkFamily : public testing::TestWithParam<FamilyCase> {};

TEST_P(NetworkFamily, HasTheGradientOfCentralDifferences) {
  F64Backend backend;
  Network network = stirred(backend, config_of(GetParam()));
  // A loss on a block's output too, which the hook adds.
  const Array wanted = backend.allocate(kBatch.rows(), 32, Element::real);
  Random random(23);
  backend.upload(wanted, random.row(static_cast<std::size_t>(wanted.size())));
  const auto loss = [&] {
    const double labels = pass(network, 1);
    return labels + 0.01 * backend.squared_error({}, network.block_input(1), wanted, {}, 1);
  };
  pass(network, 1, [&](std::int64_t layer, const Array& gradient) {
    if (layer == 1) backend.squared_error(gradient, network.block_input(1), wanted, {}, 0.01);
  });
  std::vector<std::vector<double>> want;
  for (const Parameter& p : network.parameters()) want.push_back(F64Backend::values(p.gradient));

  // Along one random direction a tensor; fourth order, see operations_test.cpp.
  for (std::size_t i = 0; i < want.size(); ++i) {
    const Parameter& p = network.parameters()[i];
    const std::vector<double> start = F64Backend::values(p.value);
    std::vector<double> direction;
    double along = 0;
    for (std::size_t j = 0; j < start.size(); ++j) {
      direction.push_back(double{random.uniform(-1, 1)});
      along += direction[j] * want[i][j];
    }
    const auto moved = [&](double by) {
      for (std::int64_t r = 0; r < p.value.rows; ++r)
        for (std::int64_t c = 0; c < p.value.cols; ++c) {
          const auto at = static_cast<std::size_t>(r * p.value.cols + c);
          F64Backend::at(p.value, r, c) = start[at] + by * direction[at];
        }
      return loss();
    };
    constexpr double h = 2e-4;
    const double slope = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h);
    moved(0);
    EXPECT_NEAR(along, slope, 1e-6 * std::fabs(slope) + 1e-11) << p.name;
  }
}

TEST_P(NetworkFamily, HasTheSameGradientOnTheProcessor) {
  const ModelConfig config = config_of(GetParam());
  F64Backend exact;
  const auto cpu = make_cpu_backend();
  Network reference = stirred(exact, config), network = stirred(*cpu, config);
  EXPECT_NEAR(pass(network, 1), pass(reference, 1), 1e-5);
  for (std::size_t i = 0; i < network.parameters().size(); ++i) {
    const std::vector<double> want = F64Backend::values(reference.parameters()[i].gradient);
    const std::vector<float> got = floats(*cpu, network.parameters()[i].gradient);
    double difference = 0, norm = 0;
    for (std::size_t j = 0; j < want.size(); ++j)
      difference += std::pow(got[j] - want[j], 2), norm += want[j] * want[j];
    EXPECT_LE(std::sqrt(difference), 1e-5 * std::sqrt(norm)) << network.parameters()[i].name;
  }
}

TEST_P(NetworkFamily, GivesTheSameBitsWithCheckpointing) {
  const ModelConfig config = config_of(GetParam());
  const auto cpu = make_cpu_backend();
  for (const Precision precision : {Precision::real, Precision::bf16}) {
    Network whole = stirred(*cpu, config, {.precision = precision, .checkpointing = false, .frozen = false});
    Network sparing = stirred(*cpu, config, {.precision = precision, .checkpointing = true, .frozen = false});
    for (const std::uint64_t micro_batch : {1, 2}) {
      EXPECT_EQ(pass(whole, micro_batch), pass(sparing, micro_batch));
      expect_same_gradients(gradients(sparing), gradients(whole), whole, "checkpointing");
    }
  }
}

TEST_P(NetworkFamily, GivesTheSameBitsForAnyNumberOfThreads) {
  const ModelConfig config = config_of(GetParam());
  for (const Precision precision : {Precision::real, Precision::bf16}) {
    std::vector<std::vector<float>> first;
    for (const int threads : {1, 2, 3, 7}) {
      const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, static_cast<std::size_t>(threads));
      tbb::task_arena(threads).execute([&] {
        const auto cpu = make_cpu_backend();
        Network network = stirred(*cpu, config, {.precision = precision, .checkpointing = false, .frozen = false});
        pass(network, 1);
        pass(network, 2);
        if (first.empty()) first = gradients(network);
        expect_same_gradients(gradients(network), first, network, std::to_string(threads) + " threads");
      });
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, NetworkFamily, testing::ValuesIn(kFamilies),
                         [](const auto& row) { return std::string(row.param.name); });

/// What the next test reads from this program run again, once for each instruction set.
TEST(NetworkBits, OfAllFamilies) {
  Sha256 digest;
  for (const FamilyCase& family : kFamilies)
    for (const Precision precision : {Precision::real, Precision::bf16}) {
      const auto cpu = make_cpu_backend();
      Network network =
          stirred(*cpu, config_of(family), {.precision = precision, .checkpointing = false, .frozen = false});
      pass(network, 1);
      for (Parameter& p : network.parameters()) {
        const Array first = cpu->allocate(p.value.rows, p.value.cols),
                    second = cpu->allocate(p.value.rows, p.value.cols);
        cpu->fill(first, 0);
        cpu->fill(second, 0);
        cpu->adamw(p.value, first, second, p.gradient, p.used, {.rate = 0.01f, .decay = 0.1f});
        const std::vector<float> values = floats(*cpu, p.value);
        digest.update(values.data(), values.size() * sizeof(float));
      }
    }
  std::printf("bits: %s\n", digest.hex().c_str());
}

TEST(Network, GivesTheSameBitsOnEveryInstructionSet) {
  const auto digests = test::bits_by_instruction_set("NetworkBits.OfAllFamilies");
  ASSERT_EQ(digests.size(), usable_kernels().size());
  for (const auto& [name, digest] : digests) EXPECT_EQ(digest, digests.begin()->second) << name;
}

TEST(Network, StartsTheSameWhateverTheOrderOfTensors) {
  const auto cpu = make_cpu_backend();
  const ModelConfig config = config_of(kFamilies[0]);
  auto network = Network::create(*cpu, config, 7, 0.02, {});
  ASSERT_TRUE(network.ok());
  double squares = 0;
  const Parameter& head = *network->find("lm_head.weight");
  for (const float x : floats(*cpu, head.value)) squares += double{x} * x;
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(head.elements())), 0.02, 1e-3);
  EXPECT_NE(floats(*cpu, head.value), floats(*cpu, network->find("model.embed_tokens.weight")->value));
  EXPECT_EQ(floats(*cpu, network->find("model.norm.weight")->value), std::vector<float>(32, 1.0f));

  ModelConfig deeper = config;  // the same tensors lie elsewhere in it
  deeper.layers = 3, deeper.windows.push_back(0);
  auto other = Network::create(*cpu, deeper, 7, 0.02, {});
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(floats(*cpu, other->find("lm_head.weight")->value), floats(*cpu, head.value));
}

TEST(Network, WritesWhatItWasOpenedFrom) {
  const test::ScratchFolder scratch;
  const std::string source = scratch / "source", copy = scratch / "copy";
  std::filesystem::create_directory(source);
  ASSERT_TRUE(test::write_tiny_model(source).ok());
  const auto cpu = make_cpu_backend();
  F64Backend exact;
  for (Backend* backend : {static_cast<Backend*>(cpu.get()), static_cast<Backend*>(&exact)}) {
    auto weights = Weights::open(source);
    ASSERT_TRUE(weights.ok());
    auto network = Network::open(*backend, *weights, {});
    ASSERT_TRUE(network.ok()) << network.error().message();
    const auto checkpoint = Checkpoint::open(source);
    ASSERT_TRUE(checkpoint.ok());
    const Status status = network->write(copy, checkpoint->config(), DType::f32, source);
    ASSERT_TRUE(status.ok()) << status.message();
    const auto written = Checkpoint::open(copy);
    ASSERT_TRUE(written.ok());
    ASSERT_EQ(written->tensors().size(), checkpoint->tensors().size());
    for (const TensorView* tensor : checkpoint->tensors()) {
      const TensorView* same = written->find(tensor->name);
      ASSERT_NE(same, nullptr) << tensor->name;
      EXPECT_EQ(same->shape, tensor->shape);
      EXPECT_TRUE(std::ranges::equal(same->bytes, tensor->bytes)) << tensor->name;
    }
    std::filesystem::remove_all(copy);
  }
}

TEST(Network, WritesFusedTensorsAsTheFamilyStoresThem) {
  const test::ScratchFolder scratch;
  const std::string source = std::string(FETTLE_TEST_SOURCE_DIR) + "/tests/data/phi3", copy = scratch / "copy";
  const auto cpu = make_cpu_backend();
  auto weights = Weights::open(source);
  ASSERT_TRUE(weights.ok()) << weights.error().message();
  const auto network = Network::open(*cpu, *weights, {});
  ASSERT_TRUE(network.ok()) << network.error().message();
  const auto config = read_json_file(source + "/config.json");
  const Status status = network->write(copy, *config, DType::f32, "");
  ASSERT_TRUE(status.ok()) << status.message();
  const auto before = SafetensorsReader::open(source + "/model.safetensors");
  const auto after = SafetensorsReader::open(copy + "/model.safetensors");
  ASSERT_TRUE(after.ok());
  ASSERT_EQ(after->tensors().size(), before->tensors().size());
  for (const TensorView& tensor : before->tensors()) {
    const TensorView* same = after->find(tensor.name);
    ASSERT_NE(same, nullptr) << tensor.name;
    std::vector<float> a(static_cast<std::size_t>(tensor.elements())), b(a.size());
    info(tensor.dtype).to_f32(tensor.bytes.data(), a.data(), a.size());
    info(same->dtype).to_f32(same->bytes.data(), b.data(), b.size());
    EXPECT_EQ(b, a) << tensor.name;
  }
}

TEST(Network, SaysWhichDtypeItWrote) {
  const test::ScratchFolder scratch;
  const auto cpu = make_cpu_backend();
  auto network = Network::create(*cpu, config_of(kFamilies[1]), 1, 0.02, {});
  Json json = test::tiny_llama_config();
  json["vocab_size"] = kVocab;
  ASSERT_TRUE(network->write(scratch / "model", json, DType::bf16, "").ok());
  const auto written = Checkpoint::open(scratch / "model");
  ASSERT_TRUE(written.ok());
  EXPECT_EQ(written->config().at("torch_dtype"), "bfloat16");
  EXPECT_EQ(written->find("model.embed_tokens.weight")->dtype, DType::bf16);
  EXPECT_EQ(written->find("lm_head.weight"), nullptr) << "a tied head is stored once";
}

TEST(Network, RefusesValuesBeyondF16) {
  const test::ScratchFolder scratch;
  const auto cpu = make_cpu_backend();
  auto network = Network::create(*cpu, config_of(kFamilies[0]), 1, 0.02, {});
  cpu->fill(network->find("model.norm.weight")->value, 70000);
  const Status status = network->write(scratch / "model", test::tiny_llama_config(), DType::f16, "");
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_EQ(status.message(), "tensor 'model.norm.weight' holds 70000, beyond the range of f16; write bf16 instead");
}

TEST(Network, RefusesTokensOfAnotherVocabulary) {
  const auto cpu = make_cpu_backend();
  auto network = Network::create(*cpu, config_of(kFamilies[0]), 1, 0.02, {});
  const std::vector<std::int32_t> ids = {1, 64};
  const Status status = network->forward(ids, {.sequences = 1, .length = 2});
  EXPECT_EQ(status.message(),
            "token id 64 is outside the model's vocabulary of 64; were the tokens made with another tokenizer?");
}

TEST(Network, GivesAFrozenTeacherTheSameHiddenStates) {
  const auto cpu = make_cpu_backend();
  const ModelConfig config = config_of(kFamilies[5]);  // qwen3
  Network network = stirred(*cpu, config);
  Network frozen = stirred(*cpu, config, {.precision = Precision::real, .checkpointing = false, .frozen = true});
  ASSERT_TRUE(network.forward(tokens(1), kBatch).ok());
  ASSERT_TRUE(frozen.forward(tokens(1), kBatch).ok());
  EXPECT_EQ(floats(*cpu, frozen.hidden()), floats(*cpu, network.hidden()));
  EXPECT_FALSE(frozen.parameters()[0].gradient);
}

/// Uses twice the master; the gradient of what is positive is dropped.
class Doubled final : public WeightTransform {
 public:
  void apply(Backend& backend, const Array& used, const Array& master) const override {
    backend.copy(used, master);
    if (used.element == Element::real) backend.scale(used, 2);
  }
  void filter_gradient(Backend& backend, const Array& gradient, const Array& master) const override {
    backend.host_view(gradient, Access::read_write, [&](MutMatrix g) {
      backend.host_view(master, Access::read, [&](MutMatrix m) {
        for (std::int64_t i = 0; i < g.rows; ++i)
          for (std::int64_t j = 0; j < g.cols; ++j)
            if (m(i, j) > 0) g(i, j) = 0;
      });
    });
  }
};

TEST(Network, MultipliesByWhatATransformMakesOfAParameter) {
  const auto cpu = make_cpu_backend();
  const ModelConfig config = config_of(kFamilies[0]);
  Network doubled = stirred(*cpu, config), plain = stirred(*cpu, config);
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  Parameter& p = *doubled.find(name);
  const std::vector<float> master = floats(*cpu, p.value);
  doubled.set_transform(p, std::make_shared<Doubled>());
  cpu->scale(plain.find(name)->value, 2);
  EXPECT_EQ(pass(doubled, 1), pass(plain, 1));
  EXPECT_EQ(floats(*cpu, p.value), master);
  EXPECT_EQ(floats(*cpu, p.gradient), floats(*cpu, plain.find(name)->gradient));

  doubled.finish_gradients();
  const std::vector<float> filtered = floats(*cpu, p.gradient), whole = floats(*cpu, plain.find(name)->gradient);
  for (std::size_t i = 0; i < filtered.size(); ++i) ASSERT_EQ(filtered[i], master[i] > 0 ? 0 : whole[i]);
}

TEST(Network, HasNearlyTheSameGradientInBf16) {
  const auto cpu = make_cpu_backend();
  const ModelConfig config = config_of(kFamilies[0]);
  Network exact = stirred(*cpu, config);
  Network rounded = stirred(*cpu, config, {.precision = Precision::bf16, .checkpointing = false, .frozen = false});
  EXPECT_NEAR(pass(rounded, 1), pass(exact, 1), 0.03);
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < exact.parameters().size(); ++i) {
    const auto a = floats(*cpu, exact.parameters()[i].gradient), b = floats(*cpu, rounded.parameters()[i].gradient);
    for (std::size_t j = 0; j < a.size(); ++j) difference += std::pow(a[j] - b[j], 2), norm += std::pow(a[j], 2);
  }
  EXPECT_LE(std::sqrt(difference / norm), 0.03);  // 2^-9 a factor, through some twenty products
  EXPECT_GT(difference, 0) << "rounded at all";
}

/// AdamW without decay, as the training loop runs it.
class Optimizer {
 public:
  explicit Optimizer(Network& network) : network_(network) {
    for (const Parameter& p : network.parameters())
      for (auto* moments : {&first_, &second_}) {
        moments->push_back(network.backend().allocate(p.value.rows, p.value.cols));
        network.backend().fill(moments->back(), 0);
      }
  }
  void step(float rate) {
    ++steps_;
    AdamwStep adamw{.rate = rate};
    adamw.correction1 = 1 - std::pow(adamw.beta1, static_cast<float>(steps_));
    adamw.correction2 = 1 - std::pow(adamw.beta2, static_cast<float>(steps_));
    std::size_t i = 0;
    for (const Parameter& p : network_.parameters()) {
      network_.backend().adamw(p.value, first_[i], second_[i], p.gradient, p.used, adamw);
      ++i;
    }
    network_.zero_gradients();
  }

 private:
  Network& network_;
  std::vector<Array> first_, second_;
  int steps_ = 0;
};

TEST(Network, LearnsOneBatchByHeart) {
  const auto cpu = make_cpu_backend();
  for (const Precision precision : {Precision::real, Precision::bf16}) {
    auto network = Network::create(*cpu, config_of(kFamilies[0]), 1, 0.05,
                                   {.precision = precision, .checkpointing = true, .frozen = false});
    ASSERT_TRUE(network.ok());
    Optimizer optimizer(*network);
    const double first = pass(*network, 1);
    EXPECT_NEAR(first, std::log(static_cast<double>(kVocab)), 0.3);
    for (int step = 0; step < 100; ++step) {
      optimizer.step(0.01f);
      pass(*network, 1);
    }
    EXPECT_LT(pass(*network, 1), 0.01);
  }
}

TEST(Network, StaysAsItIsWithItselfAsTeacher) {
  const auto cpu = make_cpu_backend();
  for (const Precision precision : {Precision::real, Precision::bf16}) {
    const ModelConfig config = config_of(kFamilies[6]);
    Network student = stirred(*cpu, config, {.precision = precision, .checkpointing = false, .frozen = false});
    Network teacher = stirred(*cpu, config, {.precision = precision, .checkpointing = false, .frozen = true});
    Optimizer optimizer(student);
    for (const std::uint64_t batch : {1, 2}) {
      ASSERT_TRUE(student.forward(tokens(batch), kBatch).ok());
      ASSERT_TRUE(teacher.forward(tokens(batch), kBatch).ok());
      LossTarget target;
      target.spec.divergence = Divergence::forward_kl, target.spec.temperature = 2;
      target.teacher_hidden = teacher.hidden(), target.teacher_head = teacher.head();
      target.teacher_softcap = config.logit_softcap, target.teacher_scale = 1;
      const LossSums sums = student.head_loss(target);
      EXPECT_EQ(sums.divergence, 0);
      EXPECT_EQ(sums.teacher_rows, kBatch.rows());
      student.backward();
      optimizer.step(0.01f);
    }
    for (std::size_t i = 0; i < student.parameters().size(); ++i)
      expect_same(floats(*cpu, student.parameters()[i].value), floats(*cpu, teacher.parameters()[i].value),
                  student.parameters()[i].name);
  }
}

TEST(Network, AddsMicroBatchesUntilGradientsAreZeroed) {
  const auto cpu = make_cpu_backend();
  Network network = stirred(*cpu, config_of(kFamilies[0]));
  pass(network, 1);
  const auto once = gradients(network);
  pass(network, 1);
  const auto twice = gradients(network);
  for (std::size_t i = 0; i < once.size(); ++i)
    for (std::size_t j = 0; j < once[i].size(); ++j)
      ASSERT_NEAR(twice[i][j], 2 * once[i][j], 1e-5) << network.parameters()[i].name;
  network.zero_gradients();
  pass(network, 1);
  expect_same_gradients(gradients(network), once, network, "after zero_gradients");
}

}  // namespace
}  // namespace fettle::kit
