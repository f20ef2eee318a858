// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/grid.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <bit>
#include <cmath>
#include <limits>

// One function compiled for several instruction sets and chosen when the library is loaded. Safe for the bits: lanes
// are independent and nothing is contracted. Sanitizers' run times cannot resolve it.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FETTLE_EVERY_ISA
#else
#define FETTLE_EVERY_ISA __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#endif

namespace fettle::kit {
namespace {

/// To the nearest value of the storage type that is positive and finite.
float stored_scale(float scale, DType type) {
  if (type == DType::f32) return std::max(scale, std::numeric_limits<float>::min());
  const DTypeInfo& t = info(type);
  std::byte bytes[2] = {};
  float rounded = 0;
  t.from_f32(&scale, bytes, 1);
  t.to_f32(bytes, &rounded, 1);
  const float most = type == DType::f16 ? 65504.0F : 0x1.fep127F, least = type == DType::f16 ? 0x1p-24F : 0x1p-126F;
  return std::min(std::max(rounded, least), most);
}

struct Range {
  float min = 0, max = 0;
};

/// Sixteen at a time, so that the loop can run in lanes.
FETTLE_EVERY_ISA Range extent(const float* w, std::size_t n) {
  if (n == 0) return {};
  constexpr std::size_t lanes = 16;
  float least[lanes], most[lanes];
  std::fill_n(least, lanes, w[0]);
  std::fill_n(most, lanes, w[0]);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t k = 0; k < lanes; ++k) {
      least[k] = w[i + k] < least[k] ? w[i + k] : least[k];
      most[k] = w[i + k] > most[k] ? w[i + k] : most[k];
    }
  Range r{*std::min_element(least, least + lanes), *std::max_element(most, most + lanes)};
  for (; i < n; ++i) r = {std::min(r.min, w[i]), std::max(r.max, w[i])};
  return r;
}

Range range_of(std::span<const float> w, const GridScheme& scheme) {
  Range r = extent(w.data(), w.size());
  if (scheme.symmetric) {
    r.max = std::max(-r.min, r.max);
    r.min = -r.max;
  } else if (scheme.reaches_zero) {
    r.min = std::min(r.min, 0.0F);
    r.max = std::max(r.max, 0.0F);
  }
  if (r.min == 0 && r.max == 0) r = {-1, 1};
  return r;
}

Steps steps_over(const Range& r, const GridScheme& scheme) {
  const int half = scheme.codes() / 2, most = scheme.codes() - 1;
  if (scheme.symmetric)
    return {
        stored_scale(scheme.narrow ? r.max / static_cast<float>(half - 1) : r.max / (0.5F * static_cast<float>(most)),
                     scheme.scale_type),
        half};
  // Halves first: the range of two finite numbers need not be finite.
  const float scale =
      stored_scale((0.5F * r.max - 0.5F * r.min) / (0.5F * static_cast<float>(most)), scheme.scale_type);
  const float zero = std::min(std::max(-r.min / scale, 0.0F), static_cast<float>(most));
  return {scale, static_cast<std::int32_t>(nearest_level(zero))};
}

/// |x|^p for p > 0 to about 1e-5, in plain arithmetic that gives the same bits on every machine: 2^(p log2 |x|), with
/// log2 from the series of atanh over one binade and 2^f from that of exp.
inline float power(float x, float p) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x) & 0x7fffffffU;
  const std::uint32_t shifted = bits - 0x3f3504f3U;  // binades begin at sqrt(1/2)
  const auto exponent = static_cast<float>(static_cast<std::int32_t>(shifted) >> 23);
  const float m = std::bit_cast<float>((shifted & 0x007fffffU) + 0x3f3504f3U);
  const float t = (m - 1) / (m + 1), t2 = t * t;
  const float log2 = exponent + 2.88539008F * t * (1 + t2 * (0.333333333F + t2 * (0.2F + t2 * 0.142857143F)));
  const float y = std::min(std::max(p * log2, -126.0F), 127.0F);
  const float whole = nearest_level(y), f = (y - whole) * 0.693147181F;
  const float fraction =
      1 + f * (1 + f * (0.5F + f * (0.166666667F + f * (0.0416666667F + f * (0.00833333333F + f * 0.00138888889F)))));
  return fraction * std::bit_cast<float>((static_cast<std::uint32_t>(static_cast<std::int32_t>(whole)) + 127U) << 23);
}

/// sum |grid(x) - x|^p, as sixteen sums side by side in a fixed order, so that the loop can run in lanes.
FETTLE_EVERY_ISA double error_of(const float* w, std::size_t n, float scale, float zero, float most, float p) {
  constexpr std::size_t lanes = 16;
  float sums[lanes] = {};
  const auto error = [&](float x) {
    const float level = nearest_level(std::min(std::max(x / scale, -zero), most - zero));
    return power(scale * level - x, p);
  };
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t k = 0; k < lanes; ++k) sums[k] += error(w[i + k]);
  for (; i < n; ++i) sums[0] += error(w[i]);
  double total = 0;
  for (const float sum : sums) total += static_cast<double>(sum);
  return total;
}

}  // namespace

Steps fit_steps(std::span<const float> w, const GridScheme& scheme) {
  const Range full = range_of(w, scheme);
  Steps best = steps_over(full, scheme);
  if (!scheme.search) return best;
  const auto p = static_cast<float>(*scheme.search);
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 80; ++i) {
    const float share = 1 - static_cast<float>(i) / 100;
    const Steps tried = steps_over({share * full.min, share * full.max}, scheme);
    const double error = error_of(w.data(), w.size(), tried.scale, static_cast<float>(tried.zero),
                                  static_cast<float>(scheme.codes() - 1), p);
    if (error >= least) continue;
    least = error;
    best = tried;
  }
  return best;
}

CodedMatrix::CodedMatrix(std::int64_t r, std::int64_t c, const GridScheme& scheme)
    : rows(r),
      cols(c),
      groups(scheme.groups(c)),
      bits(scheme.bits),
      codes(static_cast<std::size_t>(r * c)),
      scales(static_cast<std::size_t>(r * groups)),
      zeros(static_cast<std::size_t>(r * groups)),
      group_of(static_cast<std::size_t>(c)) {
  for (std::int64_t j = 0; j < c; ++j)
    group_of[static_cast<std::size_t>(j)] = static_cast<std::int32_t>(j / scheme.span(c));
}

float CodedMatrix::value(std::int64_t i, std::int64_t j) const {
  const Steps s = steps(i, group_of[static_cast<std::size_t>(j)]);
  return s.scale * static_cast<float>(codes[static_cast<std::size_t>(i * cols + j)] - s.zero);
}

void CodedMatrix::read(std::int64_t first, MutMatrix out) const {
  for (std::int64_t i = 0; i < out.rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j) out(i, j) = value(first + i, j);
}

void CodedMatrix::set(std::int64_t row, std::int64_t group, const Steps& s) {
  const auto at = static_cast<std::size_t>(row * groups + group);
  scales[at] = s.scale;
  zeros[at] = static_cast<std::uint8_t>(s.zero);
}

Steps CodedMatrix::steps(std::int64_t row, std::int64_t group) const {
  const auto at = static_cast<std::size_t>(row * groups + group);
  return {scales[at], zeros[at]};
}

CodedMatrix fit_grids(ConstMatrix w, const GridScheme& scheme) {
  CodedMatrix coded(w.rows, w.cols, scheme);
  if (scheme.sharing == Sharing::tensor) {
    std::vector<float> all;  // rows may be apart
    if (w.stride != w.cols)
      for (std::int64_t i = 0; i < w.rows; ++i) all.insert(all.end(), w.row(i).begin(), w.row(i).end());
    const std::span<const float> values =
        all.empty() ? std::span(w.data, static_cast<std::size_t>(w.rows * w.cols)) : std::span<const float>(all);
    const Steps s = fit_steps(values, scheme);
    for (std::int64_t i = 0; i < w.rows; ++i) coded.set(i, 0, s);
    return coded;
  }
  const std::int64_t span = scheme.span(w.cols);
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, w.rows, 8), [&](const auto& range) {
    for (std::int64_t i = range.begin(); i < range.end(); ++i)
      for (std::int64_t g = 0; g < coded.groups; ++g)
        coded.set(
            i, g,
            fit_steps(w.row(i).subspan(static_cast<std::size_t>(g * span), static_cast<std::size_t>(span)), scheme));
  });
  return coded;
}

CodedMatrix round_to_grid(ConstMatrix w, const GridScheme& scheme) {
  CodedMatrix coded = fit_grids(w, scheme);
  const std::int64_t span = scheme.span(w.cols);
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, w.rows, 8), [&](const auto& range) {
    for (std::int64_t i = range.begin(); i < range.end(); ++i)
      for (std::int64_t g = 0; g < coded.groups; ++g) {
        const Steps s = coded.steps(i, g);
        const float* const row = w.data + i * w.stride + g * span;
        std::uint8_t* const codes = coded.codes.data() + i * w.cols + g * span;
        const auto zero = static_cast<float>(s.zero);
        for (std::int64_t j = 0; j < span; ++j)
          codes[j] = static_cast<std::uint8_t>(level_of(row[j], s, scheme.bits) + zero);
      }
  });
  return coded;
}

}  // namespace fettle::kit
