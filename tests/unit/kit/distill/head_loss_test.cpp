// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/backend/backend.h"
#include "fettle_kit/nn/loss_reference.h"
#include "fettle_kit/tensor/philox.h"

#include <gtest/gtest.h>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

std::vector<float> noise(std::int64_t n, std::uint64_t seed, double width) {
  std::vector<float> x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(width * (2 * philox_uniform(seed, 0, i) - 1));
  return x;
}

/// A student and a teacher of another width, with everything that goes in and comes out.
struct Problem {
  std::int64_t rows = 70, hidden = 24, teacher_hidden = 40, vocab = 150, teacher_vocab = 150;
  float softcap = 0, teacher_softcap = 0;
  Precision precision = Precision::real;
  std::vector<float> h = noise(200 * 24, 1, 1), w = noise(400 * 24, 2, 1), th = noise(200 * 40, 3, 1),
                     tw = noise(400 * 40, 4, 0.7);
  std::vector<std::int32_t> labels;
  std::vector<std::uint8_t> teacher_rows;
  LossSpec spec;
  double label_scale = 0.01, teacher_scale = 0.02;
  TopTargets top;

  Problem() {
    spec.divergence = Divergence::forward_kl;
    for (std::int64_t i = 0; i < rows; ++i) {
      labels.push_back(static_cast<std::int32_t>(i % 7 == 3 ? -1 : i * 31 % vocab));
      teacher_rows.push_back(i % 5 != 4);
    }
  }
};

struct Answer {
  LossSums sums;
  std::vector<float> dh, dw;
};

Answer solve(const Problem& p, std::int64_t chunk = 0, int threads = 2) {
  const tbb::global_control room(tbb::global_control::max_allowed_parallelism, 8);
  tbb::task_arena arena(threads);
  Answer answer;
  arena.execute([&] {
    const auto backend = make_cpu_backend();
    const auto array = [&](const std::vector<float>& from, std::int64_t rows, std::int64_t cols) {
      const Array a = backend->allocate(rows, cols);
      backend->upload(a, std::span(from).first(static_cast<std::size_t>(rows * cols)));
      return a;
    };
    HeadLoss head;
    head.hidden = array(p.h, p.rows, p.hidden), head.head = array(p.w, p.vocab, p.hidden);
    head.hidden_gradient = backend->allocate(p.rows, p.hidden);
    head.head_gradient = backend->allocate(p.vocab, p.hidden);
    backend->fill(head.head_gradient, 0.5F);
    head.softcap = p.softcap;
    head.precision = p.precision;
    head.chunk = chunk;
    LossTarget target;
    target.spec = p.spec;
    target.labels = p.labels;
    target.label_scale = p.label_scale, target.teacher_scale = p.teacher_scale;
    target.teacher_rows = p.teacher_rows;
    target.top = p.top;
    if (p.top.k == 0) {
      target.teacher_hidden = array(p.th, p.rows, p.teacher_hidden);
      target.teacher_head = array(p.tw, p.teacher_vocab, p.teacher_hidden);
      target.teacher_softcap = p.teacher_softcap;
    }
    answer.sums = backend->head_loss(head, target);
    answer.dh.resize(static_cast<std::size_t>(p.rows * p.hidden));
    answer.dw.resize(static_cast<std::size_t>(p.vocab * p.hidden));
    backend->download(answer.dh, head.hidden_gradient);
    backend->download(answer.dw, head.head_gradient);
  });
  return answer;
}

std::vector<double> logits_of(const float* h, const std::vector<float>& w, std::int64_t vocab, std::int64_t width,
                              float cap) {
  std::vector<double> z;
  for (std::int64_t v = 0; v < vocab; ++v) {
    double sum = 0;
    for (std::int64_t c = 0; c < width; ++c) sum += double{h[c]} * w[static_cast<std::size_t>(v * width + c)];
    z.push_back(cap > 0 ? cap * std::tanh(sum / cap) : sum);
  }
  return z;
}

/// The whole in f64, row by row.
void expect_reference(const Problem& p, const Answer& found, double tolerance) {
  std::vector<double> dh(found.dh.size()), dw(found.dw.size(), 0.5);
  LossSums sums;
  for (std::int64_t i = 0; i < p.rows; ++i) {
    const float* h = p.h.data() + i * p.hidden;
    const auto z = logits_of(h, p.w, p.vocab, p.hidden, p.softcap);
    const auto t = logits_of(p.th.data() + i * p.teacher_hidden, p.tw, std::min(p.vocab, p.teacher_vocab),
                             p.teacher_hidden, p.teacher_softcap);
    const std::int32_t label = p.labels[static_cast<std::size_t>(i)];
    std::vector<double> dz(z.size());
    RowLoss loss;
    if (p.teacher_rows[static_cast<std::size_t>(i)] != 0)
      loss = reference::dense_loss(dz, z, t, label, p.spec, {p.label_scale, p.teacher_scale});
    else if (label >= 0)
      loss = reference::label_loss(dz, z, label, p.label_scale);
    sums.cross_entropy += loss.cross_entropy;
    sums.divergence += loss.divergence;
    for (std::int64_t v = 0; v < p.vocab; ++v) {
      const auto at = static_cast<std::size_t>(v);
      const double slope = p.softcap > 0 ? 1 - z[at] * z[at] / p.softcap / p.softcap : 1;
      for (std::int64_t c = 0; c < p.hidden; ++c) {
        dh[static_cast<std::size_t>(i * p.hidden + c)] +=
            dz[at] * slope * p.w[static_cast<std::size_t>(v * p.hidden + c)];
        dw[static_cast<std::size_t>(v * p.hidden + c)] += dz[at] * slope * h[c];
      }
    }
  }
  EXPECT_NEAR(found.sums.cross_entropy, sums.cross_entropy, tolerance * sums.cross_entropy);
  EXPECT_NEAR(found.sums.divergence, sums.divergence, tolerance * sums.divergence);
  double worst = 0;
  for (std::size_t i = 0; i < dh.size(); ++i) worst = std::max(worst, std::fabs(dh[i] - found.dh[i]));
  for (std::size_t i = 0; i < dw.size(); ++i) worst = std::max(worst, std::fabs(dw[i] - found.dw[i]));
  EXPECT_LT(worst, tolerance);
}

TEST(HeadLoss, EqualsTheReference) {
  const Problem p;
  expect_reference(p, solve(p), 1e-6);
}

TEST(HeadLoss, CountsRows) {
  Problem p;
  const Answer a = solve(p);
  EXPECT_EQ(a.sums.labels, 60);
  EXPECT_EQ(a.sums.teacher_rows, 56);
}

TEST(HeadLoss, EveryDivergenceThroughSoftcapsEqualsTheReference) {
  for (const auto d : {Divergence::forward_kl, Divergence::reverse_kl, Divergence::jensen_shannon,
                       Divergence::skew_forward_kl, Divergence::skew_reverse_kl, Divergence::taid}) {
    Problem p;
    p.spec.divergence = d;
    p.spec.temperature = 2;
    p.softcap = 3;
    p.teacher_softcap = 5;
    expect_reference(p, solve(p), 2e-6);
  }
}

TEST(HeadLoss, AVocabularyThatIsPaddedOnEitherSide) {
  for (const std::int64_t teacher : {130, 200}) {
    Problem p;
    p.teacher_vocab = teacher;
    expect_reference(p, solve(p), 1e-6);
  }
}

TEST(HeadLoss, SameBitsForEveryChunkSize) {
  const Problem p;
  const Answer whole = solve(p, 70);
  for (const std::int64_t chunk : {1, 2, 3, 7, 16, 33, 69, 1000}) {
    const Answer a = solve(p, chunk);
    EXPECT_EQ(a.dh, whole.dh) << chunk;
    EXPECT_EQ(a.dw, whole.dw) << chunk;
    EXPECT_EQ(a.sums.divergence, whole.sums.divergence) << chunk;
  }
}

TEST(HeadLoss, SameBitsForEveryNumberOfThreads) {
  for (const Precision precision : {Precision::real, Precision::bf16}) {
    Problem p;
    p.precision = precision;
    const Answer one = solve(p, 32, 1);
    for (const int threads : {2, 8}) {
      const Answer many = solve(p, 32, threads);
      EXPECT_EQ(one.dh, many.dh);
      EXPECT_EQ(one.dw, many.dw);
      EXPECT_EQ(one.sums.divergence, many.sums.divergence);
    }
  }
}

TEST(HeadLoss, Bf16IsNearTheReference) {
  Problem p;
  p.precision = Precision::bf16;
  expect_reference(p, solve(p), 0.02);  // 8 bits of the factors
}

TEST(HeadLoss, Bf16GivesTheSameBitsForChunksOfWholeSlices) {
  Problem p;
  p.precision = Precision::bf16;
  const Answer whole = solve(p, 96);
  for (const std::int64_t chunk : {32, 64}) {
    const Answer a = solve(p, chunk);
    EXPECT_EQ(a.dh, whole.dh);
    EXPECT_EQ(a.dw, whole.dw);
  }
}

TEST(HeadLoss, RowsThatDoNotCountContributeExactlyNothing) {
  Problem p;
  const Answer counted = solve(p);
  for (std::int64_t i = 0; i < p.rows; ++i)
    if (p.teacher_rows[static_cast<std::size_t>(i)] == 0) {
      p.labels[static_cast<std::size_t>(i)] = -1;
      for (std::int64_t c = 0; c < p.teacher_hidden; ++c) p.th[static_cast<std::size_t>(i * p.teacher_hidden + c)] = 9;
    }
  const Answer a = solve(p);
  EXPECT_EQ(a.sums.divergence, counted.sums.divergence);
  for (std::int64_t i = 0; i < p.rows; ++i)
    for (std::int64_t c = 0; c < p.hidden && p.teacher_rows[static_cast<std::size_t>(i)] == 0; ++c)
      ASSERT_EQ(a.dh[static_cast<std::size_t>(i * p.hidden + c)], 0.0F);
}

TEST(HeadLoss, AllTokensAsTopTargetsEqualTheTeacher) {
  Problem p;
  const Answer dense = solve(p);
  std::vector<std::int32_t> ids;
  std::vector<float> log_p;
  for (std::int64_t i = 0; i < p.rows; ++i) {
    const auto t = logits_of(p.th.data() + i * p.teacher_hidden, p.tw, p.vocab, p.teacher_hidden, 0);
    double sum = 0;
    for (const double x : t) sum += std::exp(x);
    for (std::int64_t v = 0; v < p.vocab; ++v) {
      ids.push_back(static_cast<std::int32_t>(v));
      log_p.push_back(static_cast<float>(t[static_cast<std::size_t>(v)] - std::log(sum)));
    }
  }
  p.top = {p.vocab, ids, log_p, true};
  const Answer top = solve(p);
  EXPECT_NEAR(top.sums.divergence, dense.sums.divergence, 1e-4);
  for (std::size_t i = 0; i < dense.dh.size(); ++i) ASSERT_NEAR(top.dh[i], dense.dh[i], 1e-6);
}

TEST(HeadLoss, AnEvaluationCountsAgreementWithTheTeacher) {
  Problem p;
  const auto backend = make_cpu_backend();
  const Array h = backend->allocate(p.rows, p.hidden), w = backend->allocate(p.vocab, p.hidden);
  backend->upload(h, std::span(p.h).first(static_cast<std::size_t>(p.rows * p.hidden)));
  backend->upload(w, std::span(p.w).first(static_cast<std::size_t>(p.vocab * p.hidden)));
  LossTarget target;
  target.spec = p.spec;
  target.teacher_hidden = h, target.teacher_head = w;
  HeadLoss head;
  head.hidden = h, head.head = w;
  const LossSums sums = backend->head_loss(head, target);
  EXPECT_EQ(sums.teacher_agrees, p.rows);
  EXPECT_EQ(sums.divergence, 0);
}

}  // namespace
}  // namespace fettle::kit
