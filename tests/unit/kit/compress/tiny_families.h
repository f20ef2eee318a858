// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/slicing.h"
#include "fettle_kit/io/json.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

// Tiny models of every family, whose tensors a test may edit before they are written.

namespace fettle::test {

/// A config of the family: 4 blocks, hidden 32, FFN 64, 4 heads of width 8 on 2 KV heads, vocabulary 48, every kind of
/// tensor that the family can have. `name`: a model_type, or "llama-bias", "llama-tied".
kit::Json tiny_family(const std::string& name);
/// All names that tiny_family() knows.
std::vector<std::string> tiny_family_names();

/// Values by the tensor's name, in f32.
using Tensors = std::map<std::string, std::vector<float>>;

/// The path of a new checkpoint of the config with values that depend on names alone, after `edit`.
std::string tiny_checkpoint(const kit::Json& config, const std::function<void(Tensors&)>& edit = {});

/// Zeroes rows (outputs) or columns (inputs) of a matrix with so many columns.
void zero_rows(std::vector<float>& matrix, std::int64_t cols, const std::vector<std::int64_t>& rows);
void zero_cols(std::vector<float>& matrix, std::int64_t cols, const std::vector<std::int64_t>& wanted);

/// 0 .. count - 1 without those of `kept`.
std::vector<std::int64_t> others(const std::vector<std::int64_t>& kept, std::int64_t count);

/// Logits of a fixed sequence of 40 tokens, or the message of what went wrong as a test failure.
std::vector<float> tiny_logits(const std::string& checkpoint);

/// Largest difference relative to the largest magnitude; infinity for different sizes.
double relative_difference(const std::vector<float>& a, const std::vector<float>& b);

/// A "tokens" artifact of random ids of the tiny vocabulary.
std::string tiny_tokens(std::int64_t sequences = 12, std::int64_t length = 32);

}  // namespace fettle::test
