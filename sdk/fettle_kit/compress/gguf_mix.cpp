// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/gguf_mix.h"

#include "fettle_kit/compress/targets.h"
#include "fettle_kit/tensor/block_codec.h"

#include <algorithm>
#include <cstdlib>

namespace fettle::kit {
namespace {

using enum DType;

constexpr GgufFileType kFileTypes[] = {
    {"F32", 0, f32},          {"F16", 1, f16},        {"BF16", 32, bf16},       {"Q4_0", 2, q4_0},
    {"Q4_1", 3, q4_1},        {"Q5_0", 8, q5_0},      {"Q5_1", 9, q5_1},        {"Q8_0", 7, q8_0},
    {"Q2_K", 10, q2_k},       {"Q2_K_S", 21, q2_k},   {"Q3_K_S", 11, q3_k},     {"Q3_K_M", 12, q3_k},
    {"Q3_K_L", 13, q3_k},     {"Q4_K_S", 14, q4_k},   {"Q4_K_M", 15, q4_k},     {"Q5_K_S", 16, q5_k},
    {"Q5_K_M", 17, q5_k},     {"Q6_K", 18, q6_k},     {"IQ4_NL", 25, iq4_nl},   {"IQ4_XS", 30, iq4_xs},
    {"TQ1_0", 36, tq1_0},     {"TQ2_0", 37, tq2_0},   {"MXFP4_MOE", 38, mxfp4}, {"NVFP4", 39, nvfp4},
    {"Q1_0", 40, q1_0},       {"Q2_0", 41, q2_0},     {"IQ1_S", 24, iq1_s},     {"IQ1_M", 31, iq1_m},
    {"IQ2_XXS", 19, iq2_xxs}, {"IQ2_XS", 20, iq2_xs}, {"IQ2_S", 28, iq2_xs},    {"IQ2_M", 29, iq2_s},
    {"IQ3_XXS", 23, iq3_xxs}, {"IQ3_S", 26, iq3_s},   {"IQ3_XS", 22, iq3_s},    {"IQ3_M", 27, iq3_s},
};
constexpr std::pair<std::string_view, std::string_view> kAliases[] = {
    {"Q3_K", "Q3_K_M"}, {"Q4_K", "Q4_K_M"}, {"Q5_K", "Q5_K_M"}};

std::string upper(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  return out;
}

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

bool is_attention_v(std::string_view name) {
  return contains(name, "attn_v.weight") || contains(name, "attn_qkv.weight") || contains(name, "attn_kv_b.weight");
}

bool is_head_or_embedding(std::string_view name) { return name == "output.weight" || name == "token_embd.weight"; }

bool is_quantizable(const GgufMixTensor& t, bool keep_output) {
  if (t.shape.size() < 2 || !t.name.ends_with("weight")) return false;
  if (contains(t.name, "_norm.weight") || contains(t.name, "ffn_gate_inp.weight")) return false;
  return !(keep_output && t.name == "output.weight");
}

/// The mix rules for one tensor after another: llama.cpp counts the layers it has met.
class Mix {
 public:
  Mix(const GgufFileType& file, const GgufMixModel& model, bool has_output, std::int64_t attention_v_count)
      : file_(file), name_(file.name), model_(model), has_output_(has_output), attention_v_count_(attention_v_count) {}

  DType choose(const GgufMixTensor& t) {
    const std::string_view name = t.name;
    if (name == "output.weight" || (!has_output_ && name == "token_embd.weight")) return head(t);
    if (name_ == "MXFP4_MOE") return t.shape.size() > 2 && t.shape.front() > 1 ? mxfp4 : q8_0;
    if (name == "token_embd.weight") return embedding();
    if (is_iq1_or_iq2()) return iq1_or_iq2(name);
    if (is_attention_v(name)) return attention_v(attention_v_seen_++);
    if (contains(name, "attn_k.weight") || contains(name, "attn_q.weight"))
      return attention_q_or_k(contains(name, "attn_k.weight"));
    const auto layer = [&](std::int64_t& seen) { return model_.experts > 1 ? layer_in(t.name) : seen++; };
    if (contains(name, "ffn_down")) return ffn_down(layer(ffn_down_seen_));
    if (contains(name, "attn_output.weight")) return attention_output();
    if (contains(name, "ffn_gate")) return ffn_gate_or_up(layer(ffn_gate_seen_));
    if (contains(name, "ffn_up")) return ffn_gate_or_up(layer(ffn_up_seen_));
    return file_.type;
  }

 private:
  /// The first and the last eighth, and every third layer between.
  static bool more(std::int64_t i, std::int64_t n) { return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2; }
  /// Counting does not tell the layer of an expert's matrix: there are several a layer.
  static std::int64_t layer_in(const std::string& name) {
    return name.starts_with("blk.") ? std::strtoll(name.c_str() + 4, nullptr, 10) : 0;
  }
  bool grouped() const { return model_.kv_heads > 0 && model_.heads / model_.kv_heads >= 4; }
  bool is_iq1_or_iq2() const { return name_.starts_with("IQ1_") || name_.starts_with("IQ2_"); }
  /// The larger two of the IQ2 mixes spend IQ3_S where the others spend Q2_K.
  DType beside_iq2() const { return name_ == "IQ2_S" || name_ == "IQ2_M" ? iq3_s : q2_k; }

  DType head(const GgufMixTensor& t) const {
    if (name_ == "MXFP4_MOE" || file_.type == q8_0) return q8_0;
    if (t.shape.back() % info(file_.type).block_elems != 0) return q8_0;
    return is_iq1_or_iq2() || name_ == "IQ3_XXS" ? q5_k : q6_k;
  }

  DType embedding() const {
    if (is_iq1_or_iq2()) return beside_iq2();
    if (name_ == "IQ3_XXS") return iq3_s;
    return file_.type == tq1_0 || file_.type == tq2_0 || file_.type == q2_0 ? q4_k : file_.type;
  }

  DType iq1_or_iq2(std::string_view name) {
    if (is_attention_v(name)) return grouped() || model_.experts >= 4 ? q4_k : beside_iq2();
    if (contains(name, "attn_k.weight") && model_.experts == 8) return q4_k;
    if (contains(name, "ffn_down")) return ffn_down_seen_++ < model_.layers / 8 ? beside_iq2() : file_.type;
    if (contains(name, "attn_output.weight")) {
      if (model_.experts == 8) return q5_k;
      if (name_.starts_with("IQ1_")) return iq2_xxs;
      if (beside_iq2() == iq3_s) return iq3_s;
    }
    return file_.type;
  }

  DType attention_q_or_k(bool k) const {
    if (k && model_.experts == 8) return q8_0;
    if (name_ == "IQ3_XS") return iq3_xxs;
    return name_ == "IQ3_XXS" ? iq2_s : file_.type;
  }

  /// IQ3_XS spends less on the middle layers.
  DType ffn_gate_or_up(std::int64_t i) const {
    const std::int64_t n = model_.layers;
    return name_ == "IQ3_XS" && i >= n / 8 && i < 7 * n / 8 ? iq3_xxs : file_.type;
  }

  DType attention_v(std::int64_t i) const {
    DType type = file_.type;
    if (name_ == "Q2_K") type = grouped() ? q4_k : q3_k;
    if (name_ == "Q2_K_S" && grouped()) type = q4_k;
    if (name_ == "IQ3_XXS") type = grouped() ? q4_k : model_.importance ? iq3_xxs : iq3_s;
    if ((name_ == "IQ3_XS" || name_ == "IQ3_S") && grouped()) type = q4_k;
    if (name_ == "IQ3_M") type = q4_k;
    if (name_ == "Q3_K_M") type = i < 2 ? q5_k : q4_k;
    if (name_ == "Q3_K_L") type = q5_k;
    if ((name_ == "IQ4_NL" || name_ == "IQ4_XS") && grouped()) type = q5_k;
    if ((name_ == "Q4_K_M" || name_ == "Q5_K_M") && more(i, attention_v_count_)) type = q6_k;
    if (name_ == "Q4_K_S" && i < 4) type = q5_k;
    const bool model_70b = model_.layers == 80 && (model_.architecture == "qwen2" ||
                                                   (model_.architecture == "llama" && model_.heads != model_.kv_heads));
    if (model_70b && (type == q3_k || type == q4_k)) type = q5_k;
    return model_.experts == 8 ? q8_0 : type;
  }

  DType ffn_down(std::int64_t i) const {
    const std::int64_t n = model_.layers;
    const bool first_eighth = i < n / 8;
    if (name_ == "Q2_K") return q3_k;
    if (name_ == "Q2_K_S" && first_eighth) return q4_k;
    if (name_ == "IQ3_XXS" && !model_.importance) return first_eighth ? q4_k : q3_k;
    if (name_ == "IQ3_M" && (first_eighth || (model_.experts == 8 && more(i, n)))) return q4_k;
    if (name_ == "Q3_K_M") return i < n / 16 ? q5_k : q4_k;
    if (name_ == "Q3_K_L") return q5_k;
    if ((name_ == "Q4_K_M" || name_ == "Q5_K_M") && more(i, n)) return q6_k;
    if (name_ == "Q4_K_S" && first_eighth) return q5_k;
    if ((name_ == "IQ4_NL" || name_ == "IQ4_XS") && first_eighth && !model_.importance) return q5_k;
    if (name_ == "Q4_0" && first_eighth && model_.importance) return q4_1;
    if (name_ == "Q5_0" && first_eighth && model_.importance) return q5_1;
    return file_.type;
  }

  DType attention_output() const {
    if (model_.experts == 8)
      return name_ == "Q2_K" || file_.type == iq4_nl || file_.type == iq4_xs || name_.starts_with("Q4_K") ||
                     name_.starts_with("IQ3_") || name_ == "Q3_K_S" || name_ == "Q3_K_M"
                 ? q5_k
                 : file_.type;
    if (name_ == "Q2_K") return q3_k;
    if (name_ == "IQ3_XXS") return iq3_s;
    if (name_ == "Q3_K_M" || name_ == "IQ3_M") return q4_k;
    if (name_ == "Q3_K_L") return q5_k;
    return file_.type;
  }

  const GgufFileType& file_;
  std::string_view name_;
  const GgufMixModel& model_;
  bool has_output_;
  std::int64_t attention_v_count_, attention_v_seen_ = 0, ffn_down_seen_ = 0, ffn_gate_seen_ = 0, ffn_up_seen_ = 0;
};

}  // namespace

std::span<const GgufFileType> gguf_file_types() { return kFileTypes; }

const GgufFileType* find_gguf_file_type(std::string_view name) {
  std::string wanted = upper(name);
  for (const auto& [alias, full] : kAliases)
    if (wanted == alias) wanted = full;
  for (const GgufFileType& type : kFileTypes)
    if (type.name == wanted) return &type;
  return nullptr;
}

DType gguf_type_that_fits(DType type, std::int64_t cols) {
  if (cols % info(type).block_elems == 0) return type;
  DType next = f16;
  if (type == iq4_xs || (type >= iq2_xxs && type <= iq1_m)) next = iq4_nl;
  if (type == q2_0 || type == q2_k || type == q3_k || type == tq1_0 || type == tq2_0) next = q4_0;
  if (type == q4_k) next = q5_0;
  if (type == q5_k) next = q5_1;
  if (type == q6_k) next = q8_0;
  return cols % info(next).block_elems == 0 ? next : f16;
}

bool needs_gguf_importance(std::string_view tensor, DType type) {
  if (needs_importance(type)) return true;
  return (type == iq1_m || type == iq2_s || type == iq3_xxs) && !is_head_or_embedding(tensor);
}

GgufFixedType fixed_gguf_type(const GgufMixTensor& t, const GgufMixOptions& options) {
  if (!is_quantizable(t, options.keep_output)) {
    const bool matrix = t.shape.size() >= 2 && t.name.ends_with(".weight") && !contains(t.name, "_norm.weight");
    const bool router = contains(t.name, "ffn_gate_inp.weight");  // the converter makes it f32
    return {false, matrix && !router ? t.source : f32};
  }
  std::optional<DType> type;
  if (t.name == "output.weight") type = options.output_type;
  if (t.name == "token_embd.weight") type = options.embedding_type;
  for (std::size_t i = 0; !type && i < options.overrides.size(); ++i) {
    const auto& [glob, wanted] = options.overrides[i];
    const auto matches = [&](const std::string& name) { return !name.empty() && glob_match(glob, name); };
    if (matches(t.name) || matches(t.other_name)) type = wanted;
  }
  return {true, type};
}

Result<std::vector<GgufMixChoice>> choose_gguf_types(const GgufFileType& file, const GgufMixModel& model,
                                                     std::span<const GgufMixTensor> tensors,
                                                     const GgufMixOptions& options) {
  const bool has_output =
      std::any_of(tensors.begin(), tensors.end(), [](const auto& t) { return t.name == "output.weight"; });
  const auto attention_v_count =
      std::count_if(tensors.begin(), tensors.end(), [](const auto& t) { return is_attention_v(t.name); });
  Mix mix(file, model, has_output, attention_v_count);
  std::vector<GgufMixChoice> choices;
  for (const GgufMixTensor& t : tensors) {
    auto [quantized, type] = fixed_gguf_type(t, options);
    if (!quantized) {
      choices.push_back({*type, std::nullopt});
      continue;
    }
    if (!type && info(file.type).block_elems == 1) type = file.type;
    if (!type && t.name == "token_embd.weight" && !has_output) type = options.output_type;
    const DType wanted = type ? *type : mix.choose(t);
    const DType fits = gguf_type_that_fits(wanted, t.shape.back());
    const bool in_q2_k_s = file.name == "Q2_K_S" && fits == q2_k && !is_head_or_embedding(t.name);
    if (!model.importance && (in_q2_k_s || (!type && needs_gguf_importance(t.name, fits))))
      return Status(Code::invalid_argument,
                    "type " + std::string(file.name) +
                        " needs an importance matrix; connect the port 'imatrix', or take " +
                        (file.name.starts_with("IQ3_") ? "IQ3_S" : "Q2_K"),
                    "type");
    choices.push_back({fits, fits != wanted ? std::optional(wanted) : std::nullopt});
  }
  return choices;
}

}  // namespace fettle::kit
