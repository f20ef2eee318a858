// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace fettle::kit {

/// Which sequence of a set is seen when: every epoch is a shuffle of all of them (Fisher and Yates, with the random
/// numbers of Philox), so none comes twice before an epoch ends, and a batch may reach over the end of one. The answer
/// depends on the seed and the position alone: a training that is continued asks for the same. One thread at a time.
class DataOrder {
 public:
  DataOrder(std::uint64_t seed, std::int64_t sequences);
  /// The sequence at `position` = step * batch + place in the batch; any order, though each change of epoch costs a
  /// shuffle.
  std::int64_t operator[](std::int64_t position);

 private:
  std::uint64_t seed_;
  std::int64_t epoch_ = -1;
  std::vector<std::int64_t> order_;  ///< of epoch_
};

}  // namespace fettle::kit
