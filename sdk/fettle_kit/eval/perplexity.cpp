// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/eval/perplexity.h"

#include "fettle_kit/eval/windows.h"
#include "fettle_kit/kernels/kernels.h"

#include <tbb/parallel_for.h>

#include <cmath>
#include <numbers>

namespace fettle::kit {
namespace {

/// ln 2 times the bytes each window's predicted ids stand for: what NLL sums are divided by to give bits a byte.
std::vector<double> nats_per_bit_of_text(const TokenSet& windows, const Tokenizer& tokenizer) {
  std::vector<double> weights;
  for (std::int64_t w = 0; w < windows.sequences(); ++w) {
    std::int64_t bytes = 0;
    for (const std::int32_t id : windows.sequence(w).subspan(1)) bytes += bytes_of_token(tokenizer, id);
    weights.push_back(static_cast<double>(bytes) * std::numbers::ln2);
  }
  return weights;
}

}  // namespace

Result<Perplexity> perplexity(const Decoder& model, const TokenSet& windows, const Tokenizer* tokenizer,
                              const Watch& watch) {
  Perplexity result;
  result.windows = windows.sequences();
  result.tokens = windows.sequences() * (windows.length() - 1);
  result.window_nll.resize(static_cast<std::size_t>(windows.sequences()));
  std::vector<double> row_nll, row_confidence, window_confidence(result.window_nll.size());
  const Decoder* models[] = {&model};
  FETTLE_TRY(score_windows(models, windows, watch, [&](const ScoredRows& rows) {
    row_nll.resize(rows.targets.size());
    row_confidence.resize(rows.targets.size());
    tbb::parallel_for(std::size_t{0}, row_nll.size(), [&](std::size_t i) {
      const std::span<float> logits = rows.logits[0].row(static_cast<std::int64_t>(i));
      const double wanted = logits[static_cast<std::size_t>(rows.targets[i])];
      const double largest = kernels().max(logits.data(), logits.size());
      row_nll[i] = negative_log_likelihood(logits, rows.targets[i]);
      row_confidence[i] = std::exp(largest - wanted - row_nll[i]);
    });
    const auto window = static_cast<std::size_t>(rows.window);
    for (const double nll : row_nll) result.window_nll[window] += nll;
    for (const double confidence : row_confidence) window_confidence[window] += confidence;
  }));

  const std::vector<double> counts(result.window_nll.size(), static_cast<double>(windows.length() - 1));
  result.nll = mean_over_windows(result.window_nll, counts);
  if (!std::isfinite(result.nll.value)) return not_finite("the model");
  result.confidence = mean_over_windows(window_confidence, counts);
  const double ppl = std::exp(result.nll.value);
  result.ppl = {ppl, ppl * result.nll.standard_error};
  result.bits_per_byte = {NAN, NAN};
  if (tokenizer) result.bits_per_byte = mean_over_windows(result.window_nll, nats_per_bit_of_text(windows, *tokenizer));
  return result;
}

}  // namespace fettle::kit
