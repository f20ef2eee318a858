// SPDX-License-Identifier: Apache-2.0
#include "host/plan/plan.h"

#include "host/cli/pipeline_file.h"
#include "host/cli/verbs.h"
#include "host/report/quantity.h"
#include "host/report/table.h"

#include <CLI/Formatter.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <memory>

namespace fettle::host {
namespace {

using Json = nlohmann::ordered_json;

const char* name_of(CacheState state) {
  return state == CacheState::hit ? "hit" : state == CacheState::miss ? "miss" : "unknown";
}

/// What is foretold of the steps that have to run.
struct Totals {
  std::size_t hits = 0;
  std::uint64_t largest_memory = 0, disk = 0;
  double flops = 0;
};

Totals totals_of(const Plan& plan) {
  Totals t;
  for (const PlannedStep& s : plan.steps) {
    if (s.cache == CacheState::hit) {
      ++t.hits;
      continue;
    }
    t.largest_memory = std::max(t.largest_memory, s.estimate.memory_bytes);
    t.disk += s.estimate.disk_bytes;
    t.flops += s.estimate.flops;
  }
  return t;
}

Json to_json(const Plan& plan, const Diagnostics& findings) {
  const Totals totals = totals_of(plan);
  Json steps = Json::array(), outputs = Json::array();
  for (const PlannedStep& s : plan.steps) {
    Json feeds = Json::array(), waits = Json::array();
    for (const Feed& f : s.feeds)
      feeds.push_back({{"port", f.port},
                       {"from", f.step ? plan.steps[*f.step].step->name : plan.inputs[*f.input].input->name},
                       {"output", f.output}});
    for (const std::size_t w : s.waits_for) waits.push_back(plan.steps[w].step->name);
    steps.push_back({{"name", s.step->name},
                     {"technique", std::string(s.technique->id())},
                     {"cache", name_of(s.cache)},
                     {"key", s.key},
                     {"feeds", feeds},
                     {"waits_for", waits},
                     {"memory_bytes", s.estimate.memory_bytes},
                     {"disk_bytes", s.estimate.disk_bytes},
                     {"flops", s.estimate.flops},
                     {"max_threads", s.estimate.max_threads}});
  }
  for (const PlannedOutput& o : plan.outputs)
    outputs.push_back(
        {{"name", o.output->name}, {"step", plan.steps[o.step].step->name}, {"port", o.port}, {"path", o.path}});
  return {{"pipeline", plan.pipeline->name},
          {"steps", steps},
          {"outputs", outputs},
          {"totals",
           {{"steps", plan.steps.size()},
            {"hits", totals.hits},
            {"largest_memory_bytes", totals.largest_memory},
            {"disk_bytes", totals.disk},
            {"flops", totals.flops}}},
          {"findings", findings_json(findings)}};
}

std::string to_text(const Plan& plan) {
  const auto bytes = [](std::uint64_t n) { return n == 0 ? std::string("-") : show_bytes(n); };
  Table table({"step", "technique", "cache", "key", "memory>", "disk>", "work>"});
  for (const PlannedStep& s : plan.steps) {
    const bool hit = s.cache == CacheState::hit;
    table.add({s.step->name, std::string(s.technique->id()), name_of(s.cache),
               s.key.empty() ? "-" : s.key.substr(0, 12), hit ? "-" : bytes(s.estimate.memory_bytes),
               hit ? "-" : bytes(s.estimate.disk_bytes),
               hit || s.estimate.flops == 0 ? "-" : show_count(s.estimate.flops, "FLOP")});
  }
  const Totals totals = totals_of(plan);
  std::string text = table.text();
  text += fmt::format("\n{} of {} steps are in the store", totals.hits, plan.steps.size());
  if (totals.hits < plan.steps.size())
    text += fmt::format("; the others need up to {} of memory each, {} of disk and {}",
                        show_bytes(totals.largest_memory), show_bytes(totals.disk), show_count(totals.flops, "FLOP"));
  text += "\n";
  for (const PlannedOutput& o : plan.outputs)
    text += fmt::format("output '{}' of {} -> {}\n", o.output->name, plan.steps[o.step].step->name, o.path);
  return text;
}

int plan(const Options& options, const std::string& file) {
  Prepared prepared;
  const int code = prepare(file, options, StoreUse::make, prepared);
  if (code != exit_done) {
    if (options.json) print_json({{"findings", findings_json(prepared.findings)}});
    return code;
  }
  if (options.json)
    print_json(to_json(prepared.plan, prepared.findings));
  else
    print(to_text(prepared.plan));
  return exit_done;
}

}  // namespace

void add_plan_verb(CLI::App& program, Options& options, Action& action) {
  CLI::App* verb =
      program.add_subcommand("plan", "Show what a run would do: order, what is cached, memory, disk, work");
  verb->footer("Example:\n  fettle plan pipelines/quickstart.yaml --json");
  const auto file = std::make_shared<std::string>();
  verb->add_option("pipeline", *file, "The YAML file")->required()->type_name("FILE");
  add_pipeline_options(*verb, options);
  add_machine_options(*verb, options);
  add_store_option(*verb, options);
  add_plugin_options(*verb, options);
  add_json_option(*verb, options);
  add_common_options(*verb, options);
  verb->callback([&, file] { action = [&options, file] { return plan(options, *file); }; });
}

}  // namespace fettle::host
