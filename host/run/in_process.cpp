// SPDX-License-Identifier: Apache-2.0
#include "fettle/abi.h"

#include "host/run/executor.h"
#include "host/run/machine.h"

#include <cmath>
#include <cstring>
#include <new>

namespace fettle::host {
namespace {

StepListener& listener_of(const fettle_host* host) { return *static_cast<StepListener*>(host->self); }

// A plugin in C may pass NULL where it has nothing to say.
std::string text_of(const char* text) { return text ? text : ""; }

// No exception may enter a plugin, which may be C: when memory runs out, what it said is lost and nothing else.
template <class Body>
void guarded(const Body& body) noexcept {
  try {
    body();
  } catch (...) {
  }
}

void host_log(const fettle_host* host, std::int32_t level, const char* message) {
  guarded([&] { listener_of(host).log(level, text_of(message)); });
}
void host_progress(const fettle_host* host, const char* phase, std::uint64_t done, std::uint64_t total) {
  guarded([&] { listener_of(host).progress(text_of(phase), done, total); });
}
std::int32_t host_cancelled(const fettle_host* host) { return listener_of(host).cancelled() ? 1 : 0; }

void metrics_scalar(const fettle_host* host, const char* name, double value, double standard_error, const char* unit) {
  guarded([&] {
    Metric metric{value, std::nullopt, text_of(unit)};
    if (!std::isnan(standard_error)) metric.standard_error = standard_error;
    listener_of(host).metric(text_of(name), metric);
  });
}
void metrics_point(const fettle_host* host, const char* name, double x, double y) {
  guarded([&] { listener_of(host).point(text_of(name), x, y); });
}

const void* host_service(const fettle_host*, const char* id) {
  static constexpr fettle_metrics metrics{sizeof(fettle_metrics), 0, metrics_scalar, metrics_point};
  return id && std::strcmp(id, FETTLE_SERVICE_METRICS) == 0 ? &metrics : nullptr;
}

class InProcess final : public Executor {
 public:
  Status run(const StepJob& job, StepListener& listener) override {
    const fettle_host host{sizeof(fettle_host), 0, &listener, host_log, host_progress, host_cancelled, host_service};
    std::vector<std::vector<fettle_attribute>> attributes;
    attributes.reserve(job.inputs.size());
    std::vector<fettle_input> inputs;
    for (const StepJob::Input& input : job.inputs) {
      auto& list = attributes.emplace_back();
      for (const auto& [key, value] : input.attributes) list.push_back({key.c_str(), value.c_str()});
      inputs.push_back({input.port.c_str(), input.kind.c_str(), input.path.c_str(), input.digest.c_str(), list.data(),
                        static_cast<std::uint32_t>(list.size()), 0});
    }
    std::vector<fettle_output> outputs;
    for (const auto& [port, path] : job.outputs) outputs.push_back({port.c_str(), path.c_str()});

    fettle_run run{};
    run.struct_size = sizeof run;
    run.threads = job.threads;
    run.host = &host;
    run.params = job.params->c_values();
    run.param_count = static_cast<std::uint32_t>(job.params->values().size());
    run.inputs = inputs.data();
    run.input_count = static_cast<std::uint32_t>(inputs.size());
    run.outputs = outputs.data();
    run.output_count = static_cast<std::uint32_t>(outputs.size());
    run.seed = job.seed;
    run.memory_budget = job.memory_budget;
    run.scratch = job.scratch.c_str();
    run.checkpoint = job.checkpoint.c_str();

    fettle_error error{};
    std::int32_t code = FETTLE_INTERNAL;
    try {
      code = job.technique->table->run(&run, &error);
    } catch (const std::exception& e) {  // of a plugin that does without the SDK's trampoline
      return {Code::internal, std::string("an exception left the plugin: ") + e.what()};
    } catch (...) {
      return {Code::internal, "an exception left the plugin"};
    }
    listener.peak_memory(peak_memory());
    if (code == FETTLE_OK) return {};
    error.where[sizeof error.where - 1] = '\0';
    error.message[sizeof error.message - 1] = '\0';
    if (code < FETTLE_OK || code > FETTLE_INTERNAL)
      return {Code::internal, "the plugin returned " + std::to_string(code) + ", which is not a status"};
    const std::string message = error.message;
    return {static_cast<Code>(code), message.empty() ? "failed without saying why" : message, error.where};
  }
};

}  // namespace

std::unique_ptr<Executor> in_process_executor() { return std::make_unique<InProcess>(); }

}  // namespace fettle::host
