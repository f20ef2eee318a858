// SPDX-License-Identifier: Apache-2.0
// Writes the seeds of a fuzz target into a folder, a file each, for libFuzzer to start from.
#include "fuzz/fuzz_driver.h"

#include <cstdio>
#include <filesystem>
#include <fstream>

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  int number = 0;
  for (const std::string& seed : fuzz_seeds()) {
    std::ofstream file(std::filesystem::path(argv[1]) / std::to_string(number++), std::ios::binary);
    if (!file.write(seed.data(), static_cast<std::streamsize>(seed.size())).flush()) {
      std::fprintf(stderr, "%s: cannot write a seed\n", argv[1]);
      return 1;
    }
  }
}
