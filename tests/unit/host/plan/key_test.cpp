// SPDX-License-Identifier: Apache-2.0
#include "host/plan/bind_params.h"
#include "host/plan/plan.h"
#include "unit/host/plan/test_techniques.h"

#include <gtest/gtest.h>

#include <set>

namespace fettle::host {
namespace {

using Digests = std::vector<std::pair<std::string, std::string>>;

/// What `with:` of this YAML gives for the technique.
ParamSet bound(const Technique& technique, const std::string& with) {
  Diagnostics diagnostics;
  Step step;
  step.name = step.base = "s";
  Node node = parse_yaml(std::make_shared<SourceText>(SourceText{"with", with}), diagnostics);
  step.with = std::move(node.entries);
  auto params = ParamBinder("/", nullptr, diagnostics).bind(technique, step);
  EXPECT_TRUE(params) << diagnostics.text();
  return params ? std::move(*params) : ParamSet();
}

std::string key(const std::string& with, const Digests& inputs = {{"model", "sha256:aa"}}, std::uint64_t seed = 0) {
  const Technique& technique = test::technique("prune.magnitude");
  return step_key(technique, bound(technique, with), inputs, seed).key;
}

TEST(StepKey, IsTheHashOfCanonicalJson) {
  const Technique& technique = test::technique("prune.magnitude");
  const StepKey k = step_key(technique, bound(technique, "{pattern: \"2:4\", overrides: {b: 1, a: 0.25}}"),
                             {{"model", "sha256:aa"}}, 3);
  EXPECT_EQ(
      k.text,
      R"({"epoch":1,"inputs":{"model":["sha256:aa"]},"numerics":"portable","params":{"buffer":1048576,)"
      R"("overrides":[["b",1],["a",0.25]],"patience":60,"pattern":"2:4","per_row":false,"skip":[],"sparsity":0.5},)"
      R"("plugin":"sha256:0123","seed":3,"technique":"prune.magnitude"})");
  EXPECT_EQ(k.key.size(), 64u);
}

TEST(StepKey, EveryFieldAltersIt) {
  const Technique& real = test::technique("prune.magnitude");
  std::set<std::string> keys;
  std::size_t made = 0;
  const auto add = [&](const std::string& k) { keys.insert(k), ++made; };
  for (const char* with :
       {"{}", "{sparsity: 0.25}", "{sparsity: 0.2500000001}", "{pattern: a}", "{pattern: \"\"}", "{pattern: \"null\"}",
        "{skip: [a]}", "{skip: [a, b]}", "{skip: [b, a]}", "{skip: [\"a,b\"]}", "{skip: ['a\",\"b']}", "{skip: [\"\"]}",
        "{overrides: {a: 0.5}}", "{overrides: {a: 0.5, b: 1}}", "{overrides: {b: 1, a: 0.5}}", "{buffer: 2MiB}",
        "{patience: 61s}", "{per_row: true}"})
    add(key(with));
  for (const Digests& inputs : {Digests{}, Digests{{"model", "sha256:ab"}}, Digests{{"calibration", "sha256:aa"}},
                                Digests{{"model", "sha256:aa"}, {"calibration", "sha256:aa"}},
                                Digests{{"model", "sha256:aa"}, {"model", "sha256:ab"}},
                                Digests{{"model", "sha256:ab"}, {"model", "sha256:aa"}}})
    add(key("{}", inputs));
  add(key("{}", {{"model", "sha256:aa"}}, 1));
  const ParamSet params = bound(real, "{}");
  const auto altered = [&](const auto& change) {
    fettle_technique table = *real.table;
    Plugin plugin;
    plugin.digest = real.plugin->digest;
    change(table, plugin);
    return step_key({&table, &plugin}, params, {{"model", "sha256:aa"}}, 0).key;
  };
  add(altered([](fettle_technique& t, Plugin&) { t.epoch = 2; }));
  add(altered([](fettle_technique& t, Plugin&) { t.id = "prune.other"; }));
  add(altered([](fettle_technique& t, Plugin&) { t.determinism = FETTLE_ISA; }));
  add(altered([](fettle_technique& t, Plugin&) { t.determinism = FETTLE_DEVICE; }));
  add(altered([](fettle_technique&, Plugin& p) { p.digest = "sha256:4567"; }));
  EXPECT_EQ(keys.size(), made);
}

TEST(StepKey, ForgetsHowAValueWasWritten) {
  EXPECT_EQ(key("{sparsity: 1.0e-4}"), key("{sparsity: 0.0001}"));
  EXPECT_EQ(key("{sparsity: 0.5}"), key("{}"));  // the default, written out
  EXPECT_EQ(key("{sparsity: -0.0}"), key("{sparsity: 0}"));
  EXPECT_EQ(key("{patience: 1min, buffer: 1MiB}"), key("{buffer: 1048576B, patience: 60s}"));
  EXPECT_EQ(key("{pattern: a}"), key("{pattern: 'a'}"));
}

TEST(StepKey, ForgetsVersionHelpAndPlace) {
  const Technique& real = test::technique("prune.magnitude");
  fettle_technique table = *real.table;
  table.version = "9";
  table.help = "other words";
  Plugin plugin = *real.plugin;
  plugin.path = "/elsewhere.so";
  const ParamSet params = bound(real, "{}");
  EXPECT_EQ(step_key({&table, &plugin}, params, {}, 0).key, step_key(real, params, {}, 0).key);
}

}  // namespace
}  // namespace fettle::host
