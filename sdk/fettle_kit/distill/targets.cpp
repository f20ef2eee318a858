// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/distill/targets.h"

#include "fettle_kit/io/json.h"
#include "fettle_kit/io/message.h"
#include "fettle_kit/io/sha256.h"
#include "fettle_kit/kernels/logarithm.h"
#include "fettle_kit/tensor/half.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <utility>

namespace fettle::kit {
namespace {

constexpr const char* header_name = "targets.json";
constexpr const char* head_name = "head.safetensors";
constexpr std::array content_names{"hidden", "top", "samples"};

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }
DType id_type(const TargetsHeader& h) { return h.vocab <= 65536 ? DType::u16 : DType::i32; }

/// What ties a part to its artifact, so that parts of two runs are never mixed.
std::map<std::string, std::string> stamp(const TargetsHeader& h, std::int64_t part) {
  return {{"part", std::to_string(part)},
          {"tokens", h.tokens},
          {"teacher", h.teacher},
          {"content", fmt::format("{} {} {} of {}", name_of(h.content), h.k, h.temperature, h.sequences_per_part)}};
}

std::int64_t sequences_of(const TargetsHeader& h, std::int64_t part) {
  return std::min(h.sequences_per_part, h.sequences - part * h.sequences_per_part);
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& v) {
  return std::as_bytes(std::span(v));
}

template <class T>
T at(const TensorView& t, std::int64_t i) {
  T value;
  std::memcpy(&value, t.bytes.data() + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}
std::int32_t id_at(const TensorView& t, std::int64_t i) {
  return t.dtype == DType::u16 ? at<std::uint16_t>(t, i) : at<std::int32_t>(t, i);
}

}  // namespace

Result<TargetContent> parse_target_content(std::string_view text) {
  for (std::size_t i = 0; i < content_names.size(); ++i)
    if (text == content_names[i]) return static_cast<TargetContent>(i);
  return Status(Code::invalid_argument,
                fmt::format("unknown content {}, expected hidden, top or samples", in_quotes(text)));
}

const char* name_of(TargetContent content) { return content_names[static_cast<std::size_t>(content)]; }

std::string digest_of(const TokenSet& tokens) {
  Sha256 hash;
  hash.update(fmt::format("tokens of length {}\n", tokens.length()));
  hash.update(tokens.ids().data(), tokens.ids().size_bytes());
  return "sha256:" + hash.hex();
}

std::string targets_part_name(std::int64_t part) { return fmt::format("part-{:05}.safetensors", part); }

Status write_targets_header(const std::string& folder, const TargetsHeader& h) {
  Json json = {{"content", name_of(h.content)},
               {"sequences", h.sequences},
               {"length", h.length},
               {"sequences_per_part", h.sequences_per_part},
               {"vocab", h.vocab}};
  if (h.content == TargetContent::hidden) {
    json["hidden"] = h.hidden;
    json["softcap"] = h.softcap;
  } else {
    json["k"] = h.k;
    json["temperature"] = h.temperature;
  }
  json["tokenizer"] = h.tokenizer;
  json["tokens"] = h.tokens;
  json["teacher"] = h.teacher;
  return write_json_file((std::filesystem::path(folder) / header_name).string(), json);
}

Status write_targets_part(const std::string& folder, const TargetsHeader& h, std::int64_t part,
                          const TargetsPart& rows) {
  const std::int64_t count = sequences_of(h, part) * h.rows_per_sequence();
  std::vector<std::uint16_t> narrow_ids;
  if (id_type(h) == DType::u16) narrow_ids.assign(rows.ids.begin(), rows.ids.end());
  const auto ids = id_type(h) == DType::u16 ? bytes_of(narrow_ids) : bytes_of(rows.ids);
  const auto known = static_cast<std::int64_t>(rows.ids.size());

  std::vector<TensorSpec> specs;
  std::map<std::string, std::span<const std::byte>> bytes;
  const auto add = [&](const char* name, DType dtype, std::vector<std::int64_t> shape,
                       std::span<const std::byte> content) {
    specs.push_back({name, dtype, std::move(shape)});
    bytes[name] = content;
  };
  switch (h.content) {
    case TargetContent::hidden:
      add("hidden", DType::f16, {count, h.hidden}, bytes_of(rows.hidden));
      break;
    case TargetContent::top:
      add("ids", id_type(h), {count, h.k}, ids);
      add("log_p", DType::f16, {count, h.k}, bytes_of(rows.log_p));
      add("tail", DType::f32, {count}, bytes_of(rows.tail));
      break;
    case TargetContent::samples:
      add("distinct", DType::u8, {count}, bytes_of(rows.distinct));
      add("ids", id_type(h), {known}, ids);
      add("counts", DType::u8, {known}, bytes_of(rows.counts));
      break;
  }
  specs = ordered_for_safetensors(std::move(specs));
  const std::string path = (std::filesystem::path(folder) / targets_part_name(part)).string();
  FETTLE_ASSIGN(SafetensorsWriter writer, SafetensorsWriter::create(path, specs, stamp(h, part)));
  for (const TensorSpec& spec : specs) FETTLE_TRY(writer.append(spec.name, bytes.at(spec.name)));
  return writer.finish();
}

Status write_targets_head(const std::string& folder, const StoredMatrix& head) {
  const bool plain = head.source == nullptr && (head.dtype == DType::f16 || head.dtype == DType::bf16);
  const DType dtype = plain ? head.dtype : DType::f32;
  const std::string path = (std::filesystem::path(folder) / head_name).string();
  FETTLE_ASSIGN(SafetensorsWriter writer, SafetensorsWriter::create(path, {{"head", dtype, {head.rows, head.cols}}}));
  if (plain) {
    FETTLE_TRY(writer.append("head", {head.data, size(head.rows * head.cols * 2)}));
    return writer.finish();
  }
  std::vector<float> rows;
  for (std::int64_t first = 0, count = 0; first < head.rows; first += count) {
    count = std::min<std::int64_t>(64, head.rows - first);
    rows.resize(size(count * head.cols));
    read_rows(MutMatrix(rows.data(), count, head.cols), head, first);
    FETTLE_TRY(writer.append("head", bytes_of(rows)));
  }
  return writer.finish();
}

bool has_targets_part(const std::string& folder, const TargetsHeader& header, std::int64_t part) {
  const auto file = SafetensorsReader::open((std::filesystem::path(folder) / targets_part_name(part)).string());
  if (!file) return false;
  for (const auto& [key, value] : stamp(header, part)) {
    const auto found = file->metadata().find(key);
    if (found == file->metadata().end() || found->second != value) return false;
  }
  return true;
}

Result<Targets> Targets::open(const std::string& folder) {
  namespace fs = std::filesystem;
  const std::string path = (fs::path(folder) / header_name).string();
  FETTLE_ASSIGN(const Json json, read_json_file(path, {1u << 20, 8}));
  const auto bad = [&](const std::string& what) { return Status(Code::corrupt_data, path + ": " + what); };
  if (!json.is_object()) return bad("is no JSON object");
  Targets t;
  t.folder_ = folder;
  TargetsHeader& h = t.header_;
  const auto text = [&](const char* key) -> Result<std::string> {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_string()) return bad(fmt::format("\"{}\" is missing or no string", key));
    return found->get<std::string>();
  };
  // Far beyond what anyone has, and small enough for their products.
  const auto whole = [&](const char* key, std::int64_t least, std::int64_t most) -> Result<std::int64_t> {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_number_integer())
      return bad(fmt::format("\"{}\" is missing or no whole number", key));
    const auto value = found->get<std::int64_t>();
    if (value < least || value > most)
      return bad(fmt::format("\"{}\" is {}, expected {} to {}", key, value, least, most));
    return value;
  };
  const auto real = [&](const char* key, double least, double most) -> Result<double> {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_number()) return bad(fmt::format("\"{}\" is missing or no number", key));
    const auto value = found->get<double>();
    if (!(value >= least && value <= most))
      return bad(fmt::format("\"{}\" is {}, expected {} to {}", key, value, least, most));
    return value;
  };
  FETTLE_ASSIGN(const std::string content, text("content"));
  auto parsed = parse_target_content(content);
  if (!parsed) return bad(parsed.error().message());
  h.content = *parsed;
  FETTLE_ASSIGN(h.sequences, whole("sequences", 1, std::int64_t{1} << 32));
  FETTLE_ASSIGN(h.length, whole("length", 2, 1 << 24));
  FETTLE_ASSIGN(h.sequences_per_part, whole("sequences_per_part", 1, std::int64_t{1} << 32));
  FETTLE_ASSIGN(h.vocab, whole("vocab", 2, 1 << 24));
  if (h.content == TargetContent::hidden) {
    FETTLE_ASSIGN(h.hidden, whole("hidden", 1, 1 << 20));
    FETTLE_ASSIGN(h.softcap, real("softcap", 0, 1e6));
  } else {
    FETTLE_ASSIGN(h.k,
                  whole("k", 1, h.content == TargetContent::samples ? 255 : std::min<std::int64_t>(h.vocab, 65536)));
    FETTLE_ASSIGN(h.temperature, real("temperature", 1e-3, 1e3));
  }
  FETTLE_ASSIGN(h.tokenizer, text("tokenizer"));
  FETTLE_ASSIGN(h.tokens, text("tokens"));
  FETTLE_ASSIGN(h.teacher, text("teacher"));
  if (h.parts() > 100'000)
    return bad(fmt::format("{} parts, expected at most 100,000", grouped(static_cast<std::uint64_t>(h.parts()))));

  if (h.content == TargetContent::hidden) {
    FETTLE_ASSIGN(SafetensorsReader head, SafetensorsReader::open((fs::path(folder) / head_name).string()));
    t.head_file_ = std::make_unique<SafetensorsReader>(std::move(head));
    const TensorView* matrix = t.head_file_->find("head");
    if (matrix == nullptr || matrix->shape != std::vector{h.vocab, h.hidden} ||
        (matrix->dtype != DType::f16 && matrix->dtype != DType::bf16 && matrix->dtype != DType::f32))
      return Status(Code::corrupt_data, fmt::format("{}: expected a tensor 'head' [{}, {}] of f16, bf16 or f32",
                                                    t.head_file_->path(), h.vocab, h.hidden));
    t.head_ = {matrix->bytes.data(), matrix->dtype, h.vocab, h.hidden};
  }
  for (std::int64_t i = 0; i < h.parts(); ++i)
    FETTLE_TRY(t.open_part((fs::path(folder) / targets_part_name(i)).string(), i));
  return t;
}

Status Targets::open_part(const std::string& path, std::int64_t index) {
  const TargetsHeader& h = header_;
  FETTLE_ASSIGN(SafetensorsReader file, SafetensorsReader::open(path));
  const std::int64_t rows = sequences_of(h, index) * h.rows_per_sequence();
  for (const auto& [key, value] : stamp(h, index)) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end() || found->second != value)
      return {Code::corrupt_data,
              fmt::format("{}: belongs to other targets: its \"{}\" differs from that of {}", path, key, header_name)};
  }
  Part& part = parts_.emplace_back(Part{std::move(file), {}, {}, {}, {}, {}, {}, {}});
  Status status;
  const auto find = [&](const char* name, DType dtype, std::vector<std::int64_t> shape) -> const TensorView* {
    const TensorView* t = part.file.find(name);
    if (t != nullptr && shape.back() < 0 && t->shape.size() == 1) shape = t->shape;  // any length
    if (t != nullptr && t->dtype == dtype && t->shape == shape) return t;
    std::string sizes;
    for (const std::int64_t n : shape) sizes += (sizes.empty() ? "" : ", ") + (n < 0 ? "any" : std::to_string(n));
    if (status.ok())
      status = Status(Code::corrupt_data,
                      fmt::format("{}: expected a tensor '{}' [{}] of {}", path, name, sizes, info(dtype).name));
    return nullptr;
  };
  switch (h.content) {
    case TargetContent::hidden:
      part.hidden = find("hidden", DType::f16, {rows, h.hidden});
      return status;
    case TargetContent::top:
      part.ids = find("ids", id_type(h), {rows, h.k});
      part.log_p = find("log_p", DType::f16, {rows, h.k});
      part.tail = find("tail", DType::f32, {rows});
      return status;
    case TargetContent::samples:
      break;
  }
  part.distinct = find("distinct", DType::u8, {rows});
  part.ids = find("ids", id_type(h), {-1});
  if (!status.ok()) return status;
  part.counts = find("counts", DType::u8, part.ids->shape);
  if (!status.ok()) return status;
  part.first.reserve(size(rows + 1));
  part.first.push_back(0);
  for (std::int64_t i = 0; i < rows; ++i) part.first.push_back(part.first.back() + at<std::uint8_t>(*part.distinct, i));
  if (part.first.back() != part.ids->shape[0])
    return {Code::corrupt_data, fmt::format("{}: tensor 'ids' has {} elements, but 'distinct' sums to {}", path,
                                            part.ids->shape[0], part.first.back())};
  return {};
}

Status Targets::bad_row(std::int64_t sequence, std::int64_t row, const std::string& what) const {
  return {Code::corrupt_data,
          fmt::format("{}: row {} of sequence {}: {}", parts_[size(sequence / header_.sequences_per_part)].file.path(),
                      row, sequence, what)};
}

Status Targets::read_hidden(std::int64_t sequence, std::span<float> rows) const {
  const Part& part = parts_[size(sequence / header_.sequences_per_part)];
  const std::int64_t first = sequence % header_.sequences_per_part * header_.rows_per_sequence() * header_.hidden;
  info(DType::f16).to_f32(part.hidden->bytes.data() + 2 * first, rows.data(), rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (!std::isfinite(rows[i]))
      return bad_row(sequence, static_cast<std::int64_t>(i) / header_.hidden, "the hidden state is not finite");
  return {};
}

Status Targets::read_known(std::int64_t sequence, std::span<std::int32_t> ids, std::span<float> log_p) const {
  const TargetsHeader& h = header_;
  const Part& part = parts_[size(sequence / h.sequences_per_part)];
  const std::int64_t first_row = sequence % h.sequences_per_part * h.rows_per_sequence();
  const bool top = h.content == TargetContent::top;
  for (std::int64_t row = 0; row < h.rows_per_sequence(); ++row) {
    const std::int64_t from = top ? (first_row + row) * h.k : part.first[size(first_row + row)];
    const std::int64_t count = top ? h.k : part.first[size(first_row + row + 1)] - from;
    if (count > h.k) return bad_row(sequence, row, fmt::format("{} distinct ids of {} draws", count, h.k));
    std::int32_t* id = ids.data() + row * h.k;
    float* lp = log_p.data() + row * h.k;
    double mass = 0;
    std::int64_t draws = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      id[i] = id_at(*part.ids, from + i);
      if (id[i] < 0 || id[i] >= h.vocab || (i > 0 && id[i] <= id[i - 1]))
        return bad_row(sequence, row, "the ids are not ascending numbers inside the vocabulary");
      if (top) {
        lp[i] = half_to_float(at<std::uint16_t>(*part.log_p, from + i));
        if (!(lp[i] <= 0 && std::isfinite(lp[i])))
          return bad_row(sequence, row, "a log-probability is no number below 0");
        mass += std::exp(double{lp[i]});
      } else {
        const auto n = at<std::uint8_t>(*part.counts, from + i);
        if (n == 0) return bad_row(sequence, row, "an id was drawn 0 times");
        draws += n;
        lp[i] = static_cast<float>(natural_log(static_cast<double>(n) / static_cast<double>(h.k)));
      }
    }
    for (std::int64_t i = count; i < h.k; ++i) id[i] = -1, lp[i] = 0;
    if (!top) {
      if (draws != h.k) return bad_row(sequence, row, fmt::format("the counts sum to {}, expected {}", draws, h.k));
      continue;
    }
    const double tail = at<float>(*part.tail, first_row + row);
    if (!(tail >= 0 && tail < 1 && std::fabs(mass + tail - 1) < 0.01))
      return bad_row(sequence, row,
                     fmt::format("the probabilities sum to {:.4f} and the tail is {:.4f}, together 1 was "
                                 "expected",
                                 mass, tail));
    const auto shift = static_cast<float>(natural_log((1 - tail) / mass));
    for (std::int64_t i = 0; i < count; ++i) lp[i] += shift;
  }
  return {};
}

Status Targets::check_bound_to(const TokenSet& tokens, std::int64_t student_vocab) const {
  const TargetsHeader& h = header_;
  const auto refuse = [](const std::string& what) { return Status(Code::invalid_argument, what, "targets"); };
  if (h.tokenizer != tokens.tokenizer_digest())
    return refuse(fmt::format("the targets were made with the tokenizer {}, the tokens of port 'data' with {}",
                              in_quotes(h.tokenizer), in_quotes(tokens.tokenizer_digest())));
  if (h.length != tokens.length() || h.sequences != tokens.sequences())
    return refuse(fmt::format("the targets are for {} sequences of {} tokens, port 'data' has {} of {}",
                              grouped(static_cast<std::uint64_t>(h.sequences)), h.length,
                              grouped(static_cast<std::uint64_t>(tokens.sequences())), tokens.length()));
  if (h.tokens != digest_of(tokens))
    return refuse(
        "the targets were made from other tokens than those of port 'data'; make them again with "
        "distill.targets");
  if (h.vocab > student_vocab && h.content != TargetContent::hidden)
    return refuse(
        fmt::format("the teacher has a vocabulary of {}, the student one of {}; use 'content: hidden', which "
                    "can be cut to the student's",
                    h.vocab, student_vocab));
  return {};
}

}  // namespace fettle::kit
