// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace fettle::kit {

/// A regular file, mapped read-only: opening costs no reading and no private memory. Move-only; the bytes live as long
/// as the object. Errors name the file. Who truncates a file while it is mapped kills the process that reads the lost
/// part (SIGBUS): artifacts are immutable, and files of others are not to be written meanwhile. [any thread]
class MappedFile {
 public:
  /// not_found if there is no such file; invalid_argument if it is not a regular file; io for the rest.
  static Result<MappedFile> open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  /// Tells the kernel that this range was the last use of its pages (streaming over models larger than memory). They
  /// may be read again. Ranges beyond the file are cut.
  void drop(std::size_t offset, std::size_t length) const;
  /// The same for a view into bytes(); false if it is of something else.
  bool drop(std::span<const std::byte> part) const;

 private:
  MappedFile() = default;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::string path_;
};

}  // namespace fettle::kit
