// SPDX-License-Identifier: Apache-2.0
#include "host/cli/verbs.h"
#include "host/report/table.h"

#include <CLI/Formatter.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace fettle::host {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::string> ids_of(const Plugin& plugin) {
  std::vector<std::string> ids;
  for (std::uint32_t i = 0; i < plugin.library->technique_count; ++i)
    ids.emplace_back(plugin.library->techniques[i]->id);
  return ids;
}

Json to_json(const Registry& registry) {
  Json plugins = Json::array(), refusals = Json::array();
  for (const Plugin& p : registry.plugins())
    plugins.push_back({{"name", p.library->name},
                       {"version", p.library->version},
                       {"vendor", p.library->vendor},
                       {"licence", p.library->licence},
                       {"path", p.path},
                       {"digest", p.digest},
                       {"techniques", ids_of(p)}});
  for (const Refusal& r : registry.refusals()) refusals.push_back({{"path", r.path}, {"reason", r.reason}});
  return {{"search_path", registry.search_path()}, {"plugins", plugins}, {"refused", refusals}};
}

int list_plugins(const Options& options) {
  const Registry registry = load_plugins(options, false);
  if (options.json) {
    print_json(to_json(registry));
    return exit_done;
  }
  Table table({"technique", "version", "plugin", "what it does"});
  for (const Technique* t : registry.techniques())
    table.add({std::string(t->id()), t->table->version, t->plugin->library->name, t->table->help});
  const Terminal out = terminal_of(1, options.color);
  std::string text = table.empty() ? "no techniques found\n"
                                   : table.text(0, out.interactive ? static_cast<std::size_t>(out.width) : 0);
  text += "\nlooked in:\n";
  for (const std::string& directory : registry.search_path()) text += "  " + directory + "\n";
  if (!registry.refusals().empty()) text += "\nrefused:\n";
  for (const Refusal& r : registry.refusals()) text += fmt::format("  {}\n    {}\n", r.path, printable(r.reason));
  if (options.verbose) {
    text += "\nfiles:\n";
    for (const Plugin& p : registry.plugins()) text += fmt::format("  {}\n    {}\n", p.path, p.digest);
  }
  print(text);
  return exit_done;
}

}  // namespace

void add_plugins_verb(CLI::App& program, Options& options, Action& action) {
  CLI::App* verb =
      program.add_subcommand("plugins", "List the techniques that were found, where, and what was refused");
  verb->footer("Example:\n  fettle plugins --plugin-dir ./my-plugins");
  add_plugin_options(*verb, options);
  add_json_option(*verb, options);
  add_common_options(*verb, options);
  verb->callback([&] { action = [&options] { return list_plugins(options); }; });
}

}  // namespace fettle::host
