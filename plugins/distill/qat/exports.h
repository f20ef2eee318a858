// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/fake_quant.h"
#include "fettle_kit/compress/quantization.h"
#include "fettle_kit/distill/distillation.h"
#include "fettle_kit/io/checkpoint.h"

#include "learned_range.h"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace distill_qat {

struct Params : fettle::kit::DistillParams, fettle::kit::IntegerParams {
  std::string scheme = "gguf";
  std::optional<std::string> type;
  bool learn_steps = false;
  std::optional<std::string> scales;

  Params() {
    lr = 3e-5, min_lr = 3e-6;
    weight_decay = 0;
  }
};

/// How a tensor of the student lies in the exported file.
struct Export {
  std::string tensor;
  std::shared_ptr<const fettle::kit::FakeQuantizer> quantizer;  ///< null: as in the checkpoint
  bool quantized = false;                                       ///< to fewer bits than the checkpoint has
  std::vector<std::string> sharing;                ///< the tensors that share a scale with it, where one spans a matrix
  std::optional<fettle::kit::GridScheme> learned;  ///< its steps are learned
};

/// What can be wrong with the parameters alone.
fettle::Status check_scheme(const Params& params);
/// What can be wrong with them together with what a plan knows of the student.
fettle::Status check_shapes(const Params& params, const fettle::Input& student);

/// What the technique that `scheme` stands for will make of a checkpoint of the student in type `stored`: every tensor
/// in the order of the model, none for scheme `none`. What that technique would refuse is refused here. Appends to
/// `warnings` what it would warn of.
fettle::Result<std::vector<Export>> plan_exports(const Params& params, const fettle::kit::Checkpoint& student,
                                                 const fettle::kit::Network& network, fettle::kit::DType stored,
                                                 std::vector<std::string>& warnings);

/// By the name of the tensor.
using LearnedRanges = std::map<std::string, std::shared_ptr<LearnedRange>>;

/// Makes the network use its parameters as they will be exported. What is learned beside them borrows its backend.
/// Errors: a weight that is not finite.
fettle::Result<LearnedRanges> show_exports(fettle::kit::Network& network, const std::vector<Export>& exports,
                                           fettle::kit::DType stored);

}  // namespace distill_qat
