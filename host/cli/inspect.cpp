// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/gguf.h"
#include "fettle_kit/io/message.h"
#include "fettle_kit/io/safetensors.h"

#include "host/cli/verbs.h"
#include "host/report/quantity.h"
#include "host/report/table.h"

#include <CLI/Formatter.hpp>
#include <fmt/format.h>
#include <fnmatch.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>

namespace fettle::host {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Request {
  std::string path;
  std::string tensors;   ///< glob
  std::string metadata;  ///< glob
};

struct Tensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t bytes = 0;
};

/// What any of the formats says about itself.
struct Contents {
  std::string format;
  std::vector<std::pair<std::string, Json>> metadata;
  std::vector<Tensor> tensors;
};

Tensor tensor_of(const kit::TensorView& view) {
  return {view.name, std::string(kit::info(view.dtype).name), view.shape, view.bytes.size()};
}

Json to_json(const kit::GgufValue& value) {
  return std::visit([](const auto& v) -> Json { return v; }, value);
}

Result<Contents> read_checkpoint(const std::string& path) {
  FETTLE_ASSIGN(const kit::Checkpoint checkpoint, kit::Checkpoint::open(path));
  Contents c;
  c.format = fmt::format("Hugging Face checkpoint, {} file{} of weights", checkpoint.shards().size(),
                         checkpoint.shards().size() == 1 ? "" : "s");
  for (const auto& [key, value] : checkpoint.config().items()) c.metadata.emplace_back(key, value);
  for (const kit::TensorView* t : checkpoint.tensors()) c.tensors.push_back(tensor_of(*t));
  return c;
}

Result<Contents> read_safetensors(const std::string& path) {
  FETTLE_ASSIGN(const kit::SafetensorsReader reader, kit::SafetensorsReader::open(path));
  Contents c;
  c.format = "safetensors";
  for (const auto& [key, value] : reader.metadata()) c.metadata.emplace_back(key, value);
  for (const kit::TensorView& t : reader.tensors()) c.tensors.push_back(tensor_of(t));
  return c;
}

Result<Contents> read_gguf(const std::string& path) {
  FETTLE_ASSIGN(const auto files, kit::gguf_files(path));
  FETTLE_ASSIGN(const kit::GgufReader reader, kit::GgufReader::open_model(path));
  Contents c;
  c.format = files.size() == 1 ? "GGUF" : fmt::format("GGUF, {} files", files.size());
  for (const auto& [key, value] : reader.metadata()) c.metadata.emplace_back(key, to_json(value));
  for (const kit::TensorView& t : reader.tensors()) c.tensors.push_back(tensor_of(t));
  return c;
}

Result<Contents> read(const std::string& path) {
  std::error_code failed;
  const fs::file_status status = fs::status(path, failed);
  if (!fs::exists(status)) return Status{Code::not_found, fmt::format("'{}': no such file or folder", path)};
  if (fs::is_directory(status)) {
    const bool gguf = !fs::exists(fs::path(path) / "config.json", failed) && kit::gguf_files(path).ok();
    return gguf ? read_gguf(path) : read_checkpoint(path);
  }
  const std::string extension = fs::path(path).extension();
  if (extension == ".safetensors") return read_safetensors(path);
  if (extension == ".gguf") return read_gguf(path);
  return Status{Code::unsupported,
                fmt::format("'{}': expected a checkpoint folder, a .safetensors file or a .gguf file", path)};
}

bool matches(const std::string& glob, const std::string& name) {
  return glob.empty() || ::fnmatch(glob.c_str(), name.c_str(), 0) == 0;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t d : shape) text += (text.empty() ? "" : " x ") + std::to_string(d);
  return text.empty() ? "scalar" : text;
}

std::uint64_t elements(const Tensor& t) {
  std::uint64_t n = 1;
  for (const std::int64_t d : t.shape) n *= static_cast<std::uint64_t>(d);
  return n;
}

/// One line of a metadata value: long lists are counted, long texts cut.
std::string value_text(const Json& value) {
  if (value.is_array() && value.size() > 8)
    return fmt::format("[{} values: {}, ...]", kit::grouped(value.size()),
                       shortened(value[0].dump(-1, ' ', false, Json::error_handler_t::replace), 40));
  const std::string text =
      value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return shortened(text, 200);
}

Json as_json(const Contents& c, const Request& request) {
  Json tensors = Json::array(), metadata = Json::object();
  std::uint64_t bytes = 0, parameters = 0;
  for (const Tensor& t : c.tensors) {
    bytes += t.bytes, parameters += elements(t);
    if (matches(request.tensors, t.name))
      tensors.push_back({{"name", t.name}, {"dtype", t.dtype}, {"shape", t.shape}, {"bytes", t.bytes}});
  }
  for (const auto& [key, value] : c.metadata)
    if (matches(request.metadata, key)) metadata[key] = value;
  return {{"path", request.path}, {"format", c.format},   {"parameters", parameters},
          {"bytes", bytes},       {"metadata", metadata}, {"tensors", tensors}};
}

std::string as_text(const Contents& c, const Request& request, std::size_t width) {
  std::uint64_t bytes = 0, parameters = 0;
  std::map<std::string, std::pair<std::size_t, std::uint64_t>> by_type;
  for (const Tensor& t : c.tensors) {
    bytes += t.bytes, parameters += elements(t);
    auto& [count, sum] = by_type[t.dtype];
    ++count, sum += t.bytes;
  }
  std::string text =
      fmt::format("{}: {}\n{} parameters in {} tensors, {}\n", request.path, c.format,
                  show_count(static_cast<double>(parameters)), kit::grouped(c.tensors.size()), show_bytes(bytes));
  for (const auto& [type, sums] : by_type)
    text += fmt::format("  {}: {} tensors, {}\n", type, kit::grouped(sums.first), show_bytes(sums.second));
  const bool only_tensors = !request.tensors.empty() && request.metadata.empty();
  const bool only_metadata = !request.metadata.empty() && request.tensors.empty();
  Table metadata({"key", "value"});
  for (const auto& [key, value] : c.metadata)
    if (matches(request.metadata, key)) metadata.add({key, value_text(value)});
  if (!only_tensors && !metadata.empty()) text += "\n" + metadata.text(0, width);
  Table tensors({"tensor", "type", "shape", "bytes>"});
  for (const Tensor& t : c.tensors)
    if (matches(request.tensors, t.name)) tensors.add({t.name, t.dtype, shape_text(t.shape), kit::grouped(t.bytes)});
  if (!only_metadata && !tensors.empty()) text += "\n" + tensors.text();
  return text;
}

int inspect(const Options& options, const Request& request) {
  Result<Contents> contents = read(request.path);
  if (!contents) return fail(contents.error());
  if (options.json) {
    print_json(as_json(*contents, request));
    return exit_done;
  }
  const Terminal out = terminal_of(1, options.color);
  print(as_text(*contents, request, out.interactive ? static_cast<std::size_t>(out.width) : 0));
  return exit_done;
}

}  // namespace

void add_inspect_verb(CLI::App& program, Options& options, Action& action) {
  CLI::App* verb = program.add_subcommand("inspect", "Show the tensors and metadata of a model's files");
  verb->footer(
      "Examples:\n  fettle inspect pipelines/data/prose-3m\n  fettle inspect pipelines/data/prose-3m --tensors "
      "'*.layers.0.*'");
  const auto request = std::make_shared<Request>();
  verb->add_option("path", request->path, "A checkpoint folder, a .safetensors file, or a .gguf file, split ones too")
      ->required()
      ->type_name("PATH");
  verb->add_option("--tensors", request->tensors, "Only tensors whose name matches")->type_name("GLOB");
  verb->add_option("--metadata", request->metadata, "Only metadata whose key matches")->type_name("GLOB");
  add_json_option(*verb, options);
  add_common_options(*verb, options);
  verb->callback([&, request] { action = [&options, request] { return inspect(options, *request); }; });
}

}  // namespace fettle::host
