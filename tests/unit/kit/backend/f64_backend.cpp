// SPDX-License-Identifier: Apache-2.0
#include "unit/kit/backend/f64_backend.h"

#include "fettle_kit/nn/loss_reference.h"

#include <cmath>

namespace fettle::test {
namespace {

using kit::Activation;
using kit::Array;
using std::int64_t;

struct F64Storage final : kit::Storage {
  explicit F64Storage(std::size_t n) : numbers(n, std::nan("")) {}  // unknown content must not look like zeros
  std::vector<double> numbers;
};

double& at(const Array& x, int64_t i, int64_t j) { return F64Backend::at(x, i, j); }

/// y[i,j] (+)= sum_k a(i, k) b(k, j)
template <class A, class B>
void product(const Array& y, bool accumulate, int64_t depth, const A& a, const B& b) {
  for (int64_t i = 0; i < y.rows; ++i)
    for (int64_t j = 0; j < y.cols; ++j) {
      double sum = accumulate ? at(y, i, j) : 0;
      for (int64_t k = 0; k < depth; ++k) sum += a(i, k) * b(k, j);
      at(y, i, j) = sum;
    }
}

double activated(double x, Activation activation) {
  if (activation == Activation::silu) return x / (1 + std::exp(-x));
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
double slope(double x, Activation activation) {
  if (activation == Activation::silu) {
    const double s = 1 / (1 + std::exp(-x));
    return s * (1 + x * (1 - s));
  }
  const double c = std::sqrt(2 / M_PI), t = std::tanh(c * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
}

/// Calls visit(row of the query, row of the key, head, its key-value head, score, dscore / d(q.k)) for all pairs that
/// the mask lets through.
template <class Visit>
void each_score(const Array& q, const Array& k, const kit::AttentionShape& shape, const Visit& visit) {
  const kit::CausalHeads& h = shape.heads;
  for (int64_t s = 0; s < shape.sequences; ++s)
    for (int64_t head = 0; head < h.heads; ++head)
      for (int64_t i = 0; i < shape.length; ++i)
        for (int64_t j = 0; j <= i; ++j) {
          if (h.window > 0 && j + h.window <= i) continue;
          const int64_t query = s * shape.length + i, key = s * shape.length + j, kv = head / (h.heads / h.kv_heads);
          double score = 0, by = h.scale;
          for (int64_t d = 0; d < h.head_dim; ++d)
            score += at(q, query, head * h.head_dim + d) * at(k, key, kv * h.head_dim + d);
          score *= double{h.scale};
          if (h.softcap > 0) {
            const double t = std::tanh(score / double{h.softcap});
            score = h.softcap * t, by *= 1 - t * t;
          }
          visit(query, key, head, kv, score, by);
        }
}

}  // namespace

double& F64Backend::at(const Array& x, int64_t row, int64_t col) {
  return static_cast<F64Storage&>(*x.storage).numbers.at(static_cast<std::size_t>(x.offset + row * x.stride + col));
}

std::vector<double> F64Backend::values(const Array& x) {
  std::vector<double> out;
  for (int64_t i = 0; i < x.rows; ++i)
    for (int64_t j = 0; j < x.cols; ++j) out.push_back(at(x, i, j));
  return out;
}

Array F64Backend::allocate(int64_t rows, int64_t cols, kit::Element element) {
  return {std::make_shared<F64Storage>(static_cast<std::size_t>(rows * cols)), element, 0, rows, cols, cols};
}

void F64Backend::upload(const Array& to, std::span<const float> from) {
  for (int64_t i = 0; i < to.rows; ++i)
    for (int64_t j = 0; j < to.cols; ++j) at(to, i, j) = from[static_cast<std::size_t>(i * to.cols + j)];
}

void F64Backend::download(std::span<float> to, const Array& from) {
  for (int64_t i = 0; i < from.rows; ++i)
    for (int64_t j = 0; j < from.cols; ++j)
      to[static_cast<std::size_t>(i * from.cols + j)] = static_cast<float>(at(from, i, j));
}

void F64Backend::copy(const Array& to, const Array& from) {
  for (int64_t i = 0; i < from.rows; ++i)
    for (int64_t j = 0; j < from.cols; ++j) at(to, i, j) = at(from, i, j);
}

void F64Backend::fill(const Array& x, float value) {
  for (int64_t i = 0; i < x.rows; ++i)
    for (int64_t j = 0; j < x.cols; ++j) at(x, i, j) = value;
}

void F64Backend::host_view(const Array& x, kit::Access access, const std::function<void(kit::MutMatrix)>& look) {
  std::vector<float> copy(static_cast<std::size_t>(x.size()));
  if (access != kit::Access::write) download(copy, x);
  look({copy.data(), x.rows, x.cols});
  if (access != kit::Access::read) upload(x, copy);
}

void F64Backend::linear(const Array& y, const Array& x, const Array& w, const Array& bias, kit::Precision) {
  product(
      y, false, x.cols, [&](int64_t i, int64_t k) { return at(x, i, k); },
      [&](int64_t k, int64_t j) { return at(w, j, k); });
  if (!bias) return;
  for (int64_t i = 0; i < y.rows; ++i)
    for (int64_t j = 0; j < y.cols; ++j) at(y, i, j) += at(bias, 0, j);
}

void F64Backend::linear_input_gradient(const Array& dx, const Array& dy, const Array& w, bool accumulate,
                                       kit::Precision) {
  product(
      dx, accumulate, dy.cols, [&](int64_t i, int64_t k) { return at(dy, i, k); },
      [&](int64_t k, int64_t j) { return at(w, k, j); });
}

void F64Backend::linear_weight_gradient(const Array& dw, const Array& dy, const Array& x, bool accumulate,
                                        kit::Precision) {
  product(
      dw, accumulate, dy.rows, [&](int64_t i, int64_t k) { return at(dy, k, i); },
      [&](int64_t k, int64_t j) { return at(x, k, j); });
}

void F64Backend::bias_gradient(const Array& db, const Array& dy, bool accumulate) {
  for (int64_t j = 0; j < dy.cols; ++j) {
    if (!accumulate) at(db, 0, j) = 0;
    for (int64_t i = 0; i < dy.rows; ++i) at(db, 0, j) += at(dy, i, j);
  }
}

void F64Backend::embed(const Array& x, const Array& table, std::span<const std::int32_t> ids, float scale) {
  for (int64_t i = 0; i < x.rows; ++i)
    for (int64_t j = 0; j < x.cols; ++j) at(x, i, j) = scale * at(table, ids[static_cast<std::size_t>(i)], j);
}

void F64Backend::embed_gradient(const Array& dtable, const Array& dx, std::span<const std::int32_t> ids, float scale) {
  for (int64_t i = 0; i < dx.rows; ++i)
    for (int64_t j = 0; j < dx.cols; ++j) at(dtable, ids[static_cast<std::size_t>(i)], j) += scale * at(dx, i, j);
}

void F64Backend::rms_norm(const Array& y, const Array& rstd, const Array& x, const Array& weight, float offset,
                          float eps) {
  for (int64_t i = 0; i < x.rows; ++i) {
    double squares = 0;
    for (int64_t j = 0; j < x.cols; ++j) squares += at(x, i, j) * at(x, i, j);
    const double r = 1 / std::sqrt(squares / static_cast<double>(x.cols) + double{eps});
    for (int64_t j = 0; j < x.cols; ++j) at(y, i, j) = at(x, i, j) * r * (double{offset} + at(weight, 0, j));
    at(rstd, i, 0) = r;
  }
}

void F64Backend::rms_norm_gradient(const Array& dx, bool accumulate, const Array& dweight, bool accumulate_weight,
                                   const Array& dy, const Array& x, const Array& weight, float offset,
                                   const Array& rstd) {
  if (dweight && !accumulate_weight) fill(dweight, 0);
  for (int64_t i = 0; i < x.rows; ++i) {
    const double r = at(rstd, i, 0);
    double mean = 0;
    std::vector<double> g;
    for (int64_t j = 0; j < x.cols; ++j) {
      g.push_back(at(dy, i, j) * (double{offset} + at(weight, 0, j)));
      mean += g.back() * at(x, i, j) / static_cast<double>(x.cols);
      if (dweight) at(dweight, 0, j) += at(dy, i, j) * at(x, i, j) * r;
    }
    for (int64_t j = 0; j < x.cols; ++j) {
      const double value = r * (g[static_cast<std::size_t>(j)] - at(x, i, j) * r * r * mean);
      at(dx, i, j) = accumulate ? at(dx, i, j) + value : value;
    }
  }
}

void F64Backend::rotate(const Array& x, const Array& cos, const Array& sin, bool inverse) {
  for (int64_t i = 0; i < x.rows; ++i)
    for (int64_t head = 0; head < x.cols; head += 2 * cos.cols)
      for (int64_t p = 0; p < cos.cols; ++p) {
        const double c = at(cos, i % cos.rows, p), s = at(sin, i % cos.rows, p) * (inverse ? -1 : 1);
        const double a = at(x, i, head + p), b = at(x, i, head + cos.cols + p);
        at(x, i, head + p) = a * c - b * s;
        at(x, i, head + cos.cols + p) = b * c + a * s;
      }
}

void F64Backend::attention(const Array& out, const Array& log_sums, const Array& q, const Array& k, const Array& v,
                           const kit::AttentionShape& shape) {
  const int64_t dim = shape.heads.head_dim;
  fill(log_sums, 0);
  fill(out, 0);
  each_score(q, k, shape, [&](int64_t query, int64_t, int64_t head, int64_t, double score, double) {
    at(log_sums, query, head) += std::exp(score);
  });
  for (int64_t i = 0; i < log_sums.rows; ++i)
    for (int64_t j = 0; j < log_sums.cols; ++j) at(log_sums, i, j) = std::log(at(log_sums, i, j));
  each_score(q, k, shape, [&](int64_t query, int64_t key, int64_t head, int64_t kv, double score, double) {
    const double p = std::exp(score - at(log_sums, query, head));
    for (int64_t d = 0; d < dim; ++d) at(out, query, head * dim + d) += p * at(v, key, kv * dim + d);
  });
}

void F64Backend::attention_gradient(const Array& dq, const Array& dk, const Array& dv, const Array& dout,
                                    const Array& out, const Array& log_sums, const Array& q, const Array& k,
                                    const Array& v, const kit::AttentionShape& shape) {
  const int64_t dim = shape.heads.head_dim;
  for (const Array& x : {dq, dk, dv}) fill(x, 0);
  each_score(q, k, shape, [&](int64_t query, int64_t key, int64_t head, int64_t kv, double score, double by) {
    const double p = std::exp(score - at(log_sums, query, head));
    double dp = 0, all = 0;
    for (int64_t d = 0; d < dim; ++d) {
      dp += at(dout, query, head * dim + d) * at(v, key, kv * dim + d);
      all += at(dout, query, head * dim + d) * at(out, query, head * dim + d);
    }
    for (int64_t d = 0; d < dim; ++d) {
      at(dv, key, kv * dim + d) += p * at(dout, query, head * dim + d);
      at(dq, query, head * dim + d) += p * (dp - all) * by * at(k, key, kv * dim + d);
      at(dk, key, kv * dim + d) += p * (dp - all) * by * at(q, query, head * dim + d);
    }
  });
}

void F64Backend::gated(const Array& y, const Array& gate, const Array& up, Activation activation) {
  for (int64_t i = 0; i < y.rows; ++i)
    for (int64_t j = 0; j < y.cols; ++j) at(y, i, j) = activated(at(gate, i, j), activation) * at(up, i, j);
}

void F64Backend::gated_gradient(const Array& dgate, const Array& dup, const Array& dy, const Array& gate,
                                const Array& up, Activation activation) {
  for (int64_t i = 0; i < dy.rows; ++i)
    for (int64_t j = 0; j < dy.cols; ++j) {
      const double g = at(gate, i, j), u = at(up, i, j), d = at(dy, i, j);
      at(dgate, i, j) = d * u * slope(g, activation);
      at(dup, i, j) = d * activated(g, activation);
    }
}

void F64Backend::add(const Array& y, const Array& a, const Array& b) {
  for (int64_t i = 0; i < y.rows; ++i)
    for (int64_t j = 0; j < y.cols; ++j) at(y, i, j) = at(a, i, j) + at(b, i, j);
}

kit::LossSums F64Backend::head_loss(const kit::HeadLoss& h, const kit::LossTarget& target) {
  const int64_t rows = h.hidden.rows, vocab = h.head.rows;
  const Array z = allocate(rows, vocab, kit::Element::real);
  logits(z, h.hidden, h.head, h.softcap, {});
  const bool dense = static_cast<bool>(target.teacher_hidden);
  const bool teacher = target.spec.divergence != kit::Divergence::none && (dense || target.top.k > 0);
  Array t;
  if (dense) {
    t = allocate(rows, target.teacher_head.rows, kit::Element::real);
    logits(t, target.teacher_hidden, target.teacher_head, target.teacher_softcap, {});
  }
  kit::LossSums sums;
  for (int64_t i = 0; i < rows; ++i) {
    const auto row = static_cast<std::size_t>(i), k = static_cast<std::size_t>(target.top.k);
    const std::int32_t label = target.labels.empty() ? -1 : target.labels[row];
    const bool taught = teacher && (target.teacher_rows.empty() || target.teacher_rows[row] != 0);
    const std::vector<double> student = values(z.rows_from(i, 1));
    std::vector<double> gradient(student.size(), 0.0);
    kit::RowLoss loss;
    if (taught && dense) {
      loss = kit::reference::dense_loss(gradient, student, values(t.rows_from(i, 1)), label, target.spec,
                                        {target.label_scale, target.teacher_scale});
    } else if (taught) {
      loss = kit::reference::sparse_loss(
          gradient, student,
          {target.top.ids.subspan(row * k, k), target.top.log_probabilities.subspan(row * k, k), target.top.tail},
          label, target.spec, {target.label_scale, target.teacher_scale});
    } else if (label >= 0) {
      loss = kit::reference::label_loss(gradient, student, label, target.label_scale);
    }
    sums += {loss.cross_entropy, loss.divergence, label >= 0, taught, 0};
    for (int64_t j = 0; j < vocab; ++j) {
      const double capped = h.softcap > 0 ? at(z, i, j) / double{h.softcap} : 0;
      at(z, i, j) = gradient[static_cast<std::size_t>(j)] * (1 - capped * capped);
    }
  }
  if (h.hidden_gradient) linear_input_gradient(h.hidden_gradient, z, h.head, false, {});
  if (h.head_gradient) linear_weight_gradient(h.head_gradient, z, h.hidden, h.accumulate, {});
  return sums;
}

void F64Backend::logits(const Array& logits, const Array& hidden, const Array& head, float softcap, kit::Precision) {
  linear(logits, hidden, head, {}, {});
  if (softcap > 0)
    for (int64_t i = 0; i < logits.rows; ++i)
      for (int64_t j = 0; j < logits.cols; ++j)
        at(logits, i, j) = softcap * std::tanh(at(logits, i, j) / double{softcap});
}

double F64Backend::squared_error(const Array& dx, const Array& x, const Array& target,
                                 std::span<const std::uint8_t> rows, double scale) {
  double sum = 0;
  for (int64_t i = 0; i < x.rows; ++i) {
    if (!rows.empty() && rows[static_cast<std::size_t>(i)] == 0) continue;
    for (int64_t j = 0; j < x.cols; ++j) {
      const double difference = at(x, i, j) - at(target, i, j);
      sum += difference * difference;
      if (dx) at(dx, i, j) += 2 * scale * difference;
    }
  }
  return sum;
}

double F64Backend::sum_squares(const Array& x) {
  double sum = 0;
  for (const double value : values(x)) sum += value * value;
  return sum;
}

void F64Backend::scale(const Array& x, float factor) {
  for (int64_t i = 0; i < x.rows; ++i)
    for (int64_t j = 0; j < x.cols; ++j) at(x, i, j) *= factor;
}

void F64Backend::multiply(const Array& x, const Array& y) {
  for (int64_t i = 0; i < x.rows; ++i)
    for (int64_t j = 0; j < x.cols; ++j) at(x, i, j) *= at(y, i, j);
}

void F64Backend::adamw(const Array& value, const Array& first, const Array& second, const Array& gradient,
                       const Array& used, const kit::AdamwStep& s) {
  for (int64_t i = 0; i < value.rows; ++i)
    for (int64_t j = 0; j < value.cols; ++j) {
      const double g = at(gradient, i, j) * s.gradient_scale;
      double &w = at(value, i, j), &m = at(first, i, j), &v = at(second, i, j);
      m = s.beta1 * m + (1 - double{s.beta1}) * g;
      v = s.beta2 * v + (1 - double{s.beta2}) * g * g;
      w -= s.rate * (m / s.correction1 / (std::sqrt(v / s.correction2) + s.epsilon) + s.decay * w);
      if (used) at(used, i, j) = w;
    }
}

}  // namespace fettle::test
