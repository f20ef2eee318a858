// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/generate.h"

#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/tensor/philox.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fettle::kit {
namespace {

constexpr std::int64_t prompt_rows = 512;  // of a long prompt that go through the model at a time

/// Ids by falling logit, the lower id first among equals, cut to the k first if k > 0.
std::vector<std::int32_t> likeliest(std::span<const float> logits, std::int64_t k) {
  std::vector<std::int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto before = [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
    return x > y || (x == y && a < b);
  };
  const std::int64_t count = static_cast<std::int64_t>(ids.size());
  const auto end = ids.begin() + (k > 0 ? std::min(k, count) : count);
  std::partial_sort(ids.begin(), end, ids.end(), before);
  ids.erase(end, ids.end());
  return ids;
}

}  // namespace

std::int32_t choose_token(std::span<const float> logits, const Sampling& sampling, std::uint64_t stream,
                          std::uint64_t step) {
  if (sampling.temperature <= 0) return static_cast<std::int32_t>(kernels().arg_max(logits.data(), logits.size()));
  std::vector<std::int32_t> ids = likeliest(logits, sampling.top_k);
  const double top = logits[static_cast<std::size_t>(ids.front())];
  std::vector<double> weights;
  for (const std::int32_t id : ids)
    weights.push_back(std::exp((logits[static_cast<std::size_t>(id)] - top) / sampling.temperature));

  double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (sampling.top_p < 1) {
    double kept = 0;
    std::size_t count = 0;
    while (count < weights.size() && (count == 0 || kept < sampling.top_p * total)) kept += weights[count++];
    weights.resize(count);
    total = kept;
  }
  double left = philox_uniform(sampling.seed, stream, step) * total;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0) return ids[i];
  }
  return ids[weights.size() - 1];
}

Result<std::vector<std::int32_t>> generate(const Decoder& model, std::span<const std::int32_t> prompt,
                                           std::int64_t max_tokens, const Sampling& sampling, std::uint64_t stream,
                                           const std::function<bool()>& stop,
                                           const std::function<void(std::int32_t)>& on_token) {
  const ModelConfig& config = model.config();
  const auto length = static_cast<std::int64_t>(prompt.size());
  if (length == 0)
    return Status(Code::invalid_argument, "the prompt is empty, and the model has no token to begin with");
  if (length >= config.context)
    return Status(Code::invalid_argument,
                  fmt::format("the prompt has {} tokens, but the model's context is {}", length, config.context));
  const std::int64_t wanted = std::min(max_tokens, config.context - length);
  std::vector<std::int32_t> made;
  if (wanted <= 0) return made;

  KvCache cache(config, length + wanted - 1);  // the last token made need not go through the model
  Rows x, logits(1, config.vocab);
  const auto pass = [&](std::span<const std::int32_t> ids) {
    const Batch batch{1, static_cast<std::int64_t>(ids.size())};
    x = Rows(batch.rows(), config.hidden);
    return model.forward(x, ids, batch, &cache, stop);
  };
  for (std::int64_t at = 0; at < length; at += prompt_rows)
    FETTLE_TRY(pass(
        prompt.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(std::min(prompt_rows, length - at)))));
  for (;;) {
    model.logits(logits, MutMatrix(x).rows_from(x.rows() - 1, 1));
    const std::int32_t token = choose_token(MutMatrix(logits).row(0), sampling, stream, made.size());
    if (std::find(config.eos.begin(), config.eos.end(), token) != config.eos.end()) return made;
    made.push_back(token);
    if (on_token) on_token(token);
    if (static_cast<std::int64_t>(made.size()) == wanted) return made;
    FETTLE_TRY(pass({&token, 1}));
  }
}

}  // namespace fettle::kit
