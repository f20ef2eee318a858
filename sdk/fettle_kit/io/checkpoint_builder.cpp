// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/checkpoint_builder.h"

#include "fettle_kit/io/message.h"
#include "fettle_kit/io/safetensors_header.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <filesystem>

namespace fettle::kit {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

std::string join(const std::string& folder, const std::string& name) { return (fs::path(folder) / name).string(); }

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

Result<CheckpointBuilder> CheckpointBuilder::create(const std::string& folder, const Json& config,
                                                    std::vector<TensorSpec> specs, const std::string& from,
                                                    CheckpointWriterOptions options) {
  FETTLE_TRY(make_folder(folder));
  FETTLE_TRY(check_unused(folder));
  CheckpointBuilder builder;
  builder.folder_ = folder;
  builder.options_ = std::move(options);
  FETTLE_ASSIGN(auto stored, join_fused(config, specs));
  std::map<std::string, std::vector<std::string>, std::less<>> parts;
  std::map<std::string, std::uint64_t, std::less<>> sizes;
  for (const TensorSpec& spec : specs) {
    FETTLE_ASSIGN(const std::uint64_t size, byte_size(spec));
    if (!sizes.emplace(spec.name, size).second)
      return Status(Code::invalid_argument,
                    fmt::format("{}: tensor {} is to be written twice", folder, in_quotes(spec.name)));
  }
  specs.clear();
  for (StoredTensor& tensor : stored) {
    if (!parts.emplace(tensor.spec.name, std::move(tensor.parts)).second)
      return Status(Code::invalid_argument,
                    fmt::format("{}: tensor {} is to be written twice", folder, in_quotes(tensor.spec.name)));
    specs.push_back(std::move(tensor.spec));
  }
  FETTLE_ASSIGN(auto shards, split_into_shards(std::move(specs), builder.options_.shard_bytes, builder.total_));
  for (std::size_t i = 0; i < shards.size(); ++i) {
    Shard shard;
    shard.file_name =
        shards.size() == 1 ? kSingle : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    for (TensorSpec& spec : shards[i]) {
      std::vector<std::string>& names = parts.find(spec.name)->second;
      std::uint64_t offset = 0;
      for (const std::string& name : names) {
        const std::uint64_t size = sizes.find(name)->second;
        builder.places_.emplace(name, Place{i, offset, size, 0});
        offset += size;
        if (size != 0) ++shard.unfinished;
      }
      shard.tensors.push_back({std::move(spec), std::move(names)});
    }
    builder.shards_.push_back(std::move(shard));
  }
  if (!from.empty()) FETTLE_TRY(carry_files(from, folder));
  FETTLE_TRY(write_json_file(join(folder, "config.json"), config));
  for (Shard& shard : builder.shards_) {
    if (shard.unfinished != 0) continue;  // holds nothing but tensors without bytes
    FETTLE_TRY(builder.open_shard(shard));
    FETTLE_TRY(shard.file.front().commit());
    shard.file.clear();
  }
  return builder;
}

Status CheckpointBuilder::open_shard(Shard& shard) {
  const std::string path = join(folder_, shard.file_name);
  std::vector<TensorSpec> specs;
  for (const StoredTensor& tensor : shard.tensors) specs.push_back(tensor.spec);
  FETTLE_ASSIGN(const SafetensorsHeader header, safetensors_header(path, specs, options_.metadata));
  std::uint64_t end = header.bytes.size();
  for (std::size_t i = 0; i < shard.tensors.size(); ++i) {
    for (const std::string& part : shard.tensors[i].parts) places_.find(part)->second.offset += end;
    end += header.sizes[i];
  }
  FETTLE_ASSIGN(OutputFile file, OutputFile::create(path));
  FETTLE_TRY(file.write(header.bytes));
  FETTLE_TRY(file.reserve(end));
  shard.file.push_back(std::move(file));
  return {};
}

Status CheckpointBuilder::append(std::string_view tensor, std::span<const std::byte> bytes) {
  const auto found = places_.find(tensor);
  const auto refuse = [&](const std::string& what) {
    return Status(Code::invalid_argument, fmt::format("{}: tensor {}: {}", folder_, in_quotes(tensor), what));
  };
  if (found == places_.end()) return refuse("no such tensor was announced");
  Place& place = found->second;
  if (bytes.size() > place.size - place.written)
    return refuse(fmt::format("{} bytes after {}, but it has only {}", grouped(bytes.size()), grouped(place.written),
                              grouped(place.size)));
  if (bytes.empty()) return {};
  Shard& shard = shards_[place.shard];
  if (shard.file.empty()) FETTLE_TRY(open_shard(shard));
  FETTLE_TRY(shard.file.front().write_at(place.offset + place.written, bytes));
  place.written += bytes.size();
  if (place.written != place.size || --shard.unfinished != 0) return {};
  FETTLE_TRY(shard.file.front().commit());
  shard.file.clear();
  return {};
}

Status CheckpointBuilder::finish() {
  for (const auto& [name, place] : places_)
    if (place.written != place.size)
      return {Code::invalid_argument,
              fmt::format("{}: tensor {}: the checkpoint is to be finished, but only {} of {} bytes have come", folder_,
                          in_quotes(name), grouped(place.written), grouped(place.size))};
  if (shards_.size() == 1) return {};
  std::map<std::string, std::string> weight_map;
  for (const Shard& shard : shards_)
    for (const StoredTensor& tensor : shard.tensors) weight_map[tensor.spec.name] = shard.file_name;
  const Json index = {{"metadata", {{"total_size", total_}}}, {"weight_map", weight_map}};
  return write_json_file(join(folder_, kIndex), index);
}

Status write_checkpoint(const std::string& folder, const Json& config, std::vector<TensorSpec> specs,
                        const TensorSource& source, const std::string& from, const CheckpointWriterOptions& options) {
  FETTLE_ASSIGN(CheckpointBuilder builder, CheckpointBuilder::create(folder, config, specs, from, options));
  for (const TensorSpec& spec : specs)
    FETTLE_TRY(source(spec, [&](std::span<const std::byte> bytes) { return builder.append(spec.name, bytes); }));
  return builder.finish();
}

}  // namespace fettle::kit
