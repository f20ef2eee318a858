// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "fettle/result.h"

namespace fettle::kit {

/// A regular file, mapped read-only: opening costs no reading and no private memory. Move-only; the bytes live as long
/// as the object. Errors name the file. [any thread]
class MappedFile {
 public:
  static Result<MappedFile> open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  /// Tells the kernel that this range was the last use of its pages (streaming over models larger than memory).
  void drop(std::size_t offset, std::size_t length) const;

 private:
  MappedFile() = default;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::string path_;
};

}  // namespace fettle::kit
