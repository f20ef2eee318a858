// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/model_files.h"

#include "fettle_kit/io/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <vector>

namespace fettle::kit {

namespace fs = std::filesystem;

Result<std::string> gguf_file_of(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error))
    return Status(Code::not_found, fmt::format("{}: there is no such file or folder", path));
  if (!fs::is_directory(path, error)) return path;
  if (fs::exists(fs::path(path) / "config.json", error)) return std::string();
  std::vector<std::string> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(path, error))
    if (entry.path().extension() == ".gguf") found.push_back(entry.path().filename().string());
  std::sort(found.begin(), found.end());
  if (found.empty())
    return Status(Code::not_found, fmt::format("{}: no model here: neither config.json nor a .gguf file", path));
  if (found.size() > 1)
    if (const auto parts = gguf_files(path)) return parts->front();
  if (found.size() > 1)
    return Status(Code::invalid_argument,
                  fmt::format("{}: holds '{}' and '{}'; name the one you mean", path, found[0], found[1]));
  return (fs::path(path) / found[0]).string();
}

}  // namespace fettle::kit
