// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/train/state.h"

#include "fettle_kit/io/sha256.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace fettle::kit {
namespace {

constexpr const char* digest_tensor = "sha256";
constexpr const char* series_prefix = "series.";
constexpr const char* format_key = "fettle.training_state";
constexpr const char* format_version = "1";

std::string header_text(const std::map<std::string, std::string>& texts) {
  std::string all;
  for (const auto& [key, value] : texts) all += fmt::format("{}={}\n", key, value);
  return all;
}

Status damaged(const std::string& path, const std::string& what) {
  return {Code::corrupt_data, fmt::format("{}: {}", path, what)};
}

}  // namespace

Status save_state(const std::string& path, const StateValues& values, std::span<const TensorSpec> specs,
                  const std::function<void(std::size_t, std::span<float>)>& read) {
  std::vector<TensorSpec> all;
  for (const auto& [name, points] : values.series)
    all.push_back({series_prefix + name, DType::f64, {static_cast<std::int64_t>(points.size()), 2}});
  all.insert(all.end(), specs.begin(), specs.end());
  all.push_back({digest_tensor, DType::u8, {64}});
  auto metadata = values.texts;
  metadata[format_key] = format_version;

  Sha256 digest;
  digest.update(header_text(values.texts));
  FETTLE_ASSIGN(auto writer, SafetensorsWriter::create(path, all, std::move(metadata)));
  const auto add = [&](const std::string& name, std::span<const std::byte> bytes) -> Status {
    digest.update(name);
    digest.update(bytes.data(), bytes.size());
    return bytes.empty() ? Status() : writer.append(name, bytes);
  };
  for (const auto& [name, points] : values.series) {
    std::vector<double> flat;
    for (const auto& [x, y] : points) flat.insert(flat.end(), {x, y});
    FETTLE_TRY(add(series_prefix + name, std::as_bytes(std::span<const double>(flat))));
  }
  std::vector<float> numbers;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    FETTLE_ASSIGN(const std::uint64_t size, byte_size(specs[i]));
    numbers.resize(size / sizeof(float));
    read(i, numbers);
    FETTLE_TRY(add(specs[i].name, std::as_bytes(std::span<const float>(numbers))));
  }
  const std::string hex = digest.hex();
  FETTLE_TRY(writer.append(digest_tensor, std::as_bytes(std::span<const char>(hex))));
  return writer.finish();
}

Result<StateFile> StateFile::open(const std::string& path, std::string_view identity,
                                  std::span<const TensorSpec> specs) {
  FETTLE_ASSIGN(auto reader, SafetensorsReader::open(path));
  StateFile state(std::move(reader));
  const SafetensorsReader& file = state.file_;
  StateValues& values = state.values_;
  values.texts = file.metadata();
  values.texts.erase("format");
  const auto format = values.texts.extract(format_key);
  if (format.empty() || format.mapped() != format_version) return damaged(path, "not a training state of this version");

  const TensorView* stored = file.find(digest_tensor);
  if (stored == nullptr) return damaged(path, "the checksum is missing");
  Sha256 digest;
  digest.update(header_text(values.texts));
  for (const TensorView& t : file.tensors())
    if (&t != stored) {
      digest.update(t.name);
      digest.update(t.bytes.data(), t.bytes.size());
    }
  const std::string hex = digest.hex();
  if (!std::ranges::equal(std::as_bytes(std::span<const char>(hex)), stored->bytes))
    return damaged(path, "the content does not fit its checksum");

  const auto other = [&] {
    return Status(Code::invalid_argument, fmt::format("{}: the state of another training", path));
  };
  if (const auto of = values.texts.find("identity"); of == values.texts.end() || of->second != identity) return other();
  std::size_t series = 0;
  for (const TensorView& t : file.tensors()) {
    if (!t.name.starts_with(series_prefix)) continue;
    ++series;
    if (t.dtype != DType::f64 || t.shape.size() != 2 || t.shape[1] != 2) return other();
    std::vector<double> flat(static_cast<std::size_t>(t.elements()));
    if (!flat.empty()) std::memcpy(flat.data(), t.bytes.data(), t.bytes.size());
    auto& points = values.series[t.name.substr(std::strlen(series_prefix))];
    for (std::size_t i = 0; i < flat.size(); i += 2) points.emplace_back(flat[i], flat[i + 1]);
  }
  if (file.tensors().size() != series + specs.size() + 1) return other();
  for (const TensorSpec& spec : specs) {
    const TensorView* t = file.find(spec.name);
    if (t == nullptr || t->dtype != spec.dtype || t->shape != spec.shape) return other();
    state.tensors_.push_back(t);
  }
  return state;
}

void StateFile::read(const std::function<void(std::size_t, std::span<const float>)>& write) const {
  std::vector<float> numbers;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    numbers.resize(tensors_[i]->bytes.size() / sizeof(float));
    if (!numbers.empty()) std::memcpy(numbers.data(), tensors_[i]->bytes.data(), tensors_[i]->bytes.size());
    write(i, numbers);
  }
}

}  // namespace fettle::kit
