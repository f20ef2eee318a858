// SPDX-License-Identifier: Apache-2.0
#include "importance.h"

#include "fettle_kit/io/imatrix.h"

#include <fmt/format.h>

#include <filesystem>

namespace quantize_gguf {

namespace fs = std::filesystem;
using fettle::Code;
using fettle::Result;
using fettle::Status;
using namespace fettle::kit;

Result<Importance> Importance::open(const std::string& path) {
  FETTLE_ASSIGN(const std::string file, Imatrix::file_of(path));
  FETTLE_ASSIGN(const Imatrix imatrix, Imatrix::open(file));
  Importance out;
  out.file_ = fs::path(file).filename().string();
  out.chunks_ = imatrix.chunks;
  if (!imatrix.datasets.empty()) out.dataset_ = imatrix.datasets.front();
  for (const auto& [name, entry] : imatrix.entries) out.columns_.emplace(name, entry.means());
  return out;
}

Result<std::span<const float>> Importance::columns(std::string_view tensor, std::int64_t cols,
                                                   std::int64_t experts) const {
  const auto it = columns_.find(tensor);
  if (it == columns_.end()) return std::span<const float>();
  if (static_cast<std::int64_t>(it->second.size()) != cols * experts)
    return Status(
        Code::invalid_argument,
        fmt::format(
            "the importance matrix has {} columns for tensor '{}', which has {}: it was made from another model",
            it->second.size(), tensor, cols * experts),
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
