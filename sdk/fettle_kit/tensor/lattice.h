// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/dtype.h"
#include "fettle_kit/tensor/lattice_search.h"

#include <cstdint>
#include <vector>

namespace fettle::kit::block {

// The IQ1, IQ2 and IQ3 types store groups of values together, as the index of a point of a lattice: a point gives each
// value of its group a level. The levels of a group, packed, are its key: level i in bits `bits * i` and up.

struct Lattice {
  int values = 8;                   ///< of a group: 8, or 4 for IQ3
  int bits = 2;                     ///< of a level in a key: 2, or 3 for IQ3
  int levels = 3;                   ///< a value can have: 3, or 8 for IQ3
  std::vector<std::uint16_t> keys;  ///< of the points, by index: ascending
};
/// IQ1_S and IQ1_M share theirs.
LatticeName lattice_of(DType type);
/// Built at first use. [any thread]
const Lattice& lattice(LatticeName name);

/// From the levels that each value would like best to the points that a group may take.
struct LatticeMap {
  /// By key: the index of its point, or for keys that are no points ~n, where their list begins at neighbours[n].
  std::vector<std::int32_t> place;
  /// Lists: how many points there are, then their keys by distance from the key of the list, by index where that is
  /// equal. All points at the smallest few distances that occur; how many distances differs from lattice to lattice.
  /// Filled up with the first key to a multiple of 16, which changes no search for the nearest.
  std::vector<std::uint16_t> neighbours;
};
/// Built at first use, which takes some tens of milliseconds. [any thread]
const LatticeMap& lattice_map(LatticeName name);

// Which points there are (lattice_points.cpp).
extern const std::uint64_t iq2_xxs_members[103], iq2_xs_members[103], iq2_s_members[103], iq1_members[103];
extern const std::uint64_t iq3_xxs_members[64], iq3_s_members[64];

}  // namespace fettle::kit::block
