// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "fettle/result.h"

namespace fettle::kit {

/// A file that appears whole or not at all: written under a temporary name in the same folder, fsynced and renamed by
/// commit(), removed if commit() is never reached. One thread at a time.
class OutputFile {
 public:
  static Result<OutputFile> create(const std::string& path);
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;
  ~OutputFile();

  Status write(std::span<const std::byte> bytes);  ///< at the end
  Status write(std::string_view text);
  /// Over bytes already written, for headers that are known last.
  Status write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  std::uint64_t size() const { return size_; }
  Status commit();

 private:
  OutputFile() = default;
  int fd_ = -1;
  std::uint64_t size_ = 0;
  std::string path_, temporary_;
};

/// The whole of a small file, or an error that names it (also if it is larger than `limit` bytes).
Result<std::string> read_text_file(const std::string& path, std::uint64_t limit = 64u << 20);
Status write_text_file(const std::string& path, std::string_view text);

}  // namespace fettle::kit
