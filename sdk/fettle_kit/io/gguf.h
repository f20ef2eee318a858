// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/mapped_file.h"
#include "fettle_kit/io/output_file.h"
#include "fettle_kit/io/safetensors.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace fettle::kit {

/// A metadata value. Arrays are homogeneous; nested arrays do not exist in files we accept.
using GgufValue =
    std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t, std::int32_t, float, bool,
                 std::string, std::uint64_t, std::int64_t, double, std::vector<std::uint8_t>, std::vector<std::int8_t>,
                 std::vector<std::uint16_t>, std::vector<std::int16_t>, std::vector<std::uint32_t>,
                 std::vector<std::int32_t>, std::vector<float>, std::vector<bool>, std::vector<std::string>,
                 std::vector<std::uint64_t>, std::vector<std::int64_t>, std::vector<double>>;
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;  ///< in file order; keys are unique

/// What a GGUF file says, with views into its bytes. Shapes are row-major (the reverse of the file's).
struct GgufContent {
  GgufMetadata metadata;
  std::vector<TensorView> tensors;  ///< in file order
};

/// Checks every field of header, metadata and tensor table; messages begin with `name`. corrupt_data, or unsupported
/// for other versions, big-endian files and element types that we do not know. [any thread]
Result<GgufContent> parse_gguf(std::span<const std::byte> bytes, std::string_view name);

/// Reads one GGUF file (version 2 or 3) by mapping it; everything but the weights is checked on opening. Shapes are
/// row-major (the reverse of the file's). Views live as long as the reader. [any thread once open]
class GgufReader {
 public:
  static Result<GgufReader> open(const std::string& path);
  /// A model as gguf_files() finds it: the parts of a split one as if they were one file, with the metadata of the
  /// first. corrupt_data if the parts do not belong together.
  static Result<GgufReader> open_model(const std::string& folder_or_file);
  const GgufMetadata& metadata() const { return content_.metadata; }
  const GgufValue* find(std::string_view key) const;
  /// The value if it is stored as exactly this type; null if absent or of another type.
  template <class T>
  const T* get(std::string_view key) const {
    const GgufValue* value = find(key);
    return value ? std::get_if<T>(value) : nullptr;
  }
  /// A value of any integer type, if it fits; `otherwise` if not, or absent.
  std::int64_t integer(std::string_view key, std::int64_t otherwise) const;
  /// A value of any number type; `otherwise` if it is no number, or absent.
  double real(std::string_view key, double otherwise) const;
  std::string text(std::string_view key, std::string otherwise = {}) const;
  const std::vector<TensorView>& tensors() const { return content_.tensors; }  ///< in file order
  const TensorView* tensor(std::string_view name) const;
  /// Releases the pages of a tensor that will not be looked at again soon.
  void drop(const TensorView& tensor) const;
  const std::string& path() const { return files_.front().path(); }  ///< of the first part

 private:
  Status index();
  std::vector<MappedFile> files_;
  GgufContent content_;
  std::map<std::string, std::size_t, std::less<>> key_index_, tensor_index_;
};

/// The files of a GGUF model in order: the file itself, the one `*.gguf` of a folder, or all parts of a split model
/// (`NAME-00001-of-00003.gguf`) if the path is one of them or a folder that holds just them. Not opened. not_found if
/// there is none or a part is missing; invalid_argument if a folder holds several models.
Result<std::vector<std::string>> gguf_files(const std::string& folder_or_file);

/// The name of a `general.file_type` ("Q4_K_M"), or "" if it has none.
std::string_view gguf_file_type_name(std::int64_t file_type);

/// The size of the file that GgufWriter makes of this; the same errors.
Result<std::uint64_t> gguf_file_size(const GgufMetadata& metadata, const std::vector<TensorSpec>& tensors);

/// Streams one GGUF file, version 3, with the alignment that `general.alignment` in the metadata says, else 32. Shapes
/// row-major. The file appears on finish(). One thread. Errors: invalid_argument for what cannot be stored; io.
class GgufWriter {
 public:
  static Result<GgufWriter> create(const std::string& path, const GgufMetadata& metadata,
                                   std::vector<TensorSpec> tensors);
  /// Appends bytes of the current tensor; the next tensor begins when all bytes of this one have come.
  Status append(std::string_view tensor, std::span<const std::byte> bytes);
  Status finish();

 private:
  GgufWriter(OutputFile file, TensorStream stream, std::uint64_t alignment)
      : file_(std::move(file)), stream_(std::move(stream)), alignment_(alignment) {}
  Status pad();
  OutputFile file_;
  TensorStream stream_;
  std::uint64_t alignment_;
};

}  // namespace fettle::kit
