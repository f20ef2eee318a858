// SPDX-License-Identifier: Apache-2.0
#include "depth.h"

#include "fettle/technique.h"
#include "fettle_kit/eval/scoring.h"

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>

namespace depth {
namespace {

using fettle::Code;
using fettle::Status;
using namespace fettle::kit;

Status bad(const char* key, std::string message) { return {Code::invalid_argument, std::move(message), key}; }

void copy_rows(MutMatrix to, ConstMatrix from) {
  std::memcpy(to.data, from.data, static_cast<std::size_t>(from.rows * from.cols) * sizeof(float));
}

/// Adds up, in the order of the rows, what the model predicts of each sequence's next tokens. x goes through the norm.
class LossSum {
 public:
  explicit LossSum(const Decoder& model) : model_(model), logits_(model.logit_rows(), model.config().vocab) {}

  double add(MutMatrix x, std::span<const std::int32_t> ids, const Batch& batch) {
    model_.final_norm(x);
    double sum = 0;
    for (std::int64_t s = 0; s < batch.sequences; ++s) {
      const std::int64_t end = (s + 1) * batch.length - 1;  // the last token predicts nothing we know
      for (std::int64_t row = s * batch.length; row < end;) {
        const std::int64_t rows = std::min(logits_.rows(), end - row);
        const MutMatrix logits = MutMatrix(logits_).rows_from(0, rows);
        model_.logits(logits, x.rows_from(row, rows));
        std::vector<double> losses(static_cast<std::size_t>(rows));
        tbb::parallel_for(std::int64_t{0}, rows, [&](std::int64_t i) {
          losses[static_cast<std::size_t>(i)] =
              negative_log_likelihood(logits.row(i), ids[static_cast<std::size_t>(row + i + 1)]);
        });
        for (const double loss : losses) sum += loss;
        row += rows;
      }
    }
    return sum;
  }

 private:
  const Decoder& model_;
  Rows logits_;
};

std::vector<double> ranks(std::span<const double> values) {
  std::vector<double> ranks;
  for (const double v : values) {
    double below = 0, equal = 0;
    for (const double w : values) below += w < v, equal += w == v;
    ranks.push_back(below + (equal + 1) / 2);
  }
  return ranks;
}

}  // namespace

Result<std::int64_t> count_to_remove(const Wish& wish, std::int64_t dense) {
  if (!wish.remove.empty()) {
    std::set<std::int64_t> seen;
    for (const std::int64_t layer : wish.remove) {
      if (layer < 0 || layer >= dense)
        return bad("remove", fmt::format("there is no block {}; the model has 0 to {}", layer, dense - 1));
      if (!seen.insert(layer).second) return bad("remove", fmt::format("block {} is listed twice", layer));
    }
    if (static_cast<std::int64_t>(seen.size()) == dense)
      return bad("remove", fmt::format("all {} blocks are listed, so nothing would be left", dense));
    return static_cast<std::int64_t>(seen.size());
  }
  const char* const key = wish.layer_count ? "layer_count" : "layers";
  std::int64_t left = dense;
  if (wish.layer_count) {
    if (*wish.layer_count > dense)
      return bad(key, fmt::format("layer_count is {}, but the model has {}", *wish.layer_count, dense));
    left = *wish.layer_count;
  } else if (*wish.layers < 1) {
    left = std::max<std::int64_t>(1, std::llround(*wish.layers * static_cast<double>(dense)));
    if (left == dense)
      return bad(key, fmt::format("{} of {} blocks rounds to all of them; {} of them are {:.3f}", *wish.layers, dense,
                                  dense - 1, static_cast<double>(dense - 1) / static_cast<double>(dense)));
  }
  const std::int64_t free = std::max<std::int64_t>(0, dense - wish.protect_first - wish.protect_last);
  if (dense - left > free)
    return bad(key, fmt::format("{} of {} blocks would have to go, but only {} may: the first {} and the last {} are "
                                "protected; keep more, or lower 'protect_first' or 'protect_last'",
                                dense - left, dense, free, wish.protect_first, wish.protect_last));
  return dense - left;
}

std::vector<Run> removable(const Wish& wish, std::int64_t dense, std::int64_t count, const std::vector<bool>& gone) {
  std::vector<Run> runs;
  for (std::int64_t first = wish.protect_first; first + count <= dense - wish.protect_last; ++first) {
    const auto begin = gone.begin() + first;
    if (std::none_of(begin, begin + count, [](bool g) { return g; })) runs.push_back({first, count});
  }
  return runs;
}

std::vector<std::int64_t> least(const Wish& wish, std::span<const float> scores, std::int64_t count) {
  if (count == 0) return {};
  const auto dense = static_cast<std::int64_t>(scores.size());
  auto runs = removable(wish, dense, wish.contiguous ? count : 1, std::vector<bool>(scores.size()));
  const auto total = [&](const Run& run) {
    double sum = 0;
    for (std::int64_t i = run.first; i < run.first + run.count; ++i)
      sum += static_cast<double>(scores[static_cast<std::size_t>(i)]);
    return sum;
  };
  std::stable_sort(runs.begin(), runs.end(), [&](const Run& a, const Run& b) { return total(a) < total(b); });
  runs.resize(static_cast<std::size_t>(wish.contiguous ? 1 : count));
  std::vector<std::int64_t> removed;
  for (const Run& run : runs)
    for (std::int64_t i = 0; i < run.count; ++i) removed.push_back(run.first + i);
  std::sort(removed.begin(), removed.end());
  return removed;
}

Result<Losses> losses_without(const Decoder& model, const TokenSet& tokens, const std::vector<bool>& gone,
                              std::span<const Run> runs, const std::function<bool()>& stop) {
  const std::int64_t length = tokens.length(), layers = model.config().layers, hidden = model.config().hidden;
  if (length < 2 || length > model.config().context)
    return Status(Code::invalid_argument,
                  fmt::format("the sequences are {} ids long, but must be 2 to {}, the model's context", length,
                              model.config().context),
                  "calibration");
  const Decoder::Positions positions = model.positions(0, length);
  const std::int64_t at_once = std::max<std::int64_t>(1, portion_rows / length);
  LossSum loss(model);
  Losses sums{0, std::vector<double>(runs.size())};
  for (std::int64_t first = 0; first < tokens.sequences(); first += at_once) {
    const Batch batch{std::min(at_once, tokens.sequences() - first), length};
    const auto ids =
        tokens.ids().subspan(static_cast<std::size_t>(first * length), static_cast<std::size_t>(batch.rows()));
    const auto through = [&](MutMatrix x, std::int64_t from, std::int64_t end) {
      for (std::int64_t layer = from; layer < end; ++layer)
        if (!gone[static_cast<std::size_t>(layer)]) model.block(x, layer, batch, positions);
    };
    std::vector<Rows> before;  // a run each
    Rows x(batch.rows(), hidden);
    FETTLE_TRY(model.embed(x, ids));
    std::int64_t layer = 0;
    for (const Run& run : runs) {  // ascending
      through(x, layer, run.first);
      layer = run.first;
      copy_rows(before.emplace_back(batch.rows(), hidden), x);
      if (stop()) return fettle::cancelled_status();
    }
    through(x, layer, layers);
    sums.all += loss.add(x, ids, batch);
    for (std::size_t i = 0; i < runs.size(); ++i) {
      if (stop()) return fettle::cancelled_status();
      through(before[i], runs[i].first + runs[i].count, layers);
      sums.without[i] += loss.add(before[i], ids, batch);
      before[i] = {};
    }
  }
  const auto predicted = static_cast<double>(tokens.sequences() * (length - 1));
  sums.all /= predicted;
  for (double& sum : sums.without) sum = std::isfinite(sum) ? sum / predicted : std::numeric_limits<double>::infinity();
  if (!std::isfinite(sums.all)) return not_finite("the model");
  return sums;
}

double rank_correlation(std::span<const double> a, std::span<const double> b) {
  if (a.size() < 3) return std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> x = ranks(a), y = ranks(b);
  const double mean = (static_cast<double>(a.size()) + 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xy / std::sqrt(xx * yy);
}

}  // namespace depth
