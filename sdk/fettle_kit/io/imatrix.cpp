// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/imatrix.h"

#include "fettle_kit/io/gguf.h"
#include "fettle_kit/io/message.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

namespace fettle::kit {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";

Status check(const std::vector<float>& values, const std::string& file, std::string_view what) {
  for (const float v : values)
    if (!std::isfinite(v) || v < 0)
      return {Code::corrupt_data, fmt::format("{}: {} holds {}, expected numbers of 0 or more", file, what, v)};
  return {};
}

Result<std::vector<float>> f32_values(const TensorView& t, const std::string& file) {
  if (t.dtype != DType::f32)
    return Status(Code::corrupt_data,
                  fmt::format("{}: tensor {} is {}, expected f32", file, in_quotes(t.name), info(t.dtype).name));
  std::vector<float> values(static_cast<std::size_t>(t.elements()));
  info(t.dtype).to_f32(t.bytes.data(), values.data(), values.size());
  FETTLE_TRY(check(values, file, "tensor " + in_quotes(t.name)));
  return values;
}

std::uint32_t u32(const GgufReader& reader, const char* key) {
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(reader.integer(key, 0), 0, UINT32_MAX));
}

Result<Imatrix> read_gguf(const std::string& path) {
  FETTLE_ASSIGN(const GgufReader reader, GgufReader::open(path));
  if (reader.text("general.type") != "imatrix")
    return Status(Code::invalid_argument, fmt::format("{}: not an importance matrix: general.type is {}, expected "
                                                      "'imatrix'",
                                                      path, in_quotes(reader.text("general.type"))));
  Imatrix out;
  out.chunks = u32(reader, "imatrix.chunk_count");
  out.chunk_size = u32(reader, "imatrix.chunk_size");
  if (const auto* sets = reader.get<std::vector<std::string>>("imatrix.datasets")) out.datasets = *sets;
  for (const TensorView& t : reader.tensors()) {
    if (!t.name.ends_with(kSums)) continue;
    const std::string name = t.name.substr(0, t.name.size() - kSums.size());
    const TensorView* counts = reader.tensor(name + std::string(kCounts));
    if (!counts) return Status(Code::corrupt_data, fmt::format("{}: tensor '{}{}' is missing", path, name, kCounts));
    Imatrix::Entry entry;
    FETTLE_ASSIGN(entry.sums, f32_values(t, path));
    FETTLE_ASSIGN(entry.counts, f32_values(*counts, path));
    if (entry.counts.empty() || entry.sums.empty() || entry.sums.size() % entry.counts.size() != 0)
      return Status(Code::corrupt_data, fmt::format("{}: tensor {} has {} sums for {} counts", path, in_quotes(t.name),
                                                    entry.sums.size(), entry.counts.size()));
    out.entries.emplace(name, std::move(entry));
  }
  return out;
}

/// The form of before 2025: counted lists, no magic. It holds (sum / tokens) * calls, where calls counts runs of text.
class OldForm {
 public:
  OldForm(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  Result<Imatrix> read() {
    Imatrix out;
    FETTLE_ASSIGN(const std::int32_t count, integer("the number of entries", 1));
    for (std::int32_t i = 0; i < count; ++i) {
      FETTLE_ASSIGN(const std::string name, text("the name of an entry"));
      FETTLE_ASSIGN(const std::int32_t calls, integer("the calls of an entry", 0));
      FETTLE_ASSIGN(const std::int32_t size, integer("the size of an entry", 1));
      FETTLE_ASSIGN(const auto raw, take(static_cast<std::uint64_t>(size) * sizeof(float), "the values of an entry"));
      Imatrix::Entry entry{std::vector<float>(static_cast<std::size_t>(size)), {1.0f}};
      std::memcpy(entry.sums.data(), raw.data(), raw.size());
      FETTLE_TRY(check(entry.sums, path_, "entry " + in_quotes(name)));
      if (calls > 0)
        for (float& v : entry.sums) v /= static_cast<float>(calls);  // the mean: how many tokens is not kept
      if (!out.entries.emplace(name, std::move(entry)).second)
        return fail(fmt::format("entry {} is here a second time", in_quotes(name)));
    }
    if (at_ == bytes_.size()) return out;  // the oldest files end here
    FETTLE_ASSIGN(const std::int32_t chunks, integer("the number of runs of text", 0));
    out.chunks = static_cast<std::uint32_t>(chunks);
    FETTLE_ASSIGN(std::string dataset, text("the name of the text"));
    if (!dataset.empty()) out.datasets.push_back(std::move(dataset));
    if (at_ != bytes_.size()) return fail("more bytes after its end");
    return out;
  }

 private:
  Status fail(const std::string& problem) const {
    return {Code::corrupt_data, fmt::format("{}: not an importance matrix: {}", path_, problem)};
  }
  Result<std::span<const std::byte>> take(std::uint64_t size, std::string_view what) {
    if (size > bytes_.size() - at_)
      return fail(fmt::format("{} takes {} bytes at byte {}, but the file ends at byte {}", what, grouped(size),
                              grouped(at_), grouped(bytes_.size())));
    const auto taken = bytes_.subspan(at_, size);
    at_ += size;
    return taken;
  }
  Result<std::int32_t> integer(std::string_view what, std::int32_t least) {
    FETTLE_ASSIGN(const auto raw, take(sizeof(std::int32_t), what));
    std::int32_t value = 0;
    std::memcpy(&value, raw.data(), sizeof value);
    if (value < least) return fail(fmt::format("{} is {}, expected {} or more", what, value, least));
    return value;
  }
  Result<std::string> text(std::string_view what) {
    FETTLE_ASSIGN(const std::int32_t size, integer(what, 0));
    FETTLE_ASSIGN(const auto raw, take(static_cast<std::uint64_t>(size), what));
    return std::string(reinterpret_cast<const char*>(raw.data()), raw.size());
  }

  std::span<const std::byte> bytes_;
  const std::string& path_;
  std::size_t at_ = 0;
};

}  // namespace

std::vector<float> Imatrix::Entry::means() const {
  std::vector<float> out = sums;
  const std::size_t columns = sums.size() / counts.size();
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto count = static_cast<float>(std::lround(counts[i / columns]));
    out[i] = count > 0 ? out[i] / count : 1.0f;
  }
  return out;
}

Result<std::string> Imatrix::file_of(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return path;
  std::vector<std::string> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(path, error))
    if (const auto extension = entry.path().extension();
        extension == ".gguf" || extension == ".dat" || extension == ".imatrix")
      found.push_back(entry.path().string());
  if (found.size() == 1) return found.front();
  return Status(
      Code::invalid_argument,
      fmt::format("{}: found {} files with the ending .gguf, .dat or .imatrix, expected one importance matrix", path,
                  found.size()));
}

Result<Imatrix> Imatrix::open(const std::string& path) {
  FETTLE_ASSIGN(const std::string file, file_of(path));
  FETTLE_ASSIGN(const MappedFile mapped, MappedFile::open(file));
  const auto bytes = mapped.bytes();
  if (bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0) return read_gguf(file);
  return OldForm(bytes, file).read();
}

Status Imatrix::save(const std::string& path) const {
  const GgufMetadata metadata{{"general.type", std::string("imatrix")},
                              {"imatrix.datasets", datasets},
                              {"imatrix.chunk_count", chunks},
                              {"imatrix.chunk_size", chunk_size}};
  std::vector<TensorSpec> specs;
  for (const auto& [name, entry] : entries) {
    const auto experts = static_cast<std::int64_t>(entry.counts.size());
    const auto columns = static_cast<std::int64_t>(entry.sums.size() / entry.counts.size());
    // llama.cpp's writer drops the outer dimension where it is 1.
    using Shape = std::vector<std::int64_t>;
    specs.push_back({name + std::string(kSums), DType::f32, experts == 1 ? Shape{columns} : Shape{experts, columns}});
    specs.push_back({name + std::string(kCounts), DType::f32, experts == 1 ? Shape{1} : Shape{experts, 1}});
  }
  FETTLE_ASSIGN(GgufWriter writer, GgufWriter::create(path, metadata, specs));
  for (const auto& [name, entry] : entries) {
    FETTLE_TRY(writer.append(name + std::string(kSums), std::as_bytes(std::span(entry.sums))));
    FETTLE_TRY(writer.append(name + std::string(kCounts), std::as_bytes(std::span(entry.counts))));
  }
  return writer.finish();
}

}  // namespace fettle::kit
