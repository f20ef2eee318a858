// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/distill/targets.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/model/decoder.h"
#include "fettle_kit/tensor/half.h"
#include "fettle_kit/text/token_set.h"

#include "plugins/harness.h"
#include "unit/kit/model/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

namespace fettle::test {
namespace {

using namespace fettle::kit;

constexpr std::int64_t kSequences = 5, kLength = 12, kVocab = 48;

std::string teacher() {
  static const std::string folder = [] {
    const std::string made = temporary_folder();
    EXPECT_TRUE(write_tiny_model(made).ok());
    return made;
  }();
  return folder;
}

TokenSet token_set(std::int32_t factor = 7, std::int64_t length = kLength) {
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < kSequences * length; ++i) ids.push_back(i * factor % kVocab);
  return {ids, length, "sha256:0", true};
}

std::string tokens(const TokenSet& set = token_set()) {
  const std::string folder = temporary_folder();
  EXPECT_TRUE(set.save(folder).ok());
  return folder;
}

Step targets() {
  return Step("distill_targets", "distill.targets")
      .input("teacher", "model", teacher(), {}, "sha256:teacher")
      .input("data", "tokens", tokens());
}

/// Log-probabilities of the teacher at every row of the targets, [sequences * (length - 1)][vocab].
std::vector<std::vector<double>> teacher_log_p(double temperature) {
  const auto model = Decoder::open(*Weights::open(teacher()));
  const TokenSet set = token_set();
  std::vector<std::vector<double>> all;
  for (std::int64_t s = 0; s < kSequences; ++s) {
    Rows hidden(kLength, model->config().hidden), logits(kLength - 1, kVocab);
    EXPECT_TRUE(model->forward(hidden, set.sequence(s), {1, kLength}).ok());
    model->logits(logits, MutMatrix(hidden).rows_from(0, kLength - 1));
    for (std::int64_t i = 0; i + 1 < kLength; ++i) {
      std::vector<double> row;
      double sum = 0;
      for (const float x : MutMatrix(logits).row(i)) row.push_back(x / temperature), sum += std::exp(row.back());
      for (double& x : row) x -= std::log(sum);
      all.push_back(row);
    }
  }
  return all;
}

TEST(DistillTargets, HiddenStatesAreTheTeachersInF16) {
  const StepResult r = targets().run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_NEAR(r.value("bytes_per_token"), 2 * 32, 10);  // the header of a small part counts too
  EXPECT_EQ(r.value("tokens"), kSequences * (kLength - 1));
  const auto read = Targets::open(r.outputs.at("targets"));
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(read->header().teacher, "sha256:teacher");
  EXPECT_EQ(read->head().rows, kVocab);
  const auto model = Decoder::open(*Weights::open(teacher()));
  const TokenSet set = token_set();
  for (std::int64_t s = 0; s < kSequences; ++s) {
    Rows hidden(kLength, 32);
    ASSERT_TRUE(model->forward(hidden, set.sequence(s), {1, kLength}).ok());
    std::vector<float> stored(static_cast<std::size_t>((kLength - 1) * 32));
    ASSERT_TRUE(read->read_hidden(s, stored).ok());
    for (std::size_t i = 0; i < stored.size(); ++i)
      ASSERT_EQ(stored[i], half_to_float(float_to_half(MutMatrix(hidden).data[i])));
  }
}

TEST(DistillTargets, TopTokensAndTheirTailSumToOne) {
  const StepResult r = targets().param("content", "top").param("k", 5).param("temperature", 2).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_GT(r.value("bytes_per_token"), 5 * 4 + 4);
  const auto read = Targets::open(r.outputs.at("targets"));
  ASSERT_TRUE(read.ok()) << read.error().message();
  const auto expected = teacher_log_p(2);
  std::vector<std::int32_t> ids(5 * (kLength - 1));
  std::vector<float> log_p(ids.size());
  for (std::int64_t s = 0; s < kSequences; ++s) {
    ASSERT_TRUE(read->read_known(s, ids, log_p).ok());
    for (std::size_t i = 0; i + 1 < kLength; ++i) {
      const auto& row = expected[static_cast<std::size_t>(s) * (kLength - 1) + i];
      std::vector<double> sorted = row;
      std::ranges::sort(sorted, std::greater<>());
      for (std::size_t j = 0; j < 5; ++j) {
        const double p = row[static_cast<std::size_t>(ids[5 * i + j])];
        EXPECT_GE(p, sorted[4] - 1e-6);
        EXPECT_NEAR(log_p[5 * i + j], p, 2e-3);  // f16 below 4
      }
    }
  }
}

TEST(DistillTargets, WithoutTheTailTheTopTokensSumToOneAlone) {
  const StepResult r = targets().param("content", "top").param("k", 5).param("tail", "drop").run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto read = Targets::open(r.outputs.at("targets"));
  ASSERT_TRUE(read.ok()) << read.error().message();
  const auto expected = teacher_log_p(1);
  std::vector<std::int32_t> ids(5 * (kLength - 1));
  std::vector<float> log_p(ids.size());
  for (std::int64_t s = 0; s < kSequences; ++s) {
    ASSERT_TRUE(read->read_known(s, ids, log_p).ok());
    for (std::size_t i = 0; i + 1 < kLength; ++i) {
      const auto& row = expected[static_cast<std::size_t>(s) * (kLength - 1) + i];
      double mass = 0, sum = 0;
      for (std::size_t j = 0; j < 5; ++j) mass += std::exp(row[static_cast<std::size_t>(ids[5 * i + j])]);
      for (std::size_t j = 0; j < 5; ++j) {
        EXPECT_NEAR(log_p[5 * i + j], row[static_cast<std::size_t>(ids[5 * i + j])] - std::log(mass), 2e-3);
        sum += std::exp(double{log_p[5 * i + j]});
      }
      EXPECT_NEAR(sum, 1, 1e-6);
    }
  }
}

TEST(DistillTargets, DrawsFollowTheTeacher) {
  const StepResult r = targets().param("content", "samples").param("draws", 200).seed(3).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto read = Targets::open(r.outputs.at("targets"));
  ASSERT_TRUE(read.ok()) << read.error().message();
  const auto expected = teacher_log_p(1);
  std::vector<std::int32_t> ids(200 * (kLength - 1));
  std::vector<float> log_p(ids.size());
  double squares = 0;
  for (std::int64_t s = 0; s < kSequences; ++s) {
    ASSERT_TRUE(read->read_known(s, ids, log_p).ok());
    for (std::size_t i = 0; i + 1 < kLength; ++i) {
      double sum = 0;
      for (std::size_t j = 0; j < 200; ++j) {
        const auto id = ids[200 * i + j];
        if (id < 0) continue;
        const double p =
            std::exp(expected[static_cast<std::size_t>(s) * (kLength - 1) + i][static_cast<std::size_t>(id)]);
        const double share = std::exp(double{log_p[200 * i + j]});
        squares += (share - p) * (share - p) * 200 / (p * (1 - p));
        sum += share;
      }
      EXPECT_NEAR(sum, 1, 1e-5);
    }
  }
  // A chi-square over about 48 ids of 55 rows: the mean of each term is 1 (ids never drawn are left out).
  EXPECT_LT(squares / (kSequences * (kLength - 1) * kVocab), 1.2);
  EXPECT_GT(squares / (kSequences * (kLength - 1) * kVocab), 0.6);
}

TEST(DistillTargets, SameBytesForAnyNumberOfThreads) {
  for (const char* content : {"hidden", "top", "samples"}) {
    std::string bytes[2];
    for (const unsigned threads : {1u, 4u}) {
      const StepResult r = targets().param("content", content).threads(threads).run();
      ASSERT_TRUE(r.ok()) << r.message;
      std::ifstream file(r.outputs.at("targets") + "/part-00000.safetensors", std::ios::binary);
      bytes[threads == 4] = std::string(std::istreambuf_iterator<char>(file), {});
    }
    EXPECT_EQ(bytes[0], bytes[1]) << content;
    EXPECT_GT(bytes[0].size(), 100u);
  }
}

TEST(DistillTargets, RefusesOtherTokensByName) {
  const StepResult r = targets().run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto read = Targets::open(r.outputs.at("targets"));
  ASSERT_TRUE(read.ok());
  EXPECT_TRUE(read->check_bound_to(token_set(), kVocab).ok());
  EXPECT_EQ(read->check_bound_to(token_set(11), kVocab).message(),
            "the targets were made from other tokens than those of port 'data'; make them again with distill.targets");
  EXPECT_EQ(read->check_bound_to(token_set(7, 10), kVocab).message(),
            "the targets are for 5 sequences of 12 tokens, port 'data' has 5 of 10");
  EXPECT_EQ(read->check_bound_to({std::vector<std::int32_t>(60), 12, "sha256:1", true}, kVocab).message(),
            "the targets were made with the tokenizer 'sha256:0', the tokens of port 'data' with 'sha256:1'");
}

TEST(DistillTargets, RefusesTokensThatAreTooLongOrEmpty) {
  const auto message = [](const TokenSet& set) {
    return Step("distill_targets", "distill.targets")
        .input("teacher", "model", teacher())
        .input("data", "tokens", tokens(set))
        .run()
        .message;
  };
  EXPECT_EQ(message(token_set(7, 65)),
            "the sequences are 65 ids long, but the teacher's context is 64; make them shorter with 'length' of "
            "data.tokens");
  EXPECT_EQ(message({{}, 12, "sha256:0", true}), "there are no sequences");
}

TEST(DistillTargets, StopsWhenCancelled) { EXPECT_EQ(targets().cancel_at_poll(2).run().code, FETTLE_CANCELLED); }

TEST(DistillTargets, TakesThePartsThatAKilledRunFinished) {
  const StepResult whole = targets().run();
  ASSERT_TRUE(whole.ok()) << whole.message;
  const std::string part = "/part-00000.safetensors", folder = temporary_folder();
  std::filesystem::copy(whole.outputs.at("targets") + part, folder + part);
  // Nothing is left to compute, so nobody asks whether to stop.
  const StepResult resumed = targets().checkpoint(folder).cancel_at_poll(1).run();
  ASSERT_TRUE(resumed.ok()) << resumed.message;
  const auto bytes = [](const StepResult& r, const std::string& name) {
    std::ifstream file(r.outputs.at("targets") + name, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  for (const std::string name : {"/part-00000.safetensors", "/targets.json", "/head.safetensors"})
    EXPECT_EQ(bytes(resumed, name), bytes(whole, name)) << name;

  // A part of other targets is none.
  const std::string other = temporary_folder();
  std::filesystem::copy(whole.outputs.at("targets") + part, other + part);
  EXPECT_EQ(targets().param("content", "top").checkpoint(other).cancel_at_poll(1).run().code, FETTLE_CANCELLED);
}

TEST(DistillTargets, EstimatesTheDiskAndForetellsTheTokenizer) {
  const Attributes model{{"parameters", "1000"}, {"hidden", "256"}, {"vocab", "4096"}};
  const StepResult r =
      Step("distill_targets", "distill.targets")
          .input("teacher", "model", "", model)
          .input("data", "tokens", "", {{"sequences", "10"}, {"length", "100"}, {"tokenizer", "sha256:9"}})
          .param("content", "top")
          .estimate();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.estimate.disk_bytes, 2 * 1000 * (64 * 4 + 4));
  EXPECT_EQ(r.foretold.at("targets").at("tokenizer"), "sha256:9");
}

/// A copy of good targets whose part or header can be spoilt.
class SpoiltTargets : public ::testing::Test {
 protected:
  std::string make(const char* content) {
    const StepResult r = targets().param("content", content).param("k", 4).param("draws", 6).run();
    EXPECT_TRUE(r.ok()) << r.message;
    folder_ = r.outputs.at("targets");
    return folder_;
  }
  std::string part() const { return folder_ + "/part-00000.safetensors"; }
  /// Overwrites the first bytes of a tensor.
  void spoil(const std::string& tensor, const std::vector<std::uint8_t>& bytes) {
    const auto file = SafetensorsReader::open(part());
    const auto at = file->find(tensor)->bytes.data() - file->file().bytes().data();
    std::fstream out(part(), std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(at);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  std::string read_message(std::int64_t sequence = 0) {
    const auto read = Targets::open(folder_);
    if (!read) return read.error().message().substr(read.error().message().find(folder_) + folder_.size());
    std::vector<std::int32_t> ids(static_cast<std::size_t>(read->header().k * (kLength - 1)));
    std::vector<float> numbers(read->header().content == TargetContent::hidden ? 32 * (kLength - 1) : ids.size());
    const Status s = read->header().content == TargetContent::hidden ? read->read_hidden(sequence, numbers)
                                                                     : read->read_known(sequence, ids, numbers);
    return s.ok() ? "" : s.message().substr(folder_.size());
  }
  std::string folder_;
};

TEST_F(SpoiltTargets, IdsOutsideTheVocabulary) {
  make("top");
  EXPECT_EQ(read_message(), "");
  spoil("ids", {255, 255});
  EXPECT_EQ(read_message(),
            "/part-00000.safetensors: row 0 of sequence 0: the ids are not ascending numbers inside the vocabulary");
}

TEST_F(SpoiltTargets, ProbabilitiesThatDoNotSumToOne) {
  make("top");
  spoil("tail", {0, 0, 0, 0});
  EXPECT_THAT(read_message().substr(0, 60),
              ::testing::StartsWith("/part-00000.safetensors: row 0 of sequence 0: the probab"));
  spoil("tail", {0, 0, 192, 127});  // NaN
  EXPECT_NE(read_message(), "");
}

TEST_F(SpoiltTargets, ALogProbabilityThatIsNoNumber) {
  make("top");
  spoil("log_p", {0, 0x7e});
  EXPECT_EQ(read_message(), "/part-00000.safetensors: row 0 of sequence 0: a log-probability is no number below 0");
}

TEST_F(SpoiltTargets, CountsThatDoNotSumToTheDraws) {
  make("samples");
  EXPECT_EQ(read_message(), "");
  spoil("counts", {200});
  EXPECT_THAT(read_message(), ::testing::HasSubstr("row 0 of sequence 0: the counts sum to "));
  make("samples");
  spoil("distinct", {7});
  EXPECT_THAT(read_message(), ::testing::HasSubstr("/part-00000.safetensors: tensor 'ids' has "));
}

TEST_F(SpoiltTargets, InfiniteHiddenStates) {
  make("hidden");
  spoil("hidden", {0, 0x7c});
  EXPECT_EQ(read_message(), "/part-00000.safetensors: row 0 of sequence 0: the hidden state is not finite");
}

TEST_F(SpoiltTargets, AnotherTeachersPart) {
  make("hidden");
  const std::string good = folder_;
  const StepResult other = Step("distill_targets", "distill.targets")
                               .input("teacher", "model", teacher(), {}, "sha256:another")
                               .input("data", "tokens", tokens())
                               .run();
  std::filesystem::copy_file(other.outputs.at("targets") + "/part-00000.safetensors", part(),
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(read_message(),
            "/part-00000.safetensors: belongs to other targets: its \"teacher\" differs from that of targets.json");
}

TEST_F(SpoiltTargets, HeadersThatContradictTheirFiles) {
  for (const auto& [key, value, message] : std::vector<std::tuple<std::string, Json, std::string>>{
           {"content", "logits", "/targets.json: unknown content 'logits', expected hidden, top or samples"},
           {"sequences", -1, "/targets.json: \"sequences\" is -1, expected 1 to 4294967296"},
           {"sequences", "5", "/targets.json: \"sequences\" is missing or no whole number"},
           {"hidden", 31, "/head.safetensors: expected a tensor 'head' [48, 31] of f16, bf16 or f32"},
           {"length", 13, "/part-00000.safetensors: expected a tensor 'hidden' [60, 32] of f16"},
           {"sequences_per_part", 4294967296,
            "/part-00000.safetensors: belongs to other targets: its \"content\" differs from that of targets.json"},
           {"tokenizer", nullptr, "/targets.json: \"tokenizer\" is missing or no string"}}) {
    make("hidden");
    Json header = *read_json_file(folder_ + "/targets.json");
    header[key] = value;
    ASSERT_TRUE(write_json_file(folder_ + "/targets.json", header).ok());
    EXPECT_EQ(read_message(), message);
  }
}

TEST_F(SpoiltTargets, TruncatedParts) {
  make("samples");
  const auto size = std::filesystem::file_size(part());
  for (std::uintmax_t n = 0; n < size; n += 1 + size / 40) {
    std::filesystem::resize_file(part(), size - n - 1);
    EXPECT_NE(read_message(), "") << n;
    make("samples");
  }
}

}  // namespace
}  // namespace fettle::test
