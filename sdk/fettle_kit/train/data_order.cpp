// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/train/data_order.h"

#include "fettle_kit/tensor/philox.h"

#include <numeric>
#include <utility>

namespace fettle::kit {

DataOrder::DataOrder(std::uint64_t seed, std::int64_t sequences)
    : seed_(seed), order_(static_cast<std::size_t>(sequences)) {}

std::int64_t DataOrder::operator[](std::int64_t position) {
  const auto n = static_cast<std::int64_t>(order_.size());
  if (const std::int64_t epoch = position / n; epoch != epoch_) {
    epoch_ = epoch;
    std::iota(order_.begin(), order_.end(), std::int64_t{0});
    const auto count = static_cast<std::uint64_t>(n), first = static_cast<std::uint64_t>(epoch) * count;
    for (std::uint64_t i = count - 1; i > 0; --i) std::swap(order_[i], order_[philox_below(seed_, first + i, i + 1)]);
  }
  return order_[static_cast<std::size_t>(position % n)];
}

}  // namespace fettle::kit
