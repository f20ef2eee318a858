// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <cstdint>
#include <string>

namespace fettle::host {

/// SHA-256 and size of a file's content.
struct FileContent {
  std::string sha256;
  std::uint64_t size = 0;
};

/// Hashes a file; an error if it changes meanwhile.
Result<FileContent> hash_file(const std::string& path);

/// What files contained, remembered between runs by (device, inode, size, mtime, ctime), so that a 100 GB model is
/// hashed once. One small file an inode under `folder`, replaced atomically; a lost or torn one only costs hashing
/// again. A file that changed less than two seconds before it was read is hashed but not remembered: within the
/// granularity of its timestamps it could change once more without a trace. [any thread, any process]
class ContentMemory {
 public:
  explicit ContentMemory(std::string folder) : folder_(std::move(folder)) {}
  Result<FileContent> content_of(const std::string& path) const;

 private:
  std::string folder_;
};

}  // namespace fettle::host
