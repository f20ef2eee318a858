// SPDX-License-Identifier: Apache-2.0
#include "plugins/harness.h"

#include "fettle/plugin.h"

#include <dlfcn.h>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <mutex>
#include <stdexcept>

namespace fettle::test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

const fettle_technique* load(const std::string& plugin, const std::string& id) {
  const std::string path = std::string(FETTLE_TEST_BINARY_DIR) + "/plugins/" + plugin + ".so";
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw std::runtime_error(dlerror());
  const auto entry = reinterpret_cast<fettle_entry_fn>(dlsym(handle, FETTLE_ENTRY_SYMBOL));
  if (!entry) throw std::runtime_error(path + " does not export " FETTLE_ENTRY_SYMBOL);
  fettle_error error{};
  const fettle_library* library = entry(&fettle::detail::abi_tag, &error);
  if (!library) throw std::runtime_error(path + ": " + error.message);
  for (std::uint32_t i = 0; i < library->technique_count; ++i)
    if (id == library->techniques[i]->id) return library->techniques[i];
  throw std::runtime_error(path + " has no technique '" + id + "'");
}

/// C values with the storage they point into.
class Values {
 public:
  fettle_value convert(const fettle_param& param, const Json& json) {
    fettle_value value = param.shape == FETTLE_SCALAR ? scalar(param.type, json) : fettle_value{};
    value.type = param.type;
    if (param.shape == FETTLE_SCALAR) return value;
    auto& items = lists_.emplace_back();
    for (const auto& [key, item] : json.items()) {
      items.push_back(scalar(param.type, item));
      if (param.shape == FETTLE_MAP) items.back().key = texts_.emplace_back(key).c_str();
    }
    value.count = static_cast<std::uint32_t>(items.size());
    value.items = items.data();
    return value;
  }

 private:
  fettle_value scalar(std::uint32_t type, const Json& json) {
    fettle_value value{};
    value.type = type;
    switch (type) {
      case FETTLE_TYPE_BOOL:
        value.integer = json.get<bool>();
        break;
      case FETTLE_TYPE_FLOAT:
      case FETTLE_TYPE_DURATION:
        value.real = json.get<double>();
        break;
      case FETTLE_TYPE_STRING:
      case FETTLE_TYPE_PATH:
        value.text = texts_.emplace_back(json.get<std::string>()).c_str();
        break;
      default:
        value.integer = json.get<std::int64_t>();
    }
    return value;
  }

  std::deque<std::string> texts_;
  std::deque<std::vector<fettle_value>> lists_;
};

/// Default texts are YAML flow; what the SDK writes is JSON but for the units of sizes ("5B") and durations ("5s").
Json parse_default(const fettle_param& param) {
  std::string text = param.default_text;
  if (param.shape == FETTLE_SCALAR && (param.type == FETTLE_TYPE_SIZE || param.type == FETTLE_TYPE_DURATION))
    text.pop_back();
  return Json::parse(text);
}

/// The host as the technique sees it.
struct FakeHost {
  fettle_host c{};
  StepResult* result = nullptr;
  std::mutex mutex;
  std::atomic<std::uint64_t> polls{0};
  std::uint64_t cancel_at = 0;

  static FakeHost& of(const fettle_host* host) { return *static_cast<FakeHost*>(host->self); }
  static void log(const fettle_host* host, std::int32_t level, const char* text) {
    const std::lock_guard lock(of(host).mutex);
    of(host).result->log.push_back({level, text});
  }
  static void progress(const fettle_host* host, const char* phase, std::uint64_t done, std::uint64_t total) {
    const std::lock_guard lock(of(host).mutex);
    of(host).result->progress.push_back({phase, done, total});
  }
  static std::int32_t cancelled(const fettle_host* host) {
    const std::uint64_t poll = ++of(host).polls;
    return of(host).cancel_at != 0 && poll >= of(host).cancel_at;
  }
  static void scalar(const fettle_host* host, const char* name, double value, double error, const char* unit) {
    const std::lock_guard lock(of(host).mutex);
    of(host).result->metrics[name] = {value, error, unit ? unit : ""};
  }
  static void point(const fettle_host* host, const char* name, double x, double y) {
    const std::lock_guard lock(of(host).mutex);
    of(host).result->series[name].emplace_back(x, y);
  }
  static const void* service(const fettle_host*, const char* id) {
    static constexpr fettle_metrics metrics{sizeof(fettle_metrics), 0, &scalar, &point};
    return std::string_view(id) == FETTLE_SERVICE_METRICS ? &metrics : nullptr;
  }
};

class FolderKeeper {
 public:
  std::string make() {
    const std::lock_guard lock(mutex_);
    if (root_.empty()) {
      std::string pattern = (fs::temp_directory_path() / "fettle-test-XXXXXX").string();
      if (!mkdtemp(pattern.data())) throw std::runtime_error("cannot make a temporary folder");
      root_ = pattern;
    }
    const fs::path folder = fs::path(root_) / std::to_string(count_++);
    fs::create_directory(folder);
    return folder.string();
  }
  ~FolderKeeper() {
    std::error_code ignored;
    if (!root_.empty()) fs::remove_all(root_, ignored);
  }

 private:
  std::mutex mutex_;
  std::string root_;
  int count_ = 0;
};

}  // namespace

std::string temporary_folder() {
  static FolderKeeper keeper;
  return keeper.make();
}

std::vector<std::string> StepResult::warnings() const {
  std::vector<std::string> texts;
  for (const LogLine& line : log)
    if (line.level == FETTLE_LOG_WARNING) texts.push_back(line.text);
  return texts;
}

Step::Step(const std::string& plugin, const std::string& technique) : technique_(load(plugin, technique)) {}

Step& Step::input(std::string port, std::string kind, std::string path, Attributes attributes, std::string digest) {
  inputs_.push_back({std::move(port), std::move(kind), std::move(path), std::move(digest), std::move(attributes)});
  return *this;
}
Step& Step::param(const std::string& name, Json value) { return params_[name] = std::move(value), *this; }
Step& Step::threads(unsigned count) { return threads_ = count, *this; }
Step& Step::seed(std::uint64_t value) { return seed_ = value, *this; }
Step& Step::memory_budget(std::uint64_t bytes) { return memory_budget_ = bytes, *this; }
Step& Step::checkpoint(std::string folder) { return checkpoint_ = std::move(folder), *this; }
Step& Step::cancel_at_poll(std::uint64_t n) { return cancel_at_ = n, *this; }

StepResult Step::call(const std::function<std::int32_t(fettle_run&, StepResult&, fettle_error&)>& body,
                      bool planning) const {
  StepResult result;

  Values storage;
  std::vector<fettle_value> params;
  auto unused = params_;
  for (std::uint32_t i = 0; i < technique_->param_count; ++i) {
    const fettle_param& param = technique_->params[i];
    if (const auto given = params_.find(param.name); given != params_.end()) {
      params.push_back(storage.convert(param, given->second));
      unused.erase(param.name);
    } else if (param.flags & FETTLE_PARAM_OPTIONAL) {
      params.push_back({});
    } else if (param.flags & FETTLE_PARAM_REQUIRED) {
      throw std::runtime_error(std::string("the test gives no value for parameter '") + param.name + "'");
    } else {
      params.push_back(storage.convert(param, parse_default(param)));
    }
  }
  if (!unused.empty()) throw std::runtime_error("no parameter '" + unused.begin()->first + "'");

  std::deque<std::vector<fettle_attribute>> attributes;
  std::vector<fettle_input> inputs;
  for (std::uint32_t i = 0; i < technique_->input_count; ++i) {
    for (const InputArtifact& artifact : inputs_) {
      if (artifact.port != technique_->inputs[i].name) continue;
      auto& list = attributes.emplace_back();
      for (const auto& [key, value] : artifact.attributes) list.push_back({key.c_str(), value.c_str()});
      inputs.push_back({artifact.port.c_str(), artifact.kind.c_str(), artifact.path.c_str(), artifact.digest.c_str(),
                        list.data(), static_cast<std::uint32_t>(list.size()), 0});
    }
  }

  const std::string scratch = planning ? "" : temporary_folder();
  const std::string checkpoint = planning ? "" : !checkpoint_.empty() ? checkpoint_ : temporary_folder();
  std::vector<fettle_output> outputs;
  if (!planning) {
    for (std::uint32_t i = 0; i < technique_->output_count; ++i) {
      const std::string& folder = result.outputs[technique_->outputs[i].name] = temporary_folder();
      outputs.push_back({technique_->outputs[i].name, folder.c_str()});
    }
  }

  FakeHost host;
  host.c = {sizeof(fettle_host), 0, &host, &FakeHost::log, &FakeHost::progress, &FakeHost::cancelled,
            &FakeHost::service};
  host.result = &result;
  host.cancel_at = cancel_at_;

  fettle_run run{};
  run.struct_size = sizeof run;
  run.threads = threads_;
  run.host = &host.c;
  run.params = params.data();
  run.inputs = inputs.data();
  run.outputs = outputs.data();
  run.param_count = static_cast<std::uint32_t>(params.size());
  run.input_count = static_cast<std::uint32_t>(inputs.size());
  run.output_count = static_cast<std::uint32_t>(outputs.size());
  run.seed = seed_;
  run.memory_budget = memory_budget_;
  run.scratch = planning ? nullptr : scratch.c_str();
  run.checkpoint = planning ? nullptr : checkpoint.c_str();

  fettle_error error{};
  // More threads than cores, if the test wants so: what must not depend on them is then put to the test.
  const tbb::global_control allowed(tbb::global_control::max_allowed_parallelism, std::max(threads_, 2U));
  tbb::task_arena arena(static_cast<int>(threads_));
  result.code = arena.execute([&] { return body(run, result, error); });
  result.where = error.where;
  result.message = error.message;
  return result;
}

StepResult Step::validate() const {
  return call(
      [this](fettle_run& run, StepResult&, fettle_error& error) {
        return technique_->validate ? technique_->validate(run.params, run.param_count, &error) : FETTLE_OK;
      },
      true);
}

StepResult Step::estimate() const {
  return call(
      [this](fettle_run& run, StepResult& result, fettle_error& error) -> std::int32_t {
        result.estimate.struct_size = sizeof(fettle_estimate);
        result.estimate.self = &result;
        result.estimate.attribute = [](void* self, const char* port, const char* key, const char* value) {
          static_cast<StepResult*>(self)->foretold[port][key] = value;
        };
        return technique_->estimate ? technique_->estimate(&run, &result.estimate, &error) : FETTLE_OK;
      },
      true);
}

StepResult Step::run() const {
  return call([this](fettle_run& run, StepResult&, fettle_error& error) { return technique_->run(&run, &error); },
              false);
}

}  // namespace fettle::test
