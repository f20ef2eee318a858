// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/linalg/factor.h"
#include "fettle_kit/tensor/matrix.h"

#include <cstdint>
#include <span>
#include <vector>

namespace fettle::kit {

/// What each weight becomes while the sweep passes it: pruned, rounded to a grid, or both.
class SweepRule {
 public:
  virtual ~SweepRule() = default;
  /// Before the columns [first, first + w.cols): w [rows, cols], the weights as compensated so far. `diagonal` are U's
  /// diagonal entries of these columns: w^2 / U_jj^2 is what zeroing a weight costs.
  virtual void begin_block(std::int64_t first, ConstMatrix w, std::span<const double> diagonal) = 0;
  /// The value of weight (row, column) given its row of the block from that column on (`rest`, compensated) and U's
  /// diagonal for the same columns. Called column by column within a row; rows at the same time on several threads.
  virtual float value(std::int64_t row, std::int64_t column, std::span<const float> rest,
                      std::span<const double> diagonal) = 0;
  /// value() of so many rows from `row` on, whose rests are `stride` apart: out[i]. For rules that are fast at it.
  virtual void values(std::int64_t row, std::int64_t rows, std::int64_t column, const float* rest, std::int64_t stride,
                      std::span<const double> diagonal, float* out) {
    for (std::int64_t i = 0; i < rows; ++i)
      out[i] = value(row + i, column, {rest + i * stride, diagonal.size()}, diagonal);
  }
  /// Columns of the block taken together: value() looks at no column behind its aligned run of so many, unless it is
  /// the first of one; what lies behind has not seen the updates of the run yet. At most 16; a rule that says 1 may
  /// look at all of `rest` any time.
  virtual std::int64_t run() const { return 1; }
};

struct SweepOptions {
  std::int64_t block = 128;  ///< columns between two updates of the rest (Frantar & Alistarh 2023)
  double damping = 0.01;     ///< of the mean diagonal, added to it
};

struct SweepReport {
  double error = 0;  ///< sum over all weights of e^2 = tr((W - W') (H + damping) (W - W')^T), W as it came in
  std::int64_t dead_columns = 0;  ///< inputs that were always zero; their weights became zero
};

/// What the sweep walks along. Matrices that read the same inputs share one.
struct SweepFactor {
  Square u{0};                     ///< inverse_upper_factor() of the damped Gram matrix
  std::vector<std::int64_t> dead;  ///< inputs that were always zero
};

/// gram: X^T X of the inputs, any positive scale; lower triangle read. invalid_argument if the damped one is not
/// positive definite.
Result<SweepFactor> sweep_factor(const Square& gram, double damping);

/// Walks the columns of w [rows, cols] from left to right: each weight becomes what `rule` says, and the weights right
/// of it make up for the error as well as the inputs' correlations allow. The column sweep of SparseGPT (Frantar &
/// Alistarh 2023, arXiv:2301.00774, section 3) and of GPTQ (Frantar et al. 2022, arXiv:2210.17323, section 3.3).
///   w      in: the original weights; out: the values
/// Weights and updates are f32, factors f64. Each weight takes its updates one after the other by fused multiply-adds,
/// so the bits depend neither on threads nor, for a rule that does not look at blocks, on the block.
SweepReport sweep_columns(MutMatrix w, const SweepFactor& factor, SweepRule& rule, std::int64_t block = 128);

/// Both.
Result<SweepReport> sweep_columns(MutMatrix w, const Square& gram, SweepRule& rule, const SweepOptions& options = {});

}  // namespace fettle::kit
