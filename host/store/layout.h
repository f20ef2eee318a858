// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/store/content_memory.h"
#include "host/store/file_lock.h"
#include "host/store/store.h"

#include <sys/stat.h>

#include <string>

namespace fettle::host {

/// Where things lie in a store. Folders are flat: a store holds thousands of objects, not millions, and one folder of
/// objects means one fsync a commit.
struct Store::Impl {
  std::string root;  ///< canonical
  FileLock in_use;   ///< shared by all who have the store open, exclusive for collect()
  ContentMemory contents;

  std::string folder(const char* name) const { return root + "/" + name; }
  std::string object(const std::string& sha256) const { return root + "/objects/" + sha256; }
  std::string record(const std::string& key) const { return root + "/records/" + key + ".json"; }
  std::string lease(const std::string& key) const { return root + "/leases/" + key; }
  std::string staging(const std::string& key) const { return root + "/staging/" + key; }
  std::string checkpoint(const std::string& key) const { return root + "/checkpoints/" + key; }

  /// Present, of that size, and not written to since it came in.
  bool object_is_whole(const std::string& sha256, std::uint64_t size) const;
  /// The record, or why there is no valid one; not_found if there is none at all.
  Result<Record> load(const std::string& key) const;
  /// Ok if every file of the record is there.
  Status check_files(const Record& record) const;
};

/// Every object carries this modification time. Who writes to an object changes it, and the object no longer counts.
inline constexpr timespec kObjectTime{1, 0};
inline constexpr std::uint64_t kMaxRecordBytes = 256u << 20;
inline constexpr std::size_t kMaxFiles = 100'000;  ///< of one artifact

/// A name for a temporary file or folder that nobody else uses.
std::string unique_name(const char* prefix);
bool is_inside(const std::string& path, const std::string& folder);

}  // namespace fettle::host
