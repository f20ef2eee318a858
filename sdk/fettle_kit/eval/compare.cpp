// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/eval/compare.h"

#include "fettle_kit/kernels/kernels.h"

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include <cmath>
#include <span>
#include <vector>

namespace fettle::kit {
namespace {

/// What one predicted position, or the sum over a window of them, yields.
struct Difference {
  double nll = 0, reference_nll = 0, kl = 0, top1 = 0;
};

/// Softmax of a row: probability i is values[i] / sum, log-probability i is logits[i] - log_sum.
struct Softmax {
  std::vector<float> values;
  double sum = 0, log_sum = 0;

  explicit Softmax(std::span<const float> logits) : values(logits.size()) {
    const float top = kernels().max(logits.data(), logits.size());
    sum = kernels().exp_sum(values.data(), logits.data(), top, logits.size());
    log_sum = double{top} + std::log(sum);
  }
};

Difference difference(std::span<const float> candidate, std::span<const float> reference, std::int32_t target) {
  const Softmax q(candidate), p(reference);
  const auto t = static_cast<std::size_t>(target);
  Difference d{q.log_sum - candidate[t], p.log_sum - reference[t], 0, 0};
  for (std::size_t i = 0; i < reference.size(); ++i)
    d.kl += p.values[i] * ((reference[i] - p.log_sum) - (candidate[i] - q.log_sum));
  d.kl /= p.sum;
  const std::size_t n = reference.size();
  d.top1 = kernels().arg_max(candidate.data(), n) == kernels().arg_max(reference.data(), n) ? 1 : 0;
  return d;
}

Mean mean_of(const std::vector<Difference>& windows, double tokens_each, double Difference::*member) {
  std::vector<double> sums;
  for (const Difference& window : windows) sums.push_back(window.*member);
  return mean_over_windows(sums, std::vector<double>(sums.size(), tokens_each));
}

Mean exp_of(const Mean& nll) { return {std::exp(nll.value), std::exp(nll.value) * nll.standard_error}; }

}  // namespace

Result<Comparison> compare(const Decoder& candidate, const Decoder& reference, const TokenSet& windows,
                           const Watch& watch) {
  if (candidate.config().vocab != reference.config().vocab)
    return Status(
        Code::invalid_argument,
        fmt::format("the candidate has a vocabulary of {}, the reference one of {}; they cannot be compared token "
                    "by token",
                    candidate.config().vocab, reference.config().vocab));
  std::vector<Difference> sums(static_cast<std::size_t>(windows.sequences())), rows_found;
  const Decoder* models[] = {&candidate, &reference};
  FETTLE_TRY(score_windows(models, windows, watch, [&](const ScoredRows& rows) {
    rows_found.resize(rows.targets.size());
    tbb::parallel_for(std::size_t{0}, rows_found.size(), [&](std::size_t i) {
      const auto row = static_cast<std::int64_t>(i);
      rows_found[i] = difference(rows.logits[0].row(row), rows.logits[1].row(row), rows.targets[i]);
    });
    Difference& sum = sums[static_cast<std::size_t>(rows.window)];
    for (const Difference& d : rows_found) {
      sum.nll += d.nll;
      sum.reference_nll += d.reference_nll;
      sum.kl += d.kl;
      sum.top1 += d.top1;
    }
  }));

  const auto each = static_cast<double>(windows.length() - 1);
  Comparison c;
  c.windows = windows.sequences();
  c.tokens = windows.sequences() * (windows.length() - 1);
  c.ppl = exp_of(mean_of(sums, each, &Difference::nll));
  c.reference_ppl = exp_of(mean_of(sums, each, &Difference::reference_nll));
  if (!std::isfinite(c.ppl.value)) return not_finite("the candidate");
  if (!std::isfinite(c.reference_ppl.value)) return not_finite("the reference");
  c.kl = mean_of(sums, each, &Difference::kl);
  c.top1 = mean_of(sums, each, &Difference::top1);
  for (Difference& window : sums) window.nll -= window.reference_nll;
  c.delta_nll = mean_of(sums, each, &Difference::nll);
  return c;
}

}  // namespace fettle::kit
