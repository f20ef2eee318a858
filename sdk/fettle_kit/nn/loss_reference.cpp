// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/loss_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fettle::kit::reference {
namespace {

std::vector<double> log_softmax(std::span<const double> x) {
  const double top = *std::ranges::max_element(x);
  double sum = 0;
  for (const double v : x) sum += std::exp(v - top);
  std::vector<double> y(x.begin(), x.end());
  for (double& v : y) v -= top + std::log(sum);
  return y;
}

std::vector<double> scaled(std::span<const double> x, double factor) {
  std::vector<double> y(x.begin(), x.end());
  for (double& v : y) v *= factor;
  return y;
}

/// KL(a || b) of probabilities, and dKL/da, dKL/db added into the slopes with a factor.
double kl(std::span<const double> a, std::span<const double> b, std::vector<double>* da, std::vector<double>* db,
          double factor) {
  double value = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] > 0) value += factor * a[i] * std::log(a[i] / b[i]);
    if (da != nullptr) (*da)[i] += factor * (std::log(a[i] / b[i]) + 1);
    if (db != nullptr) (*db)[i] -= factor * a[i] / b[i];
  }
  return value;
}

/// D of softmax(t), softmax(z) and its gradient with respect to z.
double divergence(std::vector<double>& gradient, std::span<const double> z, std::span<const double> t,
                  const LossSpec& spec) {
  const std::size_t n = z.size();
  std::vector<double> p = log_softmax(t), q = log_softmax(z);
  for (double& v : p) v = std::exp(v);
  for (double& v : q) v = std::exp(v);
  p.resize(n);
  const auto mixed = [&](double share) {  // share p + (1 - share) q
    std::vector<double> m(n);
    for (std::size_t i = 0; i < n; ++i) m[i] = share * p[i] + (1 - share) * q[i];
    return m;
  };
  std::vector<double> slope(n), through_m(n);  // dD/dq, dD/dm
  double value = 0, q_in_m = 0;                // the share of q in m
  const double beta = spec.beta, alpha = spec.alpha;
  const bool jsd = spec.divergence == Divergence::jensen_shannon;
  if (spec.divergence == Divergence::forward_kl || (jsd && beta == 0)) {
    value = kl(p, q, nullptr, &slope, 1);
  } else if (spec.divergence == Divergence::reverse_kl || (jsd && beta == 1)) {
    value = kl(q, p, &slope, nullptr, 1);
  } else if (jsd) {
    const std::vector<double> m = mixed(beta);
    q_in_m = 1 - beta;
    value = kl(p, m, nullptr, &through_m, beta) + kl(q, m, &slope, &through_m, 1 - beta);
  } else if (spec.divergence == Divergence::skew_forward_kl) {
    q_in_m = 1 - alpha;
    value = kl(p, mixed(alpha), nullptr, &through_m, 1);
  } else if (spec.divergence == Divergence::skew_reverse_kl) {
    q_in_m = alpha;
    value = kl(q, mixed(1 - alpha), &slope, &through_m, 1);
  } else if (spec.divergence == Divergence::taid) {
    std::vector<double> target(n);
    for (std::size_t i = 0; i < n; ++i) target[i] = (1 - double{spec.tau}) * z[i] + double{spec.tau} * t[i];
    for (double& v : target = log_softmax(target)) v = std::exp(v);
    value = kl(target, q, nullptr, &slope, 1);
  }
  double mean = 0;
  for (std::size_t i = 0; i < n; ++i) mean += q[i] * (slope[i] += q_in_m * through_m[i]);
  for (std::size_t i = 0; i < n; ++i) gradient[i] = q[i] * (slope[i] - mean);
  return value;
}

/// Adds the label's part to a divergence of T = 1 and its gradient.
RowLoss finish(std::span<double> gradient, std::span<const double> z, std::int32_t label, const LossSpec& spec,
               const LossScales& scales, double value) {
  const double t = spec.temperature;
  for (double& g : gradient) g *= scales.teacher * t;
  if (label < 0) return {0, t * t * value};
  std::vector<double> part(z.size());
  const RowLoss labels = reference::label_loss(part, z, label, scales.label);
  for (std::size_t i = 0; i < part.size(); ++i) gradient[i] += part[i];
  return {labels.cross_entropy, t * t * value};
}

}  // namespace

RowLoss label_loss(std::span<double> gradient, std::span<const double> z, std::int32_t label, double scale) {
  const std::vector<double> log_q = log_softmax(z);
  const auto at = static_cast<std::size_t>(label);
  for (std::size_t i = 0; i < z.size(); ++i) gradient[i] = scale * (std::exp(log_q[i]) - (i == at ? 1 : 0));
  return {-log_q[at], 0};
}

RowLoss dense_loss(std::span<double> gradient, std::span<const double> z, std::span<const double> t, std::int32_t label,
                   const LossSpec& spec, const LossScales& scales) {
  const double inverse = 1 / double{spec.temperature};
  std::vector<double> found(z.size());
  const double value = divergence(found, scaled(z, inverse), scaled(t, inverse), spec);
  std::ranges::copy(found, gradient.begin());
  return finish(gradient, z, label, spec, scales, value);
}

RowLoss sparse_loss(std::span<double> gradient, std::span<const double> z, const RowTargets& targets,
                    std::int32_t label, const LossSpec& spec, const LossScales& scales) {
  const std::vector<double> log_q = log_softmax(scaled(z, 1 / double{spec.temperature}));
  std::vector<double> p(z.size()), q(z.size());
  std::vector<bool> known(z.size());
  double mass = 0, value = 0;
  for (std::size_t i = 0; i < z.size(); ++i) q[i] = std::exp(log_q[i]);
  for (std::size_t i = 0; i < targets.ids.size(); ++i) {
    if (targets.ids[i] < 0) continue;
    const auto id = static_cast<std::size_t>(targets.ids[i]);
    known[id] = true;
    mass += p[id] = std::exp(double{targets.log_probabilities[i]});
  }
  if (!targets.tail) {
    for (std::size_t i = 0; i < z.size(); ++i) {
      if (known[i]) value -= p[i] / mass * log_q[i];
      gradient[i] = q[i] - p[i] / mass;
    }
    return finish(gradient, z, label, spec, scales, value);
  }
  // A row of the known tokens and, last, the others together.
  std::vector<double> student, teacher;
  double student_rest = 0;
  for (std::size_t i = 0; i < z.size(); ++i) {
    if (known[i])
      student.push_back(log_q[i]), teacher.push_back(std::log(p[i]));
    else
      student_rest += q[i];
  }
  if (student.size() < z.size()) {
    student.push_back(std::log(student_rest));
    if (mass < 1) teacher.push_back(std::log(1 - mass));
  }
  std::vector<double> found(student.size());
  value = divergence(found, student, teacher, spec);
  for (std::size_t i = 0, at = 0; i < z.size(); ++i)
    gradient[i] = known[i] ? found[at++] : found.back() * q[i] / student_rest;
  return finish(gradient, z, label, spec, scales, value);
}

}  // namespace fettle::kit::reference
