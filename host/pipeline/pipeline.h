// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/pipeline/expression.h"
#include "host/pipeline/node.h"
#include "host/pipeline/source.h"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fettle::host {

/// Where an artifact comes from: `prune`, `prune.mask`, `quant[gptq].model`, or a name under inputs.
struct Reference {
  std::string name;                     ///< a step or an input
  std::optional<std::string> instance;  ///< inside [...]: "2:4", "2:4,Q8_0"; never "*", which has been expanded
  std::optional<std::string> port;      ///< the output meant; the step's first if absent
  SourceRange where;
  /// "quant[2:4]": the name of the input or step instance.
  std::string full_name() const { return instance ? name + "[" + *instance + "]" : name; }
};

struct PipelineInput {
  std::string name;
  std::string kind;                ///< "model", "text", "tokens", "file", ...
  std::vector<std::string> paths;  ///< absolute, globs expanded and sorted
  std::string written;             ///< as in the file, after ${vars}
  SourceRange where;
};

/// When a gate does not hold: stop: nothing downstream runs; fail: the rest still runs, for its numbers; warn: only say
/// so. After stop and fail the outputs are withheld and the program ends with 3.
enum class GateAction { stop, fail, warn };

struct Gate {
  Expression require;
  GateAction on_fail = GateAction::stop;
  std::string because;
  SourceRange where;
};

struct ResourceRequest {
  std::optional<unsigned> cores;
  std::optional<std::uint64_t> memory;  ///< bytes; overrides the technique's estimate
};

/// One step after `matrix` and `each` have been expanded: a use of one technique. Parameters are still nodes, because
/// only the technique knows their types.
struct Step {
  std::string name;      ///< with its instance: "quant[2:4,Q8_0]"; unique
  std::string base;      ///< without: "quant"
  std::string instance;  ///< "2:4,Q8_0", or ""
  std::string use;
  SourceRange use_where;
  std::vector<std::pair<Node, std::vector<Reference>>> in;  ///< port (key node) -> one reference, or several for a list
  std::vector<Node::Entry> with;                            ///< parameter (key node) -> value, ${vars} replaced
  std::vector<Reference> after;
  std::optional<Expression> when;
  std::vector<Gate> gates;
  std::uint64_t seed = 0;
  ResourceRequest resources;
  std::optional<bool> isolate;
  SourceRange where;
};

struct PipelineOutput {
  std::string name;
  Reference from;
  std::string path;             ///< absolute; "{instance}" has been replaced where `from` names several
  bool when_gates_pass = true;  ///< false: `when_gates: any`
  SourceRange where;
};

/// A pipeline file after variables, overrides, profiles, matrix and each: plain values with the places they came from.
struct Pipeline {
  std::string name;
  std::string description;
  std::string file;                                       ///< absolute path
  std::string directory;                                  ///< relative paths in it start here
  std::vector<std::pair<std::string, std::string>> vars;  ///< resolved, as text
  std::vector<PipelineInput> inputs;
  std::vector<Step> steps;
  std::vector<PipelineOutput> outputs;
};

struct LoadOptions {
  std::vector<std::string> sets;      ///< "vars.keep=0.5", "steps.healed.with.lr=2e-4"
  std::vector<std::string> profiles;  ///< applied left to right, before the sets
};

/// Reads and checks everything that can be known without plugins. Findings go to `diagnostics`; the pipeline is usable
/// only if that has no errors.
Pipeline load_pipeline(const std::string& path, const LoadOptions& options, Diagnostics& diagnostics);
/// The same for a text that need not be a file; `path` says what it is called and where relative paths start.
Pipeline load_pipeline_text(std::string text, const std::string& path, const LoadOptions& options,
                            Diagnostics& diagnostics);

}  // namespace fettle::host
