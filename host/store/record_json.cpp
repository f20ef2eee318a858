// SPDX-License-Identifier: Apache-2.0
#include "host/store/record_json.h"

#include "fettle_kit/io/sha256.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <limits>

namespace fettle::host {
namespace {

using Json = nlohmann::json;  // keys sorted: the same document always has the same text

// JSON has no inf and nan, and a diverged loss has to be recorded too.
Json number(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

double to_number(const Json& json) {
  if (json.is_number()) return json.get<double>();
  const auto& text = json.get_ref<const std::string&>();
  if (text == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (text == "inf") return std::numeric_limits<double>::infinity();
  if (text == "-inf") return -std::numeric_limits<double>::infinity();
  throw std::runtime_error("not a number");
}

std::string text_of(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

bool is_relative_path(std::string_view path) {
  if (path.empty() || path.size() > 4096 || path.front() == '/' || path.find('\0') != path.npos) return false;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return true;
}

Json artifact_json(const Artifact& artifact) {
  Json files = Json::array();
  for (const ManifestEntry& file : artifact.files) {
    Json entry = {{"path", file.path}, {"size", file.size}, {"sha256", file.sha256}};
    if (!file.link.empty()) entry["link"] = file.link;
    files.push_back(std::move(entry));
  }
  Json attributes = Json::object();
  for (const auto& [key, value] : artifact.attributes) attributes[key] = value;
  return {{"kind", artifact.kind},
          {"digest", artifact.digest},
          {"files", std::move(files)},
          {"attributes", std::move(attributes)}};
}

Artifact read_artifact(const Json& json) {
  Artifact artifact;
  artifact.kind = json.at("kind").get<std::string>();
  artifact.digest = json.at("digest").get<std::string>();
  for (const Json& entry : json.at("files")) {
    ManifestEntry file;
    file.path = entry.at("path").get<std::string>();
    file.size = entry.at("size").get<std::uint64_t>();
    file.sha256 = entry.at("sha256").get<std::string>();
    file.link = entry.value("link", "");
    if (!is_relative_path(file.path) || !kit::is_sha256_hex(file.sha256) ||
        (!file.link.empty() && file.link.front() != '/'))
      throw std::runtime_error("a file entry is not valid");
    artifact.files.push_back(std::move(file));
  }
  for (const auto& [key, value] : json.at("attributes").items())
    artifact.attributes.emplace_back(key, value.get<std::string>());
  if (artifact_digest(artifact) != artifact.digest) throw std::runtime_error("an artifact does not have its digest");
  return artifact;
}

}  // namespace

std::string artifact_digest(const Artifact& artifact) {
  Json files = Json::array();
  for (const ManifestEntry& file : artifact.files) files.push_back({file.path, file.size, file.sha256});
  return "sha256:" + kit::sha256_hex(text_of({{"kind", artifact.kind}, {"files", std::move(files)}}));
}

std::string write_record(const Record& record) {
  Json outputs = Json::array();
  for (const auto& [port, artifact] : record.outputs) {
    outputs.push_back(artifact_json(artifact));
    outputs.back()["port"] = port;
  }
  Json metrics = Json::object();
  for (const auto& [name, metric] : record.metrics) {
    Json& entry = metrics[name] = {{"value", number(metric.value)}};
    if (metric.standard_error) entry["standard_error"] = number(*metric.standard_error);
    if (!metric.unit.empty()) entry["unit"] = metric.unit;
  }
  Json series = Json::object();
  for (const auto& [name, points] : record.series) {
    Json& list = series[name] = Json::array();
    for (const auto& [x, y] : points.points) list.push_back({number(x), number(y)});
  }
  Json document = {{"fettle_record", 1},
                   {"key", record.key},
                   {"technique", record.technique},
                   {"key_text", record.key_text},
                   {"outputs", std::move(outputs)},
                   {"metrics", std::move(metrics)},
                   {"series", std::move(series)},
                   {"warnings", record.warnings},
                   {"seconds", number(record.seconds)},
                   {"peak_memory", record.peak_memory}};
  // A line of its own, so that neither side has to parse the document to check it.
  const std::string text = text_of(document);
  return text + "\n" + kit::sha256_hex(text) + "\n";
}

Result<Record> read_record(std::string_view text, const std::string& key) {
  const auto damaged = [](const std::string& what) {
    return Status(Code::corrupt_data, "the record is damaged: " + what, "store");
  };
  const std::size_t end = text.find('\n');
  if (end == text.npos || text.substr(end + 1) != kit::sha256_hex(text.substr(0, end)) + "\n")
    return damaged("its checksum does not match");
  try {
    const Json json = Json::parse(text.substr(0, end));
    if (json.at("fettle_record").get<int>() != 1) return damaged("its version is not 1");
    Record record;
    record.key = json.at("key").get<std::string>();
    if (record.key != key) return damaged("it belongs to key " + record.key);
    record.technique = json.at("technique").get<std::string>();
    record.key_text = json.at("key_text").get<std::string>();
    for (const Json& output : json.at("outputs"))
      record.outputs.emplace_back(output.at("port").get<std::string>(), read_artifact(output));
    for (const auto& [name, entry] : json.at("metrics").items()) {
      Metric& metric = record.metrics[name];
      metric.value = to_number(entry.at("value"));
      if (entry.contains("standard_error")) metric.standard_error = to_number(entry["standard_error"]);
      metric.unit = entry.value("unit", "");
    }
    for (const auto& [name, list] : json.at("series").items())
      for (const Json& point : list)
        record.series[name].points.emplace_back(to_number(point.at(0)), to_number(point.at(1)));
    record.warnings = json.at("warnings").get<std::vector<std::string>>();
    record.seconds = to_number(json.at("seconds"));
    record.peak_memory = json.at("peak_memory").get<std::uint64_t>();
    return record;
  } catch (const std::exception& e) {
    return damaged(e.what());
  }
}

}  // namespace fettle::host
