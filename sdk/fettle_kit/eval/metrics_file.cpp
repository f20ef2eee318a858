// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/eval/metrics_file.h"

#include "fettle_kit/io/json.h"
#include "fettle_kit/io/output_file.h"

#include <nlohmann/json.hpp>

#include <cmath>

namespace fettle::kit {

Status report_metrics(const Context& context, const std::string& folder, const std::vector<NamedMetric>& metrics) {
  Json json = Json::object();
  for (const auto& [name, mean, unit] : metrics) {
    if (std::isnan(mean.value)) continue;
    context.metric(name, mean.value, unit, mean.standard_error);
    json[name]["value"] = mean.value;
    if (!std::isnan(mean.standard_error)) json[name]["standard_error"] = mean.standard_error;
    if (unit) json[name]["unit"] = unit;
  }
  FETTLE_ASSIGN(const std::string text, json_text(json));
  return write_text_file(folder + "/metrics.json", text);
}

}  // namespace fettle::kit
