// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/safetensors.h"
#include "fettle_kit/kernels/gemm.h"
#include "fettle_kit/text/token_set.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

// A "targets" artifact: what a teacher says of a token set, once, for many students. A folder with
//
//   targets.json                TargetsHeader
//   head.safetensors            content hidden: "head" [vocab, hidden] f16, bf16 or f32, the teacher's output matrix
//   part-00000.safetensors ...  rows of sequences i * sequences_per_part and on; a sequence of L ids has L - 1 rows,
//                               one for each id that is predicted from those before it. By content:
//     hidden    "hidden"    [rows, hidden] f16   the final hidden state, normalised: exact up to f16, any temperature
//     top       "ids"       [rows, k] u16/i32    the k most likely tokens, ascending
//               "log_p"     [rows, k] f16        ln of the teacher's probability at `temperature`
//               "tail"      [rows] f32           what they leave of the mass
//     samples   "distinct"  [rows] u8            how many distinct ids the row's draws gave
//               "ids"       [sum] u16/i32        row after row, ascending in a row
//               "counts"    [sum] u8             of each; they sum to `draws`
//
// ids are u16 for vocabularies up to 65,536.

enum class TargetContent { hidden, top, samples };
Result<TargetContent> parse_target_content(std::string_view text);  ///< "hidden", "top", "samples"
const char* name_of(TargetContent content);

struct TargetsHeader {
  TargetContent content = TargetContent::hidden;
  std::int64_t sequences = 0, length = 0;  ///< of the token set
  std::int64_t sequences_per_part = 0;
  std::int64_t vocab = 0;
  std::int64_t hidden = 0;  ///< content hidden: the teacher's width
  double softcap = 0;       ///< content hidden: of the teacher's logits; 0: none
  std::int64_t k = 0;       ///< content top: tokens a row; samples: draws a row
  double temperature = 1;   ///< content top and samples: of the distribution
  std::string tokenizer;    ///< digest
  std::string tokens;       ///< digest_of() of the token set
  std::string teacher;      ///< digest of the teacher's artifact, "" if nobody knew it

  std::int64_t rows_per_sequence() const { return length - 1; }
  std::int64_t parts() const { return (sequences + sequences_per_part - 1) / sequences_per_part; }
};

/// "sha256:..." over length and ids: what targets are bound to.
std::string digest_of(const TokenSet& tokens);

Status write_targets_header(const std::string& folder, const TargetsHeader& header);
std::string targets_part_name(std::int64_t part);

/// The rows of one part; only what the content needs is filled.
struct TargetsPart {
  std::vector<std::uint16_t> hidden;  ///< f16
  std::vector<std::int32_t> ids;
  std::vector<std::uint16_t> log_p;  ///< f16
  std::vector<float> tail;
  std::vector<std::uint8_t> distinct, counts;
};
/// Appears whole or not at all.
Status write_targets_part(const std::string& folder, const TargetsHeader& header, std::int64_t part,
                          const TargetsPart& rows);
Status write_targets_head(const std::string& folder, const StoredMatrix& head);
/// Whether the folder holds that part, complete and of this header; for a run that was interrupted.
bool has_targets_part(const std::string& folder, const TargetsHeader& header, std::int64_t part);

/// Reads untrusted targets: header, shapes and types are checked on opening, ids and numbers as rows are read.
/// corrupt_data. [any thread once open]
class Targets {
 public:
  static Result<Targets> open(const std::string& folder);
  const TargetsHeader& header() const { return header_; }
  /// Content hidden: [vocab, hidden], in the mapped file.
  const StoredMatrix& head() const { return head_; }

  /// Content hidden: the rows of a sequence, [length - 1, hidden].
  Status read_hidden(std::int64_t sequence, std::span<float> rows) const;
  /// Content top and samples: [length - 1, k]; ids -1 where a row has fewer. Log-probabilities of `top` are shifted so
  /// that they and the stored tail sum to 1; those of `samples` are ln(count / draws).
  Status read_known(std::int64_t sequence, std::span<std::int32_t> ids, std::span<float> log_p) const;

  /// Refuses to be used with other tokens, another tokenizer or vocabulary; names what differs.
  Status check_bound_to(const TokenSet& tokens, std::int64_t student_vocab) const;

 private:
  struct Part {
    SafetensorsReader file;
    const TensorView *hidden = nullptr, *ids = nullptr, *log_p = nullptr, *tail = nullptr, *distinct = nullptr,
                     *counts = nullptr;
    std::vector<std::int64_t> first;  ///< content samples: where each row begins in ids, and the end
  };
  Status open_part(const std::string& path, std::int64_t index);
  Status bad_row(std::int64_t sequence, std::int64_t row, const std::string& what) const;

  TargetsHeader header_;
  std::string folder_;
  std::unique_ptr<SafetensorsReader> head_file_;
  StoredMatrix head_;
  std::vector<Part> parts_;
};

}  // namespace fettle::kit
