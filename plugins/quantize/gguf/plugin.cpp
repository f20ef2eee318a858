// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/compress/gguf_mix.h"
#include "fettle_kit/compress/gguf_search.h"
#include "fettle_kit/io/output_file.h"
#include "fettle_kit/model/gguf_layout.h"
#include "fettle_kit/tensor/block_codec.h"

#include "export.h"
#include "importance.h"
#include "plan.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace {

using fettle::Code;
using fettle::Status;
using namespace fettle::kit;
using namespace quantize_gguf;

class QuantizeGguf {
 public:
  struct Params {
    std::string type = "Q4_K_M";
    std::string mode = "compatible";
    std::optional<std::string> target;
    std::vector<std::pair<std::string, std::string>> overrides;
    std::optional<std::string> output_type, embedding_type, pre;
    bool keep_output = false;
    std::vector<std::pair<std::string, std::string>> metadata;
    std::string nan = "error";
    std::optional<fettle::Bytes> part_size;
    bool modelfile = false;
  };

  static fettle::Description<Params> describe() {
    return fettle::Description<Params>("quantize.gguf", "Write a GGUF file for llama.cpp and its kin.")
        .epoch(3)
        .version("1.0")
        .reference("docs/reference/gguf.md; byte-identical to llama.cpp's quantizer on x86-64")
        .input("model", "model", "a Hugging Face checkpoint, with plain weights or quantized in a form we read",
               "layout=hf")
        .optional_input(
            "imatrix", "stats",
            "how much each input column matters: from calibrate.imatrix, or a file of llama.cpp's (GGUF or .dat)")
        .output("model", "model", "model.gguf, or model-00001-of-00003.gguf and so on")
        .output("types", "file", "types.md: the type of every tensor, and what it costs where that was measured")
        .param("type", &Params::type, "type of the file by llama.cpp's name, for example Q4_K_M, Q8_0 or BF16")
        .param(
            "mode", &Params::mode,
            "compatible: the bytes of llama.cpp's quantizer; better: scales from a search of our own, with less error "
            "at the same size",
            fettle::one_of({"compatible", "better"}))
        .param("target", &Params::target,
               "instead of a type, a size: 4.2bpw or 1.6GiB; each tensor gets the type that keeps the sum of relative "
               "errors smallest")
        .param("overrides", &Params::overrides,
               "another type for tensors by name, GGUF's or the checkpoint's; '*' matches anything, the first match "
               "counts")
        .param("output_type", &Params::output_type, "type of the output matrix")
        .param("embedding_type", &Params::embedding_type, "type of the token embedding")
        .param("keep_output", &Params::keep_output, "leave the output matrix as it is in the checkpoint")
        .param("metadata", &Params::metadata, "metadata keys to set, for example general.name")
        .param("pre", &Params::pre,
               "llama.cpp's name of the pre-tokenizer, where it cannot be told from tokenizer.json")
        .param("nan", &Params::nan, "what NaN and infinite weights are: an error, or kept (as 0 in block types)",
               fettle::one_of({"error", "keep"}))
        .param("part_size", &Params::part_size,
               "split the model: a new file begins before the tensor that would take one beyond this",
               fettle::at_least(1024, "bytes"))
        .param("modelfile", &Params::modelfile, "write a Modelfile for Ollama beside the model");
  }

  static Status validate(const Params& p) {
    auto options = options_of(p);
    return options ? check_mode(*options, false) : std::move(options).error();
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    FETTLE_ASSIGN(const Options options, options_of(p));
    FETTLE_TRY(check_mode(options, in.find("imatrix").has_value()));
    const fettle::Input model = in.at("model");
    const double bytes = expected_bytes(model, options, in.find("imatrix").has_value());
    e.memory(192e6)
        .disk(bytes)
        .like("model", model)
        .attribute("model", "layout", "gguf")
        .attribute("model", "weights", options.target ? "gguf.mixed" : fmt::format("gguf.{}", options.file->name))
        .attribute("model", "bytes", fmt::format("{:.0f}", bytes));
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    FETTLE_ASSIGN(const Options options, options_of(p));
    FETTLE_TRY(check_mode(options, context.inputs.find("imatrix").has_value()));
    FETTLE_ASSIGN(const DenseCheckpoint model, DenseCheckpoint::open(context.inputs.at("model").path()));
    std::optional<Importance> importance;
    if (const auto port = context.inputs.find("imatrix")) {
      FETTLE_ASSIGN(importance, Importance::open(port->path()));
    }
    FETTLE_ASSIGN(const Plan plan, plan_export(model, options, importance ? &*importance : nullptr,
                                               [&] { return context.cancelled(); }));
    for (const std::string& warning : plan.warnings) context.warn(warning);
    const Progress progress{[&](std::uint64_t done, std::uint64_t total) { context.progress("weights", done, total); },
                            [&] { return context.cancelled(); }};
    const std::string folder = context.output("model");
    FETTLE_ASSIGN(const auto notes, write_files(folder, model, plan, options, progress));
    for (const std::string& note : notes) context.warn(note);
    if (p.modelfile) FETTLE_TRY(write_text_file(folder + "/Modelfile", modelfile(plan)));
    FETTLE_TRY(write_text_file(context.output("types") + "/types.md", types_table(plan)));
    report(plan, context);
    return {};
  }

 private:
  static fettle::Result<DType> tensor_type(const std::string& name, const char* parameter) {
    std::string lower = name;
    for (char& c : lower)
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    const DTypeInfo* type = find_dtype_by_name(lower);
    const bool plain = type && (type->dtype == DType::f32 || type->dtype == DType::f16 || type->dtype == DType::bf16);
    if (type && (plain || has_block_codec(type->dtype))) return type->dtype;
    std::vector<std::string> known{"f32", "f16", "bf16"};
    for (const DTypeInfo& t : all_dtypes())
      if (has_block_codec(t.dtype)) known.emplace_back(t.name);
    return Status(Code::invalid_argument,
                  fmt::format("unknown tensor type '{}'; known are {}", name, fmt::join(known, ", ")), parameter);
  }

  static fettle::Result<Options> options_of(const Params& p) {
    Options options;
    options.file = find_gguf_file_type(p.type);
    if (options.file == nullptr) {
      std::vector<std::string_view> known;
      for (const GgufFileType& type : gguf_file_types()) known.push_back(type.name);
      return Status(Code::invalid_argument,
                    fmt::format("unknown type '{}'; known are {}", p.type, fmt::join(known, ", ")), "type");
    }
    if (p.target) {
      auto target = parse_size_target(*p.target);
      if (!target) return Status(Code::invalid_argument, target.error().message(), "target");
      options.target = *target;
    }
    if (p.modelfile && p.part_size)
      return Status(Code::invalid_argument, "Ollama reads models in one file; give one of 'modelfile' and 'part_size'",
                    "modelfile");
    if (p.part_size) options.part_bytes = static_cast<std::uint64_t>(p.part_size->value);
    for (const auto& [glob, name] : p.overrides) {
      FETTLE_ASSIGN(const DType type, tensor_type(name, "overrides"));
      options.mix.overrides.emplace_back(glob, type);
    }
    if (p.output_type) {
      FETTLE_ASSIGN(options.mix.output_type, tensor_type(*p.output_type, "output_type"));
    }
    if (p.embedding_type) {
      FETTLE_ASSIGN(options.mix.embedding_type, tensor_type(*p.embedding_type, "embedding_type"));
    }
    if (p.keep_output && p.output_type)
      return Status(Code::invalid_argument, "give one of 'keep_output' and 'output_type'", "keep_output");
    options.mix.keep_output = p.keep_output;
    options.metadata = {p.pre.value_or(""), p.metadata, p.mode == "better" ? Mode::better : Mode::compatible};
    options.keep_nan = p.nan == "keep";
    return options;
  }

  /// Mode better is offered where docs/explanation/quality.md shows that a model loses less.
  static Status check_mode(const Options& options, bool weighted) {
    if (options.metadata.mode == Mode::compatible || options.target || has_better_search(options.file->type, weighted))
      return {};
    std::vector<std::string_view> known;
    for (const GgufFileType& type : gguf_file_types())
      if (has_better_search(type.type, weighted)) known.push_back(type.name);
    return {Code::invalid_argument,
            fmt::format("there is no better search for type '{}'{}; known are {}; or take 'mode: compatible'",
                        options.file->name, weighted ? " with an importance matrix" : "", fmt::join(known, ", ")),
            "mode"};
  }

  /// The size of the file from what is known of the model: its matrices through the same rules as in run().
  static double expected_bytes(const fettle::Input& model, const Options& options, bool importance) {
    const auto size = [&](const char* key) { return static_cast<std::int64_t>(model.number(key)); };
    const std::int64_t layers = size("layers"), hidden = size("hidden"), ffn = size("ffn"), heads = size("heads"),
                       kv_heads = size("kv_heads"), vocab = size("vocab");
    const double tokenizer = static_cast<double>(vocab) * 32;
    if (options.target && options.target->bits <= 0) return static_cast<double>(options.target->bytes);
    // Only what a decoder can be: run() says what is wrong with a config.json that holds anything else.
    const bool experts = gguf_experts(Json{{"model_type", std::string(model.attribute("architecture"))}}).has_value();
    const auto sane = [](std::int64_t n, std::int64_t most) { return n > 0 && n <= most; };
    if (!sane(layers, 1 << 14) || !sane(hidden, 1 << 24) || !sane(ffn, 1 << 24) || !sane(heads, 1 << 14) ||
        !sane(kv_heads, 1 << 14) || !sane(vocab, 1 << 24) || experts)
      return model.number("bytes") *
                 (options.target ? options.target->bits / 8
                                 : static_cast<double>(info(options.file->type).block_bytes) /
                                       static_cast<double>(info(options.file->type).block_elems)) /
                 2 +
             tokenizer;
    std::vector<GgufMixTensor> tensors;
    const auto add = [&](const std::string& name, std::int64_t rows, std::int64_t cols) {
      tensors.push_back({name, "", {rows, cols}, DType::bf16});
    };
    if (model.attribute("tied") != "true") add("output.weight", vocab, hidden);
    add("token_embd.weight", vocab, hidden);
    const std::int64_t kv = hidden / heads * kv_heads;
    for (std::int64_t i = 0; i < layers; ++i) {
      const std::string blk = fmt::format("blk.{}.", i);
      add(blk + "attn_k.weight", kv, hidden);
      add(blk + "attn_output.weight", hidden, hidden);
      add(blk + "attn_q.weight", hidden, hidden);
      add(blk + "attn_v.weight", kv, hidden);
      add(blk + "ffn_down.weight", hidden, ffn);
      add(blk + "ffn_gate.weight", ffn, hidden);
      add(blk + "ffn_up.weight", ffn, hidden);
    }
    if (options.target) {
      double weights = 0;
      for (const GgufMixTensor& t : tensors) weights += static_cast<double>(t.shape[0] * t.shape[1]);
      return options.target->bits / 8 * weights + tokenizer;
    }
    const auto choices = choose_gguf_types(
        *options.file, {std::string(model.attribute("architecture")), layers, heads, kv_heads, importance}, tensors,
        options.mix);
    if (!choices) return model.number("bytes");
    double total = tokenizer;
    for (std::size_t i = 0; i < tensors.size(); ++i)
      total += static_cast<double>(
          bytes_of((*choices)[i].type, static_cast<std::uint64_t>(tensors[i].shape[0] * tensors[i].shape[1])));
    return total;
  }

  /// Ollama finds the chat template in the file itself.
  static std::string modelfile(const Plan& plan) {
    std::string text = "FROM ./model.gguf\n";
    for (const auto& [key, value] : plan.metadata) {
      const std::pair<const char*, const char*> names[] = {{"general.sampling.temp", "temperature"},
                                                           {"general.sampling.top_k", "top_k"},
                                                           {"general.sampling.top_p", "top_p"},
                                                           {"general.sampling.min_p", "min_p"}};
      for (const auto& [gguf, ollama] : names)
        if (key == gguf) {
          if (const auto* real = std::get_if<float>(&value)) text += fmt::format("PARAMETER {} {}\n", ollama, *real);
          if (const auto* whole = std::get_if<std::int32_t>(&value))
            text += fmt::format("PARAMETER {} {}\n", ollama, *whole);
        }
    }
    return text;
  }

  static void report(const Plan& plan, fettle::Context& context) {
    double bytes = 0;
    const auto weights = static_cast<double>(plan.weights());
    std::map<std::string, int> by_type;
    for (const PlannedTensor& t : plan.tensors) {
      bytes += static_cast<double>(stored_bytes(t));
      ++by_type[fmt::format("tensors_{}", info(t.choice.type).name)];
    }
    context.metric("bytes", bytes, "bytes");
    context.metric("bits_per_weight", bytes * 8 / weights, "bits");
    context.metric("size_ratio", bytes / static_cast<double>(plan.source_bytes));
    for (const auto& [name, count] : by_type) context.metric(name.c_str(), count, "tensors");
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-quantize-gguf", "0.1.0", "Fettle", "Apache-2.0", QuantizeGguf)
