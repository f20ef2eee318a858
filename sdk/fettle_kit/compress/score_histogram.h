// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/technique.h"
#include "fettle_kit/compress/mask.h"
#include "fettle_kit/tensor/matrix.h"

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace fettle::kit {

/// How many parts of a model have which score, as a multiple of the mean of those they compete with: bins half an
/// octave wide from 2^-8 to 2^8, the first and the last for what lies outside.
class ScoreHistogram {
 public:
  /// Scores >= 0, not NaN; where all are 0, each counts as the mean. Runs on the caller's TBB arena; the same counts
  /// for any number of threads.
  void add(ConstMatrix scores, Group group);
  /// A point a bin: log2 of its middle, and the count.
  void report(const Context& context, const std::string& series) const;

 private:
  static constexpr int octaves = 8, bins = 4 * octaves;
  using Counts = std::array<std::int64_t, bins>;
  Counts counts_{};
};

/// One for each kind of matrix: those of all blocks together.
class ScoreHistograms {
 public:
  /// Where a tensor's scores belong: those of "model.layers.0.mlp.up_proj.weight" to up_proj.
  ScoreHistogram& of(std::string_view tensor);
  /// Series scores.up_proj and so on.
  void report(const Context& context) const;

 private:
  std::map<std::string, ScoreHistogram> by_kind_;
};

}  // namespace fettle::kit
