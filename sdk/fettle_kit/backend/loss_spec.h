// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace fettle::kit {

/// How the student's distribution q = softmax(z / T) is compared with the teacher's p = softmax(t / T), in one row.
enum class Divergence {
  none,             ///< no teacher
  forward_kl,       ///< KL(p || q)
  reverse_kl,       ///< KL(q || p)
  jensen_shannon,   ///< beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q
  skew_forward_kl,  ///< KL(p || alpha p + (1 - alpha) q)
  skew_reverse_kl,  ///< KL(q || (1 - alpha) p + alpha q)
  taid,             ///< KL(p' || q), p' = softmax((1 - tau) z + tau t) held fixed (Shing et al. 2025, equation 3)
};

/// What a row of logits costs beside its cross-entropy. Plain values: a backend turns them into its own code.
struct LossSpec {
  Divergence divergence = Divergence::none;
  float temperature = 1;  ///< T of the divergence; its value and gradient are multiplied by T^2
  float beta = 0.5f;      ///< of jensen_shannon
  float alpha = 0.1f;     ///< of the skew divergences
  float tau = 1;          ///< of taid, from about 0.4 at the start to 1
};

/// Sums over the rows of a batch, neither weighted nor divided, in f64 and in the order of the rows.
struct LossSums {
  double cross_entropy = 0;         ///< -ln q(label), T = 1
  double divergence = 0;            ///< T^2 times the divergence
  std::int64_t labels = 0;          ///< rows with a label
  std::int64_t teacher_rows = 0;    ///< rows with a teacher
  std::int64_t teacher_agrees = 0;  ///< of those, the ones whose largest logit is the teacher's; 0 if not counted

  LossSums& operator+=(const LossSums& more) {
    cross_entropy += more.cross_entropy;
    divergence += more.divergence;
    labels += more.labels;
    teacher_rows += more.teacher_rows;
    teacher_agrees += more.teacher_agrees;
    return *this;
  }
};

}  // namespace fettle::kit
