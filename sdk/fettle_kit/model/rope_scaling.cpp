// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/rope_scaling.h"

#include "fettle_kit/model/config_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>

namespace fettle::kit {
namespace {

using Json = nlohmann::ordered_json;
constexpr double max_context = 2147483647;

/// theta^(-2i/D) in f32, as transformers computes it.
std::vector<float> plain_frequencies(double theta, std::int64_t head_dim) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < head_dim / 2; ++i)
    out.push_back(1.0f / std::pow(static_cast<float>(theta), static_cast<float>(2 * i) / static_cast<float>(head_dim)));
  return out;
}

/// Llama 3: slow pairs are stretched, fast ones kept, those between interpolated.
void scale_llama3(ConfigKeys& keys, std::vector<float>& frequencies) {
  const auto factor = static_cast<float>(keys.real("factor", 1, 1e6));
  const auto low = static_cast<float>(keys.real("low_freq_factor", 1e-6, 1e6));
  const auto high = static_cast<float>(keys.real("high_freq_factor", 1e-6, 1e6));
  const auto original = static_cast<float>(keys.real("original_max_position_embeddings", 1, max_context));
  if (high <= low) keys.fail("rope's 'high_freq_factor' must be greater than its 'low_freq_factor'");
  for (float& f : frequencies) {
    const float wavelength = 2 * std::numbers::pi_v<float> / f;
    if (wavelength < original / high) continue;
    const float smooth = std::max(0.0f, (original / wavelength - low) / (high - low));
    f = wavelength > original / low ? f / factor : (1 - smooth) * f / factor + smooth * f;
  }
}

/// YaRN (Peng et al. 2023, section 3.2) as transformers 5 reads its keys.
void scale_yarn(ConfigKeys& keys, Rope& rope, double theta, const RopeDefaults& defaults) {
  const double original = keys.real("original_max_position_embeddings", 1, max_context, double(defaults.context));
  const double factor = keys.real("factor", 1, 1e6, static_cast<double>(defaults.context) / original);
  const double fast = keys.real("beta_fast", 1e-6, 1e6, 32), slow = keys.real("beta_slow", 1e-6, 1e6, 1);
  const bool truncate = keys.flag("truncate", true);
  const auto dim = static_cast<double>(defaults.head_dim);
  const auto pair_turning = [&](double turns) {  // the pair that turns so often within the original context
    return dim * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(theta));
  };
  double low = pair_turning(fast), high = pair_turning(slow);
  if (truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < rope.frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double f = rope.frequencies[i];
    rope.frequencies[i] = static_cast<float>(f / factor * ramp + f * (1 - ramp));
  }
  const auto magnitude = [&](double scale) { return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1; };
  const double scale = keys.real("mscale", 0, 1e3, 0), all = keys.real("mscale_all_dim", 0, 1e3, 0);
  const double usual = scale > 0 && all > 0 ? magnitude(scale) / magnitude(all) : magnitude(1);
  rope.magnitude = static_cast<float>(keys.real("attention_factor", 1e-6, 1e6, usual));
}

/// LongRoPE (Ding et al. 2024) as transformers has it, in the original context: there the short factors count. A longer
/// text would need the long ones for all its positions, so the rope reaches no further.
void scale_long(ConfigKeys& keys, Rope& rope, const RopeDefaults& defaults) {
  rope.reach = keys.integer("original_max_position_embeddings", 2, INT32_MAX, defaults.original_context);
  const Json* factors = keys.find("short_factor");
  if (!factors || !factors->is_array() || factors->size() != rope.frequencies.size())
    return keys.fail(fmt::format("rope's 'short_factor' is {}, expected {} numbers",
                                 factors ? shown(*factors) : "missing", rope.frequencies.size()));
  for (std::size_t i = 0; i < rope.frequencies.size(); ++i) {
    const Json& factor = (*factors)[i];
    if (!factor.is_number() || !(factor.get<double>() > 0))
      return keys.fail(fmt::format("rope's 'short_factor' holds {}, expected positive numbers", shown(factor)));
    rope.frequencies[i] /= factor.get<float>();
  }
  const auto original = static_cast<double>(rope.reach);
  const double factor = keys.real("factor", 1e-6, 1e6, static_cast<double>(defaults.context) / original);
  const double usual = factor > 1 ? std::sqrt(1 + std::log(factor) / std::log(original)) : 1;
  rope.magnitude = static_cast<float>(keys.real("attention_factor", 1e-6, 1e6, usual));
}

Result<Rope> scaled(ConfigKeys& keys, double theta, const RopeDefaults& defaults) {
  Rope rope{plain_frequencies(theta, defaults.head_dim), 1, 0};
  const std::string type = keys.text("rope_type", keys.text("type", "default"));
  if (type == "linear") {
    const auto factor = static_cast<float>(keys.real("factor", 1e-6, 1e6));
    for (float& f : rope.frequencies) f /= factor;
  } else if (type == "llama3") {
    scale_llama3(keys, rope.frequencies);
  } else if (type == "yarn") {
    scale_yarn(keys, rope, theta, defaults);
  } else if (type == "longrope" || type == "su") {
    scale_long(keys, rope, defaults);
  } else if (type != "default" && type != "dynamic") {
    keys.fail(
        fmt::format(
            "rope type '{}' is not supported; supported are default, linear, dynamic, llama3, yarn and longrope", type),
        Code::unsupported);
  }
  if (const Json* partial = keys.find("partial_rotary_factor"); partial && *partial != 1.0)
    keys.fail(fmt::format("'partial_rotary_factor' is {}; rotating part of a head is not supported", shown(*partial)),
              Code::unsupported);
  FETTLE_TRY(keys.status);
  return rope;
}

const Json& object_or_empty(const Json* value) {
  static const Json empty = Json::object();
  return value && value->is_object() ? *value : empty;
}

/// The value of `key`, which must be an object if it is there and not null.
Result<const Json*> object_at(const Json& config, const char* key, std::string_view name) {
  const ConfigKeys keys(config, name);
  const Json* value = keys.find(key);
  if (value && !value->is_object())
    return Status(Code::corrupt_data, fmt::format("{}: '{}' is {}, expected an object", name, key, shown(*value)));
  return value;
}

}  // namespace

Result<Rope> read_rope(const Json& config, std::string_view name, const RopeDefaults& defaults) {
  FETTLE_ASSIGN(const Json* parameters, object_at(config, "rope_parameters", name));
  if (parameters && parameters->contains("full_attention")) {
    FETTLE_ASSIGN(parameters, object_at(*parameters, "full_attention", name));
  } else if (!parameters) {
    FETTLE_ASSIGN(parameters, object_at(config, "rope_scaling", name));
  }
  ConfigKeys outer(config, name), keys(object_or_empty(parameters), name);
  const double theta = keys.real("rope_theta", 1.0001, 1e12, outer.real("rope_theta", 1.0001, 1e12, defaults.theta));
  RopeDefaults known = defaults;
  known.original_context = outer.integer("original_max_position_embeddings", 1, INT32_MAX, defaults.original_context);
  FETTLE_TRY(outer.status);
  return scaled(keys, theta, known);
}

Result<Rope> read_local_rope(const Json& config, std::string_view name, const RopeDefaults& defaults) {
  FETTLE_ASSIGN(const Json* parameters, object_at(config, "rope_parameters", name));
  if (parameters) {
    FETTLE_ASSIGN(parameters, object_at(*parameters, "sliding_attention", name));
  }
  ConfigKeys outer(config, name), keys(object_or_empty(parameters), name);
  const double theta =
      keys.real("rope_theta", 1.0001, 1e12, outer.real("rope_local_base_freq", 1.0001, 1e12, defaults.theta));
  FETTLE_TRY(outer.status);
  return scaled(keys, theta, defaults);
}

}  // namespace fettle::kit
