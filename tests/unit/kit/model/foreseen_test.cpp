// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/foreseen.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace fettle::kit {
namespace {

/// Two models by the attributes that planning knows.
class Foreseen : public ::testing::Test {
 protected:
  Inputs inputs(std::vector<fettle_attribute> candidate, std::vector<fettle_attribute> reference) {
    first_ = std::move(candidate), second_ = std::move(reference);
    raw_ = {input("candidate", first_), input("reference", second_)};
    run_.inputs = raw_.data(), run_.input_count = 2;
    return Inputs(run_);
  }

 private:
  static fettle_input input(const char* port, const std::vector<fettle_attribute>& attributes) {
    fettle_input in{};
    in.port = port, in.kind = "model";
    in.attributes = attributes.data(), in.attribute_count = static_cast<std::uint32_t>(attributes.size());
    return in;
  }
  std::vector<fettle_attribute> first_, second_;
  std::vector<fettle_input> raw_;
  fettle_run run_{};
};

TEST_F(Foreseen, NamesAFamilyThatTheEngineDoesNotRun) {
  const Status status = check_family(inputs({{"architecture", "gpt2"}}, {}), "candidate");
  EXPECT_EQ(status.code(), Code::unsupported);
  EXPECT_EQ(status.message().substr(0, 61), "model type 'gpt2' is not supported; supported are llama, mist");
  EXPECT_EQ(status.where(), "candidate");
}

TEST_F(Foreseen, KnowsFamiliesByTheNamesOfBothFormats) {
  EXPECT_TRUE(check_family(inputs({{"architecture", "gemma3_text"}}, {}), "candidate").ok());
  EXPECT_TRUE(check_family(inputs({{"architecture", "gemma3"}}, {}), "candidate").ok());
}

TEST_F(Foreseen, LeavesToTheRunWhatNobodyKnows) {
  EXPECT_TRUE(check_family(inputs({}, {}), "candidate").ok());
  EXPECT_TRUE(check_same_vocabulary(inputs({}, {{"vocab", "1024"}}), "candidate", "reference").ok());
}

TEST_F(Foreseen, ComparesVocabularies) {
  EXPECT_TRUE(check_same_vocabulary(inputs({{"vocab", "1024"}}, {{"vocab", "1024"}}), "candidate", "reference").ok());
  EXPECT_EQ(
      check_same_vocabulary(inputs({{"vocab", "1024"}}, {{"vocab", "8192"}}), "candidate", "reference").message(),
      "the model at 'candidate' has a vocabulary of 1024, the one at 'reference' of 8192; they cannot be compared "
      "token by token");
}

}  // namespace
}  // namespace fettle::kit
