// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/checkpoint.h"

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

// --- writing ---

bool is_weight_file(const fs::path& path) {
  static constexpr std::array<std::string_view, 11> extensions = {
      ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".onnx_data", ".gguf", ".h5", ".msgpack", ".npz"};
  const std::string name = path.filename().string(), extension = path.extension().string();
  return name.ends_with(".safetensors.index.json") || name.ends_with(".bin.index.json") ||
         std::find(extensions.begin(), extensions.end(), extension) != extensions.end();
}

Status make_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return {Code::io, fmt::format("{}: cannot make the folder: {}", folder, errno_text(error.value()))};
  return {};
}

/// Entries in name order, so that errors do not depend on the file system.
Result<std::vector<fs::path>> list_folder(const std::string& folder) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    paths.push_back(entry->path());
  if (error) return Status(Code::io, fmt::format("{}: cannot list the folder: {}", folder, errno_text(error.value())));
  std::sort(paths.begin(), paths.end());
  return paths;
}

Status carry_files(const std::string& from, const std::string& to, bool top = true) {
  FETTLE_ASSIGN(const std::vector<fs::path> paths, list_folder(from));
  for (const fs::path& path : paths) {
    const std::string name = path.filename().string();
    std::error_code error;
    if (is_weight_file(path) || (top && name == "config.json")) continue;
    if (fs::is_directory(fs::symlink_status(path, error))) {
      if (name.starts_with('.') || (top && name == "original")) continue;
      FETTLE_TRY(make_folder(join(to, name)));
      FETTLE_TRY(carry_files(path.string(), join(to, name), false));
    } else if (fs::is_directory(path, error)) {
      return {Code::unsupported,
              fmt::format("{}: is a link to a folder, which cannot be carried over; replace it by the "
                          "folder itself",
                          path.string())};
    } else {
      FETTLE_TRY(copy_file(path.string(), join(to, name)));
    }
  }
  return {};
}

/// Consecutive runs of specs of at most `limit` bytes each; a tensor larger than that has a shard of its own.
Result<std::vector<std::vector<TensorSpec>>> split_into_shards(std::vector<TensorSpec> specs, std::uint64_t limit,
                                                               std::uint64_t& total) {
  std::vector<std::vector<TensorSpec>> shards(1);
  std::uint64_t filled = 0;
  total = 0;
  for (TensorSpec& spec : specs) {
    FETTLE_ASSIGN(const std::uint64_t size, byte_size(spec));
    if (!shards.back().empty() && (filled > limit || size > limit - filled)) {
      shards.emplace_back();
      filled = 0;
    }
    filled += size;
    if (__builtin_add_overflow(total, size, &total))
      return Status(Code::invalid_argument, "the tensors together are more than 64 bits can count");
    shards.back().push_back(std::move(spec));
  }
  for (auto& shard : shards) shard = ordered_for_safetensors(std::move(shard));
  return shards;
}

Status write_shard(const std::string& path, const std::vector<TensorSpec>& specs, const TensorSource& source,
                   const std::map<std::string, std::string>& metadata) {
  FETTLE_ASSIGN(SafetensorsWriter writer, SafetensorsWriter::create(path, specs, metadata));
  for (const TensorSpec& spec : specs)
    FETTLE_TRY(source(spec, [&](std::span<const std::byte> bytes) { return writer.append(spec.name, bytes); }));
  return writer.finish();
}

Status check_unused(const std::string& folder) {
  FETTLE_ASSIGN(const std::vector<fs::path> paths, list_folder(folder));
  for (const fs::path& path : paths) {
    const std::string name = path.filename().string();
    if (name == kIndex || name.ends_with(".safetensors"))
      return {Code::invalid_argument,
              fmt::format("{}: already holds {}; write into another folder", folder, in_quotes(name))};
  }
  return {};
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
      checkpoint.tensors_.push_back(&tensor);
      checkpoint.index_.emplace(tensor.name, &tensor);
    }
  }
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
  const std::less<const std::byte*> before;
  for (const SafetensorsReader& shard : *shards_) {
    const auto file = shard.file().bytes();
    if (tensor.bytes.empty() || before(tensor.bytes.data(), file.data()) ||
        !before(tensor.bytes.data(), file.data() + file.size()))
      continue;
    shard.file().drop(static_cast<std::size_t>(tensor.bytes.data() - file.data()), tensor.bytes.size());
    return;
  }
}

Status write_checkpoint(const std::string& folder, const Json& config, std::vector<TensorSpec> specs,
                        const TensorSource& source, const std::string& from, const CheckpointWriterOptions& options) {
  FETTLE_TRY(make_folder(folder));
  FETTLE_TRY(check_unused(folder));
  std::set<std::string_view> names;
  for (const TensorSpec& spec : specs)
    if (!names.insert(spec.name).second)
      return {Code::invalid_argument,
              fmt::format("{}: tensor {} is to be written twice", folder, in_quotes(spec.name))};
  std::uint64_t total = 0;
  FETTLE_ASSIGN(const auto shards, split_into_shards(std::move(specs), options.shard_bytes, total));

  if (!from.empty()) FETTLE_TRY(carry_files(from, folder));
  FETTLE_TRY(write_json_file(join(folder, "config.json"), config));
  if (shards.size() == 1) return write_shard(join(folder, kSingle), shards.front(), source, options.metadata);

  std::map<std::string, std::string> weight_map;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    FETTLE_TRY(write_shard(join(folder, name), shards[i], source, options.metadata));
    for (const TensorSpec& spec : shards[i]) weight_map[spec.name] = name;
  }
  const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  return write_json_file(join(folder, kIndex), index);
}

}  // namespace fettle::kit
