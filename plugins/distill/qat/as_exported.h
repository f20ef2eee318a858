// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/fake_quant.h"
#include "fettle_kit/model/network.h"
#include "fettle_kit/tensor/dtype.h"

#include "learned_range.h"

#include <memory>
#include <vector>

namespace distill_qat {

/// Shows forward a tensor as the exported file will hold it: rounded to the type of the checkpoint, then by the
/// quantizer that will read that checkpoint. The gradient of what was used counts as the master's own, but for weights
/// that the end of a grid held back (straight-through with a clipped gradient).
///
/// A master that is not finite is shown as it is, so that the loss tells.
class AsExported final : public fettle::kit::WeightTransform {
 public:
  /// `quantizer` may be null: the file holds what the checkpoint holds. `sharing`: the masters of the matrices that
  /// share a scale with this one, itself among them; empty unless the quantizer has one scale a tensor. `range`, if
  /// there is one, cuts the master first.
  AsExported(fettle::kit::DType stored, std::shared_ptr<const fettle::kit::FakeQuantizer> quantizer,
             std::vector<fettle::kit::Array> sharing = {}, std::shared_ptr<const LearnedRange> range = nullptr);

  void apply(fettle::kit::Backend& backend, const fettle::kit::Array& used,
             const fettle::kit::Array& master) const override;
  void filter_gradient(fettle::kit::Backend& backend, const fettle::kit::Array& gradient,
                       const fettle::kit::Array& master) const override;

 private:
  float magnitude(fettle::kit::Backend& backend) const;

  fettle::kit::DType stored_;
  std::shared_ptr<const fettle::kit::FakeQuantizer> quantizer_;
  std::vector<fettle::kit::Array> sharing_;
  std::shared_ptr<const LearnedRange> range_;
};

}  // namespace distill_qat
