// SPDX-License-Identifier: Apache-2.0
#include "importance.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

namespace quantize_gguf {

namespace fs = std::filesystem;
using fettle::Code;
using fettle::Result;
using fettle::Status;
using namespace fettle::kit;

namespace {

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";

Result<std::vector<float>> f32_values(const TensorView& t, const std::string& file) {
  if (t.dtype != DType::f32)
    return Status(Code::corrupt_data,
                  fmt::format("{}: tensor '{}' is {}, expected f32", file, t.name, info(t.dtype).name));
  std::vector<float> values(static_cast<std::size_t>(t.elements()));
  info(t.dtype).to_f32(t.bytes.data(), values.data(), values.size());
  for (const float v : values)
    if (!std::isfinite(v))
      return Status(Code::corrupt_data, fmt::format("{}: tensor '{}' holds NaN or infinity", file, t.name));
  return values;
}

Result<std::string> only_gguf_in(const std::string& folder) {
  std::vector<std::string> found;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error))
    if (entry.path().extension() == ".gguf") found.push_back(entry.path().string());
  if (found.size() != 1)
    return Status(Code::invalid_argument,
                  fmt::format("{}: found {} .gguf files, expected one importance matrix", folder, found.size()),
                  "imatrix");
  return found.front();
}

}  // namespace

Result<Importance> Importance::open(const std::string& folder) {
  FETTLE_ASSIGN(const std::string path, only_gguf_in(folder));
  FETTLE_ASSIGN(const GgufReader reader, GgufReader::open(path));
  if (reader.text("general.type") != "imatrix")
    return Status(Code::invalid_argument,
                  fmt::format("{}: not an importance matrix: general.type is '{}', expected 'imatrix'", path,
                              reader.text("general.type")),
                  "imatrix");
  Importance out;
  out.file_ = fs::path(path).filename().string();
  out.chunks_ =
      static_cast<std::uint32_t>(std::clamp<std::int64_t>(reader.integer("imatrix.chunk_count", 0), 0, UINT32_MAX));
  if (const auto* sets = reader.get<std::vector<std::string>>("imatrix.datasets"); sets && !sets->empty())
    out.dataset_ = sets->front();
  for (const TensorView& t : reader.tensors()) {
    if (!t.name.ends_with(kSums)) continue;
    const std::string name = t.name.substr(0, t.name.size() - kSums.size());
    const TensorView* counts_tensor = reader.tensor(name + std::string(kCounts));
    if (!counts_tensor)
      return Status(Code::corrupt_data, fmt::format("{}: tensor '{}{}' is missing", path, name, kCounts));
    FETTLE_ASSIGN(std::vector<float> sums, f32_values(t, path));
    FETTLE_ASSIGN(const std::vector<float> counts, f32_values(*counts_tensor, path));
    if (counts.empty() || sums.size() % counts.size() != 0)
      return Status(Code::corrupt_data,
                    fmt::format("{}: tensor '{}' has {} sums for {} counts", path, t.name, sums.size(), counts.size()));
    const std::size_t cols = sums.size() / counts.size();
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const auto count = static_cast<float>(std::lround(counts[i / cols]));
      sums[i] = count > 0 ? sums[i] / count : 1.0f;  // nothing seen: every column counts the same
    }
    out.columns_.emplace(name, std::move(sums));
  }
  return out;
}

Result<std::span<const float>> Importance::columns(std::string_view tensor, std::int64_t cols) const {
  const auto it = columns_.find(tensor);
  if (it == columns_.end()) return std::span<const float>();
  if (static_cast<std::int64_t>(it->second.size()) != cols)
    return Status(
        Code::invalid_argument,
        fmt::format(
            "the importance matrix has {} columns for tensor '{}', which has {}: it was made from another model",
            it->second.size(), tensor, cols),
        "imatrix");
  return std::span<const float>(it->second);
}

GgufMetadata Importance::metadata() const {
  GgufMetadata m;
  m.emplace_back("quantize.imatrix.file", file_.substr(0, 127));
  if (!dataset_.empty()) m.emplace_back("quantize.imatrix.dataset", dataset_.substr(0, 127));
  m.emplace_back("quantize.imatrix.entries_count", static_cast<std::uint32_t>(columns_.size()));
  if (chunks_ > 0) m.emplace_back("quantize.imatrix.chunks_count", chunks_);
  return m;
}

}  // namespace quantize_gguf
