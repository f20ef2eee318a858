// SPDX-License-Identifier: Apache-2.0
// Every operation of the seam with its gradient: the f64 backend against central differences, the cpu backend against
// the f64 backend, and its bits for several numbers of threads.
#include "fettle_kit/backend/backend.h"

#include "kernels/kernel_testing.h"
#include "unit/kit/backend/f64_backend.h"

#include <gtest/gtest.h>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

using test::F64Backend;

struct Shape {
  std::int64_t rows, cols;
};
using Arrays = std::vector<Array>;

/// An operation y = f(inputs), as the test sees it.
struct Operation {
  const char* name;
  std::vector<Shape> inputs;
  std::function<Array(Backend&, const Arrays&)> forward;
  /// Gradients of sum(dy * y) with respect to each input; an empty array: not differentiated.
  std::function<Arrays(Backend&, const Arrays&, const Array& dy)> backward;
};

Array like(Backend& b, const Array& x) { return b.allocate(x.rows, x.cols); }

const std::vector<std::int32_t> kIds = {3, 0, 3, 5, 1, 3}, kLabels = {2, -1, 8, 0, 4, 4};
const std::vector<std::uint8_t> kTeacherRows = {1, 1, 0, 1, 0, 1};
const std::vector<std::int32_t> kTopIds = {0, 5, 1, 8, 3, 2, 7, 6, 4, 5, 2, 0};

Operation linear() {
  return {"linear",
          {{6, 5}, {7, 5}, {1, 7}},
          [](Backend& b, const Arrays& in) {
            const Array y = b.allocate(6, 7);
            b.linear(y, in[0], in[1], in[2], Precision::real);
            return y;
          },
          [](Backend& b, const Arrays& in, const Array& dy) {
            const Arrays d = {like(b, in[0]), like(b, in[1]), like(b, in[2])};
            b.linear_input_gradient(d[0], dy, in[1], false, Precision::real);
            b.linear_weight_gradient(d[1], dy, in[0], false, Precision::real);
            b.bias_gradient(d[2], dy, false);
            return d;
          }};
}

Operation embed() {
  return {"embed",
          {{9, 4}},
          [](Backend& b, const Arrays& in) {
            const Array x = b.allocate(6, 4);
            b.embed(x, in[0], kIds, 1.5f);
            return x;
          },
          [](Backend& b, const Arrays& in, const Array& dy) {
            const Array d = like(b, in[0]);
            b.fill(d, 0);
            b.embed_gradient(d, dy, kIds, 1.5f);
            return Arrays{d};
          }};
}

Operation rms_norm(const char* name, float offset) {
  return {name,
          {{70, 5}, {1, 5}},
          [offset](Backend& b, const Arrays& in) {
            const Array y = like(b, in[0]);
            b.rms_norm(y, b.allocate(70, 1), in[0], in[1], offset, 1e-5f);
            return y;
          },
          [offset](Backend& b, const Arrays& in, const Array& dy) {
            const Array y = like(b, in[0]), rstd = b.allocate(70, 1);
            b.rms_norm(y, rstd, in[0], in[1], offset, 1e-5f);
            const Arrays d = {like(b, in[0]), like(b, in[1])};
            b.rms_norm_gradient(d[0], false, d[1], false, dy, in[0], in[1], offset, rstd);
            return d;
          }};
}

Operation rotate() {
  const auto tables = [](Backend& b) {
    const std::vector<float> cos = {1, 1, 0.5f, 0.8f, -0.3f, 0.1f}, sin = {0, 0, 0.9f, 0.6f, 0.95f, -0.99f};
    const Arrays out = {b.allocate(3, 2), b.allocate(3, 2)};
    b.upload(out[0], cos);
    b.upload(out[1], sin);
    return out;
  };
  return {"rotate",
          {{6, 8}},
          [tables](Backend& b, const Arrays& in) {
            const Arrays t = tables(b);
            const Array y = like(b, in[0]);
            b.copy(y, in[0]);
            b.rotate(y, t[0], t[1], false);
            return y;
          },
          [tables](Backend& b, const Arrays&, const Array& dy) {
            const Arrays t = tables(b);
            const Array d = like(b, dy);
            b.copy(d, dy);
            b.rotate(d, t[0], t[1], true);
            return Arrays{d};
          }};
}

Operation attention(const char* name, CausalHeads heads, std::int64_t sequences, std::int64_t length) {
  const AttentionShape shape{heads, sequences, length};
  const std::int64_t rows = sequences * length, width = heads.heads * heads.head_dim;
  const std::int64_t kv_width = heads.kv_heads * heads.head_dim;
  return {name,
          {{rows, width}, {rows, kv_width}, {rows, kv_width}},
          [=](Backend& b, const Arrays& in) {
            const Array out = b.allocate(rows, width);
            b.attention(out, b.allocate(rows, heads.heads), in[0], in[1], in[2], shape);
            return out;
          },
          [=](Backend& b, const Arrays& in, const Array& dy) {
            const Array out = b.allocate(rows, width), log_sums = b.allocate(rows, heads.heads);
            b.attention(out, log_sums, in[0], in[1], in[2], shape);
            const Arrays d = {like(b, in[0]), like(b, in[1]), like(b, in[2])};
            b.attention_gradient(d[0], d[1], d[2], dy, out, log_sums, in[0], in[1], in[2], shape);
            return d;
          }};
}

Operation gated(const char* name, Activation activation) {
  return {name,
          {{6, 9}, {6, 9}},
          [activation](Backend& b, const Arrays& in) {
            const Array y = like(b, in[0]);
            b.gated(y, in[0], in[1], activation);
            return y;
          },
          [activation](Backend& b, const Arrays& in, const Array& dy) {
            const Arrays d = {like(b, in[0]), like(b, in[1])};
            b.gated_gradient(d[0], d[1], dy, in[0], in[1], activation);
            return d;
          }};
}

/// Inputs: hidden, head, teacher's hidden, teacher's head. The value is the scaled sum of both terms.
Operation head_loss(const char* name, float softcap, LossSpec spec, bool labels, bool dense, bool top) {
  const auto run = [=](Backend& b, const Arrays& in, double scale, Arrays* d) {
    const std::vector<float> top_log_probabilities = {-1.5f, -2, -0.5f, -3, -1, -1.25f, -2.5f, -0.75f, -4, -1, -2, -2};
    HeadLoss h;
    h.hidden = in[0], h.head = in[1], h.softcap = softcap, h.accumulate = false;
    if (d) h.hidden_gradient = (*d)[0], h.head_gradient = (*d)[1];
    LossTarget target;
    target.spec = spec;
    if (labels) target.labels = kLabels, target.label_scale = 0.3 * scale;
    if (dense) target.teacher_hidden = in[2], target.teacher_head = in[3];
    if (top) target.top = {2, kTopIds, top_log_probabilities, true};
    if (dense || top) target.teacher_scale = 0.7 * scale, target.teacher_rows = kTeacherRows;
    const LossSums sums = b.head_loss(h, target);
    return 0.3 * sums.cross_entropy + 0.7 * sums.divergence;
  };
  return {name,
          {{6, 5}, {9, 5}, {6, 4}, {9, 4}},
          [run](Backend& b, const Arrays& in) {
            const Array y = b.allocate(1, 1);
            const double value = run(b, in, 1, nullptr);
            if (b.name() == "f64") {
              F64Backend::at(y, 0, 0) = value;
            } else {
              b.fill(y, static_cast<float>(value));
            }
            return y;
          },
          [run](Backend& b, const Arrays& in, const Array& dy) {
            std::vector<float> scale(1);
            b.download(scale, dy);
            Arrays d = {like(b, in[0]), like(b, in[1])};
            run(b, in, scale[0], &d);
            d.resize(4);
            return d;
          }};
}

Operation squared_error() {
  return {"squared_error",
          {{6, 5}, {6, 5}},
          [](Backend& b, const Arrays& in) {
            const Array y = b.allocate(1, 1);
            const double value = 0.2 * b.squared_error({}, in[0], in[1], kTeacherRows, 1);
            if (b.name() == "f64") {
              F64Backend::at(y, 0, 0) = value;
            } else {
              b.fill(y, static_cast<float>(value));
            }
            return y;
          },
          [](Backend& b, const Arrays& in, const Array& dy) {
            std::vector<float> scale(1);
            b.download(scale, dy);
            const Array d = like(b, in[0]);
            b.fill(d, 0);
            b.squared_error(d, in[0], in[1], kTeacherRows, 0.2 * scale[0]);
            return Arrays{d, {}};
          }};
}

LossSpec spec(Divergence divergence, float temperature) {
  LossSpec out;
  out.divergence = divergence, out.temperature = temperature;
  return out;
}

std::vector<Operation> operations() {
  const float scale = 0.6f;
  return {
      linear(),
      embed(),
      rms_norm("rms_norm", 0),
      rms_norm("rms_norm_unit_offset", 1),
      rotate(),
      attention("attention", {2, 2, 4, scale, 0, 0}, 2, 5),
      attention("attention_grouped", {4, 2, 4, scale, 0, 0}, 1, 6),
      attention("attention_window", {2, 1, 4, scale, 0, 3}, 1, 8),
      attention("attention_softcap", {2, 1, 4, scale, 2, 0}, 1, 6),
      gated("gated_silu", Activation::silu),
      gated("gated_gelu", Activation::gelu_tanh),
      head_loss("cross_entropy", 0, {}, true, false, false),
      head_loss("cross_entropy_softcap", 1.5f, {}, true, false, false),
      head_loss("forward_kl_and_cross_entropy", 0, spec(Divergence::forward_kl, 2), true, true, false),
      head_loss("reverse_kl_softcap", 1.5f, spec(Divergence::reverse_kl, 1), false, true, false),
      head_loss("top_targets", 0, spec(Divergence::forward_kl, 1), true, false, true),
      squared_error(),
  };
}

/// Longer than the tiles of the kernels; too many numbers for differences one by one.
std::vector<Operation> large_operations() {
  const float scale = 0.3f;
  return {attention("attention_long", {4, 2, 16, scale, 0, 0}, 2, 300),
          attention("attention_long_window", {2, 2, 16, scale, 0, 70}, 1, 400),
          attention("attention_long_window_softcap", {6, 2, 8, scale, 3, 150}, 2, 290)};
}

std::vector<float> numbers(const Shape& shape, Random& random) {
  return random.row(static_cast<std::size_t>(shape.rows * shape.cols), -1.5f, 1.5f);
}

Arrays inputs_of(Backend& b, const Operation& op) {
  Random random(7);
  Arrays in;
  for (const Shape& shape : op.inputs) {
    in.push_back(b.allocate(shape.rows, shape.cols));
    b.upload(in.back(), numbers(shape, random));
  }
  return in;
}

Array output_gradient(Backend& b, const Array& y) {
  Random random(11);
  const Array dy = like(b, y);
  b.upload(dy, numbers({y.rows, y.cols}, random));
  return dy;
}

std::vector<float> downloaded(Backend& b, const Array& x) {
  std::vector<float> out(static_cast<std::size_t>(x.size()));
  b.download(out, x);
  return out;
}

void expect_close(const std::vector<float>& got, const std::vector<double>& want, double tolerance,
                  const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  double norm = 0, difference = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    norm += want[i] * want[i];
    difference += (got[i] - want[i]) * (got[i] - want[i]);
  }
  EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(norm)) << what;
}

class BackendOperation : public testing::TestWithParam<Operation> {};
class LargeBackendOperation : public BackendOperation {};

TEST_P(BackendOperation, HasTheGradientOfCentralDifferences) {
  const Operation& op = GetParam();
  F64Backend b;
  const Arrays in = inputs_of(b, op);
  const Array dy = output_gradient(b, op.forward(b, in));
  const auto value = [&] {
    const std::vector<double> y = F64Backend::values(op.forward(b, in)), g = F64Backend::values(dy);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * g[i];
    return sum;
  };
  const Arrays d = op.backward(b, in, dy);
  for (std::size_t input = 0; input < in.size(); ++input) {
    if (!d[input]) continue;
    for (std::int64_t i = 0; i < in[input].rows; ++i)
      for (std::int64_t j = 0; j < in[input].cols; ++j) {
        // Fourth order: error h^4 f''''' / 30 + 1e-16 f / h, some 1e-12 of numbers around 1.
        constexpr double h = 1e-3;
        double& x = F64Backend::at(in[input], i, j);
        const double kept = x;
        const auto moved = [&](double by) {
          x = kept + by;
          return value();
        };
        const double slope = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h);
        x = kept;
        ASSERT_NEAR(F64Backend::at(d[input], i, j), slope, 1e-8 * std::max(1.0, std::fabs(slope)))
            << "input " << input << " [" << i << ", " << j << "]";
      }
  }
}

void expect_cpu_like_f64(const Operation& op) {
  F64Backend exact;
  const auto cpu = make_cpu_backend();
  const Arrays exact_in = inputs_of(exact, op), in = inputs_of(*cpu, op);
  const Array exact_y = op.forward(exact, exact_in), y = op.forward(*cpu, in);
  expect_close(downloaded(*cpu, y), F64Backend::values(exact_y), 1e-6, "output");
  const Arrays exact_d = op.backward(exact, exact_in, output_gradient(exact, exact_y));
  const Arrays d = op.backward(*cpu, in, output_gradient(*cpu, y));
  for (std::size_t i = 0; i < d.size(); ++i)
    if (d[i])
      expect_close(downloaded(*cpu, d[i]), F64Backend::values(exact_d[i]), 2e-6, "gradient " + std::to_string(i));
}

TEST_P(BackendOperation, IsTheSameOnTheProcessor) { expect_cpu_like_f64(GetParam()); }
TEST_P(LargeBackendOperation, IsTheSameOnTheProcessor) { expect_cpu_like_f64(GetParam()); }

TEST_P(LargeBackendOperation, GivesTheSameBitsForAnyNumberOfThreads) {
  std::vector<std::vector<float>> first;
  for (const int threads : {1, 2, 3, 7}) {
    const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, static_cast<std::size_t>(threads));
    tbb::task_arena(threads).execute([&] {
      const auto cpu = make_cpu_backend();
      const Arrays in = inputs_of(*cpu, GetParam());
      const Array y = GetParam().forward(*cpu, in);
      std::vector<std::vector<float>> results = {downloaded(*cpu, y)};
      for (const Array& d : GetParam().backward(*cpu, in, output_gradient(*cpu, y)))
        results.push_back(downloaded(*cpu, d));
      if (first.empty()) first = results;
      for (std::size_t i = 0; i < first.size(); ++i)
        expect_same(results[i], first[i], std::to_string(threads) + " threads");
    });
  }
}

const auto named = [](const auto& row) { return std::string(row.param.name); };
INSTANTIATE_TEST_SUITE_P(Operations, BackendOperation, testing::ValuesIn(operations()), named);
INSTANTIATE_TEST_SUITE_P(Operations, LargeBackendOperation, testing::ValuesIn(large_operations()), named);

TEST(CpuBackend, RoundsArraysOfBf16) {
  const auto cpu = make_cpu_backend();
  const Array x = cpu->allocate(1, 3, Element::bf16);
  const std::vector<float> values = {1.00390625f, -3.14159265f, 1e-3f};
  cpu->upload(x, values);
  EXPECT_EQ(downloaded(*cpu, x), (std::vector<float>{1.0f, -3.140625f, 0.00099945068359375f}));
}

TEST(CpuBackend, StepsAdamwAsTheFormulaSays) {
  const auto cpu = make_cpu_backend();
  F64Backend exact;
  std::vector<std::vector<float>> results;
  for (Backend* b : {static_cast<Backend*>(cpu.get()), static_cast<Backend*>(&exact)}) {
    Random random(3);
    const Array w = b->allocate(3, 37), m = b->allocate(3, 37), v = b->allocate(3, 37), g = b->allocate(3, 37);
    const Array used = b->allocate(3, 37);
    b->upload(w, numbers({3, 37}, random));
    for (const Array& x : {m, v}) b->fill(x, 0);
    for (int step = 1; step <= 3; ++step) {
      b->upload(g, numbers({3, 37}, random));
      AdamwStep s{.rate = 0.01f, .decay = 0.1f, .gradient_scale = 0.5f};
      s.correction1 = 1 - static_cast<float>(std::pow(0.9, step));
      s.correction2 = 1 - static_cast<float>(std::pow(0.95, step));
      b->adamw(w, m, v, g, used, s);
    }
    EXPECT_EQ(downloaded(*b, w), downloaded(*b, used));
    results.push_back(downloaded(*b, w));
  }
  for (std::size_t i = 0; i < results[0].size(); ++i) EXPECT_NEAR(results[0][i], results[1][i], 1e-6);
}

TEST(CpuBackend, SumsSquaresInOneOrder) {
  const auto cpu = make_cpu_backend();
  const Array x = cpu->allocate(3, 5000);
  Random random(5);
  cpu->upload(x, numbers({3, 5000}, random));
  double sum = 0;
  for (const int threads : {1, 3, 7}) {
    const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, static_cast<std::size_t>(threads));
    tbb::task_arena(threads).execute([&] {
      const double got = cpu->sum_squares(x);
      if (sum == 0) sum = got;
      EXPECT_EQ(got, sum) << threads;
    });
  }
  EXPECT_NEAR(sum, 15000 * 0.75, 200);  // 1.5^2 / 3 each
}

}  // namespace
}  // namespace fettle::kit
