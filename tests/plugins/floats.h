// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/compress/float_matrix.h"

#include "plugins/harness.h"

#include <string>
#include <vector>

// What the tests of quantize.fp8, quantize.nvfp4 and quantize.mxfp4 share.

namespace fettle::test {

/// A step of that technique on the trained model.
Step float_step(const std::string& technique);

/// The values that a reader of any quantized checkpoint sees.
std::vector<float> values_in(const kit::DenseCheckpoint& model, const std::string& name);

/// What rounding makes of a matrix of the trained model whose tensor scale is shared with `shared_with`.
std::vector<float> rounded(const std::string& name, const kit::FloatScheme& scheme,
                           const std::vector<std::string>& shared_with);

/// A checkpoint with two blocks and this width of the FFN, whose tensor `damaged`, if any, holds a NaN.
std::string small_model(int ffn, const std::string& damaged = "");

/// The one number of a tensor of floats.
float number_in(const kit::Checkpoint& model, const std::string& name);

}  // namespace fettle::test
