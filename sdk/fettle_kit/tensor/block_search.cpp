// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/tensor/block_search.h"

#include "fettle_kit/tensor/block_layout.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace fettle::kit::block {

std::int32_t nearest_int(float v) {
  const float shifted = v + 12582912.0f;  // 1.5 * 2^23: the integer lands in the low mantissa bits
  return static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(shifted) & 0x7fffffu) - 0x400000;
}

namespace {

/// The element of largest magnitude with its sign, the first one on ties; 0 if all are negligible.
float signed_max(int n, const float* x) {
  float amax = 0, max = 0;
  for (int i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > amax) {
      amax = std::fabs(x[i]);
      max = x[i];
    }
  }
  return amax < negligible ? 0.0f : max;
}

int signed_code(float v, int nmax) { return std::clamp(nearest_int(v), -nmax, nmax - 1); }

}  // namespace

float search_symmetric(int n, int nmax, const float* x, const float* w, std::uint8_t* codes) {
  std::fill_n(codes, n, std::uint8_t{0});
  const float max = signed_max(n, x);
  if (max == 0) return 0;

  float scale = 0, best = 0;
  const auto try_inverse = [&](float inverse, bool first) {
    float sumlx = 0, suml2 = 0;
    for (int i = 0; i < n; ++i) {
      const auto l = static_cast<float>(signed_code(inverse * x[i], nmax));
      const float wi = w ? w[i] : x[i] * x[i];
      sumlx += wi * x[i] * l;
      suml2 += wi * l * l;
    }
    if (!first && !(suml2 > 0 && sumlx * sumlx > best * suml2)) return;
    for (int i = 0; i < n; ++i) codes[i] = static_cast<std::uint8_t>(signed_code(inverse * x[i], nmax) + nmax);
    scale = suml2 != 0 ? sumlx / suml2 : 0.0f;
    best = scale * sumlx;
  };
  try_inverse(static_cast<float>(-nmax) / max, true);
  for (int k = -9; k <= 9; ++k)
    if (k != 0) try_inverse(-(static_cast<float>(nmax) + 0.1f * static_cast<float>(k)) / max, false);
  return scale;
}

float search_coordinate(int n, int nmax, const float* x, std::uint8_t* codes) {
  std::fill_n(codes, n, std::uint8_t{0});
  const float max = signed_max(n, x);
  if (max == 0) return 0;

  const float inverse = static_cast<float>(-nmax) / max;
  int level[32];
  float sumlx = 0, suml2 = 0;
  for (int i = 0; i < n; ++i) {
    level[i] = signed_code(inverse * x[i], nmax);
    const float w = x[i] * x[i], l = static_cast<float>(level[i]);
    sumlx += w * x[i] * l;
    suml2 += w * l * l;
  }
  for (int pass = 0; pass < 5; ++pass) {
    bool changed = false;
    for (int i = 0; i < n; ++i) {
      const float w = x[i] * x[i], l = static_cast<float>(level[i]);
      float slx = sumlx - w * x[i] * l;
      if (!(slx > 0)) continue;
      float sl2 = suml2 - w * l * l;
      const int candidate = signed_code(x[i] * sl2 / slx, nmax);
      if (candidate == level[i]) continue;
      const auto c = static_cast<float>(candidate);
      slx += w * x[i] * c;
      sl2 += w * c * c;
      if (sl2 > 0 && slx * slx * suml2 > sumlx * sumlx * sl2) {
        level[i] = candidate;
        sumlx = slx;
        suml2 = sl2;
        changed = true;
      }
    }
    if (!changed) break;
  }
  for (int i = 0; i < n; ++i) codes[i] = static_cast<std::uint8_t>(level[i] + nmax);
  return suml2 > 0 ? sumlx / suml2 : 0.0f;
}

ScaleAndMin search_asymmetric(int n, const AsymmetricSearch& how, const float* x, const float* w, std::uint8_t* codes) {
  float min = x[0], max = x[0];
  float sum_w = w[0], sum_x = w[0] * x[0];
  for (int i = 1; i < n; ++i) {
    min = std::min(min, x[i]);
    max = std::max(max, x[i]);
    sum_w += w[i];
    sum_x += w[i] * x[i];
  }
  if (min > 0) min = 0;
  if (max <= min) {
    std::fill_n(codes, n, std::uint8_t{0});
    return {0, -min};
  }
  const auto top = static_cast<float>(how.nmax);
  const auto code = [&](float inverse, float v) { return std::clamp(nearest_int(inverse * (v - min)), 0, how.nmax); };
  const auto error = [&](float scale, float offset, const std::uint8_t* l) {
    float sum = 0;
    for (int i = 0; i < n; ++i) {
      const float diff = scale * static_cast<float>(l[i]) + offset - x[i];
      sum += w[i] * (how.absolute ? std::fabs(diff) : diff * diff);
    }
    return sum;
  };

  const float inverse = top / (max - min);
  float scale = 1 / inverse;
  for (int i = 0; i < n; ++i) codes[i] = static_cast<std::uint8_t>(code(inverse, x[i]));
  float best = error(scale, min, codes);

  std::uint8_t trial[32];
  for (int k = 0; k <= how.steps; ++k) {
    const float candidate = (how.first + how.step * static_cast<float>(k) + top) / (max - min);
    float sum_l = 0, sum_l2 = 0, sum_xl = 0;
    for (int i = 0; i < n; ++i) {
      const int l = code(candidate, x[i]);
      trial[i] = static_cast<std::uint8_t>(l);
      const auto lf = static_cast<float>(l);
      sum_l += w[i] * lf;
      sum_l2 += w[i] * lf * lf;
      sum_xl += w[i] * lf * x[i];
    }
    const float determinant = sum_w * sum_l2 - sum_l * sum_l;
    if (!(determinant > 0)) continue;
    float trial_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
    float trial_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
    if (trial_min > 0) {
      trial_min = 0;
      trial_scale = sum_xl / sum_l2;
    }
    const float trial_error = error(trial_scale, trial_min, trial);
    if (trial_error < best) {
      std::copy_n(trial, n, codes);
      best = trial_error;
      scale = trial_scale;
      min = trial_min;  // the next candidates start from here: they depend on one another
    }
  }
  return {scale, -min};
}

float search_positive(int n, int nmax, const float* x, const float* w, std::uint8_t* codes) {
  std::fill_n(codes, n, std::uint8_t{0});
  float max = 0;
  for (int i = 0; i < n; ++i) max = std::max(max, x[i]);
  if (max < negligible) return 0;

  const auto top = static_cast<float>(nmax);
  const auto error = [&](float inverse, auto code) {
    const float scale = 1 / inverse;
    float sum = 0;
    for (int i = 0; i < n; ++i) {
      const float diff = x[i] - scale * static_cast<float>(code(nearest_int(inverse * x[i])));
      sum += w[i] * diff * diff;
    }
    return sum;
  };
  float inverse = top / max;
  float best = error(inverse, [](int l) { return static_cast<std::uint8_t>(l); });
  for (int k = -4; k <= 4; ++k) {
    if (k == 0) continue;
    const float candidate = (0.1f * static_cast<float>(k) + top) / max;
    const float candidate_error = error(candidate, [nmax](int l) { return std::min(nmax, l); });
    if (candidate_error < best) {
      best = candidate_error;
      inverse = candidate;
    }
  }

  float sumlx = 0, suml2 = 0;
  for (int i = 0; i < n; ++i) {
    const int level = std::min(nmax, nearest_int(inverse * x[i]));
    codes[i] = static_cast<std::uint8_t>(level);
    const auto l = static_cast<float>(level);
    sumlx += w[i] * x[i] * l;
    suml2 += w[i] * l * l;
  }
  for (int pass = 0; pass < 5; ++pass) {
    bool changed = false;
    for (int i = 0; i < n; ++i) {
      const auto l = static_cast<float>(codes[i]);
      float slx = sumlx - w[i] * x[i] * l;
      float sl2 = suml2 - w[i] * l * l;
      if (!(slx > 0 && sl2 > 0)) continue;
      const int candidate = std::min(nmax, nearest_int(x[i] * sl2 / slx));
      if (candidate == codes[i]) continue;
      const auto c = static_cast<float>(candidate);
      slx += w[i] * x[i] * c;
      sl2 += w[i] * c * c;
      if (slx * slx * suml2 > sumlx * sumlx * sl2) {
        codes[i] = static_cast<std::uint8_t>(candidate);
        sumlx = slx;
        suml2 = sl2;
        changed = true;
      }
    }
    if (!changed) break;
  }
  return suml2 > 0 ? sumlx / suml2 : 0.0f;
}

std::uint8_t nearest_iq4(float x) {
  if (x <= iq4_values[0]) return 0;
  if (x >= iq4_values[15]) return 15;
  int upper = 1;
  while (upper < 15 && !(x < iq4_values[upper])) ++upper;  // NaN goes to the top, as in the reference
  return static_cast<std::uint8_t>(x - iq4_values[upper - 1] < iq4_values[upper] - x ? upper - 1 : upper);
}

float search_iq4(int n, const float* x, const float* w) {
  const float max = signed_max(n, x);
  if (max == 0) return 0;
  constexpr int tries = 7;

  float sumqx = 0, sumq2 = 0;
  const auto sums = [&](float inverse) {
    sumqx = sumq2 = 0;
    for (int i = 0; i < n; ++i) {
      const auto v = static_cast<float>(iq4_values[nearest_iq4(inverse * x[i])]);
      sumqx += w[i] * v * x[i];
      sumq2 += w[i] * v * v;
    }
  };
  const float first = -max / static_cast<float>(iq4_values[0]);
  sums(1 / first);
  float scale = sumq2 > 0 ? sumqx / sumq2 : 0.0f;
  float best = scale * sumqx;
  for (int t = -tries; t <= tries; ++t) {
    sums(static_cast<float>(t + iq4_values[0]) / max);
    if (sumq2 > 0 && sumqx * sumqx > best * sumq2) {
      scale = sumqx / sumq2;
      best = scale * sumqx;
    }
  }
  return scale;
}

}  // namespace fettle::kit::block
