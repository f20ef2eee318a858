// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/run/executor.h"

#include <functional>
#include <string>

namespace fettle::host {

/// A step's job as JSON, for the process that runs it; `technique` comes back by plugin path, plugin digest and id.
std::string write_request(const StepJob& job);

/// Finds the technique `id` of the plugin file `path`, whose digest must be `digest`.
using TechniqueFinder =
    std::function<Result<const Technique*>(const std::string& path, const std::string& digest, const std::string& id)>;
/// Loads the plugin.
Result<const Technique*> load_technique(const std::string& path, const std::string& digest, const std::string& id);

/// Body of the hidden verb `fettle worker REQUEST EVENTS`: runs the job in the file REQUEST, a step of another fettle,
/// and writes what happens to the file descriptor EVENTS, one JSON object a line, the last one with the outcome.
/// SIGTERM cancels. Returns the exit code: 0 also when the step failed, because then the last event says how.
int worker_main(const std::string& request, const std::string& events, const TechniqueFinder& find = load_technique);

}  // namespace fettle::host
