// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/compress/input_grid.h"
#include "fettle_kit/kernels/gemm.h"
#include "fettle_kit/model/config.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// A linear layer: y = x W^T + b. The matrix lies in the model's file, the bias is a small copy.
struct Linear {
  StoredMatrix weight;      ///< [out, in]
  std::vector<float> bias;  ///< [out] or empty
  /// 0: rows stand as in a Hugging Face checkpoint. Else llama.cpp's order of so many heads' rows: inside each head row
  /// 2i + h is row h * D/2 + i of Hugging Face. Whoever multiplies puts the outputs back; nobody copies the matrix.
  std::int64_t paired_heads = 0;
  /// x is rounded to this before it is multiplied, as clients of a checkpoint with quantized activations do.
  InputGrid inputs;
};

/// One decoder block. Norm vectors are what the normalized row is multiplied by (1 + w where a family stores w); empty
/// where the family has no such norm.
struct BlockWeights {
  Linear q, k, v, o, gate, up, down;
  std::vector<float> attention_norm, mlp_norm, post_attention_norm, post_mlp_norm, q_norm, k_norm;
};

/// The weights of a model by their Hugging Face names, whatever file they lie in: mapped and shared, cheap to copy.
/// [any thread]
class Weights {
 public:
  /// `path`: a checkpoint folder, a GGUF file, or a folder that holds one GGUF file. The matrices of a quantized
  /// checkpoint are sources of rows, which never become f32 as a whole.
  static Result<Weights> open(const std::string& path);

  const ModelConfig& config() const;
  bool from_gguf() const;
  /// Stored bytes of all tensors of the file.
  std::uint64_t bytes() const;

  /// Errors name the tensor, what shape it has and what shape the config asks for.
  Result<StoredMatrix> matrix(const std::string& name, std::int64_t rows, std::int64_t cols) const;
  Result<std::vector<float>> vector(const std::string& name, std::int64_t size) const;

  Result<StoredMatrix> embedding() const;  ///< [vocab, hidden]
  Result<StoredMatrix> head() const;       ///< [vocab, hidden]; the embedding if the model ties them
  Result<std::vector<float>> final_norm() const;
  Result<BlockWeights> block(std::int64_t layer) const;
  /// Releases the pages of a block's matrices that will not be looked at again soon.
  void drop_block(std::int64_t layer) const;

 private:
  struct Source;
  explicit Weights(std::shared_ptr<const Source> source) : source_(std::move(source)) {}
  /// A vector is one row.
  Result<StoredMatrix> find(const std::string& name, std::vector<std::int64_t> shape) const;
  Result<std::vector<float>> norm(const std::string& name, std::int64_t size) const;
  Result<Linear> linear(const std::string& name, std::int64_t out, std::int64_t in, bool bias,
                        std::int64_t heads = 0) const;
  std::shared_ptr<const Source> source_;
};

}  // namespace fettle::kit
