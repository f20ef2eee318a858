// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/grid_row.h"

#include "fettle_kit/tensor/every_isa.h"

namespace fettle::kit {
namespace {

FETTLE_EVERY_ISA void of_group(float* __restrict out, const std::uint8_t* __restrict codes, float scale,
                               std::int32_t zero, std::int64_t n) {
  for (std::int64_t j = 0; j < n; ++j) out[j] = scale * static_cast<float>(codes[j] - zero);
}

FETTLE_EVERY_ISA void of_group(float* __restrict out, const std::uint32_t* __restrict words, int shift, float scale,
                               std::int32_t zero, std::int64_t n) {
  for (std::int64_t j = 0; j < n; ++j)
    out[j] = scale * static_cast<float>(static_cast<std::int32_t>(words[j] >> shift & 15U) - zero);
}

FETTLE_EVERY_ISA void of_columns(float* __restrict out, const std::uint8_t* __restrict codes,
                                 const float* __restrict scales, const std::int32_t* __restrict zeros,
                                 const std::int32_t* __restrict group_of, std::int64_t n) {
  for (std::int64_t j = 0; j < n; ++j) out[j] = scales[group_of[j]] * static_cast<float>(codes[j] - zeros[group_of[j]]);
}

}  // namespace

void GridRow::values(std::span<float> out, const std::uint8_t* codes) const {
  const auto n = static_cast<std::int64_t>(out.size()), groups = static_cast<std::int64_t>(scales.size());
  if (!group_of.empty()) return of_columns(out.data(), codes, scales.data(), zeros.data(), group_of.data(), n);
  const std::int64_t span = n / groups;
  for (std::int64_t g = 0; g < groups; ++g) {
    const auto at = static_cast<std::size_t>(g);
    of_group(out.data() + g * span, codes + g * span, scales[at], zeros[at], span);
  }
}

void GridRow::values(std::span<float> out, const std::uint32_t* words, int shift) const {
  const auto groups = static_cast<std::int64_t>(scales.size()), span = static_cast<std::int64_t>(out.size()) / groups;
  for (std::int64_t g = 0; g < groups; ++g) {
    const auto at = static_cast<std::size_t>(g);
    of_group(out.data() + g * span, words + g * span, shift, scales[at], zeros[at], span);
  }
}

}  // namespace fettle::kit
