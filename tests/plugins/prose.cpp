// SPDX-License-Identifier: Apache-2.0
#include "plugins/prose.h"

#include "fettle_kit/eval/perplexity.h"
#include "fettle_kit/eval/windows.h"
#include "fettle_kit/text/token_set.h"

#include "plugins/harness.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

namespace fettle::test {
namespace {

using namespace fettle::kit;

const std::string data = std::string(FETTLE_TEST_SOURCE_DIR) + "/pipelines/data";

const TokenSet& windows() {
  static const TokenSet all =
      *windows_of_text(*Tokenizer::open(data + "/prose-3m"), *read_text(data + "/held-out.txt"), 128, 0);
  return all;
}

TokenSet part(std::int64_t first, std::int64_t count) {
  const TokenSet& all = windows();
  const auto from = all.ids().begin() + first * all.length();
  return {{from, from + count * all.length()}, all.length(), all.tokenizer_digest(), all.bos()};
}

}  // namespace

std::string prose_model() { return data + "/prose-3m"; }

std::string prose_tokens(std::int64_t sequences) {
  const std::string folder = temporary_folder();
  const Status saved = part(0, sequences).save(folder);
  EXPECT_TRUE(saved.ok()) << saved.message();
  return folder;
}

std::string prose_calibration() { return prose_tokens(windows().sequences() / 2); }

double prose_nll(const std::string& model) {
  const std::int64_t half = windows().sequences() / 2;
  return perplexity(*Decoder::open(*Weights::open(model)), part(half, windows().sequences() - half))->nll.value;
}

std::string file_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace fettle::test
