// SPDX-License-Identifier: Apache-2.0
#include "host/store/store.h"

#include "fettle_kit/io/sha256.h"

#include "host/store/durable.h"
#include "host/store/layout.h"
#include "host/store/record_json.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <tbb/parallel_for.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <ctime>
#include <filesystem>
#include <set>

namespace fettle::host {
namespace fs = std::filesystem;

namespace {

constexpr const char* kMarker = "fettle store 1\n";
constexpr const char* kFolders[] = {"objects",     "records", "views",  "staging",
                                    "checkpoints", "inputs",  "leases", "runs"};

Status store_damaged(const std::string& root, const std::string& what) {
  return {Code::corrupt_data, fmt::format("store '{}': {}; run 'fettle store verify'", root, what), "store"};
}

std::string view_name(const Artifact& artifact) {
  std::string links;
  for (const ManifestEntry& file : artifact.files)
    if (!file.link.empty()) links += file.path + '\0' + file.link + '\0';
  const std::string digest = artifact.digest.substr(artifact.digest.find(':') + 1);
  return links.empty() ? digest : digest + "-" + kit::sha256_hex(links).substr(0, 16);
}

/// True if `path` is a name of the object or a link to it.
bool names_object(const std::string& path, const std::string& object) {
  struct stat a {
  }, b{};
  return ::stat(path.c_str(), &a) == 0 && ::stat(object.c_str(), &b) == 0 && a.st_dev == b.st_dev &&
         a.st_ino == b.st_ino;
}

bool links_to(const std::string& path, const std::string& target) {
  std::error_code error;
  return fs::read_symlink(path, error) == target && !error;
}

Status place_in_view(const std::string& path, const std::string& target, bool inside_store) {
  // A hard link keeps working when the store is moved. Some file systems refuse it, or refuse the 65,000th.
  if (inside_store && ::link(target.c_str(), path.c_str()) == 0) return {};
  if (::symlink(target.c_str(), path.c_str()) != 0) return io_error(path, "link the file", errno);
  return {};
}

}  // namespace

std::uint64_t Artifact::bytes() const {
  std::uint64_t sum = 0;
  for (const ManifestEntry& file : files) sum += file.size;
  return sum;
}

std::string unique_name(const char* prefix) {
  static std::atomic<unsigned> serial{0};
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return fmt::format("{}-{}-{:x}-{}", prefix, ::getpid(),
                     static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(now.tv_nsec),
                     serial++);
}

bool is_inside(const std::string& path, const std::string& folder) {
  return path.size() > folder.size() && path.compare(0, folder.size(), folder) == 0 && path[folder.size()] == '/';
}

Result<Store> Store::open(const std::string& root) {
  FETTLE_TRY(make_folder(root));
  std::error_code error;
  const std::string canonical = fs::canonical(root, error).string();
  if (error) return io_error(root, "open the store", error.value());
  FETTLE_ASSIGN(FileLock lock, FileLock::open(canonical + "/in-use"));
  FETTLE_TRY(lock.lock(FileLock::Mode::shared));
  for (const char* folder : kFolders) FETTLE_TRY(make_folder(canonical + "/" + folder));
  const std::string marker = canonical + "/fettle-store";
  const auto text = read_file(marker, 4096);
  if (!text.ok() && text.error().code() != Code::not_found) return text.error();
  if (!text.ok()) {
    FETTLE_TRY(replace_file(marker, canonical + "/staging/" + unique_name("marker"), kMarker));
    FETTLE_TRY(sync_folder(canonical));
  } else if (*text != kMarker) {
    return Status(Code::corrupt_data,
                  fmt::format("store '{}': 'fettle-store' does not say 'fettle store 1': made by another version, or "
                              "damaged; choose another folder",
                              canonical),
                  "store");
  }
  Store store;
  store.impl_ = std::make_shared<const Impl>(Impl{canonical, std::move(lock), ContentMemory(canonical + "/inputs")});
  return store;
}

const std::string& Store::root() const { return impl_->root; }

Status Store::check_space(std::uint64_t bytes) const {
  const std::uint64_t available = available_bytes(impl_->root);
  if (bytes <= available) return {};
  return {Code::io,
          fmt::format("store '{}': the disk is full: {} bytes are needed, {} are available; free some space, run "
                      "'fettle store gc', or choose a store on another disk",
                      impl_->root, grouped(bytes), grouped(available))};
}

bool Store::Impl::object_is_whole(const std::string& sha256, std::uint64_t size) const {
  struct stat info {};
  return ::lstat(object(sha256).c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
         static_cast<std::uint64_t>(info.st_size) == size && info.st_mtim.tv_sec == kObjectTime.tv_sec &&
         info.st_mtim.tv_nsec == kObjectTime.tv_nsec;
}

Result<Record> Store::Impl::load(const std::string& key) const {
  if (!kit::is_sha256_hex(key)) return Status(Code::internal, "'" + key + "' is not a key");
  FETTLE_ASSIGN(const std::string text, read_file(record(key), kMaxRecordBytes));
  return read_record(text, key);
}

Status Store::Impl::check_files(const Record& record) const {
  for (const auto& [port, artifact] : record.outputs) {
    for (const ManifestEntry& file : artifact.files) {
      if (file.link.empty()) {
        if (!object_is_whole(file.sha256, file.size))
          return {Code::not_found, fmt::format("object {} ('{}' of output '{}') is missing or was changed", file.sha256,
                                               file.path, port)};
        continue;
      }
      const auto content = contents.content_of(file.link);
      if (!content.ok())
        return {Code::not_found, fmt::format("'{}' of output '{}' cannot be read any more: {}", file.path, port,
                                             content.error().message())};
      if (content->sha256 != file.sha256)
        return {Code::not_found, fmt::format("'{}' of output '{}' has changed: {}", file.path, port, file.link)};
    }
  }
  return {};
}

std::optional<Record> Store::find(const std::string& key, std::string* why_not) const {
  const auto no = [&](const std::string& why) {
    if (why_not) *why_not = why;
    return std::nullopt;
  };
  auto record = impl_->load(key);
  if (!record.ok()) return no(record.error().code() == Code::not_found ? "no record" : record.error().message());
  if (const Status files = impl_->check_files(*record); !files) return no(files.message());
  // collect() goes by the time of last use; an hour is fine enough for days, and spares a write per lookup.
  const std::string path = impl_->record(key);
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && info.st_mtim.tv_sec + 3600 < ::time(nullptr))
    (void)::utimensat(AT_FDCWD, path.c_str(), nullptr, 0);
  return *std::move(record);
}

Result<std::string> Store::path_of(const Artifact& artifact) const {
  if (artifact.digest.rfind("sha256:", 0) != 0 || artifact_digest(artifact) != artifact.digest)
    return Status(Code::internal, "an artifact does not have its digest");
  const std::string view = impl_->folder("views") + "/" + view_name(artifact);
  const auto complete = [&] {
    struct stat info {};
    return ::lstat(view.c_str(), &info) == 0 && S_ISDIR(info.st_mode) &&
           std::all_of(artifact.files.begin(), artifact.files.end(), [&](const ManifestEntry& file) {
             const std::string path = view + "/" + file.path;
             return file.link.empty() ? names_object(path, impl_->object(file.sha256)) : links_to(path, file.link);
           });
  };
  for (const ManifestEntry& file : artifact.files)
    if (file.link.empty() && !impl_->object_is_whole(file.sha256, file.size))
      return store_damaged(impl_->root, fmt::format("object {} is missing or was changed", file.sha256));
  if (complete()) return view;

  for (int attempt = 0; attempt < 2; ++attempt) {
    const std::string building = impl_->folder("staging") + "/" + unique_name("view");
    const Status built = [&]() -> Status {
      FETTLE_TRY(make_folder(building));
      std::set<std::string> folders;
      for (const ManifestEntry& file : artifact.files) {
        const std::string path = building + "/" + file.path;
        const std::string folder = fs::path(path).parent_path().string();
        if (folders.insert(folder).second) FETTLE_TRY(make_folder(folder));
        FETTLE_TRY(place_in_view(path, file.link.empty() ? impl_->object(file.sha256) : file.link, file.link.empty()));
      }
      if (::rename(building.c_str(), view.c_str()) != 0 && errno != EEXIST && errno != ENOTEMPTY)
        return io_error(view, "put the folder in place", errno);
      return {};
    }();
    (void)remove_tree(building);
    FETTLE_TRY(built);
    if (complete()) return view;
    FETTLE_TRY(remove_tree(view));  // an old view that lost a file
  }
  return store_damaged(impl_->root, "the folder " + view + " cannot be made whole");
}

Result<Artifact> Store::link(const std::string& kind, const std::vector<std::string>& paths) const {
  std::vector<std::pair<std::string, std::string>> found;  // name in the artifact, path
  for (const std::string& path : paths) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (!fs::exists(status)) return Status(Code::not_found, fmt::format("'{}': no such file or folder", path));
    if (!fs::is_directory(status)) {
      found.emplace_back(fs::path(path).filename().string(), path);
      continue;
    }
    fs::recursive_directory_iterator it(path, error);
    for (const fs::recursive_directory_iterator end; !error && it != end; it.increment(error)) {
      const fs::directory_entry& entry = *it;
      const bool is_link = entry.is_symlink(error);
      if (entry.path().filename().string().front() == '.') {
        if (!is_link && entry.is_directory(error)) it.disable_recursion_pending();
        continue;
      }
      if (is_link && fs::is_directory(fs::status(entry.path(), error)))
        return Status(Code::unsupported,
                      fmt::format("'{}': is a symbolic link to a folder; name that folder itself, or copy it",
                                  entry.path().string()));
      if (entry.is_directory(error)) continue;
      found.emplace_back(entry.path().lexically_relative(path).string(), entry.path().string());
      if (found.size() > kMaxFiles)
        return Status(Code::invalid_argument, fmt::format("'{}': has more than {} files", path, grouped(kMaxFiles)));
      if (it.depth() >= 64)
        return Status(Code::invalid_argument, fmt::format("'{}': folders are nested more than 64 deep", path));
    }
    if (error) return io_error(path, "read the folder", error.value());
  }
  if (found.empty())
    return Status(Code::invalid_argument, fmt::format("'{}': the folder has no files", paths.empty() ? "" : paths[0]));
  std::sort(found.begin(), found.end());
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (!is_utf8(found[i].first))
      return Status(Code::unsupported, fmt::format("'{}': the name is not valid UTF-8", found[i].second));
    if (i > 0 && found[i].first == found[i - 1].first)
      return Status(Code::invalid_argument, fmt::format("'{}' and '{}' have the same name; rename one of them",
                                                        found[i - 1].second, found[i].second));
  }

  Artifact artifact;
  artifact.kind = kind;
  artifact.files.resize(found.size());
  std::vector<Status> status(found.size());
  tbb::parallel_for(std::size_t{0}, found.size(), [&](std::size_t i) {
    std::error_code error;
    const std::string real = fs::canonical(found[i].second, error).string();
    if (error)
      return void(status[i] = Status(Code::not_found, fmt::format("'{}': {}", found[i].second, error.message())));
    auto content = impl_->contents.content_of(real);
    if (!content.ok()) return void(status[i] = std::move(content).error());
    artifact.files[i] = {found[i].first, content->size, content->sha256, real};
  });
  for (Status& s : status) FETTLE_TRY(std::move(s));
  artifact.digest = artifact_digest(artifact);
  return artifact;
}

}  // namespace fettle::host
