// SPDX-License-Identifier: Apache-2.0
#include "export.h"

#include "fettle_kit/compress/gguf_blocks.h"
#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/model/weights.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <tbb/parallel_pipeline.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <set>
#include <tuple>

namespace quantize_gguf {

namespace fs = std::filesystem;
using fettle::Code;
using fettle::Result;
using fettle::Status;
using namespace fettle::kit;

namespace {

// ---- plan
// -------------------------------------------------------------------------------------------------------------

/// "blk.7.ffn_down.weight" -> "blk.*.ffn_down.weight": what tensors of all layers have in common.
std::string without_layer(const std::string& name) {
  if (!name.starts_with("blk.")) return name;
  const std::size_t dot = name.find('.', 4);
  return dot == std::string::npos ? name : "blk.*" + name.substr(dot);
}

/// One sentence for all tensors whose rows did not fit, grouped so that it stays readable.
std::string fallback_warning(const std::vector<PlannedTensor>& tensors, std::string_view type) {
  std::map<std::tuple<std::string, std::int64_t, DType, DType>, int> groups;
  for (const PlannedTensor& t : tensors)
    if (t.choice.wanted)
      ++groups[{without_layer(t.layout.name), t.layout.shape.back(), *t.choice.wanted, t.choice.type}];
  if (groups.empty()) return {};
  std::vector<std::string> parts;
  for (const auto& [key, count] : groups) {
    const auto& [name, cols, wanted, used] = key;
    parts.push_back(fmt::format("{} ({}rows of {}: {} instead of {})", name,
                                count > 1 ? fmt::format("{} tensors, ", count) : "", cols, info(used).name,
                                info(wanted).name));
  }
  return fmt::format("type {}: rows that the block size does not divide are stored in another type: {}", type,
                     fmt::join(parts, ", "));
}

Status set_metadata(GgufMetadata& metadata, const std::string& key, const std::string& text) {
  const auto known =
      std::find_if(metadata.begin(), metadata.end(), [&](const auto& pair) { return pair.first == key; });
  GgufValue value = text;
  if (known != metadata.end()) {
    const auto fail = [&] {
      return Status(Code::invalid_argument,
                    fmt::format("metadata key '{}' cannot be '{}': it holds another type of value", key, text),
                    "metadata");
    };
    const char* end = text.data() + text.size();
    std::int64_t integer = 0;
    double real = 0;
    const bool is_integer = std::from_chars(text.data(), end, integer).ptr == end && !text.empty();
    const bool is_real = std::from_chars(text.data(), end, real).ptr == end && !text.empty();
    if (std::holds_alternative<std::uint32_t>(known->second)) {
      if (!is_integer || integer < 0 || integer > UINT32_MAX) return fail();
      value = static_cast<std::uint32_t>(integer);
    } else if (std::holds_alternative<std::int32_t>(known->second)) {
      if (!is_integer || integer < INT32_MIN || integer > INT32_MAX) return fail();
      value = static_cast<std::int32_t>(integer);
    } else if (std::holds_alternative<float>(known->second)) {
      if (!is_real) return fail();
      value = static_cast<float>(real);
    } else if (std::holds_alternative<bool>(known->second)) {
      if (text != "true" && text != "false") return fail();
      value = text == "true";
    } else if (!std::holds_alternative<std::string>(known->second)) {
      return fail();
    }
    metadata.erase(known);
  }
  metadata.emplace_back(key, std::move(value));
  return {};
}

/// What a model is called and where it comes from, in the order in which the converter writes it.
constexpr std::string_view kIdentity[] = {"name",         "author",      "version",      "organization", "finetune",
                                          "basename",     "description", "quantized_by", "license",      "license.name",
                                          "license.link", "url",         "doi",          "uuid",         "repo_url"};

/// Puts the identity keys that the user sets where the converter has them: with the name it guesses.
void set_identity(GgufMetadata& m, const std::vector<std::pair<std::string, std::string>>& wanted) {
  const auto place_of = [](std::string_view key) {
    if (key == "general.size_label") return std::size_t{8};  // before the license
    for (std::size_t i = 0; i < std::size(kIdentity); ++i)
      if (key.starts_with("general.") && key.substr(8) == kIdentity[i]) return i < 8 ? i : i + 1;
    return std::size(kIdentity) + 1;
  };
  for (const auto& [key, text] : wanted) {
    const std::size_t place = place_of(key);
    if (place > std::size(kIdentity)) continue;
    auto at = std::find_if(m.begin(), m.end(), [](const auto& pair) { return pair.first == "general.name"; });
    while (place_of(at->first) < place) ++at;
    if (at->first == key)
      at->second = text;
    else
      m.emplace(at, key, text);
  }
}

Result<GgufMetadata> all_metadata(const Checkpoint& model, const Options& options, const Importance* importance,
                                  std::int64_t parameters) {
  const fs::path generation_file = fs::path(model.folder()) / "generation_config.json";
  Json generation;
  std::error_code error;
  if (fs::exists(generation_file, error)) {
    FETTLE_ASSIGN(generation, read_json_file(generation_file.string()));
  }
  FETTLE_ASSIGN(GgufMetadata m, gguf_model_metadata(model.config(), generation, parameters));
  set_identity(m, options.metadata);
  FETTLE_ASSIGN(const GgufMetadata tokenizer, gguf_tokenizer_metadata(model.folder(), model.config(), options.pre));
  m.insert(m.end(), tokenizer.begin(), tokenizer.end());
  m.emplace_back("general.quantization_version", std::uint32_t{2});
  m.emplace_back("general.file_type", static_cast<std::uint32_t>(options.file->id));
  for (const auto& [key, value] : options.metadata) {
    const auto known = std::find_if(m.begin(), m.end(), [&](const auto& pair) { return pair.first == key; });
    if (known == m.end() || known->second != GgufValue(value)) FETTLE_TRY(set_metadata(m, key, value));
  }
  if (importance)
    for (auto& pair : importance->metadata()) m.push_back(std::move(pair));
  return m;
}

// ---- write
// ------------------------------------------------------------------------------------------------------------

/// Weights a chunk: enough work to outweigh its scheduling, little enough to keep many in flight.
constexpr std::int64_t kChunkWeights = 1 << 18;
/// Weights converted to f32 at a time: they stay in the second-level cache until they are quantized.
constexpr std::int64_t kStripWeights = 1 << 15;

struct Chunk {
  std::size_t tensor = 0;
  std::int64_t first_row = 0, rows = 0;
  bool last = false;
  std::vector<std::byte> bytes;
};

void to_f32(const TensorView& t, std::int64_t first, std::size_t n, float* out) {
  const DTypeInfo& type = info(t.dtype);
  const std::byte* from = t.bytes.data() + first * type.block_bytes;
  const bool aligned = reinterpret_cast<std::uintptr_t>(from) % alignof(std::uint16_t) == 0;
  if (t.dtype == DType::bf16 && aligned)
    return kernels().bf16_to_f32(out, reinterpret_cast<const std::uint16_t*>(from), n);
  if (t.dtype == DType::f16 && aligned)
    return kernels().f16_to_f32(out, reinterpret_cast<const std::uint16_t*>(from), n);
  type.to_f32(from, out, n);
}

void from_f32(DType type, const float* x, std::byte* out, std::int64_t rows, std::int64_t cols,
              const float* importance) {
  const auto n = static_cast<std::size_t>(rows * cols);
  if (info(type).block_elems > 1) return quantize_rows(type, x, out, rows, cols, importance);
  if (type == DType::f32) {
    std::memcpy(out, x, n * sizeof(float));
    return;
  }
  if (type == DType::bf16) return kernels().f32_to_bf16(reinterpret_cast<std::uint16_t*>(out), x, n);
  if (type == DType::f16) return kernels().f32_to_f16(reinterpret_cast<std::uint16_t*>(out), x, n);
  info(type).from_f32(x, out, n);
}

/// How many are NaN or infinite.
std::int64_t count_not_finite(std::span<const float> x) {
  std::int64_t count = 0;
  for (const float v : x) count += (std::bit_cast<std::uint32_t>(v) & 0x7f800000u) == 0x7f800000u ? 1 : 0;
  return count;
}

/// Rows first .. first + rows of the tensor as they stand in the GGUF file, in f32.
void gather(const PlannedTensor& t, std::int64_t first, std::int64_t rows, std::int64_t cols, float* out) {
  const GgufTensor& layout = t.layout;
  if (layout.head_dim == 0) {
    to_f32(*t.source, first * cols, static_cast<std::size_t>(rows * cols), out);
  } else {
    for (std::int64_t r = 0; r < rows; ++r)
      to_f32(*t.source, gguf_source_row(first + r, layout.head_dim) * cols, static_cast<std::size_t>(cols),
             out + r * cols);
  }
  if (layout.plus_one)
    for (std::int64_t i = 0; i < rows * cols; ++i) out[i] += 1.0f;
}

struct RowShape {
  std::int64_t rows, cols;
};
/// A vector whose elements move (a bias of q or k) counts as a column; any other vector as a row.
RowShape row_shape(const PlannedTensor& t) {
  const auto& shape = t.layout.shape;
  std::int64_t elements = 1;
  for (const std::int64_t n : shape) elements *= n;
  if (shape.size() <= 1 && t.layout.head_dim > 0) return {elements, 1};
  const std::int64_t cols = shape.empty() ? 1 : shape.back();
  return {cols == 0 ? 0 : elements / cols, cols};
}

/// The stages of the pipeline and what they share.
class Writer {
 public:
  Writer(GgufWriter& file, const Checkpoint& model, const Plan& plan, const Options& options, const Progress& progress)
      : file_(file),
        model_(model),
        plan_(plan),
        options_(options),
        progress_(progress),
        not_finite_(plan.tensors.size()) {
    for (const PlannedTensor& t : plan.tensors) total_ += row_shape(t).rows * row_shape(t).cols;
  }

  Status run() {
    const auto in_flight = static_cast<std::size_t>(2 * tbb::this_task_arena::max_concurrency() + 2);
    tbb::parallel_pipeline(
        in_flight, tbb::make_filter<void, Chunk>(tbb::filter_mode::serial_in_order, [this](tbb::flow_control& flow) {
                     return next(flow);
                   }) & tbb::make_filter<Chunk, Chunk>(tbb::filter_mode::parallel, [this](Chunk chunk) {
                     return fill(std::move(chunk));
                   }) & tbb::make_filter<Chunk, void>(tbb::filter_mode::serial_in_order, [this](const Chunk& chunk) {
                     write(chunk);
                   }));
    return status_;
  }

  std::vector<std::string> notes() const {
    std::vector<std::string> out;
    for (std::size_t i = 0; i < plan_.tensors.size(); ++i)
      if (const std::int64_t n = not_finite_[i]; n > 0)
        out.push_back(fmt::format(
            "tensor '{}' holds {} values that are NaN or infinite; {}", plan_.tensors[i].layout.hf_name, n,
            info(plan_.tensors[i].choice.type).block_elems > 1 ? "they were stored as 0" : "they were kept"));
    return out;
  }

 private:
  Chunk next(tbb::flow_control& flow) {
    while (tensor_ < plan_.tensors.size() && row_ >= row_shape(plan_.tensors[tensor_]).rows) {
      ++tensor_;
      row_ = 0;
    }
    if (tensor_ == plan_.tensors.size() || failed_) {
      flow.stop();
      return {};
    }
    const auto [rows, cols] = row_shape(plan_.tensors[tensor_]);
    Chunk chunk{tensor_, row_, std::min(rows - row_, std::max<std::int64_t>(1, kChunkWeights / cols)), false, {}};
    row_ += chunk.rows;
    chunk.last = row_ == rows;
    return chunk;
  }

  Chunk fill(Chunk chunk) {
    if (failed_) return chunk;
    const PlannedTensor& t = plan_.tensors[chunk.tensor];
    const std::int64_t cols = row_shape(t).cols;
    const DType type = t.choice.type;
    chunk.bytes.resize(bytes_of(type, static_cast<std::uint64_t>(chunk.rows * cols)));
    if (t.source == nullptr) {  // the only computed tensor
      const auto factors = gguf_rope_factors(model_.config());
      std::memcpy(chunk.bytes.data(), factors.data(), chunk.bytes.size());
      return chunk;
    }
    const std::int64_t strip = std::max<std::int64_t>(1, kStripWeights / cols);
    std::vector<float> x(static_cast<std::size_t>(std::min(strip, chunk.rows) * cols));
    std::byte* out = chunk.bytes.data();
    for (std::int64_t done = 0; done < chunk.rows; done += strip) {
      if (progress_.cancelled()) return fail(std::move(chunk), {Code::cancelled, "cancelled"});
      const std::int64_t rows = std::min(strip, chunk.rows - done);
      const std::span<float> values(x.data(), static_cast<std::size_t>(rows * cols));
      gather(t, chunk.first_row + done, rows, cols, values.data());
      if (const std::int64_t bad = count_not_finite(values); bad > 0) {
        if (!options_.keep_nan) return fail(std::move(chunk), not_finite(t, values, cols, chunk.first_row + done));
        not_finite_[chunk.tensor] += bad;
        if (info(type).block_elems > 1)
          for (float& v : values)
            if (!std::isfinite(v)) v = 0;
      }
      from_f32(type, values.data(), out, rows, cols, t.importance.empty() ? nullptr : t.importance.data());
      out += bytes_of(type, values.size());
    }
    return chunk;
  }

  static Status not_finite(const PlannedTensor& t, std::span<const float> values, std::int64_t cols,
                           std::int64_t first_row) {
    const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
    const std::int64_t at = bad - values.begin();
    const std::int64_t row = first_row + at / cols;
    return {
        Code::corrupt_data,
        fmt::format(
            "tensor '{}' holds {} at row {}, column {}; repair the model, or set 'nan: keep' to quantize it as it is",
            t.layout.hf_name, std::isnan(*bad) ? "NaN" : "infinity",
            t.layout.head_dim > 0 ? gguf_source_row(row, t.layout.head_dim) : row, at % cols)};
  }

  void write(const Chunk& chunk) {
    if (failed_) return;
    const PlannedTensor& t = plan_.tensors[chunk.tensor];
    if (Status written = file_.append(t.layout.name, chunk.bytes); !written) {
      fail({}, std::move(written));
      return;
    }
    if (chunk.last && t.source != nullptr) model_.drop(*t.source);
    done_ += chunk.rows * row_shape(t).cols;
    progress_.report(static_cast<std::uint64_t>(done_), static_cast<std::uint64_t>(total_));
  }

  /// Keeps the error of the earliest chunk, so that the message does not depend on the threads.
  Chunk fail(Chunk chunk, Status status) {
    const std::lock_guard lock(mutex_);
    const auto place = std::make_pair(chunk.tensor, chunk.first_row);
    if (!failed_ || place < failed_at_) {
      status_ = std::move(status);
      failed_at_ = place;
    }
    failed_ = true;
    return chunk;
  }

  GgufWriter& file_;
  const Checkpoint& model_;
  const Plan& plan_;
  const Options& options_;
  const Progress& progress_;
  std::size_t tensor_ = 0;             // of the first stage
  std::int64_t row_ = 0;               // of the first stage
  std::int64_t done_ = 0, total_ = 0;  // of the last stage
  std::vector<std::atomic<std::int64_t>> not_finite_;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  Status status_;
  std::pair<std::size_t, std::int64_t> failed_at_;
};

/// A config.json that contradicts the tensors would go into the metadata, and the file would load nowhere.
Status check_config(const Checkpoint& model) {
  FETTLE_ASSIGN(const Weights weights, Weights::open(model.folder()));
  FETTLE_TRY(weights.embedding());
  FETTLE_TRY(weights.head());
  FETTLE_TRY(weights.final_norm());
  for (std::int64_t layer = 0; layer < weights.config().layers; ++layer) FETTLE_TRY(weights.block(layer));
  return {};
}

}  // namespace

Result<Plan> plan_export(const Checkpoint& model, const Options& options, const Importance* importance) {
  const Json& config = model.config();
  Plan plan;
  std::vector<TensorSpec> specs;
  for (const TensorView* t : model.tensors()) specs.push_back({t->name, t->dtype, t->shape});
  FETTLE_ASSIGN(std::vector<GgufTensor> layouts, gguf_tensors(config, specs));
  FETTLE_TRY(check_config(model));

  std::vector<GgufMixTensor> mix_tensors;
  for (GgufTensor& layout : layouts) {
    PlannedTensor t;
    t.source = layout.hf_name.empty() ? nullptr : model.find(layout.hf_name);
    if (t.source != nullptr) {
      plan.parameters += t.source->elements();
      if (!is_float(t.source->dtype) || info(t.source->dtype).to_f32 == nullptr)
        return Status(Code::unsupported,
                      fmt::format("tensor '{}' is {}; only plain floats can be quantized: start from the "
                                  "original checkpoint",
                                  layout.hf_name, info(t.source->dtype).name));
    }
    const bool storable = info(layout.source).gguf >= 0 && layout.source != DType::f64;
    mix_tensors.push_back({layout.name, layout.hf_name, layout.shape, storable ? layout.source : DType::f32});
    t.layout = std::move(layout);
    plan.tensors.push_back(std::move(t));
  }
  const auto integer = [&](const char* key) {
    const auto it = config.find(key);
    return it != config.end() && it->is_number_integer() ? it->get<std::int64_t>() : 0;
  };
  FETTLE_ASSIGN(const std::string architecture, gguf_architecture(config));
  const std::int64_t heads = integer("num_attention_heads"), kv_heads = integer("num_key_value_heads");
  FETTLE_ASSIGN(const auto choices, choose_gguf_types(*options.file,
                                                      {architecture, integer("num_hidden_layers"), heads,
                                                       kv_heads > 0 ? kv_heads : heads, importance != nullptr},
                                                      mix_tensors, options.mix));
  std::vector<std::string> uncalibrated;
  for (std::size_t i = 0; i < plan.tensors.size(); ++i) {
    PlannedTensor& t = plan.tensors[i];
    t.choice = choices[i];
    if (t.layout.name == "token_embd.weight") {
      if (t.layout.shape.empty() || t.layout.shape[0] != integer("vocab_size"))
        return Status(Code::corrupt_data,
                      fmt::format("config.json: 'vocab_size' is {}, but tensor '{}' has {} rows", integer("vocab_size"),
                                  t.layout.hf_name, t.layout.shape.empty() ? 0 : t.layout.shape[0]));
    }
    if (importance == nullptr || info(t.choice.type).block_elems == 1) continue;
    FETTLE_ASSIGN(t.importance, importance->columns(t.layout.name, t.layout.shape.back()));
    if (t.importance.empty() && t.layout.name != "token_embd.weight" && t.layout.name != "output.weight")
      uncalibrated.push_back(t.layout.name);
  }
  if (const std::string warning = fallback_warning(plan.tensors, options.file->name); !warning.empty())
    plan.warnings.push_back(warning);
  if (!uncalibrated.empty())
    plan.warnings.push_back(
        fmt::format("the importance matrix has nothing for {} tensors, which are quantized without it: '{}'",
                    uncalibrated.size(), fmt::join(uncalibrated, "', '")));
  FETTLE_ASSIGN(plan.metadata, all_metadata(model, options, importance, plan.parameters));
  return plan;
}

Result<std::vector<std::string>> write_file(const std::string& path, const Checkpoint& model, const Plan& plan,
                                            const Options& options, const Progress& progress) {
  std::vector<TensorSpec> specs;
  for (const PlannedTensor& t : plan.tensors) specs.push_back({t.layout.name, t.choice.type, t.layout.shape});
  FETTLE_ASSIGN(GgufWriter file, GgufWriter::create(path, plan.metadata, specs));
  Writer writer(file, model, plan, options, progress);
  FETTLE_TRY(writer.run());
  FETTLE_TRY(file.finish());
  return writer.notes();
}

}  // namespace quantize_gguf
