// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/kernels/kernel_table.h"

#include <span>

namespace fettle::kit {

/// The fastest table this machine can run, chosen once. FETTLE_ISA=scalar|avx2|avx512|amx forces one, to find faults: the
/// results are the same. A value that cannot be honoured ends the program with a message.
const KernelTable& kernels();

/// Every table this machine can run, slowest first; for tests.
std::span<const KernelTable* const> usable_kernels();

/// The table `wanted` names, or the fastest if it is null or empty. Errors: unknown name, or not usable on this
/// machine.
Result<const KernelTable*> find_kernels(const char* wanted);

// Functions of one row, made of the above. n floats; y may be x.

/// y = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019, equation 4); returns rstd.
float rms_norm_row(float* y, const float* x, const float* weight, std::size_t n, float eps,
                   const KernelTable& table = kernels());

/// y = exp(x - max) / sum. A row that contains NaN or +inf, or nothing but -inf, becomes NaN.
void softmax_row(float* y, const float* x, std::size_t n, const KernelTable& table = kernels());

/// log(sum(exp(x))). `scratch` holds n floats.
float log_sum_exp_row(const float* x, float* scratch, std::size_t n, const KernelTable& table = kernels());

}  // namespace fettle::kit
