// SPDX-License-Identifier: Apache-2.0
// A parameter whose default is not among its choices.
#include "fettle/plugin.h"

namespace {
using namespace fettle;

struct Params {
  std::string mode = "medium";
};

struct Technique {
  using Params = ::Params;
  static Description<Params> describe() {
    return Description<Params>("test.malformed", "Do nothing.")
        .param("mode", &Params::mode, "how", one_of({"fast", "slow"}));
  }
  static Status run(const Params&, Context&) { return {}; }
};
}  // namespace

FETTLE_PLUGIN("malformed-table", "1.0", "Fettle tests", "Apache-2.0", Technique)
