// SPDX-License-Identifier: Apache-2.0
#include "host/run/publish.h"

#include "fettle_kit/io/sha256.h"

#include "host/store/durable.h"
#include "host/store/file_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <tbb/parallel_for.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <set>

namespace fettle::host {
namespace fs = std::filesystem;
namespace {

/// One name for each path, so that what a killed run left is found and removed by the next.
std::string temporary_name(const std::string& path) {
  return fmt::format("{}/.{}.fettle-new", fs::path(path).parent_path().string(), fs::path(path).filename().string());
}

/// By the store's memory of hashes: an output that was published before is not read again.
bool same_content(const Store& store, const std::string& path, const ManifestEntry& file) {
  std::error_code error;
  if (!fs::is_regular_file(path, error) || fs::file_size(path, error) != file.size) return false;
  const auto linked = store.link("file", {path});
  return linked.ok() && linked->files[0].sha256 == file.sha256;
}

Status check_room(const std::string& folder, std::uint64_t bytes) {
  const std::uint64_t available = available_bytes(folder);
  if (bytes <= available) return {};
  return {Code::io, fmt::format("the disk is full: {} bytes are needed, {} are available; free some space, or choose "
                                "a path on another disk",
                                grouped(bytes), grouped(available))};
}

Result<bool> publish_file(const Store& store, const std::string& source, const ManifestEntry& file,
                          const std::string& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) return Status(Code::invalid_argument, "there is a folder of that name");
  if (same_content(store, path, file)) return false;
  const std::string folder = fs::path(path).parent_path().string();
  FETTLE_TRY(make_folder(folder));
  FETTLE_TRY(check_room(folder, file.size));
  const std::string temporary = temporary_name(path);
  FETTLE_TRY(copy_file(source, temporary, 0644));
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const int reason = errno;
    ::unlink(temporary.c_str());
    return io_error(path, "put the file in place", reason);
  }
  FETTLE_TRY(sync_folder(folder));
  return true;
}

/// Nothing if there is no folder; else whether it holds the artifact already, or an error if it holds other files.
Result<std::optional<bool>> compare_folder(const Store& store, const Artifact& artifact, const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  if (!fs::exists(status)) return std::optional<bool>();
  if (!fs::is_directory(status))
    return Status(Code::invalid_argument, "there is something of that name that is not a folder");
  std::set<std::string> names;
  for (const ManifestEntry& file : artifact.files) names.insert(file.path);
  std::size_t present = 0;
  fs::recursive_directory_iterator it(path, error);
  for (const fs::recursive_directory_iterator end; !error && it != end; it.increment(error)) {
    if (it->symlink_status(error).type() == fs::file_type::directory) continue;
    const std::string name = it->path().lexically_relative(path).string();
    if (!names.contains(name))
      return Status(
          Code::invalid_argument,
          fmt::format("the folder holds '{}', which is not part of the output; remove it, or choose another path",
                      name));
    ++present;
  }
  if (error) return io_error(path, "read the folder", error.value());
  return std::optional<bool>(present == names.size() &&
                             std::all_of(artifact.files.begin(), artifact.files.end(), [&](const ManifestEntry& file) {
                               return same_content(store, path + "/" + file.path, file);
                             }));
}

Result<bool> publish_folder(const Store& store, const std::string& source, const Artifact& artifact,
                            const std::string& path) {
  FETTLE_ASSIGN(const std::optional<bool> present, compare_folder(store, artifact, path));
  if (present && *present) return false;
  const std::string parent = fs::path(path).parent_path().string();
  FETTLE_TRY(make_folder(parent));
  FETTLE_TRY(check_room(parent, artifact.bytes()));
  const std::string temporary = temporary_name(path);
  const Status placed = [&]() -> Status {
    FETTLE_TRY(make_folder(temporary));
    std::set<std::string> folders{temporary};
    for (const ManifestEntry& file : artifact.files)
      folders.insert(fs::path(temporary + "/" + file.path).parent_path().string());
    for (const std::string& folder : folders) FETTLE_TRY(make_folder(folder));
    std::vector<Status> status(artifact.files.size());
    tbb::parallel_for(std::size_t{0}, artifact.files.size(), [&](std::size_t i) {
      const std::string& name = artifact.files[i].path;
      status[i] = copy_file(source + "/" + name, temporary + "/" + name, 0644);
    });
    for (Status& s : status) FETTLE_TRY(std::move(s));
    for (const std::string& folder : folders) FETTLE_TRY(sync_folder(folder));
    // The old folder changes places with the new one in a single step; afterwards the temporary name holds the old.
    if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(),
                    present ? RENAME_EXCHANGE : RENAME_NOREPLACE) == 0)
      return {};
    if (errno != EINVAL && errno != ENOSYS) return io_error(path, "put the folder in place", errno);
    const std::string old = temporary + ".old";  // a file system that cannot: for an instant neither is there
    if (present && ::rename(path.c_str(), old.c_str()) != 0) return io_error(path, "move the old folder aside", errno);
    if (::rename(temporary.c_str(), path.c_str()) != 0) return io_error(path, "put the folder in place", errno);
    return remove_tree(old);
  }();
  const Status removed = remove_tree(temporary);
  FETTLE_TRY(placed);
  FETTLE_TRY(removed);
  FETTLE_TRY(sync_folder(parent));
  return true;
}

}  // namespace

Result<bool> publish(const Store& store, const Artifact& artifact, const std::string& path) {
  const bool slash = path.size() > 1 && path.back() == '/';
  const std::string target = slash ? path.substr(0, path.find_last_not_of('/') + 1) : path;
  const std::string wanted = slash ? "" : fs::path(target).extension().string();
  const auto has_wanted = [&](const ManifestEntry& file) { return fs::path(file.path).extension() == wanted; };
  const bool as_file = artifact.files.size() == 1 && !wanted.empty() && has_wanted(artifact.files[0]);
  const auto placed = [&]() -> Result<bool> {
    if (!as_file && !wanted.empty()) {
      if (artifact.files.size() == 1)
        return Status(Code::invalid_argument, fmt::format("the path names a '{}' file, but the output is '{}'; use "
                                                          "that extension, or end the path with '/' for a folder",
                                                          wanted, artifact.files[0].path));
      if (std::any_of(artifact.files.begin(), artifact.files.end(), has_wanted))
        return Status(
            Code::invalid_argument,
            fmt::format("the path names a single file, but the output has {} files; end the path with '/' for a folder",
                        artifact.files.size()));
    }
    // Two runs may want to publish to one path.
    FETTLE_ASSIGN(FileLock lock, FileLock::open(store.root() + "/leases/publish-" + kit::sha256_hex(target)));
    FETTLE_TRY(lock.lock(FileLock::Mode::exclusive));
    FETTLE_TRY(remove_tree(temporary_name(target)));
    FETTLE_TRY(remove_tree(temporary_name(target) + ".old"));
    FETTLE_ASSIGN(const std::string view, store.path_of(artifact));
    if (as_file) return publish_file(store, view + "/" + artifact.files[0].path, artifact.files[0], target);
    return publish_folder(store, view, artifact, target);
  }();
  if (!placed.ok()) return Status(placed.error()).with_context("'" + path + "'");
  return placed;
}

}  // namespace fettle::host
