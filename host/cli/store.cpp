// SPDX-License-Identifier: Apache-2.0
#include "host/store/store.h"

#include "fettle_kit/io/message.h"

#include "host/cli/verbs.h"
#include "host/report/quantity.h"

#include <CLI/Formatter.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <memory>
#include <optional>

namespace fettle::host {
namespace {

using Json = nlohmann::ordered_json;

struct Request {
  std::optional<int> older_than_days;
  bool dry_run = false;
  std::string key;
  std::string port;
};

/// An existing store: looking at one must not make one.
Result<Store> open_store(const Options& options) {
  const std::string root = options.store.empty() ? ".fettle" : options.store;
  std::error_code failed;
  if (!std::filesystem::is_directory(root, failed))
    return Status{Code::not_found, fmt::format("no store at '{}'; name it with --store DIR", root)};
  return Store::open(root);
}

int summary(const Options& options) {
  const Result<Store> store = open_store(options);
  if (!store) return fail(store.error());
  const Result<Store::Summary> s = store->summary();
  if (!s) return fail(exit_store_damaged, s.error().message());
  if (options.json)
    print_json({{"root", store->root()},
                {"records", s->records},
                {"objects", s->objects},
                {"bytes", s->bytes},
                {"garbage_bytes", s->garbage_bytes}});
  else
    print(fmt::format("{}\n  {} finished steps\n  {} files, {}\n  {} of them garbage ('fettle store gc' removes it)\n",
                      store->root(), kit::grouped(s->records), kit::grouped(s->objects), show_bytes(s->bytes),
                      show_bytes(s->garbage_bytes)));
  return exit_done;
}

int verify(const Options& options) {
  const Result<Store> store = open_store(options);
  if (!store) return fail(store.error());
  const Result<std::vector<Store::Problem>> problems = store->verify();
  if (!problems) return fail(exit_store_damaged, problems.error().message());
  Json list = Json::array();
  std::string text;
  for (const Store::Problem& p : *problems) {
    list.push_back({{"path", p.path}, {"what", p.what}});
    text += fmt::format("{}: {}\n", p.path, p.what);
  }
  if (options.json)
    print_json({{"sound", problems->empty()}, {"problems", list}});
  else
    print(problems->empty() ? "sound: every file has the content its name says\n" : text);
  return problems->empty() ? exit_done : exit_store_damaged;
}

int collect(const Options& options, const Request& request) {
  const Result<Store> store = open_store(options);
  if (!store) return fail(store.error());
  const Result<std::uint64_t> freed = store->collect(request.older_than_days, request.dry_run);
  if (!freed) return fail(exit_store_damaged, freed.error().message());
  if (options.json)
    print_json({{"freed_bytes", *freed}, {"dry_run", request.dry_run}});
  else
    print(fmt::format("{} {}\n", show_bytes(*freed), request.dry_run ? "would be freed" : "freed"));
  return exit_done;
}

int path(const Options& options, const Request& request) {
  const Result<Store> store = open_store(options);
  if (!store) return fail(store.error());
  const std::optional<Record> record = store->find(request.key);
  if (!record) return fail(exit_input_missing, fmt::format("no finished step has the key '{}'", request.key));
  Json all = Json::object();
  std::string text;
  for (const auto& [port, artifact] : record->outputs) {
    if (!request.port.empty() && port != request.port) continue;
    const Result<std::string> folder = store->path_of(artifact);
    if (!folder) return fail(exit_store_damaged, folder.error().message());
    all[port] = *folder;
    text += *folder + "\n";
  }
  if (text.empty() && !request.port.empty())
    return fail(exit_usage, fmt::format("the step '{}' has no output '{}'", record->technique, request.port));
  if (options.json)
    print_json(all);
  else
    print(text);
  return exit_done;
}

}  // namespace

void add_store_verb(CLI::App& program, Options& options, Action& action) {
  CLI::App* verb = program.add_subcommand("store", "Look after the folder that keeps finished steps");
  verb->footer("Example:\n  fettle store gc --store pipelines/.fettle --older-than 30 --dry-run");
  const auto request = std::make_shared<Request>();
  verb->require_subcommand(0, 1);
  const auto add = [&](const char* name, const char* help, const char* example, std::function<int()> work) {
    CLI::App* sub = verb->add_subcommand(name, help);
    sub->footer(std::string("Example:\n  ") + example);
    sub->add_option("--store", options.store, "The store's folder (default: .fettle)")->type_name("DIR");
    add_json_option(*sub, options);
    add_common_options(*sub, options);
    sub->callback([&action, work = std::move(work)] { action = work; });
    return sub;
  };
  add("summary", "How much it holds", "fettle store summary --store pipelines/.fettle",
      [&options] { return summary(options); });
  add("verify", "Read every file again and compare it with its name", "fettle store verify --store pipelines/.fettle",
      [&options] { return verify(options); });
  CLI::App* gc = add("gc", "Remove what no finished step needs",
                     "fettle store gc --store pipelines/.fettle --older-than 30 --dry-run",
                     [&options, request] { return collect(options, *request); });
  gc->add_option("--older-than", request->older_than_days, "Also forget steps not used for this many days")
      ->check(whole_number(0, 100000))
      ->type_name("DAYS");
  gc->add_flag("--dry-run", request->dry_run, "Only say how much would be freed");
  CLI::App* where = add("path", "Print the folders of a finished step's outputs",
                        "fettle store path KEY --store pipelines/.fettle  (the keys are in the record of a run)",
                        [&options, request] { return path(options, *request); });
  where->add_option("key", request->key, "The step's key, as 'fettle plan --json' prints it")
      ->required()
      ->type_name("KEY");
  where->add_option("--port", request->port, "Only this output")->type_name("PORT");
}

}  // namespace fettle::host
