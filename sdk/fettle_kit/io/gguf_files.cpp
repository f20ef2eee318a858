// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/gguf.h"
#include "fettle_kit/io/message.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <set>

namespace fettle::kit {
namespace {

namespace fs = std::filesystem;

struct Part {
  std::string prefix;  ///< with the folder
  unsigned count = 0;

  std::string path(unsigned number) const { return fmt::format("{}-{:05}-of-{:05}.gguf", prefix, number, count); }
  bool operator<(const Part& other) const { return std::tie(prefix, count) < std::tie(other.prefix, other.count); }
};

std::optional<unsigned> five_digits(std::string_view text) {
  unsigned number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(number) : std::nullopt;
}

/// Takes NAME-00001-of-00003.gguf apart.
std::optional<Part> part_of(const std::string& path) {
  constexpr std::string_view pattern = "-00001-of-00003.gguf";
  if (path.size() <= pattern.size()) return std::nullopt;
  const std::string_view tail = std::string_view(path).substr(path.size() - pattern.size());
  const auto number = five_digits(tail.substr(1, 5)), count = five_digits(tail.substr(10, 5));
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" || tail.substr(15) != ".gguf" || !number || !count ||
      *number == 0 || *number > *count)
    return std::nullopt;
  return Part{path.substr(0, path.size() - pattern.size()), *count};
}

Result<std::vector<std::string>> files_of(const std::string& path) {
  const auto part = part_of(path);
  if (!part) return std::vector<std::string>{path};
  std::vector<std::string> files;
  for (unsigned number = 1; number <= part->count; ++number) {
    files.push_back(part->path(number));
    std::error_code error;
    if (!fs::exists(files.back(), error))
      return Status(Code::not_found, fmt::format("{}: this part of a model in {} files is missing; is the download "
                                                 "complete?",
                                                 files.back(), part->count));
  }
  return files;
}

}  // namespace

Result<std::vector<std::string>> gguf_files(const std::string& folder_or_file) {
  std::error_code error;
  if (!fs::exists(folder_or_file, error))
    return Status(Code::not_found, fmt::format("{}: no such file or folder", folder_or_file));
  if (!fs::is_directory(folder_or_file, error)) return files_of(folder_or_file);

  std::set<std::string> models;  // one file of each
  for (fs::directory_iterator entry(folder_or_file, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().extension() != ".gguf") continue;
    const std::string path = entry->path().string();
    const auto part = part_of(path);
    models.insert(part ? part->path(1) : path);
  }
  if (error)
    return Status(Code::io, fmt::format("{}: cannot list the folder: {}", folder_or_file, errno_text(error.value())));
  if (models.empty()) return Status(Code::not_found, fmt::format("{}: holds no GGUF file", folder_or_file));
  if (models.size() > 1)
    return Status(Code::invalid_argument,
                  fmt::format("{}: holds several GGUF models, {} and {} among them; name the file", folder_or_file,
                              in_quotes(fs::path(*models.begin()).filename().string()),
                              in_quotes(fs::path(*std::next(models.begin())).filename().string())));
  return files_of(*models.begin());
}

std::string_view gguf_file_type_name(std::int64_t file_type) {
  switch (file_type) {
    case 0:
      return "F32";
    case 1:
      return "F16";
    case 2:
      return "Q4_0";
    case 3:
      return "Q4_1";
    case 7:
      return "Q8_0";
    case 8:
      return "Q5_0";
    case 9:
      return "Q5_1";
    case 10:
      return "Q2_K";
    case 11:
      return "Q3_K_S";
    case 12:
      return "Q3_K_M";
    case 13:
      return "Q3_K_L";
    case 14:
      return "Q4_K_S";
    case 15:
      return "Q4_K_M";
    case 16:
      return "Q5_K_S";
    case 17:
      return "Q5_K_M";
    case 18:
      return "Q6_K";
    case 19:
      return "IQ2_XXS";
    case 20:
      return "IQ2_XS";
    case 21:
      return "Q2_K_S";
    case 22:
      return "IQ3_XS";
    case 23:
      return "IQ3_XXS";
    case 24:
      return "IQ1_S";
    case 25:
      return "IQ4_NL";
    case 26:
      return "IQ3_S";
    case 27:
      return "IQ3_M";
    case 28:
      return "IQ2_S";
    case 29:
      return "IQ2_M";
    case 30:
      return "IQ4_XS";
    case 31:
      return "IQ1_M";
    case 32:
      return "BF16";
    case 36:
      return "TQ1_0";
    case 37:
      return "TQ2_0";
    case 38:
      return "MXFP4_MOE";
    case 39:
      return "NVFP4";
    case 40:
      return "Q1_0";
    case 41:
      return "Q2_0";
    default:
      return "";
  }
}

}  // namespace fettle::kit
