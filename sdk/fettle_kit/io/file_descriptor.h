// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <string>
#include <utility>

namespace fettle::kit {

/// Owns a POSIX file descriptor. Move-only.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor();

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

/// For reading; follows symbolic links. An error that names the path and says what is wrong with it if it is not an
/// ordinary file (a FIFO does not block).
Result<FileDescriptor> open_regular_file(const std::string& path);

}  // namespace fettle::kit
