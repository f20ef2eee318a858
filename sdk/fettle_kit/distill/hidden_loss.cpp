// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/distill/hidden_loss.h"

#include "fettle_kit/io/message.h"
#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/tensor/philox.h"

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace fettle::kit {
namespace {

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

}  // namespace

std::vector<LayerPair> uniform_layers(std::int64_t student_layers, std::int64_t teacher_layers) {
  std::vector<LayerPair> pairs;
  for (std::int64_t i = 1; i <= student_layers; ++i)
    pairs.push_back({i, (2 * i * teacher_layers + student_layers) / (2 * student_layers)});
  return pairs;
}

Result<std::vector<LayerPair>> parse_layers(const std::vector<std::pair<std::string, std::int64_t>>& map,
                                            std::int64_t student_layers, std::int64_t teacher_layers) {
  const auto refuse = [](const std::string& text) { return Status(Code::invalid_argument, text, "layers"); };
  std::vector<LayerPair> pairs;
  for (const auto& [key, teacher] : map) {
    std::int64_t student = -1;
    const char* end = key.data() + key.size();
    if (std::from_chars(key.data(), end, student).ptr != end || student < 0 || student > student_layers)
      return refuse(fmt::format("{} is no layer of the student, which has 0 (the embedding) to {}", in_quotes(key),
                                student_layers));
    if (teacher < 0 || teacher > teacher_layers)
      return refuse(
          fmt::format("{} is no layer of the teacher, which has 0 (the embedding) to {}", teacher, teacher_layers));
    if (std::ranges::any_of(pairs, [&](const LayerPair& p) { return p.student == student; }))
      return refuse(fmt::format("student layer {} is named twice", student));
    pairs.push_back({student, teacher});
  }
  return pairs;
}

double cosine_distance(MutMatrix dx, ConstMatrix x, ConstMatrix target, std::span<const std::uint8_t> rows,
                       double scale) {
  const KernelTable& k = kernels();
  const auto n = size(x.cols);
  std::vector<double> distances(size(x.rows));
  tbb::parallel_for(std::int64_t{0}, x.rows, [&](std::int64_t i) {
    if (!rows.empty() && rows[size(i)] == 0) return;
    const float *a = x.row(i).data(), *b = target.row(i).data();
    const double own = k.sum_squares(a, n), others = k.sum_squares(b, n), norms = std::sqrt(own * others);
    distances[size(i)] = 1;
    if (norms == 0) return;  // but not for NaN
    const double cosine = k.dot(a, b, n) / norms;
    distances[size(i)] = 1 - cosine;
    // d(1 - cos)/dx = cos x / |x|^2 - t / (|x| |t|), each rounded before they meet: nothing is left where x is t.
    thread_local std::vector<float> towards, away;
    towards.resize(n), away.resize(n);
    k.scale(away.data(), static_cast<float>(scale * cosine / own), a, n);
    k.scale(towards.data(), static_cast<float>(scale / norms), b, n);
    k.axpy(away.data(), -1, towards.data(), n);
    k.add(dx.row(i).data(), dx.row(i).data(), away.data(), n);
  });
  double sum = 0;
  for (const double d : distances) sum += d;
  return sum;
}

HiddenLoss::HiddenLoss(Network& student, Network& teacher, const HiddenLossOptions& options)
    : student_(student), teacher_(teacher), options_(options), backend_(student.backend()) {
  const std::int64_t own = student.config().hidden, others = teacher.config().hidden;
  if (!options_.learned) return;
  for (std::size_t i = 0; i < options_.layers.size(); ++i) {
    TrainedTensor t;
    t.name = fmt::format("projection.{}", options_.layers[i].student);
    t.value = backend_.allocate(others, own);
    t.gradient = backend_.allocate(others, own);
    // Uniform of variance 1 / own, so that rows keep their size.
    const double width = std::sqrt(3.0 / static_cast<double>(own));
    backend_.host_view(t.value, Access::write, [&](MutMatrix m) {
      for (std::int64_t j = 0; j < others * own; ++j)
        m.data[j] =
            static_cast<float>(width * (2 * philox_uniform(options_.seed, 1 + i, static_cast<std::uint64_t>(j)) - 1));
    });
    projections_.push_back(std::move(t));
  }
}

void HiddenLoss::begin(const MicroBatch& batch) {
  denominator_ = static_cast<double>(batch.denominator);
  value_ = 0;
  rows_.assign(size(batch.sequences * batch.length), 1);
  for (std::int64_t s = 1; s <= batch.sequences; ++s) rows_[size(s * batch.length - 1)] = 0;
  if (batch.step != step_) last_ = 0;
  step_ = batch.step;
}

double HiddenLoss::distance(const Array& dx, const Array& x, const Array& target, double scale) {
  if (!options_.cosine) {
    const double channel = 1 / static_cast<double>(x.cols);
    return channel * backend_.squared_error(dx, x, target, rows_, scale * channel);
  }
  double sum = 0;
  backend_.host_view(dx, Access::read_write, [&](MutMatrix gradient) {
    backend_.host_view(x, Access::read, [&](MutMatrix own) {
      backend_.host_view(target, Access::read,
                         [&](MutMatrix others) { sum = cosine_distance(gradient, own, others, rows_, scale); });
    });
  });
  return sum;
}

void HiddenLoss::add_gradient(std::int64_t layer, const Array& gradient) {
  for (std::size_t i = 0; i < options_.layers.size(); ++i) {
    if (options_.layers[i].student != layer) continue;
    const Array &x = student_.block_input(layer), &target = teacher_.block_input(options_.layers[i].teacher);
    const double share = 1 / (denominator_ * static_cast<double>(options_.layers.size()));
    double found = 0;
    if (!options_.learned) {
      found = distance(gradient, x, target, options_.weight * share);
    } else {
      const Precision precision = student_.options().precision;
      const TrainedTensor& projection = projections_[i];
      if (!projected_ || projected_.rows < x.rows) {
        projected_ = backend_.allocate(x.rows, target.cols);
        projected_gradient_ = backend_.allocate(x.rows, target.cols);
      }
      const Array y = projected_.rows_from(0, x.rows), dy = projected_gradient_.rows_from(0, x.rows);
      backend_.linear(y, x, projection.value, {}, precision);
      backend_.fill(dy, 0);
      found = distance(dy, y, target, options_.weight * share);
      backend_.linear_weight_gradient(projection.gradient, dy, x, true, precision);
      backend_.linear_input_gradient(gradient, dy, projection.value, true, precision);
    }
    value_ += options_.weight * share * found;
    last_ += share * found;
  }
}

}  // namespace fettle::kit
