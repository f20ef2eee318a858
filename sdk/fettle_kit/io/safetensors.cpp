// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/safetensors.h"

#include "fettle_kit/io/json.h"
#include "fettle_kit/io/message.h"
#include "fettle_kit/io/safetensors_header.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <set>

namespace fettle::kit {
namespace {

constexpr std::uint64_t kMaxHeader = 100'000'000;  // the reference reader's limit
constexpr std::size_t kMaxRank = 64;
constexpr std::size_t kMaxName = 64 << 10;

// The element types in the order of the reference crate, low to high: its writer puts high ones first.
constexpr std::array<DType, 16> kReferenceOrder = {
    DType::boolean, DType::u8,   DType::i8,  DType::f8_e5m2, DType::f8_e4m3, DType::f8_e8m0, DType::i16, DType::u16,
    DType::f16,     DType::bf16, DType::i32, DType::u32,     DType::f32,     DType::f64,     DType::i64, DType::u64};
constexpr std::array<std::string_view, 6> kUnreadTypes = {"F4",          "F6_E2M3",     "F6_E3M2",
                                                          "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"};

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

/// The product of the sizes, those that are 0 counted as 1, so that no partial product overflows either.
std::optional<std::uint64_t> counted(const std::vector<std::int64_t>& shape) {
  std::uint64_t product = 1;
  for (const std::int64_t size : shape) {
    if (size < 0 ||
        __builtin_mul_overflow(product, static_cast<std::uint64_t>(std::max<std::int64_t>(size, 1)), &product))
      return std::nullopt;
  }
  return product <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) ? std::optional(product)
                                                                                         : std::nullopt;
}

/// One file's header being checked. Errors name the file and the tensor.
class HeaderParser {
 public:
  /// data: all that follows the header, from byte data_start of the file.
  HeaderParser(std::string_view name, std::uint64_t data_start, std::span<const std::byte> data)
      : file_(name), data_start_(data_start), data_(data) {}

  Result<SafetensorsContent> parse(const Json& header) && {
    for (const auto& [key, value] : header.items()) {
      if (key == "__metadata__") {
        FETTLE_TRY(read_metadata(value));
      } else {
        FETTLE_TRY(read_entry(key, value));
      }
    }
    FETTLE_TRY(check_layout());
    for (const Entry& entry : entries_) {
      content_.tensors.push_back(entry.view);
      content_.tensors.back().bytes = data_.subspan(entry.begin, entry.end - entry.begin);
    }
    return std::move(content_);
  }

 private:
  struct Entry {
    TensorView view;
    std::uint64_t begin = 0, end = 0;
  };

  template <class... Args>
  Status corrupt(fmt::format_string<Args...> format, Args&&... args) const {
    return {Code::corrupt_data, fmt::format("{}: ", file_) + fmt::format(format, std::forward<Args>(args)...)};
  }

  Status read_metadata(const Json& metadata) {
    if (!metadata.is_object()) return corrupt("__metadata__ is {}, expected an object", metadata.type_name());
    for (const auto& [key, value] : metadata.items()) {
      if (!value.is_string())
        return corrupt("__metadata__: {} is {}, expected a string", in_quotes(key), value.type_name());
      content_.metadata.emplace(key, value.get<std::string>());
    }
    return {};
  }

  Status read_entry(const std::string& name, const Json& value) {
    if (name.size() > kMaxName)
      return corrupt("tensor {}: a name of {} bytes, expected at most {}", in_quotes(name), grouped(name.size()),
                     grouped(kMaxName));
    const std::string tensor = "tensor " + in_quotes(name);
    if (!value.is_object()) return corrupt("{}: is {}, expected an object", tensor, value.type_name());
    for (const char* key : {"dtype", "shape", "data_offsets"})
      if (!value.contains(key)) return corrupt("{}: has no '{}'", tensor, key);
    for (const auto& [key, unused] : value.items())
      if (key != "dtype" && key != "shape" && key != "data_offsets")
        content_.warnings.push_back(fmt::format("{}: {}: unknown key {} is ignored", file_, tensor, in_quotes(key)));

    Entry entry;
    entry.view.name = name;
    FETTLE_TRY(read_dtype(tensor, value["dtype"], entry));
    FETTLE_TRY(read_shape(tensor, value["shape"], entry));
    FETTLE_TRY(read_offsets(tensor, value["data_offsets"], entry));
    entries_.push_back(std::move(entry));
    return {};
  }

  Status read_dtype(const std::string& tensor, const Json& value, Entry& entry) const {
    if (!value.is_string()) return corrupt("{}: dtype is {}, expected a string", tensor, value.type_name());
    const auto& name = value.get_ref<const std::string&>();
    if (const DTypeInfo* row = find_dtype_by_safetensors(name)) {
      entry.view.dtype = row->dtype;
      return {};
    }
    if (std::find(kUnreadTypes.begin(), kUnreadTypes.end(), name) != kUnreadTypes.end())
      return {Code::unsupported, fmt::format("{}: {}: dtype {} cannot be read yet; convert the model to BF16 or F16",
                                             file_, tensor, name)};
    std::vector<std::string_view> known;
    for (const DType dtype : kReferenceOrder) known.push_back(info(dtype).safetensors);
    return corrupt("{}: dtype is {}, expected one of {}", tensor, in_quotes(name), fmt::join(known, ", "));
  }

  Status read_shape(const std::string& tensor, const Json& value, Entry& entry) const {
    if (!value.is_array()) return corrupt("{}: shape is {}, expected an array", tensor, value.type_name());
    if (value.size() > kMaxRank)
      return corrupt("{}: shape has {} dimensions, expected at most {}", tensor, grouped(value.size()), kMaxRank);
    for (const Json& size : value) {
      if (!size.is_number_unsigned())
        return corrupt("{}: shape holds {}, expected non-negative integers", tensor, in_quotes(size.dump()));
      const auto number = size.get<std::uint64_t>();
      if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        return corrupt("{}: shape holds {}, which is more than 63 bits can count", tensor, grouped(number));
      entry.view.shape.push_back(static_cast<std::int64_t>(number));
    }
    return {};
  }

  Status read_offsets(const std::string& tensor, const Json& value, Entry& entry) const {
    const auto is_offset = [](const Json& offset) { return offset.is_number_unsigned(); };
    if (!value.is_array() || value.size() != 2 || !std::all_of(value.begin(), value.end(), is_offset))
      return corrupt("{}: data_offsets is {}, expected two non-negative integers", tensor, in_quotes(value.dump()));
    entry.begin = value[0].get<std::uint64_t>();
    entry.end = value[1].get<std::uint64_t>();
    if (entry.end < entry.begin)
      return corrupt("{}: data begins at byte {} and ends at byte {}", tensor, grouped(entry.begin),
                     grouped(entry.end));

    const auto size = byte_size({entry.view.name, entry.view.dtype, entry.view.shape});
    if (!size) return corrupt("{}", size.error().message());
    if (entry.end - entry.begin != *size)
      return corrupt("{}: data_offsets span {} bytes, but shape {} of {} needs {}", tensor,
                     grouped(entry.end - entry.begin), shape_text(entry.view.shape), info(entry.view.dtype).safetensors,
                     grouped(*size));
    return {};
  }

  /// Every byte of the data belongs to exactly one tensor.
  Status check_layout() {
    std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
      return std::tie(a.begin, a.end, a.view.name) < std::tie(b.begin, b.end, b.view.name);
    });
    std::uint64_t reached = 0;
    const Entry* previous = nullptr;
    for (const Entry& entry : entries_) {
      const std::string tensor = in_quotes(entry.view.name);
      if (previous == nullptr && entry.begin != 0)
        return corrupt("tensor {}: data begins at byte {}, expected 0", tensor, grouped(entry.begin));
      if (entry.begin < reached)
        return corrupt("tensor {}: data begins at byte {}, inside tensor {}, which ends at byte {}", tensor,
                       grouped(entry.begin), in_quotes(previous->view.name), grouped(reached));
      if (entry.begin > reached)
        return corrupt("tensor {}: data begins at byte {}, but tensor {} before it ends at byte {}", tensor,
                       grouped(entry.begin), in_quotes(previous->view.name), grouped(reached));
      reached = entry.end;
      previous = &entry;
    }
    if (reached > data_.size())
      return corrupt(
          "tensor {}: data ends at byte {}, file has {}; it looks truncated, compare its size with the source",
          in_quotes(previous->view.name), grouped(data_start_ + reached), grouped(data_start_ + data_.size()));
    if (reached < data_.size())
      return corrupt("the last {} bytes belong to no tensor", grouped(data_.size() - reached));
    return {};
  }

  std::string_view file_;
  std::uint64_t data_start_;
  std::span<const std::byte> data_;
  SafetensorsContent content_;
  std::vector<Entry> entries_;
};

}  // namespace

std::int64_t TensorView::elements() const {
  std::int64_t product = 1;
  for (const std::int64_t size : shape)
    if (size == 0) return 0;
  for (const std::int64_t size : shape) product *= size;
  return product;
}

std::int64_t TensorView::rows() const {
  std::int64_t product = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) {
    if (shape[i] == 0) return 0;
    product *= shape[i];
  }
  return product;
}

std::int64_t TensorView::cols() const { return shape.empty() ? 1 : shape.back(); }

Result<std::uint64_t> byte_size(const TensorSpec& spec) {
  const std::string tensor = "tensor " + in_quotes(spec.name);
  const auto refuse = [&](std::string_view what) {
    return Status(Code::invalid_argument, fmt::format("{}: shape {} {}", tensor, shape_text(spec.shape), what));
  };
  if (std::any_of(spec.shape.begin(), spec.shape.end(), [](std::int64_t size) { return size < 0; }))
    return refuse("has a negative size");
  const auto elements = counted(spec.shape);
  const DTypeInfo& type = info(spec.dtype);
  std::uint64_t bytes = 0;
  if (!elements || __builtin_mul_overflow(*elements, static_cast<std::uint64_t>(type.block_bytes), &bytes) ||
      bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    return refuse(fmt::format("of {} is more than 63 bits can count", type.name));
  const std::int64_t last = spec.shape.empty() ? 1 : spec.shape.back();
  if (last % type.block_elems != 0)
    return refuse(fmt::format("has rows of {}, but {} needs a multiple of {}", last, type.name, type.block_elems));
  const bool empty = std::find(spec.shape.begin(), spec.shape.end(), 0) != spec.shape.end();
  return empty ? 0 : bytes_of(spec.dtype, *elements);
}

Result<SafetensorsContent> parse_safetensors(std::span<const std::byte> bytes, std::string_view name) {
  const auto corrupt = [&](const std::string& what) {
    return Status(Code::corrupt_data, fmt::format("{}: {}", name, what));
  };
  if (bytes.size() < 8)
    return corrupt(fmt::format("file has {} bytes, a safetensors file has at least 8", bytes.size()));
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  if (length > kMaxHeader)
    return corrupt(fmt::format("header of {} bytes, expected at most {}; is this a safetensors file?", grouped(length),
                               grouped(kMaxHeader)));
  if (length > bytes.size() - 8)
    return corrupt(
        fmt::format("header ends at byte {}, file has {}; it looks truncated, compare its size with the source",
                    grouped(length + 8), grouped(bytes.size())));

  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  if (!text.starts_with('{'))
    return corrupt(fmt::format("header begins with {}, expected '{{'; is this a safetensors file?",
                               text.empty() ? "nothing" : in_quotes(text.substr(0, 1))));
  JsonLimits limits;
  limits.max_bytes = kMaxHeader;
  limits.max_depth = 3;  // the header, a tensor, its shape
  FETTLE_ASSIGN(const Json header, parse_json(text, fmt::format("{}: header", name), limits));
  if (text[text.find_last_not_of(' ')] != '}') return corrupt("header is padded with something else than spaces");
  return HeaderParser(name, 8 + length, bytes.subspan(8 + length)).parse(header);
}

Result<SafetensorsReader> SafetensorsReader::open(const std::string& path) {
  FETTLE_ASSIGN(MappedFile file, MappedFile::open(path));
  SafetensorsReader reader;
  reader.file_ = std::make_unique<MappedFile>(std::move(file));
  FETTLE_ASSIGN(reader.content_, parse_safetensors(reader.file_->bytes(), path));
  for (std::size_t i = 0; i < reader.content_.tensors.size(); ++i)
    reader.index_.emplace(reader.content_.tensors[i].name, i);
  return reader;
}

const TensorView* SafetensorsReader::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &content_.tensors[found->second];
}

TensorStream::TensorStream(const std::vector<TensorSpec>& specs, std::vector<std::uint64_t> sizes)
    : sizes_(std::move(sizes)) {
  for (const TensorSpec& spec : specs) names_.push_back(spec.name);
  skip_empty();
}

void TensorStream::skip_empty() {
  while (current_ < sizes_.size() && sizes_[current_] == 0) ++current_;
}

Status TensorStream::take(std::string_view tensor, std::uint64_t bytes) {
  if (bytes == 0) return {};
  if (current_ == names_.size())
    return {Code::invalid_argument,
            fmt::format("tensor {}: {} bytes after the last tensor", in_quotes(tensor), grouped(bytes))};
  if (names_[current_] != tensor)
    return {Code::invalid_argument,
            fmt::format("tensor {}: {} bytes out of turn; tensor {} has {} of {} bytes", in_quotes(tensor),
                        grouped(bytes), in_quotes(names_[current_]), grouped(written_), grouped(sizes_[current_]))};
  if (bytes > sizes_[current_] - written_)
    return {Code::invalid_argument, fmt::format("tensor {}: {} bytes after {}, but it has only {}", in_quotes(tensor),
                                                grouped(bytes), grouped(written_), grouped(sizes_[current_]))};
  written_ += bytes;
  if (written_ == sizes_[current_]) {
    written_ = 0;
    ++current_;
    skip_empty();
  }
  return {};
}

Status TensorStream::complete() const {
  if (current_ == names_.size()) return {};
  return {Code::invalid_argument,
          fmt::format("tensor {}: the file is to be finished, but only {} of {} bytes have come",
                      in_quotes(names_[current_]), grouped(written_), grouped(sizes_[current_]))};
}

Result<SafetensorsHeader> safetensors_header(const std::string& path, const std::vector<TensorSpec>& specs,
                                             std::map<std::string, std::string> metadata) {
  const auto refuse = [&](const std::string& what) {
    return Status(Code::invalid_argument, fmt::format("{}: {}", path, what));
  };
  metadata["format"] = "pt";
  for (const auto& [key, value] : metadata)
    if (!is_utf8(key) || !is_utf8(value)) return refuse(fmt::format("metadata {} is not valid UTF-8", in_quotes(key)));
  Json json = Json::object();
  json["__metadata__"] = metadata;
  std::vector<Json::object_t::value_type>& entries = json.get_ref<Json::object_t&>();  // appended to, not searched

  SafetensorsHeader header;
  std::set<std::string_view> names = {"__metadata__"};
  std::uint64_t end = 0;
  for (const TensorSpec& spec : specs) {
    const std::string tensor = "tensor " + in_quotes(spec.name);
    if (spec.name.size() > kMaxName || !is_utf8(spec.name))
      return refuse(fmt::format("{}: a name is UTF-8 of at most {} bytes", tensor, grouped(kMaxName)));
    if (!names.insert(spec.name).second) return refuse(fmt::format("{}: the name is taken", tensor));
    if (info(spec.dtype).safetensors.empty())
      return refuse(fmt::format("{}: {} cannot be stored in safetensors", tensor, info(spec.dtype).name));
    if (spec.shape.size() > kMaxRank)
      return refuse(
          fmt::format("{}: shape has {} dimensions, expected at most {}", tensor, spec.shape.size(), kMaxRank));
    const auto size = byte_size(spec);
    if (!size) return refuse(size.error().message());
    const std::uint64_t begin = end;
    if (__builtin_add_overflow(begin, *size, &end)) return refuse(fmt::format("{}: the file gets too large", tensor));
    header.sizes.push_back(*size);
    entries.emplace_back(spec.name, Json{{"dtype", info(spec.dtype).safetensors},
                                         {"shape", spec.shape},
                                         {"data_offsets", Json::array({begin, end})}});
  }

  std::string text = json.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  if (text.size() > kMaxHeader)
    return refuse(fmt::format("a header of {} bytes, expected at most {}; use smaller shards", grouped(text.size()),
                              grouped(kMaxHeader)));
  const auto length = static_cast<std::uint64_t>(text.size());
  header.bytes.append(reinterpret_cast<const char*>(&length), sizeof length).append(text);
  return header;
}

Result<SafetensorsWriter> SafetensorsWriter::create(const std::string& path, std::vector<TensorSpec> specs,
                                                    std::map<std::string, std::string> metadata) {
  FETTLE_ASSIGN(SafetensorsHeader header, safetensors_header(path, specs, std::move(metadata)));
  FETTLE_ASSIGN(OutputFile file, OutputFile::create(path));
  FETTLE_TRY(file.write(header.bytes));
  return SafetensorsWriter(std::move(file), TensorStream(specs, std::move(header.sizes)));
}

Status SafetensorsWriter::append(std::string_view tensor, std::span<const std::byte> bytes) {
  if (Status status = stream_.take(tensor, bytes.size()); !status) return std::move(status).with_context(file_.path());
  return file_.write(bytes);
}

Status SafetensorsWriter::finish() {
  if (Status status = stream_.complete(); !status) return std::move(status).with_context(file_.path());
  return file_.commit();
}

std::vector<TensorSpec> ordered_for_safetensors(std::vector<TensorSpec> specs) {
  const auto rank = [](DType dtype) {  // 0 for the highest
    return std::find(kReferenceOrder.rbegin(), kReferenceOrder.rend(), dtype) - kReferenceOrder.rbegin();
  };
  std::sort(specs.begin(), specs.end(), [&](const TensorSpec& a, const TensorSpec& b) {
    return rank(a.dtype) != rank(b.dtype) ? rank(a.dtype) < rank(b.dtype) : a.name < b.name;
  });
  return specs;
}

}  // namespace fettle::kit
