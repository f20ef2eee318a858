// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/float_lanes.h"

#include <emmintrin.h>

namespace fettle::kit {
namespace {

#define FLOAT_LANES_WIDTH 4
#define FLOAT_LANES_DIVIDE
#include "float_lanes.inl"

}  // namespace

const FloatLanes float_lanes_plain{magnitude, e4m3,        squares,         e4m3_quotients,
                                   e2m1,      e2m1_errors, e2m1_candidates, block_magnitudes};

}  // namespace fettle::kit
