// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

namespace fettle::kit {

/// A mean and how far it may be off by the choice of the text. NaN: unknown.
struct Mean {
  double value = 0, standard_error = 0;
};

/// sum(sums) / sum(weights) over windows of text, each a sum over its tokens. Tokens of one window depend on each
/// other, so the windows are the sample: the standard error is that of a ratio of means over windows (Cochran 1977,
/// equation 6.9), sqrt(n/(n-1) * sum((sums_i - value * weights_i)^2)) / sum(weights), which for equal weights is the
/// standard deviation of the windows' means over sqrt(n). NaN for one window.
Mean mean_over_windows(std::span<const double> sums, std::span<const double> weights);

}  // namespace fettle::kit
