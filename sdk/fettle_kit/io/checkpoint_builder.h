// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/fused_tensors.h"

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// Writes a checkpoint folder whose tensors come in whatever order the work yields them: their places in the shards are
/// fixed by the specs, so the files are the same bytes for any order. What write_checkpoint() says of config.json,
/// carried files, shards and the index holds here; parts of tensors that a family stores as one come by their own names
/// (fused_tensors.h). A shard's file is open from its first byte until its last.
/// Constant memory. One thread at a time.
class CheckpointBuilder {
 public:
  /// Takes the room for a shard when its first bytes come. Carries the files of `from` at once ("": none).
  static Result<CheckpointBuilder> create(const std::string& folder, const Json& config, std::vector<TensorSpec> specs,
                                          const std::string& from, CheckpointWriterOptions options = {});
  /// The next bytes of `tensor`, a part or all of it. Several tensors may be under way.
  Status append(std::string_view tensor, std::span<const std::byte> bytes);
  /// Writes the index. invalid_argument, naming it, if a tensor is incomplete.
  Status finish();

 private:
  struct Shard {
    std::string file_name;
    std::vector<StoredTensor> tensors;
    std::size_t unfinished = 0;    ///< tensors
    std::vector<OutputFile> file;  ///< one while it is being written
  };
  struct Place {
    std::size_t shard = 0;
    std::uint64_t offset = 0, size = 0, written = 0;  ///< offset: in its tensor, in the file once the shard is open
  };
  Status open_shard(Shard& shard);

  std::string folder_;
  CheckpointWriterOptions options_;
  std::uint64_t total_ = 0;
  std::vector<Shard> shards_;
  std::map<std::string, Place, std::less<>> places_;
};

}  // namespace fettle::kit
