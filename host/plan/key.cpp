// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/sha256.h"
#include "fettle_kit/kernels/kernel_table.h"
#include "fettle_kit/kernels/kernels.h"

#include "host/plan/plan.h"

#include <fmt/format.h>

#include <charconv>
#include <map>

namespace fettle::host {

namespace {

/// A JSON string as RFC 8785 writes it: the shortest escapes, everything else as it is.
std::string quoted(std::string_view text) {
  static constexpr char hex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += "\\u00";
          out += hex[c >> 4];
          out += hex[c & 15];
        } else {
          out += c;
        }
    }
  }
  return out + '"';
}

/// The shortest decimal that reads back as the same double.
std::string number(double value) {
  char buffer[32];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr};
}

std::string json(const ParamValue& value) {
  if (value.shape != FETTLE_SCALAR) {
    // A map too is a list, of pairs: the order in which its entries were written can matter to a technique.
    std::string out = "[";
    for (const ParamValue& item : value.items) {
      if (out.size() > 1) out += ',';
      out += value.shape == FETTLE_MAP ? fmt::format("[{},{}]", quoted(item.key), json(item)) : json(item);
    }
    return out + "]";
  }
  switch (value.type) {
    case FETTLE_TYPE_NONE:
      return "null";
    case FETTLE_TYPE_BOOL:
      return value.integer ? "true" : "false";
    case FETTLE_TYPE_FLOAT:
    case FETTLE_TYPE_DURATION:
      return number(value.real);
    case FETTLE_TYPE_STRING:
      return quoted(value.text);
    case FETTLE_TYPE_PATH:
      return quoted(value.content_digest);
    default:
      return std::to_string(value.integer);
  }
}

/// "portable", or with what the result depends on.
std::string numerics_class(const Technique& technique) {
  switch (technique.table->determinism) {
    case FETTLE_PORTABLE:
      return "portable";
    case FETTLE_ISA:
      return fmt::format("isa:{}", kit::kernels().name);
    default:
      return fmt::format("device:cpu:{}", kit::kernels().name);
  }
}

}  // namespace

StepKey step_key(const Technique& technique, const ParamSet& params,
                 const std::vector<std::pair<std::string, std::string>>& input_digests, std::uint64_t seed) {
  std::map<std::string, std::string> inputs, values;  // sorted by name, as canonical JSON demands
  for (const auto& [port, digest] : input_digests) {
    std::string& list = inputs[port];  // of a list port: in the order written
    if (!list.empty()) list += ',';
    list += quoted(digest);
  }
  for (std::size_t i = 0; i < params.values().size(); ++i)
    values[technique.table->params[i].name] = json(params.values()[i]);
  const auto object = [](const std::map<std::string, std::string>& members, const char* open, const char* close) {
    std::string out = "{";
    for (const auto& [name, text] : members)
      out += fmt::format("{}{}:{}{}{}", out.size() > 1 ? "," : "", quoted(name), open, text, close);
    return out + "}";
  };
  StepKey key;
  key.text = fmt::format(
      "{{\"epoch\":{},\"inputs\":{},\"numerics\":{},\"params\":{},\"plugin\":{},\"seed\":{},\"technique\":{}}}",
      technique.table->epoch, object(inputs, "[", "]"), quoted(numerics_class(technique)), object(values, "", ""),
      quoted(technique.plugin->digest), seed, quoted(technique.id()));
  key.key = kit::sha256_hex(key.text);
  return key;
}

}  // namespace fettle::host
