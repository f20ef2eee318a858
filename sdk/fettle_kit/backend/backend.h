// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/backend/loss_spec.h"
#include "fettle_kit/kernels/attention.h"
#include "fettle_kit/kernels/precision.h"
#include "fettle_kit/nn/activation.h"
#include "fettle_kit/tensor/matrix.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

namespace fettle::kit {

/// How an array keeps its numbers.
enum class Element {
  real,  ///< the backend's own: f32 on machines, f64 in the test oracle
  bf16,  ///< what goes into products in bf16 precision; a backend may keep more than that
};

/// Memory of a backend; what it is, only the backend knows.
class Storage {
 public:
  virtual ~Storage() = default;
};

/// A row-major matrix [rows, cols] in a backend's memory: a handle, cheap to copy, that shares its storage. Rows are
/// `stride` elements apart. A vector is one row.
struct Array {
  std::shared_ptr<Storage> storage;
  Element element = Element::real;
  std::int64_t offset = 0, rows = 0, cols = 0, stride = 0;

  explicit operator bool() const { return storage != nullptr; }
  std::int64_t size() const { return rows * cols; }
  bool dense() const { return stride == cols || rows == 1; }
  Array rows_from(std::int64_t first, std::int64_t count) const {
    return {storage, element, offset + first * stride, count, cols, stride};
  }
  Array cols_from(std::int64_t first, std::int64_t count) const {
    return {storage, element, offset + first, rows, count, stride};
  }
  /// The same numbers as [n, width]; only of a dense array, whose size is a multiple of `width`.
  Array as_rows_of(std::int64_t width) const { return {storage, element, offset, size() / width, width, width}; }
};

/// `sequences` of `length` positions each, one after the other: rows of all activations.
struct AttentionShape {
  CausalHeads heads;
  std::int64_t sequences = 1, length = 0;
};

/// A teacher's most likely tokens, cached: k a row. What they leave of the mass is one more bucket (methods.md 5).
struct TopTargets {
  std::int64_t k = 0;                        ///< 0: none
  std::span<const std::int32_t> ids;         ///< [rows, k], distinct in a row, inside the vocabulary; -1: empty place
  std::span<const float> log_probabilities;  ///< [rows, k], of the softmax at LossSpec::temperature
  bool tail = true;  ///< false: they are the whole distribution (random samples), the divergence is its cross-entropy
};

/// What the logits of a batch are held against. Any of the parts may be missing. Borrowed.
///
///   gradient of a row = label_scale * d cross_entropy + teacher_scale * d divergence
///
/// so that scales hold the weights of the terms, divided by the rows that count in the whole global batch.
struct LossTarget {
  LossSpec spec;
  std::span<const std::int32_t> labels;  ///< [rows]; below 0: the row has none. Empty: no cross-entropy
  double label_scale = 0;

  // At most one teacher. Its vocabulary may be smaller than the student's: missing tokens have probability 0.
  Array teacher_hidden, teacher_head;  ///< [rows, teacher's hidden] after its final norm; [vocab, teacher's hidden]
  float teacher_softcap = 0;
  TopTargets top;
  std::span<const std::uint8_t> teacher_rows;  ///< [rows], 0: the row does not count for the divergence; empty: all do
  double teacher_scale = 0;
};

/// The head and the loss of a batch; the matrix of logits never exists whole.
struct HeadLoss {
  Array hidden;            ///< [rows, hidden], after the final norm
  Array head;              ///< [vocab, hidden]
  float softcap = 0;       ///< of the logits; 0: none
  Array hidden_gradient;   ///< out: [rows, hidden]; without it only sums are computed
  Array head_gradient;     ///< [vocab, hidden]; none: the head is frozen
  bool accumulate = true;  ///< head_gradient += instead of =
  Precision precision = Precision::real;
  std::int64_t chunk = 0;  ///< rows of logits at a time; 0: what suits the machine. Real results do not depend on it
};

/// One step of AdamW (Loshchilov and Hutter 2019, algorithm 2), with bias correction and epsilon outside the root:
///   g = gradient * gradient_scale,  m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
///   value -= rate * (m / correction1 / (sqrt(v / correction2) + epsilon) + decay * value)
struct AdamwStep {
  float rate = 0, beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f, decay = 0;
  float correction1 = 1, correction2 = 1;  ///< 1 - beta^step
  float gradient_scale = 1;                ///< of clipping
};

enum class Access { read, write, read_write };

/// The seam between the model and the machine: memory, and fused operations on it. Shapes that do not fit together end
/// the program: a bug of the caller. Outputs come first and must not overlap inputs unless it says so; they are
/// overwritten unless it says +=. Every sum runs in a fixed order: the same bits for any number of threads. One thread
/// at a time calls an object; it may use the TBB arena of that thread.
///
/// rows: tokens of a batch, sequence after sequence. real and bf16 arrays are taken wherever it does not say `real`.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;

  // ---- memory

  /// Content is unknown. Throws std::bad_alloc.
  virtual Array allocate(std::int64_t rows, std::int64_t cols, Element element = Element::real) = 0;
  virtual void upload(const Array& to, std::span<const float> from) = 0;  ///< to is dense
  virtual void download(std::span<float> to, const Array& from) = 0;      ///< from is dense
  virtual void copy(const Array& to, const Array& from) = 0;              ///< converts; to may be from
  virtual void fill(const Array& x, float value) = 0;
  /// Shows a dense real array to `look` as f32 in host memory, and takes back what it writes there. Where the memory is
  /// the host's, nothing is copied.
  virtual void host_view(const Array& x, Access access, const std::function<void(MutMatrix)>& look) = 0;

  // ---- products: linear layers y = x w' + b

  /// y [rows, out] = x [rows, in] w' (+ bias [1, out] if it is given); y real.
  virtual void linear(const Array& y, const Array& x, const Array& w, const Array& bias, Precision precision) = 0;
  /// dx [rows, in] = dy [rows, out] w   (+= if accumulate); dx real.
  virtual void linear_input_gradient(const Array& dx, const Array& dy, const Array& w, bool accumulate,
                                     Precision precision) = 0;
  /// dw [out, in] = dy' x   (+= if accumulate); dw real.
  virtual void linear_weight_gradient(const Array& dw, const Array& dy, const Array& x, bool accumulate,
                                      Precision precision) = 0;
  /// db [1, cols] = sum over the rows of dy   (+= if accumulate); db real.
  virtual void bias_gradient(const Array& db, const Array& dy, bool accumulate) = 0;

  // ---- the pieces of a block; real unless it says otherwise

  /// x [n, hidden] = scale * table [vocab, hidden] at ids; ids inside the vocabulary.
  virtual void embed(const Array& x, const Array& table, std::span<const std::int32_t> ids, float scale) = 0;
  /// dtable += scale * dx at ids, in the order of the positions.
  virtual void embed_gradient(const Array& dtable, const Array& dx, std::span<const std::int32_t> ids, float scale) = 0;

  /// y = x * rstd * (offset + weight [1, cols]), rstd [n, 1] = 1 / sqrt(mean(x^2) + eps) kept for backward (Zhang and
  /// Sennrich 2019, equation 4). y may be x, and real or bf16. offset is 0 or 1.
  virtual void rms_norm(const Array& y, const Array& rstd, const Array& x, const Array& weight, float offset,
                        float eps) = 0;
  /// dx (+= if accumulate) and dweight (+= if accumulate_weight; may be none); dx may be dy.
  virtual void rms_norm_gradient(const Array& dx, bool accumulate, const Array& dweight, bool accumulate_weight,
                                 const Array& dy, const Array& x, const Array& weight, float offset,
                                 const Array& rstd) = 0;

  /// Turns every head of x [sequences * length, heads * 2 * pairs] in place by the angles of its position: cos, sin
  /// [length, pairs]. `inverse` turns back, which is the gradient.
  virtual void rotate(const Array& x, const Array& cos, const Array& sin, bool inverse) = 0;

  /// out [rows, heads * head_dim]; log_sums [rows, heads], the logarithm of each query's softmax
  /// denominator, kept for backward. q, k, v as causal_attention has them.
  virtual void attention(const Array& out, const Array& log_sums, const Array& q, const Array& k, const Array& v,
                         const AttentionShape& shape) = 0;
  virtual void attention_gradient(const Array& dq, const Array& dk, const Array& dv, const Array& dout,
                                  const Array& out, const Array& log_sums, const Array& q, const Array& k,
                                  const Array& v, const AttentionShape& shape) = 0;

  /// y = activation(gate) * up; y real or bf16.
  virtual void gated(const Array& y, const Array& gate, const Array& up, Activation activation) = 0;
  /// dgate may be gate, dup may be up; both real or bf16.
  virtual void gated_gradient(const Array& dgate, const Array& dup, const Array& dy, const Array& gate, const Array& up,
                              Activation activation) = 0;

  /// y = a + b; y may be either.
  virtual void add(const Array& y, const Array& a, const Array& b) = 0;

  // ---- losses

  /// Logits, loss, gradient of the logits and both gradients from it, by chunks of rows.
  virtual LossSums head_loss(const HeadLoss& head, const LossTarget& target) = 0;
  /// logits [n, vocab] = softcap(hidden w'): for evaluation, a few rows at a time.
  virtual void logits(const Array& logits, const Array& hidden, const Array& head, float softcap,
                      Precision precision) = 0;
  /// Returns the sum of (x - target)^2 over the rows with rows[i] != 0 (all if empty) and adds scale * 2 (x - target)
  /// to dx, if there is one.
  virtual double squared_error(const Array& dx, const Array& x, const Array& target, std::span<const std::uint8_t> rows,
                               double scale) = 0;

  // ---- optimizer; dense arrays of one shape

  virtual double sum_squares(const Array& x) = 0;
  virtual void scale(const Array& x, float factor) = 0;
  /// x *= y: a mask of a sparse weight or of a clipped range.
  virtual void multiply(const Array& x, const Array& y) = 0;
  /// In one pass over memory. `used`, if there is one and it is not value, gets a copy of the new value; it may be
  /// bf16.
  virtual void adamw(const Array& value, const Array& first, const Array& second, const Array& gradient,
                     const Array& used, const AdamwStep& step) = 0;
};

/// On the processor, by fettle_kit/kernels: real is f32, and memory is the host's.
std::unique_ptr<Backend> make_cpu_backend();

}  // namespace fettle::kit
