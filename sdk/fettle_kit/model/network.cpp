// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/network.h"

#include "fettle_kit/backend/cpu_backend.h"
#include "fettle_kit/io/checkpoint_builder.h"
#include "fettle_kit/model/parameter_values.h"
#include "fettle_kit/model/trainable_block.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

namespace fettle::kit {
namespace {

using std::int64_t;

/// Bytes of an element of what only goes into products.
Element flow_element(const NetworkOptions& options) {
  return options.precision == Precision::bf16 ? Element::bf16 : Element::real;
}

/// Whether forward multiplies by this tensor, so that bf16 precision wants a bf16 copy of it.
bool in_products(const ModelTensor& tensor, const ModelConfig& config) {
  return tensor.role == TensorRole::linear || tensor.role == TensorRole::head ||
         (tensor.role == TensorRole::embedding && config.tied);
}

}  // namespace

void WeightTransform::filter_gradient(Backend&, const Array&, const Array&) const {}

struct Network::State {
  State(Backend& b, const ModelConfig& c, const NetworkOptions& o) : backend(b), config(c), options(o) {}

  Backend& backend;
  ModelConfig config;
  NetworkOptions options;

  std::vector<Parameter> parameters;
  std::map<std::string, Parameter*, std::less<>> by_name;
  std::vector<TrainableBlock> blocks;
  Parameter *embedding = nullptr, *head = nullptr, *final_norm = nullptr;

  // Of the last batch.
  Batch batch{.sequences = 0, .length = 0};
  std::vector<std::int32_t> ids;
  std::vector<Array> stream;  ///< the residual stream before each block, and after the last
  std::vector<BlockActivations> activations;
  std::optional<BlockGradients> gradients;
  Array hidden, final_rstd, hidden_gradient, stream_gradient;
  bool head_gradient = false;  ///< hidden_gradient is that of the last forward

  bool keeps_all() const { return !options.checkpointing && !options.frozen; }
  BlockContext context() const { return {backend, config, options.precision, batch}; }
  float norm_offset() const { return config.family->unit_offset ? 1.0f : 0.0f; }
  BlockActivations& activations_of(int64_t layer) {
    return activations[keeps_all() ? static_cast<std::size_t>(layer) : 0];
  }

  Status add_parameters(const std::function<Status(MutMatrix, const ModelTensor&)>& fill);
  void connect();
  void make_room(const Batch& wanted);
  void refresh(Parameter& parameter);
};

Status Network::State::add_parameters(const std::function<Status(MutMatrix, const ModelTensor&)>& fill) {
  for (const ModelTensor& tensor : model_tensors(config)) {
    Parameter p;
    p.name = tensor.name;
    p.shape = tensor.shape;
    p.decay = tensor.shape.size() == 2;
    const int64_t rows = p.decay ? tensor.shape[0] : 1, cols = tensor.shape.back();
    p.value = backend.allocate(rows, cols);
    Status status;
    backend.host_view(p.value, Access::write, [&](MutMatrix values) { status = fill(values, tensor); });
    FETTLE_TRY(std::move(status));
    if (!options.frozen) p.gradient = backend.allocate(rows, cols);
    const bool narrow = options.precision == Precision::bf16 && in_products(tensor, config);
    p.used = narrow ? backend.allocate(rows, cols, Element::bf16) : p.value;
    parameters.push_back(std::move(p));
  }
  return {};
}

/// Finds each block's parameters; call once `parameters` is complete.
void Network::State::connect() {
  for (Parameter& p : parameters) by_name[p.name] = &p, refresh(p);
  const auto find = [&](const std::string& name) {
    const auto at = by_name.find(name);
    return at == by_name.end() ? nullptr : at->second;
  };
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    const auto linear = [&](const char* name) {
      return TrainableLinear{find(prefix + name + ".weight"), find(prefix + name + ".bias")};
    };
    const auto norm = [&](const char* name) { return find(prefix + name + ".weight"); };
    TrainableBlock b;
    b.q = linear("self_attn.q_proj"), b.k = linear("self_attn.k_proj"), b.v = linear("self_attn.v_proj");
    b.o = linear("self_attn.o_proj");
    b.gate = linear("mlp.gate_proj"), b.up = linear("mlp.up_proj"), b.down = linear("mlp.down_proj");
    b.attention_norm = norm("input_layernorm");
    b.q_norm = norm("self_attn.q_norm"), b.k_norm = norm("self_attn.k_norm");
    if (config.family->sandwich_norms) {
      b.post_attention_norm = norm("post_attention_layernorm");
      b.mlp_norm = norm("pre_feedforward_layernorm");
      b.post_mlp_norm = norm("post_feedforward_layernorm");
    } else {
      b.mlp_norm = norm("post_attention_layernorm");
    }
    b.window = config.windows[static_cast<std::size_t>(layer)];
    blocks.push_back(b);
  }
  embedding = find("model.embed_tokens.weight");
  final_norm = find("model.norm.weight");
  head = config.tied ? embedding : find("lm_head.weight");
}

void Network::State::refresh(Parameter& p) {
  if (p.transform) return p.transform->apply(backend, p.used, p.value);
  if (p.used.storage != p.value.storage) backend.copy(p.used, p.value);
}

/// Buffers for a batch, kept from step to step.
void Network::State::make_room(const Batch& wanted) {
  const int64_t rows = wanted.rows();
  if (rows != batch.rows()) {
    const Element flow = flow_element(options);
    stream.clear();
    activations.clear();
    gradients.reset();
    for (int64_t i = 0; i <= config.layers; ++i) stream.push_back(backend.allocate(rows, config.hidden));
    const int64_t kept = keeps_all() ? config.layers : 1;
    for (int64_t i = 0; i < kept; ++i) activations.push_back(BlockActivations::allocate(backend, config, rows, flow));
    hidden = backend.allocate(rows, config.hidden, flow);
    final_rstd = backend.allocate(rows, 1);
    if (!options.frozen) {
      gradients = BlockGradients::allocate(backend, config, rows, flow);
      hidden_gradient = backend.allocate(rows, config.hidden);
      stream_gradient = backend.allocate(rows, config.hidden);
    }
  }
  if (wanted.length != batch.length) {
    const auto table = [&](const Rope& rope) {
      const RopeTable angles = rope_table(rope.frequencies, rope.magnitude, 0, wanted.length);
      const Array cos = backend.allocate(wanted.length, angles.pairs),
                  sin = backend.allocate(wanted.length, angles.pairs);
      backend.upload(cos, angles.cos);
      backend.upload(sin, angles.sin);
      return std::pair(cos, sin);
    };
    const auto full = table(config.rope);
    const auto local = config.local_rope.frequencies.empty() ? full : table(config.local_rope);
    for (TrainableBlock& block : blocks) std::tie(block.cos, block.sin) = block.window > 0 ? local : full;
  }
  batch = wanted;
}

Network::Network(std::unique_ptr<State> state) : state_(std::move(state)) {}
Network::Network(Network&&) noexcept = default;
Network& Network::operator=(Network&&) noexcept = default;
Network::~Network() = default;

Result<Network> Network::open(Backend& backend, const Weights& weights, const NetworkOptions& options) {
  auto state = std::make_unique<State>(backend, weights.config(), options);
  FETTLE_TRY(state->add_parameters(
      [&](MutMatrix values, const ModelTensor& tensor) { return read_values(values, tensor, weights); }));
  state->connect();
  return Network(std::move(state));
}

Result<Network> Network::create(Backend& backend, const ModelConfig& config, std::uint64_t seed, double deviation,
                                const NetworkOptions& options) {
  auto state = std::make_unique<State>(backend, config, options);
  FETTLE_TRY(state->add_parameters([&](MutMatrix values, const ModelTensor& tensor) {
    initial_values(values, tensor, config, seed, deviation);
    return Status();
  }));
  state->connect();
  return Network(std::move(state));
}

const ModelConfig& Network::config() const { return state_->config; }
Backend& Network::backend() const { return state_->backend; }
const NetworkOptions& Network::options() const { return state_->options; }
std::span<Parameter> Network::parameters() { return state_->parameters; }
std::span<const Parameter> Network::parameters() const { return state_->parameters; }
const Array& Network::hidden() const { return state_->hidden; }
const Array& Network::head() const { return state_->head->used; }
const Array& Network::block_input(int64_t layer) const { return state_->stream[static_cast<std::size_t>(layer)]; }

Parameter* Network::find(std::string_view name) {
  const auto at = state_->by_name.find(name);
  return at == state_->by_name.end() ? nullptr : at->second;
}

int64_t Network::parameter_count() const {
  int64_t count = 0;
  for (const Parameter& p : state_->parameters) count += p.elements();
  return count;
}

void Network::set_transform(Parameter& p, std::shared_ptr<const WeightTransform> transform) {
  p.transform = std::move(transform);
  if (p.transform && p.used.storage == p.value.storage) p.used = backend().allocate(p.value.rows, p.value.cols);
  if (!p.transform && p.used.element == Element::real) p.used = p.value;
  state_->refresh(p);
}

Status Network::forward(std::span<const std::int32_t> ids, const Batch& batch) {
  State& s = *state_;
  if (batch.rows() <= 0 || static_cast<std::size_t>(batch.rows()) != ids.size())
    return {Code::internal, fmt::format("a batch of {} sequences of {} positions was given {} tokens", batch.sequences,
                                        batch.length, ids.size())};
  for (const std::int32_t id : ids)
    if (id < 0 || id >= s.config.vocab)
      return {Code::invalid_argument,
              fmt::format("token id {} is outside the model's vocabulary of {}; were the tokens "
                          "made with another tokenizer?",
                          id, s.config.vocab)};
  s.make_room(batch);
  s.ids.assign(ids.begin(), ids.end());
  s.head_gradient = false;
  s.backend.embed(s.stream[0], s.embedding->transform ? s.embedding->used : s.embedding->value, ids,
                  s.config.embedding_scale);
  for (int64_t layer = 0; layer < s.config.layers; ++layer) {
    const auto at = static_cast<std::size_t>(layer);
    kit::forward(s.context(), s.blocks[at], s.stream[at + 1], s.stream[at], s.activations_of(layer), false);
  }
  s.backend.rms_norm(s.hidden, s.final_rstd, s.stream.back(), s.final_norm->used, s.norm_offset(), s.config.norm_eps);
  return {};
}

LossSums Network::head_loss(const LossTarget& target) {
  State& s = *state_;
  HeadLoss loss;
  loss.hidden = s.hidden;
  loss.head = s.head->used;
  loss.softcap = s.config.logit_softcap;
  loss.precision = s.options.precision;
  if (!s.options.frozen) {
    loss.hidden_gradient = s.hidden_gradient;
    loss.head_gradient = s.head->gradient;
    loss.accumulate = s.head->accumulated;
    s.head->accumulated = s.head_gradient = true;
  }
  return s.backend.head_loss(loss, target);
}

void Network::backward(const GradientHook& hook) {
  State& s = *state_;
  const Array& dx = s.stream_gradient;
  if (s.head_gradient) {
    s.backend.rms_norm_gradient(dx, false, s.final_norm->gradient, s.final_norm->accumulated, s.hidden_gradient,
                                s.stream.back(), s.final_norm->used, s.norm_offset(), s.final_rstd);
    s.final_norm->accumulated = true;
  } else {
    s.backend.fill(dx, 0);
  }
  for (int64_t layer = s.config.layers - 1; layer >= 0; --layer) {
    const auto at = static_cast<std::size_t>(layer);
    BlockActivations& kept = s.activations_of(layer);
    if (hook) hook(layer + 1, dx);
    if (!s.keeps_all()) kit::forward(s.context(), s.blocks[at], s.gradients->branch, s.stream[at], kept, true);
    kit::backward(s.context(), s.blocks[at], dx, s.stream[at], kept, *s.gradients);
  }
  if (hook) hook(0, dx);
  if (!s.embedding->accumulated) s.backend.fill(s.embedding->gradient, 0);
  s.embedding->accumulated = true;
  s.backend.embed_gradient(s.embedding->gradient, dx, s.ids, s.config.embedding_scale);
  s.head_gradient = false;
}

void Network::zero_gradients() {
  for (Parameter& p : state_->parameters) p.accumulated = false;
}

void Network::finish_gradients() {
  for (Parameter& p : state_->parameters) {
    if (!p.accumulated) backend().fill(p.gradient, 0);  // nothing flowed into it
    p.accumulated = true;
    if (p.transform) p.transform->filter_gradient(backend(), p.gradient, p.value);
  }
}

void Network::weights_changed() {
  for (Parameter& p : state_->parameters) state_->refresh(p);
}

void Network::apply_transforms() {
  for (Parameter& p : state_->parameters)
    if (p.transform) state_->refresh(p);
}

Status Network::write(const std::string& folder, Json config, DType dtype, const std::string& from,
                      bool transformed) const {
  config[config.contains("torch_dtype") ? "torch_dtype" : "dtype"] = dtype == DType::f32    ? "float32"
                                                                     : dtype == DType::bf16 ? "bfloat16"
                                                                                            : "float16";
  std::vector<TensorSpec> specs;
  for (const Parameter& p : state_->parameters) specs.push_back({p.name, dtype, p.shape});
  FETTLE_ASSIGN(auto builder, CheckpointBuilder::create(folder, config, std::move(specs), from));
  std::vector<float> rows;
  std::vector<std::byte> bytes;
  for (const Parameter& p : state_->parameters) {
    const Array& values = transformed && p.transform ? p.used : p.value;
    const int64_t step = std::max<int64_t>(1, (int64_t{1} << 20) / values.cols);
    for (int64_t first = 0; first < values.rows; first += step) {
      const int64_t count = std::min(step, values.rows - first);
      rows.resize(static_cast<std::size_t>(count * values.cols));
      backend().download(rows, values.rows_from(first, count));
      const auto too_large = std::find_if(rows.begin(), rows.end(), [](float x) { return std::fabs(x) >= 65520.0f; });
      if (dtype == DType::f16 && too_large != rows.end())
        return {Code::invalid_argument,
                fmt::format("tensor '{}' holds {}, beyond the range of f16; write bf16 instead", p.name, *too_large)};
      bytes.resize(bytes_of(dtype, rows.size()));
      info(dtype).from_f32(rows.data(), bytes.data(), rows.size());
      FETTLE_TRY(builder.append(p.name, bytes));
    }
  }
  return builder.finish();
}

double Network::bytes(const ModelConfig& c, double rows, const NetworkOptions& options) {
  const bool narrow = options.precision == Precision::bf16;
  const double real = sizeof(float), flow = narrow ? 2 : 4;
  const auto parameters = static_cast<double>(c.parameters()), hidden = static_cast<double>(c.hidden);
  const auto ffn = static_cast<double>(c.intermediate), width = static_cast<double>(c.heads * c.head_dim);
  const auto kv_width = static_cast<double>(c.kv_heads * c.head_dim);
  const double unused = c.tied ? 0 : static_cast<double>(c.vocab) * hidden;  // the embedding is no factor of a product
  double total = parameters * (real + (options.frozen ? 0 : real)) + (narrow ? 2 * (parameters - unused) : 0);
  double block =
      real * (hidden + 2 * width + 2 * kv_width + 2 * ffn + static_cast<double>(c.heads)) + flow * (2 * hidden + ffn);
  if (c.family->qk_norm) block += real * (width + kv_width);
  if (c.family->sandwich_norms) block += real * 2 * hidden;
  const double kept = options.checkpointing || options.frozen ? 1 : static_cast<double>(c.layers);
  total += rows * (kept * block + real * hidden * static_cast<double>(c.layers + 1) + flow * hidden);
  if (!options.frozen) total += rows * (real * (4 * hidden + 2 * width + 2 * kv_width + ffn) + flow * 2 * ffn);
  const double chunk = std::min(rows, static_cast<double>(CpuBackend::loss_rows(c.vocab)));
  return total + chunk * static_cast<double>(c.vocab) * (real + (narrow && !options.frozen ? 2 : 0));
}

}  // namespace fettle::kit
