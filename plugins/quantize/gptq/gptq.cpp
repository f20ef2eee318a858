// SPDX-License-Identifier: Apache-2.0
#include "gptq.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace gptq {

using namespace fettle::kit;

namespace {

/// Rounds what the sweep shows, and notes the codes.
class Rule final : public SweepRule {
 public:
  Rule(CodedMatrix& coded, ConstMatrix w, const std::vector<std::int64_t>& order, const Options& options)
      : coded_(coded), w_(w), order_(order), options_(options), span_(options.scheme.span(w.cols)) {
    if (options.prune) zeros_.emplace(w.rows, w.cols, *options.prune);
  }
  std::int64_t pruned() const { return zeros_ ? zeros_->mask().count_pruned() : 0; }

  std::int64_t run() const override {
    const auto fits = [](std::int64_t columns) { return 8 % columns == 0 || columns % 8 == 0; };
    return fits(span_) && (!zeros_ || fits(zeros_->run())) ? 8 : 1;
  }

  void begin_block(std::int64_t first, ConstMatrix w, std::span<const double> diagonal) override {
    if (zeros_) zeros_->begin_block(first, w, diagonal);
    if (options_.static_groups || first % span_ != 0 || span_ <= w.cols) return;
    // A group wider than the block: all its columns are compensated up to here.
    tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, w_.rows, 8), [&](const auto& range) {
      for (std::int64_t i = range.begin(); i < range.end(); ++i)
        fit(i, first, w_.row(i).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(span_)));
    });
  }

  float value(std::int64_t row, std::int64_t column, std::span<const float> rest,
              std::span<const double> diagonal) override {
    float result = 0;
    values(row, 1, column, rest.data(), 0, diagonal, &result);
    return result;
  }

  void values(std::int64_t row, std::int64_t rows, std::int64_t column, const float* rest, std::int64_t stride,
              std::span<const double> diagonal, float* out) override {
    if (!options_.static_groups && column % span_ == 0 && static_cast<std::size_t>(span_) <= diagonal.size())
      for (std::int64_t i = 0; i < rows; ++i)
        fit(row + i, column, {rest + i * stride, static_cast<std::size_t>(span_)});
    const std::int64_t home = order_.empty() ? column : order_[static_cast<std::size_t>(column)];
    const std::int64_t group = coded_.group_of[static_cast<std::size_t>(home)];
    std::uint8_t* const codes = coded_.codes.data() + row * coded_.cols + home;
    if (zeros_) zeros_->reach(row, rows, column, rest, stride, diagonal);
    for (std::int64_t i = 0; i < rows; ++i) {
      const Steps s = coded_.steps(row + i, group);
      bool kept = options_.mask == nullptr || options_.mask->kept(row + i, home);
      if (zeros_) kept = zeros_->mask().kept(row + i, column) && kept;
      const float level = kept ? level_of(rest[i * stride], s, coded_.bits) : 0.0F;
      codes[i * coded_.cols] = static_cast<std::uint8_t>(level + static_cast<float>(s.zero));
      out[i] = s.scale * level;
    }
  }

 private:
  void fit(std::int64_t row, std::int64_t column, std::span<const float> weights) {
    coded_.set(row, column / span_, fit_steps(weights, options_.scheme));
  }

  CodedMatrix& coded_;
  ConstMatrix w_;  ///< as the sweep sees it
  const std::vector<std::int64_t>& order_;
  const Options& options_;
  std::int64_t span_;
  std::optional<CheapestZeros> zeros_;
};

/// Whole groups fit into a block, or whole blocks into a group, so that a group is always fitted to weights that have
/// seen the updates of all columns before it. Groups of N:M are never cut (`whole` columns).
std::int64_t block_for(std::int64_t wanted, std::int64_t span, std::int64_t cols, std::int64_t whole) {
  if (span == cols)
    return std::max(wanted / whole, std::int64_t{1}) * whole;  // one group, fitted before the first column
  if (span <= wanted) return wanted / span * span;
  std::int64_t block = wanted;
  while (span % block != 0 || block % whole != 0) --block;
  return block;
}

void permute(MutMatrix w, const std::vector<std::int64_t>& order, bool back) {
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, w.rows, 16), [&](const auto& range) {
    std::vector<float> row(static_cast<std::size_t>(w.cols));
    for (std::int64_t i = range.begin(); i < range.end(); ++i) {
      for (std::size_t k = 0; k < row.size(); ++k) {
        const auto home = static_cast<std::size_t>(order[k]);
        row[back ? home : k] = w.row(i)[back ? k : home];
      }
      std::copy(row.begin(), row.end(), w.row(i).begin());
    }
  });
}

}  // namespace

fettle::Result<Inputs> prepare(const Square& gram, bool act_order, double damping,
                               const std::function<void(double, const std::string&)>& retry) {
  Inputs inputs;
  const std::int64_t n = gram.size();
  Square permuted(0);
  if (act_order) {
    inputs.order.resize(static_cast<std::size_t>(n));
    std::iota(inputs.order.begin(), inputs.order.end(), 0);
    std::stable_sort(inputs.order.begin(), inputs.order.end(),
                     [&](std::int64_t a, std::int64_t b) { return gram(a, a) > gram(b, b); });
    permuted = Square(n);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j <= i; ++j) {
        const std::int64_t a = inputs.order[static_cast<std::size_t>(i)], b = inputs.order[static_cast<std::size_t>(j)];
        permuted(i, j) = gram(std::max(a, b), std::min(a, b));
      }
  }
  for (inputs.damping = damping;; inputs.damping *= 10) {
    auto factor = sweep_factor(act_order ? permuted : gram, inputs.damping);
    if (factor) {
      inputs.factor = *std::move(factor);
      return inputs;
    }
    if (inputs.damping * 10 > 1) return std::move(factor).error();
    if (retry) retry(inputs.damping * 10, factor.error().message());
  }
}

Quantized quantize(MutMatrix w, const Inputs& inputs, const Options& options) {
  Quantized result;
  result.coded = options.static_groups ? fit_grids(w, options.scheme) : CodedMatrix(w.rows, w.cols, options.scheme);
  const std::int64_t span = options.scheme.span(w.cols);
  if (!inputs.order.empty()) {
    permute(w, inputs.order, false);
    if (!options.static_groups)
      for (std::int64_t k = 0; k < w.cols; ++k)
        result.coded.group_of[static_cast<std::size_t>(inputs.order[static_cast<std::size_t>(k)])] =
            static_cast<std::int32_t>(k / span);
  }
  Options used = options;
  if (options.scheme.sharing == Sharing::tensor && !options.static_groups) {
    // One scale for all: there is nothing to compensate before it.
    const std::vector<std::int32_t> groups = result.coded.group_of;
    result.coded = fit_grids(w, options.scheme);
    result.coded.group_of = groups;
    used.static_groups = true;
  }
  Rule rule(result.coded, w, inputs.order, used);
  const std::int64_t whole = options.prune && options.prune->pattern ? options.prune->pattern->m : 1;
  result.report = sweep_columns(w, inputs.factor, rule, block_for(options.block, span, w.cols, whole));
  result.pruned = rule.pruned();
  if (!inputs.order.empty()) permute(w, inputs.order, true);
  return result;
}

}  // namespace gptq
