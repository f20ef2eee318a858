// SPDX-License-Identifier: Apache-2.0
// Built twice: two plugins that offer one technique id.
#include "fettle/plugin.h"

namespace {
using namespace fettle;

struct Technique {
  using Params = NoParams;
  static Description<Params> describe() { return Description<Params>("test.twin", "Do nothing."); }
  static Status run(const Params&, Context&) { return {}; }
};
}  // namespace

FETTLE_PLUGIN("twin", "1.0", "Fettle tests", "Apache-2.0", Technique)
