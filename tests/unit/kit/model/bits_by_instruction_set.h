// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/kernels/kernels.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>

namespace fettle::test {

/// Runs this program again with one test, once for each instruction set of the machine, since a process chooses but
/// once; gives what the test printed behind "bits: ".
inline std::map<std::string, std::string> bits_by_instruction_set(const std::string& name) {
  std::map<std::string, std::string> digests;
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  for (const kit::KernelTable* table : kit::usable_kernels()) {
    const std::string command = "FETTLE_ISA=" + std::string(table->name) + " '" + self + "' --gtest_filter=" + name;
    FILE* const child = popen(command.c_str(), "r");
    if (child == nullptr) break;
    std::array<char, 256> line{};
    while (std::fgets(line.data(), line.size(), child))
      if (std::string(line.data()).starts_with("bits: ")) digests[table->name] = line.data();
    EXPECT_EQ(pclose(child), 0) << table->name;
  }
  return digests;
}

}  // namespace fettle::test
