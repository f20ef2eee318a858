// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/sparse24_checkpoint.h"

#include "fettle_kit/compress/sparse24.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace fettle::kit {
namespace {

constexpr std::string_view method = "sparse24", format = "sm80";
constexpr std::string_view weight = ".weight", values_suffix = ".weight_values", meta_suffix = ".weight_meta";

class Sparse24Matrix final : public PackedMatrix {
 public:
  Sparse24Matrix(std::int64_t rows, std::int64_t cols, const TensorView& values, const TensorView& meta)
      : PackedMatrix(rows, cols), values_(values), meta_(meta) {}

  void read(std::int64_t first, MutMatrix out) const override {
    std::vector<std::uint16_t> row(static_cast<std::size_t>(cols()));
    for (std::int64_t i = 0; i < out.rows; ++i) {
      expand_2_of_4(values_.bytes, meta_.bytes, rows(), cols(), first + i, row);
      info(values_.dtype).to_f32(std::as_bytes(std::span(row)).data(), out.row(i).data(), row.size());
    }
  }

 private:
  TensorView values_, meta_;
};

bool claims(const Checkpoint& checkpoint) { return has_quant_method(checkpoint, method); }

Result<std::vector<PackedWeight>> open(const Checkpoint& checkpoint) {
  const Json& config = *quantization_config(checkpoint);
  const auto found = config.find("format");
  if (found == config.end() || !found->is_string() || found->get_ref<const std::string&>() != format)
    return Status(Code::unsupported,
                  fmt::format("{}/config.json: quantization_config.format {} cannot be read; known is {}",
                              checkpoint.folder(), found == config.end() ? "is missing and" : found->dump(), format));
  std::vector<PackedWeight> all;
  for (const TensorView* values : checkpoint.tensors()) {
    if (!values->name.ends_with(values_suffix)) continue;
    const std::string module = values->name.substr(0, values->name.size() - values_suffix.size());
    if (values->shape.size() != 2 || (values->dtype != DType::f16 && values->dtype != DType::bf16))
      return bad_tensor(checkpoint, values->name,
                        fmt::format("is {} {}, expected f16 or bf16 with two dimensions", info(values->dtype).name,
                                    shape_text(values->shape)));
    const std::int64_t rows = values->rows(), cols = 2 * values->cols();
    FETTLE_ASSIGN(const TensorView* const meta,
                  require_tensor(checkpoint, module + std::string(meta_suffix), DType::i16, {rows, cols / 16}));
    FETTLE_TRY(check_sparse24(values->bytes, meta->bytes, rows, cols, module + std::string(weight)));
    all.push_back({module + std::string(weight),
                   {values->name, meta->name},
                   std::make_unique<Sparse24Matrix>(rows, cols, *values, *meta)});
  }
  return all;
}

bool can_be_compressed(const TensorView& t) {
  return t.shape.size() == 2 && (t.dtype == DType::f16 || t.dtype == DType::bf16) && t.name.ends_with(weight) &&
         check_2_of_4(t.bytes, t.rows(), t.cols(), t.name).ok();
}

}  // namespace

const QuantizedLayout sparse24_layout = {method, &claims, &open};

Result<Sparse24Written> write_sparse24(const std::string& folder, const Checkpoint& dense,
                                       const CheckpointWriterOptions& options, const std::function<bool()>& proceed) {
  const auto cancelled = [&] { return proceed && !proceed(); };
  Sparse24Written written;
  std::vector<TensorSpec> specs;
  std::map<std::string, const TensorView*> source_of;  // of values
  for (const TensorView* t : dense.tensors()) {
    if (cancelled()) return Status(Code::cancelled, "cancelled");
    written.bytes_before += t->bytes.size();
    if (!can_be_compressed(*t)) {
      written.bytes += t->bytes.size();
      specs.push_back({t->name, t->dtype, t->shape});
      continue;
    }
    ++written.matrices;
    written.bytes += t->bytes.size() / 16 * 9;
    const std::string module = t->name.substr(0, t->name.size() - weight.size());
    specs.push_back({module + std::string(values_suffix), t->dtype, {t->rows(), t->cols() / 2}});
    specs.push_back({module + std::string(meta_suffix), DType::i16, {t->rows(), t->cols() / 16}});
    source_of.emplace(specs[specs.size() - 2].name, t);
    dense.drop(*t);
  }
  if (written.matrices == 0)
    return Status(Code::invalid_argument,
                  "no matrix of the model is 2:4 sparse, so there is nothing to compress; prune it with pattern 2:4 "
                  "first",
                  "model");

  Json config = dense.config();
  config["quantization_config"] = {{"quant_method", method}, {"format", format}};
  Sparse24 packed;  // of the matrix whose values were written last
  const TensorSource source = [&](const TensorSpec& spec, const TensorSink& sink) -> Status {
    if (cancelled()) return {Code::cancelled, "cancelled"};
    if (const auto matrix = source_of.find(spec.name); matrix != source_of.end()) {
      const TensorView& t = *matrix->second;
      FETTLE_ASSIGN(packed, compress_2_of_4(t.bytes, t.rows(), t.cols(), t.name));
      dense.drop(t);
      return sink(packed.values);
    }
    if (spec.name.ends_with(meta_suffix) && dense.find(spec.name) == nullptr) return sink(packed.meta);
    return sink(dense.find(spec.name)->bytes);
  };
  FETTLE_TRY(write_checkpoint(folder, config, specs, source, dense.folder(), options));
  return written;
}

}  // namespace fettle::kit
