// SPDX-License-Identifier: Apache-2.0
// load_pipeline: from the YAML tree to plain values.
#include "host/pipeline/keys.h"
#include "host/pipeline/matrix.h"
#include "host/pipeline/overrides.h"
#include "host/pipeline/pipeline.h"
#include "host/pipeline/scalar.h"
#include "host/pipeline/variables.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
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

/// A step of the file before matrix and each are expanded.
struct RawStep {
  const Node* key = nullptr;
  const Node* node = nullptr;
  std::string name;
  std::vector<Variant> variants;  ///< one with the label "" if the step stands alone
  const RawStep* base = nullptr;  ///< of `each`
  bool resolved = false, resolving = false, broken = false;

  bool multiple() const { return !(variants.size() == 1 && variants[0].label.empty()); }
  /// Steps with the same root have the same instances.
  const RawStep* root() const {
    const RawStep* step = this;
    while (step->base != nullptr) step = step->base;
    return step;
  }
  std::vector<std::string> labels() const {
    std::vector<std::string> out;
    for (const Variant& v : variants) out.push_back(v.label);
    return out;
  }
};

class Loader {
 public:
  Loader(Pipeline& pipeline, Node root, Diagnostics& diagnostics)
      : pipeline_(pipeline), root_(std::move(root)), diagnostics_(diagnostics) {}

  void load() {
    if (!check_keys(root_, {"fettle", "name", "description", "vars", "inputs", "steps", "outputs", "profiles"}, "",
                    diagnostics_))
      return;
    header();
    if (const Node* vars = root_.find("vars")) variables_ = read_variables(*vars, diagnostics_);
    for (const Binding& b : variables_) pipeline_.vars.emplace_back(b.name, value_text(b.value));
    collect_steps();
    inputs();
    for (RawStep& raw : raw_)
      if (!raw.broken) expand(raw);
    outputs();
    unused();
  }

 private:
  Names names(const Variant* variant = nullptr, bool each = false) {
    Names n;
    n.vars = &variables_;
    n.used_vars = &used_variables_;
    if (variant != nullptr && !variant->label.empty()) (each ? n.each : n.matrix) = &variant->values;
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
      input_names_.push_back(key.text);
      const std::string what = fmt::format("input '{}'", key.text);
      if (const RawStep* step = find_step(key.text)) {
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

  // ---- steps: names and instances ----

  void collect_steps() {
    const Node* steps = root_.find("steps");
    if (steps == nullptr || steps->kind != Node::Kind::map || steps->entries.empty()) {
      diagnostics_.error(steps == nullptr ? root_.where : steps->where,
                         steps == nullptr
                             ? "a pipeline needs 'steps:'"
                             : fmt::format("steps: expected a map of steps, found {}",
                                           steps->kind == Node::Kind::map ? "an empty one" : describe(*steps)));
      return;
    }
    for (const auto& [key, node] : steps->entries) {
      RawStep raw;
      raw.key = &key;
      raw.node = &node;
      raw.name = key.text;
      raw.broken = !check_name(key, "a step", diagnostics_);
      if (!check_keys(node, step_keys(), fmt::format("step '{}'", key.text), diagnostics_)) raw.broken = true;
      step_names_.push_back(key.text);
      by_name_[key.text] = raw_.size();
      raw_.push_back(std::move(raw));
    }
    for (RawStep& raw : raw_) resolve_instances(raw);
  }

  void resolve_instances(RawStep& raw) {
    if (raw.resolved || raw.resolving) return;
    raw.resolving = true;
    const Node* matrix = raw.node->find("matrix");
    const Node* each = raw.node->find("each");
    const std::string what = fmt::format("step '{}'", raw.name);
    if (matrix != nullptr && each != nullptr) {
      diagnostics_.error(each->where, fmt::format("{}: 'matrix' and 'each' exclude one another", what));
      raw.broken = true;
    } else if (matrix != nullptr) {
      matrices_.push_back(names().replace(*matrix, diagnostics_));
      raw.variants = expand_matrix(matrices_.back(), what, diagnostics_);
      raw.broken |= raw.variants.empty();
    } else if (each != nullptr) {
      raw.broken |= !resolve_each(raw, *each, what);
    }
    if (raw.variants.empty()) raw.variants.push_back({});
    raw.resolving = false;
    raw.resolved = true;
  }

  bool resolve_each(RawStep& raw, const Node& each, const std::string& what) {
    RawStep* base = each.kind == Node::Kind::scalar ? find_step(each.text) : nullptr;
    if (base == nullptr) {
      diagnostics_.error(each.where, fmt::format("{}: 'each': unknown step {}{}", what, describe(each),
                                                 did_you_mean(each.text, step_names_)));
      return false;
    }
    if (base->resolving) {
      diagnostics_.error(each.where, fmt::format("{}: 'each: {}' leads back to '{}'", what, each.text, raw.name));
      return false;
    }
    resolve_instances(*base);
    if (base->broken) return false;
    if (!base->multiple()) {
      diagnostics_.error(each.where, fmt::format("{}: 'each': step '{}' has no matrix", what, base->name));
      return false;
    }
    raw.base = base;
    for (const Variant& v : base->variants) {
      Variant mine;
      mine.label = v.label;
      mine.values = v.values;
      std::erase_if(mine.values, [](const Binding& b) { return b.name == "instance"; });
      Binding instance;
      instance.name = "instance";
      instance.type = FETTLE_TYPE_STRING;
      instance.value.kind = Node::Kind::scalar;
      instance.value.quoted = true;
      instance.value.text = v.label;
      mine.values.push_back(std::move(instance));
      raw.variants.push_back(std::move(mine));
    }
    return true;
  }

  RawStep* find_step(std::string_view name) {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : &raw_[found->second];
  }

  // ---- references ----

  /// Which instances of `step` a reference means from where `from` stands with `variant`; reports what is wrong.
  std::vector<std::string> instances(const RawStep& step, const std::optional<std::string>& written,
                                     const RawStep* from, const Variant* variant, const SourceRange& where) {
    if (step.broken) return {};
    if (!step.multiple()) {
      if (written)
        diagnostics_.error(where, fmt::format("step '{}' has no instances, found '[{}]'", step.name, *written));
      return written ? std::vector<std::string>{} : std::vector<std::string>{""};
    }
    const std::vector<std::string> labels = step.labels();
    if (written && *written == "*") return labels;
    if (written) {
      if (std::find(labels.begin(), labels.end(), *written) != labels.end()) return {*written};
      diagnostics_.error(
          where, fmt::format("step '{}' has no instance '{}'{}", step.name, *written, did_you_mean(*written, labels)),
          {fmt::format("instances: {}", joined(labels))});
      return {};
    }
    if (from != nullptr && from->multiple() && from->root() == step.root()) return {variant->label};
    std::vector<std::string> full;
    for (const std::string& label : labels) full.push_back(fmt::format("{}[{}]", step.name, label));
    diagnostics_.error(where, fmt::format("step '{}' has {} instances; say which", step.name, labels.size()),
                       {fmt::format("one of {}, or {}[*] where a list is taken", joined(full), step.name),
                        fmt::format("or make one of this step for each: 'each: {}'", step.name)});
    return {};
  }

  static std::string joined(const std::vector<std::string>& names) {
    std::vector<std::string> some(names.begin(),
                                  names.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(names.size(), 12)));
    std::string out;
    for (const std::string& n : some) out += (out.empty() ? "" : " ") + n;
    return names.size() > some.size() ? fmt::format("{} and {} more", out, names.size() - some.size()) : out;
  }

  /// Reads `name`, `name.port`, `name[instance]`, `name[*].port`. All instances meant; nothing after an error.
  std::vector<Reference> references(const Node& written, const std::string& what, const RawStep* from,
                                    const Variant* variant, bool ports, bool inputs) {
    if (written.kind == Node::Kind::null) return {};  // its variable was at fault, or `null` takes it away
    if (written.kind != Node::Kind::scalar) {
      diagnostics_.error(written.where, fmt::format("{}: expected the name of a step{}, found {}", what,
                                                    inputs ? " or input" : "", describe(written)));
      return {};
    }
    const std::string& text = written.text;
    if (text.find("${") != std::string::npos) return {};
    const std::size_t name_end = std::min(text.find_first_of(".["), text.size());
    Reference reference;
    reference.name = text.substr(0, name_end);
    reference.where = written.where;
    std::size_t at = name_end;
    bool good = is_name(reference.name);
    if (good && at < text.size() && text[at] == '[') {
      const std::size_t close = text.find(']', at);
      good = close != std::string::npos && close > at + 1;
      if (good) {
        reference.instance = text.substr(at + 1, close - at - 1);
        at = close + 1;
      }
    }
    if (good && at < text.size()) {
      good = text[at] == '.' && is_name(std::string_view(text).substr(at + 1));
      if (good) reference.port = text.substr(at + 1);
    }
    if (!good) {
      diagnostics_.error(written.where, fmt::format("{}: {} is not a reference", what, describe(written)),
                         {"write step, step.port, step[instance] or step[instance].port"});
      return {};
    }
    const RawStep* step = find_step(reference.name);
    if (step == nullptr) {
      const bool is_input = std::find(input_names_.begin(), input_names_.end(), reference.name) != input_names_.end();
      if (is_input && inputs) {
        if (reference.instance || reference.port) {
          diagnostics_.error(written.where, fmt::format("{}: input '{}' has no {}", what, reference.name,
                                                        reference.instance ? "instances" : "ports"));
          return {};
        }
        used_inputs_.insert(reference.name);
        return {std::move(reference)};
      }
      std::vector<std::string> known = step_names_;
      if (inputs) known.insert(known.end(), input_names_.begin(), input_names_.end());
      diagnostics_.error(inside(written, 0, name_end),
                         is_input ? fmt::format("{}: '{}' is an input, expected a step", what, reference.name)
                                  : fmt::format("{}: unknown step{} '{}'{}", what, inputs ? " or input" : "",
                                                reference.name, did_you_mean(reference.name, known)));
      return {};
    }
    if (reference.port && !ports) {
      diagnostics_.error(written.where, fmt::format("{}: expected a step, found {}", what, describe(written)));
      return {};
    }
    std::vector<Reference> out;
    for (const std::string& label : instances(*step, reference.instance, from, variant, written.where)) {
      Reference one = reference;
      one.instance = label.empty() ? std::nullopt : std::optional(label);
      out.push_back(std::move(one));
    }
    return out;
  }

  // ---- steps: contents ----

  void expand(RawStep& raw) {
    const bool each = raw.base != nullptr;
    for (const Variant& variant : raw.variants) {
      Node merged;
      const Node* node = raw.node;
      if (!variant.overrides.empty()) {
        merged = *raw.node;
        for (const Node* o : variant.overrides) merge(merged, *o);
        node = &merged;
      }
      step(raw, variant, *node, names(&variant, each));
      if (pipeline_.steps.size() > most_instances) {
        diagnostics_.error(raw.key->where, fmt::format("the pipeline has more than {} steps", grouped(most_instances)));
        return;
      }
    }
  }

  void step(const RawStep& raw, const Variant& variant, const Node& node, const Names& scope) {
    Step step;
    step.base = raw.name;
    step.instance = variant.label;
    step.name = variant.label.empty() ? raw.name : fmt::format("{}[{}]", raw.name, variant.label);
    step.where = raw.key->where;
    const std::string what = fmt::format("step '{}'", raw.name);
    if (const Node* use = node.find("use")) {
      const Node id = scope.replace(*use, diagnostics_);
      step.use_where = use->where;
      if (id.kind == Node::Kind::scalar && !id.text.empty())
        step.use = id.text;
      else
        diagnostics_.error(use->where,
                           fmt::format("{}: 'use': expected the id of a technique, found {}", what, describe(id)));
    } else {
      diagnostics_.error(raw.key->where, fmt::format("{} has no 'use'", what),
                         {"'use' names its technique: use: quantize.gguf"});
    }
    if (const Node* in = map_of(node, "in", what))
      for (const auto& [port, value] : in->entries) {
        const Node feed = scope.replace(value, diagnostics_);
        std::vector<Reference> all;
        const std::string place = fmt::format("{}: port '{}'", what, port.text);
        if (feed.kind == Node::Kind::list) {
          for (const Node& item : feed.items)
            for (Reference& r : references(item, place, &raw, &variant, true, true)) all.push_back(std::move(r));
        } else {
          all = references(feed, place, &raw, &variant, true, true);
        }
        if (feed.kind != Node::Kind::null) step.in.emplace_back(port, std::move(all));
      }
    if (const Node* with = map_of(node, "with", what))
      for (const auto& [name, value] : with->entries) {
        Node replaced = scope.replace(value, diagnostics_);
        if (replaced.kind != Node::Kind::null) step.with.emplace_back(name, std::move(replaced));
      }
    if (const Node* after = node.find("after")) {
      const Node list = scope.replace(*after, diagnostics_);
      const auto add = [&](const Node& item) {
        Node wide = item;  // a step with instances means all of them, or the one at hand inside `each`
        const RawStep* other = item.kind == Node::Kind::scalar ? find_step(item.text) : nullptr;
        if (other != nullptr && other->multiple() && !(raw.multiple() && raw.root() == other->root()))
          wide.text += "[*]";
        for (Reference& r : references(wide, what + ": 'after'", &raw, &variant, false, false))
          step.after.push_back(std::move(r));
      };
      if (list.kind == Node::Kind::list)
        for (const Node& item : list.items) add(item);
      else
        add(list);
    }
    if (const Node* when = node.find("when"))
      step.when = expression(*when, what + ": 'when'", raw, variant, scope, false);
    if (const Node* gate = node.find("gate")) {
      if (gate->kind == Node::Kind::list)
        for (const Node& one : gate->items) add_gate(step, one, what, raw, variant, scope);
      else
        add_gate(step, *gate, what, raw, variant, scope);
    }
    if (const Node* seed = node.find("seed")) {
      const Node value = scope.replace(*seed, diagnostics_);
      const auto number = read_scalar(value, FETTLE_TYPE_INT);
      if (!number || number->integer < 0)
        diagnostics_.error(value.where,
                           fmt::format("{}: 'seed': found {}, expected a whole number >= 0", what, describe(value)));
      else
        step.seed = static_cast<std::uint64_t>(number->integer);
    }
    if (const Node* isolate = node.find("isolate")) {
      const Node value = scope.replace(*isolate, diagnostics_);
      const auto flag = read_scalar(value, FETTLE_TYPE_BOOL);
      if (!flag)
        diagnostics_.error(value.where,
                           fmt::format("{}: 'isolate': found {}, expected true or false", what, describe(value)));
      else
        step.isolate = flag->integer != 0;
    }
    if (const Node* resources = node.find("resources")) read_resources(step, *resources, what, scope);
    pipeline_.steps.push_back(std::move(step));
  }

  const Node* map_of(const Node& node, const char* key, const std::string& what) {
    const Node* map = node.find(key);
    if (map == nullptr || map->kind == Node::Kind::null) return nullptr;
    if (map->kind == Node::Kind::map) return map;
    diagnostics_.error(map->where, fmt::format("{}: '{}': expected a map, found {}", what, key, describe(*map)));
    return nullptr;
  }

  void read_resources(Step& step, const Node& node, const std::string& what, const Names& scope) {
    if (!check_keys(node, {"cores", "memory"}, what + ": 'resources'", diagnostics_)) return;
    if (const Node* cores = node.find("cores")) {
      const Node value = scope.replace(*cores, diagnostics_);
      const auto number = read_scalar(value, FETTLE_TYPE_INT);
      if (!number || number->integer < 1 || number->integer > 65536)
        diagnostics_.error(value.where, fmt::format("{}: 'cores': found {}, expected a whole number from 1 to 65,536",
                                                    what, describe(value)));
      else
        step.resources.cores = static_cast<unsigned>(number->integer);
    }
    if (const Node* memory = node.find("memory")) {
      const Node value = scope.replace(*memory, diagnostics_);
      const auto number = read_scalar(value, FETTLE_TYPE_SIZE);
      if (!number)
        diagnostics_.error(value.where, fmt::format("{}: 'memory': found {}, {}", what, describe(value),
                                                    expectation(FETTLE_TYPE_SIZE, value)));
      else
        step.resources.memory = static_cast<std::uint64_t>(number->integer);
    }
  }

  std::optional<Expression> expression(const Node& node, const std::string& what, const RawStep& raw,
                                       const Variant& variant, const Names& scope, bool own_metrics) {
    if (node.kind != Node::Kind::scalar) {
      diagnostics_.error(node.where, fmt::format("{}: expected an expression, found {}", what, describe(node)));
      return std::nullopt;
    }
    Expression::Scope names;
    names.constant = [&](std::string_view name, const SourceRange& where) {
      return scope.constant(name, where, diagnostics_);
    };
    names.step = [&](std::string_view name, const std::optional<std::string>& instance,
                     const SourceRange& where) -> std::optional<std::string> {
      const RawStep* step = find_step(name);
      if (step == nullptr) {
        std::vector<std::string> notes;
        if (name.find('-') != std::string_view::npos) notes.emplace_back("to subtract, put spaces round the '-'");
        diagnostics_.error(where, fmt::format("{}: unknown step '{}'{}", what, name, did_you_mean(name, step_names_)),
                           notes);
        return std::nullopt;
      }
      const std::vector<std::string> labels = instances(*step, instance, &raw, &variant, where);
      if (labels.empty()) return std::nullopt;
      if (labels.size() > 1 || (instance && *instance == "*")) {
        diagnostics_.error(where, fmt::format("{}: '{}[*]' is several steps, a metric comes from one", what, name));
        return std::nullopt;
      }
      return labels[0].empty() ? std::string(name) : fmt::format("{}[{}]", name, labels[0]);
    };
    auto parsed = Expression::parse(node.text, inside(node, 0, node.text.size()), diagnostics_, names);
    if (!parsed) return std::nullopt;
    if (parsed->type() != Expression::Type::boolean) {
      diagnostics_.error(parsed->where(),
                         fmt::format("{}: expected a comparison, this is {}", what,
                                     parsed->type() == Expression::Type::number ? "a number" : "text"));
      return std::nullopt;
    }
    if (!own_metrics)
      for (const Expression::MetricRef& ref : parsed->metrics())
        if (ref.step.empty()) {
          diagnostics_.error(
              ref.where,
              fmt::format("{}: '{}' would be a metric of this step, which has not run yet", what, ref.metric),
              {fmt::format("write STEP.{} for that of another step", ref.metric)});
          return std::nullopt;
        }
    return parsed;
  }

  void add_gate(Step& step, const Node& node, const std::string& what, const RawStep& raw, const Variant& variant,
                const Names& scope) {
    if (!check_keys(node, {"require", "on_fail", "because"}, what + ": 'gate'", diagnostics_)) return;
    Gate gate;
    gate.where = node.where;
    bool good = true;
    if (const Node* require = node.find("require")) {
      auto parsed = expression(*require, what + ": 'require'", raw, variant, scope, true);
      good = parsed.has_value();
      if (parsed) gate.require = std::move(*parsed);
    } else {
      diagnostics_.error(node.where, fmt::format("{}: the gate has no 'require'", what),
                         {"such as require: \"ppl < 20\""});
      good = false;
    }
    if (const Node* action = node.find("on_fail")) {
      static const std::map<std::string, GateAction, std::less<>> actions{
          {"stop", GateAction::stop}, {"fail", GateAction::fail}, {"warn", GateAction::warn}};
      const auto found = action->kind == Node::Kind::scalar ? actions.find(action->text) : actions.end();
      if (found == actions.end())
        diagnostics_.error(action->where,
                           fmt::format("{}: 'on_fail' is {}, must be one of stop, fail, warn{}", what,
                                       describe(*action), did_you_mean(action->text, {"stop", "fail", "warn"})));
      else
        gate.on_fail = found->second;
    }
    if (const Node* because = node.find("because")) {
      if (because->kind == Node::Kind::scalar)
        gate.because = because->text;
      else
        diagnostics_.error(because->where,
                           fmt::format("{}: 'because': expected text, found {}", what, describe(*because)));
    }
    if (good) step.gates.push_back(std::move(gate));
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
          references(names().replace(*from, diagnostics_), what, nullptr, nullptr, true, false);
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
      if (!used_inputs_.contains(input.name))
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
  std::set<std::string> used_variables_, used_inputs_;
  std::deque<RawStep> raw_;
  std::deque<Node> matrices_;  // Variants point into them
  std::map<std::string, std::size_t, std::less<>> by_name_;
  std::vector<std::string> step_names_, input_names_;
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
