// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/abi.h"
#include "fettle/result.h"

namespace fettle::host {

/// The tag this host shows to plugins.
const fettle_abi_tag& host_abi();

/// Whether a plugin compiled with `theirs` fits this host: magic, major, minor, struct sizes, pointer bits, in this
/// order, because each is only meaningful once those before it agree. The message names both sides and the cure.
Status check_abi(const fettle_abi_tag& theirs);

/// Whether the table keeps the promises of abi.h: ids, ports and parameters well-formed and unique, defaults present,
/// functions there. A plugin is trusted to run code, but its mistakes must not become puzzles elsewhere.
Status check_library(const fettle_library& library);

}  // namespace fettle::host
