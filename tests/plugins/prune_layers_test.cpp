// SPDX-License-Identifier: Apache-2.0
// Methods beside one another on layers whose inputs are correlated: what the papers promise, on tokens that no method
// has seen. Each seed is a layer; the medians and margins are those that small experiments in f64 showed with room to
// spare.
#include "fettle_kit/calibrate/gram.h"
#include "fettle_kit/compress/pruning.h"
#include "fettle_kit/compress/sweep.h"
#include "fettle_kit/tensor/philox.h"

#include "plugins/prune/magnitude/magnitude.h"
#include "plugins/prune/refit/refit.h"
#include "plugins/prune/ria/ria.h"
#include "plugins/prune/sparsegpt/sparsegpt.h"
#include "plugins/prune/wanda/wanda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

namespace fettle::test {
namespace {

using namespace fettle::kit;

constexpr std::int64_t rows = 48, cols = 64, tokens = 16 * cols;
constexpr std::uint64_t layers = 9;
using Weights = std::vector<float>;

double deviate(std::uint64_t seed, std::uint64_t index) {  // roughly normal: a sum of twelve uniform ones
  double sum = -6;
  for (std::uint64_t k = 0; k < 12; ++k) sum += philox_uniform(seed, k, index);
  return sum;
}

/// Weights, and inputs mixed from half as many causes, with channels of different sizes.
struct Layer {
  Weights w = Weights(rows * cols);
  Gram calibration{cols}, unseen{cols};

  explicit Layer(std::uint64_t seed) {
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(deviate(10 * seed, i));
    calibration.add({make_inputs(seed, 1).data(), tokens, cols});
    unseen.add({make_inputs(seed, 2).data(), tokens, cols});
  }
  std::vector<float> norms() const {
    std::vector<float> norms(cols);
    for (std::int64_t j = 0; j < cols; ++j)
      norms[static_cast<std::size_t>(j)] = static_cast<float>(std::sqrt(calibration.sum()(j, j)));
    return norms;
  }

 private:
  static std::vector<float> make_inputs(std::uint64_t seed, std::uint64_t part) {
    constexpr std::int64_t causes = cols / 2;
    std::vector<float> x(static_cast<std::size_t>(tokens * cols));
    std::vector<double> z(causes), mixed(static_cast<std::size_t>(cols * causes)), size(cols);
    for (std::size_t i = 0; i < mixed.size(); ++i) mixed[i] = deviate(10 * seed + 5, i) / 4;
    for (std::size_t j = 0; j < size.size(); ++j) size[j] = std::exp(deviate(10 * seed + 6, j));
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t k = 0; k < causes; ++k)
        z[static_cast<std::size_t>(k)] = deviate(10 * seed + part, static_cast<std::uint64_t>(t * causes + k));
      for (std::int64_t j = 0; j < cols; ++j) {
        double sum = deviate(10 * seed + part + 2, static_cast<std::uint64_t>(t * cols + j));
        for (std::int64_t k = 0; k < causes; ++k)
          sum += z[static_cast<std::size_t>(k)] * mixed[static_cast<std::size_t>(j * causes + k)];
        x[static_cast<std::size_t>(t * cols + j)] = static_cast<float>(sum * size[static_cast<std::size_t>(j)]);
      }
    }
    return x;
  }
};

const std::vector<Layer>& all_layers() {
  static const std::vector<Layer> all = [] {
    std::vector<Layer> made;
    for (std::uint64_t seed = 1; seed <= layers; ++seed) made.emplace_back(seed);
    return made;
  }();
  return all;
}

/// ||X (W - W')^T||^2, by the Gram matrix of X.
double error(const Layer& layer, const Weights& pruned, const Gram& gram) {
  double total = 0;
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j)
      for (std::int64_t k = 0; k < cols; ++k) {
        const auto d = [&](std::int64_t c) {
          const auto at = static_cast<std::size_t>(i * cols + c);
          return static_cast<double>(layer.w[at]) - static_cast<double>(pruned[at]);
        };
        total += d(j) * d(k) * gram.sum()(std::max(j, k), std::min(j, k));
      }
  return total;
}

struct Pruned {
  Weights w;
  Mask mask;
};

Pruned by_scores(const Layer& layer, const SparsityTarget& target, const std::function<void(MutMatrix)>& score) {
  Weights scores = layer.w;
  score({scores.data(), rows, cols});
  Pruned result{layer.w, mask_of(ConstMatrix(scores.data(), rows, cols), target)};
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j)
      if (!result.mask.kept(i, j)) result.w[static_cast<std::size_t>(i * cols + j)] = 0;
  return result;
}
Pruned by_magnitude(const Layer& layer, const SparsityTarget& target) {
  return by_scores(layer, target, magnitude::score);
}
Pruned by_wanda(const Layer& layer, const SparsityTarget& target) {
  return by_scores(layer, target, [&](MutMatrix w) { wanda::score(w, layer.norms()); });
}
Pruned by_ria(const Layer& layer, const SparsityTarget& target) {
  return by_scores(layer, target, [&](MutMatrix w) { ria::score(w, layer.norms(), 0.5); });
}
Pruned by_sparsegpt(const Layer& layer, const SparsityTarget& target) {
  Pruned result{layer.w, {}};
  sparsegpt::Rule rule(rows, cols, target);
  EXPECT_TRUE(sweep_columns({result.w.data(), rows, cols}, layer.calibration.sum(), rule, {32, 0.01}).ok());
  result.mask = std::move(rule).take_mask();
  return result;
}

SparsityTarget half(Group group) { return {0.5, group, std::nullopt}; }
SparsityTarget two_of_four() { return {0, Group::row, NofM{2, 4}}; }

/// Median over the layers of error(a) / error(b) on unseen tokens.
double median_ratio(const std::function<Pruned(const Layer&)>& a, const std::function<Pruned(const Layer&)>& b) {
  std::vector<double> ratios;
  for (const Layer& layer : all_layers())
    ratios.push_back(error(layer, a(layer).w, layer.unseen) / error(layer, b(layer).w, layer.unseen));
  std::nth_element(ratios.begin(), ratios.begin() + ratios.size() / 2, ratios.end());
  return ratios[ratios.size() / 2];
}

TEST(PruneLayers, WandaIsMagnitudeWhereAllInputsAreOfOneSize) {
  const std::vector<float> same(cols, 4.0F);  // a power of two: no score is rounded
  for (const SparsityTarget& target : {half(Group::row), half(Group::matrix), two_of_four()})
    for (const Layer& layer : all_layers())
      EXPECT_EQ(by_scores(layer, target, [&](MutMatrix w) { wanda::score(w, same); }).mask,
                by_magnitude(layer, target).mask);
}

TEST(PruneLayers, WandaErrsLessThanMagnitudeWhereInputsDifferInSize) {
  EXPECT_LE(median_ratio([](const Layer& l) { return by_wanda(l, half(Group::row)); },
                         [](const Layer& l) { return by_magnitude(l, half(Group::row)); }),
            0.95);
}

TEST(PruneLayers, RiaErrsLessThanMagnitude) {
  EXPECT_LE(median_ratio([](const Layer& l) { return by_ria(l, half(Group::matrix)); },
                         [](const Layer& l) { return by_magnitude(l, half(Group::matrix)); }),
            0.95);
}

TEST(PruneLayers, SparseGptErrsLessThanWanda) {
  EXPECT_LE(median_ratio([](const Layer& l) { return by_sparsegpt(l, half(Group::matrix)); },
                         [](const Layer& l) { return by_wanda(l, half(Group::row)); }),
            0.90);
  EXPECT_LE(median_ratio([](const Layer& l) { return by_sparsegpt(l, two_of_four()); },
                         [](const Layer& l) { return by_wanda(l, two_of_four()); }),
            0.90);
}

TEST(PruneLayers, RefitErrsLeastOnAnyMask) {
  for (const Layer& layer : all_layers())
    for (const Pruned& start :
         {by_magnitude(layer, half(Group::matrix)), by_wanda(layer, two_of_four()), by_ria(layer, two_of_four()),
          by_sparsegpt(layer, half(Group::matrix)), by_sparsegpt(layer, two_of_four())}) {
      Weights fitted = start.w;
      const refit::Report report = refit::fit({fitted.data(), rows, cols}, {layer.w.data(), rows, cols},
                                              layer.calibration.sum(), start.mask, {40, 0.01});
      EXPECT_LE(report.after, report.before);
      EXPECT_LE(error(layer, fitted, layer.calibration), 1.01 * error(layer, start.w, layer.calibration));
    }
}

// Of many inputs whose errors cancel; a single row may be worse off (there are counterexamples), a layer is not.
TEST(PruneLayers, SparseGptErrsLessThanZeroingOnItsOwnMask) {
  for (const Layer& layer : all_layers()) {
    const Pruned swept = by_sparsegpt(layer, two_of_four());
    Weights zeroed = layer.w;
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < cols; ++j)
        if (!swept.mask.kept(i, j)) zeroed[static_cast<std::size_t>(i * cols + j)] = 0;
    EXPECT_LT(error(layer, swept.w, layer.calibration), error(layer, zeroed, layer.calibration));
  }
}

}  // namespace
}  // namespace fettle::test
