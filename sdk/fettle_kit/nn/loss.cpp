// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/loss.h"

#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/kernels/logarithm.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace fettle::kit {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// A row of the calling thread's memory, one for each purpose.
enum class Row { q, p, work, labels, buckets, teacher_buckets, count };
std::span<float> row_of(Row purpose, std::size_t n) {
  thread_local std::vector<float> rows[static_cast<std::size_t>(Row::count)];
  std::vector<float>& row = rows[static_cast<std::size_t>(purpose)];
  if (row.size() < n) row.resize(n);
  return {row.data(), n};
}

/// y = softmax(x); returns ln sum exp x, NaN if that is not a number.
double softmax(std::span<float> y, std::span<const float> x) {
  const KernelTable& k = kernels();
  const float top = k.max(x.data(), x.size());
  const float sum = k.exp_sum(y.data(), x.data(), top, x.size());
  k.scale(y.data(), 1 / sum, y.data(), y.size());
  return std::isfinite(sum) && sum > 0 ? top + natural_log(double{sum}) : kNaN;
}

void scale(std::span<float> x, double factor) {
  if (factor != 1) kernels().scale(x.data(), static_cast<float>(factor), x.data(), x.size());
}

/// KL(p || q) into z the gradient q - p.
double forward_kl(std::span<float> z, std::span<float> t) {
  const KernelTable& k = kernels();
  const std::span<float> q = row_of(Row::q, z.size()), p = row_of(Row::p, t.size());
  const double shift = softmax(p, t) - softmax(q, z);
  k.axpy(t.data(), -1, z.data(), t.size());
  const double value = k.dot(p.data(), t.data(), t.size()) - shift;
  std::ranges::copy(q, z.begin());
  k.axpy(z.data(), -1, p.data(), t.size());
  return value;
}

/// One token's part of a divergence: D = sum of value, and G = dD/dq up to a constant.
struct Term {
  double value, slope;
};

/// ln(p/m), ln(q/m) and ratios to m = w p + (1 - w) q, all exact at p = q. d = ln(p/q), e = exp(-|d|).
struct Mixture {
  double log_p, log_q, p_share, q_share;  ///< ln p/m, ln q/m, p/m, q/m
  Mixture(double d, double e, double w) {
    if (d <= 0) {  // p = e q
      const double m = 1 + w * (e - 1);
      log_q = -natural_log(m), log_p = log_q + d, q_share = 1 / m, p_share = e / m;
    } else {  // q = e p
      const double m = 1 + (1 - w) * (e - 1);
      log_p = -natural_log(m), log_q = log_p - d, p_share = 1 / m, q_share = e / m;
    }
  }
};

Term term(const LossSpec& spec, double d, double e, double p, double q) {
  const auto p_times = [p](double x) { return p == 0 ? 0 : p * x; };  // x may be -inf there
  switch (spec.divergence) {
    case Divergence::reverse_kl:
      return {-q * d, -d};
    case Divergence::jensen_shannon: {
      const double b = spec.beta;
      const Mixture m(d, e, b);
      return {b * p_times(m.log_p) + (1 - b) * q * m.log_q, (1 - b) * m.log_q};
    }
    case Divergence::skew_forward_kl: {
      const double a = spec.alpha;
      const Mixture m(d, e, a);
      return {p_times(m.log_p), (1 - a) * (1 - m.p_share)};
    }
    case Divergence::skew_reverse_kl: {
      const double a = spec.alpha;
      const Mixture m(d, e, 1 - a);
      return {q * m.log_q, m.log_q + a * (1 - m.q_share)};
    }
    default:
      return {kNaN, kNaN};
  }
}

/// Those whose gradient goes through G: z becomes q (G - sum q G).
double by_slopes(std::span<float> z, std::span<float> t, const LossSpec& spec) {
  const std::size_t n = z.size();
  const std::span<float> q = row_of(Row::q, n), p = row_of(Row::p, n), e = row_of(Row::work, n);
  const double shift = softmax(p.first(t.size()), t) - softmax(q, z);
  if (std::isnan(shift)) return kNaN;
  std::fill(p.begin() + static_cast<std::ptrdiff_t>(t.size()), p.end(), 0.0F);
  const auto log_ratio = [&](std::size_t i) {
    return i < t.size() ? double{t[i]} - double{z[i]} - shift : -std::numeric_limits<double>::infinity();
  };
  for (std::size_t i = 0; i < n; ++i) e[i] = static_cast<float>(-std::fabs(log_ratio(i)));
  kernels().exp(e.data(), e.data(), n);
  double value = 0, mean = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const Term found = term(spec, log_ratio(i), e[i], p[i], q[i]);
    value += found.value;
    mean += q[i] * found.slope;
    z[i] = static_cast<float>(found.slope);
  }
  const auto centre = static_cast<float>(mean);
  for (std::size_t i = 0; i < n; ++i) z[i] = q[i] * (z[i] - centre);
  return value;
}

/// The divergence at T = 1; z becomes its gradient, t scratch.
double divergence(std::span<float> z, std::span<float> t, const LossSpec& spec) {
  const bool jsd = spec.divergence == Divergence::jensen_shannon;
  if (spec.divergence == Divergence::taid) {  // towards the teacher by the share tau, from where the student stands
    const KernelTable& k = kernels();
    k.axpy(t.data(), -1, z.data(), t.size());
    k.scale(t.data(), spec.tau, t.data(), t.size());
    k.add(t.data(), t.data(), z.data(), t.size());
    return forward_kl(z, t);
  }
  // The ends of the family are the two KL by convention (Agarwal et al. 2024, section 3: GKD).
  if (spec.divergence == Divergence::forward_kl || (jsd && spec.beta == 0)) return forward_kl(z, t);
  if (jsd && spec.beta == 1) {
    LossSpec reverse = spec;
    reverse.divergence = Divergence::reverse_kl;
    return by_slopes(z, t, reverse);
  }
  return by_slopes(z, t, spec);
}

/// Cross-entropy of a row that is still needed: its scaled gradient waits in a row of its own.
struct LabelPart {
  double value = 0;
  std::span<float> gradient;  ///< empty: none

  LabelPart(std::span<const float> z, std::int32_t label, double factor) {
    if (label < 0) return;
    const std::span<float> q = row_of(Row::labels, z.size());
    value = softmax(q, z) - z[static_cast<std::size_t>(label)];
    if (factor == 0) return;
    q[static_cast<std::size_t>(label)] -= 1;
    scale(q, factor);
    gradient = q;
  }
  void add_to(std::span<float> z) const {
    if (!gradient.empty()) kernels().add(z.data(), z.data(), gradient.data(), z.size());
  }
};

/// The places that are filled, packed: logits of the student, ln p and p of the teacher.
struct Known {
  std::span<float> student, teacher, p;
  double mass = 0;

  Known(std::span<const float> z, const RowTargets& targets)
      : student(row_of(Row::buckets, targets.ids.size() + 1)),
        teacher(row_of(Row::teacher_buckets, targets.ids.size() + 1)),
        p(row_of(Row::p, targets.ids.size() + 1)) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < targets.ids.size(); ++i) {
      if (targets.ids[i] < 0) continue;
      student[count] = z[static_cast<std::size_t>(targets.ids[i])];
      teacher[count++] = targets.log_probabilities[i];
    }
    kernels().exp(p.data(), teacher.data(), count);
    for (std::size_t i = 0; i < count; ++i) mass += p[i];
    known = count;
  }
  std::size_t known = 0;
};

template <class Function>
void for_known(const RowTargets& targets, const Function& function) {
  std::size_t at = 0;
  for (const std::int32_t id : targets.ids)
    if (id >= 0) function(static_cast<std::size_t>(id), at++);
}

/// -sum p ln q over the given tokens; z becomes q - p.
double sampled(std::span<float> z, const RowTargets& targets) {
  const Known known(z, targets);
  const std::span<float> q = row_of(Row::q, z.size());
  const double log_sum = softmax(q, z);
  std::ranges::copy(q, z.begin());
  double value = 0;
  for_known(targets, [&](std::size_t id, std::size_t at) {
    const double p = known.p[at] / known.mass;
    value += p * (log_sum - known.student[at]);
    z[id] -= static_cast<float>(p);
  });
  return value;
}

/// The k tokens and the rest of the vocabulary as one: a dense row of k + 1 logits, the last being ln sum exp of the
/// rest, whose gradient is spread over the rest in proportion to q.
double bucketed(std::span<float> z, const RowTargets& targets, const LossSpec& spec) {
  const KernelTable& k = kernels();
  const Known known(z, targets);
  const std::size_t count = known.known;
  if (count == z.size()) {  // nothing is left
    const double value = divergence(known.student.first(count), known.teacher.first(count), spec);
    for_known(targets, [&](std::size_t id, std::size_t at) { z[id] = known.student[at]; });
    return value;
  }
  for_known(targets, [&](std::size_t id, std::size_t) { z[id] = -std::numeric_limits<float>::infinity(); });
  const float top = k.max(z.data(), z.size());
  const float sum = k.exp_sum(z.data(), z.data(), top, z.size());
  if (!(std::isfinite(sum) && sum > 0)) return kNaN;
  known.student[count] = static_cast<float>(top + natural_log(double{sum}));
  const double left = 1 - known.mass;
  const bool has_tail = left > 1e-7;  // what f32 logarithms can tell from nothing
  if (has_tail) known.teacher[count] = static_cast<float>(natural_log(left));
  const double value = divergence(known.student.first(count + 1), known.teacher.first(count + has_tail), spec);
  k.scale(z.data(), known.student[count] / sum, z.data(), z.size());
  for_known(targets, [&](std::size_t id, std::size_t at) { z[id] = known.student[at]; });
  return value;
}

/// Value and gradient of T^2 `inner`(z / T), a divergence at T = 1, and those of the label.
template <class Inner>
RowLoss with_label(std::span<float> z, std::int32_t label, const LossSpec& spec, const LossScales& scales,
                   const Inner& inner) {
  const LabelPart labels(z, label, scales.label);
  const double t = spec.temperature;
  scale(z, 1 / t);
  const double value = t * t * inner();
  scale(z, scales.teacher * t);
  labels.add_to(z);
  return {labels.value, value};
}

}  // namespace

RowLoss label_loss(std::span<float> z, std::int32_t label, double factor) {
  const std::span<float> q = row_of(Row::q, z.size());
  const auto at = static_cast<std::size_t>(label);
  const double value = softmax(q, z) - z[at];
  std::ranges::copy(q, z.begin());
  z[at] -= 1;
  scale(z, factor);
  return {value, 0};
}

RowLoss dense_loss(std::span<float> z, std::span<float> t, std::int32_t label, const LossSpec& spec,
                   const LossScales& scales) {
  return with_label(z, label, spec, scales, [&] {
    scale(t, 1 / double{spec.temperature});
    return divergence(z, t, spec);
  });
}

RowLoss sparse_loss(std::span<float> z, const RowTargets& targets, std::int32_t label, const LossSpec& spec,
                    const LossScales& scales) {
  return with_label(z, label, spec, scales,
                    [&] { return targets.tail ? bucketed(z, targets, spec) : sampled(z, targets); });
}

}  // namespace fettle::kit
