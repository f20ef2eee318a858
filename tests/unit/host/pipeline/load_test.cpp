// SPDX-License-Identifier: Apache-2.0
#include "host/pipeline/pipeline.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace fettle::host {
namespace {

namespace fs = std::filesystem;

class LoadPipeline : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "fettle-load-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    for (const char* file : {"b.txt", "a.txt", "c.md"}) std::ofstream(folder_ / file) << file;
  }
  void TearDown() override { fs::remove_all(folder_); }

  Pipeline load(const std::string& yaml, const LoadOptions& options = {}) {
    std::ofstream(folder_ / "p.yaml") << yaml;
    Diagnostics diagnostics;
    Pipeline pipeline = load_pipeline((folder_ / "p.yaml").string(), options, diagnostics);
    EXPECT_FALSE(diagnostics.has_errors()) << diagnostics.text();
    return pipeline;
  }
  static std::vector<std::string> names(const Pipeline& pipeline) {
    std::vector<std::string> out;
    for (const Step& step : pipeline.steps) out.push_back(step.name);
    return out;
  }
  static const Step& step(const Pipeline& pipeline, const std::string& name) {
    for (const Step& s : pipeline.steps)
      if (s.name == name) return s;
    throw std::runtime_error("no step " + name);
  }
  static std::string fed(const Step& step, const std::string& port) {
    std::string out;
    for (const auto& [key, references] : step.in)
      if (key.text == port)
        for (const Reference& r : references) {
          if (!out.empty()) out += ' ';
          out += r.full_name();
          if (r.port) out.append(".").append(*r.port);
        }
    return out;
  }
  static const Node& with(const Step& step, const std::string& name) {
    for (const auto& [key, node] : step.with)
      if (key.text == name) return node;
    throw std::runtime_error("no parameter " + name);
  }

  fs::path folder_;
};

const char* const crossed = R"(fettle: 1
inputs: {base: {kind: model, path: .}}
steps:
  pruned: {use: prune, in: {model: base}}
  quant:
    use: gguf
    matrix:
      sparsity: {dense: {in: {model: base}}, "2:4": {in: {model: pruned}, with: {note: sparse}}}
      type: [Q4_K_M, Q8_0]
    with: {type: "${matrix.type}", note: plain}
  quality: {each: quant, use: compare, in: {model: quant}, with: {name: "${each.instance}", type: "${each.type}"}}
  best: {each: quality, use: pick, in: {a: quant, b: quality.out}, after: quality, gate: {require: "ppl < quality.ppl"}}
  table: {use: table, in: {all: "quant[*]", one: ["quant[dense,Q8_0].model", base]}, after: best}
outputs:
  models: {from: "quant[*].model", path: "out/{instance}.gguf"}
  one: {from: "quant[2:4,Q8_0]", path: /abs/one.gguf, when_gates: any}
)";

TEST_F(LoadPipeline, MatrixInstancesAreNamedByKeysAndValuesInTheOrderWritten) {
  const Pipeline p = load(crossed);
  EXPECT_EQ(names(p), (std::vector<std::string>{
                          "pruned", "quant[dense,Q4_K_M]", "quant[dense,Q8_0]", "quant[2:4,Q4_K_M]", "quant[2:4,Q8_0]",
                          "quality[dense,Q4_K_M]", "quality[dense,Q8_0]", "quality[2:4,Q4_K_M]", "quality[2:4,Q8_0]",
                          "best[dense,Q4_K_M]", "best[dense,Q8_0]", "best[2:4,Q4_K_M]", "best[2:4,Q8_0]", "table"}));
}

TEST_F(LoadPipeline, MatrixVariantsOverrideTheStep) {
  const Pipeline p = load(crossed);
  EXPECT_EQ(fed(step(p, "quant[2:4,Q8_0]"), "model"), "pruned");
  EXPECT_EQ(fed(step(p, "quant[dense,Q8_0]"), "model"), "base");
  EXPECT_EQ(with(step(p, "quant[2:4,Q8_0]"), "note").text, "sparse");
  EXPECT_EQ(with(step(p, "quant[dense,Q8_0]"), "note").text, "plain");
  EXPECT_EQ(with(step(p, "quant[dense,Q8_0]"), "type").text, "Q8_0");
}

TEST_F(LoadPipeline, EachZipsByInstance) {
  const Pipeline p = load(crossed);
  const Step& best = step(p, "best[2:4,Q8_0]");
  EXPECT_EQ(fed(best, "a"), "quant[2:4,Q8_0]");
  EXPECT_EQ(fed(best, "b"), "quality[2:4,Q8_0].out");
  EXPECT_EQ(best.after[0].full_name(), "quality[2:4,Q8_0]");
  EXPECT_EQ(best.gates[0].require.metrics()[1].step, "quality[2:4,Q8_0]");
  EXPECT_EQ(with(step(p, "quality[2:4,Q8_0]"), "name").text, "2:4,Q8_0");
  EXPECT_EQ(with(step(p, "quality[2:4,Q8_0]"), "type").text, "Q8_0");
}

TEST_F(LoadPipeline, AStarMeansEveryInstance) {
  const Pipeline p = load(crossed);
  const Step& table = step(p, "table");
  EXPECT_EQ(fed(table, "all"), "quant[dense,Q4_K_M] quant[dense,Q8_0] quant[2:4,Q4_K_M] quant[2:4,Q8_0]");
  EXPECT_EQ(fed(table, "one"), "quant[dense,Q8_0].model base");
  EXPECT_EQ(table.after.size(), 4u);
}

TEST_F(LoadPipeline, OutputsOfSeveralInstancesCarryTheirNames) {
  const Pipeline p = load(crossed);
  ASSERT_EQ(p.outputs.size(), 5u);
  EXPECT_EQ(p.outputs[2].name, "models[2:4,Q4_K_M]");
  EXPECT_EQ(p.outputs[2].path, (folder_ / "out/2-4-Q4_K_M.gguf").string());
  EXPECT_EQ(p.outputs[2].from.port, "model");
  EXPECT_EQ(p.outputs[4].path, "/abs/one.gguf");
  EXPECT_FALSE(p.outputs[4].when_gates_pass);
}

TEST_F(LoadPipeline, ExcludeAndIncludeChooseCombinations) {
  const Pipeline p = load(
      "fettle: 1\nsteps:\n  s: {use: x, matrix: {a: [1, 2], b: {u: 3, v: }, exclude: [{a: 2}], include: [{a: 2, b: "
      "v}]}, with: {n: "
      "'${matrix.a}-${matrix.b}'}}\n");
  EXPECT_EQ(names(p), (std::vector<std::string>{"s[1,u]", "s[1,v]", "s[2,v]"}));
  EXPECT_EQ(with(p.steps[0], "n").text, "1-3");
}

TEST_F(LoadPipeline, AWholeVariableKeepsItsTypeAndTextAroundItMakesText) {
  const Pipeline p = load(R"(fettle: 1
vars:
  keep: {type: float, default: 0.5}
  name: {type: string, default: 12}
  types: {type: list, default: [Q8_0, F16]}
steps:
  a: {use: x, with: {keep: "${vars.keep}", text: "k=${vars.keep} $${x}", name: "${vars.name}", list: "${vars.types}"}}
  b: {use: x, matrix: {t: "${vars.types}"}}
)");
  EXPECT_FALSE(with(p.steps[0], "keep").quoted);
  EXPECT_EQ(with(p.steps[0], "keep").text, "0.5");
  EXPECT_EQ(with(p.steps[0], "text").text, "k=0.5 ${x}");
  EXPECT_TRUE(with(p.steps[0], "name").quoted);
  EXPECT_EQ(with(p.steps[0], "list").items.size(), 2u);
  EXPECT_EQ(names(p), (std::vector<std::string>{"a", "b[Q8_0]", "b[F16]"}));
}

const char* const overridden = R"(fettle: 1
vars: {keep: {type: float, default: 0.5, max: 1}}
inputs: {text: {kind: text, path: a.txt}}
steps:
  s: {use: x, in: {text: text}, with: {keep: "${vars.keep}", deep: {a: 1, b: 2}}, resources: {memory: 1GiB}}
profiles:
  smoke: {vars: {keep: 0.1}, steps: {s: {seed: 4, with: {deep: {b: 3, c: 4}}, resources: null}}}
  tiny: {vars: {keep: 0.2}}
)";

TEST_F(LoadPipeline, ProfilesMergeFromLeftToRight) {
  const Pipeline p = load(overridden, {{}, {"smoke", "tiny"}});
  EXPECT_EQ(with(p.steps[0], "keep").text, "0.2");
  EXPECT_EQ(p.steps[0].seed, 4u);
  EXPECT_FALSE(p.steps[0].resources.memory);
  const Node& deep = with(p.steps[0], "deep");
  EXPECT_EQ(deep.find("a")->text + deep.find("b")->text + deep.find("c")->text, "134");
}

TEST_F(LoadPipeline, SetsComeLast) {
  const Pipeline p =
      load(overridden,
           {{"vars.keep=0.9", "steps.s.with.extra=[1, 2]", "steps.s.resources.cores=3", "inputs.text.path=b.txt"},
            {"smoke"}});
  EXPECT_EQ(with(p.steps[0], "keep").text, "0.9");
  EXPECT_EQ(with(p.steps[0], "extra").items.size(), 2u);
  EXPECT_EQ(with(p.steps[0], "extra").items[1].where.column, 24);
  EXPECT_EQ(p.steps[0].resources.cores, 3u);
  EXPECT_EQ(p.inputs[0].paths[0], (folder_ / "b.txt").string());
}

TEST_F(LoadPipeline, GlobsAreExpandedAndSorted) {
  const Pipeline p =
      load("fettle: 1\ninputs: {t: {kind: text, path: ['*.txt', c.md]}}\nsteps: {s: {use: x, in: {t: t}}}\n");
  EXPECT_EQ(p.inputs[0].paths, (std::vector<std::string>{(folder_ / "a.txt").string(), (folder_ / "b.txt").string(),
                                                         (folder_ / "c.md").string()}));
}

TEST_F(LoadPipeline, ReadsEverySettingOfAStep) {
  const Pipeline p = load(R"(fettle: 1
name: n
steps:
  a: {use: x}
  b: {use: x, after: [a], when: "a.ppl > 3", seed: 7, resources: {cores: 2, memory: 1.5GiB}, isolate: true,
      gate: [{require: "ppl < 3", on_fail: warn, because: why}, {require: "ppl > a.ppl"}]}
)");
  const Step& b = p.steps[1];
  EXPECT_EQ(p.name, "n");
  EXPECT_EQ(b.after[0].name, "a");
  EXPECT_EQ(b.when->text(), "a.ppl > 3");
  EXPECT_EQ(b.seed, 7u);
  EXPECT_EQ(*b.resources.memory, 1610612736u);
  EXPECT_EQ(b.isolate, true);
  ASSERT_EQ(b.gates.size(), 2u);
  EXPECT_EQ(b.gates[0].on_fail, GateAction::warn);
  EXPECT_EQ(b.gates[0].because, "why");
  EXPECT_EQ(b.gates[1].on_fail, GateAction::stop);
}

TEST_F(LoadPipeline, VariablesStandInGates) {
  const Pipeline p = load(
      "fettle: 1\nvars: {most: {type: size, default: 2GiB}}\nsteps: {a: {use: x, gate: {require: 'bytes < "
      "vars.most'}}}\n");
  const auto result = p.steps[0].gates[0].require.evaluate([](const auto&) { return 1e9; });
  EXPECT_TRUE(std::get<bool>(std::get<0>(result)));
}

}  // namespace
}  // namespace fettle::host
