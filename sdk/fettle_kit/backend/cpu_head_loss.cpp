// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/backend/cpu_backend.h"
#include "fettle_kit/backend/cpu_memory.h"
#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/nn/activation.h"
#include "fettle_kit/nn/loss.h"

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

/// Rows of `whole`, grown if need be.
Array grown(Backend& backend, Array& whole, int64_t rows, int64_t cols, Element element) {
  if (!whole || whole.rows < rows || whole.cols != cols) whole = backend.allocate(rows, cols, element);
  return whole.rows_from(0, rows);
}

}  // namespace

LossSums CpuBackend::head_loss(const HeadLoss& h, const LossTarget& target) {
  const int64_t rows = h.hidden.rows, vocab = h.head.rows, teacher_vocab = target.teacher_head.rows;
  const auto fits = [rows](std::size_t n) { return n == 0 || n == size(rows); };
  const bool dense = static_cast<bool>(target.teacher_hidden);
  const TopTargets& top = target.top;
  require(h.hidden.cols == h.head.cols && fits(target.labels.size()) && fits(target.teacher_rows.size()) &&
              (!dense || (target.teacher_hidden.rows == rows && top.k == 0 && teacher_vocab <= vocab)) &&
              top.ids.size() == size(top.k * rows) && top.log_probabilities.size() == top.ids.size(),
          "head_loss");
  const bool teacher = target.spec.divergence != Divergence::none && (dense || top.k > 0);
  const int64_t chunk = std::clamp(kChunkLogits / vocab / 32 * 32, int64_t{32}, std::max(rows, int64_t{32}));
  const bool narrow = h.precision == Precision::bf16 && h.hidden_gradient;
  std::vector<RowLoss> losses(size(rows));
  LossSums sums;
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t count = std::min(chunk, rows - first);
    const Array hidden = h.hidden.rows_from(first, count);
    const Array z = grown(*this, logits_, count, vocab, Element::real);
    const Array dz = narrow ? grown(*this, logit_gradients_, count, vocab, Element::bf16) : z;
    linear(z, hidden, h.head, {}, h.precision);
    Array t;
    if (teacher && dense) {
      t = grown(*this, teacher_logits_, count, teacher_vocab, Element::real);
      logits(t, target.teacher_hidden.rows_from(first, count), target.teacher_head, target.teacher_softcap,
             h.precision);
    }
    tbb::parallel_for(int64_t{0}, count, [&](int64_t i) {
      const int64_t at = first + i;
      const std::span<float> row = matrix(z).row(i);
      const std::int32_t label = target.labels.empty() ? -1 : target.labels[size(at)];
      const bool taught = teacher && (target.teacher_rows.empty() || target.teacher_rows[size(at)] != 0);
      const LossScales scales{target.label_scale, target.teacher_scale};
      thread_local std::vector<float> capped;
      if (h.softcap > 0) {
        softcap(MutMatrix(row.data(), 1, vocab), h.softcap);
        capped.assign(row.begin(), row.end());
      }
      if (taught && dense) {
        losses[size(at)] = dense_loss(row, matrix(t).row(i), label, target.spec, scales);
      } else if (taught) {
        const RowTargets targets{top.ids.subspan(size(at * top.k), size(top.k)),
                                 top.log_probabilities.subspan(size(at * top.k), size(top.k)), top.tail};
        losses[size(at)] = sparse_loss(row, targets, label, target.spec, scales);
      } else if (label >= 0) {
        losses[size(at)] = label_loss(row, label, target.label_scale);
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
    sums.divergence += losses[size(i)].divergence;
    sums.labels += !target.labels.empty() && target.labels[size(i)] >= 0;
    sums.teacher_rows += teacher && (target.teacher_rows.empty() || target.teacher_rows[size(i)] != 0);
  }
  return sums;
}

}  // namespace fettle::kit
