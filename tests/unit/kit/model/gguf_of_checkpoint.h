// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/gguf.h"
#include "fettle_kit/model/gguf_layout.h"
#include "fettle_kit/tensor/dtype.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace fettle::test {

/// A GGUF file of f32 tensors with the weights of a checkpoint, by the layout's own table. `extra` goes behind the
/// metadata of the model. Throws what goes wrong.
inline void write_gguf(const std::string& path, const kit::Checkpoint& model,
                       const std::function<void(std::vector<kit::GgufTensor>&)>& change = {},
                       const kit::GgufMetadata& extra = {}) {
  using namespace kit;
  const auto must = [](auto result) {
    if (!result.ok()) throw std::runtime_error(result.error().message());
    return *std::move(result);
  };
  const auto must_be_ok = [](const Status& status) {
    if (!status.ok()) throw std::runtime_error(status.message());
  };
  std::vector<TensorSpec> specs;
  for (const TensorView* t : model.tensors()) specs.push_back({t->name, t->dtype, t->shape});
  auto tensors = must(gguf_tensors(model.config(), specs));
  if (change) change(tensors);
  std::vector<TensorSpec> out;
  for (const GgufTensor& t : tensors) out.push_back({t.name, DType::f32, t.shape});
  GgufMetadata metadata = must(gguf_model_metadata(model.config(), nullptr, 1000));
  metadata.insert(metadata.end(), extra.begin(), extra.end());
  GgufWriter writer = must(GgufWriter::create(path, metadata, out));
  for (const GgufTensor& t : tensors) {
    std::vector<float> values = t.factors;
    for (const std::string& part : t.parts) {
      const TensorView& source = *model.find(part);
      std::vector<float> rows(static_cast<std::size_t>(source.elements()));
      info(source.dtype).to_f32(source.bytes.data(), rows.data(), rows.size());
      values.insert(values.end(), rows.begin(), rows.end());
    }
    if (t.plus_one)
      for (float& v : values) v += 1;
    if (t.head_dim > 0) {
      const std::size_t cols = t.shape.size() > 1 ? static_cast<std::size_t>(t.shape.back()) : 1;
      const std::vector<float> rows = values;
      for (std::size_t r = 0; r < values.size() / cols; ++r) {
        const auto from = static_cast<std::size_t>(gguf_source_row(static_cast<std::int64_t>(r), t.head_dim));
        std::copy_n(rows.begin() + static_cast<std::ptrdiff_t>(from * cols), cols,
                    values.begin() + static_cast<std::ptrdiff_t>(r * cols));
      }
    }
    must_be_ok(writer.append(t.name, std::as_bytes(std::span(values))));
  }
  must_be_ok(writer.finish());
}

}  // namespace fettle::test
