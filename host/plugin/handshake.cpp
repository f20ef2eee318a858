// SPDX-License-Identifier: Apache-2.0
#include "host/plugin/handshake.h"

#include "fettle/plugin.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <set>
#include <string_view>

namespace fettle::host {
namespace {

constexpr std::uint32_t max_entries = 10'000;  // of any table: more is a broken count, not a plugin

bool is_word(std::string_view text) {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  });
}

/// kind.name, or org.kind.name: two or more words joined by dots.
bool is_technique_id(std::string_view id) {
  std::size_t words = 0;
  for (;;) {
    const std::size_t dot = id.find('.');
    if (!is_word(id.substr(0, dot))) return false;
    ++words;
    if (dot == std::string_view::npos) return words >= 2;
    id.remove_prefix(dot + 1);
  }
}

bool is_kind(std::string_view kind) {
  static constexpr std::array<std::string_view, 8> kinds{"model",   "tokens", "text",    "stats",
                                                         "targets", "mask",   "metrics", "file"};
  return std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
}

Status malformed(std::string what) {
  return {Code::invalid_argument, std::move(what) + "; mend the plugin's description and rebuild it"};
}

Status check_ports(const std::string& where, const char* side, const fettle_port* ports, std::uint32_t count) {
  if (count > max_entries || (count > 0 && !ports))
    return malformed(fmt::format("{}: its table of {}s is missing", where, side));
  std::set<std::string_view> names;
  for (std::uint32_t i = 0; i < count; ++i) {
    const fettle_port& p = ports[i];
    if (!p.name || !is_word(p.name))
      return malformed(fmt::format("{}: {} {} is named '{}', expected lower case letters, digits, '-' or '_'", where,
                                   side, i + 1, p.name ? p.name : ""));
    if (!names.insert(p.name).second) return malformed(fmt::format("{}: two {}s are named '{}'", where, side, p.name));
    if (!p.help) return malformed(fmt::format("{}: {} '{}' has no help", where, side, p.name));
    if (!p.kind || !is_kind(p.kind))
      return malformed(
          fmt::format("{}: {} '{}' has kind '{}', expected model, tokens, text, stats, targets, mask, "
                      "metrics or file",
                      where, side, p.name, p.kind ? p.kind : ""));
    if (p.flags & ~(FETTLE_PORT_OPTIONAL | FETTLE_PORT_LIST))
      return malformed(fmt::format("{}: {} '{}' has unknown flags {:#x}", where, side, p.name, p.flags));
  }
  return {};
}

Status check_param(const std::string& name, const fettle_param& p) {
  if (!p.help) return malformed(fmt::format("{} has no help", name));
  if (p.type < FETTLE_TYPE_BOOL || p.type > FETTLE_TYPE_PATH)
    return malformed(fmt::format("{} has type {}, expected 1 to {}", name, p.type, int{FETTLE_TYPE_PATH}));
  if (p.shape > FETTLE_MAP) return malformed(fmt::format("{} has shape {}, expected 0 to 2", name, p.shape));
  const bool required = p.flags & FETTLE_PARAM_REQUIRED;
  const bool optional = p.flags & FETTLE_PARAM_OPTIONAL;
  if (p.flags & ~(FETTLE_PARAM_REQUIRED | FETTLE_PARAM_OPTIONAL | FETTLE_PARAM_HAS_MIN | FETTLE_PARAM_HAS_MAX))
    return malformed(fmt::format("{} has unknown flags {:#x}", name, p.flags));
  if (required && optional) return malformed(fmt::format("{} is both required and optional", name));
  if (!required && !optional && !p.default_text)
    return malformed(fmt::format("{} has no default and is neither required nor optional", name));
  if ((required || optional) && p.default_text)
    return malformed(fmt::format("{} is {} but has a default", name, required ? "required" : "optional"));
  const bool has_min = p.flags & FETTLE_PARAM_HAS_MIN;
  const bool has_max = p.flags & FETTLE_PARAM_HAS_MAX;
  if ((has_min && std::isnan(p.min)) || (has_max && std::isnan(p.max)) || (has_min && has_max && p.min > p.max))
    return malformed(fmt::format("{} has the empty range {} to {}", name, p.min, p.max));
  if (!p.choices) return {};
  if (p.type != FETTLE_TYPE_STRING) return malformed(fmt::format("{} has choices but is not a string", name));
  if (!p.choices[0]) return malformed(fmt::format("{} has an empty list of choices", name));
  std::set<std::string_view> choices;
  for (const char* const* c = p.choices; *c; ++c) {
    if (choices.size() == max_entries) return malformed(fmt::format("{}: its list of choices does not end", name));
    if (!choices.insert(*c).second) return malformed(fmt::format("{} lists the choice '{}' twice", name, *c));
  }
  if (p.shape != FETTLE_SCALAR || !p.default_text) return {};
  std::string_view text = p.default_text;
  if (text.size() >= 2 && (text.front() == '"' || text.front() == '\'') && text.back() == text.front())
    text = text.substr(1, text.size() - 2);
  if (!choices.count(text))
    return malformed(fmt::format("{} has the default '{}', which is not among its choices", name, text));
  return {};
}

Status check_technique(std::uint32_t index, const fettle_technique* t) {
  if (!t) return malformed(fmt::format("technique {} is missing from its table", index + 1));
  if (t->struct_size != sizeof(fettle_technique))
    return malformed(fmt::format("technique {} says it has {} bytes, expected {}", index + 1, t->struct_size,
                                 sizeof(fettle_technique)));
  if (!t->id || !is_technique_id(t->id))
    return malformed(
        fmt::format("technique {} has the id '{}', expected kind.name of lower case letters, digits, '-' or '_'",
                    index + 1, t->id ? t->id : ""));
  const std::string where = fmt::format("technique '{}'", t->id);
  if (!t->help || !t->version) return malformed(where + " has no help or no version");
  if (t->epoch == 0) return malformed(where + " has epoch 0, expected 1 or more");
  if (t->determinism > FETTLE_DEVICE)
    return malformed(fmt::format("{} has determinism {}, expected 0 to 2", where, t->determinism));
  if (!t->run) return malformed(where + " has no run function");
  FETTLE_TRY(check_ports(where, "input", t->inputs, t->input_count));
  FETTLE_TRY(check_ports(where, "output", t->outputs, t->output_count));
  if (t->param_count > max_entries || (t->param_count > 0 && !t->params))
    return malformed(where + ": its table of parameters is missing");
  std::set<std::string_view> names;
  for (std::uint32_t i = 0; i < t->param_count; ++i) {
    const fettle_param& p = t->params[i];
    if (!p.name || !is_word(p.name))
      return malformed(fmt::format("{}: parameter {} is named '{}', expected lower case letters, digits, '-' or '_'",
                                   where, i + 1, p.name ? p.name : ""));
    if (!names.insert(p.name).second) return malformed(fmt::format("{}: two parameters are named '{}'", where, p.name));
    FETTLE_TRY(check_param(fmt::format("{}: parameter '{}'", where, p.name), p));
  }
  if (t->service_count > max_entries || (t->service_count > 0 && !t->services))
    return malformed(where + ": its table of services is missing");
  for (std::uint32_t i = 0; i < t->service_count; ++i)
    if (!t->services[i] || !*t->services[i]) return malformed(fmt::format("{}: service {} has no id", where, i + 1));
  return {};
}

}  // namespace

const fettle_abi_tag& host_abi() { return detail::abi_tag; }

Status check_abi(const fettle_abi_tag& theirs) {
  const fettle_abi_tag& ours = host_abi();
  if (theirs.magic != ours.magic)
    return {
        Code::unsupported,
        fmt::format("its table begins with {:#010x}, expected {:#010x}: the entry function returns something that is "
                    "not a plugin table; export it with FETTLE_PLUGIN(...) and rebuild",
                    theirs.magic, ours.magic)};
  if (theirs.major != ours.major)
    return {Code::unsupported,
            fmt::format("built for plugin interface {}.{}, this host offers {}.{}: another major; rebuild "
                        "the plugin with the SDK of this host, or use a host of version {}.x",
                        theirs.major, theirs.minor, ours.major, ours.minor, theirs.major)};
  if (theirs.minor != ours.minor)
    return {Code::unsupported,
            fmt::format("built for plugin interface {}.{}, this host offers {}.{}: before 1.0 the minor "
                        "must be equal too; rebuild the plugin with the SDK of this host",
                        theirs.major, theirs.minor, ours.major, ours.minor)};
  struct Size {
    const char* name;
    std::uint32_t fettle_abi_tag::*member;
  };
  static constexpr std::array<Size, 9> sizes{{{"fettle_abi_tag", &fettle_abi_tag::tag_size},
                                              {"fettle_error", &fettle_abi_tag::size_error},
                                              {"fettle_value", &fettle_abi_tag::size_value},
                                              {"fettle_param", &fettle_abi_tag::size_param},
                                              {"fettle_port", &fettle_abi_tag::size_port},
                                              {"fettle_technique", &fettle_abi_tag::size_technique},
                                              {"fettle_host", &fettle_abi_tag::size_host},
                                              {"fettle_run", &fettle_abi_tag::size_run},
                                              {"fettle_estimate", &fettle_abi_tag::size_estimate}}};
  for (const Size& s : sizes)
    if (theirs.*s.member != ours.*s.member)
      return {Code::unsupported,
              fmt::format(
                  "built for plugin interface {}.{} with {} of {} bytes, this host's {}.{} has {}: a changed copy of "
                  "abi.h or packed structs; rebuild the plugin with the SDK of this host",
                  theirs.major, theirs.minor, s.name, theirs.*s.member, ours.major, ours.minor, ours.*s.member)};
  if (theirs.pointer_bits != ours.pointer_bits || theirs.little_endian != ours.little_endian)
    return {Code::unsupported,
            fmt::format("built for plugin interface {}.{} with {}-bit {}-endian pointers, this host's {}.{} "
                        "has {}-bit little-endian ones; rebuild the plugin for x86-64",
                        theirs.major, theirs.minor, theirs.pointer_bits, theirs.little_endian ? "little" : "big",
                        ours.major, ours.minor, ours.pointer_bits)};
  return {};
}

Status check_library(const fettle_library& library) {
  if (library.struct_size != sizeof(fettle_library))
    return malformed(
        fmt::format("its table says it has {} bytes, expected {}", library.struct_size, sizeof(fettle_library)));
  if (!library.name || !library.version || !library.vendor || !library.licence)
    return malformed("its table lacks a name, version, vendor or licence");
  if (library.technique_count == 0 || library.technique_count > max_entries || !library.techniques)
    return malformed(fmt::format("its table offers {} techniques, expected 1 to 10,000", library.technique_count));
  std::set<std::string_view> ids;
  for (std::uint32_t i = 0; i < library.technique_count; ++i) {
    FETTLE_TRY(check_technique(i, library.techniques[i]));
    if (!ids.insert(library.techniques[i]->id).second)
      return malformed(fmt::format("two of its techniques have the id '{}'", library.techniques[i]->id));
  }
  return {};
}

}  // namespace fettle::host
