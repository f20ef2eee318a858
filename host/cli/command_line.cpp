// SPDX-License-Identifier: Apache-2.0
#include "host/cli/command_line.h"

#include "host/cli/verbs.h"
#include "host/log/log.h"
#include "host/pipeline/node.h"
#include "host/pipeline/scalar.h"
#include "host/pipeline/source.h"

#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <memory>

namespace fettle::host {
namespace {

constexpr const char* program_help =
    "Fettle shrinks language models: it prunes, distils and quantizes them as a pipeline written in YAML.";

/// The verb's name as typed: "fettle run"; "fettle" without one.
std::string called(const CLI::App& program) {
  std::string name = "fettle";
  for (const CLI::App* app = &program; !app->get_subcommands().empty();) {
    app = app->get_subcommands().front();
    name += " " + app->get_name();
  }
  return name;
}

const CLI::App& innermost(const CLI::App& program) {
  const CLI::App* app = &program;
  while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
  return *app;
}

int usage_error(const CLI::App& program, const std::string& message) {
  const std::string name = called(program);
  std::fprintf(stderr, "%s: %s\nhint: '%s --help' shows what it takes\n", name.c_str(), message.c_str(), name.c_str());
  return exit_usage;
}

/// What CLI11 could not place: an unknown verb, option or one argument too many.
std::string about_extra(const CLI::App& program, const std::string& extra) {
  const CLI::App& app = innermost(program);
  std::vector<std::string> candidates;
  const bool option = extra.size() > 1 && extra[0] == '-';
  std::string word = extra;
  if (option) {
    word = extra.substr(0, extra.find('='));
    for (const CLI::Option* o : app.get_options())
      for (const std::string& name : o->get_lnames()) candidates.push_back("--" + name);
  } else {
    for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; }))
      if (!verb->get_name().empty() && !verb->get_group().empty()) candidates.push_back(verb->get_name());
  }
  const bool verb = !option && !candidates.empty();
  const std::string near = nearest(word, candidates);
  return fmt::format("{} '{}'{}",
                     option ? "unknown option"
                     : verb ? "unknown verb"
                            : "unexpected argument",
                     word, near.empty() ? "" : fmt::format("; did you mean '{}'?", near));
}

/// CLI11's sentence about an option's value in our words: lower case, without its line breaks.
std::string about_error(const CLI::ParseError& error) {
  std::string text = printable(error.what());
  if (!text.empty() && text[0] >= 'A' && text[0] <= 'Z' && !(text.size() > 1 && text[1] >= 'A' && text[1] <= 'Z'))
    text[0] = static_cast<char>(text[0] - 'A' + 'a');
  return text;
}

int print_error = 0;  ///< errno of the last print() that failed

void restore_streams_and_signals() { std::signal(SIGPIPE, SIG_IGN); }  // a closed pipe is an error of print()

}  // namespace

void add_common_options(CLI::App& verb, Options& options) {
  verb.add_flag("-q,--quiet", options.quiet, "Say nothing but errors and the result");
  verb.add_flag("-v,--verbose", options.verbose, "Say more");
  static const std::map<std::string, ColorMode> modes{
      {"auto", ColorMode::automatic}, {"always", ColorMode::always}, {"never", ColorMode::never}};
  verb.add_option_function<std::string>(
          "--color", [&options](const std::string& text) { options.color = modes.at(text); },
          "Color: auto (on a terminal, unless NO_COLOR is set), always or never")
      ->check(one_of_words({"auto", "always", "never"}))
      ->type_name("WHEN");
}

void add_json_option(CLI::App& verb, Options& options) {
  verb.add_flag("--json", options.json, "Print the result as JSON");
}

void add_plugin_options(CLI::App& verb, Options& options) {
  verb.add_option("--plugin-dir", options.plugin_dirs,
                  "Look for plugins here first; may be repeated. Then come FETTLE_PLUGIN_PATH and the program's own")
      ->type_name("DIR")
      ->allow_extra_args(false);
}

void add_store_option(CLI::App& verb, Options& options) {
  verb.add_option("--store", options.store, "Where finished steps are kept (default: .fettle beside the pipeline)")
      ->type_name("DIR");
}

void add_pipeline_options(CLI::App& verb, Options& options) {
  verb.add_option("--set", options.sets, "Override: vars.NAME=VALUE or steps.NAME.with.PARAM=VALUE; may be repeated")
      ->type_name("PATH=VALUE")
      ->allow_extra_args(false);
  verb.add_option("--profile", options.profiles, "Apply a profile of the pipeline; may be repeated")
      ->type_name("NAME")
      ->allow_extra_args(false);
}

void add_machine_options(CLI::App& verb, Options& options) {
  verb.add_option("-j,--jobs", options.jobs, "Cores for all steps together (default: all)")
      ->check(whole_number(1, 65536))
      ->type_name("N");
  verb.add_option_function<std::string>(
          "--memory",
          [&options](const std::string& text) {
            Node node;
            node.kind = Node::Kind::scalar;
            node.text = text;
            const auto size = read_scalar(node, FETTLE_TYPE_SIZE);
            if (!size || size->integer <= 0)
              throw CLI::ValidationError("--memory",
                                         fmt::format("found '{}', expected a size with its unit, such as 24GiB", text));
            options.memory = static_cast<std::uint64_t>(size->integer);
          },
          "Memory for all steps together (default: 80 % of the machine's)")
      ->type_name("SIZE");
}

CLI::Validator whole_number(std::int64_t min, std::int64_t max) {
  return CLI::Validator(
      [min, max](std::string& text) -> std::string {
        std::int64_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error == std::errc() && end == text.data() + text.size() && value >= min && value <= max) return {};
        return fmt::format("found '{}', expected a whole number from {} to {}", text,
                           grouped(static_cast<std::uint64_t>(min)), grouped(static_cast<std::uint64_t>(max)));
      },
      "");
}

CLI::Validator number(double min, double max) {
  return CLI::Validator(
      [min, max](std::string& text) -> std::string {
        double value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error == std::errc() && end == text.data() + text.size() && value >= min && value <= max) return {};
        return fmt::format("found '{}', expected a number from {} to {}", text, min, max);
      },
      "");
}

CLI::Validator one_of_words(std::vector<std::string> words) {
  return CLI::Validator(
      [words = std::move(words)](std::string& text) -> std::string {
        std::string listed;
        for (std::size_t i = 0; i < words.size(); ++i) {
          if (text == words[i]) return {};
          listed += (i == 0 ? "" : i + 1 == words.size() ? " or " : ", ") + words[i];
        }
        return fmt::format("found '{}', expected {}", text, listed);
      },
      "");
}

Registry load_plugins(const Options& options, bool warn) {
  Registry registry = Registry::discover({options.plugin_dirs, ""});
  if (warn)
    for (const Refusal& r : registry.refusals())
      log(LogLevel::warning, fmt::format("plugin '{}' is refused: {}", r.path, r.reason));
  return registry;
}

int fail(ExitCode code, std::string_view message) {
  log(LogLevel::error, message);
  return code;
}

int fail(const Status& status) {
  return fail(status.code() == Code::not_found ? exit_input_missing : exit_step_failed, status.message());
}

bool print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) return true;
  print_error = errno;
  return false;
}

void print_json(const nlohmann::ordered_json& document) {
  print(document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

int run_command_line(int argc, const char* const* argv) {
  restore_streams_and_signals();
  Options options;
  Action action;
  CLI::App program(program_help, "fettle");
  program.set_version_flag("--version", fmt::format("fettle {} (plugin interface {}.{})", FETTLE_VERSION,
                                                    FETTLE_ABI_MAJOR, FETTLE_ABI_MINOR));
  program.set_help_flag("-h,--help", "Show this help");
  program.footer(
      "Example:\n  fettle run pipelines/quickstart.yaml\n\n"
      "'fettle VERB --help' explains a verb. stdout is the result, stderr the talk. Exit codes: 0 done,\n"
      "2 usage, 3 gate failed, 4 pipeline invalid, 5 does not fit, 6 lock would change, 7 a step failed,\n"
      "8 not reproducible, 10 store damaged, 12 input missing, 130 interrupted.");
  program.get_formatter()->column_width(34);
  program.allow_extras();
  add_run_verb(program, options, action);
  add_plan_verb(program, options, action);
  add_check_verb(program, options, action);
  add_describe_verb(program, options, action);
  add_plugins_verb(program, options, action);
  add_inspect_verb(program, options, action);
  add_graph_verb(program, options, action);
  add_report_verb(program, options, action);
  add_schema_verb(program, options, action);
  add_generate_verb(program, options, action);
  add_eval_verb(program, options, action);
  add_store_verb(program, options, action);
  add_worker_verb(program, options, action);
  program.require_subcommand(0, 1);

  try {
    program.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    const std::string name = called(program);
    const std::size_t last = name.rfind(' ');
    print(innermost(program).help(last == std::string::npos ? "" : name.substr(0, last)));
    return exit_done;
  } catch (const CLI::CallForVersion& version) {
    print(std::string(version.what()) + "\n");
    return exit_done;
  } catch (const CLI::ParseError& error) {
    return usage_error(program, about_error(error));
  }
  if (const std::vector<std::string> extras = program.remaining(true); !extras.empty())
    return usage_error(program, about_extra(program, extras.front()));
  if (!action) {
    if (!program.get_subcommands().empty()) return usage_error(program, "a verb is missing");
    print(program.help());
    return exit_usage;
  }
  set_up_log(options.quiet ? LogLevel::error : options.verbose ? LogLevel::debug : LogLevel::info, options.color);
  try {
    const int code = action();
    if (code == exit_done && print_error != 0 && print_error != EPIPE)  // a reader that has gone has read enough
      return fail(exit_step_failed, fmt::format("the result cannot be printed: {}", std::strerror(print_error)));
    return code;
  } catch (const std::bad_alloc&) {
    return fail(exit_step_failed, "out of memory");
  } catch (const std::exception& e) {
    return fail(exit_step_failed, fmt::format("unexpected: {}; please report this", e.what()));
  }
}

}  // namespace fettle::host
