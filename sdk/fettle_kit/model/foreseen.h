// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/technique.h"

namespace fettle::kit {

// What can be said of models before anything runs, from the attributes of their artifacts; for estimate(). What nobody
// knows yet is no error: run() finds it.

/// unsupported if the model at this port is of a family that the engine does not run.
Status check_family(const Inputs& inputs, const char* port);
/// invalid_argument at `port` if both models say how many tokens they know, and it is not the same number.
Status check_same_vocabulary(const Inputs& inputs, const char* port, const char* other);

}  // namespace fettle::kit
