// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include <stdexcept>

namespace {
using namespace fettle;

struct Technique {
  using Params = NoParams;
  static Description<Params> describe() { throw THROWN; }
  static Status run(const Params&, Context&) { return {}; }
};
}  // namespace

FETTLE_PLUGIN("describe-throws", "1.0", "Fettle tests", "Apache-2.0", Technique)
