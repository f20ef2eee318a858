// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/io/safetensors.h"

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// A Hugging Face checkpoint folder: config.json and model.safetensors, or shards with their index. Mapped, not read.
/// Opening checks the index against the files, both ways: not_found for what is missing,
/// corrupt_data for what contradicts itself. Move-only. [any thread once open]
class Checkpoint {
 public:
  static Result<Checkpoint> open(const std::string& folder);
  const std::string& folder() const { return folder_; }
  const Json& config() const { return *config_; }  ///< an object
  /// All tensors, shard by shard in file-name order, inside a shard in file order; those that a family stores as one
  /// apart (fused_tensors.h).
  const std::vector<const TensorView*>& tensors() const { return tensors_; }
  const TensorView* find(std::string_view name) const;
  /// The tensor, or an error that names it and the folder.
  Result<const TensorView*> require(std::string_view name) const;
  const std::vector<SafetensorsReader>& shards() const { return *shards_; }
  /// Releases the pages of a tensor that will not be looked at again soon.
  void drop(const TensorView& tensor) const;

 private:
  std::string folder_;
  std::shared_ptr<const Json> config_;
  std::unique_ptr<std::vector<SafetensorsReader>> shards_;
  std::deque<TensorView> parts_;  ///< of fused tensors
  std::vector<const TensorView*> tensors_;
  std::map<std::string, const TensorView*, std::less<>> index_;
};

/// Writes a checkpoint folder: weights streamed into shards, everything else carried over.
struct CheckpointWriterOptions {
  std::uint64_t shard_bytes = 5'000'000'000;    ///< transformers' classic limit; a single shard gets no index
  std::map<std::string, std::string> metadata;  ///< into __metadata__ of every shard; must be deterministic
};

/// Produces the bytes of one tensor by calling `sink` any number of times in order.
using TensorSink = std::function<Status(std::span<const std::byte>)>;
using TensorSource = std::function<Status(const TensorSpec&, const TensorSink&)>;

/// Writes config.json (`config`), the shards, and the index last; copies every other file of `from` byte for byte
/// (tokenizer, generation config, unknown files, in subfolders too; not weights in any format, not `original/`, not
/// hidden folders). Links to files are followed. `from` may be "": nothing is carried over. Tensors go into shards in
/// the order of `specs`, and `source` is called in that order; inside a shard they lie as ordered_for_safetensors says.
/// `folder` is made if need be, and must not hold weights yet. Until this returns success, what it holds is unfinished.
/// For tensors that come in another order: CheckpointBuilder.
Status write_checkpoint(const std::string& folder, const Json& config, std::vector<TensorSpec> specs,
                        const TensorSource& source, const std::string& from,
                        const CheckpointWriterOptions& options = {});

}  // namespace fettle::kit
