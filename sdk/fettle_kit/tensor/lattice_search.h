// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

// What the searches of the IQ1, IQ2 and IQ3 types depend on, for the readable reference (lattice_codec.cpp) and for the
// lanes. C headers and internal linkage only: the per-instruction-set quantizers include this file too.

namespace fettle::kit::block {

enum class LatticeName { iq2_xxs, iq2_xs, iq2_s, iq3_xxs, iq3_s, iq1 };

/// IQ2 and IQ3 store signs apart from magnitudes. The search tries 2 tries + 1 scales a sub-block, finds for each the
/// points near the magnitudes, and keeps the scale whose points correlate best with them.
struct SignedSearch {
  /// Which groups get a new point for the scale in the end: those that took a neighbour of what they wanted; all, if
  /// any took one; all, always.
  enum class Again { neighbours, all_if_any, all };

  LatticeName lattice;
  int sub_block;       ///< values that share a scale: 16 or 32
  bool even_signs;     ///< the number of minus signs among 8 values is even: the least important value changes sign
  float sigma;         ///< factor of the mean square of the block in the importance of a value
  float negligible;    ///< magnitudes below are zero
  int tries;           ///< on each side of the scale that puts the largest magnitude at the highest level
  float step;          ///< between tries, in units of half a level
  float top;           ///< what the highest level stands for in the search: 5 or 15
  bool from_best_fit;  ///< tries lie around the least-squares scale of codes 0 .. 4 instead
  Again again;
  float enlarged;  ///< factor of the scale of the block as stored
};
static constexpr SignedSearch iq2_xxs_search{LatticeName::iq2_xxs,     32, true, 1, 1e-15f, 6, 0.1f, 5, true,
                                             SignedSearch::Again::all, 1};
static constexpr SignedSearch iq2_xs_search{
    LatticeName::iq2_xs, 16, true, 1, 1e-15f, 9, 0.1f, 5, false, SignedSearch::Again::neighbours, 1};
static constexpr SignedSearch iq2_s_search{
    LatticeName::iq2_s, 16, false, 2, 1e-8f, 9, 0.1f, 5, false, SignedSearch::Again::neighbours, 0.9875f};
static constexpr SignedSearch iq3_xxs_search{
    LatticeName::iq3_xxs, 32, true, 2, 1e-8f, 15, 0.2f, 15, false, SignedSearch::Again::neighbours, 1.0125f};
static constexpr SignedSearch iq3_s_search{
    // negligible: below the smallest number there is
    LatticeName::iq3_s, 32, false, 2, 0x1p-149f, 9, 0.2f, 15, false, SignedSearch::Again::all_if_any, 1.033f};

/// What a level of a magnitude stands for in the search.
static constexpr float odd_values[8] = {1, 3, 5, 7, 9, 11, 13, 15};

/// IQ1 has three levels, shifted up by an eighth or down: what they stand for.
static constexpr float shifted_values[2][3] = {{-1 + 0.125f, 0.125f, 1 + 0.125f}, {-1 - 0.125f, -0.125f, 1 - 0.125f}};
/// Magnitudes of a sub-block of IQ1 below these are zero, and the factor of the scale of the block as stored.
static constexpr float iq1_s_negligible = 1e-12f, iq1_s_enlarged = 1.125f;
static constexpr float iq1_m_negligible = 1e-7f, iq1_m_enlarged = 1.1125f;

/// A LatticeMap and the keys of its lattice, as plain arrays (lattice.h).
struct LatticeTables {
  const int32_t* place;
  const uint16_t* neighbours;
  const uint16_t* keys;
};
LatticeTables lattice_tables(LatticeName name);

}  // namespace fettle::kit::block
