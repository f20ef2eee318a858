// SPDX-License-Identifier: Apache-2.0
#include "host/plan/attributes.h"

#include "fettle_kit/io/model_attributes.h"
#include "fettle_kit/io/safetensors.h"
#include "fettle_kit/text/tokenizer.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>

namespace fettle::host {

namespace {

namespace fs = std::filesystem;

Attributes sorted(Attributes attributes) {
  std::sort(attributes.begin(), attributes.end());
  return attributes;
}

Result<Attributes> of_model(const std::string& path) {
  FETTLE_ASSIGN(Attributes attributes, kit::model_attributes(path));
  std::error_code error;
  if (fs::exists(fs::path(path) / "tokenizer.json", error)) {
    FETTLE_ASSIGN(const kit::Tokenizer tokenizer, kit::Tokenizer::open(path));
    attributes.emplace_back("tokenizer", tokenizer.digest());
  }
  return sorted(std::move(attributes));
}

Result<Attributes> of_tokens(const std::string& path) {
  std::error_code error;
  const std::string file = fs::is_directory(path, error) ? (fs::path(path) / "tokens.safetensors").string() : path;
  FETTLE_ASSIGN(const kit::SafetensorsReader reader, kit::SafetensorsReader::open(file));
  Attributes attributes;
  for (const char* key : {"tokenizer", "bos"})
    if (const auto found = reader.metadata().find(key); found != reader.metadata().end())
      attributes.emplace_back(key, found->second);
  const kit::TensorView* ids = reader.find("ids");
  if (ids != nullptr && ids->shape.size() == 2) {
    attributes.emplace_back("sequences", std::to_string(ids->shape[0]));
    attributes.emplace_back("length", std::to_string(ids->shape[1]));
  }
  return sorted(std::move(attributes));
}

/// Files and their bytes, as Store::link() takes them: names that begin with a dot are left out.
Result<Attributes> of_files(const std::vector<std::string>& paths) {
  std::uint64_t files = 0, bytes = 0;
  std::error_code error;
  for (const std::string& path : paths) {
    if (!fs::is_directory(path, error)) {
      const std::uintmax_t size = fs::file_size(path, error);
      if (error) return Status(Code::io, "cannot be read: " + error.message(), path);
      ++files;
      bytes += size;
      continue;
    }
    for (fs::recursive_directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
      if (at->path().filename().string().starts_with('.')) {
        at.disable_recursion_pending();
      } else if (std::error_code unreadable; at->is_regular_file(unreadable)) {
        ++files;
        bytes += at->file_size(unreadable);
      }
    }
    if (error) return Status(Code::io, "cannot be read: " + error.message(), path);
  }
  return Attributes{{"bytes", std::to_string(bytes)}, {"files", std::to_string(files)}};
}

}  // namespace

Result<Attributes> artifact_attributes(const std::string& kind, const std::vector<std::string>& paths) {
  if (kind == "model" && paths.size() == 1) return of_model(paths[0]);
  if (kind == "tokens" && paths.size() == 1) return of_tokens(paths[0]);
  return of_files(paths);
}

Result<Attributes> artifact_attributes(const std::string& kind, const std::string& path) {
  return artifact_attributes(kind, std::vector{path});
}

}  // namespace fettle::host
