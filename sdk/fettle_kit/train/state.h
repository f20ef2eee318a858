// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/safetensors.h"

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace fettle::kit {

// A state of a training as one safetensors file: f32 tensors, small values in the metadata, and as the last tensor the
// SHA-256 of all that comes before it. Appears whole or not at all, and durable; until then the one before it stays.

/// What is stored beside the tensors.
struct StateValues {
  std::map<std::string, std::string> texts;
  std::map<std::string, std::vector<std::pair<double, double>>> series;
};

/// specs are f32. `read` puts the numbers of tensor i into the span, which has its size.
Status save_state(const std::string& path, const StateValues& values, std::span<const TensorSpec> specs,
                  const std::function<void(std::size_t i, std::span<float>)>& read);

/// A stored state, checked as a whole: what read() gives is what was saved.
class StateFile {
 public:
  /// corrupt_data if the file is damaged, invalid_argument if its tensors are not those of `specs` or its identity
  /// (texts["identity"]) is another.
  static Result<StateFile> open(const std::string& path, std::string_view identity, std::span<const TensorSpec> specs);
  const StateValues& values() const { return values_; }
  /// `write` gets tensor after tensor, numbered as in `specs`.
  void read(const std::function<void(std::size_t i, std::span<const float>)>& write) const;

 private:
  explicit StateFile(SafetensorsReader file) : file_(std::move(file)) {}
  SafetensorsReader file_;
  StateValues values_;
  std::vector<const TensorView*> tensors_;
};

}  // namespace fettle::kit
