// SPDX-License-Identifier: Apache-2.0
#include "learned_range.h"

#include "fettle_kit/compress/float_grids.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>

namespace distill_qat {

using namespace fettle::kit;

namespace {

/// Calls body(i, g, first column, columns) for every group.
template <class Body>
void for_groups(const GridScheme& scheme, std::int64_t rows, std::int64_t cols, const Body& body) {
  const std::int64_t span = scheme.span(cols);
  tbb::parallel_for(std::int64_t{0}, rows, [&](std::int64_t i) {
    for (std::int64_t g = 0; g < cols / span; ++g) body(i, g, g * span, span);
  });
}

float half_range(const GridScheme& scheme) { return 0.5F * static_cast<float>(scheme.codes() - 1); }

}  // namespace

LearnedRange::LearnedRange(Backend& backend, const Array& master, const GridScheme& scheme)
    : backend_(backend), scheme_(scheme) {
  const std::int64_t groups = scheme.groups(master.cols);
  bound_ = backend.allocate(master.rows, groups);
  gradient_ = backend.allocate(master.rows, groups);
  GridScheme searched = scheme;
  searched.search = 2.4;
  backend.host_view(bound_, Access::write, [&](MutMatrix bound) {
    backend.host_view(master, Access::read, [&](MutMatrix w) {
      for_groups(scheme, w.rows, w.cols, [&](std::int64_t i, std::int64_t g, std::int64_t first, std::int64_t n) {
        bound(i, g) =
            half_range(scheme) *
            fit_steps(w.row(i).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n)), searched).scale;
      });
    });
  });
}

TrainedTensor LearnedRange::tensor(const std::string& name) const {
  TrainedTensor t;
  t.name = "range of " + name;
  t.value = bound_;
  t.gradient = gradient_;
  t.decay = false;
  t.rate_factor = 10;  // a bound is some ten times a weight
  return t;
}

void LearnedRange::apply(MutMatrix cut, const Array& master) const {
  backend_.host_view(bound_, Access::read_write, [&](MutMatrix bound) {
    backend_.host_view(master, Access::read, [&](MutMatrix w) {
      for_groups(scheme_, w.rows, w.cols, [&](std::int64_t i, std::int64_t g, std::int64_t first, std::int64_t n) {
        const auto row = w.row(i).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n));
        const float largest = largest_magnitude(row);
        float& limit = bound(i, g);
        limit = std::min(std::max(limit, largest / static_cast<float>(scheme_.codes())), largest);
        float* const out = cut.row(i).data() + first;
        for (std::int64_t j = 0; j < n; ++j)
          out[j] = std::min(std::max(row[static_cast<std::size_t>(j)], -limit), limit);
      });
    });
  });
}

void LearnedRange::differentiate(MutMatrix gradient, ConstMatrix w) const {
  const float half = half_range(scheme_), most = static_cast<float>(scheme_.codes() / 2 - 1), least = -most - 1;
  backend_.host_view(gradient_, Access::write, [&](MutMatrix of_bound) {
    backend_.host_view(bound_, Access::read, [&](MutMatrix bound) {
      for_groups(scheme_, w.rows, w.cols, [&](std::int64_t i, std::int64_t g, std::int64_t first, std::int64_t n) {
        const float limit = bound(i, g), step = limit / half;
        double sum = 0;
        for (std::int64_t j = first; j < first + n && limit > 0; ++j) {
          const float x = w(i, j);
          const float moved = x >= limit ? most : x <= -limit ? least : nearest_level(x / step) - x / step;
          sum += double{gradient(i, j)} * moved;
          if (std::fabs(x) > limit) gradient(i, j) = 0;
        }
        // d bound = d step / half, and LSQ's factor, which keeps the norm in proportion to that of the weights.
        of_bound(i, g) = static_cast<float>(sum / (half * std::sqrt(static_cast<double>(n) * std::max(1.0F, most))));
      });
    });
  });
}

}  // namespace distill_qat
