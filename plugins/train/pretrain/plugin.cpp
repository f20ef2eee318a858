// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/compress/mask.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/train/next_token.h"
#include "fettle_kit/train/train_params.h"

#include "architecture.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>

namespace {

using fettle::Code;
using fettle::Status;
using namespace fettle::kit;

class TrainPretrain {
 public:
  struct Params : TrainParams {
    std::string start = "scratch";
    std::optional<std::int64_t> hidden, layers, heads, kv_heads, intermediate, context;
    std::optional<bool> tied;

    bool scratch() const { return start == "scratch"; }
    pretrain::Sizes sizes() const { return {hidden, layers, heads, kv_heads, intermediate, context, tied}; }
  };

  static fettle::Description<Params> describe() {
    using fettle::in_range;
    fettle::Description<Params> d("train.pretrain",
                                  "Train a model to predict the next token, from scratch or further.");
    d.epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)  // the C library's cosine
        .reference("Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2")
        .input("model", "model", "the model to train further, or whose tokenizer and shape a new one gets", "layout=hf")
        .input("data", "tokens", "what to learn", "tokenizer=@model")
        .optional_input("held_out", "tokens", "what to choose the best weights by, and when to stop",
                        "tokenizer=@model")
        .optional_input("mask", "mask", "weights that are and stay zero")
        .output("model", "model", "a Hugging Face checkpoint with the best weights")
        .param("start", &Params::start, "with random weights, or with those of the model",
               fettle::one_of({"scratch", "model"}))
        .param("hidden", &Params::hidden, "width of a new model; by default that of `model`, as all sizes",
               in_range(1, 1 << 20))
        .param("layers", &Params::layers, "blocks of a new model", in_range(1, 1 << 14))
        .param("heads", &Params::heads, "attention heads of a new model", in_range(1, 1 << 14))
        .param("kv_heads", &Params::kv_heads, "heads of keys and values; by default as many as `heads`",
               in_range(1, 1 << 14))
        .param("intermediate", &Params::intermediate, "width inside the feed-forward part of a new model",
               in_range(1, 1 << 22))
        .param("context", &Params::context, "longest sequence of a new model", in_range(2, 1 << 24, "tokens"))
        .param("tied", &Params::tied, "whether the output matrix of a new model is its embedding");
    return with_train_params(d);
  }

  static Status validate(const Params& p) {
    if (!p.scratch() && p.sizes().any())
      return {Code::invalid_argument,
              "sizes are those of the model that is trained further; leave them out, or set "
              "start: scratch",
              "start"};
    return {};
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    const fettle::Input from = in.at("model");
    const ModelConfig shape = pretrain::resized(config_of(from), p.sizes());
    TrainingCost cost = training_cost(shape, p, in.at("data"), in.find("held_out"));
    const auto parameters = static_cast<double>(shape.parameters());
    if (in.find("mask")) cost.bytes += 4 * parameters;
    e.memory(cost.bytes).disk(cost.disk).flops(cost.flops);
    for (const char* key : {"layout", "architecture", "vocab", "tokenizer"})
      if (const auto value = from.attribute(key); !value.empty()) e.attribute("model", key, std::string(value));
    const std::pair<const char*, std::int64_t> numbers[] = {
        {"parameters", shape.parameters()}, {"hidden", shape.hidden},
        {"layers", shape.layers},           {"heads", shape.heads},
        {"kv_heads", shape.kv_heads},       {"ffn", shape.intermediate},
        {"context", shape.context}};
    for (const auto& [key, value] : numbers) e.attribute("model", key, std::to_string(value));
    std::string weights = p.dtype;
    if (weights == "same") weights = from.attribute("weights");
    if (weights != "f32" && weights != "f16") weights = "bf16";
    e.attribute("model", "weights", weights).attribute("model", "tied", shape.tied ? "true" : "false");
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    const fettle::Inputs& in = context.inputs;
    const std::string path = in.at("model").path(), config_name = path + "/config.json";
    FETTLE_ASSIGN(Json config, read_json_file(config_name));
    if (p.scratch()) config = pretrain::resized(std::move(config), p.sizes());
    FETTLE_ASSIGN(const ModelConfig shape, read_model_config(config, config_name));
    FETTLE_ASSIGN(const TokenSet data, tokens(in.at("data"), shape));
    std::optional<TokenSet> held_out;
    if (const auto port = in.find("held_out")) {
      FETTLE_ASSIGN(held_out, tokens(*port, shape));
    }

    const auto backend = make_cpu_backend();
    FETTLE_ASSIGN(Network network, network_of(p, *backend, config, shape, path, context.seed()));
    std::map<std::string, Mask> masks;
    if (const auto port = in.find("mask")) {
      FETTLE_ASSIGN(masks, read_masks(port->path()));
    }
    FETTLE_ASSIGN(const auto tensors, trained_tensors(network, p.frozen, &masks));
    TrainingTask task = training_of(network, tensors, data);
    task.loss = next_token_loss(network);
    if (held_out)
      task.evaluate = [&] {
        return mean_next_token_loss(network, *held_out, p.micro_batch, [&] { return context.cancelled(); });
      };
    TrainingOptions options = training_options(p, context, data.sequences(), held_out.has_value());
    options.identity = identity(p, in, config);
    FETTLE_ASSIGN(const Trained trained, train(task, options, watch_of(context)));
    report(context, trained);

    std::string carried = path;
    if (p.scratch()) {
      carried = context.scratch();
      FETTLE_TRY(pretrain::gather_tokenizer(carried, path));
    }
    FETTLE_ASSIGN(const DType dtype, stored_type(p, path));
    return network.write(context.output("model"), config, dtype, carried);
  }

 private:
  static fettle::Result<TokenSet> tokens(const fettle::Input& input, const ModelConfig& shape) {
    const std::string port(input.port());
    FETTLE_ASSIGN(TokenSet set, TokenSet::open(input.path()));
    FETTLE_TRY(check_sequences(set, shape, port.c_str()));
    if (const auto largest = *std::ranges::max_element(set.ids()); largest >= shape.vocab)
      return Status(Code::invalid_argument,
                    fmt::format("id {} is outside the model's vocabulary of {}: cut the text with the tokenizer of "
                                "this model",
                                largest, shape.vocab),
                    port);
    return set;
  }

  static fettle::Result<Network> network_of(const Params& p, Backend& backend, const Json& config,
                                            const ModelConfig& shape, const std::string& path, std::uint64_t seed) {
    if (p.scratch()) {
      const auto range = config.find("initializer_range");
      const double deviation = range != config.end() && range->is_number() ? range->get<double>() : 0.02;
      return Network::create(backend, shape, seed, deviation, network_options(p));
    }
    FETTLE_ASSIGN(const Weights weights, Weights::open(path));
    return Network::open(backend, weights, network_options(p));
  }

  /// What decides over the result beside the data and the options.
  static std::string identity(const Params& p, const fettle::Inputs& in, const Json& config) {
    std::string all = fmt::format("train.pretrain {} {} {}", p.start, p.precision, config.dump());
    for (const char* port : {"model", "held_out", "mask"})
      if (const auto input = in.find(port)) all += fmt::format(" {}", input->digest());
    return all;
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-train-pretrain", "0.1.0", "Fettle", "Apache-2.0", TrainPretrain)
