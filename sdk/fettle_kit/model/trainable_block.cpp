// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/trainable_block.h"

namespace fettle::kit {
namespace {

/// The operations of a block with their parameters: forward and backward of each side by side.
struct Ops {
  const BlockContext& c;
  Backend& b = c.backend;
  float eps = c.config.norm_eps;
  float offset = c.config.family->unit_offset ? 1.0f : 0.0f;

  void linear(const TrainableLinear& l, const Array& y, const Array& x) const {
    b.linear(y, x, l.weight->used, l.bias ? l.bias->used : Array(), c.precision);
  }
  /// dx = dy w, or += with `accumulate`.
  void linear_gradient(const TrainableLinear& l, const Array& dx, bool accumulate, const Array& dy,
                       const Array& x) const {
    b.linear_input_gradient(dx, dy, l.weight->used, accumulate, c.precision);
    b.linear_weight_gradient(l.weight->gradient, dy, x, l.weight->accumulated, c.precision);
    l.weight->accumulated = true;
    if (!l.bias) return;
    b.bias_gradient(l.bias->gradient, dy, l.bias->accumulated);
    l.bias->accumulated = true;
  }

  void norm(const Parameter& p, const Array& y, const Array& rstd, const Array& x) const {
    b.rms_norm(y, rstd, x, p.used, offset, eps);
  }
  void norm_gradient(Parameter& p, const Array& dx, bool accumulate, const Array& dy, const Array& x,
                     const Array& rstd) const {
    b.rms_norm_gradient(dx, accumulate, p.gradient, p.accumulated, dy, x, p.used, offset, rstd);
    p.accumulated = true;
  }

  AttentionShape attention(const TrainableBlock& block) const {
    const ModelConfig& m = c.config;
    return {{m.heads, m.kv_heads, m.head_dim, m.attention_scale, m.attention_softcap, block.window},
            c.batch.sequences,
            c.batch.length};
  }
};

/// q or k as heads: [rows * heads, head_dim].
Array heads_of(const Array& x, const ModelConfig& config) { return x.as_rows_of(config.head_dim); }

}  // namespace

BlockActivations BlockActivations::allocate(Backend& b, const ModelConfig& c, std::int64_t rows, Element flow) {
  const std::int64_t width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
  BlockActivations a;
  a.attention_in = b.allocate(rows, c.hidden, flow), a.attention_rstd = b.allocate(rows, 1);
  a.q = b.allocate(rows, width), a.k = b.allocate(rows, kv_width), a.v = b.allocate(rows, kv_width);
  if (c.family->qk_norm) {
    a.q_raw = b.allocate(rows, width), a.q_rstd = b.allocate(rows * c.heads, 1);
    a.k_raw = b.allocate(rows, kv_width), a.k_rstd = b.allocate(rows * c.kv_heads, 1);
  }
  a.mixed = b.allocate(rows, width), a.log_sums = b.allocate(rows, c.heads);
  a.middle = b.allocate(rows, c.hidden);
  a.mlp_in = b.allocate(rows, c.hidden, flow), a.mlp_rstd = b.allocate(rows, 1);
  a.gate = b.allocate(rows, c.intermediate), a.up = b.allocate(rows, c.intermediate);
  a.gated = b.allocate(rows, c.intermediate, flow);
  if (c.family->sandwich_norms) {
    a.attention_out = b.allocate(rows, c.hidden), a.post_attention_rstd = b.allocate(rows, 1);
    a.mlp_out = b.allocate(rows, c.hidden), a.post_mlp_rstd = b.allocate(rows, 1);
  }
  return a;
}

BlockGradients BlockGradients::allocate(Backend& b, const ModelConfig& c, std::int64_t rows, Element flow) {
  const std::int64_t width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
  BlockGradients g;
  g.branch = b.allocate(rows, c.hidden), g.in = b.allocate(rows, c.hidden);
  g.q = b.allocate(rows, width), g.k = b.allocate(rows, kv_width), g.v = b.allocate(rows, kv_width);
  g.mixed = b.allocate(rows, width);
  g.gated = b.allocate(rows, c.intermediate);
  g.gate = b.allocate(rows, c.intermediate, flow), g.up = b.allocate(rows, c.intermediate, flow);
  return g;
}

void forward(const BlockContext& c, const TrainableBlock& block, const Array& out, const Array& x, BlockActivations& a,
             bool again) {
  const Ops op{c};
  const bool qk_norm = block.q_norm != nullptr;

  op.norm(*block.attention_norm, a.attention_in, a.attention_rstd, x);
  op.linear(block.q, qk_norm ? a.q_raw : a.q, a.attention_in);
  op.linear(block.k, qk_norm ? a.k_raw : a.k, a.attention_in);
  op.linear(block.v, a.v, a.attention_in);
  if (qk_norm) {
    op.norm(*block.q_norm, heads_of(a.q, c.config), a.q_rstd, heads_of(a.q_raw, c.config));
    op.norm(*block.k_norm, heads_of(a.k, c.config), a.k_rstd, heads_of(a.k_raw, c.config));
  }
  op.b.rotate(a.q, block.cos, block.sin, false);
  op.b.rotate(a.k, block.cos, block.sin, false);
  op.b.attention(a.mixed, a.log_sums, a.q, a.k, a.v, op.attention(block));
  if (block.post_attention_norm) {
    op.linear(block.o, a.attention_out, a.mixed);
    op.norm(*block.post_attention_norm, a.middle, a.post_attention_rstd, a.attention_out);
  } else {
    op.linear(block.o, a.middle, a.mixed);
  }
  op.b.add(a.middle, a.middle, x);

  op.norm(*block.mlp_norm, a.mlp_in, a.mlp_rstd, a.middle);
  op.linear(block.gate, a.gate, a.mlp_in);
  op.linear(block.up, a.up, a.mlp_in);
  op.b.gated(a.gated, a.gate, a.up, c.config.activation);
  if (block.post_mlp_norm) {
    op.linear(block.down, a.mlp_out, a.gated);
    op.norm(*block.post_mlp_norm, out, a.post_mlp_rstd, a.mlp_out);
  } else if (!again) {
    op.linear(block.down, out, a.gated);
  }
  if (!again) op.b.add(out, out, a.middle);
}

void backward(const BlockContext& c, const TrainableBlock& block, const Array& dx, const Array& x,
              const BlockActivations& a, BlockGradients& g) {
  const Ops op{c};

  Array branch = dx;
  if (block.post_mlp_norm) {
    branch = g.branch;
    op.norm_gradient(*block.post_mlp_norm, branch, false, dx, a.mlp_out, a.post_mlp_rstd);
  }
  op.linear_gradient(block.down, g.gated, false, branch, a.gated);
  op.b.gated_gradient(g.gate, g.up, g.gated, a.gate, a.up, c.config.activation);
  op.linear_gradient(block.up, g.in, false, g.up, a.mlp_in);
  op.linear_gradient(block.gate, g.in, true, g.gate, a.mlp_in);
  op.norm_gradient(*block.mlp_norm, dx, true, g.in, a.middle, a.mlp_rstd);

  branch = dx;
  if (block.post_attention_norm) {
    branch = g.branch;
    op.norm_gradient(*block.post_attention_norm, branch, false, dx, a.attention_out, a.post_attention_rstd);
  }
  op.linear_gradient(block.o, g.mixed, false, branch, a.mixed);
  op.b.attention_gradient(g.q, g.k, g.v, g.mixed, a.mixed, a.log_sums, a.q, a.k, a.v, op.attention(block));
  op.b.rotate(g.q, block.cos, block.sin, true);
  op.b.rotate(g.k, block.cos, block.sin, true);
  if (block.q_norm) {
    const Array dq = heads_of(g.q, c.config), dk = heads_of(g.k, c.config);
    op.norm_gradient(*block.q_norm, dq, false, dq, heads_of(a.q_raw, c.config), a.q_rstd);
    op.norm_gradient(*block.k_norm, dk, false, dk, heads_of(a.k_raw, c.config), a.k_rstd);
  }
  op.linear_gradient(block.v, g.in, false, g.v, a.attention_in);
  op.linear_gradient(block.k, g.in, true, g.k, a.attention_in);
  op.linear_gradient(block.q, g.in, true, g.q, a.attention_in);
  op.norm_gradient(*block.attention_norm, dx, true, g.in, x, a.attention_rstd);
}

}  // namespace fettle::kit
