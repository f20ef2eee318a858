// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle/technique.h"
#include "fettle_kit/compress/mask.h"
#include "fettle_kit/io/checkpoint.h"

#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace fettle::kit {

/// What every unstructured pruning technique asks the user; the base of their parameter structs.
struct PruneParams {
  std::optional<double> share;
  std::optional<std::string> pattern;
  std::string group = "matrix";
  std::vector<std::string> targets{"*.layers.*_proj.weight"};
  std::vector<std::string> ignore;
  std::vector<std::pair<std::string, double>> shares;
};

/// Declares them. `Params` derives from PruneParams.
template <class Params>
Description<Params>& with_prune_params(Description<Params>& description) {
  const auto own = []<class T>(T PruneParams::*member) { return static_cast<T Params::*>(member); };
  return description
      .param("share", own(&PruneParams::share), "share of the weights to zero; this or 'pattern'", in_range(0, 1))
      .param("pattern", own(&PruneParams::pattern),
             "N:M, for example 2:4: keep N of every M weights along the input dimension")
      .param("group", own(&PruneParams::group), "weights that compete with one another, for 'share'",
             one_of({"matrix", "row"}))
      .param("targets", own(&PruneParams::targets), "names of the matrices to prune; '*' matches anything")
      .param("ignore", own(&PruneParams::ignore), "names to leave alone, even if 'targets' matches them")
      .param("shares", own(&PruneParams::shares), "another share for the matrices that match; the first match counts",
             in_range(0, 1));
}

/// What can be wrong with the parameters alone.
Status check_prune_params(const PruneParams& params);
/// "2:4" or "0.5": the attribute `sparsity` of the result.
std::string sparsity_text(const PruneParams& params);

/// How much of one matrix goes: a share of each group, or N of every M.
struct SparsityTarget {
  double share = 0.5;
  Group group = Group::matrix;
  std::optional<NofM> pattern;  ///< overrides share and group
};

struct PruneTarget {
  const TensorView* tensor = nullptr;
  SparsityTarget sparsity;
};

/// The matrices to prune and how much of each, in the order of the checkpoint's tensors. Everything about shapes and
/// types that could fail later is checked here, before anything is written. Quantized checkpoints are refused.
Result<std::vector<PruneTarget>> choose_matrices(const Checkpoint& model, const PruneParams& params);

/// unsupported for a checkpoint whose weights are quantized already.
Status check_not_quantized(const Checkpoint& model);

/// The matrices of a model that masks were made for, in the order of the checkpoint's tensors. An error names what does
/// not fit: the masks belong to another model. Quantized checkpoints are refused.
Result<std::vector<PruneTarget>> masked_matrices(const Checkpoint& model, const std::map<std::string, Mask>& masks);
/// Share of the masked weights that are pruned, as the attribute `sparsity` has it: "0.5".
std::string sparsity_text(const std::map<std::string, Mask>& masks);

/// What pruning took from a model, for the metrics that every such technique reports.
struct PruneCounts {
  std::int64_t pruned = 0, targeted = 0, all = 0;  ///< weights
  std::uint64_t bytes = 0;                         ///< of all tensors

  void add(const TensorView& tensor) { all += tensor.elements(), bytes += tensor.bytes.size(); }
  void add(const Mask& mask) { pruned += mask.count_pruned(), targeted += mask.rows() * mask.cols(); }
  /// sparsity (of the targets, by their masks), sparsity_of_model, pruned, parameters_before, parameters (those not
  /// pruned), bytes_before, bytes (the same: zeros are stored).
  void report(const Context& context) const;
};

/// Whether the target leaves the matrix as it is: a share of 0, or N of N.
bool prunes_nothing(const SparsityTarget& target);

/// The lowest scores of each group go. scores [rows, cols] >= 0, not NaN.
Mask mask_of(ConstMatrix scores, const SparsityTarget& target);

/// False if any weight is NaN: it has no rank among the others.
bool all_numbers(ConstMatrix weights);

/// Zeroes the bytes of the pruned weights in rows stored with `element` bytes each; the kept ones stay bit for bit.
void zero_pruned(const Mask& mask, std::span<std::byte> rows, std::size_t element);

}  // namespace fettle::kit
