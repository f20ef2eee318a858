// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/score_histogram.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <numeric>
#include <vector>

namespace fettle::kit {

namespace {

/// floor(log2(x)) for x >= 0, read from the exponent: far below any bin for 0, far above for infinity.
std::int64_t octave_of(double x) { return static_cast<std::int64_t>(std::bit_cast<std::uint64_t>(x) >> 52) - 1023; }

}  // namespace

void ScoreHistogram::add(ConstMatrix scores, Group group) {
  constexpr std::int64_t at_once = 64;
  std::vector<double> sums(static_cast<std::size_t>(scores.rows));
  const std::int64_t parts = (scores.rows + at_once - 1) / at_once;
  const auto for_rows = [&](std::int64_t part, const auto& visit) {
    const std::int64_t end = std::min(scores.rows, (part + 1) * at_once);
    for (std::int64_t i = part * at_once; i < end; ++i) visit(i);
  };
  tbb::parallel_for(std::int64_t{0}, parts, [&](std::int64_t part) {
    for_rows(part, [&](std::int64_t i) {
      double sum = 0;
      for (const float s : scores.row(i)) sum += static_cast<double>(s);
      sums[static_cast<std::size_t>(i)] = sum;
    });
  });
  if (group == Group::matrix) {
    const double mean = std::accumulate(sums.begin(), sums.end(), 0.0) / static_cast<double>(scores.rows);
    std::fill(sums.begin(), sums.end(), mean);
  }
  std::vector<Counts> counts(static_cast<std::size_t>(parts));
  tbb::parallel_for(std::int64_t{0}, parts, [&](std::int64_t part) {
    Counts& own = counts[static_cast<std::size_t>(part)];
    own = {};
    for_rows(part, [&](std::int64_t i) {
      const double mean = sums[static_cast<std::size_t>(i)] / static_cast<double>(scores.cols);
      for (const float s : scores.row(i)) {
        const double ratio = mean > 0 ? static_cast<double>(s) / mean : 1;
        // Two bins an octave are the octaves of the square.
        const std::int64_t bin = octave_of(ratio * ratio) + 2 * octaves;
        ++own[static_cast<std::size_t>(std::clamp<std::int64_t>(bin, 0, bins - 1))];
      }
    });
  });
  for (const Counts& own : counts)
    std::transform(counts_.begin(), counts_.end(), own.begin(), counts_.begin(), std::plus<>());
}

void ScoreHistogram::report(const Context& context, const std::string& series) const {
  for (int b = 0; b < bins; ++b)
    context.point(series.c_str(), (b + 0.5) / 2 - octaves, static_cast<double>(counts_[static_cast<std::size_t>(b)]));
}

ScoreHistogram& ScoreHistograms::of(std::string_view tensor) {
  const std::string_view path = tensor.substr(0, tensor.rfind('.'));
  return by_kind_[std::string(path.substr(path.rfind('.') + 1))];
}

void ScoreHistograms::report(const Context& context) const {
  for (const auto& [kind, histogram] : by_kind_) histogram.report(context, "scores." + kind);
}

}  // namespace fettle::kit
