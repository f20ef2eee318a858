// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/checkpoint.h"

#include "fettle_kit/io/fused_tensors.h"
#include "fettle_kit/io/message.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>

namespace fettle::kit {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

std::string join(const std::string& folder, const std::string& name) { return (fs::path(folder) / name).string(); }

bool exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

/// A name in the index must stay inside the folder, on any system.
bool is_plain_file_name(std::string_view name) {
  const bool drive = name.size() >= 2 && name[1] == ':';
  return !name.empty() && name != "." && !drive && name.find("..") == std::string_view::npos &&
         std::none_of(name.begin(), name.end(),
                      [](char c) { return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20; });
}

using WeightMap = std::map<std::string, std::string, std::less<>>;  // tensor to file

Result<WeightMap> read_index(const std::string& path) {
  const auto corrupt = [&](const std::string& what) {
    return Status(Code::corrupt_data, fmt::format("{}: {}", path, what));
  };
  FETTLE_ASSIGN(const Json index, read_json_file(path));
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    return corrupt("has no object 'weight_map'");
  WeightMap map;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (!file.is_string())
      return corrupt(fmt::format("tensor {}: file is {}, expected a string", in_quotes(tensor), file.type_name()));
    const auto& name = file.get_ref<const std::string&>();
    if (!is_plain_file_name(name))
      return corrupt(fmt::format("tensor {}: file {} is not a plain file name in this folder", in_quotes(tensor),
                                 in_quotes(name)));
    map.emplace(tensor, name);
  }
  if (map.empty()) return corrupt("'weight_map' names no tensor");
  return map;
}

Result<std::vector<SafetensorsReader>> open_shards(const std::string& folder, const WeightMap& map) {
  std::set<std::string> names;
  for (const auto& [tensor, file] : map) names.insert(file);
  std::vector<SafetensorsReader> shards;
  for (const std::string& name : names) {
    const std::string path = join(folder, name);
    if (!exists(path))
      return Status(Code::not_found, fmt::format("{}: names the file {}, which is missing; is the download complete?",
                                                 join(folder, kIndex), in_quotes(name)));
    FETTLE_ASSIGN(SafetensorsReader shard, SafetensorsReader::open(path));
    shards.push_back(std::move(shard));
  }
  return shards;
}

/// What the index says and what the shards hold must be the same.
Status check_index(const std::string& folder, const WeightMap& map, const std::vector<SafetensorsReader>& shards) {
  const std::string index = join(folder, kIndex);
  std::map<std::string_view, std::string> homes;
  for (const SafetensorsReader& shard : shards) {
    const std::string name = fs::path(shard.path()).filename().string();
    for (const TensorView& tensor : shard.tensors()) {
      const auto [home, fresh] = homes.emplace(tensor.name, name);
      if (!fresh)
        return {Code::corrupt_data, fmt::format("{}: tensor {} is in two files, {} and {}", index,
                                                in_quotes(tensor.name), in_quotes(home->second), in_quotes(name))};
      if (map.find(tensor.name) == map.end())
        return {Code::corrupt_data, fmt::format("{}: does not name tensor {}, which is in {}", index,
                                                in_quotes(tensor.name), in_quotes(name))};
    }
  }
  for (const auto& [tensor, file] : map) {
    const auto home = homes.find(tensor);
    if (home == homes.end() || home->second != file)
      return {Code::corrupt_data,
              fmt::format("{}: tensor {} should be in {}, but is not", index, in_quotes(tensor), in_quotes(file))};
  }
  return {};
}

Status no_weights(const std::string& folder) {
  for (const char* other : {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "tf_model.h5"})
    if (exists(join(folder, other)))
      return {Code::unsupported,
              fmt::format("{}: the weights are in '{}'; convert them to safetensors", folder, other)};
  return {Code::not_found, fmt::format("{}: holds neither '{}' nor '{}'", folder, kSingle, kIndex)};
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const std::string& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error))
    return Status(exists(folder) ? Code::invalid_argument : Code::not_found,
                  fmt::format("{}: {}, expected the folder of a Hugging Face checkpoint", folder,
                              exists(folder) ? "is not a folder" : "no such folder"));
  const std::string config_path = join(folder, "config.json");
  if (!exists(config_path))
    return Status(Code::not_found,
                  fmt::format("{}: has no 'config.json', expected the folder of a Hugging Face checkpoint", folder));
  FETTLE_ASSIGN(Json config, read_json_file(config_path));
  if (!config.is_object())
    return Status(Code::corrupt_data, fmt::format("{}: is {}, expected an object", config_path, config.type_name()));

  Checkpoint checkpoint;
  checkpoint.folder_ = folder;
  checkpoint.config_ = std::make_shared<const Json>(std::move(config));
  std::vector<SafetensorsReader> shards;
  if (const std::string single = join(folder, kSingle); exists(single)) {
    FETTLE_ASSIGN(SafetensorsReader reader, SafetensorsReader::open(single));
    shards.push_back(std::move(reader));
  } else if (const std::string index = join(folder, kIndex); exists(index)) {
    FETTLE_ASSIGN(const WeightMap map, read_index(index));
    FETTLE_ASSIGN(shards, open_shards(folder, map));
    FETTLE_TRY(check_index(folder, map, shards));
  } else {
    return no_weights(folder);
  }
  checkpoint.shards_ = std::make_unique<std::vector<SafetensorsReader>>(std::move(shards));
  for (const SafetensorsReader& shard : *checkpoint.shards_) {
    for (const TensorView& tensor : shard.tensors()) {
      auto parts = split_fused(checkpoint.config(), tensor);
      if (!parts) return std::move(parts).error().with_context(folder);
      if (parts->empty()) checkpoint.tensors_.push_back(&tensor);
      for (TensorView& part : *parts) checkpoint.tensors_.push_back(&checkpoint.parts_.emplace_back(std::move(part)));
    }
  }
  for (const TensorView* tensor : checkpoint.tensors_) checkpoint.index_.emplace(tensor->name, tensor);
  return checkpoint;
}

const TensorView* Checkpoint::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : found->second;
}

Result<const TensorView*> Checkpoint::require(std::string_view name) const {
  if (const TensorView* tensor = find(name)) return tensor;
  return Status(Code::not_found, fmt::format("{}: has no tensor {}; is its config.json that of these weights?", folder_,
                                             in_quotes(name)));
}

void Checkpoint::drop(const TensorView& tensor) const {
  for (const SafetensorsReader& shard : *shards_)
    if (shard.file().drop(tensor.bytes)) return;
}

}  // namespace fettle::kit
