// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/gguf_layout.h"
#include "fettle_kit/model/gguf_tokenizer_facts.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

namespace fettle::kit {

using namespace gguf_tokenizer;

Result<Json> tokenizer_from_gguf(const GgufReader& file) {
  const auto fail = [&](const std::string& problem, Code code = Code::unsupported) {
    return Status(code, fmt::format("{}: {}", file.path(), problem));
  };
  const std::string model = file.text("tokenizer.ggml.model");
  const auto* tokens = file.get<std::vector<std::string>>("tokenizer.ggml.tokens");
  const auto* types = file.get<std::vector<std::int32_t>>("tokenizer.ggml.token_type");
  if (!tokens) return fail("it holds no tokenizer: 'tokenizer.ggml.tokens' is missing", Code::not_found);
  if (types && types->size() != tokens->size())
    return fail(fmt::format("'tokenizer.ggml.token_type' has {} entries, 'tokenizer.ggml.tokens' {}", types->size(),
                            tokens->size()),
                Code::corrupt_data);
  const auto type = [&](std::size_t i) { return types ? (*types)[i] : std::int32_t{normal}; };

  Json bpe{{"type", "BPE"},
           {"dropout", nullptr},
           {"unk_token", nullptr},
           {"continuing_subword_prefix", nullptr},
           {"end_of_word_suffix", nullptr},
           {"fuse_unk", false},
           {"byte_fallback", false},
           {"ignore_merges", false}};
  Json vocab = Json::object(), added = Json::array(), merges = Json::array();
  Json normalizer, pre_tokenizer, decoder;
  std::map<std::string_view, std::size_t> ids;
  auto& entries = vocab.get_ref<Json::object_t&>();
  for (std::size_t i = 0; i < tokens->size(); ++i) {
    const std::string& token = (*tokens)[i];
    if (type(i) == unused) continue;
    if (type(i) == control || type(i) == user_defined || type(i) == unknown)
      added.push_back({{"id", i},
                       {"content", token},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", type(i) != user_defined}});
    if (!ids.emplace(token, i).second) return fail(fmt::format("token '{}' occurs twice", token), Code::corrupt_data);
    entries.Container::emplace_back(token, i);  // Json's own insertion would search all entries before
  }
  if (model == "gpt2") {
    const std::string pre = file.text("tokenizer.ggml.pre", "default");
    const auto split = [](std::string_view regex) {
      return Json{
          {"type", "Split"}, {"pattern", {{"Regex", std::string(regex)}}}, {"behavior", "Isolated"}, {"invert", false}};
    };
    Json parts = Json::array();
    bool gpt2_regex = false;
    if (pre == "llama-bpe" || pre == "llama3" || pre == "dbrx" || pre == "smaug-bpe") {
      parts.push_back(split(kLlama3Split));
      bpe["ignore_merges"] = pre == "llama-bpe" || pre == "llama3";
    } else if (pre == "qwen2") {
      parts.push_back(split(kQwen2Split));
    } else if (pre == "tekken") {
      parts.push_back(split(kTekkenSplit));
      bpe["ignore_merges"] = true;
    } else if (pre == "gpt-2") {
      gpt2_regex = true;
    } else if (pre == "smollm" || pre == "starcoder") {
      parts.push_back({{"type", "Digits"}, {"individual_digits", true}});
      gpt2_regex = true;
    } else {
      return fail(fmt::format("pre-tokenizer '{}' is not supported", pre));
    }
    parts.push_back(
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", gpt2_regex}});
    pre_tokenizer = parts.size() == 1 ? parts[0] : Json{{"type", "Sequence"}, {"pretokenizers", parts}};
    decoder = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
    if (const auto* list = file.get<std::vector<std::string>>("tokenizer.ggml.merges"))
      for (const std::string& merge : *list) merges.push_back(merge);
  } else if (model == "llama") {
    const auto* scores = file.get<std::vector<float>>("tokenizer.ggml.scores");
    if (!scores || scores->size() != tokens->size())
      return fail("'tokenizer.ggml.scores' is missing or of another length than the tokens", Code::corrupt_data);
    // All ways to put a token together from two others, best result first.
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < tokens->size(); ++i)
      if (type(i) == normal) order.push_back(i);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return (*scores)[a] > (*scores)[b]; });
    for (const std::size_t i : order) {
      const std::string& token = (*tokens)[i];
      if (token.size() > 256) continue;
      for (std::size_t cut = 1; cut < token.size(); ++cut) {
        if ((static_cast<unsigned char>(token[cut]) & 0xC0) == 0x80) continue;
        const auto split = std::string_view(token);
        if (ids.contains(split.substr(0, cut)) && ids.contains(split.substr(cut)))
          merges.push_back({token.substr(0, cut), token.substr(cut)});
      }
    }
    bpe["byte_fallback"] =
        std::any_of(tokens->begin(), tokens->end(), [](const std::string& t) { return t == "<0x0A>"; });
    bpe["fuse_unk"] = true;
    const auto unk = file.integer("tokenizer.ggml.unknown_token_id", 0);
    if (unk >= 0 && static_cast<std::size_t>(unk) < tokens->size())
      bpe["unk_token"] = (*tokens)[static_cast<std::size_t>(unk)];
    const auto* prefix = file.get<bool>("tokenizer.ggml.add_space_prefix");
    const std::string space(kSpace);
    const Json replace{{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", space}};
    Json decoders = Json::array({{{"type", "Replace"}, {"pattern", {{"String", space}}}, {"content", " "}}});
    if (bpe["byte_fallback"] == true) decoders.push_back({{"type", "ByteFallback"}});
    decoders.push_back({{"type", "Fuse"}});
    if (!prefix || *prefix) {
      normalizer = {{"type", "Sequence"},
                    {"normalizers", Json::array({{{"type", "Prepend"}, {"prepend", space}}, replace})}};
      decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    } else {
      normalizer = replace;
    }
    decoder = {{"type", "Sequence"}, {"decoders", decoders}};
  } else {
    return fail(fmt::format("tokenizer model '{}' is not supported; supported are gpt2 and llama", model));
  }
  bpe["vocab"] = std::move(vocab);
  bpe["merges"] = std::move(merges);

  Json processor;
  const auto* add_bos = file.get<bool>("tokenizer.ggml.add_bos_token");
  const auto bos = file.integer("tokenizer.ggml.bos_token_id", -1);
  const bool usual = model == "llama" || file.text("tokenizer.ggml.pre") == "llama-bpe";
  if ((add_bos ? *add_bos : usual) && bos >= 0 && static_cast<std::size_t>(bos) < tokens->size()) {
    const std::string& token = (*tokens)[static_cast<std::size_t>(bos)];
    const Json special{{"SpecialToken", {{"id", token}, {"type_id", 0}}}};
    const auto sequence = [](const char* id) { return Json{{"Sequence", {{"id", id}, {"type_id", 0}}}}; };
    processor = {
        {"type", "TemplateProcessing"},
        {"single", Json::array({special, sequence("A")})},
        {"pair", Json::array({special, sequence("A"), special, sequence("B")})},
        {"special_tokens", {{token, {{"id", token}, {"ids", Json::array({bos})}, {"tokens", Json::array({token})}}}}}};
  }
  return Json{{"version", "1.0"},
              {"truncation", nullptr},
              {"padding", nullptr},
              {"added_tokens", added},
              {"normalizer", normalizer},
              {"pre_tokenizer", pre_tokenizer},
              {"post_processor", processor},
              {"decoder", decoder},
              {"model", std::move(bpe)}};
}

Json tokenizer_config_from_gguf(const GgufReader& file) {
  Json out{{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const auto* tokens = file.get<std::vector<std::string>>("tokenizer.ggml.tokens");
  constexpr std::pair<const char*, const char*> kinds[] = {{"bos", "bos"},       {"eos", "eos"},     {"unk", "unknown"},
                                                           {"sep", "seperator"}, {"pad", "padding"}, {"mask", "mask"}};
  for (const auto& [key, name] : kinds)
    if (const auto id = file.integer(fmt::format("tokenizer.ggml.{}_token_id", name), -1);
        tokens && id >= 0 && static_cast<std::size_t>(id) < tokens->size())
      out[fmt::format("{}_token", key)] = (*tokens)[static_cast<std::size_t>(id)];
  for (const char* key : {"bos", "eos", "sep"})
    if (const auto* add = file.get<bool>(fmt::format("tokenizer.ggml.add_{}_token", key)))
      out[fmt::format("add_{}_token", key)] = *add;
  if (const auto* prefix = file.get<bool>("tokenizer.ggml.add_space_prefix")) out["add_prefix_space"] = *prefix;
  if (const std::string chat = file.text("tokenizer.chat_template"); !chat.empty()) out["chat_template"] = chat;
  return out;
}

}  // namespace fettle::kit
