// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/text/tokenizer_file.h"

#include "fettle_kit/io/message.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <utility>

namespace fettle::kit {
namespace {

void read_vocab(BpeData& model, const Json& vocab, const std::string& where, Status& status) {
  Fields check(vocab, where, status);
  if (!status.ok()) return;
  model.vocab.reserve(vocab.size());
  for (const auto& [piece, id] : vocab.items()) {
    const bool whole = id.is_number_integer();
    const auto value =
        whole && !(id.is_number_unsigned() && id.get<std::uint64_t>() > INT64_MAX) ? id.get<std::int64_t>() : -1;
    if (!whole)
      return check.fail(Code::corrupt_data, fmt::format("the id of piece {} is {}, expected a whole number",
                                                        in_quotes(piece), json_type(id)));
    if (value < 0 || value >= Bpe::max_pieces)
      return check.fail(Code::corrupt_data, fmt::format("the id of piece {} is {}, expected 0 to {}", in_quotes(piece),
                                                        id.dump(), grouped(Bpe::max_pieces - 1)));
    model.vocab.emplace_back(piece, static_cast<std::int32_t>(value));
  }
}

/// "left right", as older files write a merge.
bool split_merge(std::string_view line, std::pair<std::string, std::string>& merge) {
  const std::size_t space = line.find(' ');
  if (space == line.npos || line.find(' ', space + 1) != line.npos) return false;
  merge = {std::string(line.substr(0, space)), std::string(line.substr(space + 1))};
  return true;
}

void read_merges(BpeData& model, Fields& fields) {
  const Json& merges = fields.array("merges");
  model.merges.reserve(merges.size());
  for (const Json& item : merges) {
    auto& merge = model.merges.emplace_back();
    const bool pair = item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string();
    if (pair) {
      merge = {item[0].get<std::string>(), item[1].get<std::string>()};
    } else if (!item.is_string() || !split_merge(item.get_ref<const std::string&>(), merge)) {
      return fields.fail(
          Code::corrupt_data,
          fmt::format("merges: number {} is {}, expected two pieces as \"left right\" or [\"left\", \"right\"]",
                      model.merges.size() - 1,
                      item.is_string() ? in_quotes(item.get<std::string>()) : std::string(json_type(item))));
    }
  }
}

void read_model(BpeData& model, Fields fields) {
  if (!fields.status().ok()) return;
  // Files from before the type was written are told apart by their members.
  const std::string type = fields.string("type", fields.has("merges")  ? "BPE"
                                                 : fields.has("vocab") ? "WordPiece or WordLevel"
                                                                       : "?");
  if (type != "BPE")
    return fields.fail(Code::unsupported, fmt::format("type {} is not supported, expected BPE", in_quotes(type)));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!fields.string(key, "").empty())
      fields.fail(Code::unsupported,
                  fmt::format("'{}' is {}, only an empty one is supported", key, in_quotes(fields.string(key))));
  if (fields.has("dropout")) {
    const Json& dropout = fields.at("dropout");
    if (!dropout.is_number() || dropout.get<double>() != 0)
      fields.fail(Code::unsupported,
                  fmt::format("'dropout' is {}, which makes ids random; set it to null", dropout.dump()));
  }
  model.unk_token = fields.optional_string("unk_token");
  model.byte_fallback = fields.flag("byte_fallback", false);
  model.fuse_unk = fields.flag("fuse_unk", false);
  model.ignore_merges = fields.flag("ignore_merges", false);
  if (!fields.has("vocab"))
    fields.object("vocab");  // says that it is missing
  else
    read_vocab(model, fields.at("vocab"), fields.where() + ": vocab", fields.status());
  read_merges(model, fields);
}

void read_added(std::vector<AddedToken>& added, const Json& list, const std::string& where, Status& status) {
  std::size_t i = 0;
  for (const Json& item : list) {
    Fields fields(item, fmt::format("{}[{}]", where, i++), status);
    AddedToken token;
    token.id = static_cast<std::int32_t>(fields.integer("id", 0, Bpe::max_pieces - 1));
    token.content = fields.string("content");
    token.special = fields.flag("special", false);
    token.single_word = fields.flag("single_word", false);
    token.lstrip = fields.flag("lstrip", false);
    token.rstrip = fields.flag("rstrip", false);
    token.normalized = fields.flag("normalized", !token.special);
    if (token.content.size() > AddedTokenCutter::longest_token)
      fields.fail(Code::unsupported,
                  fmt::format("'content' has {} bytes, at most {} are supported", grouped(token.content.size()),
                              grouped(AddedTokenCutter::longest_token)));
    if (!status.ok()) return;
    added.push_back(std::move(token));
  }
}

std::vector<std::int32_t> read_ids(Fields& special, const std::string& name) {
  std::vector<std::int32_t> ids;
  if (!special.has(name.c_str())) {
    special.fail(Code::corrupt_data, fmt::format("{} is missing, but the template uses it", in_quotes(name)));
    return ids;
  }
  Fields entry = special.object(name.c_str());
  for (const Json& id : entry.array("ids")) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() >= Bpe::max_pieces) {
      entry.fail(Code::corrupt_data, fmt::format("'ids' holds {}, expected whole numbers from 0 to {}", id.dump(),
                                                 grouped(Bpe::max_pieces - 1)));
      break;
    }
    ids.push_back(id.get<std::int32_t>());
  }
  return ids;
}

void read_template(TokenizerFile& file, Fields& fields) {
  std::vector<std::int32_t> prefix, suffix;
  bool after_text = false;
  Fields special = fields.object("special_tokens");
  std::size_t i = 0;
  for (const Json& item : fields.array("single")) {
    Fields piece(item, fmt::format("{}: single[{}]", fields.where(), i++), fields.status());
    if (piece.has("SpecialToken")) {
      auto& side = after_text ? suffix : prefix;
      for (const std::int32_t id : read_ids(special, piece.object("SpecialToken").string("id"))) side.push_back(id);
    } else if (piece.has("Sequence") && !after_text) {
      after_text = true;
    } else {
      piece.fail(Code::unsupported, "expected special tokens around one 'Sequence'");
    }
    if (!fields.status().ok()) return;
  }
  if (!after_text) return fields.fail(Code::unsupported, "'single' has no 'Sequence', so no text would be encoded");
  file.prefix.insert(file.prefix.begin(), prefix.begin(), prefix.end());
  file.suffix.insert(file.suffix.end(), suffix.begin(), suffix.end());
}

void read_post_processor(TokenizerFile& file, const Json& json, const std::string& where, Status& status) {
  Fields fields(json, where, status);
  const std::string type = fields.string("type");
  if (!status.ok()) return;
  if (type == "Sequence") {
    std::size_t i = 0;
    for (const Json& item : fields.array("processors")) {
      read_post_processor(file, item, fmt::format("{}: processors[{}]", where, i++), status);
      if (!status.ok()) return;
    }
  } else if (type == "TemplateProcessing") {
    read_template(file, fields);
  } else if (type != "ByteLevel") {  // which only moves offsets
    fields.fail(Code::unsupported, fmt::format("type {} is not supported, expected Sequence, ByteLevel or "
                                               "TemplateProcessing",
                                               in_quotes(type)));
  }
}

/// A token named by text, or by an object with its "content".
std::optional<std::string> token_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string())
    return value["content"].get<std::string>();
  return std::nullopt;
}

std::optional<std::int64_t> token_id(const Json& value) {
  const Json& first = value.is_array() && !value.empty() ? value.front() : value;
  return first.is_number_integer() ? std::optional(first.get<std::int64_t>()) : std::nullopt;
}

}  // namespace

Result<TokenizerFile> read_tokenizer_json(const Json& json, const std::string& name) {
  TokenizerFile file;
  Status status;
  Fields root(json, name, status);
  read_model(file.model, root.object("model"));
  if (status.ok() && root.has("added_tokens"))
    read_added(file.added, root.array("added_tokens"), name + ": added_tokens", status);
  if (status.ok()) file.normalizers = read_normalizers(root.at("normalizer"), name + ": normalizer", status);
  if (status.ok())
    file.pre_tokenizers = read_pre_tokenizers(root.at("pre_tokenizer"), name + ": pre_tokenizer", status);
  if (status.ok() && root.has("decoder")) file.decoders = read_decoders(root.at("decoder"), name + ": decoder", status);
  if (status.ok() && root.has("post_processor"))
    read_post_processor(file, root.at("post_processor"), name + ": post_processor", status);
  FETTLE_TRY(std::move(status));
  return file;
}

Result<TokenizerFile> read_gpt2_files(const Json& vocab, const std::string& vocab_name, std::string_view merges,
                                      const std::string& merges_name) {
  TokenizerFile file;
  Status status;
  read_vocab(file.model, vocab, vocab_name, status);
  FETTLE_TRY(std::move(status));
  std::size_t line_number = 0;
  while (!merges.empty()) {
    const std::size_t end = std::min(merges.find('\n'), merges.size());
    std::string_view line = merges.substr(0, end);
    merges.remove_prefix(std::min(end + 1, merges.size()));
    ++line_number;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty() || (line_number == 1 && line.substr(0, 8) == "#version")) continue;
    if (!split_merge(line, file.model.merges.emplace_back()))
      return Status(Code::corrupt_data, fmt::format("{}:{}: {} is not two pieces with a space between", merges_name,
                                                    line_number, in_quotes(line)));
  }
  file.pre_tokenizers.emplace_back(split_by(gpt2_pattern));
  file.pre_tokenizers.emplace_back(Visible{});
  file.decoders.emplace().emplace_back(BytesOfVisible{});
  for (const auto& [piece, id] : file.model.vocab) {
    if (piece != "<|endoftext|>") continue;
    AddedToken token;
    token.id = id;
    token.content = piece;
    token.special = true;
    file.added.push_back(std::move(token));
  }
  return file;
}

Result<SpecialTokens> read_special_tokens(const std::string& folder) {
  SpecialTokens tokens;
  const std::pair<const char*, SpecialTokens::Token*> all[] = {
      {"bos_token", &tokens.bos}, {"eos_token", &tokens.eos}, {"unk_token", &tokens.unk}, {"pad_token", &tokens.pad}};
  for (const char* name :
       {"tokenizer_config.json", "special_tokens_map.json", "config.json", "generation_config.json"}) {
    const std::filesystem::path path = std::filesystem::path(folder) / name;
    if (!std::filesystem::exists(path)) continue;
    FETTLE_ASSIGN(const Json json, read_json_file(path.string()));
    Status status;
    const Fields fields(json, path.string(), status);
    FETTLE_TRY(std::move(status));
    for (const auto& [key, token] : all) {
      if (!token->text) token->text = token_text(fields.at(key));
      if (!token->id) token->id = token_id(fields.at((std::string(key) + "_id").c_str()));
    }
  }
  return tokens;
}

}  // namespace fettle::kit
