// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/mapped_file.h"
#include "fettle_kit/io/output_file.h"
#include "fettle_kit/tensor/dtype.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// A tensor as it lies in a file. Row-major, dense, little-endian; the bytes may be unaligned: copy, do not cast.
struct TensorView {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;   ///< readers see to it that the product of the non-zero sizes fits 63 bits
  std::span<const std::byte> bytes;  ///< borrowed from the file

  std::int64_t elements() const;
  /// Rows of the last dimension: elements() / shape.back(); 1 for a scalar.
  std::int64_t rows() const;
  std::int64_t cols() const;  ///< shape.back(); 1 for a scalar
};

/// What a safetensors file says, with views into its bytes.
struct SafetensorsContent {
  std::vector<TensorView> tensors;              ///< in file order
  std::map<std::string, std::string> metadata;  ///< __metadata__
  std::vector<std::string> warnings;            ///< what is odd but harmless: entries with keys that we do not know
};

/// Checks every rule of the format and the limits of its reference reader (huggingface/safetensors, README "Format");
/// messages begin with `name`. corrupt_data, or unsupported for element types that we do not read (F4, F6, FNUZ, C64).
/// [any thread]
Result<SafetensorsContent> parse_safetensors(std::span<const std::byte> bytes, std::string_view name);

/// Reads one safetensors file by mapping it. Everything but the weights is checked on opening, so a
/// view never leaves the file. Views live as long as the reader. [any thread once open]
class SafetensorsReader {
 public:
  static Result<SafetensorsReader> open(const std::string& path);
  const std::vector<TensorView>& tensors() const { return content_.tensors; }  ///< in file order
  const TensorView* find(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return content_.metadata; }
  const std::vector<std::string>& warnings() const { return content_.warnings; }
  const std::string& path() const { return file_->path(); }
  const MappedFile& file() const { return *file_; }

 private:
  std::unique_ptr<MappedFile> file_;
  SafetensorsContent content_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

/// What a writer must know before the first byte: name, type and shape of every tensor.
struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
};

/// The bytes that such a tensor takes, or an error that names it: a negative size, more than 63 bits can count, or a
/// last dimension that is no multiple of the type's block.
Result<std::uint64_t> byte_size(const TensorSpec& spec);

/// Keeps the books of a writer: whose bytes come next, and how many. Tensors without bytes need no call.
class TensorStream {
 public:
  TensorStream() = default;
  TensorStream(const std::vector<TensorSpec>& specs, std::vector<std::uint64_t> sizes);
  /// Takes `bytes` more bytes of `tensor`; invalid_argument if they are out of turn or too many.
  Status take(std::string_view tensor, std::uint64_t bytes);
  /// Whether the tensor that the last bytes belonged to is now complete.
  bool at_boundary() const { return written_ == 0; }
  Status complete() const;

 private:
  void skip_empty();
  std::vector<std::string> names_;
  std::vector<std::uint64_t> sizes_;
  std::size_t current_ = 0;
  std::uint64_t written_ = 0;  ///< of the current tensor
};

/// Streams one safetensors file: the header first, then each tensor's bytes in the order of the specs (which is sorted
/// by the writer's caller; see ordered_for_safetensors). Constant memory. The file appears on finish(). One thread.
/// Errors: invalid_argument for specs that cannot be stored; io.
class SafetensorsWriter {
 public:
  /// metadata always gets {"format": "pt"}, which transformers wants.
  static Result<SafetensorsWriter> create(const std::string& path, std::vector<TensorSpec> specs,
                                          std::map<std::string, std::string> metadata = {});
  /// Appends bytes of the current tensor; a tensor is complete when all its bytes have come, then the next begins.
  Status append(std::string_view tensor, std::span<const std::byte> bytes);
  Status finish();

 private:
  SafetensorsWriter(OutputFile file, TensorStream stream) : file_(std::move(file)), stream_(std::move(stream)) {}
  OutputFile file_;
  TensorStream stream_;
};

/// Wide types first, then by name: the order of the reference writer, which keeps every tensor aligned.
/// Block types (which safetensors cannot store) come last.
std::vector<TensorSpec> ordered_for_safetensors(std::vector<TensorSpec> specs);

}  // namespace fettle::kit
