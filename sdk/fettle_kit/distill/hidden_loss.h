// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/distill/distillation.h"

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace fettle::kit {

/// A student's residual stream after some block against the teacher's after another; 0 is the embedding.
struct LayerPair {
  std::int64_t student = 0, teacher = 0;
};

/// Student block i of n with teacher block round(i m / n) of m, i = 1 .. n: the last with the last.
std::vector<LayerPair> uniform_layers(std::int64_t student_layers, std::int64_t teacher_layers);
/// From student layer to teacher layer, as a user writes them. Refuses what is no layer of a model, and a student layer
/// named twice.
Result<std::vector<LayerPair>> parse_layers(const std::vector<std::pair<std::string, std::int64_t>>& map,
                                            std::int64_t student_layers, std::int64_t teacher_layers);

/// Sum over rows with rows[i] != 0 of 1 - cos(x_i, target_i); adds scale times its gradient to dx. Rows of zeros count
/// as 1 without a gradient. f32, sums in f64 by rows in order.
double cosine_distance(MutMatrix dx, ConstMatrix x, ConstMatrix target, std::span<const std::uint8_t> rows,
                       double scale);

struct HiddenLossOptions {
  std::vector<LayerPair> layers;
  bool cosine = false;   ///< else the mean over channels of the squared difference
  bool learned = false;  ///< the student's rows go through a matrix [teacher's hidden, student's hidden] first
  double weight = 1;     ///< of the mean over layers
  std::uint64_t seed = 0;
};

/// Intermediate loss (Sun et al. 2019, arXiv:1908.09355; Jiao et al. 2020, arXiv:1909.10351): the mean over pairs of
/// layers of the distance between the streams. Borrows student and teacher.
class HiddenLoss final : public InnerLoss {
 public:
  HiddenLoss(Network& student, Network& teacher, const HiddenLossOptions& options);
  void begin(const MicroBatch& batch) override;
  void add_gradient(std::int64_t layer, const Array& gradient) override;
  double value() const override { return value_; }
  std::span<const TrainedTensor> tensors() const override { return projections_; }

  /// Of the last step, unweighted; NaN before there was one.
  double last_step() const { return last_; }

 private:
  double distance(const Array& dx, const Array& x, const Array& target, double scale);

  Network& student_;
  Network& teacher_;
  HiddenLossOptions options_;
  Backend& backend_;
  std::vector<TrainedTensor> projections_;  ///< one a pair, if learned
  Array projected_, projected_gradient_;
  std::vector<std::uint8_t> rows_;
  double denominator_ = 1, value_ = 0, last_ = std::numeric_limits<double>::quiet_NaN();
  std::int64_t step_ = -1;
};

}  // namespace fettle::kit
