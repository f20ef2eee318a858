// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/backend/cpu_backend.h"

#include "fettle_kit/backend/cpu_memory.h"
#include "fettle_kit/kernels/attention_backward.h"
#include "fettle_kit/kernels/gemm.h"
#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/nn/activation.h"
#include "fettle_kit/nn/gradients.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

namespace fettle::kit {
namespace {

using cpu::matrix;
using cpu::require;
using std::int64_t;

std::size_t size(int64_t n) { return static_cast<std::size_t>(n); }

/// Calls change(i, buffers) for every row, with room for `count` rows of `cols` floats; rows do not touch one another.
template <class Change>
void each_row(int64_t rows, int64_t cols, int count, const Change& change) {
  tbb::parallel_for(tbb::blocked_range<int64_t>(0, rows, 4), [&](const auto& range) {
    thread_local std::vector<float> buffers;
    if (buffers.size() < size(cols * count)) buffers.resize(size(cols * count));
    for (int64_t i = range.begin(); i < range.end(); ++i) change(i, buffers.data());
  });
}

/// Calls change(first, count) for parts of a dense array.
template <class Change>
void each_part(int64_t elements, const Change& change) {
  constexpr int64_t kPart = 1 << 14;
  tbb::parallel_for(tbb::blocked_range<int64_t>(0, (elements + kPart - 1) / kPart), [&](const auto& range) {
    change(range.begin() * kPart, std::min(elements, range.end() * kPart) - range.begin() * kPart);
  });
}

bool same_shape(const Array& a, const Array& b) { return a.rows == b.rows && a.cols == b.cols; }

float* dense(const Array& x, const char* op) {
  require(x.dense(), op);
  return matrix(x).data;
}

std::vector<float> factor_of(const Array& weight, float offset) {
  const float* w = matrix(weight).data;
  std::vector<float> factor(w, w + weight.cols);
  if (offset != 0)
    for (float& x : factor) x += offset;
  return factor;
}

/// AdamW on n elements. A function of its own, with pointers that say they do not overlap, so that the compiler takes
/// several at a time: one at a time is a third slower.
void adamw_part(float* __restrict w, float* __restrict m, float* __restrict v, const float* __restrict gradient,
                int64_t n, const AdamwStep s) {
  const float rate = s.rate / s.correction1, root = 1.0f / s.correction2, keep = 1.0f - s.rate * s.decay;
  const float rest1 = 1.0f - s.beta1, rest2 = 1.0f - s.beta2;
  for (int64_t i = 0; i < n; ++i) {
    const float g = gradient[i] * s.gradient_scale;
    m[i] = s.beta1 * m[i] + rest1 * g;
    v[i] = s.beta2 * v[i] + rest2 * (g * g);
    w[i] = keep * w[i] - rate * m[i] / (std::sqrt(v[i] * root) + s.epsilon);
  }
}

}  // namespace

// ---- memory

Array CpuBackend::allocate(int64_t rows, int64_t cols, Element element) {
  const std::size_t width = element == Element::real ? sizeof(float) : sizeof(std::uint16_t);
  return {std::make_shared<cpu::HostStorage>(size(rows) * size(cols) * width), element, 0, rows, cols, cols};
}

void CpuBackend::upload(const Array& to, std::span<const float> from) {
  require(to.dense() && size(to.size()) == from.size(), "upload");
  each_row(to.rows, 0, 0, [&](int64_t i, float*) {
    const float* row = from.data() + i * to.cols;
    if (to.element == Element::real) std::copy_n(row, to.cols, matrix(to).row(i).data());
    cpu::written(to, i, row);
  });
}

void CpuBackend::download(std::span<float> to, const Array& from) {
  require(size(from.size()) == to.size(), "download");
  each_row(from.rows, from.cols, 1, [&](int64_t i, float* buffer) {
    std::copy_n(cpu::widened(from, i, buffer), from.cols, to.data() + i * from.cols);
  });
}

void CpuBackend::copy(const Array& to, const Array& from) {
  require(same_shape(to, from), "copy");
  each_row(from.rows, from.cols, 1, [&](int64_t i, float* buffer) {
    const float* row = cpu::widened(from, i, buffer);
    if (to.element == Element::real) std::copy_n(row, to.cols, matrix(to).row(i).data());
    cpu::written(to, i, row);
  });
}

void CpuBackend::fill(const Array& x, float value) {
  const MutMatrix m = matrix(x);
  each_row(x.rows, 0, 0, [&](int64_t i, float*) { std::fill(m.row(i).begin(), m.row(i).end(), value); });
}

void CpuBackend::host_view(const Array& x, Access, const std::function<void(MutMatrix)>& look) {
  require(x.dense(), "host_view");
  look(matrix(x));
}

// ---- products

void CpuBackend::linear(const Array& y, const Array& x, const Array& w, const Array& bias, Precision precision) {
  if (precision == Precision::bf16) {
    matmul_bf16_nt(matrix(y), cpu::operand(x), cpu::operand(w));
  } else {
    matmul_nt(matrix(y), matrix(x), ConstMatrix(matrix(w)));
  }
  if (bias) add_bias(matrix(y), {matrix(bias).data, size(bias.cols)});
}

void CpuBackend::linear_input_gradient(const Array& dx, const Array& dy, const Array& w, bool accumulate,
                                       Precision precision) {
  if (precision == Precision::bf16) {
    matmul_bf16_nn(matrix(dx), cpu::operand(dy), cpu::operand(w), accumulate);
  } else {
    matmul_nn(matrix(dx), matrix(dy), matrix(w), accumulate);
  }
}

void CpuBackend::linear_weight_gradient(const Array& dw, const Array& dy, const Array& x, bool accumulate,
                                        Precision precision) {
  if (precision == Precision::bf16) {
    matmul_bf16_tn(matrix(dw), cpu::operand(dy), cpu::operand(x), accumulate);
  } else {
    matmul_tn(matrix(dw), matrix(dy), matrix(x), accumulate);
  }
}

void CpuBackend::bias_gradient(const Array& db, const Array& dy, bool accumulate) {
  require(db.cols == dy.cols, "bias_gradient");
  if (dy.element == Element::real) return column_sums(matrix(db).row(0), matrix(dy), accumulate);
  const Array wide = allocate(dy.rows, dy.cols, Element::real);
  copy(wide, dy);
  column_sums(matrix(db).row(0), matrix(wide), accumulate);
}

// ---- the pieces of a block

void CpuBackend::embed(const Array& x, const Array& table, std::span<const std::int32_t> ids, float scale) {
  require(size(x.rows) == ids.size() && x.cols == table.cols, "embed");
  const MutMatrix to = matrix(x);
  each_row(x.rows, x.cols, 1, [&](int64_t i, float* buffer) {
    kernels().scale(to.row(i).data(), scale, cpu::widened(table, ids[size(i)], buffer), size(x.cols));
  });
}

void CpuBackend::embed_gradient(const Array& dtable, const Array& dx, std::span<const std::int32_t> ids, float scale) {
  require(size(dx.rows) == ids.size() && dx.cols == dtable.cols, "embed_gradient");
  const MutMatrix to = matrix(dtable), from = matrix(dx);
  std::vector<int64_t> order(ids.size());  // positions by id: one task adds all rows of an id
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return ids[size(a)] < ids[size(b)]; });
  std::vector<std::size_t> runs;
  for (std::size_t i = 0; i < order.size(); ++i)
    if (i == 0 || ids[size(order[i])] != ids[size(order[i - 1])]) runs.push_back(i);
  runs.push_back(order.size());
  tbb::parallel_for(std::size_t{0}, runs.size() - 1, [&](std::size_t run) {
    for (std::size_t i = runs[run]; i < runs[run + 1]; ++i)
      kernels().axpy(to.row(ids[size(order[i])]).data(), scale, from.row(order[i]).data(), size(dx.cols));
  });
}

void CpuBackend::rms_norm(const Array& y, const Array& rstd, const Array& x, const Array& weight, float offset,
                          float eps) {
  require(same_shape(y, x) && rstd.size() == x.rows && rstd.dense() && weight.cols == x.cols, "rms_norm");
  const std::vector<float> factor = factor_of(weight, offset);
  const MutMatrix from = matrix(x);
  float* const kept = matrix(rstd).data;
  each_row(x.rows, x.cols, 1, [&](int64_t i, float* buffer) {
    kept[i] = rms_norm_row(cpu::row_to_write(y, i, buffer), from.row(i).data(), factor.data(), factor.size(), eps);
    cpu::written(y, i, buffer);
  });
}

void CpuBackend::rms_norm_gradient(const Array& dx, bool accumulate, const Array& dweight, bool accumulate_weight,
                                   const Array& dy, const Array& x, const Array& weight, float offset,
                                   const Array& rstd) {
  require(same_shape(dx, x) && same_shape(dy, x) && rstd.size() == x.rows && weight.cols == x.cols,
          "rms_norm_gradient");
  const std::vector<float> factor = factor_of(weight, offset);
  kit::rms_norm_gradient(matrix(dx), accumulate, dweight ? matrix(dweight).row(0) : std::span<float>(),
                         accumulate_weight, matrix(dy), matrix(x), factor, {matrix(rstd).data, size(x.rows)});
}

void CpuBackend::rotate(const Array& x, const Array& cos, const Array& sin, bool inverse) {
  const int64_t pairs = cos.cols, length = cos.rows;
  require(same_shape(cos, sin) && x.rows % length == 0 && x.cols % (2 * pairs) == 0, "rotate");
  const MutMatrix m = matrix(x), c = matrix(cos), s = matrix(sin);
  each_row(x.rows, pairs, 1, [&](int64_t i, float* buffer) {
    const float* angles = s.row(i % length).data();
    if (inverse) kernels().scale(buffer, -1.0f, angles, size(pairs)), angles = buffer;
    for (float* head = m.row(i).data(); head != m.row(i).data() + x.cols; head += 2 * pairs)
      kernels().rotate(head, c.row(i % length).data(), angles, size(pairs));
  });
}

void CpuBackend::attention(const Array& out, const Array& log_sums, const Array& q, const Array& k, const Array& v,
                           const AttentionShape& shape) {
  require(q.rows == shape.sequences * shape.length, "attention");
  for (int64_t s = 0; s < shape.sequences; ++s) {
    const auto of = [&](const Array& x) { return matrix(x).rows_from(s * shape.length, shape.length); };
    causal_attention(of(out), of(log_sums), of(q), of(k), of(v), shape.heads);
  }
}

void CpuBackend::attention_gradient(const Array& dq, const Array& dk, const Array& dv, const Array& dout,
                                    const Array& out, const Array& log_sums, const Array& q, const Array& k,
                                    const Array& v, const AttentionShape& shape) {
  attention_backward(matrix(dq), matrix(dk), matrix(dv), matrix(dout),
                     {matrix(q), matrix(k), matrix(v), matrix(out), matrix(log_sums), shape.heads, shape.length});
}

void CpuBackend::gated(const Array& y, const Array& gate, const Array& up, Activation activation) {
  require(same_shape(y, gate) && same_shape(y, up), "gated");
  const auto multiply = activation == Activation::silu ? kernels().silu_mul : kernels().gelu_mul;
  const MutMatrix g = matrix(gate), u = matrix(up);
  each_row(y.rows, y.cols, 1, [&](int64_t i, float* buffer) {
    multiply(cpu::row_to_write(y, i, buffer), g.row(i).data(), u.row(i).data(), size(y.cols));
    cpu::written(y, i, buffer);
  });
}

void CpuBackend::gated_gradient(const Array& dgate, const Array& dup, const Array& dy, const Array& gate,
                                const Array& up, Activation activation) {
  require(same_shape(dgate, dy) && same_shape(dup, dy) && same_shape(gate, dy) && same_shape(up, dy), "gated_gradient");
  const MutMatrix d = matrix(dy), g = matrix(gate), u = matrix(up);
  each_row(dy.rows, dy.cols, 2, [&](int64_t i, float* buffers) {
    float *gate_buffer = buffers, *up_buffer = buffers + dy.cols;
    gated_activation_gradient_row(cpu::row_to_write(dgate, i, gate_buffer), cpu::row_to_write(dup, i, up_buffer),
                                  d.row(i).data(), g.row(i).data(), u.row(i).data(), size(dy.cols), activation);
    cpu::written(dgate, i, gate_buffer);
    cpu::written(dup, i, up_buffer);
  });
}

void CpuBackend::add(const Array& y, const Array& a, const Array& b) {
  require(same_shape(y, a) && same_shape(y, b), "add");
  const MutMatrix to = matrix(y), left = matrix(a), right = matrix(b);
  each_row(y.rows, 0, 0, [&](int64_t i, float*) {
    kernels().add(to.row(i).data(), left.row(i).data(), right.row(i).data(), size(y.cols));
  });
}

// ---- losses (head_loss: cpu_head_loss.cpp)

void CpuBackend::logits(const Array& logits, const Array& hidden, const Array& head, float cap, Precision precision) {
  linear(logits, hidden, head, {}, precision);
  if (cap > 0) softcap(matrix(logits), cap);
}

double CpuBackend::squared_error(const Array& dx, const Array& x, const Array& target,
                                 std::span<const std::uint8_t> rows, double scale) {
  require(same_shape(x, target) && (!dx || same_shape(dx, x)), "squared_error");
  const MutMatrix a = matrix(x), b = matrix(target);
  std::vector<double> sums(size(x.rows));
  each_row(x.rows, x.cols, 1, [&](int64_t i, float* difference) {
    if (!rows.empty() && rows[size(i)] == 0) return;
    kernels().scale(difference, -1.0f, b.row(i).data(), size(x.cols));
    kernels().add(difference, a.row(i).data(), difference, size(x.cols));
    for (int64_t j = 0; j < x.cols; ++j) sums[size(i)] += double{difference[j]} * difference[j];
    if (dx) kernels().axpy(matrix(dx).row(i).data(), static_cast<float>(2 * scale), difference, size(x.cols));
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

// ---- optimizer

double CpuBackend::sum_squares(const Array& x) {
  constexpr int64_t kPart = 1 << 12;  // part of the result
  const float* const data = dense(x, "sum_squares");
  const int64_t parts = (x.size() + kPart - 1) / kPart;
  std::vector<double> sums(size(parts));
  tbb::parallel_for(int64_t{0}, parts, [&](int64_t i) {
    sums[size(i)] = kernels().sum_squares(data + i * kPart, size(std::min(kPart, x.size() - i * kPart)));
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

void CpuBackend::scale(const Array& x, float factor) {
  float* const data = dense(x, "scale");
  each_part(x.size(), [&](int64_t at, int64_t n) { kernels().scale(data + at, factor, data + at, size(n)); });
}

void CpuBackend::multiply(const Array& x, const Array& y) {
  float *const to = dense(x, "multiply"), *const by = dense(y, "multiply");
  require(same_shape(x, y), "multiply");
  each_part(x.size(), [&](int64_t at, int64_t n) { kernels().mul(to + at, to + at, by + at, size(n)); });
}

void CpuBackend::adamw(const Array& value, const Array& first, const Array& second, const Array& gradient,
                       const Array& used, const AdamwStep& s) {
  require(same_shape(value, first) && same_shape(value, second) && same_shape(value, gradient) &&
              (!used || same_shape(value, used)),
          "adamw");
  float *const w = dense(value, "adamw"), *const m = dense(first, "adamw"), *const v = dense(second, "adamw");
  const float* const gradients = dense(gradient, "adamw");
  const bool narrow = used && used.element == Element::bf16;
  const bool copied = used && used.element == Element::real && matrix(used).data != w;
  each_part(value.size(), [&](int64_t at, int64_t n) {
    adamw_part(w + at, m + at, v + at, gradients + at, n, s);
    if (narrow) kernels().f32_to_bf16(const_cast<std::uint16_t*>(cpu::bf16_matrix(used).data) + at, w + at, size(n));
    if (copied) std::copy_n(w + at, n, matrix(used).data + at);
  });
}

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<CpuBackend>(); }

}  // namespace fettle::kit
