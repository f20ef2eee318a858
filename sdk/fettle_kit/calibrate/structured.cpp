// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/structured.h"

#include "fettle_kit/model/sliced_config.h"
#include "fettle_kit/tensor/dtype.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

namespace fettle::kit {
namespace {

std::string whole(double value) { return std::to_string(static_cast<std::int64_t>(std::llround(value))); }

/// Weights of the matrices that the cut axes belong to.
double matrix_weights(const DecoderShape& s, double head_dim, double vocab, bool tied) {
  const auto hidden = static_cast<double>(s.hidden);
  const double attention = 2 * head_dim * static_cast<double>(s.heads + s.kv_heads);
  return static_cast<double>(s.layers) * hidden * (attention + 3 * static_cast<double>(s.ffn)) +
         vocab * hidden * (tied ? 1 : 2);
}

}  // namespace

Result<Checkpoint> open_dense(const Inputs& inputs) {
  FETTLE_ASSIGN(Checkpoint checkpoint, Checkpoint::open(inputs.at("model").path()));
  if (checkpoint.config().contains("quantization_config"))
    return Status(Code::unsupported,
                  "the weights are quantized already, and packed codes cannot be cut; prune the original checkpoint, "
                  "then quantize the result",
                  "model");
  return checkpoint;
}

Result<std::uint64_t> write_sliced(const std::string& folder, const Checkpoint& dense, const KeptParts& kept,
                                   bool norm_gain) {
  const std::string name = dense.folder() + "/config.json";
  FETTLE_ASSIGN(const ModelConfig config, read_model_config(dense.config(), name));
  FETTLE_ASSIGN(const Json sliced, sliced_config(dense.config(), name, kept));
  FETTLE_ASSIGN(const auto slices,
                slice_tensors(dense, shape_of(config), kept, slice_scaling(config, kept, norm_gain)));
  std::uint64_t bytes = 0;
  for (const TensorSlice& slice : slices) {
    FETTLE_ASSIGN(const std::uint64_t size, byte_size(slice.spec));
    bytes += size;
  }
  FETTLE_TRY(write_slices(folder, sliced, dense, slices));
  return bytes;
}

void report_sizes(const Context& context, const ModelConfig& before, std::uint64_t bytes_before,
                  const ModelConfig& after, std::uint64_t bytes) {
  const auto count = [&](const char* name, std::int64_t value) { context.metric(name, static_cast<double>(value)); };
  count("parameters_before", before.parameters());
  count("parameters", after.parameters());
  context.metric("bytes_before", static_cast<double>(bytes_before), "B");
  context.metric("bytes", static_cast<double>(bytes), "B");
  count("layers", after.layers);
  count("hidden", after.hidden);
  count("ffn", after.intermediate);
  count("heads", after.heads);
  count("kv_heads", after.kv_heads);
}

DecoderShape foretold_shape(const Input& model) {
  const auto size = [&](const char* key) { return static_cast<std::int64_t>(model.number(key)); };
  return {size("layers"), size("hidden"), size("ffn"), size("heads"), size("kv_heads"), 0};
}

void foretell_sizes(const Inputs& inputs, Estimate& estimate, const DecoderShape& sizes, bool known,
                    double parameters) {
  const Input model = inputs.at("model");
  for (const fettle_attribute& a : model.attributes()) {
    const std::string_view key = a.key;
    const bool size = key == "layers" || key == "hidden" || key == "ffn" || key == "heads" || key == "kv_heads";
    if (size || key == "sparsity" || key == "parameters" || key == "bytes") continue;
    estimate.attribute("model", a.key, a.value);
  }
  const DecoderShape dense = foretold_shape(model);
  const double total = model.number("parameters"), bytes = model.number("bytes");
  if (known && dense.heads > 0) {
    const double head_dim = static_cast<double>(dense.hidden) / static_cast<double>(dense.heads);
    const bool tied = model.attribute("tied") == "true";
    const double vocab = model.number("vocab");
    parameters = total - matrix_weights(dense, head_dim, vocab, tied) + matrix_weights(sizes, head_dim, vocab, tied);
    for (const auto& [key, value] : {std::pair{"layers", sizes.layers},
                                     {"hidden", sizes.hidden},
                                     {"ffn", sizes.ffn},
                                     {"heads", sizes.heads},
                                     {"kv_heads", sizes.kv_heads}})
      estimate.attribute("model", key, std::to_string(value));
  }
  if (parameters > 0 && total > 0) {
    estimate.attribute("model", "parameters", whole(parameters));
    estimate.attribute("model", "bytes", whole(bytes * parameters / total));
    estimate.disk(bytes * parameters / total * 1.05 + 1e6);
  } else {
    estimate.disk(bytes * 1.05 + 1e6);
  }
}

std::vector<std::int64_t> best(std::span<const float> scores, std::int64_t count) {
  std::vector<std::int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
  });
  order.resize(static_cast<std::size_t>(count));
  std::sort(order.begin(), order.end());
  return order;
}

void report_kept(const Context& context, const std::string& part, ConstMatrix scores,
                 const std::vector<std::vector<std::int64_t>>& kept) {
  for (std::int64_t i = 0; i < scores.rows; ++i) {
    const auto& stay = kept[static_cast<std::size_t>(i)];
    double all = 0, held = 0;
    for (const float s : scores.row(i)) all += static_cast<double>(s);
    for (const std::int64_t j : stay) held += static_cast<double>(scores(i, j));
    const auto x = static_cast<double>(i);
    context.point((part + ".kept").c_str(), x, static_cast<double>(stay.size()));
    context.point((part + ".kept_score").c_str(), x, all > 0 ? held / all : 1);
  }
}

}  // namespace fettle::kit
