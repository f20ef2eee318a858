// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/backend/backend.h"

namespace fettle::kit {

/// The backend on the processor: see make_cpu_backend.
class CpuBackend final : public Backend {
 public:
  std::string_view name() const override { return "cpu"; }

  Array allocate(std::int64_t rows, std::int64_t cols, Element element) override;
  void upload(const Array& to, std::span<const float> from) override;
  void download(std::span<float> to, const Array& from) override;
  void copy(const Array& to, const Array& from) override;
  void fill(const Array& x, float value) override;
  void host_view(const Array& x, Access access, const std::function<void(MutMatrix)>& look) override;

  void linear(const Array& y, const Array& x, const Array& w, const Array& bias, Precision precision) override;
  void linear_input_gradient(const Array& dx, const Array& dy, const Array& w, bool accumulate,
                             Precision precision) override;
  void linear_weight_gradient(const Array& dw, const Array& dy, const Array& x, bool accumulate,
                              Precision precision) override;
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
                 const AttentionShape& shape) override;
  void attention_gradient(const Array& dq, const Array& dk, const Array& dv, const Array& dout, const Array& out,
                          const Array& log_sums, const Array& q, const Array& k, const Array& v,
                          const AttentionShape& shape) override;
  void gated(const Array& y, const Array& gate, const Array& up, Activation activation) override;
  void gated_gradient(const Array& dgate, const Array& dup, const Array& dy, const Array& gate, const Array& up,
                      Activation activation) override;
  void add(const Array& y, const Array& a, const Array& b) override;

  /// Rows of logits that head_loss holds at a time, unless it is told.
  static std::int64_t loss_rows(std::int64_t vocab);
  LossSums head_loss(const HeadLoss& head, const LossTarget& target) override;
  void logits(const Array& logits, const Array& hidden, const Array& head, float softcap, Precision precision) override;
  double squared_error(const Array& dx, const Array& x, const Array& target, std::span<const std::uint8_t> rows,
                       double scale) override;

  double sum_squares(const Array& x) override;
  void scale(const Array& x, float factor) override;
  void multiply(const Array& x, const Array& y) override;
  void adamw(const Array& value, const Array& first, const Array& second, const Array& gradient, const Array& used,
             const AdamwStep& step) override;

 private:
  Array logits_, teacher_logits_, logit_gradients_;  ///< of a chunk of rows of head_loss
};

}  // namespace fettle::kit
