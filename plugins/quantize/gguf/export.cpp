// SPDX-License-Identifier: Apache-2.0
#include "export.h"

#include <fmt/format.h>
#include <tbb/parallel_pipeline.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

namespace quantize_gguf {

using fettle::Code;
using fettle::Result;
using fettle::Status;
using namespace fettle::kit;

namespace {

/// Weights a chunk: enough work to outweigh its scheduling, little enough to keep many in flight.
constexpr std::int64_t kChunkWeights = 1 << 18;
/// Weights converted to f32 at a time: they stay in the second-level cache until they are quantized.
constexpr std::int64_t kStripWeights = 1 << 15;

struct Chunk {
  std::size_t tensor = 0;
  std::int64_t first_row = 0, rows = 0;
  bool last = false;
  std::vector<std::byte> bytes;
};

/// How many are NaN or infinite.
std::int64_t count_not_finite(std::span<const float> x) {
  std::int64_t count = 0;
  for (const float v : x) count += (std::bit_cast<std::uint32_t>(v) & 0x7f800000u) == 0x7f800000u ? 1 : 0;
  return count;
}

/// The files of the model, one after the other. llama.cpp's rule: a part ends where the next tensor would take its data
/// beyond the limit; the first part holds the metadata, and each says which it is.
class Parts {
 public:
  static Result<Parts> of(const std::string& folder, const Plan& plan, std::uint64_t limit) {
    Parts out;
    out.parts_.emplace_back();
    std::uint64_t bytes = 0;
    for (const PlannedTensor& t : plan.tensors) {
      const std::uint64_t size = (stored_bytes(t) + 31) / 32 * 32;
      if (limit > 0 && bytes > 0 && bytes + size > limit) {
        out.parts_.emplace_back();
        bytes = 0;
      }
      bytes += size;
      out.parts_.back().tensors.push_back({t.layout.name, t.choice.type, t.layout.shape});
    }
    const std::size_t count = out.parts_.size();
    if (count > 99999)
      return Status(Code::invalid_argument,
                    fmt::format("parts of this size would be {} files; give a larger 'part_size'", count), "part_size");
    for (std::size_t i = 0; i < count; ++i) {
      Part& part = out.parts_[i];
      part.path =
          count == 1 ? folder + "/model.gguf" : fmt::format("{}/model-{:05}-of-{:05}.gguf", folder, i + 1, count);
      if (i == 0) part.metadata = plan.metadata;
      if (count == 1) continue;
      part.metadata.emplace_back("split.no", static_cast<std::uint16_t>(i));
      part.metadata.emplace_back("split.count", static_cast<std::uint16_t>(count));
      part.metadata.emplace_back("split.tensors.count", static_cast<std::int32_t>(plan.tensors.size()));
    }
    FETTLE_TRY(out.begin());
    return out;
  }

  Status append(const std::string& tensor, std::span<const std::byte> bytes, bool last) {
    FETTLE_TRY(file_->append(tensor, bytes));
    if (!last || ++written_ < parts_[part_].tensors.size() || part_ + 1 == parts_.size()) return {};
    FETTLE_TRY(file_->finish());
    ++part_;
    return begin();
  }
  Status finish() { return file_->finish(); }

 private:
  struct Part {
    std::string path;
    GgufMetadata metadata;
    std::vector<TensorSpec> tensors;
  };
  Status begin() {
    FETTLE_ASSIGN(GgufWriter next,
                  GgufWriter::create(parts_[part_].path, parts_[part_].metadata, parts_[part_].tensors));
    file_.emplace(std::move(next));
    written_ = 0;
    return {};
  }
  std::vector<Part> parts_;
  std::optional<GgufWriter> file_;
  std::size_t part_ = 0, written_ = 0;
};

/// The stages of the pipeline and what they share.
class Writer {
 public:
  Writer(Parts& file, const DenseCheckpoint& model, const Plan& plan, const Options& options, const Progress& progress)
      : file_(file),
        model_(model),
        plan_(plan),
        options_(options),
        progress_(progress),
        not_finite_(plan.tensors.size()) {
    for (const PlannedTensor& t : plan.tensors) total_ += row_shape(t).rows * row_shape(t).cols;
  }

  Status run() {
    const auto in_flight = static_cast<std::size_t>(2 * tbb::this_task_arena::max_concurrency() + 2);
    tbb::parallel_pipeline(
        in_flight, tbb::make_filter<void, Chunk>(tbb::filter_mode::serial_in_order, [this](tbb::flow_control& flow) {
                     return next(flow);
                   }) & tbb::make_filter<Chunk, Chunk>(tbb::filter_mode::parallel, [this](Chunk chunk) {
                     return fill(std::move(chunk));
                   }) & tbb::make_filter<Chunk, void>(tbb::filter_mode::serial_in_order, [this](const Chunk& chunk) {
                     write(chunk);
                   }));
    return status_;
  }

  std::vector<std::string> notes() const {
    std::vector<std::string> out;
    for (std::size_t i = 0; i < plan_.tensors.size(); ++i)
      if (const std::int64_t n = not_finite_[i]; n > 0)
        out.push_back(fmt::format(
            "tensor '{}' holds {} values that are NaN or infinite; {}", plan_.tensors[i].layout.hf_name, n,
            info(plan_.tensors[i].choice.type).block_elems > 1 ? "they were stored as 0" : "they were kept"));
    return out;
  }

 private:
  Chunk next(tbb::flow_control& flow) {
    while (tensor_ < plan_.tensors.size() && row_ >= row_shape(plan_.tensors[tensor_]).rows) {
      ++tensor_;
      row_ = 0;
    }
    if (tensor_ == plan_.tensors.size() || failed_) {
      flow.stop();
      return {};
    }
    const auto [rows, cols] = row_shape(plan_.tensors[tensor_]);
    const std::int64_t most = rows_at_once(plan_.tensors[tensor_], kChunkWeights / cols);
    Chunk chunk{tensor_, row_, std::min(rows - row_, most), false, {}};
    row_ += chunk.rows;
    chunk.last = row_ == rows;
    return chunk;
  }

  Chunk fill(Chunk chunk) {
    if (failed_) return chunk;
    const PlannedTensor& t = plan_.tensors[chunk.tensor];
    const std::int64_t cols = row_shape(t).cols;
    const DType type = t.choice.type;
    chunk.bytes.resize(bytes_of(type, static_cast<std::uint64_t>(chunk.rows * cols)));
    if (t.sources.empty()) {
      std::memcpy(chunk.bytes.data(), t.layout.factors.data(), chunk.bytes.size());
      return chunk;
    }
    const std::int64_t strip = rows_at_once(t, kStripWeights / cols);
    std::vector<float> x(static_cast<std::size_t>(std::min(strip, chunk.rows) * cols));
    std::byte* out = chunk.bytes.data();
    std::int64_t rows = 0;
    for (std::int64_t done = 0; done < chunk.rows; done += rows) {
      if (progress_.cancelled()) return fail(std::move(chunk), {Code::cancelled, "cancelled"});
      const float* importance = nullptr;
      rows = std::min({strip, chunk.rows - done, rows_alike(t, chunk.first_row + done, &importance)});
      const std::span<float> values(x.data(), static_cast<std::size_t>(rows * cols));
      gather(t, chunk.first_row + done, rows, cols, values.data());
      if (const std::int64_t bad = count_not_finite(values); bad > 0) {
        if (!options_.keep_nan) return fail(std::move(chunk), not_finite(t, values, cols, chunk.first_row + done));
        not_finite_[chunk.tensor] += bad;
        if (info(type).block_elems > 1)
          for (float& v : values)
            if (!std::isfinite(v)) v = 0;
      }
      store(type, options_.metadata.mode, values.data(), out, rows, cols, importance);
      out += bytes_of(type, values.size());
    }
    return chunk;
  }

  static Status not_finite(const PlannedTensor& t, std::span<const float> values, std::int64_t cols,
                           std::int64_t first_row) {
    const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
    const std::int64_t at = bad - values.begin();
    const std::int64_t row = first_row + at / cols;
    return {
        Code::corrupt_data,
        fmt::format(
            "tensor '{}' holds {} at row {}, column {}; repair the model, or set 'nan: keep' to quantize it as it is",
            t.layout.hf_name, std::isnan(*bad) ? "NaN" : "infinity",
            t.layout.head_dim > 0 ? gguf_source_row(row, t.layout.head_dim) : row, at % cols)};
  }

  void write(const Chunk& chunk) {
    if (failed_) return;
    const PlannedTensor& t = plan_.tensors[chunk.tensor];
    if (Status written = file_.append(t.layout.name, chunk.bytes, chunk.last); !written) {
      fail({}, std::move(written));
      return;
    }
    if (chunk.last)
      for (const DenseTensor* source : t.sources)
        for (const TensorView* part : source->parts) model_.stored().drop(*part);
    done_ += chunk.rows * row_shape(t).cols;
    progress_.report(static_cast<std::uint64_t>(done_), static_cast<std::uint64_t>(total_));
  }

  /// Keeps the error of the earliest chunk, so that the message does not depend on the threads.
  Chunk fail(Chunk chunk, Status status) {
    const std::lock_guard lock(mutex_);
    const auto place = std::make_pair(chunk.tensor, chunk.first_row);
    if (!failed_ || place < failed_at_) {
      status_ = std::move(status);
      failed_at_ = place;
    }
    failed_ = true;
    return chunk;
  }

  Parts& file_;
  const DenseCheckpoint& model_;
  const Plan& plan_;
  const Options& options_;
  const Progress& progress_;
  std::size_t tensor_ = 0;             // of the first stage
  std::int64_t row_ = 0;               // of the first stage
  std::int64_t done_ = 0, total_ = 0;  // of the last stage
  std::vector<std::atomic<std::int64_t>> not_finite_;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  Status status_;
  std::pair<std::size_t, std::int64_t> failed_at_;
};

}  // namespace

Result<std::vector<std::string>> write_files(const std::string& folder, const DenseCheckpoint& model, const Plan& plan,
                                             const Options& options, const Progress& progress) {
  FETTLE_ASSIGN(Parts parts, Parts::of(folder, plan, options.part_bytes));
  Writer writer(parts, model, plan, options, progress);
  FETTLE_TRY(writer.run());
  FETTLE_TRY(parts.finish());
  return writer.notes();
}

}  // namespace quantize_gguf
