// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/cli/command_line.h"

namespace fettle::host {

// One file a verb. Each declares its options and, once called, sets the action.
void add_run_verb(CLI::App& program, Options& options, Action& action);
void add_plan_verb(CLI::App& program, Options& options, Action& action);
void add_check_verb(CLI::App& program, Options& options, Action& action);
void add_describe_verb(CLI::App& program, Options& options, Action& action);
void add_plugins_verb(CLI::App& program, Options& options, Action& action);
void add_inspect_verb(CLI::App& program, Options& options, Action& action);
void add_graph_verb(CLI::App& program, Options& options, Action& action);
void add_report_verb(CLI::App& program, Options& options, Action& action);
void add_schema_verb(CLI::App& program, Options& options, Action& action);
void add_generate_verb(CLI::App& program, Options& options, Action& action);
void add_eval_verb(CLI::App& program, Options& options, Action& action);
void add_store_verb(CLI::App& program, Options& options, Action& action);
void add_worker_verb(CLI::App& program, Options& options, Action& action);  ///< hidden

}  // namespace fettle::host
