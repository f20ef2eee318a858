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

std::size_t size(int64_t n) { return static_cast<std::size_t>(n); }

/// Rows of `whole`, grown if need be.
Array grown(Backend& backend, Array& whole, int64_t rows, int64_t cols, Element element) {
  if (!whole || whole.rows < rows || whole.cols != cols) whole = backend.allocate(rows, cols, element);
  return whole.rows_from(0, rows);
}

/// What one row adds to LossSums.
struct RowSums {
  RowLoss loss;
  bool label = false, teacher = false, agrees = false;
};

/// Turns a row of student logits into its gradient. `teacher` is empty, or scratch with the teacher's logits.
RowSums row_loss(std::span<float> z, std::span<float> teacher, const LossTarget& target, int64_t at, bool gradient) {
  RowSums sums;
  const std::int32_t label = target.labels.empty() ? -1 : target.labels[size(at)];
  sums.label = label >= 0;
  sums.teacher = target.spec.divergence != Divergence::none && (!teacher.empty() || target.top.k > 0) &&
                 (target.teacher_rows.empty() || target.teacher_rows[size(at)] != 0);
  const LossScales scales = gradient ? LossScales{target.label_scale, target.teacher_scale} : LossScales{0, 0};
  if (!sums.teacher) {
    if (sums.label) {
      sums.loss = label_loss(z, label, scales.label);
    } else {
      std::ranges::fill(z, 0.0F);
    }
  } else if (target.top.k > 0) {
    const auto k = size(target.top.k), first = size(at) * k;
    const RowTargets known{target.top.ids.subspan(first, k), target.top.log_probabilities.subspan(first, k),
                           target.top.tail};
    sums.loss = sparse_loss(z, known, label, target.spec, scales);
  } else {
    if (!gradient)  // an evaluation
      sums.agrees = kernels().arg_max(z.data(), z.size()) == kernels().arg_max(teacher.data(), teacher.size());
    sums.loss = dense_loss(z, teacher, label, target.spec, scales);
  }
  return sums;
}

/// As row_loss, of logits = cap * tanh(raw / cap).
RowSums capped_row_loss(std::span<float> z, std::span<float> teacher, const LossTarget& target, int64_t at,
                        bool gradient, float cap) {
  thread_local std::vector<float> capped;
  softcap(MutMatrix(z.data(), 1, static_cast<int64_t>(z.size())), cap);
  capped.assign(z.begin(), z.end());
  const RowSums sums = row_loss(z, teacher, target, at, gradient);
  for (std::size_t j = 0; gradient && j < z.size(); ++j) {
    const float tanh = capped[j] / cap;
    z[j] *= 1.0F - tanh * tanh;
  }
  return sums;
}

}  // namespace

/// Rows of logits held at a time. A chunk and the teacher's should stay in the outer cache (4 MiB), but each chunk
/// reads the head twice and its gradient once: below 512 rows that costs more, as long as a chunk takes no more than 64
/// MiB. Sums do not depend on it: in f32 they run row by row, in bf16 by slices of 32 rows, and a chunk is whole
/// slices.
int64_t CpuBackend::loss_rows(int64_t vocab) {
  vocab = std::max<int64_t>(vocab, 1);
  constexpr int64_t kCached = int64_t{1} << 20, kMost = int64_t{16} << 20, kEnoughRows = 512;
  return std::max({int64_t{32}, kCached / vocab / 32 * 32, std::min(kEnoughRows, kMost / vocab / 32 * 32)});
}

LossSums CpuBackend::head_loss(const HeadLoss& h, const LossTarget& target) {
  const int64_t rows = h.hidden.rows, vocab = h.head.rows;
  const auto fits = [rows](std::size_t n) { return n == 0 || n == size(rows); };
  const bool live = static_cast<bool>(target.teacher_hidden);  // a teacher that gives logits
  require(h.hidden.cols == h.head.cols && fits(target.labels.size()) && fits(target.teacher_rows.size()) &&
              (!live || (target.teacher_hidden.rows == rows && target.teacher_head &&
                         target.teacher_hidden.cols == target.teacher_head.cols && target.top.k == 0)) &&
              (target.top.k == 0 || (target.top.ids.size() == size(rows * target.top.k) &&
                                     target.top.log_probabilities.size() == size(rows * target.top.k))),
          "head_loss");
  // Tokens that the student does not have are not looked at.
  const Array teacher_head =
      live ? target.teacher_head.rows_from(0, std::min(vocab, target.teacher_head.rows)) : Array();
  const int64_t wanted = h.chunk > 0 ? h.chunk : loss_rows(vocab);
  const int64_t chunk = std::min(wanted, rows);
  const bool narrow = h.precision == Precision::bf16, gradient = static_cast<bool>(h.hidden_gradient);
  std::vector<RowSums> found(size(rows));
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t count = std::min(chunk, rows - first);
    const Array hidden = h.hidden.rows_from(first, count);
    const Array z = grown(*this, logits_, count, vocab, Element::real);
    const Array dz = narrow && gradient ? grown(*this, logit_gradients_, count, vocab, Element::bf16) : z;
    linear(z, hidden, h.head, {}, h.precision);
    MutMatrix teacher;
    if (live) {
      const Array t = grown(*this, teacher_logits_, count, teacher_head.rows, Element::real);
      linear(t, target.teacher_hidden.rows_from(first, count), teacher_head, {}, h.precision);
      teacher = matrix(t);
    }
    tbb::parallel_for(int64_t{0}, count, [&](int64_t i) {
      const std::span<float> row = matrix(z).row(i);
      std::span<float> teacher_row;
      if (live) {
        teacher_row = teacher.row(i);
        if (target.teacher_softcap > 0) softcap(MutMatrix(teacher_row.data(), 1, teacher.cols), target.teacher_softcap);
      }
      found[size(first + i)] = h.softcap > 0 ? capped_row_loss(row, teacher_row, target, first + i, gradient, h.softcap)
                                             : row_loss(row, teacher_row, target, first + i, gradient);
      if (gradient) cpu::written(dz, i, row.data());
    });
    if (gradient) linear_input_gradient(h.hidden_gradient.rows_from(first, count), dz, h.head, false, h.precision);
    if (h.head_gradient) linear_weight_gradient(h.head_gradient, dz, hidden, h.accumulate || first > 0, h.precision);
  }
  LossSums sums;
  for (const RowSums& row : found) {
    sums.cross_entropy += row.loss.cross_entropy;
    sums.divergence += row.loss.divergence;
    sums.labels += row.label;
    sums.teacher_rows += row.teacher;
    sums.teacher_agrees += row.agrees;
  }
  return sums;
}

}  // namespace fettle::kit
