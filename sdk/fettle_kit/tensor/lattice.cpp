// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/tensor/lattice.h"

#include <algorithm>
#include <array>
#include <span>

namespace fettle::kit::block {
namespace {

constexpr std::size_t kLattices = 6;

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

/// Squared distances of keys, in levels, from those of their halves.
class Distances {
 public:
  explicit Distances(const Lattice& lattice) : bits_(lattice.bits * lattice.values / 2) {
    const std::size_t halves = std::size_t{1} << bits_;
    of_halves_.resize(halves * halves);
    for (std::size_t a = 0; a < halves; ++a)
      for (std::size_t b = 0; b < halves; ++b)
        for (int i = 0; i < lattice.values / 2; ++i) {
          const int difference = level_of(lattice, a, i) - level_of(lattice, b, i);
          of_halves_[a << bits_ | b] += difference * difference;
        }
  }
  std::size_t between(std::size_t a, std::size_t b) const {
    const std::size_t low = (std::size_t{1} << bits_) - 1;
    return static_cast<std::size_t>(of_halves_[(a & low) << bits_ | (b & low)] +
                                    of_halves_[(a >> bits_) << bits_ | b >> bits_]);
  }

 private:
  int bits_;
  std::vector<int> of_halves_;
};

bool is_key(const Lattice& lattice, std::size_t key) {
  for (int i = 0; i < lattice.values; ++i)
    if (level_of(lattice, key, i) >= lattice.levels) return false;
  return true;
}

LatticeMap map_of(const Lattice& lattice, int distances) {
  LatticeMap out;
  out.place.assign(std::size_t{1} << (lattice.bits * lattice.values), -1);
  for (std::size_t i = 0; i < lattice.keys.size(); ++i) out.place[lattice.keys[i]] = static_cast<std::int32_t>(i);

  const Distances distances_of(lattice);
  std::vector<std::vector<std::uint16_t>> at(4 * 7 * 7 + 1);  // points by distance; the largest is that of IQ3
  for (std::size_t key = 0; key < out.place.size(); ++key) {
    if (out.place[key] >= 0 || !is_key(lattice, key)) continue;
    for (auto& points : at) points.clear();
    for (const std::uint16_t point : lattice.keys) at[distances_of.between(key, point)].push_back(point);
    const std::size_t begin = out.neighbours.size();
    out.place[key] = ~static_cast<std::int32_t>(begin);
    out.neighbours.push_back(0);
    int taken = 0;
    for (std::size_t d = 0; d < at.size() && taken < distances; ++d) {
      out.neighbours.insert(out.neighbours.end(), at[d].begin(), at[d].end());
      taken += at[d].empty() ? 0 : 1;
    }
    out.neighbours[begin] = static_cast<std::uint16_t>(out.neighbours.size() - begin - 1);
    while ((out.neighbours.size() - begin - 1) % 16 != 0) out.neighbours.push_back(out.neighbours[begin + 1]);
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

template <std::size_t n>
const LatticeMap& map_number() {
  static const LatticeMap map = map_of(lattices()[n], kDistances[n]);
  return map;
}

}  // namespace

LatticeName lattice_of(DType type) {
  switch (type) {
    case DType::iq2_xxs:
      return LatticeName::iq2_xxs;
    case DType::iq2_xs:
      return LatticeName::iq2_xs;
    case DType::iq2_s:
      return LatticeName::iq2_s;
    case DType::iq3_xxs:
      return LatticeName::iq3_xxs;
    case DType::iq3_s:
      return LatticeName::iq3_s;
    default:
      return LatticeName::iq1;
  }
}

const Lattice& lattice(LatticeName name) { return lattices()[static_cast<std::size_t>(name)]; }

const LatticeMap& lattice_map(LatticeName name) {
  constexpr const LatticeMap& (*maps[kLattices])() = {&map_number<0>, &map_number<1>, &map_number<2>,
                                                      &map_number<3>, &map_number<4>, &map_number<5>};
  return maps[static_cast<std::size_t>(name)]();
}

LatticeTables lattice_tables(LatticeName name) {
  const LatticeMap& map = lattice_map(name);
  return {map.place.data(), map.neighbours.data(), lattice(name).keys.data()};
}

}  // namespace fettle::kit::block
