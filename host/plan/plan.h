// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/pipeline/pipeline.h"
#include "host/plugin/registry.h"
#include "host/store/store.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fettle::host {

/// A resolved parameter value; owns what fettle_value borrows.
struct ParamValue {
  std::uint32_t type = FETTLE_TYPE_NONE;  ///< fettle_type, of each item if a list or map
  std::uint32_t shape = FETTLE_SCALAR;
  std::int64_t integer = 0;
  double real = 0;
  std::string text;            ///< string or absolute path
  std::string content_digest;  ///< of a path: "sha256:...", what enters the key instead of the name
  std::string key;             ///< of a map item
  std::vector<ParamValue> items;
};

/// All parameters of a step in the order of the declaration, defaults filled in, with the C view of them.
class ParamSet {
 public:
  explicit ParamSet(std::vector<ParamValue> values = {});
  ParamSet(ParamSet&&) noexcept = default;
  ParamSet& operator=(ParamSet&&) noexcept = default;
  const std::vector<ParamValue>& values() const { return values_; }
  const fettle_value* c_values() const { return c_values_.data(); }

 private:
  std::vector<ParamValue> values_;
  std::vector<fettle_value> c_values_;  // views into values_
  std::vector<std::unique_ptr<std::vector<fettle_value>>> nested_;
};

/// An edge: what feeds a port.
struct Feed {
  std::string port;
  std::optional<std::size_t> input;  ///< index into Plan::inputs, or
  std::optional<std::size_t> step;   ///< index into Plan::steps with
  std::string output;                ///< the output port of that step
  SourceRange where;
};

struct StepEstimate {
  std::uint64_t memory_bytes = 0;
  std::uint64_t disk_bytes = 0;
  double flops = 0;
  unsigned max_threads = 0;
};

enum class CacheState { hit, miss, unknown };  ///< unknown: an input is not known yet

struct PlannedStep {
  const Step* step = nullptr;            ///< in Plan::pipeline
  const Technique* technique = nullptr;  ///< in the registry
  ParamSet params;
  std::vector<Feed> feeds;  ///< in the order of the technique's ports
  std::vector<std::size_t>
      waits_for;  ///< steps that must finish first: feeds, after, metrics of when and gates; sorted
  std::vector<std::pair<std::string, Attributes>> output_attributes;  ///< foretold, by port
  StepEstimate estimate;
  CacheState cache = CacheState::unknown;
  std::string key;               ///< "" while unknown
  std::optional<Record> record;  ///< of a hit
};

struct PlannedInput {
  const PipelineInput* input = nullptr;
  Artifact artifact;  ///< linked: digest and attributes known
};

struct PlannedOutput {
  const PipelineOutput* output = nullptr;
  std::size_t step = 0;
  std::string port;
  std::string path;
};

/// Everything that can be known before the first byte is computed. Steps are in an order in which they could run.
struct Plan {
  std::shared_ptr<const Pipeline> pipeline;
  std::vector<PlannedInput> inputs;
  std::vector<PlannedStep> steps;
  std::vector<PlannedOutput> outputs;
};

/// The techniques a pipeline may use, and why others are missing: what planning needs of a Registry.
struct Catalogue {
  std::vector<const Technique*> techniques;  ///< sorted by id
  std::vector<Refusal> refusals;
  std::vector<std::string> services;  ///< that the host offers
};

/// What steps may take on this machine.
struct PlanLimits {
  unsigned cores = 0;        ///< 0: all of the machine
  std::uint64_t memory = 0;  ///< bytes; 0: 80 % of the machine's memory
};

/// Binds names to techniques, checks ports, parameters, attributes, services and cycles, orders the steps, hashes the
/// inputs, asks for estimates and looks up the cache. All findings at once in `diagnostics`; nothing is computed or
/// written but the store's memory of input hashes. `store` may be null: then nothing is a hit.
Plan make_plan(std::shared_ptr<const Pipeline> pipeline, const Catalogue& catalogue, const Store* store,
               Diagnostics& diagnostics, const PlanLimits& limits = {});
Plan make_plan(std::shared_ptr<const Pipeline> pipeline, const Registry& registry, const Store* store,
               Diagnostics& diagnostics, const PlanLimits& limits = {});

/// The cache key of a step once the digests of all its inputs are known: SHA-256 over canonical JSON of technique id
/// and epoch, plugin digest, parameters after defaults, input digests by port, seed and numerics class. `text` is that
/// JSON. Step names, paths, thread counts, memory and executors are not in it.
struct StepKey {
  std::string key;  ///< 64 hex digits
  std::string text;
};
StepKey step_key(const Technique& technique, const ParamSet& params,
                 const std::vector<std::pair<std::string, std::string>>& input_digests, std::uint64_t seed);

}  // namespace fettle::host
