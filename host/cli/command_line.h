// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include "host/cli/exit_code.h"
#include "host/log/terminal.h"
#include "host/plugin/registry.h"

#include <CLI/App.hpp>
#include <CLI/Validators.hpp>
#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::host {

/// Options that several verbs share, in one place so that they are spelt and explained alike.
struct Options {
  std::vector<std::string> plugin_dirs;
  std::string store;  ///< "": .fettle beside the pipeline, or in the current folder
  bool json = false;
  bool quiet = false;
  bool verbose = false;
  ColorMode color = ColorMode::automatic;
  std::vector<std::string> sets, profiles;
  unsigned jobs = 0;
  std::uint64_t memory = 0;
};

/// A verb puts its work here when it is the one that was called; the value is the exit code.
using Action = std::function<int()>;

// Each adds some of the shared options to a verb.
void add_common_options(CLI::App& verb, Options& options);    ///< --quiet --verbose --color
void add_json_option(CLI::App& verb, Options& options);       ///< --json
void add_plugin_options(CLI::App& verb, Options& options);    ///< --plugin-dir
void add_store_option(CLI::App& verb, Options& options);      ///< --store
void add_pipeline_options(CLI::App& verb, Options& options);  ///< --set --profile
void add_machine_options(CLI::App& verb, Options& options);   ///< --jobs --memory

// What a value must be; the message says what was found.
CLI::Validator whole_number(std::int64_t min, std::int64_t max);
CLI::Validator number(double min, double max);
CLI::Validator one_of_words(std::vector<std::string> words);

/// The plugins of the search path. Refusals are warned of, unless the verb shows them itself.
Registry load_plugins(const Options& options, bool warn = true);

/// Prints "error: ..." and returns the code.
int fail(ExitCode code, std::string_view message);
/// The same with the exit code that fits a reader's error: not found is 12, everything else 7.
int fail(const Status& status);

/// A JSON document to stdout; text from files that is not UTF-8 is replaced.
void print_json(const nlohmann::ordered_json& document);
/// Writes to stdout; false if that failed (a closed pipe).
bool print(std::string_view text);

/// The program: parses, runs the verb, returns the exit code.
int run_command_line(int argc, const char* const* argv);

}  // namespace fettle::host
