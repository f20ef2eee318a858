// SPDX-License-Identifier: Apache-2.0
#include "plugins/floats.h"

#include "plugins/prose.h"
#include "unit/kit/model/tiny_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <stdexcept>

namespace fettle::test {

using namespace fettle::kit;

Step float_step(const std::string& technique) {
  std::string plugin = technique;
  std::replace(plugin.begin(), plugin.end(), '.', '_');
  Step step(plugin, technique);
  step.input("model", "model", prose_model(), {{"layout", "hf"}});
  return step;
}

std::vector<float> values_in(const DenseCheckpoint& model, const std::string& name) {
  const DenseTensor* const t = model.find(name);
  if (t == nullptr) throw std::runtime_error(name + " is missing");
  std::vector<float> values(static_cast<std::size_t>(t->shape[0] * t->shape[1]));
  DenseCheckpoint::read(*t, 0, MutMatrix(values.data(), t->shape[0], t->shape[1]));
  return values;
}

std::vector<float> rounded(const std::string& name, const FloatScheme& scheme,
                           const std::vector<std::string>& shared_with) {
  const auto model = Checkpoint::open(prose_model());
  float magnitude = 0;
  for (const std::string& other : shared_with) magnitude = std::max(magnitude, largest_magnitude(*model->find(other)));
  const TensorView& t = *model->find(name);
  const FloatMatrix matrix = *round_to_floats(t, scheme, magnitude);
  std::vector<float> values(static_cast<std::size_t>(t.elements()));
  matrix.view().read(0, MutMatrix(values.data(), t.rows(), t.cols()));
  return values;
}

std::string small_model(int ffn, const std::string& damaged) {
  const std::string folder = temporary_folder();
  Json config = tiny_llama_config();
  config["intermediate_size"] = ffn;
  if (const Status status = write_tiny_model(folder, config); !status.ok()) throw std::runtime_error(status.message());
  if (damaged.empty()) return folder;
  std::streamoff at = 0;
  {
    const auto model = Checkpoint::open(folder);
    const SafetensorsReader& shard = model->shards().front();
    at = shard.find(damaged)->bytes.data() - shard.file().bytes().data();
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::fstream file(folder + "/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(at + 20);
  file.write(reinterpret_cast<const char*>(&nan), sizeof nan);
  return folder;
}

float number_in(const Checkpoint& model, const std::string& name) {
  const TensorView* const t = model.find(name);
  if (t == nullptr || t->elements() != 1) throw std::runtime_error(name + " is not one number");
  float value = 0;
  info(t->dtype).to_f32(t->bytes.data(), &value, 1);
  return value;
}

}  // namespace fettle::test
