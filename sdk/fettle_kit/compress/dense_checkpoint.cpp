// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/dense_checkpoint.h"

#include "fettle_kit/io/message.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

namespace fettle::kit {
namespace {

Result<const QuantizedLayout*> layout_of(const Checkpoint& checkpoint) {
  std::vector<std::string_view> known;
  for (const QuantizedLayout* layout : quantized_layouts()) {
    if (layout->claims(checkpoint)) return layout;
    known.push_back(layout->name);
  }
  const Json* config = quantization_config(checkpoint);
  if (config == nullptr) return nullptr;
  const auto method = config->find("quant_method");
  return Status(
      Code::unsupported,
      fmt::format("{}/config.json: quant_method {} cannot be read; known are {}", checkpoint.folder(),
                  method != config->end() && method->is_string() ? in_quotes(method->get_ref<const std::string&>())
                                                                 : "is missing and",
                  fmt::join(known, ", ")));
}

}  // namespace

Result<DenseCheckpoint> DenseCheckpoint::open(const std::string& folder) {
  FETTLE_ASSIGN(Checkpoint stored, Checkpoint::open(folder));
  DenseCheckpoint dense(std::move(stored));
  FETTLE_ASSIGN(const QuantizedLayout* const layout, layout_of(dense.stored_));
  if (layout != nullptr) {
    dense.layout_ = layout->name;
    FETTLE_ASSIGN(dense.packed_, layout->open(dense.stored_));
  }
  std::map<std::string_view, const PackedWeight*> part_of;
  for (const PackedWeight& weight : dense.packed_)
    for (const std::string& part : weight.parts) part_of.emplace(part, &weight);

  std::map<std::string_view, bool> seen;  // packed matrices by name
  for (const TensorView* tensor : dense.stored_.tensors()) {
    DenseTensor entry{tensor->name, tensor->shape, tensor, nullptr, {}, {tensor}};
    if (const auto part = part_of.find(tensor->name); part != part_of.end()) {
      const PackedWeight& weight = *part->second;
      if (std::exchange(seen[weight.name], true)) continue;
      entry = {weight.name, {weight.matrix->rows(), weight.matrix->cols()}, nullptr, weight.matrix.get(), weight.inputs,
               {}};
      for (const std::string& name : weight.parts) entry.parts.push_back(dense.stored_.find(name));
    }
    if (!dense.index_.emplace(entry.name, dense.tensors_.size()).second)
      return bad_tensor(dense.stored_, entry.name, "is there twice, packed and as it is");
    dense.tensors_.push_back(std::move(entry));
  }
  return dense;
}

const DenseTensor* DenseCheckpoint::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

void DenseCheckpoint::read(const DenseTensor& tensor, std::int64_t first, MutMatrix out) {
  if (tensor.packed != nullptr) return tensor.packed->read(first, out);
  const TensorView& t = *tensor.stored;
  const std::uint64_t row_bytes = bytes_of(t.dtype, static_cast<std::uint64_t>(t.cols()));
  for (std::int64_t i = 0; i < out.rows; ++i)
    info(t.dtype).to_f32(t.bytes.data() + static_cast<std::uint64_t>(first + i) * row_bytes, out.row(i).data(),
                         static_cast<std::size_t>(t.cols()));
}

}  // namespace fettle::kit
