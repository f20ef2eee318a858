// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/nn/loss.h"

#include <cstdint>
#include <span>
#include <vector>

/// The losses of loss.h in f64 as their papers write them, with the standard library's exp and log and no attention to
/// speed: what the fast ones are tested against, and themselves tested against finite differences.
namespace fettle::kit::reference {

/// As loss.h, but z is kept and the scaled gradient goes into `gradient` [V].
RowLoss label_loss(std::span<double> gradient, std::span<const double> z, std::int32_t label, double scale);
RowLoss dense_loss(std::span<double> gradient, std::span<const double> z, std::span<const double> t, std::int32_t label,
                   const LossSpec& spec, const LossScales& scales);
RowLoss sparse_loss(std::span<double> gradient, std::span<const double> z, const RowTargets& targets,
                    std::int32_t label, const LossSpec& spec, const LossScales& scales);

}  // namespace fettle::kit::reference
