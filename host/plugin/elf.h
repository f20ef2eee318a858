// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <string>

namespace fettle::host {

/// Looks at the headers of a shared object before the loader maps it: ELF, 64 bits, little-endian, x86-64, a shared
/// object, and all its segments inside the file (the loader would die of SIGBUS on a truncated one).
Status check_shared_object(const std::string& path);

}  // namespace fettle::host
