// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/mixture.h"

#include "fettle_kit/model/gguf_layout.h"
#include "fettle_kit/model/parameter_values.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <string>

namespace fettle::kit {

Result<std::vector<TensorSpec>> mixture_tensors(const Json& config, std::string_view name, std::size_t most) {
  const GgufExperts experts = *gguf_experts(config);
  Json rest = config;
  rest["model_type"] = std::string(experts.dense);
  for (const char* key : {"num_local_experts", "num_experts", "quantization_config"}) rest.erase(key);
  FETTLE_ASSIGN(const ModelConfig dense, read_model_config(rest, name));
  if (experts.count > 0 && dense.layers > static_cast<std::int64_t>(most) / experts.count)
    return Status(Code::corrupt_data, fmt::format("{}: it has {} layers of {} experts, but there are only {} tensors",
                                                  name, dense.layers, experts.count, most));
  std::vector<TensorSpec> specs;
  for (const ModelTensor& t : model_tensors(dense))
    if (t.name.find(".mlp.") == std::string::npos) specs.push_back({t.name, DType::f32, t.shape});
  for (std::int64_t layer = 0; layer < dense.layers; ++layer) {
    const std::string module = fmt::format("model.layers.{}.{}", layer, experts.module);
    specs.push_back({module + ".gate.weight", DType::f32, {experts.count, dense.hidden}});
    for (std::int64_t e = 0; e < experts.count; ++e) {
      const std::string expert = fmt::format("{}.experts.{}.", module, e);
      for (const std::string_view matrix : {experts.gate, experts.up})
        specs.push_back({fmt::format("{}{}.weight", expert, matrix), DType::f32, {experts.width, dense.hidden}});
      specs.push_back({fmt::format("{}{}.weight", expert, experts.down), DType::f32, {dense.hidden, experts.width}});
    }
  }
  return specs;
}

}  // namespace fettle::kit
