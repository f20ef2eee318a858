// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/float_lanes.h"

#include <immintrin.h>

namespace fettle::kit {
namespace {

#define FLOAT_LANES_WIDTH 16
#define multiply_add _mm512_fmadd_ps
#include "float_lanes.inl"

}  // namespace

const FloatLanes float_lanes_avx512{magnitude, e4m3,        squares,         e4m3_quotients,
                                    e2m1,      e2m1_errors, e2m1_candidates, block_magnitudes};

}  // namespace fettle::kit
