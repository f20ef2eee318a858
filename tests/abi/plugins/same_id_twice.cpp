// SPDX-License-Identifier: Apache-2.0
// Two techniques of one plugin under one id.
#include "fettle/plugin.h"

namespace {
using namespace fettle;

template <int>
struct Technique {
  using Params = NoParams;
  static Description<Params> describe() { return Description<Params>("test.same", "Do nothing."); }
  static Status run(const Params&, Context&) { return {}; }
};
}  // namespace

FETTLE_PLUGIN("same-id-twice", "1.0", "Fettle tests", "Apache-2.0", Technique<0>, Technique<1>)
