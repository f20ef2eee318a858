// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/gguf.h"
#include "fettle_kit/io/output_file.h"
#include "fettle_kit/model/gguf_layout.h"
#include "fettle_kit/model/mixture.h"
#include "fettle_kit/model/weights.h"

#include "convert.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <map>
#include <vector>

namespace io_convert {

using fettle::Code;
using fettle::Result;
using fettle::Status;
using namespace fettle::kit;

namespace {

/// A tensor of the file and how its numbers lie in a checkpoint.
struct Moved {
  TensorView stored;
  std::int64_t head_dim = 0;  ///< not 0: rows go back through gguf_stored_row
  bool minus_one = false;
};

/// Everything that the metadata asks for is there, in its shape, of a type that can be read.
Status check_weights(const std::string& path) {
  FETTLE_ASSIGN(const Weights weights, Weights::open(path));
  const auto checked = [](const auto& result) { return result ? Status() : result.error(); };
  FETTLE_TRY(checked(weights.embedding()));
  FETTLE_TRY(checked(weights.head()));
  FETTLE_TRY(checked(weights.final_norm()));
  for (std::int64_t i = 0; i < weights.config().layers; ++i) FETTLE_TRY(checked(weights.block(i)));
  return {};
}

/// The matrices of all experts in a stack.
std::vector<TensorView> unstacked(const TensorView& stack, const std::string& name) {
  std::vector<TensorView> parts;
  const std::size_t size = stack.bytes.size() / static_cast<std::size_t>(stack.shape[0]);
  for (std::int64_t e = 0; e < stack.shape[0]; ++e)
    parts.push_back({hf_expert_name(name, e),
                     stack.dtype,
                     {stack.shape[1], stack.shape[2]},
                     stack.bytes.subspan(static_cast<std::size_t>(e) * size, size)});
  return parts;
}

/// A mixture of experts, which no Weights opens, has all its tensors, in their shapes.
Status check_mixture(const GgufReader& file, const Json& config, const std::map<std::string, Moved>& tensors) {
  FETTLE_ASSIGN(const auto expected, mixture_tensors(config, file.path(), tensors.size()));
  for (const TensorSpec& t : expected) {
    const auto found = tensors.find(t.name);
    if (found == tensors.end() || found->second.stored.shape != t.shape)
      return {Code::corrupt_data,
              fmt::format("{}: the tensor for '{}' is missing or has another shape than the metadata "
                          "asks for",
                          file.path(), t.name)};
  }
  return {};
}

/// `experts`: how many every stack holds.
Result<std::map<std::string, Moved>> moved_tensors(const GgufReader& file, const std::string& architecture,
                                                   std::int64_t head_dim, std::int64_t experts) {
  std::map<std::string, Moved> out;
  for (const TensorView& t : file.tensors()) {
    if (is_gguf_rope_factors(t.name)) continue;  // config.json says it in words
    const std::string name = hf_name(architecture, t.name);
    const auto fail = [&](const std::string& problem) {
      return Status(Code::unsupported, fmt::format("{}: tensor '{}' {}", file.path(), t.name, problem));
    };
    if (name.empty()) return fail(fmt::format("has no place in a checkpoint of architecture '{}'", architecture));
    if (info(t.dtype).to_f32 == nullptr)
      return fail(fmt::format("is of type {}, which cannot be read", info(t.dtype).name));
    if (name.find(".experts.") != std::string::npos) {
      if (t.shape.size() != 3 || t.shape[0] != experts)
        return fail(fmt::format("has shape [{}], expected a stack of {} experts", fmt::join(t.shape, ", "), experts));
      for (TensorView& part : unstacked(t, name)) {
        std::string of_expert = part.name;
        out.emplace(std::move(of_expert), Moved{std::move(part)});
      }
      continue;
    }
    Moved moved{t, 0, gguf_adds_one(architecture, name)};
    if (gguf_reorders_rows(architecture, name)) {
      if (t.shape.size() == 1 && info(t.dtype).block_elems > 1)
        return fail(fmt::format("is a bias of type {}, expected plain floats", info(t.dtype).name));
      moved.head_dim = head_dim;
    }
    out.emplace(name, moved);
  }
  return out;
}

/// Vectors whose elements change places count as rows of one.
Rows rows_of(const Moved& t) {
  if (t.stored.shape.size() == 1 && t.head_dim > 0) return {t.stored.elements(), 1};
  return {t.stored.rows(), t.stored.cols()};
}

RowReader reader_of(const Moved& t) {
  const DTypeInfo& type = info(t.stored.dtype);
  const std::uint64_t row_bytes = bytes_of(t.stored.dtype, static_cast<std::uint64_t>(rows_of(t).cols));
  return [&t, &type, row_bytes](std::int64_t first, MutMatrix out) {
    for (std::int64_t r = 0; r < out.rows; ++r) {
      const std::int64_t row = first + r, stored = t.head_dim > 0 ? gguf_stored_row(row, t.head_dim) : row;
      type.to_f32(t.stored.bytes.data() + static_cast<std::uint64_t>(stored) * row_bytes, out.row(r).data(),
                  static_cast<std::size_t>(out.cols));
    }
    if (t.minus_one)
      for (std::int64_t r = 0; r < out.rows; ++r)
        for (float& v : out.row(r)) v -= 1.0f;
  };
}

Status write_tokenizer(const GgufReader& file, const std::string& folder, fettle::Context& context) {
  const auto tokenizer = tokenizer_from_gguf(file);
  if (!tokenizer) {
    context.warn(fmt::format("no tokenizer.json written: {}", tokenizer.error().message()));
    return {};
  }
  FETTLE_ASSIGN(const std::string text, json_text(*tokenizer));
  FETTLE_TRY(write_text_file(folder + "/tokenizer.json", text));
  return write_text_file(folder + "/tokenizer_config.json", tokenizer_config_from_gguf(file).dump(2) + "\n");
}

}  // namespace

Status from_gguf(const std::string& path, const Target& target, fettle::Context& context) {
  FETTLE_ASSIGN(const GgufReader file, GgufReader::open_model(path));
  FETTLE_ASSIGN(Json config, config_from_gguf(file));
  if (!gguf_experts(config)) FETTLE_TRY(check_weights(path));
  FETTLE_ASSIGN(const std::string architecture, gguf_architecture(config));
  const std::int64_t experts = gguf_experts(config).value_or(GgufExperts{}).count;
  FETTLE_ASSIGN(const auto tensors, moved_tensors(file, architecture, config["head_dim"].get<std::int64_t>(), experts));
  if (gguf_experts(config)) FETTLE_TRY(check_mixture(file, config, tensors));
  config["torch_dtype"] = name_in_config(target.type);
  std::vector<TensorSpec> specs;
  for (const auto& [name, t] : tensors) specs.push_back({name, target.type, t.stored.shape});
  double unpacked = 0;
  for (const auto& [name, t] : tensors) unpacked += info(t.stored.dtype).block_elems > 1;
  std::uint64_t done = 0;
  const TensorSource source = [&](const TensorSpec& spec, const TensorSink& sink) -> Status {
    if (context.cancelled()) return fettle::cancelled_status();
    context.progress("tensors", done++, specs.size());
    const Moved& t = tensors.at(spec.name);
    if (t.stored.dtype == target.type && t.head_dim == 0 && !t.minus_one) return sink(t.stored.bytes);
    return write_rows(rows_of(t), target.type, reader_of(t), sink);
  };
  CheckpointWriterOptions options;
  options.shard_bytes = target.shard_bytes;
  if (const std::string sparsity = file.text("fettle.sparsity"); !sparsity.empty())
    options.metadata["fettle.sparsity"] = sparsity;
  FETTLE_TRY(write_checkpoint(target.folder, config, specs, source, "", options));
  FETTLE_TRY(write_tokenizer(file, target.folder, context));
  FETTLE_TRY(
      write_text_file(target.folder + "/generation_config.json", generation_config_from_gguf(file).dump(2) + "\n"));
  context.metric("unpacked", unpacked);
  return {};
}

}  // namespace io_convert
