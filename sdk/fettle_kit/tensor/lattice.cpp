// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/tensor/lattice.h"

#include <algorithm>
#include <array>
#include <span>

namespace fettle::kit::block {
namespace {

constexpr int kLattices = 6;

int place_of(DType type) {
  using enum DType;
  switch (type) {
    case iq2_xxs:
      return 0;
    case iq2_xs:
      return 1;
    case iq2_s:
      return 2;
    case iq3_xxs:
      return 3;
    case iq3_s:
      return 4;
    default:
      return 5;
  }
}

/// Different distances whose points are neighbours.
constexpr int kDistances[kLattices] = {2, 2, 1, 2, 3, 3};

Lattice from_members(std::span<const std::uint64_t> members, int values, int bits, int levels) {
  Lattice out{values, bits, levels, {}};
  for (std::size_t number = 0; number < 64 * members.size(); ++number) {
    if ((members[number / 64] >> number % 64 & 1) == 0) continue;
    std::size_t key = 0, rest = number;
    for (int i = 0; i < values; ++i, rest /= static_cast<std::size_t>(levels))
      key |= rest % static_cast<std::size_t>(levels) << (bits * i);
    out.keys.push_back(static_cast<std::uint16_t>(key));
  }
  return out;
}

int level_of(const Lattice& lattice, std::size_t key, int value) {
  return static_cast<int>(key >> (lattice.bits * value)) & ((1 << lattice.bits) - 1);
}

/// Of two keys, squared, in levels.
int distance(const Lattice& lattice, std::size_t a, std::size_t b) {
  int sum = 0;
  for (int i = 0; i < lattice.values; ++i) {
    const int difference = level_of(lattice, a, i) - level_of(lattice, b, i);
    sum += difference * difference;
  }
  return sum;
}

bool is_key(const Lattice& lattice, std::size_t key) {
  for (int i = 0; i < lattice.values; ++i)
    if (level_of(lattice, key, i) >= lattice.levels) return false;
  return true;
}

LatticeMap map_of(const Lattice& lattice, int distances) {
  LatticeMap out;
  out.place.assign(std::size_t{1} << (lattice.bits * lattice.values), -1);
  for (std::size_t i = 0; i < lattice.keys.size(); ++i) out.place[lattice.keys[i]] = static_cast<std::int32_t>(i);

  std::vector<std::vector<std::uint16_t>> at(4 * 7 * 7 + 1);  // points by distance; the largest is that of IQ3
  for (std::size_t key = 0; key < out.place.size(); ++key) {
    if (out.place[key] >= 0 || !is_key(lattice, key)) continue;
    for (auto& points : at) points.clear();
    for (const std::uint16_t point : lattice.keys)
      at[static_cast<std::size_t>(distance(lattice, key, point))].push_back(point);
    const std::size_t begin = out.neighbours.size();
    out.place[key] = ~static_cast<std::int32_t>(begin);
    out.neighbours.push_back(0);
    int taken = 0;
    for (std::size_t d = 0; d < at.size() && taken < distances; ++d) {
      out.neighbours.insert(out.neighbours.end(), at[d].begin(), at[d].end());
      taken += at[d].empty() ? 0 : 1;
    }
    out.neighbours[begin] = static_cast<std::uint16_t>(out.neighbours.size() - begin - 1);
  }
  return out;
}

const std::array<Lattice, kLattices>& lattices() {
  static const std::array<Lattice, kLattices> all = {
      from_members(iq2_xxs_members, 8, 2, 3), from_members(iq2_xs_members, 8, 2, 3),
      from_members(iq2_s_members, 8, 2, 3),   from_members(iq3_xxs_members, 4, 3, 8),
      from_members(iq3_s_members, 4, 3, 8),   from_members(iq1_members, 8, 2, 3)};
  return all;
}

template <int n>
const LatticeMap& map_number() {
  static const LatticeMap map = map_of(lattices()[n], kDistances[n]);
  return map;
}

}  // namespace

const Lattice& lattice(DType type) { return lattices()[static_cast<std::size_t>(place_of(type))]; }

const LatticeMap& lattice_map(DType type) {
  constexpr const LatticeMap& (*maps[kLattices])() = {&map_number<0>, &map_number<1>, &map_number<2>,
                                                      &map_number<3>, &map_number<4>, &map_number<5>};
  return maps[place_of(type)]();
}

}  // namespace fettle::kit::block
