// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/message.h"

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

// File operations that say what happened in words and order what reaches the disk.

namespace fettle::host {

/// A file descriptor that is closed with its owner. Always close-on-exec.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor();
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// "PATH: cannot DO: REASON" from an errno; a full disk also says how much is free and what to do.
Status io_error(const std::string& path, std::string_view what, int error);
bool is_disk_full(int error);

Result<Descriptor> open_file(const std::string& path, int flags, mode_t mode = 0644);
Status make_folder(const std::string& path);  ///< and its parents; existing is fine
Status sync_folder(const std::string& path);  ///< what was renamed into it survives a power cut
Status sync_file(const std::string& path);
Status start_writing(const std::string& path);  ///< sends its content on the way to the disk; does not wait
/// Writes `text` to `temporary`, syncs it, and renames it to `path` (same file system). The folder is not synced.
Status replace_file(const std::string& path, const std::string& temporary, std::string_view text, bool durable = true);
/// A new file with the content of another: shares the blocks where the file system can, else copies. Synced.
Status copy_file(const std::string& from, const std::string& to, mode_t mode);
/// Removes a file or a whole folder, read-only ones too; never follows links. Absent is fine.
Status remove_tree(const std::string& path);
/// A whole small file; not_found if there is none.
Result<std::string> read_file(const std::string& path, std::uint64_t limit);
/// Bytes a normal user may still write to the file system of `path`.
std::uint64_t available_bytes(const std::string& path);
using kit::grouped;
bool is_utf8(std::string_view text);

}  // namespace fettle::host
