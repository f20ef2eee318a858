// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/store/store.h"

#include <string>
#include <string_view>

namespace fettle::host {

/// The digest that names an artifact: SHA-256 over the canonical JSON of its kind and of (path, size, sha256) of its
/// files.
std::string artifact_digest(const Artifact& artifact);

/// A record as JSON, one document that carries a checksum of itself.
std::string write_record(const Record& record);
/// Reads it back and checks all of it: form, limits, checksum, key, and that each artifact has the digest of its files.
Result<Record> read_record(std::string_view text, const std::string& key);

}  // namespace fettle::host
