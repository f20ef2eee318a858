// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/gguf.h"

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quantize_gguf {

/// An importance matrix as the quantizer uses it: by GGUF name, the mean square of each input column.
class Importance {
 public:
  /// `path`: what fettle::kit::Imatrix::open() takes.
  static fettle::Result<Importance> open(const std::string& path);

  /// The columns of a tensor, of a stack those of each expert; empty if it was never calibrated. An error if there are
  /// not `experts` times `cols` of them.
  fettle::Result<std::span<const float>> columns(std::string_view tensor, std::int64_t cols,
                                                 std::int64_t experts = 1) const;
  bool has(std::string_view tensor) const { return columns_.contains(tensor); }
  /// What the quantized file says about it: quantize.imatrix.*
  fettle::kit::GgufMetadata metadata() const;

 private:
  std::string file_, dataset_;
  std::uint32_t chunks_ = 0;
  std::map<std::string, std::vector<float>, std::less<>> columns_;
};

}  // namespace quantize_gguf
