// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace fettle::kit {

/// ln(x) for x > 0 in plain f64 arithmetic: the same on every machine, which no system's log() promises. Relative error
/// below 1e-13.
double log_of(double x);

}  // namespace fettle::kit
