// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/backend/backend.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <vector>

namespace fettle::test {

/// Memory and the optimizer, no model: enough to train numbers directly.
class ToyBackend final : public kit::Backend {
 public:
  using Array = kit::Array;
  struct Memory final : kit::Storage {
    std::vector<float> values;
  };
  static float* data(const Array& x) { return static_cast<Memory&>(*x.storage).values.data() + x.offset; }

  std::string_view name() const override { return "toy"; }
  Array allocate(std::int64_t rows, std::int64_t cols, kit::Element element) override {
    auto memory = std::make_shared<Memory>();
    memory->values.assign(static_cast<std::size_t>(rows * cols), NAN);
    return {memory, element, 0, rows, cols, cols};
  }
  void upload(const Array& to, std::span<const float> from) override { std::ranges::copy(from, data(to)); }
  void download(std::span<float> to, const Array& from) override {
    std::copy_n(data(from), static_cast<std::size_t>(from.size()), to.begin());
  }
  void copy(const Array& to, const Array& from) override {
    std::copy_n(data(from), static_cast<std::size_t>(from.size()), data(to));
  }
  void fill(const Array& x, float value) override { std::fill_n(data(x), static_cast<std::size_t>(x.size()), value); }
  void host_view(const Array& x, kit::Access, const std::function<void(kit::MutMatrix)>& look) override {
    look({data(x), x.rows, x.cols});
  }
  double sum_squares(const Array& x) override {
    double sum = 0;
    for (std::int64_t i = 0; i < x.size(); ++i) sum += static_cast<double>(data(x)[i]) * data(x)[i];
    return sum;
  }
  void scale(const Array& x, float factor) override {
    for (std::int64_t i = 0; i < x.size(); ++i) data(x)[i] *= factor;
  }
  void multiply(const Array& x, const Array& y) override {
    for (std::int64_t i = 0; i < x.size(); ++i) data(x)[i] *= data(y)[i];
  }
  void adamw(const Array& value, const Array& first, const Array& second, const Array& gradient, const Array& used,
             const kit::AdamwStep& s) override {
    for (std::int64_t i = 0; i < value.size(); ++i) {
      float &w = data(value)[i], &m = data(first)[i], &v = data(second)[i];
      const float g = data(gradient)[i] * s.gradient_scale;
      m = s.beta1 * m + (1 - s.beta1) * g;
      v = s.beta2 * v + (1 - s.beta2) * g * g;
      w -= s.rate * (m / s.correction1 / (std::sqrt(v / s.correction2) + s.epsilon) + s.decay * w);
      if (used) data(used)[i] = w;
    }
  }

  // No model here.
  void linear(const Array&, const Array&, const Array&, const Array&, kit::Precision) override { std::abort(); }
  void linear_input_gradient(const Array&, const Array&, const Array&, bool, kit::Precision) override { std::abort(); }
  void linear_weight_gradient(const Array&, const Array&, const Array&, bool, kit::Precision) override { std::abort(); }
  void bias_gradient(const Array&, const Array&, bool) override { std::abort(); }
  void embed(const Array&, const Array&, std::span<const std::int32_t>, float) override { std::abort(); }
  void embed_gradient(const Array&, const Array&, std::span<const std::int32_t>, float) override { std::abort(); }
  void rms_norm(const Array&, const Array&, const Array&, const Array&, float, float) override { std::abort(); }
  void rms_norm_gradient(const Array&, bool, const Array&, bool, const Array&, const Array&, const Array&, float,
                         const Array&) override {
    std::abort();
  }
  void rotate(const Array&, const Array&, const Array&, bool) override { std::abort(); }
  void attention(const Array&, const Array&, const Array&, const Array&, const Array&,
                 const kit::AttentionShape&) override {
    std::abort();
  }
  void attention_gradient(const Array&, const Array&, const Array&, const Array&, const Array&, const Array&,
                          const Array&, const Array&, const Array&, const kit::AttentionShape&) override {
    std::abort();
  }
  void gated(const Array&, const Array&, const Array&, kit::Activation) override { std::abort(); }
  void gated_gradient(const Array&, const Array&, const Array&, const Array&, const Array&, kit::Activation) override {
    std::abort();
  }
  void add(const Array&, const Array&, const Array&) override { std::abort(); }
  kit::LossSums head_loss(const kit::HeadLoss&, const kit::LossTarget&) override { std::abort(); }
  void logits(const Array&, const Array&, const Array&, float, kit::Precision) override { std::abort(); }
  double squared_error(const Array&, const Array&, const Array&, std::span<const std::uint8_t>, double) override {
    std::abort();
  }
};

}  // namespace fettle::test
