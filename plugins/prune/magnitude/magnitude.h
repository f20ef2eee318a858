// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/matrix.h"

namespace magnitude {

/// score[i,j] = |w[i,j]| (Han et al. 2015, section 3), in place.
void score(fettle::kit::MutMatrix weights);

}  // namespace magnitude
