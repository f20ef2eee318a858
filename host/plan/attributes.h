// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/store/store.h"

#include <string>
#include <vector>

namespace fettle::host {

/// What can be said of an artifact without its weights (docs/reference/artifacts.md): of a model what its config and
/// headers say and the digest of its tokenizer, of tokens their metadata, of others their number of files and bytes.
/// `path` is the artifact's folder or, for an input of the pipeline, the file or folder itself.
Result<Attributes> artifact_attributes(const std::string& kind, const std::string& path);
/// The same for an input of the pipeline made of several files.
Result<Attributes> artifact_attributes(const std::string& kind, const std::vector<std::string>& paths);

}  // namespace fettle::host
