// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/gguf_layout.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

// tokenizer.json <-> the tokenizer.* keys of GGUF. Byte-level BPE is model "gpt2" there, SentencePiece-style BPE
// "llama".

namespace fettle::kit {
namespace {

namespace fs = std::filesystem;

enum TokenType : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581

constexpr std::string_view kLlama3Split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekkenSplit =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt2Split = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// object[key] if it is there and of the type of `otherwise`; Json::value throws where types differ.
std::string get(const Json& object, const char* key, const std::string& otherwise) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return it != object.end() && it->is_string() ? it->get<std::string>() : otherwise;
}
bool get(const Json& object, const char* key, bool otherwise) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return it != object.end() && it->is_boolean() ? it->get<bool>() : otherwise;
}
std::int64_t get(const Json& object, const char* key, std::int64_t otherwise) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return it != object.end() && it->is_number_integer() ? it->get<std::int64_t>() : otherwise;
}

/// How the text is cut before BPE, as one line: "split <regex>", "digits", "gpt2", joined by " + ".
std::string describe_split(const Json& pre) {
  if (!pre.is_object()) return "none";
  const std::string type = get(pre, "type", std::string());
  if (type == "Sequence") {
    std::string all;
    const auto parts = pre.find("pretokenizers");
    if (parts == pre.end() || !parts->is_array()) return "malformed";
    for (const Json& part : *parts) {
      const std::string one = describe_split(part);
      if (one.empty()) continue;
      if (!all.empty()) all += " + ";
      all += one;
    }
    return all;
  }
  if (type == "ByteLevel") return get(pre, "use_regex", true) ? "gpt2" : "";
  if (type == "Digits") return get(pre, "individual_digits", false) ? "digits" : "digit runs";
  if (type == "Split") {
    const auto pattern = pre.find("pattern");
    if (pattern != pre.end() && pattern->is_object() && pattern->contains("Regex") && (*pattern)["Regex"].is_string())
      return "split " + (*pattern)["Regex"].get<std::string>();
  }
  return type;
}

/// tokenizer.ggml.pre. Two names may share a pattern: those of Llama 3 also take whole words of the vocabulary first.
Result<std::string> pre_tokenizer_name(const Json& tokenizer, const std::string& file) {
  const auto pre = tokenizer.find("pre_tokenizer");
  const std::string split = describe_split(pre == tokenizer.end() ? Json() : *pre);
  const bool whole_words = get(tokenizer["model"], "ignore_merges", false);
  if (split == fmt::format("split {}", kLlama3Split)) return std::string(whole_words ? "llama-bpe" : "dbrx");
  if (split == fmt::format("split {}", kQwen2Split)) return std::string("qwen2");
  if (split == fmt::format("split {}", kTekkenSplit)) return std::string("tekken");
  if (split == "gpt2") return std::string("gpt-2");
  if (split == "digits + gpt2") return std::string("smollm");
  return Status(
      Code::unsupported,
      fmt::format("{}: llama.cpp has no known name for a pre-tokenizer of the form '{}'; if you know the name, "
                  "give it as parameter 'pre'",
                  file, split),
      "pre");
}

bool looks_special(std::string_view text) {
  constexpr std::string_view bar = "\xEF\xBD\x9C";  // U+FF5C
  if (text.starts_with("<|") && text.ends_with("|>")) return true;
  if (text.starts_with(fmt::format("<{}", bar)) && text.ends_with(fmt::format("{}>", bar))) return true;
  if (text.starts_with("<unused") && text.ends_with(">")) return true;
  return text == "<pad>" || text == "<mask>" || text == "<2mass>" || text == "[@BOS@]";
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (std::size_t at = 0;;) {
    const std::size_t found = text.find(from, at);
    out.append(text.substr(at, found - at));
    if (found == std::string_view::npos) return out;
    out.append(to);
    at = found + from.size();
  }
}

std::vector<std::string> merge_strings(const Json& model) {
  std::vector<std::string> merges;
  const auto list = model.find("merges");
  if (list == model.end() || !list->is_array()) return merges;
  for (const Json& merge : *list) {
    if (merge.is_string()) {
      merges.push_back(merge.get<std::string>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      constexpr std::string_view space = "\xC4\xA0";  // U+0120, the byte-level form
      merges.push_back(fmt::format("{} {}", replaced(merge[0].get<std::string>(), " ", space),
                                   replaced(merge[1].get<std::string>(), " ", space)));
    }
  }
  return merges;
}

bool has_type(const Json& node, std::string_view type) {
  if (node.is_object()) {
    if (get(node, "type", std::string()) == type) return true;
    for (const char* list : {"normalizers", "pretokenizers", "processors", "decoders"})
      if (const auto it = node.find(list); it != node.end() && has_type(*it, type)) return true;
  } else if (node.is_array()) {
    for (const Json& item : node)
      if (has_type(item, type)) return true;
  }
  return false;
}

/// True if a space is put in front of the text (SentencePiece's dummy prefix).
bool prefixes_space(const Json& tokenizer) {
  if (tokenizer.contains("normalizer") && has_type(tokenizer["normalizer"], "Prepend")) return true;
  const auto pre = tokenizer.find("pre_tokenizer");
  if (pre == tokenizer.end() || !pre->is_object() || get(*pre, "type", std::string()) != "Metaspace") return false;
  return get(*pre, "prepend_scheme", std::string("always")) != "never" && get(*pre, "add_prefix_space", true);
}

/// Does the post-processor's template for one text start (or end) with this special token?
struct TemplateEnds {
  std::string first, last;
};
TemplateEnds template_ends(const Json& processor) {
  if (!processor.is_object()) return {};
  if (const auto list = processor.find("processors"); list != processor.end() && list->is_array()) {
    for (const Json& item : *list)
      if (const TemplateEnds ends = template_ends(item); !ends.first.empty() || !ends.last.empty()) return ends;
    return {};
  }
  const auto single = processor.find("single");
  if (single == processor.end() || !single->is_array() || single->empty()) return {};
  const auto special = [](const Json& piece) {
    const auto token = piece.find("SpecialToken");
    return token == piece.end() || !token->is_object() ? std::string() : get(*token, "id", std::string());
  };
  if (!single->front().is_object() || !single->back().is_object()) return {};
  return {special(single->front()), special(single->back())};
}

/// A special token in tokenizer_config.json: its text, or an object with the text in "content".
std::string token_text(const Json& settings, const std::string& key) {
  const auto it = settings.find(key);
  if (it == settings.end()) return {};
  if (it->is_string()) return it->get<std::string>();
  if (it->is_object()) return get(*it, "content", std::string());
  return {};
}

Result<Json> read_optional(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return Json(Json::object());
  return read_json_file(path.string());
}

Result<std::string> chat_template(const fs::path& folder, const Json& settings) {
  if (const auto it = settings.find("chat_template"); it != settings.end()) {
    if (it->is_string()) return it->get<std::string>();
    if (it->is_array())
      for (const Json& named : *it)
        if (named.is_object() && get(named, "name", std::string()) == "default")
          return get(named, "template", std::string());
  }
  std::error_code error;
  if (fs::exists(folder / "chat_template.jinja", error))
    return read_text_file((folder / "chat_template.jinja").string());
  FETTLE_ASSIGN(const Json other, read_optional(folder / "chat_template.json"));
  return other.is_object() ? get(other, "chat_template", std::string()) : std::string();
}

Status malformed(const std::string& file, std::string_view what) {
  return {Code::corrupt_data, fmt::format("{}: {}", file, what)};
}

}  // namespace

Result<GgufMetadata> gguf_tokenizer_metadata(const std::string& folder, const Json& config, const std::string& pre) {
  const std::string file = (fs::path(folder) / "tokenizer.json").string();
  FETTLE_ASSIGN(const Json tokenizer, read_json_file(file, {std::size_t{256} << 20, 128}));
  FETTLE_ASSIGN(const Json settings, read_optional(fs::path(folder) / "tokenizer_config.json"));
  if (!tokenizer.is_object() || !tokenizer.contains("model") || !tokenizer["model"].is_object())
    return malformed(file, "no 'model' in it");
  const Json& model = tokenizer["model"];
  if (get(model, "type", std::string("BPE")) != "BPE" || !model.contains("vocab") || !model["vocab"].is_object())
    return Status(Code::unsupported, fmt::format("{}: model type '{}' cannot be written as GGUF; supported is BPE",
                                                 file, get(model, "type", std::string("BPE"))));
  const bool byte_level = (tokenizer.contains("pre_tokenizer") && has_type(tokenizer["pre_tokenizer"], "ByteLevel")) ||
                          (tokenizer.contains("decoder") && has_type(tokenizer["decoder"], "ByteLevel"));
  const auto vocab_size = get(config, "vocab_size", std::int64_t{0});
  if (vocab_size <= 0 || vocab_size > (1 << 26))
    return malformed("config.json", "'vocab_size' is missing or out of range");
  const auto count = static_cast<std::size_t>(vocab_size);

  std::vector<std::string> tokens(count);
  std::vector<std::int32_t> types(count, unused);
  std::map<std::string, std::int64_t, std::less<>> ids;
  for (const auto& [token, id] : model["vocab"].items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= count)
      return malformed(
          file, fmt::format("token '{}' has id {}, expected one below the vocabulary size {} of config.json", token,
                            id.dump(), count));
    const auto at = id.get<std::size_t>();
    tokens[at] = token;
    types[at] = normal;
    ids.emplace(token, static_cast<std::int64_t>(at));
    if (!byte_level && token.size() == 6 && token.starts_with("<0x") && token.ends_with(">")) types[at] = byte;
  }
  std::vector<std::int32_t> added_ids;
  if (const auto added = tokenizer.find("added_tokens"); added != tokenizer.end() && added->is_array()) {
    for (const Json& token : *added) {
      if (!token.is_object() || !token.contains("id") || !token["id"].is_number_unsigned() ||
          !token.contains("content") || !token["content"].is_string())
        return malformed(file, "an entry of 'added_tokens' lacks 'id' or 'content'");
      const auto id = token["id"].get<std::uint64_t>();
      if (id >= count) continue;  // the model has no row for it
      const auto content = token["content"].get<std::string>();
      const bool special = get(token, "special", false) || looks_special(content);
      tokens[id] = special ? content : replaced(content, kSpace, " ");
      types[id] = special ? control : user_defined;
      ids[content] = static_cast<std::int64_t>(id);
      added_ids.push_back(static_cast<std::int32_t>(id));
    }
  }
  const std::string unk_token =
      model.contains("unk_token") && model["unk_token"].is_string() ? model["unk_token"].get<std::string>() : "";
  if (!byte_level && ids.contains(unk_token)) types[static_cast<std::size_t>(ids[unk_token])] = unknown;
  for (std::size_t i = 0; i < count; ++i)
    if (types[i] == unused) tokens[i] = fmt::format("[PAD{}]", i);

  GgufMetadata m;
  if (byte_level) {
    if (const auto it = settings.find("add_prefix_space"); it != settings.end() && it->is_boolean())
      m.emplace_back("tokenizer.ggml.add_space_prefix", it->get<bool>());
  } else {
    m.emplace_back("tokenizer.ggml.add_space_prefix", prefixes_space(tokenizer));
  }
  m.emplace_back("tokenizer.ggml.model", std::string(byte_level ? "gpt2" : "llama"));
  std::string name = pre;
  if (name.empty() && byte_level) {
    FETTLE_ASSIGN(name, pre_tokenizer_name(tokenizer, file));
  }
  m.emplace_back("tokenizer.ggml.pre", name.empty() ? std::string("default") : name);
  const std::vector<std::string> merges = merge_strings(model);
  if (byte_level) {
    m.emplace_back("tokenizer.ggml.tokens", std::move(tokens));
    m.emplace_back("tokenizer.ggml.token_type", std::move(types));
    m.emplace_back("tokenizer.ggml.merges", merges);
  } else {
    // llama.cpp joins the pair whose result scores highest: the rank of the first merge that makes a token, negated.
    std::vector<float> scores(count, 0.0f);
    std::vector<bool> scored(count, false);
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
      std::string joined = merges[rank];
      joined.erase(joined.find(' '), 1);
      const auto it = ids.find(joined);
      if (it == ids.end() || scored[static_cast<std::size_t>(it->second)]) continue;
      scores[static_cast<std::size_t>(it->second)] = -static_cast<float>(rank + 1);
      scored[static_cast<std::size_t>(it->second)] = true;
    }
    for (const std::int32_t id : added_ids)
      if (types[static_cast<std::size_t>(id)] != unknown) scores[static_cast<std::size_t>(id)] = -1000.0f;
    for (std::size_t i = 0; i < count; ++i)
      if (types[i] == unused) scores[i] = -10000.0f;
    m.emplace_back("tokenizer.ggml.tokens", std::move(tokens));
    m.emplace_back("tokenizer.ggml.scores", std::move(scores));
    m.emplace_back("tokenizer.ggml.token_type", std::move(types));
  }

  struct Special {
    const char *name, *key;
  };
  constexpr Special specials[] = {{"bos", "bos"},       {"eos", "eos"},     {"unk", "unknown"},
                                  {"sep", "seperator"}, {"pad", "padding"}, {"mask", "mask"}};
  std::map<std::string, std::string> special_texts;
  for (const auto& [special, key] : specials) {
    const std::string content = token_text(settings, fmt::format("{}_token", special));
    std::optional<std::int64_t> id;
    if (const auto it = ids.find(content); !content.empty() && it != ids.end()) id = it->second;
    if (const auto it = config.find(fmt::format("{}_token_id", special));
        !id && it != config.end() && it->is_number_unsigned())
      id = it->get<std::int64_t>();
    if (id && *id < vocab_size) {
      m.emplace_back(fmt::format("tokenizer.ggml.{}_token_id", key), static_cast<std::uint32_t>(*id));
      special_texts[special] = content;
    }
  }
  const TemplateEnds ends = template_ends(tokenizer.contains("post_processor") ? tokenizer["post_processor"] : Json());
  for (const std::string special : {"bos", "eos"}) {
    const std::string& end = special == "bos" ? ends.first : ends.last;
    bool adds = !end.empty() && end == special_texts[special];
    if (const auto it = settings.find(fmt::format("add_{}_token", special)); it != settings.end() && it->is_boolean())
      adds = it->get<bool>();
    m.emplace_back(fmt::format("tokenizer.ggml.add_{}_token", special), adds);
  }
  FETTLE_ASSIGN(std::string chat, chat_template(folder, settings));
  if (!chat.empty()) m.emplace_back("tokenizer.chat_template", std::move(chat));
  return m;
}

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
  if ((add_bos ? *add_bos : model == "llama") && bos >= 0 && static_cast<std::size_t>(bos) < tokens->size()) {
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

}  // namespace fettle::kit
