// SPDX-License-Identifier: Apache-2.0
// Calls a function that no library has.
#include "fettle/abi.h"

extern "C" const fettle_library* function_of_a_missing_library();
extern "C" __attribute__((visibility("default"))) const fettle_library* fettle_plugin_entry(const fettle_abi_tag*,
                                                                                            fettle_error*) {
  return function_of_a_missing_library();
}
