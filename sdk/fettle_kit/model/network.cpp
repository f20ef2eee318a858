// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/network.h"

namespace fettle::kit {

void WeightTransform::filter_gradient(Backend&, const Array&, const Array&) const {}

}  // namespace fettle::kit
