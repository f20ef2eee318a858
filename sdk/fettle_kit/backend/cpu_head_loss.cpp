// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/backend/cpu_backend.h"
#include "fettle_kit/backend/cpu_memory.h"
#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/kernels/log.h"
#include "fettle_kit/nn/activation.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <vector>

namespace fettle::kit {
namespace {

using cpu::matrix;
using cpu::require;
using std::int64_t;

/// Logits held at a time: 32 MiB. Sums do not depend on it, as every chunk but the last is whole slices of 32 rows.
constexpr int64_t kChunkLogits = int64_t{8} << 20;

std::size_t size(int64_t n) { return static_cast<std::size_t>(n); }

/// What one row adds to the sums.
struct RowLoss {
  double cross_entropy = 0, divergence = 0;
};

/// z becomes the gradient.
RowLoss label_loss(std::span<float> z, std::int32_t label, double scale) {
  const float max = kernels().max(z.data(), z.size()), at_label = z[size(label)];
  const float sum = kernels().exp_sum(z.data(), z.data(), max, z.size());
  kernels().scale(z.data(), static_cast<float>(scale / double{sum}), z.data(), z.size());
  z[size(label)] -= static_cast<float>(scale);
  return {double{max} - double{at_label} + log_of(sum), 0};
}

/// Rows of `whole`, grown if need be.
Array grown(Backend& backend, Array& whole, int64_t rows, int64_t cols, Element element) {
  if (!whole || whole.rows < rows || whole.cols != cols) whole = backend.allocate(rows, cols, element);
  return whole.rows_from(0, rows);
}

}  // namespace

LossSums CpuBackend::head_loss(const HeadLoss& h, const LossTarget& target) {
  const int64_t rows = h.hidden.rows, vocab = h.head.rows;
  const auto fits = [rows](std::size_t n) { return n == 0 || n == size(rows); };
  require(h.hidden.cols == h.head.cols && fits(target.labels.size()) && fits(target.teacher_rows.size()) &&
              (!target.teacher_hidden || (target.teacher_hidden.rows == rows && !target.top.k)),
          "head_loss");
  const int64_t chunk = std::clamp(kChunkLogits / vocab / 32 * 32, int64_t{32}, std::max(rows, int64_t{32}));
  const bool narrow = h.precision == Precision::bf16;
  std::vector<RowLoss> losses(size(rows));
  LossSums sums;
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t count = std::min(chunk, rows - first);
    const Array hidden = h.hidden.rows_from(first, count);
    const Array z = grown(*this, logits_, count, vocab, Element::real);
    const Array dz = narrow && h.hidden_gradient ? grown(*this, logit_gradients_, count, vocab, Element::bf16) : z;
    linear(z, hidden, h.head, {}, h.precision);
    tbb::parallel_for(int64_t{0}, count, [&](int64_t i) {
      const std::span<float> row = matrix(z).row(i);
      const std::int32_t label = target.labels.empty() ? -1 : target.labels[size(first + i)];
      thread_local std::vector<float> capped;
      if (h.softcap > 0) {
        softcap(MutMatrix(row.data(), 1, vocab), h.softcap);
        capped.assign(row.begin(), row.end());
      }
      if (label >= 0) {
        losses[size(first + i)] = label_loss(row, label, target.label_scale);
      } else {
        std::fill(row.begin(), row.end(), 0.0f);
      }
      if (h.softcap > 0)
        for (std::size_t j = 0; j < row.size(); ++j) {
          const float slope = capped[j] / h.softcap;
          row[j] *= 1.0f - slope * slope;
        }
      cpu::written(dz, i, row.data());
    });
    if (h.hidden_gradient)
      linear_input_gradient(h.hidden_gradient.rows_from(first, count), dz, h.head, false, h.precision);
    if (h.head_gradient) linear_weight_gradient(h.head_gradient, dz, hidden, h.accumulate || first > 0, h.precision);
  }
  for (int64_t i = 0; i < rows; ++i) {
    sums.cross_entropy += losses[size(i)].cross_entropy;
    sums.labels += !target.labels.empty() && target.labels[size(i)] >= 0;
  }
  return sums;
}

}  // namespace fettle::kit
