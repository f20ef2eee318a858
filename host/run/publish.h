// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/store/store.h"

#include <string>

namespace fettle::host {

/// Puts an artifact at `path` outside the store, whole or not at all: copied (sharing blocks where the file system can)
/// to a temporary name beside it, synced, renamed. A path ending in '/' or a name without the artifact's extension is a
/// folder; an artifact of one file goes to a path with that file's extension as a file. A folder that is there is only
/// replaced if all its files are of names the artifact has too, so no file of the user's is lost. Returns false if the
/// same content is there already: then nothing is touched.
Result<bool> publish(const Store& store, const Artifact& artifact, const std::string& path);

}  // namespace fettle::host
