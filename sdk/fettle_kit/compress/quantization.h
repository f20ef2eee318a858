// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle/technique.h"
#include "fettle_kit/compress/awq_layout.h"
#include "fettle_kit/compress/compressed_tensors.h"
#include "fettle_kit/compress/gptq_layout.h"

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace fettle::kit {

/// What every technique that writes a quantized checkpoint asks the user.
struct QuantizeParams {
  std::vector<std::string> targets{"*.layers.*_proj.weight"};
  std::vector<std::string> ignore;
  Bytes shard_size{5'000'000'000};
};

/// Declares them; with_target_params those that say which matrices. `Params` derives from QuantizeParams.
template <class Params>
Description<Params>& with_target_params(Description<Params>& description) {
  const auto own = []<class T>(T QuantizeParams::*member) { return static_cast<T Params::*>(member); };
  return description
      .param("targets", own(&QuantizeParams::targets), "names of the matrices to quantize; '*' matches anything")
      .param("ignore", own(&QuantizeParams::ignore), "names to leave as they are, even if 'targets' matches them");
}
template <class Params>
Description<Params>& with_quantize_params(Description<Params>& description) {
  return with_target_params(description)
      .param("shard_size", static_cast<Bytes Params::*>(&QuantizeParams::shard_size),
             "largest size of a file of weights", at_least(1e6));
}

/// The matrices to quantize in the order of the checkpoint's tensors: linears stored as plain floats. Errors name the
/// tensor and the parameter: no match, not a matrix of f32, f16 or bf16, an embedding, the head of a tied model.
Result<std::vector<const TensorView*>> quantization_targets(const Checkpoint& model, const QuantizeParams& params);

/// The names of the tensors that vLLM runs as one with this one (q, k and v; gate and up), itself among them; only
/// itself if it is none of those.
std::vector<std::string> fused_with(const std::string& tensor);

/// Those must be stored alike. A sentence for each block's group that is not, by `kind`: how a matrix is stored, "" if
/// it is dense. Empty if all is well.
std::vector<std::string> unlike_fused(const Checkpoint& model,
                                      const std::function<std::string(const std::string&)>& kind);

/// Parameters of the techniques that quantize to integers.
struct IntegerParams : QuantizeParams {
  int bits = 4;
  bool symmetric = true;
  std::string sharing = "group";
  int group_size = 128;
  std::vector<std::pair<std::string, int>> bits_for;
  std::optional<double> search;
  std::string format = "compressed-tensors";
};

/// Declares them; with_grid_params those that are not QuantizeParams.
template <class Params>
Description<Params>& with_grid_params(Description<Params>& description) {
  const auto own = []<class T>(T IntegerParams::*member) { return static_cast<T Params::*>(member); };
  return description.param("bits", own(&IntegerParams::bits), "bits of a weight", in_range(2, 8))
      .param("symmetric", own(&IntegerParams::symmetric), "no zero points: the grid reaches as far up as down")
      .param("sharing", own(&IntegerParams::sharing),
             "what shares a scale: 'group_size' neighbours in a row, a row (an output channel), or the matrix",
             one_of({"group", "channel", "tensor"}))
      .param("group_size", own(&IntegerParams::group_size), "with sharing: group; must divide every row",
             in_range(1, 65536))
      .param("bits_for", own(&IntegerParams::bits_for),
             "other bits for the matrices that match; the first match counts", in_range(2, 8))
      .param("search", own(&IntegerParams::search),
             "try smaller ranges for each group and take the one with the least sum |error|^search; 2.4 is GPTQ's",
             in_range(1, 4))
      .param("format", own(&IntegerParams::format),
             "layout of the files: compressed-tensors (vLLM, transformers), gptq (every GPTQ client), gptq_v2 "
             "(GPTQModel, vLLM; needed for asymmetric GPTQ files), awq (every AWQ client; 4 bits)",
             one_of({"compressed-tensors", "gptq", "gptq_v2", "awq"}));
}
template <class Params>
Description<Params>& with_integer_params(Description<Params>& description) {
  return with_quantize_params(with_grid_params(description));
}

/// What can be wrong with them alone.
Status check_integer_params(const IntegerParams& params);
/// The attribute `weights` of the result.
std::string weights_attribute(const IntegerParams& params);

struct IntegerTarget {
  const TensorView* tensor = nullptr;
  GridScheme scheme;
};

/// The matrices and their grids. Everything about shapes, types and clients that could fail later is checked here.
Result<std::vector<IntegerTarget>> integer_targets(const Checkpoint& model, const IntegerParams& params);

/// Warns of matrices that vLLM cannot load beside each other.
void warn_of_unlike(const Checkpoint& model, const std::vector<IntegerTarget>& targets, const Context& context);

/// The error for a tensor that holds a NaN or infinity.
Status not_finite(const TensorView& tensor);
/// The weights of a tensor as f32, or not_finite().
Result<std::vector<float>> finite_weights(const TensorView& tensor);

/// How the codes came about, for the record in the config.
struct IntegerRecord {
  bool act_order = false;      ///< columns were quantized in another order
  bool static_groups = false;  ///< and yet lie in the groups of their neighbours
  bool true_sequential = false;
  double damping = 0;
};

/// What floats that are not quantized become in the chosen format; nothing: they stay as they are.
std::optional<DType> dense_type(const IntegerParams& params);

/// Writes the checkpoint in the chosen format. One thread at a time.
class IntegerWriter {
 public:
  /// `changed`: tensors that stay plain floats but get other values.
  static Result<IntegerWriter> create(const std::string& folder, const Checkpoint& model,
                                      const std::vector<IntegerTarget>& targets, const IntegerParams& params,
                                      const IntegerRecord& record = {},
                                      const std::vector<const TensorView*>& changed = {});
  Status put(const IntegerTarget& target, const CodedMatrix& coded);
  /// The values of a changed tensor.
  Status put_plain(const TensorView& tensor, std::span<const float> values) {
    return writer_.replace_values(tensor, values);
  }
  Status finish() { return writer_.finish(); }

 private:
  IntegerWriter(QuantizedWriter writer, std::string format) : writer_(std::move(writer)), format_(std::move(format)) {}
  QuantizedWriter writer_;
  std::string format_;
};

/// sum (w - value)^2 / sum w^2 over a matrix; 0 if it is all zeros. The order of the sums is fixed.
double relative_error(ConstMatrix w, const CodedMatrix& coded);

}  // namespace fettle::kit
