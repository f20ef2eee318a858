// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/backend/loss_spec.h"

#include <cstdint>
#include <span>

namespace fettle::kit {

// Losses of one row of logits, value and gradient in one pass. Student logits z [V], teacher logits t, temperature T,
// p = softmax(t / T), q = softmax(z / T):
//
//   cross_entropy = -ln softmax(z)[label]                    d/dz = softmax(z) - onehot
//   divergence    = T^2 D(p, q), D as LossSpec says          d/dz = T q (G - sum q G), G = dD/dq; forward KL: T (q - p)
//
// Natural logarithms, sums over the vocabulary (never a mean). Where t equals z bit for bit, value and gradient of the
// divergence are exactly 0. A NaN or infinity in z or t makes the value NaN. f32, with the logarithm of the sum in f64;
// the same bits on every machine. [any thread]

/// What one row adds to LossSums; neither scaled nor divided.
struct RowLoss {
  double cross_entropy = 0, divergence = 0;
};

/// z becomes label_scale * d cross_entropy + teacher_scale * d divergence. A scale holds the weight of its term divided
/// by the rows that count in the whole global batch.
struct LossScales {
  double label = 0, teacher = 0;
};

/// Cross-entropy alone; label in 0 .. V - 1.
RowLoss label_loss(std::span<float> z, std::int32_t label, double scale);

/// A teacher that gives logits. t may be shorter than z: the tokens it lacks have p = 0, which reverse KL cannot bear
/// (NaN or infinity). t is used as scratch. label < 0: no cross-entropy.
RowLoss dense_loss(std::span<float> z, std::span<float> t, std::int32_t label, const LossSpec& spec,
                   const LossScales& scales);

/// A teacher known by its most likely tokens: distinct ids, each below V (below 0: an empty place), and ln p of them at
/// temperature spec.temperature.
struct RowTargets {
  std::span<const std::int32_t> ids;
  std::span<const float> log_probabilities;
  /// True: what they leave of the mass is one more bucket, against all other tokens of the student; exact on the k
  /// tokens and the tail (methods.md 5, "k+1 buckets"). False: they are the whole distribution, scaled to sum 1: random
  /// samples with p = count / draws, or a renormalised top-k. The divergence is then the cross-entropy -sum p ln q,
  /// whatever spec says.
  bool tail = true;
};
RowLoss sparse_loss(std::span<float> z, const RowTargets& targets, std::int32_t label, const LossSpec& spec,
                    const LossScales& scales);

}  // namespace fettle::kit
