// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fettle/result.h"
#include "fettle_kit/io/mapped_file.h"
#include "fettle_kit/io/output_file.h"
#include "fettle_kit/tensor/dtype.h"

namespace fettle::kit {

/// A tensor as it lies in a file. Row-major, dense, little-endian; the bytes may be unaligned: copy, do not cast.
struct TensorView {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;  ///< borrowed from the file

  std::int64_t elements() const;
  /// Rows of the last dimension: elements() / shape.back(); 1 for a scalar.
  std::int64_t rows() const;
  std::int64_t cols() const;
};

/// Reads one safetensors file by mapping it. Every rule of formats/safetensors.md section 4 is checked on opening, so a
/// view never leaves the file. Views live as long as the reader. [any thread once open]
class SafetensorsReader {
 public:
  static Result<SafetensorsReader> open(const std::string& path);
  const std::vector<TensorView>& tensors() const { return tensors_; }  ///< in file order
  const TensorView* find(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& path() const { return file_->path(); }
  const MappedFile& file() const { return *file_; }

 private:
  std::unique_ptr<MappedFile> file_;
  std::vector<TensorView> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

/// What a writer must know before the first byte: name, type and shape of every tensor.
struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
};

/// Streams one safetensors file: the header first, then each tensor's bytes in the order of the specs (which is sorted by
/// the writer's caller; see ordered_for_safetensors). Constant memory. The file appears on finish(). One thread.
class SafetensorsWriter {
 public:
  /// metadata always gets {"format": "pt"}, which transformers wants.
  static Result<SafetensorsWriter> create(const std::string& path, std::vector<TensorSpec> specs,
                                          std::map<std::string, std::string> metadata = {});
  /// Appends bytes of the current tensor; a tensor is complete when all its bytes have come, then the next begins.
  Status append(std::string_view tensor, std::span<const std::byte> bytes);
  Status finish();

 private:
  explicit SafetensorsWriter(OutputFile file) : file_(std::move(file)) {}
  OutputFile file_;
  std::vector<TensorSpec> specs_;
  std::size_t current_ = 0;
  std::uint64_t written_ = 0;
};

/// Wide types first, then by name: the order of the reference writer, which keeps every tensor aligned.
std::vector<TensorSpec> ordered_for_safetensors(std::vector<TensorSpec> specs);

}  // namespace fettle::kit
