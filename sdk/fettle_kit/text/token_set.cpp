// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/text/token_set.h"

#include "fettle_kit/io/json.h"
#include "fettle_kit/io/mapped_file.h"
#include "fettle_kit/io/message.h"
#include "fettle_kit/io/safetensors.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string_view>
#include <utility>

namespace fettle::kit {
namespace {

namespace fs = std::filesystem;

constexpr const char* file_name = "tokens.safetensors";
constexpr int deepest_folder = 16;  // also the end of links that lead round in circles

Status append_jsonl(std::string& out, std::string_view lines, const std::string& path) {
  for (std::size_t number = 1; !lines.empty(); ++number) {
    const std::size_t end = std::min(lines.find('\n'), lines.size());
    const std::string_view line = lines.substr(0, end);
    lines.remove_prefix(std::min(end + 1, lines.size()));
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    const std::string where = fmt::format("{}: record in line {}", path, grouped(number));
    FETTLE_ASSIGN(const Json record, parse_json(line, where));
    const auto text = record.is_object() ? record.find("text") : record.end();
    if (!record.is_object() || text == record.end() || !text->is_string())
      return {Code::corrupt_data, fmt::format("{} has no string \"text\"", where)};
    if (!out.empty()) out += out.back() == '\n' ? "\n" : "\n\n";
    out += text->get_ref<const std::string&>();
  }
  return {};
}

Status append_file(std::string& out, const fs::path& path) {
  const std::string extension = path.extension().string();
  if (extension == ".xz" || extension == ".gz" || extension == ".zst" || extension == ".bz2")
    return {Code::unsupported,
            fmt::format("{}: is compressed; unpack it first, for example with '{} -dk'", path.string(),
                        extension == ".xz"    ? "xz"
                        : extension == ".gz"  ? "gzip"
                        : extension == ".zst" ? "zstd"
                                              : "bzip2")};
  FETTLE_ASSIGN(const MappedFile file, MappedFile::open(path.string()));
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  if (extension == ".jsonl") return append_jsonl(out, text, path.string());
  if (!out.empty() && out.back() != '\n') out += '\n';
  out += text;
  return {};
}

Status append_folder(std::string& out, const fs::path& folder, int depth) {
  if (depth == deepest_folder)
    return {Code::invalid_argument,
            fmt::format("{}: folders are nested deeper than {} levels", folder.string(), deepest_folder)};
  std::error_code error;
  std::vector<fs::path> entries;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->path().filename().string().front() != '.') entries.push_back(it->path());
  if (error) return {Code::io, fmt::format("{}: cannot list the folder: {}", folder.string(), error.message())};
  std::sort(entries.begin(), entries.end(),
            [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
  for (const fs::path& entry : entries)
    FETTLE_TRY(fs::is_directory(entry, error) ? append_folder(out, entry, depth + 1) : append_file(out, entry));
  return {};
}

}  // namespace

TokenSet::TokenSet(std::vector<std::int32_t> ids, std::int64_t length, std::string tokenizer_digest, bool bos)
    : ids_(std::move(ids)), length_(length), tokenizer_(std::move(tokenizer_digest)), bos_(bos) {}

TokenSet TokenSet::part(std::int64_t first, std::int64_t count) const {
  const auto rows =
      std::span(ids_).subspan(static_cast<std::size_t>(first * length_), static_cast<std::size_t>(count * length_));
  return {std::vector<std::int32_t>(rows.begin(), rows.end()), length_, tokenizer_, bos_};
}

Result<TokenSet> TokenSet::open(const std::string& folder) {
  const std::string path = (fs::path(folder) / file_name).string();
  FETTLE_ASSIGN(const SafetensorsReader file, SafetensorsReader::open(path));
  const auto bad = [&](const std::string& what) { return Status(Code::corrupt_data, path + ": " + what); };
  const TensorView* ids = file.find("ids");
  if (!ids) return bad("tensor 'ids' is missing; is this folder a 'tokens' artifact?");
  if (ids->dtype != DType::i32 || ids->shape.size() != 2 || ids->shape[1] < 1)
    return bad("tensor 'ids' is not a matrix of i32 with at least one column");
  const auto value = [&](const char* key) {
    const auto it = file.metadata().find(key);
    return it == file.metadata().end() ? std::string() : it->second;
  };
  if (value("tokenizer").empty()) return bad("the metadata does not say which tokenizer made the ids");
  std::vector<std::int32_t> rows(static_cast<std::size_t>(ids->elements()));
  if (!rows.empty()) std::memcpy(rows.data(), ids->bytes.data(), ids->bytes.size());
  for (const std::int32_t id : rows)
    if (id < 0) return bad(fmt::format("tensor 'ids' holds {}, expected ids from 0", id));
  return TokenSet(std::move(rows), ids->shape[1], value("tokenizer"), value("bos") == "true");
}

Status TokenSet::save(const std::string& folder) const {
  const std::string path = (fs::path(folder) / file_name).string();
  FETTLE_ASSIGN(SafetensorsWriter writer,
                SafetensorsWriter::create(path, {{"ids", DType::i32, {sequences(), length()}}},
                                          {{"tokenizer", tokenizer_}, {"bos", bos_ ? "true" : "false"}}));
  FETTLE_TRY(writer.append("ids", std::as_bytes(std::span(ids_))));
  return writer.finish();
}

Result<std::string> read_text(const std::string& path) {
  std::string text;
  std::error_code error;
  FETTLE_TRY(fs::is_directory(path, error) ? append_folder(text, path, 0) : append_file(text, path));
  return text;
}

}  // namespace fettle::kit
