// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

// The trained 3M-parameter model that the project carries, and text it has not seen: enough to ask whether a technique
// hurts less than another.

namespace fettle::test {

/// A Hugging Face checkpoint: llama, hidden 256, 4 layers, bf16.
std::string prose_model();

/// A "tokens" artifact of that many sequences of 128 tokens from the front of the text.
std::string prose_tokens(std::int64_t sequences);

/// The first half of the text as a "tokens" artifact.
std::string prose_calibration();

/// Mean negative log-likelihood, in nats a token, of `model` on the second half of the text.
double prose_nll(const std::string& model);

std::string file_bytes(const std::string& path);

}  // namespace fettle::test
