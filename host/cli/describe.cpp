// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/output_file.h"

#include "host/cli/verbs.h"
#include "host/log/log.h"
#include "host/pipeline/keys.h"
#include "host/report/table.h"
#include "host/report/technique_page.h"

#include <CLI/Formatter.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <memory>

namespace fettle::host {
namespace {

struct Request {
  std::string id;
  bool all = false;
  std::string markdown;
};

int write_pages(const std::vector<const Technique*>& techniques, const std::string& folder) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed) return fail(exit_step_failed, fmt::format("folder '{}' cannot be made: {}", folder, failed.message()));
  for (const Technique* t : techniques)
    if (const Status s = kit::write_text_file(fmt::format("{}/{}.md", folder, t->id()), technique_markdown(*t));
        !s.ok())
      return fail(s);
  if (const Status s = kit::write_text_file(folder + "/README.md", techniques_markdown(techniques)); !s.ok())
    return fail(s);
  log(LogLevel::info, fmt::format("{} pages written to '{}'", techniques.size(), folder));
  return exit_done;
}

int describe(const Options& options, const Request& request) {
  const Registry registry = load_plugins(options);
  std::vector<const Technique*> chosen;
  if (!request.id.empty()) {
    const Technique* found = registry.find(request.id);
    if (!found) {
      std::vector<std::string> ids;
      for (const Technique* t : registry.techniques()) ids.emplace_back(t->id());
      return fail(exit_usage, fmt::format("unknown technique '{}'{}; 'fettle plugins' lists what there is", request.id,
                                          did_you_mean(request.id, ids)));
    }
    chosen.push_back(found);
  } else {
    chosen = registry.techniques();
  }
  if (!request.markdown.empty()) return write_pages(chosen, request.markdown);
  if (options.json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const Technique* t : chosen) list.push_back(technique_json(*t));
    print_json(request.id.empty() ? list : list[0]);
    return exit_done;
  }
  std::string text;
  for (const Technique* t : chosen) text += (text.empty() ? "" : "\n\n") + technique_text(*t);
  print(text);
  return exit_done;
}

}  // namespace

void add_describe_verb(CLI::App& program, Options& options, Action& action) {
  CLI::App* verb = program.add_subcommand("describe", "Explain a technique: ports, parameters, an example");
  verb->footer(
      "Examples:\n  fettle describe prune.magnitude\n  fettle describe --all --markdown docs/reference/techniques");
  const auto request = std::make_shared<Request>();
  CLI::Option* id = verb->add_option("technique", request->id, "Its id")->type_name("ID");
  CLI::Option* all = verb->add_flag("--all", request->all, "Every technique that was found");
  id->excludes(all);
  verb->add_option("--markdown", request->markdown, "Write one reference page a technique into this folder")
      ->type_name("DIR");
  add_plugin_options(*verb, options);
  add_json_option(*verb, options);
  add_common_options(*verb, options);
  verb->callback([&, request] {
    if (request->id.empty() && !request->all) throw CLI::ValidationError("name a technique, or write --all");
    action = [&options, request] { return describe(options, *request); };
  });
}

}  // namespace fettle::host
