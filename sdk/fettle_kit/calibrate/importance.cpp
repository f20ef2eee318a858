// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/importance.h"

#include "fettle_kit/calibrate/block_walk.h"
#include "fettle_kit/calibrate/column_magnitudes.h"
#include "fettle_kit/io/message.h"
#include "fettle_kit/io/safetensors.h"

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <span>
#include <utility>

namespace fettle::kit {
namespace {

constexpr const char* file_name = "importance.safetensors";

/// 1 - cos of every row's way through a block, summed in the order of the rows.
class Influence {
 public:
  void add(ConstMatrix before, ConstMatrix after) {
    std::vector<double> cosines(static_cast<std::size_t>(before.rows));
    tbb::parallel_for(std::int64_t{0}, before.rows, [&](std::int64_t i) {
      const auto a = before.row(i), b = after.row(i);
      double ab = 0, aa = 0, bb = 0;
      for (std::size_t j = 0; j < a.size(); ++j) {
        const auto x = static_cast<double>(a[j]), y = static_cast<double>(b[j]);
        ab += x * y, aa += x * x, bb += y * y;
      }
      // A token that is zero on both sides is not changed; one that vanishes or appears is.
      cosines[static_cast<std::size_t>(i)] = aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : (aa == bb ? 1.0 : 0.0);
    });
    for (const double cosine : cosines) sum_ += 1 - cosine;
    rows_ += before.rows;
  }
  float mean() const { return static_cast<float>(std::max(0.0, sum_ / static_cast<double>(rows_))); }

 private:
  double sum_ = 0;
  std::int64_t rows_ = 0;
};

void copy_row(Rows& rows, std::int64_t at, const std::vector<float>& values) {
  std::copy(values.begin(), values.end(), MutMatrix(rows).row(at).begin());
}

bool all_scores(ConstMatrix m) {
  return std::all_of(m.data, m.data + m.rows * m.cols, [](float v) { return std::isfinite(v) && v >= 0; });
}

std::string shape_text(std::int64_t layers, std::int64_t hidden, std::int64_t ffn, std::int64_t heads) {
  return fmt::format("{} layers, hidden {}, ffn {}, {} heads", layers, hidden, ffn, heads);
}

Result<std::int64_t> number_of(const SafetensorsReader& file, const char* key) {
  const auto found = file.metadata().find(key);
  std::int64_t value = 0;
  if (found != file.metadata().end()) {
    const std::string& text = found->second;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc() && end == text.data() + text.size() && value > 0) return value;
  }
  return Status(Code::corrupt_data, fmt::format("{}: metadata '{}' is not a positive number", file.path(), key));
}

Result<Rows> rows_of(const SafetensorsReader& file, const char* name) {
  const TensorView* t = file.find(name);
  if (!t || t->dtype != DType::f32 || t->shape.size() != 2 || t->elements() == 0)
    return Status(Code::corrupt_data, fmt::format("{}: there is no f32 matrix '{}'", file.path(), name));
  Rows rows(t->shape[0], t->shape[1]);
  info(DType::f32).to_f32(t->bytes.data(), MutMatrix(rows).data, static_cast<std::size_t>(t->elements()));
  if (!all_scores(rows))
    return Status(
        Code::corrupt_data,
        fmt::format("{}: '{}' holds numbers that are no scores: negative, infinite or NaN", file.path(), name));
  return rows;
}

}  // namespace

std::vector<float> Importance::hidden() const {
  std::vector<double> sums(static_cast<std::size_t>(norms.cols()));
  const ConstMatrix all = norms;
  for (std::int64_t i = 0; i < all.rows; ++i)
    for (std::size_t j = 0; j < sums.size(); ++j) sums[j] += static_cast<double>(all.row(i)[j]);
  return {sums.begin(), sums.end()};
}

Status Importance::save(const std::string& folder) const {
  const Rows* const matrices[] = {&ffn, &heads, &norms};
  const char* const names[] = {"ffn", "heads", "norms"};
  std::vector<TensorSpec> specs;
  for (std::size_t i = 0; i < 3; ++i)
    specs.push_back({names[i], DType::f32, {matrices[i]->rows(), matrices[i]->cols()}});
  specs.push_back({"influence", DType::f32, {1, layers()}});
  FETTLE_ASSIGN(auto writer,
                SafetensorsWriter::create(
                    folder + "/" + file_name, ordered_for_safetensors(specs),
                    {{"model", model}, {"sequences", std::to_string(sequences)}, {"length", std::to_string(length)}}));
  // By name, as ordered_for_safetensors puts tensors of one type.
  FETTLE_TRY(writer.append(
      "ffn", std::as_bytes(std::span(ConstMatrix(ffn).data, static_cast<std::size_t>(ffn.rows() * ffn.cols())))));
  FETTLE_TRY(writer.append("heads", std::as_bytes(std::span(ConstMatrix(heads).data,
                                                            static_cast<std::size_t>(heads.rows() * heads.cols())))));
  FETTLE_TRY(writer.append("influence", std::as_bytes(std::span(influence))));
  FETTLE_TRY(writer.append("norms", std::as_bytes(std::span(ConstMatrix(norms).data,
                                                            static_cast<std::size_t>(norms.rows() * norms.cols())))));
  return writer.finish();
}

Result<Importance> Importance::open(const std::string& folder) {
  FETTLE_ASSIGN(const auto file, SafetensorsReader::open(folder + "/" + file_name));
  Importance importance;
  if (const auto found = file.metadata().find("model"); found != file.metadata().end())
    importance.model = found->second;
  FETTLE_ASSIGN(importance.sequences, number_of(file, "sequences"));
  FETTLE_ASSIGN(importance.length, number_of(file, "length"));
  FETTLE_ASSIGN(importance.ffn, rows_of(file, "ffn"));
  FETTLE_ASSIGN(importance.heads, rows_of(file, "heads"));
  FETTLE_ASSIGN(importance.norms, rows_of(file, "norms"));
  FETTLE_ASSIGN(const Rows influence, rows_of(file, "influence"));
  const ConstMatrix row = influence;
  importance.influence.assign(row.data, row.data + row.rows * row.cols);
  const std::int64_t layers = importance.layers();
  if (importance.heads.rows() != layers || importance.norms.rows() != 2 * layers || row.rows != 1 || row.cols != layers)
    return Status(Code::corrupt_data,
                  fmt::format("{}: 'ffn' is of {} layers, the others are not", file.path(), layers));
  return importance;
}

Status check_importance_tokens(std::int64_t tokens) {
  if (tokens >= least_importance_tokens) return {};
  return {Code::invalid_argument,
          fmt::format("{} calibration tokens are too few to rank anything by, at least {} are needed ({} for a ranking "
                      "that holds); give data.tokens more sequences",
                      tokens, least_importance_tokens, grouped(few_importance_tokens)),
          "calibration"};
}

Result<Importance> measure_importance(const Decoder& model, const TokenSet& tokens, std::function<bool()> stop,
                                      const std::function<void(std::int64_t, std::int64_t)>& progress) {
  FETTLE_TRY(check_importance_tokens(static_cast<std::int64_t>(tokens.ids().size())));
  const ModelConfig& c = model.config();
  Importance importance;
  importance.sequences = tokens.sequences();
  importance.length = tokens.length();
  importance.ffn = Rows(c.layers, c.intermediate);
  importance.heads = Rows(c.layers, c.heads);
  importance.norms = Rows(2 * c.layers, c.hidden);
  FETTLE_ASSIGN(BlockWalk walk, BlockWalk::start(model, tokens, std::move(stop)));
  while (!walk.done()) {
    const std::int64_t layer = walk.layer();
    SequenceMagnitudes attention_in(c.hidden, tokens.length()), attention_out(c.heads * c.head_dim, tokens.length()),
        mlp_in(c.hidden, tokens.length()), mlp_hidden(c.intermediate, tokens.length());
    Influence influence;
    FETTLE_TRY(walk.pass(
        [&](Site site, ConstMatrix x) {
          switch (site) {
            case Site::attention_in:
              return attention_in.add(x);
            case Site::attention_out:
              return attention_out.add(x);
            case Site::mlp_in:
              return mlp_in.add(x);
            case Site::mlp_hidden:
              return mlp_hidden.add(x);
          }
        },
        [&](ConstMatrix before, ConstMatrix after) { influence.add(before, after); }));
    copy_row(importance.ffn, layer, mlp_hidden.l2());
    copy_row(importance.norms, 2 * layer, attention_in.l2());
    copy_row(importance.norms, 2 * layer + 1, mlp_in.l2());
    importance.influence.push_back(influence.mean());
    const std::vector<float> channels = attention_out.l2();
    for (std::int64_t h = 0; h < c.heads; ++h) {
      double sum = 0;
      for (std::int64_t j = h * c.head_dim; j < (h + 1) * c.head_dim; ++j) {
        const auto v = static_cast<double>(channels[static_cast<std::size_t>(j)]);
        sum += v * v;
      }
      MutMatrix(importance.heads)(layer, h) = static_cast<float>(std::sqrt(sum));
    }
    if (progress) progress(walk.layer(), c.layers);
  }
  if (!all_scores(importance.ffn) || !all_scores(importance.heads) || !all_scores(importance.norms))
    return Status(Code::invalid_argument,
                  "the model gives activations that are no numbers (infinite or NaN) on the calibration text, so "
                  "nothing can be ranked by them; check its weights");
  return importance;
}

Status other_model(std::string_view measured_on, std::string_view digest) {
  return {Code::invalid_argument,
          fmt::format("importance was measured on another model ({:.19}...), not on the one to prune ({:.19}...); "
                      "measure it with calibrate.importance on that one",
                      measured_on, digest),
          "importance"};
}

Status check_same_model(const Importance& importance, const ModelConfig& c, std::string_view digest) {
  if (importance.layers() != c.layers || importance.norms.cols() != c.hidden ||
      importance.ffn.cols() != c.intermediate || importance.heads.cols() != c.heads)
    return {Code::invalid_argument,
            fmt::format("importance was measured on a model of {}, the one to prune has {}",
                        shape_text(importance.layers(), importance.norms.cols(), importance.ffn.cols(),
                                   importance.heads.cols()),
                        shape_text(c.layers, c.hidden, c.intermediate, c.heads)),
            "importance"};
  if (!importance.model.empty() && !digest.empty() && importance.model != digest)
    return other_model(importance.model, digest);
  return {};
}

Result<Importance> importance_of(Context& context, const Decoder& model) {
  const Input dense = context.inputs.at("model");
  if (const auto given = context.inputs.find("importance")) {
    FETTLE_ASSIGN(Importance importance, Importance::open(given->path()));
    FETTLE_TRY(check_same_model(importance, model.config(), dense.digest()));
    return importance;
  }
  FETTLE_ASSIGN(const TokenSet tokens, TokenSet::open(context.inputs.at("calibration").path()));
  if (const std::uint64_t count = tokens.ids().size(); count < few_importance_tokens)
    context.warn(
        fmt::format("importance comes from {} calibration tokens: below {} the ranking still changes with the "
                    "choice of the text",
                    grouped(count), grouped(few_importance_tokens)));
  const auto stop = [&] { return context.cancelled(); };
  const auto progress = [&](std::int64_t done, std::int64_t total) {
    context.progress("importance", static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
  };
  FETTLE_ASSIGN(Importance importance, measure_importance(model, tokens, stop, progress));
  importance.model = dense.digest();
  return importance;
}

Status check_importance_inputs(const Inputs& inputs) {
  const auto given = inputs.find("importance"), calibration = inputs.find("calibration");
  if (!given && !calibration)
    return {Code::invalid_argument,
            "needs something to rank by: connect 'importance' (from calibrate.importance) or 'calibration' (from "
            "data.tokens)"};
  if (given) {
    const std::string_view measured_on = given->attribute("model"), digest = inputs.at("model").digest();
    if (!measured_on.empty() && !digest.empty() && measured_on != digest) return other_model(measured_on, digest);
    return {};
  }
  const double tokens = calibration->number("sequences") * calibration->number("length");
  return tokens > 0 ? check_importance_tokens(static_cast<std::int64_t>(tokens)) : Status();
}

double importance_bytes(const Inputs& inputs) {
  const auto calibration = inputs.find("calibration");
  if (!calibration) return 0;
  const Input model = inputs.at("model");
  const double hidden = model.number("hidden"), ffn = model.number("ffn");
  const double rows = calibration->number("sequences") * calibration->number("length");
  return rows * hidden * 4 + Decoder::forward_bytes(2048, hidden, ffn, hidden, hidden) + 2048 * hidden * 4;
}

}  // namespace fettle::kit
