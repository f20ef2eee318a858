// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/distill/targets.h"
#include "fettle_kit/eval/model_cost.h"
#include "fettle_kit/eval/scoring.h"
#include "fettle_kit/io/message.h"
#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/model/decoder.h"

#include "teacher_rows.h"

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using fettle::Code;
using fettle::Status;
using namespace fettle::kit;

/// A part is held in memory until it is written.
constexpr double kPartBytes = 64 << 20;

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

class DistillTargets {
 public:
  struct Params {
    std::string content = "hidden";
    int k = 64;
    int draws = 50;
    double temperature = 1;
    std::string tail = "keep";
  };

  static fettle::Description<Params> describe() {
    return fettle::Description<Params>("distill.targets", "Keep what a teacher says of a text, for many students.")
        .epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)
        .reference("Anshumann et al. 2025, arXiv:2503.16870 (random draws); Muralidharan et al. 2024, arXiv:2407.14679")
        .input("teacher", "model", "the model to learn from")
        .input("data", "tokens", "what the students will be trained on", "tokenizer=@teacher")
        .output("targets", "targets", "for the port 'targets' of distill.logits")
        .param("content", &Params::content,
               "hidden: final hidden state and output matrix, exact at any temperature; top: the k most likely tokens "
               "and the mass of the rest; samples: random draws",
               fettle::one_of({"hidden", "top", "samples"}))
        .param("k", &Params::k, "tokens a position, for 'top'", fettle::in_range(1, 65536))
        .param("draws", &Params::draws, "draws a position, for 'samples'", fettle::in_range(1, 255))
        .param("temperature", &Params::temperature,
               "of the distribution that 'top' and 'samples' keep; training must use the same",
               fettle::in_range(0.01, 100))
        .param(
            "tail", &Params::tail,
            "of 'top', the mass of all other tokens; drop: the k are made to sum to 1, as some tools do, and students "
            "learn to be too sure: to compare with, not to use",
            fettle::one_of({"keep", "drop"}));
  }

  static double bytes_per_token(const Params& p, double hidden, double vocab) {
    const double id = vocab <= 65536 ? 2 : 4;
    if (p.content == "hidden") return 2 * hidden;
    return p.content == "top" ? p.k * (id + 2) + 4 : 1 + p.draws * (id + 1);
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    const ModelCost teacher(in.at("teacher"));
    const fettle::Input data = in.at("data");
    const double tokens = data.number("sequences") * data.number("length");
    const double each = bytes_per_token(p, teacher.hidden, teacher.vocab);
    const double disk = tokens * each + (p.content == "hidden" ? 4 * teacher.vocab * teacher.hidden : 0);
    // The part that is gathered, twice when it is narrowed for the file.
    e.memory(teacher.forward_bytes(std::max(double{batch_rows}, data.number("length"))) + 2 * kPartBytes + 4 * tokens +
             64e6)
        .disk(2 * disk)  // the folder of checkpoints and the artifact
        .flops(teacher.flops(tokens));
    e.attribute("targets", "content", p.content);
    for (const char* key : {"tokenizer", "sequences", "length"})
      if (const auto value = data.attribute(key); !value.empty()) e.attribute("targets", key, std::string(value));
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    FETTLE_ASSIGN(const Decoder teacher, [&]() -> fettle::Result<Decoder> {
      FETTLE_ASSIGN(Weights weights, Weights::open(context.inputs.at("teacher").path()));
      return Decoder::open(std::move(weights));
    }());
    FETTLE_ASSIGN(const TokenSet tokens, TokenSet::open(context.inputs.at("data").path()));
    FETTLE_TRY(check(teacher.config(), tokens));
    FETTLE_ASSIGN(const TargetContent content, parse_target_content(p.content));

    TargetsHeader header;
    header.content = content;
    header.sequences = tokens.sequences(), header.length = tokens.length();
    header.vocab = teacher.config().vocab;
    if (content == TargetContent::hidden) {
      header.hidden = teacher.config().hidden;
      header.softcap = teacher.config().logit_softcap;
    } else {
      header.k = content == TargetContent::top ? std::min<std::int64_t>(p.k, header.vocab) : p.draws;
      header.temperature = p.temperature;
    }
    header.tokenizer = tokens.tokenizer_digest();
    header.tokens = digest_of(tokens);
    header.teacher = std::string(context.inputs.at("teacher").digest());
    const double each =
        bytes_per_token(p, static_cast<double>(teacher.config().hidden), static_cast<double>(header.vocab));
    header.sequences_per_part = std::clamp<std::int64_t>(
        static_cast<std::int64_t>(kPartBytes / (each * static_cast<double>(header.rows_per_sequence()))),
        std::int64_t{1}, header.sequences);

    // Parts survive a kill in the folder of checkpoints, and become the artifact once all are there.
    const std::string work = context.checkpoint(), output = context.output("targets");
    double bytes = 0;
    for (std::int64_t part = 0; part < header.parts(); ++part) {
      if (!has_targets_part(work, header, part)) FETTLE_TRY(make_part(p, teacher, tokens, header, part, context, work));
      bytes += static_cast<double>(fs::file_size(fs::path(work) / targets_part_name(part)));
    }
    for (std::int64_t part = 0; part < header.parts(); ++part) {
      const fs::path from = fs::path(work) / targets_part_name(part), to = fs::path(output) / targets_part_name(part);
      std::error_code error;
      fs::rename(from, to, error);
      if (error) FETTLE_TRY(copy_file(from.string(), to.string()));
    }
    if (content == TargetContent::hidden) {
      FETTLE_ASSIGN(const StoredMatrix head, teacher.weights().head());
      FETTLE_TRY(write_targets_head(output, head));
      context.metric("head_bytes", static_cast<double>(fs::file_size(fs::path(output) / "head.safetensors")), "bytes");
    }
    FETTLE_TRY(write_targets_header(output, header));
    context.metric("bytes_per_token", bytes / static_cast<double>(header.sequences * header.rows_per_sequence()),
                   "bytes");
    context.metric("tokens", static_cast<double>(header.sequences * header.rows_per_sequence()), "tokens");
    return {};
  }

 private:
  static Status check(const ModelConfig& config, const TokenSet& tokens) {
    if (tokens.sequences() < 1) return {Code::invalid_argument, "there are no sequences", "data"};
    if (tokens.length() < 2)
      return {Code::invalid_argument,
              fmt::format("the sequences are {} id long; at least 2 are needed", tokens.length()), "data"};
    if (tokens.length() > config.context)
      return {Code::invalid_argument,
              fmt::format("the sequences are {} ids long, but the teacher's context is {}; make them shorter with "
                          "'length' of data.tokens",
                          tokens.length(), config.context),
              "data"};
    return {};
  }

  static Status not_finite(std::int64_t sequence) {
    return {Code::corrupt_data,
            fmt::format("the teacher's output for sequence {} holds NaN, infinity or numbers beyond f16; look for such "
                        "values in its weights",
                        sequence),
            "teacher"};
  }

  static Status make_part(const Params& p, const Decoder& teacher, const TokenSet& tokens, const TargetsHeader& header,
                          std::int64_t part, const fettle::Context& context, const std::string& folder) {
    const std::int64_t first = part * header.sequences_per_part;
    const std::int64_t end = std::min(first + header.sequences_per_part, header.sequences), length = header.length;
    const std::int64_t per_batch = std::max<std::int64_t>(1, batch_rows / length);
    TargetsPart rows;
    for (std::int64_t at = first; at < end; at += per_batch) {
      const Batch batch{std::min(per_batch, end - at), length};
      Rows hidden(batch.rows(), teacher.config().hidden);
      FETTLE_TRY(teacher.forward(hidden, tokens.ids().subspan(size(at * length), size(batch.rows())), batch, nullptr,
                                 [&] { return context.cancelled(); }));
      for (std::int64_t s = 0; s < batch.sequences; ++s)
        FETTLE_TRY(add_sequence(p, rows, teacher, header, at + s,
                                MutMatrix(hidden).rows_from(s * length, header.rows_per_sequence()), context));
      context.progress("sequences", static_cast<std::uint64_t>(at + batch.sequences),
                       static_cast<std::uint64_t>(header.sequences));
    }
    return write_targets_part(folder, header, part, rows);
  }

  static Status add_sequence(const Params& p, TargetsPart& out, const Decoder& teacher, const TargetsHeader& h,
                             std::int64_t sequence, ConstMatrix hidden, const fettle::Context& context) {
    if (h.content == TargetContent::hidden) {
      const std::size_t n = size(hidden.rows * hidden.cols), from = out.hidden.size();
      out.hidden.resize(from + n);
      kernels().f32_to_f16(out.hidden.data() + from, hidden.data, n);
      const auto bad = [](std::uint16_t half) { return (half & 0x7c00u) == 0x7c00u; };
      if (std::any_of(out.hidden.begin() + static_cast<std::ptrdiff_t>(from), out.hidden.end(), bad))
        return not_finite(sequence);
      return {};
    }
    const std::int64_t chunk = std::min(teacher.logit_rows(), hidden.rows);
    Rows logits(chunk, h.vocab);
    for (std::int64_t begin = 0; begin < hidden.rows; begin += chunk) {
      const std::int64_t count = std::min(chunk, hidden.rows - begin);
      const MutMatrix view = MutMatrix(logits).rows_from(0, count);
      teacher.logits(view, hidden.rows_from(begin, count));
      const auto places = size(h.k);
      std::vector<std::int32_t> ids(size(count) * places);
      std::vector<std::uint8_t> counts(ids.size()), distinct(size(count));
      std::vector<std::uint16_t> log_p(ids.size());
      std::vector<float> tail(size(count));
      std::atomic<bool> good = true;
      tbb::parallel_for(std::size_t{0}, size(count), [&](std::size_t i) {
        const std::span<float> row = view.row(static_cast<std::int64_t>(i));
        const auto row_ids = std::span(ids).subspan(i * places, places);
        if (h.content == TargetContent::top) {
          if (!distill_targets::most_likely(row, h.temperature, p.tail == "keep", row_ids,
                                            std::span(log_p).subspan(i * places, places), tail[i]))
            good = false;
          return;
        }
        const auto global = static_cast<std::uint64_t>(sequence * h.rows_per_sequence() + begin) + i;
        const std::size_t found = distill_targets::draw(row, h.temperature, places, context.seed(), global, row_ids,
                                                        std::span(counts).subspan(i * places, places));
        distinct[i] = static_cast<std::uint8_t>(found);
        if (found == 0) good = false;
      });
      if (!good) return not_finite(sequence);
      if (h.content == TargetContent::top) {
        out.ids.insert(out.ids.end(), ids.begin(), ids.end());
        out.log_p.insert(out.log_p.end(), log_p.begin(), log_p.end());
        out.tail.insert(out.tail.end(), tail.begin(), tail.end());
        continue;
      }
      for (std::size_t i = 0; i < distinct.size(); ++i) {
        const auto from = static_cast<std::ptrdiff_t>(i * places), to = from + distinct[i];
        out.ids.insert(out.ids.end(), ids.begin() + from, ids.begin() + to);
        out.counts.insert(out.counts.end(), counts.begin() + from, counts.begin() + to);
      }
      out.distinct.insert(out.distinct.end(), distinct.begin(), distinct.end());
    }
    return {};
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-distill-targets", "0.1.0", "Fettle", "Apache-2.0", DistillTargets)
