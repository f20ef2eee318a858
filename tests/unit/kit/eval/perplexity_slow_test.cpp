// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/eval/perplexity.h"
#include "fettle_kit/eval/windows.h"

#include "unit/kit/eval/prose.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <string>

namespace fettle::kit {
namespace {

/// window_nll_sums of the goldens are f64.
std::vector<double> doubles(const SafetensorsReader& file, const std::string& name) {
  const TensorView& t = prose::tensor(file, name);
  std::vector<double> values(static_cast<std::size_t>(t.elements()));
  std::memcpy(values.data(), t.bytes.data(), t.bytes.size());
  return values;
}

class WholeText : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!prose::available()) GTEST_SKIP() << "the prose models and their text are not here";
  }

  static Perplexity measure(const std::string& name, std::int64_t windows) {
    const Tokenizer tokenizer = prose::tokenizer(name);
    const TokenSet set = prose::must(windows_of_text(tokenizer, prose::text(), 512, windows));
    const Perplexity result = prose::must(perplexity(prose::decoder(name), set, &tokenizer));
    const auto expected = doubles(prose::golden(name), "window_nll_sums");
    for (std::size_t w = 0; w < result.window_nll.size(); ++w)
      EXPECT_NEAR(result.window_nll[w] / 511, expected[w] / 511, 1e-5) << "window " << w;
    return result;
  }
};

TEST_F(WholeText, Prose3mAgreesWithTransformers) {
  const Perplexity result = measure("prose-3m", 0);
  EXPECT_EQ(result.tokens, 252945);
  EXPECT_NEAR(result.nll.value, 3.380201439564593, 1e-6);
  EXPECT_NEAR(result.ppl.value, 29.376688144576356, 1e-4);
  EXPECT_NEAR(result.bits_per_byte.value, 1.9653420317743782, 1e-5);
}

TEST_F(WholeText, FortyWindowsOfProse34mAgreeWithItsReference) {
  const Perplexity result = measure("prose-34m", 40);
  EXPECT_NEAR(result.nll.value, 3.642510, 2e-6);
  EXPECT_NEAR(result.ppl.value, 38.1876, 1e-4);
}

}  // namespace
}  // namespace fettle::kit
