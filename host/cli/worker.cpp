// SPDX-License-Identifier: Apache-2.0
#include "host/run/worker.h"

#include "host/cli/verbs.h"

#include <memory>
#include <utility>

namespace fettle::host {

void add_worker_verb(CLI::App& program, Options&, Action& action) {
  CLI::App* verb = program.add_subcommand("worker", "Run one step of another fettle, which starts this itself");
  verb->footer("Example:\n  fettle worker request.json 3");
  verb->group("");  // not listed
  const auto arguments = std::make_shared<std::pair<std::string, std::string>>();
  verb->add_option("request", arguments->first, "A file with the step's job")->required()->type_name("FILE");
  verb->add_option("events", arguments->second, "The file descriptor for what happens")->required()->type_name("FD");
  verb->callback([&, arguments] { action = [arguments] { return worker_main(arguments->first, arguments->second); }; });
}

}  // namespace fettle::host
