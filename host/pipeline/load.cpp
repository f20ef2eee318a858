// SPDX-License-Identifier: Apache-2.0
// load_pipeline: from the YAML tree to plain values.
#include "host/pipeline/keys.h"
#include "host/pipeline/overrides.h"
#include "host/pipeline/pipeline.h"
#include "host/pipeline/scalar.h"
#include "host/pipeline/step_reader.h"
#include "host/pipeline/variables.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

namespace fettle::host {

namespace {

namespace fs = std::filesystem;

const std::vector<std::string> artifact_kinds{"model", "tokens", "text", "stats", "targets", "mask", "metrics", "file"};

/// "2:4,Q8_0" as "2-4-Q8_0": nothing that a shell, an URL or another system's file names would trip over.
std::string as_file_name(std::string instance) {
  for (char& c : instance) {
    const bool plain =
        (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '.';
    if (!plain) c = '-';
  }
  return instance;
}

void missing(Diagnostics& diagnostics, SourceRange where, std::string message, std::vector<std::string> notes = {}) {
  Diagnostic d;
  d.where = std::move(where);
  d.message = std::move(message);
  d.notes = std::move(notes);
  d.category = Diagnostic::Category::input_missing;
  diagnostics.add(std::move(d));
}

/// The text of a file of at most max_bytes, refused by its size before it is read.
std::shared_ptr<const SourceText> read_source(const std::string& path, std::size_t max_bytes,
                                              Diagnostics& diagnostics) {
  auto source = std::make_shared<SourceText>(SourceText{path, {}});
  const SourceRange nowhere{source, 0, 0, 1};
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info {};
  if (file < 0 || ::fstat(file, &info) != 0) {
    const int error = errno;
    if (file >= 0) ::close(file);
    if (error == ENOENT || error == ENOTDIR)
      missing(diagnostics, nowhere, "no such file");
    else
      diagnostics.error(nowhere, fmt::format("cannot be read: {}", std::strerror(error)));
    return nullptr;
  }
  const auto refuse = [&](const std::string& message) {
    ::close(file);
    diagnostics.error(nowhere, message);
    return nullptr;
  };
  if (S_ISDIR(info.st_mode)) return refuse("is a folder, expected a pipeline file");
  if (S_ISREG(info.st_mode) && static_cast<std::uint64_t>(info.st_size) > max_bytes)
    return refuse(fmt::format("too large for a pipeline: {} bytes, at most {} are read",
                              grouped(static_cast<std::uint64_t>(info.st_size)), grouped(max_bytes)));
  char buffer[65536];
  for (;;) {
    const ssize_t n = ::read(file, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return refuse(fmt::format("cannot be read: {}", std::strerror(errno)));
    if (n == 0) break;
    source->text.append(buffer, static_cast<std::size_t>(n));
    if (source->text.size() > max_bytes)
      return refuse(fmt::format("too large for a pipeline: more than {} bytes", grouped(max_bytes)));
  }
  ::close(file);
  return source;
}
class Loader {
 public:
  Loader(Pipeline& pipeline, Node root, Diagnostics& diagnostics)
      : pipeline_(pipeline), root_(std::move(root)), diagnostics_(diagnostics), steps_(diagnostics) {}

  void load() {
    if (!check_keys(root_, {"fettle", "name", "description", "vars", "inputs", "steps", "outputs", "profiles"}, "",
                    diagnostics_))
      return;
    header();
    if (const Node* vars = root_.find("vars")) variables_ = read_variables(*vars, diagnostics_);
    for (const Binding& b : variables_) pipeline_.vars.emplace_back(b.name, value_text(b.value));
    steps_.collect(root_, names());
    inputs();
    StepReader reader(steps_, diagnostics_);
    for (const RawStep& raw : steps_.all())
      if (!raw.broken) reader.read(raw, names(), pipeline_.steps);
    outputs();
    unused();
  }

 private:
  Names names() {
    Names n;
    n.vars = &variables_;
    n.used_vars = &used_variables_;
    return n;
  }

  void header() {
    const Node* version = root_.find("fettle");
    if (version == nullptr) {
      diagnostics_.error(root_.where, "'fettle: 1' is missing: it says which format this file is in");
    } else if (version->kind != Node::Kind::scalar || version->text != "1") {
      diagnostics_.error(version->where, fmt::format("pipeline format {}, this program reads 1", describe(*version)));
    }
    if (const Node* name = root_.find("name")) {
      if (name->kind == Node::Kind::scalar)
        pipeline_.name = name->text;
      else
        diagnostics_.error(name->where, fmt::format("'name': expected text, found {}", describe(*name)));
    }
    if (const Node* text = root_.find("description")) {
      if (text->kind == Node::Kind::scalar)
        pipeline_.description = text->text;
      else
        diagnostics_.error(text->where, fmt::format("'description': expected text, found {}", describe(*text)));
    }
  }

  // ---- inputs ----

  void inputs() {
    const Node* inputs = root_.find("inputs");
    if (inputs == nullptr) return;
    if (inputs->kind != Node::Kind::map) {
      diagnostics_.error(inputs->where, fmt::format("inputs: expected a map, found {}", describe(*inputs)));
      return;
    }
    for (const auto& [key, node] : inputs->entries) {
      if (!check_name(key, "an input", diagnostics_)) continue;
      steps_.add_input(key.text);
      const std::string what = fmt::format("input '{}'", key.text);
      if (const RawStep* step = steps_.find(key.text)) {
        Diagnostic d;
        d.where = key.where;
        d.message = fmt::format("'{}' names an input and a step", key.text);
        d.related.emplace_back(step->key->where, "the step");
        diagnostics_.add(std::move(d));
      }
      if (!check_keys(node, {"kind", "path"}, what, diagnostics_)) continue;
      PipelineInput input;
      input.name = key.text;
      input.where = key.where;
      if (const Node* kind = node.find("kind"); kind == nullptr) {
        diagnostics_.error(key.where, fmt::format("{} has no kind", what), {"kinds: " + listed(artifact_kinds)});
      } else if (std::find(artifact_kinds.begin(), artifact_kinds.end(), kind->text) == artifact_kinds.end()) {
        diagnostics_.error(
            kind->where,
            fmt::format("{}: unknown kind {}{}", what, describe(*kind), did_you_mean(kind->text, artifact_kinds)),
            {"kinds: " + listed(artifact_kinds)});
      } else {
        input.kind = kind->text;
      }
      if (const Node* path = node.find("path"); path == nullptr) {
        diagnostics_.error(key.where, fmt::format("{} has no path", what));
      } else {
        const Node replaced = names().replace(*path, diagnostics_);
        if (replaced.kind == Node::Kind::list)
          for (const Node& item : replaced.items) add_paths(input, item, what);
        else if (replaced.kind != Node::Kind::null ||
                 path->kind == Node::Kind::null)  // otherwise its variable was at fault
          add_paths(input, replaced, what);
        input.written = value_text(replaced);
      }
      pipeline_.inputs.push_back(std::move(input));
    }
  }

  void add_paths(PipelineInput& input, const Node& path, const std::string& what) {
    if (path.kind != Node::Kind::scalar || path.text.empty()) {
      diagnostics_.error(path.where, fmt::format("{}: expected a path, found {}", what, describe(path)));
      return;
    }
    if (path.text.find("${") != std::string::npos) return;  // its variable was at fault
    const std::string full = absolute(path.text);
    std::error_code error;
    if (fs::exists(full, error)) {
      input.paths.push_back(full);
      return;
    }
    if (path.text.find_first_of("*?[") == std::string::npos) {
      missing(diagnostics_, path.where, fmt::format("{}: no file or folder '{}'", what, path.text),
              {fmt::format("looked for {}", full)});
      return;
    }
    glob_t found{};
    std::vector<std::string> paths;
    if (::glob(full.c_str(), GLOB_NOSORT, nullptr, &found) == 0)
      for (std::size_t i = 0; i < found.gl_pathc; ++i) paths.emplace_back(found.gl_pathv[i]);
    ::globfree(&found);
    if (paths.empty()) {
      missing(diagnostics_, path.where, fmt::format("{}: no file matches '{}'", what, path.text),
              {fmt::format("looked for {}", full)});
      return;
    }
    std::sort(paths.begin(), paths.end());
    input.paths.insert(input.paths.end(), paths.begin(), paths.end());
  }

  std::string absolute(const std::string& path) const {
    return (fs::path(pipeline_.directory) / path).lexically_normal().string();
  }

  // ---- outputs ----

  void outputs() {
    const Node* outputs = root_.find("outputs");
    if (outputs == nullptr || outputs->kind == Node::Kind::null) return;
    if (outputs->kind != Node::Kind::map) {
      diagnostics_.error(outputs->where, fmt::format("outputs: expected a map, found {}", describe(*outputs)));
      return;
    }
    std::map<std::string, SourceRange> taken;
    for (const auto& [key, node] : outputs->entries) {
      if (!check_name(key, "an output", diagnostics_)) continue;
      const std::string what = fmt::format("output '{}'", key.text);
      if (!check_keys(node, {"from", "path", "when_gates"}, what, diagnostics_)) continue;
      PipelineOutput output;
      output.where = key.where;
      const Node* from = node.find("from");
      const Node* path_node = node.find("path");
      if (from == nullptr)
        diagnostics_.error(key.where, fmt::format("{} has no 'from'", what), {"'from' names the step that makes it"});
      if (path_node == nullptr) diagnostics_.error(key.where, fmt::format("{} has no 'path'", what));
      if (const Node* gates = node.find("when_gates")) {
        if (gates->kind == Node::Kind::scalar && (gates->text == "pass" || gates->text == "any"))
          output.when_gates_pass = gates->text == "pass";
        else
          diagnostics_.error(gates->where,
                             fmt::format("{}: 'when_gates' is {}, must be pass or any", what, describe(*gates)));
      }
      if (from == nullptr || path_node == nullptr) continue;
      const Node path = names().replace(*path_node, diagnostics_);
      if (path.kind == Node::Kind::null && path_node->kind != Node::Kind::null) continue;
      if (path.kind != Node::Kind::scalar || path.text.empty()) {
        diagnostics_.error(path.where, fmt::format("{}: expected a path, found {}", what, describe(path)));
        continue;
      }
      if (path.text.find("${") != std::string::npos) continue;
      const std::vector<Reference> all =
          steps_.references(names().replace(*from, diagnostics_), what, {}, {true, false});
      if (all.size() > 1 && path.text.find("{instance}") == std::string::npos) {
        diagnostics_.error(path.where, fmt::format("{}: {} artifacts would be written to one path", what, all.size()),
                           {"put {instance} where their names shall differ"});
        continue;
      }
      for (const Reference& reference : all) {
        PipelineOutput one = output;
        one.from = reference;
        one.name = all.size() > 1 ? fmt::format("{}[{}]", key.text, *reference.instance) : key.text;
        std::string file = path.text;
        const std::string label = as_file_name(reference.instance.value_or(""));
        for (std::size_t at; (at = file.find("{instance}")) != std::string::npos;) file.replace(at, 10, label);
        one.path = absolute(file);
        if (const auto [first, fresh] = taken.emplace(one.path, key.where); !fresh) {
          Diagnostic d;
          d.where = path.where;
          d.message = fmt::format("{}: path '{}' is taken", what, file);
          d.related.emplace_back(first->second, "by this output");
          diagnostics_.add(std::move(d));
        }
        pipeline_.outputs.push_back(std::move(one));
      }
    }
  }

  void unused() {
    if (diagnostics_.has_errors()) return;  // what is broken uses less than was meant
    for (const PipelineInput& input : pipeline_.inputs)
      if (!steps_.uses_input(input.name))
        diagnostics_.warning(input.where, fmt::format("input '{}' is never used", input.name));
    if (const Node* vars = root_.find("vars"))
      for (const auto& [key, value] : vars->entries)
        if (!used_variables_.contains(key.text))
          diagnostics_.warning(key.where, fmt::format("variable '{}' is never used", key.text));
  }

  Pipeline& pipeline_;
  Node root_;
  Diagnostics& diagnostics_;
  std::vector<Binding> variables_;
  std::set<std::string> used_variables_;
  RawSteps steps_;
};

Pipeline begin_pipeline(const std::string& path) {
  Pipeline pipeline;
  std::error_code error;
  const fs::path file = fs::absolute(path, error).lexically_normal();
  pipeline.file = file.string();
  pipeline.directory = file.parent_path().string();
  pipeline.name = file.stem().string();
  return pipeline;
}

Pipeline load_source(const std::shared_ptr<const SourceText>& source, const LoadOptions& options,
                     Diagnostics& diagnostics) {
  Pipeline pipeline = begin_pipeline(source->name);
  Diagnostics found;
  Node root = parse_yaml(source, found);
  for (const Diagnostic& d : found.all()) diagnostics.add(d);
  if (found.has_errors()) return pipeline;
  if (root.kind == Node::Kind::null) {
    diagnostics.error({source, 0, 0, 1}, "the file is empty, expected a pipeline");
    return pipeline;
  }
  if (root.kind == Node::Kind::map) {
    apply_profiles(root, options.profiles, diagnostics);
    for (const std::string& set : options.sets) apply_set(root, set, diagnostics);
  }
  Loader(pipeline, std::move(root), diagnostics).load();
  return pipeline;
}

}  // namespace

Pipeline load_pipeline(const std::string& path, const LoadOptions& options, Diagnostics& diagnostics) {
  const std::shared_ptr<const SourceText> source = read_source(path, YamlLimits{}.max_bytes, diagnostics);
  return source == nullptr ? begin_pipeline(path) : load_source(source, options, diagnostics);
}

Pipeline load_pipeline_text(std::string text, const std::string& path, const LoadOptions& options,
                            Diagnostics& diagnostics) {
  return load_source(std::make_shared<SourceText>(SourceText{path, std::move(text)}), options, diagnostics);
}

}  // namespace fettle::host
