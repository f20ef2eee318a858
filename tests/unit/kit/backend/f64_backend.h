// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/backend/backend.h"

#include <vector>

namespace fettle::test {

/// A second backend, different on purpose: f64, one thread, loops as the formulas are written, and memory that cannot
/// be taken for f32. What runs on it proves that nothing above the seam touches a buffer; what it computes is the
/// reference for gradients. Nothing is ever rounded to bf16.
class F64Backend final : public kit::Backend {
 public:
  using Array = kit::Array;

  /// The numbers of an array, to look at and to change.
  static double& at(const Array& x, std::int64_t row, std::int64_t col);
  static std::vector<double> values(const Array& x);

  std::string_view name() const override { return "f64"; }
  Array allocate(std::int64_t rows, std::int64_t cols, kit::Element element) override;
  void upload(const Array& to, std::span<const float> from) override;
  void download(std::span<float> to, const Array& from) override;
  void copy(const Array& to, const Array& from) override;
  void fill(const Array& x, float value) override;
  void host_view(const Array& x, kit::Access access, const std::function<void(kit::MutMatrix)>& look) override;

  void linear(const Array& y, const Array& x, const Array& w, const Array& bias, kit::Precision) override;
  void linear_input_gradient(const Array& dx, const Array& dy, const Array& w, bool accumulate,
                             kit::Precision) override;
  void linear_weight_gradient(const Array& dw, const Array& dy, const Array& x, bool accumulate,
                              kit::Precision) override;
  void bias_gradient(const Array& db, const Array& dy, bool accumulate) override;

  void embed(const Array& x, const Array& table, std::span<const std::int32_t> ids, float scale) override;
  void embed_gradient(const Array& dtable, const Array& dx, std::span<const std::int32_t> ids, float scale) override;
  void rms_norm(const Array& y, const Array& rstd, const Array& x, const Array& weight, float offset,
                float eps) override;
  void rms_norm_gradient(const Array& dx, bool accumulate, const Array& dweight, bool accumulate_weight,
                         const Array& dy, const Array& x, const Array& weight, float offset,
                         const Array& rstd) override;
  void rotate(const Array& x, const Array& cos, const Array& sin, bool inverse) override;
  void attention(const Array& out, const Array& log_sums, const Array& q, const Array& k, const Array& v,
                 const kit::AttentionShape& shape) override;
  void attention_gradient(const Array& dq, const Array& dk, const Array& dv, const Array& dout, const Array& out,
                          const Array& log_sums, const Array& q, const Array& k, const Array& v,
                          const kit::AttentionShape& shape) override;
  void gated(const Array& y, const Array& gate, const Array& up, kit::Activation activation) override;
  void gated_gradient(const Array& dgate, const Array& dup, const Array& dy, const Array& gate, const Array& up,
                      kit::Activation activation) override;
  void add(const Array& y, const Array& a, const Array& b) override;

  kit::LossSums head_loss(const kit::HeadLoss& head, const kit::LossTarget& target) override;
  void logits(const Array& logits, const Array& hidden, const Array& head, float softcap, kit::Precision) override;
  double squared_error(const Array& dx, const Array& x, const Array& target, std::span<const std::uint8_t> rows,
                       double scale) override;

  double sum_squares(const Array& x) override;
  void scale(const Array& x, float factor) override;
  void multiply(const Array& x, const Array& y) override;
  void adamw(const Array& value, const Array& first, const Array& second, const Array& gradient, const Array& used,
             const kit::AdamwStep& step) override;
};

}  // namespace fettle::test
