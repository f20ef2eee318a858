// SPDX-License-Identifier: Apache-2.0
#include "width.h"

#include "fettle_kit/calibrate/block_linears.h"
#include "fettle_kit/calibrate/structured.h"
#include "fettle_kit/io/message.h"
#include "fettle_kit/model/sliced_config.h"
#include "fettle_kit/tensor/dtype.h"
#include "fettle_kit/tensor/philox.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace width {
namespace {

using fettle::Code;
using fettle::Status;
using namespace fettle::kit;

constexpr std::int64_t k_quant_row = 256;

std::string number(std::int64_t value) { return grouped(static_cast<std::uint64_t>(value)); }

/// The multiples around a size that is none, as a remedy.
std::string nearest(std::int64_t size, std::int64_t multiple, std::int64_t most) {
  const std::int64_t below = size / multiple * multiple, above = below + multiple;
  if (below == 0) return fmt::format("{} would fit", above);
  if (above > most) return fmt::format("{} would fit", below);
  return fmt::format("{} or {} would fit", below, above);
}

Result<std::int64_t> wanted_size(const char* share_key, std::optional<double> share, const char* size_key,
                                 std::optional<std::int64_t> size, std::int64_t dense, const Wish& wish) {
  const std::int64_t multiple = multiple_of(wish, dense);
  if (size) {
    if (*size > dense)
      return Status(Code::invalid_argument, fmt::format("{} is {}, but the model has {}", size_key, *size, dense),
                    size_key);
    if (wish.multiple && *size % multiple != 0 && *size != dense)
      return Status(Code::invalid_argument,
                    fmt::format("{} is {}, but must be a multiple of {} ('multiple'); {}", size_key, *size, multiple,
                                nearest(*size, multiple, dense)),
                    size_key);
    return *size;
  }
  if (!share || *share == 1) return dense;
  const double wanted = *share * static_cast<double>(dense);
  const std::int64_t rounded =
      std::max<std::int64_t>(1, std::llround(wanted / static_cast<double>(multiple))) * multiple;
  if (rounded >= dense)
    return Status(Code::invalid_argument,
                  fmt::format("{} of {} is {:.0f}, which rounds to all of them by multiples of {}; keep less, or lower "
                              "'multiple'",
                              *share, dense, wanted, multiple),
                  share_key);
  return rounded;
}

/// Sums of squares by rows and by columns of a stored matrix.
struct Squares {
  std::vector<double> rows, cols;
  explicit Squares(const StoredMatrix& m)
      : rows(static_cast<std::size_t>(m.rows)), cols(static_cast<std::size_t>(m.cols)) {
    std::vector<float> row(cols.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      read_rows(MutMatrix(row.data(), 1, m.cols), m, static_cast<std::int64_t>(i));
      for (std::size_t j = 0; j < row.size(); ++j) {
        const auto w = static_cast<double>(row[j]);
        rows[i] += w * w;
        cols[j] += w * w;
      }
    }
  }
};

double sum_of_run(const std::vector<double>& values, std::int64_t run, std::int64_t length) {
  double sum = 0;
  for (std::int64_t j = run * length; j < (run + 1) * length; ++j) sum += values[static_cast<std::size_t>(j)];
  return sum;
}

void add_to(std::vector<double>& sums, const std::vector<double>& more) {
  for (std::size_t j = 0; j < sums.size(); ++j) sums[j] += more[j];
}

Scores empty_scores(const DecoderShape& s) {
  return {Rows(s.layers, s.ffn), Rows(s.layers, s.heads), Rows(s.layers, s.kv_heads), Rows(1, s.hidden)};
}

/// Indices of the best of part of a row, counted from the row's start.
std::vector<std::int64_t> best_of_run(std::span<const float> row, std::int64_t first, std::int64_t length,
                                      std::int64_t count) {
  auto kept = best(row.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(length)), count);
  for (std::int64_t& i : kept) i += first;
  return kept;
}

}  // namespace

bool Wish::any() const { return says_ffn() || says_heads() || says_kv_heads() || says_hidden(); }

std::int64_t multiple_of(const Wish& wish, std::int64_t dense) {
  if (wish.multiple) return *wish.multiple;
  std::int64_t multiple = 1;
  while (multiple < k_quant_row && dense % (2 * multiple) == 0) multiple *= 2;
  return multiple;
}

Result<DecoderShape> wanted_shape(const Wish& wish, const DecoderShape& dense) {
  DecoderShape cut = dense;
  FETTLE_ASSIGN(cut.ffn, wanted_size("ffn", wish.ffn, "ffn_size", wish.ffn_size, dense.ffn, wish));
  FETTLE_ASSIGN(cut.hidden, wanted_size("hidden", wish.hidden, "hidden_size", wish.hidden_size, dense.hidden, wish));

  if (wish.kv_head_count) {
    if (*wish.kv_head_count > dense.kv_heads)
      return Status(Code::invalid_argument,
                    fmt::format("kv_head_count is {}, but the model has {}", *wish.kv_head_count, dense.kv_heads),
                    "kv_head_count");
    cut.kv_heads = *wish.kv_head_count;
  } else if (wish.kv_heads && *wish.kv_heads < 1) {
    cut.kv_heads = std::max<std::int64_t>(1, std::llround(*wish.kv_heads * static_cast<double>(dense.kv_heads)));
    if (cut.kv_heads == dense.kv_heads)
      return Status(Code::invalid_argument,
                    fmt::format("{} of {} KV heads rounds to all of them; {} of them are {:.2f}", *wish.kv_heads,
                                dense.kv_heads, dense.kv_heads - 1,
                                static_cast<double>(dense.kv_heads - 1) / static_cast<double>(dense.kv_heads)),
                    "kv_heads");
  }

  const std::int64_t group = dense.heads / dense.kv_heads;
  const char* const key = wish.head_count ? "head_count" : "heads";
  std::int64_t left = group;  // query heads of a KV head
  if (wish.head_count) {
    if (*wish.head_count % cut.kv_heads != 0)
      return Status(
          Code::invalid_argument,
          fmt::format("head_count is {}, but every one of the {} KV heads keeps equally many query heads; {}",
                      *wish.head_count, cut.kv_heads, nearest(*wish.head_count, cut.kv_heads, cut.kv_heads * group)),
          key);
    left = *wish.head_count / cut.kv_heads;
    if (left > group)
      return Status(Code::invalid_argument,
                    fmt::format("head_count is {}, but {} KV heads have {} query heads", *wish.head_count, cut.kv_heads,
                                cut.kv_heads * group),
                    key);
  } else if (wish.heads && *wish.heads < 1) {
    left = std::max<std::int64_t>(1, std::llround(*wish.heads * static_cast<double>(group)));
    if (left == group && group > 1)
      return Status(
          Code::invalid_argument,
          fmt::format("{} of the {} query heads of a KV head rounds to all of them; {} of them are {:.2f}", *wish.heads,
                      group, group - 1, static_cast<double>(group - 1) / static_cast<double>(group)),
          key);
  }
  if (group == 1 && wish.says_heads() && (wish.head_count ? left < group : *wish.heads < 1))
    return Status(Code::invalid_argument,
                  "every KV head has one query head, and heads go only from the groups of a KV head; use 'kv_heads' to "
                  "remove both",
                  key);
  cut.heads = cut.kv_heads * left;
  return cut;
}

std::string k_quant_warning(const DecoderShape& dense, const DecoderShape& cut) {
  std::string lost;
  const auto check = [&](const char* what, std::int64_t before, std::int64_t after) {
    if (before % k_quant_row == 0 && after % k_quant_row != 0)
      lost += fmt::format("{}{} {}", lost.empty() ? "" : " and ", what, after);
  };
  check("hidden", dense.hidden, cut.hidden);
  check("ffn", dense.ffn, cut.ffn);
  check("attention width", dense.heads * dense.head_dim, cut.heads * cut.head_dim);
  if (lost.empty()) return lost;
  return fmt::format(
      "{}: no multiple of {}, so k-quants (Q4_K, Q6_K, ...) will store matrices with so many inputs in "
      "other, larger types",
      lost, k_quant_row);
}

std::int64_t parameters_of(ModelConfig config, const DecoderShape& shape) {
  config.hidden = shape.hidden;
  config.intermediate = shape.ffn;
  config.heads = shape.heads;
  config.kv_heads = shape.kv_heads;
  config.layers = shape.layers;
  return config.parameters();
}

Result<std::vector<DecoderShape>> candidates(const Wish& wish, const ModelConfig& config, std::int64_t budget,
                                             double floor, std::int64_t count) {
  const DecoderShape dense = shape_of(config);
  if (config.parameters() <= budget)
    return Status(Code::invalid_argument,
                  fmt::format("the model has {} parameters, which is within the budget of {} already",
                              number(config.parameters()), number(budget)),
                  "params");
  FETTLE_ASSIGN(const DecoderShape fixed, wanted_shape(wish, dense));
  // Sizes from the whole down to the floor.
  const auto sizes = [&](bool given, std::int64_t whole, std::int64_t step) {
    std::vector<std::int64_t> all{whole};
    if (given) return all;
    const auto least = static_cast<std::int64_t>(std::ceil(floor * static_cast<double>(whole)));
    for (std::int64_t size = (whole - 1) / step * step; size >= std::max(least, step); size -= step)
      all.push_back(size);
    return all;
  };
  const auto hiddens = sizes(wish.says_hidden(), fixed.hidden, multiple_of(wish, dense.hidden));
  const auto heads = sizes(wish.says_heads() || fixed.heads == fixed.kv_heads, fixed.heads, fixed.kv_heads);
  const auto ffns = sizes(wish.says_ffn(), fixed.ffn, multiple_of(wish, dense.ffn));

  std::vector<std::pair<std::int64_t, DecoderShape>> found;
  DecoderShape shape = fixed;
  for (const std::int64_t hidden : hiddens) {
    for (const std::int64_t head_count : heads) {
      shape.hidden = hidden, shape.heads = head_count;
      const auto fits = std::find_if(ffns.begin(), ffns.end(), [&](std::int64_t ffn) {
        shape.ffn = ffn;
        return parameters_of(config, shape) <= budget;
      });
      if (fits != ffns.end()) found.emplace_back(parameters_of(config, shape), shape);
    }
  }
  if (found.empty()) {
    shape.hidden = hiddens.back(), shape.heads = heads.back(), shape.ffn = ffns.back();
    return Status(Code::invalid_argument,
                  fmt::format("no width fits {} parameters: the smallest that may be tried has {}; lower 'floor' or "
                              "'multiple', or remove blocks with prune.depth first",
                              number(budget), number(parameters_of(config, shape))),
                  "params");
  }
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  if (static_cast<std::int64_t>(found.size()) > count) found.resize(static_cast<std::size_t>(count));
  std::vector<DecoderShape> shapes;
  for (const auto& [parameters, s] : found) shapes.push_back(s);
  return shapes;
}

Scores activation_scores(const Importance& importance, const DecoderShape& shape) {
  Scores scores = empty_scores(shape);
  scores.ffn = importance.ffn;
  scores.heads = importance.heads;
  const std::vector<float> hidden = importance.hidden();
  std::copy(hidden.begin(), hidden.end(), MutMatrix(scores.hidden).data);
  const std::int64_t group = shape.heads / shape.kv_heads;
  for (std::int64_t l = 0; l < shape.layers; ++l)
    for (std::int64_t g = 0; g < shape.kv_heads; ++g) {
      double sum = 0;
      for (std::int64_t h = g * group; h < (g + 1) * group; ++h) {
        const auto s = static_cast<double>(ConstMatrix(scores.heads)(l, h));
        sum += s * s;
      }
      MutMatrix(scores.kv_heads)(l, g) = static_cast<float>(std::sqrt(sum));
    }
  return scores;
}

Scores weight_scores(const Decoder& model) {
  const DecoderShape shape = shape_of(model.config());
  Scores scores = empty_scores(shape);
  const std::int64_t group = shape.heads / shape.kv_heads, dim = shape.head_dim;
  std::vector<double> hidden(static_cast<std::size_t>(shape.hidden));
  for (std::int64_t l = 0; l < shape.layers; ++l) {
    const BlockWeights& b = model.block_weights(l);
    const Squares q(b.q.weight), k(b.k.weight), v(b.v.weight), o(b.o.weight), gate(b.gate.weight), up(b.up.weight),
        down(b.down.weight);
    for (const Squares* reads : {&q, &k, &v, &gate, &up}) add_to(hidden, reads->cols);
    for (const Squares* writes : {&o, &down}) add_to(hidden, writes->rows);
    for (std::int64_t i = 0; i < shape.ffn; ++i) {
      const auto at = static_cast<std::size_t>(i);
      MutMatrix(scores.ffn)(l, i) = static_cast<float>(std::sqrt(gate.rows[at] + up.rows[at] + down.cols[at]));
    }
    std::vector<double> groups(static_cast<std::size_t>(shape.kv_heads));
    for (std::int64_t h = 0; h < shape.heads; ++h) {
      const double sum = sum_of_run(q.rows, h, dim) + sum_of_run(o.cols, h, dim);
      groups[static_cast<std::size_t>(h / group)] += sum;
      MutMatrix(scores.heads)(l, h) = static_cast<float>(std::sqrt(sum));
    }
    for (std::int64_t g = 0; g < shape.kv_heads; ++g)
      MutMatrix(scores.kv_heads)(l, g) = static_cast<float>(
          std::sqrt(groups[static_cast<std::size_t>(g)] + sum_of_run(k.rows, g, dim) + sum_of_run(v.rows, g, dim)));
  }
  for (std::size_t j = 0; j < hidden.size(); ++j)
    MutMatrix(scores.hidden).data[j] = static_cast<float>(std::sqrt(hidden[j]));
  return scores;
}

Scores random_scores(const DecoderShape& shape, std::uint64_t seed) {
  Scores scores = empty_scores(shape);
  std::uint64_t stream = 0;
  for (Rows* rows : {&scores.ffn, &scores.heads, &scores.kv_heads, &scores.hidden}) {
    const MutMatrix m = *rows;
    for (std::int64_t i = 0; i < m.rows * m.cols; ++i)
      m.data[i] = static_cast<float>(philox_uniform(seed, stream, static_cast<std::uint64_t>(i)));
    ++stream;
  }
  return scores;
}

KeptParts keep(const Scores& scores, const DecoderShape& dense, const DecoderShape& cut) {
  KeptParts kept = KeptParts::all(dense);
  kept.hidden = best(ConstMatrix(scores.hidden).row(0), cut.hidden);
  const std::int64_t group = dense.heads / dense.kv_heads, left = cut.heads / cut.kv_heads;
  for (std::int64_t l = 0; l < dense.layers; ++l) {
    const auto at = static_cast<std::size_t>(l);
    kept.ffn[at] = best(ConstMatrix(scores.ffn).row(l), cut.ffn);
    kept.kv_heads[at] = best(ConstMatrix(scores.kv_heads).row(l), cut.kv_heads);
    kept.heads[at].clear();
    for (const std::int64_t g : kept.kv_heads[at])
      for (const std::int64_t h : best_of_run(ConstMatrix(scores.heads).row(l), g * group, group, left))
        kept.heads[at].push_back(h);
  }
  return kept;
}

}  // namespace width
