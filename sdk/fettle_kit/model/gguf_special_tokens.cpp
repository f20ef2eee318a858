// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/gguf_special_tokens.h"

#include "fettle_kit/model/gguf_tokenizer_facts.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

namespace fettle::kit::gguf_tokenizer {
namespace {

struct Kind {
  std::string name;  ///< "bos": of bos_token, bos_token_id, add_bos_token
  const char* key;   ///< of tokenizer.ggml.<key>_token_id; null: GGUF has none
};

/// The text of a special token: a string, or an object with the text in "content".
std::string text_of(const Json& settings, const std::string& key) {
  const auto it = settings.is_object() ? settings.find(key) : settings.end();
  if (!settings.is_object() || it == settings.end()) return {};
  return it->is_string() ? it->get<std::string>() : get(*it, "content", std::string());
}

/// "<s>" of {"SpecialToken": {"id": "<s>"}}; "" of anything else.
std::string id_of(const Json& piece, const char* type) {
  const auto it = piece.is_object() ? piece.find(type) : piece.end();
  return piece.is_object() && it != piece.end() ? get(*it, "id", std::string()) : std::string();
}

std::span<const Json> pieces(const Json& processor, const char* key) {
  const auto it = processor.find(key);
  if (it == processor.end() || !it->is_array()) return {};
  return *it->get_ptr<const Json::array_t*>();
}

class PostProcessor {
 public:
  PostProcessor(const Json& tokenizer, Json& settings) : settings_(settings) {
    texts_.bos = text_of(settings, "bos_token");
    texts_.cls = text_of(settings, "cls_token");
    texts_.eos = text_of(settings, "eos_token");
    texts_.sep = text_of(settings, "sep_token");
    if (texts_.bos.empty()) adopt("bos_token", texts_.bos, texts_.cls);
    if (texts_.eos.empty()) adopt("eos_token", texts_.eos, texts_.sep);
    const auto processor = tokenizer.find("post_processor");
    if (processor == tokenizer.end() || !processor->is_object()) return;
    const auto list = pieces(*processor, "processors");
    for (const Json& one : list.empty() ? std::span(&*processor, 1) : list) read(one);
  }

  std::vector<std::pair<std::string, bool>> adds;  ///< in order of discovery
  std::string other_end;                           ///< the EOS of the settings, if a template ends with another token

  void add(const std::string& name, bool value) {
    const auto it = std::find_if(adds.begin(), adds.end(), [&](const auto& pair) { return pair.first == name; });
    if (it == adds.end())
      adds.emplace_back(name, value);
    else
      it->second = value;
  }
  bool knows(const std::string& name) const {
    return std::any_of(adds.begin(), adds.end(), [&](const auto& pair) { return pair.first == name; });
  }

 private:
  void adopt(const char* key, std::string& text, const std::string& from) {
    if (from.empty()) return;
    text = from;
    settings_[key] = from;
  }

  void read(const Json& processor) {
    const std::string type = get(processor, "type", std::string());
    if (type == "ByteLevel")
      for (const char* name : {"bos", "eos"})
        if (!knows(name)) add(name, false);
    if (type == "TemplateProcessing") read_template(processor);
  }

  void read_template(const Json& processor) {
    const auto single = pieces(processor, "single");
    std::string first, last;
    if (single.size() > 1) {
      first = id_of(single.front(), "SpecialToken");
      last = id_of(single.back(), "SpecialToken");
    }
    if (!first.empty()) {
      if (first != texts_.bos && first != texts_.cls) {
        if (texts_.bos.empty()) adopt("bos_token", texts_.bos, first);
        if (texts_.cls.empty()) adopt("cls_token", texts_.cls, first);
      }
      add("bos", first == texts_.bos || first == texts_.cls);
    }
    if (!last.empty()) {
      if (last != texts_.eos) {
        other_end = texts_.eos;
        adopt("eos_token", texts_.eos, last);
      }
      add("eos", true);
    }
    read_pair(pieces(processor, "pair"), first, last);
  }

  /// A, up to two special tokens, B: is there a separator?
  void read_pair(std::span<const Json> pair, const std::string& first, const std::string& last) {
    if (!pair.empty() && !first.empty() && id_of(pair.front(), "SpecialToken") == first) pair = pair.subspan(1);
    if (!pair.empty() && !last.empty() && id_of(pair.back(), "SpecialToken") == last)
      pair = pair.first(pair.size() - 1);
    if (pair.size() < 3 || id_of(pair.front(), "Sequence") != "A" || id_of(pair.back(), "Sequence") != "B") return;
    pair = pair.subspan(1, pair.size() - 2);
    const auto separates = [&](const Json& piece) {
      const std::string id = id_of(piece, "SpecialToken");
      return !id.empty() && (id == texts_.sep || id == texts_.eos);
    };
    const bool adds_sep = (separates(pair[0]) && last.empty()) || (pair.size() == 2 && separates(pair[1]));
    add("sep", adds_sep);
    if (adds_sep && texts_.sep.empty()) settings_["sep_token"] = texts_.eos;
  }

  struct Texts {
    std::string bos, cls, eos, sep;
  };
  Json& settings_;
  Texts texts_;
};

}  // namespace

GgufMetadata special_token_metadata(const Json& tokenizer, Json settings, const Json& config,
                                    const std::function<std::optional<std::int64_t>(std::string_view)>& added_token,
                                    std::int64_t vocab_size) {
  if (!settings.is_object()) settings = Json::object();
  std::vector<Kind> kinds{{"bos", "bos"},     {"eos", "eos"},   {"unk", "unknown"}, {"sep", "seperator"},
                          {"pad", "padding"}, {"cls", nullptr}, {"mask", "mask"}};
  PostProcessor processor(tokenizer, settings);
  if (!processor.other_end.empty()) {
    kinds.push_back({"eot", "eot"});
    settings["eot_token"] = processor.other_end;
  }
  std::vector<std::pair<const Kind*, std::int64_t>> ids;
  const auto set = [&](const Kind& kind, std::optional<std::int64_t> id) {
    if (!id || *id < 0 || *id >= vocab_size) return;
    if (std::none_of(ids.begin(), ids.end(), [&](const auto& pair) { return pair.first == &kind; }))
      ids.emplace_back(&kind, *id);
  };
  for (const Kind& kind : kinds) {
    const auto flag = settings.find("add_" + kind.name + "_token");
    if (flag != settings.end() && flag->is_boolean() && !processor.knows(kind.name))
      processor.add(kind.name, flag->get<bool>());
    if (const std::string text = text_of(settings, kind.name + "_token"); !text.empty()) set(kind, added_token(text));
  }
  for (const Kind& kind : kinds) set(kind, get(config, (kind.name + "_token_id").c_str(), std::int64_t{-1}));

  GgufMetadata m;
  const std::string prefix = "tokenizer.ggml.";
  for (const auto& [kind, id] : ids)
    if (kind->key) m.emplace_back(prefix + kind->key + "_token_id", static_cast<std::uint32_t>(id));
  for (const auto& [name, value] : processor.adds)
    if (name == "bos" || name == "eos" || name == "sep") m.emplace_back(prefix + "add_" + name + "_token", value);
  return m;
}

}  // namespace fettle::kit::gguf_tokenizer
