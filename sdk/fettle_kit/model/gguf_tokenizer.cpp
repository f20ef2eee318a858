// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/gguf_layout.h"
#include "fettle_kit/model/gguf_special_tokens.h"
#include "fettle_kit/model/gguf_tokenizer_facts.h"
#include "fettle_kit/model/sentencepiece_model.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

// tokenizer.json -> the tokenizer.* keys of GGUF.

namespace fettle::kit {

using namespace gguf_tokenizer;

namespace {

namespace fs = std::filesystem;

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

/// The vocabulary as GGUF stores it, by id.
struct Vocabulary {
  explicit Vocabulary(std::size_t count) : tokens(count), types(count, unused), scores(count, 0.0f) {}
  void set(std::size_t id, std::string text, std::int32_t type, float score) {
    tokens[id] = std::move(text);
    types[id] = type;
    scores[id] = score;
  }
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;
  std::vector<float> scores;  ///< SentencePiece style only
};

constexpr float kAddedScore = -1000.0f, kUnusedScore = -10000.0f;

/// An added token of tokenizer.json or of tokenizer_config.json.
void add_token(Vocabulary& v, std::size_t id, const std::string& content, bool marked_special) {
  const bool special = marked_special || looks_special(content);
  v.set(id, special ? content : replaced(content, kSpace, " "), special ? control : user_defined, kAddedScore);
}

/// From tokenizer.model, which knows the scores; nothing if there is none, or it is of another vocabulary than
/// tokenizer.json (a technique may have cut that).
Result<std::optional<Vocabulary>> from_sentencepiece(const fs::path& folder, const Json& settings,
                                                     const Vocabulary& from_json) {
  std::error_code error;
  if (!fs::exists(folder / "tokenizer.model", error)) return std::optional<Vocabulary>();
  FETTLE_ASSIGN(const auto model, SentencePieceModel::open((folder / "tokenizer.model").string()));
  Vocabulary v(from_json.tokens.size());
  for (std::size_t i = 0; i < v.tokens.size(); ++i) {
    if (i >= model.pieces.size()) {
      v.set(i, fmt::format("[PAD{}]", i), unused, kUnusedScore);
      continue;
    }
    const auto& piece = model.pieces[i];
    const bool stored_otherwise = from_json.types[i] == control || from_json.types[i] == user_defined ||
                                  from_json.types[i] == unknown || from_json.types[i] == unused;
    if (piece.text != from_json.tokens[i] && !stored_otherwise) return std::optional<Vocabulary>();
    v.set(i, piece.text, piece.type == user_defined ? std::int32_t{normal} : piece.type, piece.score);
  }
  FETTLE_ASSIGN(const Json added, read_optional(folder / "added_tokens.json"));
  for (const auto& [content, id] : added.items())
    if (id.is_number_unsigned() && id.get<std::uint64_t>() < v.tokens.size())
      v.set(id.get<std::size_t>(), content, user_defined, kAddedScore);
  if (const auto decoder = settings.find("added_tokens_decoder"); decoder != settings.end() && decoder->is_object())
    for (const auto& [key, token] : decoder->items()) {
      std::size_t id = 0;
      const auto [end, failure] = std::from_chars(key.data(), key.data() + key.size(), id);
      if (failure != std::errc() || end != key.data() + key.size() || id >= v.tokens.size()) continue;
      const std::string content = get(token, "content", std::string());
      if (!content.empty()) add_token(v, id, content, get(token, "special", false));
    }
  // Added tokens that only tokenizer.json knows.
  for (std::size_t i = 0; i < v.tokens.size(); ++i)
    if (v.types[i] == unused && from_json.types[i] != unused)
      v.set(i, from_json.tokens[i], from_json.types[i], kAddedScore);
  return std::optional(std::move(v));
}

/// llama.cpp joins the pair whose result scores highest: the rank of the first merge that makes a token, negated.
void score_by_merges(Vocabulary& v, const std::vector<std::string>& merges,
                     const std::map<std::string, std::size_t, std::less<>>& ids) {
  std::vector<bool> scored(v.tokens.size(), false);
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    std::string joined = merges[rank];
    joined.erase(joined.find(' '), 1);
    const auto it = ids.find(joined);
    if (it == ids.end() || scored[it->second]) continue;
    v.scores[it->second] = -static_cast<float>(rank + 1);
    scored[it->second] = true;
  }
  for (std::size_t i = 0; i < v.tokens.size(); ++i) {
    if (v.types[i] == control || v.types[i] == user_defined) v.scores[i] = kAddedScore;
    if (v.types[i] == unused) v.scores[i] = kUnusedScore;
  }
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

  Vocabulary v(count);
  std::map<std::string, std::size_t, std::less<>> ids, added_ids;
  for (const auto& [token, id] : model["vocab"].items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= count)
      return malformed(
          file, fmt::format("token '{}' has id {}, expected one below the vocabulary size {} of config.json", token,
                            id.dump(), count));
    const auto at = id.get<std::size_t>();
    const bool is_byte = !byte_level && token.size() == 6 && token.starts_with("<0x") && token.ends_with(">");
    v.set(at, token, is_byte ? byte : normal, 0);
    ids.emplace(token, at);
  }
  if (const auto added = tokenizer.find("added_tokens"); added != tokenizer.end() && added->is_array()) {
    for (const Json& token : *added) {
      if (!token.is_object() || !token.contains("id") || !token["id"].is_number_unsigned() ||
          !token.contains("content") || !token["content"].is_string())
        return malformed(file, "an entry of 'added_tokens' lacks 'id' or 'content'");
      const auto id = token["id"].get<std::uint64_t>();
      if (id >= count) continue;  // the model has no row for it
      const auto content = token["content"].get<std::string>();
      add_token(v, id, content, get(token, "special", false));
      ids[content] = id;
      added_ids.emplace(content, id);
    }
  }
  if (const std::string unk = get(model, "unk_token", std::string()); !byte_level && ids.contains(unk))
    v.types[ids[unk]] = unknown;
  for (std::size_t i = 0; i < count; ++i)
    if (v.types[i] == unused) v.tokens[i] = fmt::format("[PAD{}]", i);
  const std::vector<std::string> merges = merge_strings(model);
  if (!byte_level) {
    FETTLE_ASSIGN(auto better, from_sentencepiece(folder, settings, v));
    if (better)
      v = *std::move(better);
    else
      score_by_merges(v, merges, ids);
  }

  GgufMetadata m;
  const std::string model_type = get(config, "model_type", std::string());
  const bool llama = model_type == "llama" || model_type == "mistral";
  const auto prefix = settings.find("add_prefix_space");
  if (llama && prefix != settings.end() && prefix->is_boolean())
    m.emplace_back("tokenizer.ggml.add_space_prefix", prefix->get<bool>());
  m.emplace_back("tokenizer.ggml.model", std::string(byte_level ? "gpt2" : "llama"));
  std::string name = pre;
  if (name.empty() && byte_level) {
    FETTLE_ASSIGN(name, pre_tokenizer_name(tokenizer, file));
  }
  m.emplace_back("tokenizer.ggml.pre", name.empty() ? std::string("default") : name);
  m.emplace_back("tokenizer.ggml.tokens", std::move(v.tokens));
  if (!byte_level) m.emplace_back("tokenizer.ggml.scores", std::move(v.scores));
  m.emplace_back("tokenizer.ggml.token_type", std::move(v.types));
  if (byte_level) m.emplace_back("tokenizer.ggml.merges", merges);

  const auto added_token = [&](std::string_view text) {
    const auto it = added_ids.find(text);
    return it == added_ids.end() ? std::optional<std::int64_t>() : static_cast<std::int64_t>(it->second);
  };
  for (auto& pair : special_token_metadata(tokenizer, settings, config, added_token, vocab_size))
    m.push_back(std::move(pair));
  // Where nothing says so, llama.cpp puts BOS before the text for this one family, tokenizer.json does not.
  if (name == "llama-bpe" &&
      std::none_of(m.begin(), m.end(), [](const auto& pair) { return pair.first == "tokenizer.ggml.add_bos_token"; }))
    m.emplace_back("tokenizer.ggml.add_bos_token", false);
  if (llama && vocab_size == 49152)  // of the SmolLM and Granite families, whose models never saw one
    for (auto& [key, value] : m)
      if (key == "tokenizer.ggml.add_bos_token") value = false;
  FETTLE_ASSIGN(std::string chat, chat_template(folder, settings));
  if (!chat.empty()) m.emplace_back("tokenizer.chat_template", std::move(chat));
  // llama.cpp takes a missing key as true.
  if (!byte_level && m.front().first != "tokenizer.ggml.add_space_prefix" && !prefixes_space(tokenizer))
    m.emplace_back("tokenizer.ggml.add_space_prefix", false);
  return m;
}

}  // namespace fettle::kit
