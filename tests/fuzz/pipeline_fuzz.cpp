// SPDX-License-Identifier: Apache-2.0
#include "fuzz/fuzz_driver.h"
#include "host/pipeline/pipeline.h"

#include <string>

using namespace fettle::host;

std::vector<std::string> fuzz_seeds() {
  return {R"(fettle: 1
vars: {keep: {type: float, default: 0.5, max: 1}, types: {type: list, default: [a, b]}}
inputs: {base: {kind: model, path: "."}}
steps:
  pruned: {use: x.y, in: {model: base}, with: {s: "${vars.keep}", t: "k=${vars.keep}"}, gate: {require: "ppl < 2 * base.ppl"}}
  small: {use: q, matrix: {from: {dense: {in: {m: base}}, "2:4": {in: {m: pruned}}}, type: "${vars.types}", exclude: [{type: a}]}}
  check: {each: small, use: e, in: {a: small, b: [base, "small[*].mask"]}, after: pruned, when: "pruned.ppl.se < 3GiB"}
outputs: {o: {from: "small[*]", path: "out/{instance}"}}
profiles: {p: {vars: {keep: 0.1}, steps: {pruned: {with: {s: null}}}}}
)",
          "a: &x [1, \"t\\u00e4\\n\", 'q', {b: *x, ? c : d}]\nk: |\n  t\nm: !!str >-\n  f\n<<: *x\n--- \n"};
}

/// Reads the bytes as YAML, as a whole pipeline and as an expression. Findings lie inside the text they speak of.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  Diagnostics diagnostics;
  const auto source = std::make_shared<SourceText>(SourceText{"fuzz", text});
  const Node root = parse_yaml(source, diagnostics);
  fettle::test::fuzz_check(!diagnostics.has_errors() || root.kind == Node::Kind::null);
  Expression::parse(text, {source, 1, 1, 1}, diagnostics);
  load_pipeline_text(text, "fuzz", {{"steps.small.with.x=" + text.substr(0, 40)}, {"p"}}, diagnostics);
  for (const Diagnostic& d : diagnostics.all()) {
    fettle::test::fuzz_check(!d.message.empty());
    fettle::test::fuzz_check(d.where.line == 0 || (d.where.column >= 1 && d.where.length >= 1));
  }
  fettle::test::fuzz_check(diagnostics.has_errors() == diagnostics.category().has_value());
  (void)diagnostics.text();
  return 0;
}
