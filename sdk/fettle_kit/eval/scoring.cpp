// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/eval/scoring.h"

#include "fettle_kit/kernels/kernels.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace fettle::kit {
namespace {

Status check_length(const Decoder& model, const TokenSet& windows) {
  if (windows.length() < 2)
    return {Code::invalid_argument,
            fmt::format("the sequences are {} ids long; at least 2 are needed", windows.length())};
  if (windows.length() > model.config().context)
    return {Code::invalid_argument,
            fmt::format("the sequences are {} ids long, but the model's context is {}; make them "
                        "shorter with 'length'",
                        windows.length(), model.config().context)};
  return {};
}

}  // namespace

Status score_windows(std::span<const Decoder* const> models, const TokenSet& windows, const Watch& watch,
                     const std::function<void(const ScoredRows&)>& visit) {
  std::int64_t chunk = windows.length();
  for (const Decoder* model : models) {
    FETTLE_TRY(check_length(*model, windows));
    chunk = std::min(chunk, model->logit_rows());
  }
  std::vector<Rows> logits;
  for (const Decoder* model : models) logits.emplace_back(chunk, model->config().vocab);

  const std::int64_t length = windows.length(), total = windows.sequences();
  const std::int64_t per_batch = tokens_at_once(length) / length;
  for (std::int64_t first = 0; first < total; first += per_batch) {
    const Batch batch{std::min(per_batch, total - first), length};
    const auto ids =
        windows.ids().subspan(static_cast<std::size_t>(first * length), static_cast<std::size_t>(batch.rows()));
    std::vector<Rows> hidden;
    for (const Decoder* model : models) {
      hidden.emplace_back(batch.rows(), model->config().hidden);
      FETTLE_TRY(model->forward(hidden.back(), ids, batch, nullptr, watch.stop));
    }
    for (std::int64_t w = 0; w < batch.sequences; ++w) {
      for (std::int64_t begin = 0; begin < length - 1; begin += chunk) {
        if (watch.stop && watch.stop()) return {Code::cancelled, "cancelled"};
        const std::int64_t rows = std::min(chunk, length - 1 - begin), at = w * length + begin;
        std::vector<MutMatrix> views;
        for (std::size_t m = 0; m < models.size(); ++m) {
          views.push_back(MutMatrix(logits[m]).rows_from(0, rows));
          models[m]->logits(views.back(), MutMatrix(hidden[m]).rows_from(at, rows));
        }
        visit({first + w, ids.subspan(static_cast<std::size_t>(at + 1), static_cast<std::size_t>(rows)), views});
      }
      if (watch.progress) watch.progress(first + w + 1, total);
    }
  }
  return {};
}

double negative_log_likelihood(std::span<float> logits, std::int32_t target) {
  const double wanted = logits[static_cast<std::size_t>(target)];
  const float top = kernels().max(logits.data(), logits.size());
  const float sum = kernels().exp_sum(logits.data(), logits.data(), top, logits.size());
  return std::log(double{sum}) + double{top} - wanted;
}

Status not_finite(std::string_view which) {
  return {Code::corrupt_data,
          fmt::format("{} predicts NaN or infinity; look for such values in its weights, or in the step that made them",
                      which)};
}

}  // namespace fettle::kit
