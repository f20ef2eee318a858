// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/tensor/dtype.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// How large a quantized model may get: bytes of the file, or bits a weight.
struct SizeTarget {
  double bits = 0;          ///< a weight, over all tensors; 0: `bytes` counts
  std::uint64_t bytes = 0;  ///< of the whole file
};
/// "4.2bpw", "1.6GiB", "800MB". invalid_argument for anything else.
Result<SizeTarget> parse_size_target(std::string_view text);

/// One way to store a tensor.
struct StorageOption {
  DType type = DType::f32;
  std::uint64_t bytes = 0;
  double error = 0;  ///< what it costs in quality, in the same unit for all tensors
};

/// The option of each tensor for which the sum of errors is smallest while the sum of bytes stays within `budget`.
/// Options on the lower convex hull of a tensor's (bytes, error) are enough: they are taken by falling gain a byte,
/// which is the best there is but for the last step, and what is left is spent where it still helps. Ties go to the
/// earlier tensor. Nothing if even the smallest options do not fit.
std::optional<std::vector<std::size_t>> choose_storage(std::span<const std::vector<StorageOption>> tensors,
                                                       std::uint64_t budget);

}  // namespace fettle::kit
