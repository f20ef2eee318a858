// SPDX-License-Identifier: Apache-2.0
#include "host/plan/plan.h"

#include "host/pipeline/keys.h"
#include "host/pipeline/scalar.h"
#include "host/plan/accepts.h"
#include "host/plan/attributes.h"
#include "host/plan/bind_params.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <queue>
#include <set>
#include <thread>

namespace fettle::host {

namespace {

PlanLimits of_this_machine(PlanLimits limits) {
  if (limits.cores == 0) limits.cores = std::max(1u, std::thread::hardware_concurrency());
  if (limits.memory == 0) {
    std::uint64_t total =
        static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    std::ifstream group("/sys/fs/cgroup/memory.max");  // "max", or what the container may use
    if (std::uint64_t most = 0; group >> most && most > 0) total = std::min(total, most);
    limits.memory = total / 10 * 8;
  }
  return limits;
}

std::string bytes_text(std::uint64_t bytes) {
  constexpr double gib = 1073741824.0, mib = 1048576.0;
  const auto value = static_cast<double>(bytes);
  return value >= gib ? fmt::format("{:.1f} GiB", value / gib) : fmt::format("{:.1f} MiB", value / mib);
}

/// Long digests differ in their first digits; nobody reads the others.
std::string shown(const std::string& value) {
  return value.starts_with("sha256:") && value.size() > 19 ? value.substr(0, 19) + "..." : fmt::format("'{}'", value);
}

std::string alternatives(const std::vector<std::string>& values) {
  std::string out;
  for (std::size_t i = 0; i < values.size(); ++i)
    out += (i == 0 ? "" : i + 1 == values.size() ? " or " : ", ") + values[i];
  return out;
}

const std::string* find_attribute(const Attributes& attributes, std::string_view key) {
  const auto at = std::lower_bound(attributes.begin(), attributes.end(), key,
                                   [](const auto& a, std::string_view k) { return a.first < k; });
  return at != attributes.end() && at->first == key ? &at->second : nullptr;
}

void set_attribute(Attributes& attributes, const std::string& key, const std::string& value) {
  const auto at = std::lower_bound(attributes.begin(), attributes.end(), key,
                                   [](const auto& a, const std::string& k) { return a.first < k; });
  if (at != attributes.end() && at->first == key)
    at->second = value;
  else
    attributes.insert(at, {key, value});
}

/// A step while it is planned; indices are those of Pipeline::steps until order() is known.
struct Draft {
  const Step* step = nullptr;
  const Technique* technique = nullptr;
  std::optional<ParamSet> params;
  std::vector<Feed> feeds;
  bool feeds_good = true;
  std::vector<std::pair<std::size_t, SourceRange>> needs;  ///< other steps, and where that is said
  std::vector<std::pair<std::string, Attributes>> outputs;
  StepEstimate estimate;
  CacheState cache = CacheState::unknown;
  std::string key;
  std::optional<Record> record;
};

class Planner {
 public:
  Planner(std::shared_ptr<const Pipeline> pipeline, const Catalogue& catalogue, const Store* store,
          Diagnostics& diagnostics, const PlanLimits& limits)
      : pipeline_(std::move(pipeline)),
        catalogue_(catalogue),
        store_(store),
        diagnostics_(diagnostics),
        limits_(of_this_machine(limits)),
        binder_(pipeline_->directory, store, diagnostics) {}

  Plan plan() {
    for (std::size_t i = 0; i < pipeline_->steps.size(); ++i) step_index_.emplace(pipeline_->steps[i].name, i);
    for (std::size_t i = 0; i < pipeline_->inputs.size(); ++i) input_index_.emplace(pipeline_->inputs[i].name, i);
    drafts_.resize(pipeline_->steps.size());
    for (std::size_t i = 0; i < drafts_.size(); ++i) {
      drafts_[i].step = &pipeline_->steps[i];
      drafts_[i].technique = find_technique(*drafts_[i].step);
    }
    for (Draft& draft : drafts_) bind(draft);
    const std::vector<std::size_t> order = topological_order();
    read_inputs();
    for (const std::size_t i : order) foresee(drafts_[i]);
    return finish(order);
  }

 private:
  // ---- names ----

  const Technique* find_technique(const Step& step) {
    if (step.use.empty() || step.use.find("${") != std::string::npos) return nullptr;  // reported with the pipeline
    const auto& all = catalogue_.techniques;
    const auto at = std::lower_bound(all.begin(), all.end(), step.use,
                                     [](const Technique* t, const std::string& id) { return t->id() < id; });
    if (at != all.end() && (*at)->id() == step.use) return *at;
    std::vector<std::string> ids;
    for (const Technique* t : all) ids.emplace_back(t->id());
    std::string file = step.use;  // prune.magnitude comes from prune_magnitude.so
    std::replace(file.begin(), file.end(), '.', '_');
    std::vector<std::string> notes;
    for (const Refusal& refusal : catalogue_.refusals)
      if (refusal.reason.find(step.use) != std::string::npos || refusal.path.find("/" + file) != std::string::npos)
        notes.push_back(fmt::format("{} was refused: {}", refusal.path, refusal.reason));
    const std::string hint = notes.empty() ? did_you_mean(step.use, ids) : "";
    if (notes.empty() && hint.empty()) {
      notes.push_back(ids.empty() ? "no plugin was found" : "techniques: " + listed(ids));
      if (!catalogue_.refusals.empty())
        notes.push_back(fmt::format("{} plugin file{} refused: 'fettle plugins' says why", catalogue_.refusals.size(),
                                    catalogue_.refusals.size() == 1 ? " was" : "s were"));
    }
    diagnostics_.error(step.use_where, fmt::format("step '{}': unknown technique '{}'{}", step.base, step.use, hint),
                       std::move(notes));
    return nullptr;
  }

  // ---- ports and parameters ----

  void bind(Draft& draft) {
    const Step& step = *draft.step;
    for (const Reference& r : step.after) add_need(draft, r.full_name(), r.where);
    if (step.when)
      for (const Expression::MetricRef& m : step.when->metrics()) add_need(draft, m.step, m.where);
    for (const Gate& gate : step.gates)
      for (const Expression::MetricRef& m : gate.require.metrics())
        if (m.step != step.name) add_need(draft, m.step, m.where);
    for (const auto& [port, references] : step.in)
      for (const Reference& r : references) add_need(draft, r.full_name(), r.where);
    if (draft.technique == nullptr) return;
    const fettle_technique& table = *draft.technique->table;
    for (std::uint32_t i = 0; i < table.service_count; ++i)
      if (std::find(catalogue_.services.begin(), catalogue_.services.end(), table.services[i]) ==
          catalogue_.services.end())
        diagnostics_.error(
            step.use_where,
            fmt::format("step '{}': {} needs the service '{}', which this program lacks", step.base, table.id,
                        table.services[i]),
            {catalogue_.services.empty() ? "it offers none" : "it offers: " + listed(catalogue_.services)});
    ports(draft);
    draft.params = binder_.bind(*draft.technique, step);
  }

  void add_need(Draft& draft, const std::string& name, const SourceRange& where) {
    if (const auto found = step_index_.find(name); found != step_index_.end())
      draft.needs.emplace_back(found->second, where);
  }

  void ports(Draft& draft) {
    const Step& step = *draft.step;
    const fettle_technique& table = *draft.technique->table;
    std::set<std::string, std::less<>> misspelt;  // ports that a wrong name probably means
    std::vector<std::string> known;
    for (std::uint32_t i = 0; i < table.input_count; ++i) known.emplace_back(table.inputs[i].name);
    for (const auto& [key, references] : step.in)
      if (std::find(known.begin(), known.end(), key.text) == known.end()) {
        misspelt.insert(nearest(key.text, known));
        const std::string hint = did_you_mean(key.text, known);
        diagnostics_.error(
            key.where, fmt::format("step '{}': {} has no input '{}'{}", step.base, table.id, key.text, hint),
            hint.empty() ? std::vector<std::string>{known.empty() ? "it has no inputs" : "inputs: " + listed(known)}
                         : std::vector<std::string>{});
        draft.feeds_good = false;
      }
    for (std::uint32_t i = 0; i < table.input_count; ++i) {
      const fettle_port& port = table.inputs[i];
      const auto written = std::find_if(step.in.begin(), step.in.end(),
                                        [&](const auto& entry) { return entry.first.text == port.name; });
      if (written == step.in.end()) {
        if (port.flags & FETTLE_PORT_OPTIONAL || misspelt.contains(port.name)) continue;
        diagnostics_.error(step.where,
                           fmt::format("step '{}': input '{}' of {} is not connected", step.base, port.name, table.id),
                           {fmt::format("{} ({}): {}", port.name, port.kind, port.help)});
        draft.feeds_good = false;
        continue;
      }
      const std::vector<Reference>& references = written->second;
      if (references.size() > 1 && !(port.flags & FETTLE_PORT_LIST)) {
        diagnostics_.error(references[0].where, fmt::format("step '{}': input '{}' takes one artifact, found {}",
                                                            step.base, port.name, references.size()));
        draft.feeds_good = false;
        continue;
      }
      for (const Reference& reference : references) feed(draft, port, reference);
      if (references.empty()) draft.feeds_good = false;  // reported with the pipeline
    }
  }

  void feed(Draft& draft, const fettle_port& port, const Reference& reference) {
    Feed feed;
    feed.port = port.name;
    feed.where = reference.where;
    std::string kind;
    SourceRange origin;
    if (const auto input = input_index_.find(reference.full_name()); input != input_index_.end()) {
      feed.input = input->second;
      used_inputs_.insert(input->second);
      kind = pipeline_->inputs[input->second].kind;
      origin = pipeline_->inputs[input->second].where;
    } else if (const auto step = step_index_.find(reference.full_name()); step != step_index_.end()) {
      feed.step = step->second;
      const Draft& producer = drafts_[step->second];
      origin = producer.step->where;
      const fettle_port* output = find_output(producer, reference);
      if (output == nullptr) {
        draft.feeds_good = false;
        return;
      }
      feed.output = output->name;
      kind = output->kind;
    }
    if (!kind.empty() && kind != port.kind) {
      Diagnostic d;
      d.where = reference.where;
      d.message = fmt::format("step '{}': input '{}' takes kind {}, but '{}' is of kind {}", draft.step->base,
                              port.name, port.kind, written(reference), kind);
      d.related.emplace_back(origin, feed.input
                                         ? fmt::format("the input '{}'", reference.name)
                                         : fmt::format("made by this step with {}", drafts_[*feed.step].step->use));
      diagnostics_.add(std::move(d));
      draft.feeds_good = false;
      return;
    }
    draft.feeds_good &= feed.input || feed.step;
    draft.feeds.push_back(std::move(feed));
  }

  static std::string written(const Reference& reference) {
    return reference.full_name() + (reference.port ? "." + *reference.port : "");
  }

  /// The output port that a reference means; null if its step has none such (reported) or is unknown.
  const fettle_port* find_output(const Draft& producer, const Reference& reference) {
    if (producer.technique == nullptr) return nullptr;
    const fettle_technique& table = *producer.technique->table;
    std::vector<std::string> names;
    for (std::uint32_t i = 0; i < table.output_count; ++i) {
      if (!reference.port || *reference.port == table.outputs[i].name) return &table.outputs[i];
      names.emplace_back(table.outputs[i].name);
    }
    if (names.empty()) {
      diagnostics_.error(reference.where, fmt::format("step '{}' gives no artifact: {} has no outputs, only metrics",
                                                      reference.name, table.id));
    } else {
      const std::string hint = did_you_mean(*reference.port, names);
      diagnostics_.error(reference.where,
                         fmt::format("step '{}' has no output '{}'{}", reference.name, *reference.port, hint),
                         {fmt::format("outputs of {}: {}", table.id, listed(names))});
    }
    return nullptr;
  }

  // ---- order ----

  /// Steps such that each comes after all it needs; among those that could come next, the first in the file. Steps of
  /// cycles, which are reported, and what waits for them are left out.
  std::vector<std::size_t> topological_order() {
    std::vector<std::set<std::size_t>> needs(drafts_.size());
    std::vector<std::vector<std::size_t>> needed_by(drafts_.size());
    for (std::size_t i = 0; i < drafts_.size(); ++i) {
      for (const auto& [other, where] : drafts_[i].needs) needs[i].insert(other);
      for (const std::size_t other : needs[i]) needed_by[other].push_back(i);
    }
    std::vector<std::size_t> open(drafts_.size()), order;
    std::priority_queue<std::size_t, std::vector<std::size_t>, std::greater<>> ready;
    for (std::size_t i = 0; i < drafts_.size(); ++i)
      if ((open[i] = needs[i].size()) == 0) ready.push(i);
    while (!ready.empty()) {
      const std::size_t i = ready.top();
      ready.pop();
      order.push_back(i);
      for (const std::size_t next : needed_by[i])
        if (--open[next] == 0) ready.push(next);
    }
    // Whoever is left waits for someone who is left; following that leads into a cycle.
    std::vector<bool> done(drafts_.size());
    for (std::size_t start = 0; start < drafts_.size(); ++start) {
      std::vector<std::size_t> path;
      for (std::size_t at = start; open[at] > 0 && !done[at];) {
        done[at] = true;
        path.push_back(at);
        const auto next = std::find_if(needs[at].begin(), needs[at].end(), [&](std::size_t n) { return open[n] > 0; });
        at = *next;
        if (const auto begin = std::find(path.begin(), path.end(), at); begin != path.end()) {
          path.erase(path.begin(), begin);
          report_cycle(path);
          break;
        }
      }
    }
    return order;
  }

  void report_cycle(std::vector<std::size_t> cycle) {
    std::rotate(cycle.begin(), std::min_element(cycle.begin(), cycle.end()), cycle.end());
    Diagnostic d;
    std::string chain;
    for (std::size_t i = 0; i < cycle.size(); ++i) {
      const std::size_t next = cycle[(i + 1) % cycle.size()];
      const Draft& draft = drafts_[cycle[i]];
      const auto edge =
          std::find_if(draft.needs.begin(), draft.needs.end(), [&](const auto& need) { return need.first == next; });
      const std::string sentence = fmt::format("'{}' needs '{}'", draft.step->name, drafts_[next].step->name);
      chain += (chain.empty() ? "" : ", ") + sentence;
      if (i == 0)
        d.where = edge->second;
      else
        d.related.emplace_back(edge->second, sentence);
    }
    d.message = cycle.size() == 1 ? fmt::format("step '{}' needs itself", drafts_[cycle[0]].step->name)
                                  : fmt::format("steps need one another: {}", chain);
    diagnostics_.add(std::move(d));
  }

  // ---- what is known before anything runs ----

  void read_inputs() {
    inputs_.resize(pipeline_->inputs.size());
    const bool hash = store_ != nullptr && !diagnostics_.has_errors();
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      const PipelineInput& input = pipeline_->inputs[i];
      inputs_[i].input = &input;
      inputs_[i].artifact.kind = input.kind;
      if (!used_inputs_.contains(i) || input.paths.empty() || input.kind.empty()) continue;
      const auto fail = [&](const Status& status) {
        diagnostics_.error(input.where, fmt::format("input '{}': {}", input.name, status.message()));
      };
      Result<Attributes> attributes = artifact_attributes(input.kind, input.paths);
      if (!attributes.ok()) {
        fail(attributes.error());
        continue;
      }
      if (hash) {
        Result<Artifact> linked = store_->link(input.kind, input.paths);
        if (!linked.ok()) {
          fail(linked.error());
          continue;
        }
        inputs_[i].artifact = *std::move(linked);
      }
      inputs_[i].artifact.attributes = *std::move(attributes);
    }
  }

  const Attributes* attributes_of(const Feed& feed) const {
    if (feed.input) return &inputs_[*feed.input].artifact.attributes;
    for (const auto& [port, attributes] : drafts_[*feed.step].outputs)
      if (port == feed.output) return &attributes;
    return nullptr;
  }

  std::string digest_of(const Feed& feed) const {
    if (feed.input) return inputs_[*feed.input].artifact.digest;
    const Draft& producer = drafts_[*feed.step];
    if (producer.record)
      for (const auto& [port, artifact] : producer.record->outputs)
        if (port == feed.output) return artifact.digest;
    return {};
  }

  std::string source_of(const Feed& feed) const {
    return feed.input ? pipeline_->inputs[*feed.input].name : drafts_[*feed.step].step->name;
  }

  void foresee(Draft& draft) {
    if (draft.technique == nullptr) return;
    const fettle_technique& table = *draft.technique->table;
    for (std::uint32_t i = 0; i < table.output_count; ++i)
      draft.outputs.emplace_back(table.outputs[i].name, Attributes{});
    check_attributes(draft);
    if (!draft.params || !draft.feeds_good) return;
    estimate(draft);
    find_record(draft);
    if (draft.cache == CacheState::hit) return;
    const std::uint64_t memory = draft.step->resources.memory.value_or(draft.estimate.memory_bytes);
    if (memory > limits_.memory)
      does_not_fit(draft,
                   fmt::format("step '{}' needs {} of memory, at most {} may be used", draft.step->name,
                               bytes_text(memory), bytes_text(limits_.memory)),
                   draft.step->resources.memory
                       ? "that is what 'resources' asks for"
                       : fmt::format("that is what {} expects; 'resources: {{memory: ...}}' replaces it", table.id));
    if (draft.step->resources.cores.value_or(1) > limits_.cores)
      does_not_fit(draft,
                   fmt::format("step '{}' asks for {} cores, at most {} may be used", draft.step->name,
                               *draft.step->resources.cores, limits_.cores),
                   "");
  }

  void does_not_fit(const Draft& draft, std::string message, std::string note) {
    Diagnostic d;
    d.where = draft.step->where;
    d.message = std::move(message);
    if (!note.empty()) d.notes.push_back(std::move(note));
    d.category = Diagnostic::Category::does_not_fit;
    diagnostics_.add(std::move(d));
  }

  void check_attributes(const Draft& draft) {
    const fettle_technique& table = *draft.technique->table;
    for (std::uint32_t i = 0; i < table.input_count; ++i) {
      const fettle_port& port = table.inputs[i];
      if (port.accepts == nullptr) continue;
      const std::vector<Constraint> constraints = parse_accepts(port.accepts);
      for (const Feed& feed : draft.feeds) {
        if (feed.port != port.name) continue;
        for (const Constraint& c : constraints) check(draft, feed, c);
      }
    }
  }

  void check(const Draft& draft, const Feed& feed, const Constraint& constraint) {
    const Attributes* attributes = attributes_of(feed);
    const std::string* value = attributes == nullptr ? nullptr : find_attribute(*attributes, constraint.attribute);
    if (value == nullptr) return;
    Diagnostic d;
    d.where = feed.where;
    if (!constraint.port.empty()) {
      for (const Feed& other : draft.feeds) {
        if (other.port != constraint.port) continue;
        const Attributes* theirs = attributes_of(other);
        const std::string* expected = theirs == nullptr ? nullptr : find_attribute(*theirs, constraint.attribute);
        if (expected == nullptr || *expected == *value) continue;
        d.message = fmt::format("step '{}': input '{}' must have the same {} as input '{}': '{}' has {}, '{}' has {}",
                                draft.step->name, feed.port, constraint.attribute, other.port, source_of(feed),
                                shown(*value), source_of(other), shown(*expected));
        d.related.emplace_back(other.where, fmt::format("input '{}' is connected here", other.port));
        d.related.emplace_back(origin(feed));
        diagnostics_.add(std::move(d));
        return;
      }
      return;
    }
    for (const std::string& pattern : constraint.values)
      if (matches(pattern, *value)) return;
    d.message = fmt::format("step '{}': input '{}' of {} accepts {} {}, but '{}' has {}", draft.step->name, feed.port,
                            draft.technique->id(), constraint.attribute, alternatives(constraint.values),
                            source_of(feed), shown(*value));
    d.related.emplace_back(origin(feed));
    diagnostics_.add(std::move(d));
  }

  std::pair<SourceRange, std::string> origin(const Feed& feed) const {
    if (feed.input) return {pipeline_->inputs[*feed.input].where, fmt::format("the input '{}'", source_of(feed))};
    const Step& step = *drafts_[*feed.step].step;
    return {step.where, fmt::format("'{}' is made by this step with {}", step.name, step.use)};
  }

  void estimate(Draft& draft) {
    const fettle_technique& table = *draft.technique->table;
    if (table.estimate == nullptr) return;
    std::vector<std::vector<fettle_attribute>> attributes(draft.feeds.size());
    std::vector<std::string> digests(draft.feeds.size());
    std::vector<fettle_input> inputs(draft.feeds.size());
    for (std::size_t i = 0; i < draft.feeds.size(); ++i) {
      const Feed& feed = draft.feeds[i];
      if (const Attributes* known = attributes_of(feed))
        for (const auto& [key, value] : *known) attributes[i].push_back({key.c_str(), value.c_str()});
      digests[i] = digest_of(feed);
      fettle_input& input = inputs[i];
      for (std::uint32_t p = 0; p < table.input_count; ++p)
        if (feed.port == table.inputs[p].name) input.port = table.inputs[p].name, input.kind = table.inputs[p].kind;
      input.digest = digests[i].empty() ? nullptr : digests[i].c_str();
      input.attributes = attributes[i].data();
      input.attribute_count = static_cast<std::uint32_t>(attributes[i].size());
    }
    fettle_run run{};
    run.struct_size = sizeof run;
    run.threads = std::min(draft.step->resources.cores.value_or(limits_.cores), limits_.cores);
    run.params = draft.params->c_values();
    run.param_count = table.param_count;
    run.inputs = inputs.data();
    run.input_count = static_cast<std::uint32_t>(inputs.size());
    run.seed = draft.step->seed;
    run.memory_budget = limits_.memory;
    fettle_estimate raw{};
    raw.struct_size = sizeof raw;
    raw.self = &draft.outputs;
    raw.attribute = [](void* self, const char* output, const char* key, const char* value) {
      for (auto& [port, known] : *static_cast<decltype(Draft::outputs)*>(self))
        if (port == output) set_attribute(known, key, value);
    };
    fettle_error error{};
    if (table.estimate(&run, &raw, &error) != FETTLE_OK) {
      error.where[sizeof error.where - 1] = error.message[sizeof error.message - 1] = '\0';
      SourceRange where = draft.step->where;
      for (const Feed& feed : draft.feeds)
        if (feed.port == error.where) where = feed.where;
      for (const auto& [key, node] : draft.step->with)
        if (key.text == error.where) where = node.where;
      diagnostics_.error(where, fmt::format("step '{}': {}{}", draft.step->name,
                                            error.where[0] ? fmt::format("'{}': ", error.where) : "", error.message));
      return;
    }
    draft.estimate = {raw.memory_bytes, raw.disk_bytes, raw.flops, raw.max_threads};
  }

  void find_record(Draft& draft) {
    if (store_ == nullptr || diagnostics_.has_errors()) return;
    std::vector<std::pair<std::string, std::string>> digests;
    for (const Feed& feed : draft.feeds) {
      digests.emplace_back(feed.port, digest_of(feed));
      if (digests.back().second.empty()) return;
    }
    draft.key = step_key(*draft.technique, *draft.params, digests, draft.step->seed).key;
    draft.record = store_->find(draft.key);
    draft.cache = draft.record ? CacheState::hit : CacheState::miss;
    if (!draft.record) return;
    // What was measured counts more than what was foretold.
    for (auto& [port, attributes] : draft.outputs)
      for (const auto& [name, artifact] : draft.record->outputs)
        if (name == port)
          for (const auto& [key, value] : artifact.attributes) set_attribute(attributes, key, value);
  }

  // ---- the plan ----

  Plan finish(const std::vector<std::size_t>& order) {
    Plan plan;
    plan.pipeline = pipeline_;
    plan.inputs = std::move(inputs_);
    std::vector<std::size_t> position(drafts_.size());
    for (std::size_t i = 0; i < order.size(); ++i) position[order[i]] = i;
    for (const std::size_t i : order) {
      Draft& draft = drafts_[i];
      PlannedStep step;
      step.step = draft.step;
      step.technique = draft.technique;
      if (draft.params) step.params = std::move(*draft.params);
      for (Feed& feed : draft.feeds)
        if (feed.step) feed.step = position[*feed.step];
      step.feeds = std::move(draft.feeds);
      for (const auto& [other, where] : draft.needs) step.waits_for.push_back(position[other]);
      std::sort(step.waits_for.begin(), step.waits_for.end());
      step.waits_for.erase(std::unique(step.waits_for.begin(), step.waits_for.end()), step.waits_for.end());
      step.output_attributes = std::move(draft.outputs);
      step.estimate = draft.estimate;
      step.cache = draft.cache;
      step.key = std::move(draft.key);
      step.record = std::move(draft.record);
      plan.steps.push_back(std::move(step));
    }
    for (const PipelineOutput& output : pipeline_->outputs) {
      const auto found = step_index_.find(output.from.full_name());
      if (found == step_index_.end()) continue;  // reported with the pipeline
      const fettle_port* port = find_output(drafts_[found->second], output.from);
      if (port != nullptr) plan.outputs.push_back({&output, position[found->second], port->name, output.path});
    }
    return plan;
  }

  std::shared_ptr<const Pipeline> pipeline_;
  const Catalogue& catalogue_;
  const Store* store_;
  Diagnostics& diagnostics_;
  PlanLimits limits_;
  ParamBinder binder_;
  std::vector<Draft> drafts_;
  std::vector<PlannedInput> inputs_;
  std::set<std::size_t> used_inputs_;
  std::map<std::string, std::size_t, std::less<>> step_index_, input_index_;
};

}  // namespace

Plan make_plan(std::shared_ptr<const Pipeline> pipeline, const Catalogue& catalogue, const Store* store,
               Diagnostics& diagnostics, const PlanLimits& limits) {
  return Planner(std::move(pipeline), catalogue, store, diagnostics, limits).plan();
}

}  // namespace fettle::host
