// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace fettle::host {

/// The machine as far as it can matter to a result or to admission.
struct Machine {
  std::string cpu;     ///< "Intel(R) Xeon(R) ..."
  std::string isa;     ///< "avx512", "avx2" or "x86-64": the widest that kernels make use of
  unsigned cores = 1;  ///< that this process may use
};
const Machine& this_machine();

/// Bytes that can be had without swapping: what is free now, within the limit of the cgroup.
std::uint64_t available_memory();
/// The most memory that was resident in this process so far, bytes.
std::uint64_t peak_memory();

}  // namespace fettle::host
