// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/gguf.h"

#include "fettle_kit/io/message.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <set>
#include <type_traits>

namespace fettle::kit {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr std::uint32_t kVersion = 3;
constexpr std::uint64_t kMaxString = 1u << 30;  // the limits of the C reader
constexpr std::uint64_t kMaxArray = 1u << 30;
constexpr std::size_t kMaxTensorName = 63;
constexpr std::uint32_t kMaxDims = 4;
constexpr std::uint32_t kDefaultAlignment = 32;
constexpr std::string_view kAlignmentKey = "general.alignment";
constexpr std::int32_t kArray = 9;
constexpr std::uint64_t kMinPair = 8 + 1 + 4 + 1;        // key of one letter, type, u8
constexpr std::uint64_t kMinTensor = 8 + 0 + 4 + 4 + 8;  // empty name, no dimensions, type, offset

static_assert(std::endian::native == std::endian::little, "GGUF files and safetensors are read without byte swaps");

/// The value type ids of the format.
template <class T>
consteval std::int32_t type_id() {
  if constexpr (std::is_same_v<T, std::uint8_t>) return 0;
  if constexpr (std::is_same_v<T, std::int8_t>) return 1;
  if constexpr (std::is_same_v<T, std::uint16_t>) return 2;
  if constexpr (std::is_same_v<T, std::int16_t>) return 3;
  if constexpr (std::is_same_v<T, std::uint32_t>) return 4;
  if constexpr (std::is_same_v<T, std::int32_t>) return 5;
  if constexpr (std::is_same_v<T, float>) return 6;
  if constexpr (std::is_same_v<T, bool>) return 7;
  if constexpr (std::is_same_v<T, std::string>) return 8;
  if constexpr (std::is_same_v<T, std::uint64_t>) return 10;
  if constexpr (std::is_same_v<T, std::int64_t>) return 11;
  if constexpr (std::is_same_v<T, double>) return 12;
}

/// Calls fn.template operator()<T>() for the type of that id; false if there is none (arrays are not a scalar type).
template <class Fn>
bool visit_type(std::int32_t id, Fn&& fn) {
  const auto try_types = [&]<class... Ts>() {
    return ((id == type_id<Ts>() && (fn.template operator()<Ts>(), true)) || ...);
  };
  return try_types.template operator()<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t,
                                       std::int32_t, float, bool, std::string, std::uint64_t, std::int64_t, double>();
}

/// Least bytes that a value of this type takes in a file.
template <class T>
constexpr std::uint64_t least_size() {
  if constexpr (std::is_same_v<T, std::string>) return 8;
  if constexpr (std::is_same_v<T, bool>) return 1;
  return sizeof(T);
}

bool is_alignment(std::uint64_t value) { return std::has_single_bit(value) && value <= (1u << 31); }

std::uint64_t padded(std::uint64_t size, std::uint64_t alignment) {
  return (size + alignment - 1) / alignment * alignment;
}

/// Reads a file front to back. The first thing that is wrong becomes error(); after that, reads give zeros.
class Parser {
 public:
  Parser(std::span<const std::byte> bytes, std::string_view name) : bytes_(bytes), file_(name) {}

  Result<GgufContent> parse() && {
    read_all();
    if (error_) return *error_;
    return std::move(content_);
  }

 private:
  template <class... Args>
  void fail(Code code, fmt::format_string<Args...> format, Args&&... args) {
    if (!error_) error_ = Status(code, fmt::format("{}: ", file_) + fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void corrupt(fmt::format_string<Args...> format, Args&&... args) {
    fail(Code::corrupt_data, format, std::forward<Args>(args)...);
  }
  bool failed() const { return error_.has_value(); }
  std::uint64_t left() const { return bytes_.size() - at_; }

  /// The next bytes, or none if the file ends before.
  std::span<const std::byte> take(std::uint64_t size, std::string_view what) {
    if (failed()) return {};
    if (size > left()) {
      corrupt(
          "{} at byte {} takes {} bytes, but the file ends at byte {}; it looks truncated, compare its size with the "
          "source",
          what, grouped(at_), grouped(size), grouped(bytes_.size()));
      return {};
    }
    const auto taken = bytes_.subspan(at_, size);
    at_ += size;
    return taken;
  }

  template <class T>
  T read(std::string_view what) {
    T value{};
    if constexpr (std::is_same_v<T, bool>) {
      const auto byte = read<std::uint8_t>(what);
      if (byte > 1) corrupt("{}: a bool holds {}, expected 0 or 1", what, byte);
      value = byte == 1;
    } else if constexpr (std::is_same_v<T, std::string>) {
      const auto length = read<std::uint64_t>(what);
      if (length > kMaxString)
        corrupt("{}: a string of {} bytes, expected at most {}", what, grouped(length), grouped(kMaxString));
      const auto text = take(length, what);
      value.assign(reinterpret_cast<const char*>(text.data()), text.size());
    } else {
      const auto taken = take(sizeof value, what);
      if (!taken.empty()) std::memcpy(&value, taken.data(), sizeof value);
    }
    return value;
  }

  /// A number of things of at least `least` bytes each, so that a small file cannot ask for much memory.
  std::uint64_t read_count(std::string_view what, std::uint64_t least) {
    const auto count = read<std::uint64_t>("the header");
    if (!failed() && count > left() / least)
      corrupt("the header says {} {}, which is more than a file of {} bytes can hold", grouped(count), what,
              grouped(bytes_.size()));
    return failed() ? 0 : count;
  }

  void read_all() {
    const auto magic = take(kMagic.size(), "the magic 'GGUF'");
    if (failed()) return;
    if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0)
      return corrupt("begins with {}, expected 'GGUF'; is this a GGUF file?",
                     in_quotes({reinterpret_cast<const char*>(magic.data()), magic.size()}));
    const auto version = read<std::uint32_t>("the header");
    if (failed()) return;
    if (version != 0 && (version & 0xffff) == 0)
      return fail(Code::unsupported, "is a big-endian GGUF file; convert it to little-endian");
    if (version != 2 && version != kVersion)
      return fail(Code::unsupported, "is GGUF version {}, expected 2 or 3; convert it with a current llama.cpp",
                  version);
    const std::uint64_t tensors = read_count("tensors", kMinTensor);
    const std::uint64_t pairs = read_count("key/value pairs", kMinPair);
    for (std::uint64_t i = 0; i < pairs && !failed(); ++i) read_pair();
    if (!failed()) read_alignment();
    std::uint64_t offset = 0;
    for (std::uint64_t i = 0; i < tensors && !failed(); ++i) read_tensor(offset);
    if (!failed()) place_tensors(offset);
  }

  void read_pair() {
    auto key = read<std::string>("a key");
    if (failed()) return;
    if (key.empty()) return corrupt("the key at byte {} is empty", grouped(at_ - 8));
    const std::string what = "key " + in_quotes(key);
    if (!keys_.insert(key).second) return corrupt("{}: is here a second time", what);
    const auto type = read<std::int32_t>(what);
    GgufValue value;
    const bool known =
        type == kArray ? read_array(what, value) : visit_type(type, [&]<class T>() { value = read<T>(what); });
    if (!known) return corrupt("{}: unknown value type {}", what, type);
    content_.metadata.emplace_back(std::move(key), std::move(value));
  }

  bool read_array(const std::string& what, GgufValue& value) {
    const auto type = read<std::int32_t>(what);
    const auto count = read<std::uint64_t>(what);
    if (type == kArray) {
      corrupt("{}: an array of arrays, which GGUF readers refuse", what);
      return true;
    }
    return visit_type(type, [&]<class T>() {
      if (failed()) return;
      if (count > kMaxArray)
        return corrupt("{}: an array of {} elements, expected at most {}", what, grouped(count), grouped(kMaxArray));
      if (count > left() / least_size<T>())
        return corrupt("{}: an array of {} elements, but only {} bytes are left in the file", what, grouped(count),
                       grouped(left()));
      std::vector<T> items;
      items.reserve(count);
      for (std::uint64_t i = 0; i < count && !failed(); ++i) items.push_back(read<T>(what));
      value = std::move(items);
    });
  }

  void read_alignment() {
    for (const auto& [key, value] : content_.metadata) {
      if (key != kAlignmentKey) continue;
      const auto* alignment = std::get_if<std::uint32_t>(&value);
      if (alignment == nullptr) return corrupt("key '{}': expected a u32", kAlignmentKey);
      if (!is_alignment(*alignment))
        return corrupt("key '{}': is {}, expected a power of two", kAlignmentKey, *alignment);
      alignment_ = *alignment;
    }
  }

  /// Appends the tensor with its bytes still missing; `offset` is where its data must begin, and then where it ends.
  void read_tensor(std::uint64_t& offset) {
    TensorSpec spec;
    spec.name = read<std::string>("a tensor name");
    if (failed()) return;
    const std::string what = "tensor " + in_quotes(spec.name);
    if (spec.name.size() > kMaxTensorName)
      return corrupt("{}: a name of {} bytes, expected at most {}", what, spec.name.size(), kMaxTensorName);
    if (!names_.insert(spec.name).second) return corrupt("{}: is here a second time", what);
    const auto dims = read<std::uint32_t>(what);
    if (dims > kMaxDims) return corrupt("{}: {} dimensions, expected at most {}", what, grouped(dims), kMaxDims);
    for (std::uint32_t i = 0; i < dims; ++i) {
      spec.shape.insert(spec.shape.begin(), read<std::int64_t>(what));
      if (spec.shape.front() < 0) return corrupt("{}: a size is {}, expected 0 or more", what, spec.shape.front());
    }
    const auto type = read<std::int32_t>(what);
    const auto begin = read<std::uint64_t>(what);
    if (failed()) return;
    const DTypeInfo* row = find_dtype_by_gguf(type);
    if (row == nullptr) return fail(Code::unsupported, "{}: element type {} is not one that we know", what, type);
    spec.dtype = row->dtype;
    const auto size = byte_size(spec);
    if (!size) return corrupt("{}", size.error().message());
    if (begin != offset)
      return corrupt("{}: data begins at byte {}, expected {}: right after the tensor before it", what, grouped(begin),
                     grouped(offset));
    // With the offset inside the file and a size of 63 bits, the sum below cannot overflow.
    if (offset > bytes_.size())
      return corrupt("{}: data begins at byte {} of the data, beyond the file", what, grouped(offset));
    offset = padded(offset + *size, alignment_);
    sizes_.push_back(*size);
    content_.tensors.push_back({std::move(spec.name), spec.dtype, std::move(spec.shape), {}});
  }

  void place_tensors(std::uint64_t padded_end) {
    const std::uint64_t start = padded(at_, alignment_);
    std::uint64_t at = start;
    for (std::size_t i = 0; i < sizes_.size(); ++i) {
      TensorView& tensor = content_.tensors[i];
      if (at > bytes_.size() || sizes_[i] > bytes_.size() - at)
        return corrupt(
            "tensor {}: data ends at byte {}, file has {}; it looks truncated, compare its size with the source",
            in_quotes(tensor.name), grouped(at + sizes_[i]), grouped(bytes_.size()));
      tensor.bytes = bytes_.subspan(at, sizes_[i]);
      at = padded(at + sizes_[i], alignment_);
    }
    // Some writers leave out the padding at the end.
    if (const std::uint64_t end = start + padded_end; bytes_.size() > end)
      corrupt("the last {} bytes belong to no tensor", grouped(bytes_.size() - end));
  }

  std::span<const std::byte> bytes_;
  std::string_view file_;
  std::uint64_t at_ = 0;
  std::uint64_t alignment_ = kDefaultAlignment;
  GgufContent content_;
  std::set<std::string, std::less<>> keys_, names_;
  std::vector<std::uint64_t> sizes_;
  std::optional<Status> error_;
};

// --- writing ---

template <class T>
void put(std::string& out, const T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    put(out, static_cast<std::uint64_t>(value.size()));
    out += value;
  } else if constexpr (std::is_same_v<T, bool>) {
    out += static_cast<char>(value ? 1 : 0);
  } else {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
}

template <class T>
void put_value(std::string& out, const T& value) {
  put(out, type_id<T>());
  put(out, value);
}

template <class T>
void put_value(std::string& out, const std::vector<T>& items) {
  put(out, kArray);
  put(out, type_id<T>());
  put(out, static_cast<std::uint64_t>(items.size()));
  for (const T& item : items) put(out, item);
}

Result<std::uint64_t> alignment_of(const GgufMetadata& metadata) {
  for (const auto& [key, value] : metadata) {
    if (key != kAlignmentKey) continue;
    const auto* alignment = std::get_if<std::uint32_t>(&value);
    if (alignment == nullptr || !is_alignment(*alignment))
      return Status(Code::invalid_argument,
                    fmt::format("key '{}': expected a u32 that is a power of two", kAlignmentKey));
    return *alignment;
  }
  return kDefaultAlignment;
}

}  // namespace

Result<GgufContent> parse_gguf(std::span<const std::byte> bytes, std::string_view name) {
  return Parser(bytes, name).parse();
}

Status GgufReader::index() {
  for (std::size_t i = 0; i < content_.metadata.size(); ++i) key_index_.emplace(content_.metadata[i].first, i);
  for (std::size_t i = 0; i < content_.tensors.size(); ++i)
    if (!tensor_index_.emplace(content_.tensors[i].name, i).second)
      return {Code::corrupt_data,
              fmt::format("{}: tensor {} is in two parts of the model", path(), in_quotes(content_.tensors[i].name))};
  return {};
}

Result<GgufReader> GgufReader::open(const std::string& path) {
  FETTLE_ASSIGN(MappedFile file, MappedFile::open(path));
  GgufReader reader;
  reader.files_.push_back(std::move(file));
  FETTLE_ASSIGN(reader.content_, parse_gguf(reader.files_.front().bytes(), path));
  FETTLE_TRY(reader.index());
  return reader;
}

Result<GgufReader> GgufReader::open_model(const std::string& folder_or_file) {
  FETTLE_ASSIGN(const auto paths, gguf_files(folder_or_file));
  if (paths.size() == 1) return open(paths.front());
  GgufReader model;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    FETTLE_ASSIGN(GgufReader part, open(paths[i]));
    const auto number = part.integer("split.no", -1), count = part.integer("split.count", -1);
    if (number != static_cast<std::int64_t>(i) || count != static_cast<std::int64_t>(paths.size()))
      return Status(Code::corrupt_data,
                    fmt::format("{}: says it is part {} of {} (split.no, split.count), expected {} of {} by its name",
                                paths[i], number, count, i, paths.size()));
    model.files_.push_back(std::move(part.files_.front()));
    if (i == 0) model.content_.metadata = std::move(part.content_.metadata);
    for (TensorView& tensor : part.content_.tensors) model.content_.tensors.push_back(std::move(tensor));
  }
  FETTLE_TRY(model.index());
  if (const auto total = model.integer("split.tensors.count", -1);
      total != static_cast<std::int64_t>(model.tensors().size()))
    return Status(Code::corrupt_data, fmt::format("{}: key 'split.tensors.count' is {}, but the parts hold {} tensors",
                                                  paths.front(), total, model.tensors().size()));
  return model;
}

const GgufValue* GgufReader::find(std::string_view key) const {
  const auto found = key_index_.find(key);
  return found == key_index_.end() ? nullptr : &content_.metadata[found->second].second;
}

std::int64_t GgufReader::integer(std::string_view key, std::int64_t otherwise) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return otherwise;
  return std::visit(
      [&]<class T>(const T& held) -> std::int64_t {
        if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
          if (std::in_range<std::int64_t>(held)) return static_cast<std::int64_t>(held);
        }
        return otherwise;
      },
      *value);
}

double GgufReader::real(std::string_view key, double otherwise) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return otherwise;
  return std::visit(
      [&]<class T>(const T& held) -> double {
        if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
          return static_cast<double>(held);
        } else {
          return otherwise;
        }
      },
      *value);
}

std::string GgufReader::text(std::string_view key, std::string otherwise) const {
  const auto* value = get<std::string>(key);
  return value ? *value : std::move(otherwise);
}

const TensorView* GgufReader::tensor(std::string_view name) const {
  const auto found = tensor_index_.find(name);
  return found == tensor_index_.end() ? nullptr : &content_.tensors[found->second];
}

void GgufReader::drop(const TensorView& tensor) const {
  for (const MappedFile& file : files_)
    if (file.drop(tensor.bytes)) return;
}

namespace {

/// All that comes before the data, without the padding.
struct Header {
  std::string bytes;
  std::uint64_t alignment = kDefaultAlignment, data = 0;  ///< data: bytes of all tensors, padded
  std::vector<std::uint64_t> sizes;                       ///< of the tensors
};

/// Errors without the file's name.
Result<Header> make_header(const GgufMetadata& metadata, const std::vector<TensorSpec>& tensors) {
  const auto refuse = [](std::string what) { return Status(Code::invalid_argument, std::move(what)); };
  Header out;
  FETTLE_ASSIGN(out.alignment, alignment_of(metadata));
  std::string& header = out.bytes;
  header = kMagic;
  put(header, kVersion);
  put(header, static_cast<std::uint64_t>(tensors.size()));
  put(header, static_cast<std::uint64_t>(metadata.size()));
  std::set<std::string_view> keys, names;
  for (const auto& [key, value] : metadata) {
    if (key.empty()) return refuse("a key is empty");
    if (!keys.insert(key).second) return refuse(fmt::format("key {}: is given twice", in_quotes(key)));
    put(header, key);
    std::visit([&](const auto& held) { put_value(header, held); }, value);
  }
  for (const TensorSpec& spec : tensors) {
    const std::string what = "tensor " + in_quotes(spec.name);
    if (spec.name.size() > kMaxTensorName)
      return refuse(fmt::format("{}: a name of {} bytes, expected at most {}", what, spec.name.size(), kMaxTensorName));
    if (!names.insert(spec.name).second) return refuse(fmt::format("{}: the name is taken", what));
    if (spec.shape.size() > kMaxDims)
      return refuse(fmt::format("{}: {} dimensions, expected at most {}", what, spec.shape.size(), kMaxDims));
    const DTypeInfo& type = info(spec.dtype);
    if (type.gguf < 0) return refuse(fmt::format("{}: {} cannot be stored in GGUF", what, type.name));
    const auto size = byte_size(spec);
    if (!size) return refuse(size.error().message());
    if (*size > std::numeric_limits<std::uint64_t>::max() / 2 - out.data)
      return refuse(fmt::format("{}: the file gets too large", what));
    put(header, spec.name);
    put(header, static_cast<std::uint32_t>(spec.shape.size()));
    for (auto dim = spec.shape.rbegin(); dim != spec.shape.rend(); ++dim) put(header, *dim);
    put(header, static_cast<std::int32_t>(type.gguf));
    put(header, out.data);
    out.sizes.push_back(*size);
    out.data = padded(out.data + *size, out.alignment);
  }

  return out;
}

}  // namespace

Result<std::uint64_t> gguf_file_size(const GgufMetadata& metadata, const std::vector<TensorSpec>& tensors) {
  FETTLE_ASSIGN(const Header header, make_header(metadata, tensors));
  return padded(header.bytes.size(), header.alignment) + header.data;
}

Result<GgufWriter> GgufWriter::create(const std::string& path, const GgufMetadata& metadata,
                                      std::vector<TensorSpec> tensors) {
  auto header = make_header(metadata, tensors);
  if (!header) return std::move(header).error().with_context(path);
  FETTLE_ASSIGN(OutputFile file, OutputFile::create(path));
  GgufWriter writer(std::move(file), TensorStream(tensors, std::move(header->sizes)), header->alignment);
  FETTLE_TRY(writer.file_.write(header->bytes));
  FETTLE_TRY(writer.pad());
  return writer;
}

Status GgufWriter::pad() {
  static constexpr std::array<std::byte, 4096> zeros{};
  for (std::uint64_t missing = padded(file_.size(), alignment_) - file_.size(); missing > 0;) {
    const std::uint64_t part = std::min<std::uint64_t>(missing, zeros.size());
    FETTLE_TRY(file_.write(std::span(zeros).first(part)));
    missing -= part;
  }
  return {};
}

Status GgufWriter::append(std::string_view tensor, std::span<const std::byte> bytes) {
  if (Status status = stream_.take(tensor, bytes.size()); !status) return std::move(status).with_context(file_.path());
  FETTLE_TRY(file_.write(bytes));
  return stream_.at_boundary() ? pad() : Status();
}

Status GgufWriter::finish() {
  if (Status status = stream_.complete(); !status) return std::move(status).with_context(file_.path());
  return file_.commit();
}

}  // namespace fettle::kit
