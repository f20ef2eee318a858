// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace fettle::kit {

/// An importance matrix as llama.cpp's tools write and read it: for each weight matrix, by its GGUF name, how large the
/// inputs of each column were on some calibration text.
struct Imatrix {
  struct Entry {
    std::vector<float> sums;    ///< over tokens, of each column's squared input; [experts, columns]
    std::vector<float> counts;  ///< tokens seen, [experts]; one where there are no experts
    /// The mean square of each column, [experts, columns]; 1 for an expert that saw nothing.
    std::vector<float> means() const;
  };
  std::map<std::string, Entry, std::less<>> entries;
  std::vector<std::string> datasets;  ///< names of the texts
  std::uint32_t chunks = 0;           ///< runs of text
  std::uint32_t chunk_size = 0;       ///< tokens a run; 0: not known (the old form does not say)

  /// Reads the GGUF form, or the old form (.dat), told apart by their first bytes. `path`: the file, or a folder that
  /// holds just one such file. corrupt_data names what is wrong; NaN, infinity and sums below 0 are.
  static Result<Imatrix> open(const std::string& path);
  /// Writes the GGUF form.
  Status save(const std::string& path) const;
  /// The file that open() reads.
  static Result<std::string> file_of(const std::string& path);
};

}  // namespace fettle::kit
