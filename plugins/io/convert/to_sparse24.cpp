// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/sparse24_checkpoint.h"
#include "fettle_kit/io/checkpoint.h"

#include "convert.h"

namespace io_convert {

using fettle::Status;
using namespace fettle::kit;

Status to_sparse24(const std::string& dense, const std::string& folder, std::uint64_t shard_bytes,
                   fettle::Context& context) {
  FETTLE_ASSIGN(const Checkpoint model, Checkpoint::open(dense));
  CheckpointWriterOptions options;
  options.shard_bytes = shard_bytes;
  if (const auto sparsity = model.shards().front().metadata().find("fettle.sparsity");
      sparsity != model.shards().front().metadata().end())
    options.metadata.insert(*sparsity);
  FETTLE_ASSIGN(const Sparse24Written written,
                write_sparse24(folder, model, options, [&] { return !context.cancelled(); }));
  context.metric("compressed", static_cast<double>(written.matrices));
  context.metric("bytes_before", static_cast<double>(written.bytes_before), "B");
  context.metric("bytes", static_cast<double>(written.bytes), "B");
  return {};
}

}  // namespace io_convert
