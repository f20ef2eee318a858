// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/sha256.h"

#include "host/store/durable.h"
#include "host/store/layout.h"
#include "host/store/store.h"

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <map>
#include <set>

namespace fettle::host {
namespace fs = std::filesystem;
namespace {

/// Names in a folder, sorted.
Result<std::vector<std::string>> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator it(folder, error);
  for (const fs::directory_iterator end; !error && it != end; it.increment(error))
    names.push_back(it->path().filename().string());
  if (error) return io_error(folder, "read the folder", error.value());
  std::sort(names.begin(), names.end());
  return names;
}

Result<std::vector<std::string>> keys_of(const Store& store) {
  FETTLE_ASSIGN(const auto names, names_in(store.root() + "/records"));
  std::vector<std::string> keys;
  for (const std::string& name : names)
    if (name.size() == 69 && name.ends_with(".json") && kit::is_sha256_hex(name.substr(0, 64)))
      keys.push_back(name.substr(0, 64));
  return keys;
}

std::uint64_t file_bytes(const std::string& path) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) ? static_cast<std::uint64_t>(info.st_size) : 0;
}

std::uint64_t tree_bytes(const std::string& path) {
  std::uint64_t sum = file_bytes(path);
  std::error_code error;
  fs::recursive_directory_iterator it(path, error);
  for (const fs::recursive_directory_iterator end; !error && it != end; it.increment(error))
    sum += file_bytes(it->path().string());
  return sum;
}

}  // namespace

Result<Store::Summary> Store::summary() const {
  Summary summary;
  std::set<std::string> named;
  FETTLE_ASSIGN(const auto keys, keys_of(*this));
  for (const std::string& key : keys) {
    const auto record = impl_->load(key);
    if (!record.ok()) continue;
    ++summary.records;
    for (const auto& [port, artifact] : record->outputs)
      for (const ManifestEntry& file : artifact.files)
        if (file.link.empty()) named.insert(file.sha256);
  }
  FETTLE_ASSIGN(const auto objects, names_in(impl_->folder("objects")));
  for (const std::string& object : objects) {
    const std::uint64_t bytes = file_bytes(impl_->object(object));
    ++summary.objects;
    summary.bytes += bytes;
    if (!named.contains(object)) summary.garbage_bytes += bytes;
  }
  FETTLE_ASSIGN(const auto staging, names_in(impl_->folder("staging")));
  for (const std::string& name : staging) summary.garbage_bytes += tree_bytes(impl_->staging(name));
  return summary;
}

Result<std::vector<Store::Problem>> Store::verify() const {
  struct Check {
    std::string path, sha256;
    std::uint64_t size;
    bool outside;
    std::string what;  ///< is wrong
  };
  std::vector<Problem> problems;
  std::map<std::pair<std::string, std::string>, Check> checks;  // each file once, however many records name it
  FETTLE_ASSIGN(const auto keys, keys_of(*this));
  for (const std::string& key : keys) {
    const auto record = impl_->load(key);
    if (!record.ok()) {
      problems.push_back({impl_->record(key), record.error().message()});
      continue;
    }
    for (const auto& [port, artifact] : record->outputs)
      for (const ManifestEntry& file : artifact.files) {
        const std::string path = file.link.empty() ? impl_->object(file.sha256) : file.link;
        checks.try_emplace({path, file.sha256}, Check{path, file.sha256, file.size, !file.link.empty(), {}});
      }
  }
  std::vector<Check> list;
  for (auto& [name, check] : checks) list.push_back(std::move(check));
  tbb::parallel_for(std::size_t{0}, list.size(), [&](std::size_t i) {
    Check& check = list[i];
    const auto content = hash_file(check.path);
    if (!content.ok())
      check.what = content.error().code() == Code::not_found ? "is missing" : content.error().message();
    else if (content->size != check.size)
      check.what = fmt::format("has {} bytes, expected {}", grouped(content->size), grouped(check.size));
    else if (content->sha256 != check.sha256)
      check.what = fmt::format("its content has changed: sha256 is {}, expected {}", content->sha256, check.sha256);
    else if (!check.outside && !impl_->object_is_whole(check.sha256, check.size))
      check.what = "was written to, though its content is as it was";
  });
  for (Check& check : list)
    if (!check.what.empty()) problems.push_back({std::move(check.path), std::move(check.what)});
  return problems;
}

Result<std::uint64_t> Store::collect(std::optional<int> older_than_days, bool dry_run) const {
  auto& in_use = const_cast<FileLock&>(impl_->in_use);  // a lock is not part of what the store holds
  if (!dry_run) {
    FETTLE_ASSIGN(const bool alone, in_use.try_lock(FileLock::Mode::exclusive));
    if (!alone)
      return Status(Code::io,
                    fmt::format("store '{}': another fettle uses it; try again when it has ended", impl_->root));
  }
  const auto freed = [&]() -> Result<std::uint64_t> {
    const auto is_old = [&](const std::string& path) {
      struct stat info {};
      return older_than_days && ::stat(path.c_str(), &info) == 0 &&
             info.st_mtim.tv_sec + std::int64_t{*older_than_days} * 86400 <= ::time(nullptr);
    };
    std::uint64_t bytes = 0;
    const auto drop = [&](const std::string& path) -> Status {
      bytes += tree_bytes(path);
      return dry_run ? Status() : remove_tree(path);
    };
    // Records go first and reach the disk first: whatever happens then, no record is left whose objects are gone.
    std::set<std::string> objects, views, keys;
    FETTLE_ASSIGN(const auto all_keys, keys_of(*this));
    for (const std::string& key : all_keys) {
      const auto record = impl_->load(key);
      if (!record.ok() || is_old(impl_->record(key))) {
        FETTLE_TRY(drop(impl_->record(key)));
        continue;
      }
      keys.insert(key);
      for (const auto& [port, artifact] : record->outputs) {
        views.insert(artifact.digest.substr(artifact.digest.find(':') + 1));
        for (const ManifestEntry& file : artifact.files)
          if (file.link.empty()) objects.insert(file.sha256);
      }
    }
    if (!dry_run) FETTLE_TRY(sync_folder(impl_->folder("records")));
    const auto sweep = [&](const char* folder, const auto& keep) -> Status {
      FETTLE_ASSIGN(const auto names, names_in(impl_->folder(folder)));
      for (const std::string& name : names)
        if (!keep(name)) FETTLE_TRY(drop(impl_->folder(folder) + "/" + name));
      return {};
    };
    const std::uint64_t before_views = bytes;
    FETTLE_TRY(sweep("views", [&](const std::string& name) { return views.contains(name.substr(0, 64)); }));
    bytes = before_views;  // views are names of objects and take no room of their own
    FETTLE_TRY(sweep("objects", [&](const std::string& name) { return objects.contains(name); }));
    FETTLE_TRY(sweep("staging", [](const std::string&) { return false; }));
    FETTLE_TRY(sweep("leases", [](const std::string&) { return false; }));
    FETTLE_TRY(sweep("checkpoints", [&](const std::string& name) {
      return !keys.contains(name) && !is_old(impl_->checkpoint(name));
    }));
    return bytes;
  }();
  if (!dry_run) FETTLE_TRY(in_use.lock(FileLock::Mode::shared));
  return freed;
}

}  // namespace fettle::host
