// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/file_descriptor.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// A file that appears whole or not at all: written under a temporary name (`.fettle-PID-N.tmp`) in the same folder,
/// fsynced and renamed by commit(), removed if commit() is never reached. Small writes are gathered. One thread at a
/// time. Errors: io, naming the path; on a full disk also the bytes that were needed and those that are left.
class OutputFile {
 public:
  /// The folder must exist.
  static Result<OutputFile> create(const std::string& path);
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;
  ~OutputFile();

  Status write(std::span<const std::byte> bytes);  ///< at the end
  Status write(std::string_view text);
  /// Over bytes already written or reserved, for what is known last.
  Status write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  /// Makes the file at least so long, with zeros, for write_at() in any order. Takes the space now where the file
  /// system can, so that a full disk is noticed before the work.
  Status reserve(std::uint64_t size);
  std::uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }
  /// Makes the file durable and visible, over a file of that name if there is one. Nothing may be written afterwards.
  Status commit();

 private:
  OutputFile() = default;
  Status flush();
  Status put(std::uint64_t offset, std::span<const std::byte> bytes);

  FileDescriptor file_;
  std::uint64_t size_ = 0;
  std::vector<std::byte> pending_;  ///< the last bytes of the file, not yet given to the system
  std::string path_, temporary_;
};

/// The whole of a small file, or an error that names it (also if it is larger than `limit` bytes).
Result<std::string> read_text_file(const std::string& path, std::uint64_t limit = 64u << 20);
/// Atomic and durable, as OutputFile.
Status write_text_file(const std::string& path, std::string_view text);
/// Copies the bytes (not the permissions) of a regular file; a symbolic link is followed. Atomic and durable.
Status copy_file(const std::string& from, const std::string& to);

}  // namespace fettle::kit
