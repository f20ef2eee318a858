// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

namespace fettle::bench {

/// What one core can do at best, measured now, per second of this thread's CPU time: so that load by others counts
/// little. FMA on registers alone, in the widest vectors of this machine, GFLOP/s.
double fma_peak_gflops();
/// The same of products of bf16 numbers by AVX-512's instruction for them; 0 where there is none.
double bf16_dot_peak_gflops();
/// Reading `bytes` once, GB/s.
double read_gbps(const std::vector<std::byte>& memory);

}  // namespace fettle::bench
