// SPDX-License-Identifier: Apache-2.0
// Lets an exception cross the border, against the rules.
#include "fettle/abi.h"

#include <stdexcept>

extern "C" __attribute__((visibility("default"))) const fettle_library* fettle_plugin_entry(const fettle_abi_tag*,
                                                                                            fettle_error*) {
  throw std::runtime_error("boo");
}
