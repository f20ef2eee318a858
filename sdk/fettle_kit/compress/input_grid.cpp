// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/input_grid.h"

#include "fettle_kit/compress/float_grids.h"
#include "fettle_kit/compress/grid.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace fettle::kit {
namespace {

using Kind = InputGrid::Kind;

void poison(std::span<float> out) { std::fill(out.begin(), out.end(), std::numeric_limits<float>::quiet_NaN()); }

/// The scale that takes the largest magnitude of x to `top`; 1 for zeros.
float scale_to(std::span<const float> x, float top) {
  const float magnitude = largest_magnitude(x);
  return magnitude == 0 ? 1 : std::max(magnitude / top, std::numeric_limits<float>::min());
}

void round_fp8(std::span<float> out, std::span<const float> x, float scale, std::vector<std::uint8_t>& codes) {
  if (!std::isfinite(scale)) return poison(out);
  encode_e4m3(x, scale, codes.data());
  decode_e4m3(codes.data(), scale, out);
}

void round_int8(std::span<float> out, std::span<const float> x, float scale) {
  for (std::size_t i = 0; i < x.size(); ++i)
    out[i] = nearest_level(std::min(std::max(x[i] / scale, -128.0F), 127.0F)) * scale;
}

void round_row(std::span<float> out, std::span<const float> x, const InputGrid& grid, std::vector<std::uint8_t>& codes,
               std::vector<std::uint8_t>& scales) {
  switch (grid.kind) {
    case Kind::none:
      std::copy(x.begin(), x.end(), out.begin());
      return;
    case Kind::fp8_fixed:
      return round_fp8(out, x, std::isnan(largest_magnitude(x)) ? NAN : grid.scale, codes);
    case Kind::fp8_token:
      return round_fp8(out, x, scale_to(x, e4m3_max), codes);
    case Kind::fp8_group: {
      const auto group = static_cast<std::size_t>(grid.group);
      for (std::size_t i = 0; i < x.size(); i += group)
        round_fp8(out.subspan(i, group), x.subspan(i, group), scale_to(x.subspan(i, group), e4m3_max), codes);
      return;
    }
    case Kind::int8_fixed:
      return round_int8(out, x, grid.scale);
    case Kind::int8_token:
      return round_int8(out, x, scale_to(x, 127.5F));
    case Kind::nvfp4:
      if (!std::isfinite(largest_magnitude(x))) return poison(out);
      nvfp4_scales(x, grid.scale, BlockScale::plain, nullptr, scales.data());
      encode_nvfp4(x, grid.scale, scales.data(), codes.data());
      return decode_nvfp4(codes.data(), scales.data(), grid.scale, out);
    case Kind::mxfp4:
      if (!std::isfinite(largest_magnitude(x))) return poison(out);
      mxfp4_scales(x, PowerScale::nearest, scales.data());
      encode_mxfp4(x, scales.data(), codes.data());
      return decode_mxfp4(codes.data(), scales.data(), out);
  }
}

}  // namespace

void round_inputs(MutMatrix out, ConstMatrix x, const InputGrid& grid) {
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, x.rows, 4), [&](const auto& range) {
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(x.cols)), scales(codes.size() / nvfp4_block + 1);
    for (std::int64_t i = range.begin(); i < range.end(); ++i) round_row(out.row(i), x.row(i), grid, codes, scales);
  });
}

}  // namespace fettle::kit
