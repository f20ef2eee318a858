// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/walk_cost.h"

#include "fettle_kit/calibrate/block_walk.h"
#include "fettle_kit/model/decoder.h"

#include <algorithm>

namespace fettle::kit {

WalkCost::WalkCost(const Input& model, const Input& calibration) {
  const double hidden = model.number("hidden"), ffn = model.number("ffn"), parameters = model.number("parameters");
  layers = std::max(1.0, model.number("layers"));
  tokens = calibration.number("sequences") * calibration.number("length");
  const double tables = (model.attribute("tied") == "false" ? 2 : 1) * model.number("vocab") * hidden;
  block = std::max(0.0, parameters - tables) / layers;
  matrix = hidden * std::max(hidden, ffn);
  if (parameters > 0 && model.number("bytes") > 0) stored = model.number("bytes") / parameters;
  boundary = tokens * hidden * sizeof(float);
  const auto inside = [&](double rows) { return Decoder::forward_bytes(rows, hidden, ffn, hidden, hidden); };
  const double length = std::max(1.0, calibration.number("length"));
  const double rows =
      std::min(tokens, static_cast<double>(BlockWalk::portion_tokens(static_cast<std::int64_t>(length))));
  portion = inside(rows);
  const double held = std::min(rows, tokens / 16);
  held_out = inside(held) + 2 * held * std::max(hidden, ffn) * sizeof(float);
}

}  // namespace fettle::kit
