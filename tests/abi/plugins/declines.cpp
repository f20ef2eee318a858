// SPDX-License-Identifier: Apache-2.0
// Returns null, with or without a reason.
#include "fettle/abi.h"

#include <cstring>

extern "C" __attribute__((visibility("default"))) const fettle_library* fettle_plugin_entry(const fettle_abi_tag*,
                                                                                            fettle_error* error) {
  std::strcpy(error->message, DECLINE_REASON);
  return nullptr;
}
