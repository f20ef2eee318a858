// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include "host/store/durable.h"

#include <string>

namespace fettle::host {

/// An advisory lock on a file, held by an open file description: two locks conflict even within one process, and the
/// kernel releases it when its holder ends, however it ends. So there are no stale locks and nobody guesses at process
/// ids.
class FileLock {
 public:
  enum class Mode { shared, exclusive };
  /// Creates the file if need be; holds nothing yet.
  static Result<FileLock> open(const std::string& path);
  /// Takes the lock or changes its mode. False if another holder stands in the way; then what was held stays held.
  Result<bool> try_lock(Mode mode);
  Status lock(Mode mode);  ///< waits
  /// False if the path no longer names the locked file: its last holder removed it meanwhile.
  bool still_names(const std::string& path) const;

 private:
  explicit FileLock(Descriptor file, std::string path) : file_(std::move(file)), path_(std::move(path)) {}
  Descriptor file_;
  std::string path_;
};

}  // namespace fettle::host
