// SPDX-License-Identifier: Apache-2.0
// A plugin whose table differs from this host's in one member of the ABI tag: WRONG_MEMBER is set to WRONG_VALUE.
#include "fettle/plugin.h"

extern "C" __attribute__((visibility("default"))) const fettle_library* fettle_plugin_entry(const fettle_abi_tag*,
                                                                                            fettle_error*) {
  static const fettle_library library = [] {
    fettle_library l{};
    l.abi = fettle::detail::abi_tag;
    l.abi.WRONG_MEMBER = WRONG_VALUE;
    return l;
  }();
  return &library;
}
