// SPDX-License-Identifier: Apache-2.0
// Our side of the interoperability tests, as JSON on stdout:
//
//   interop_probe quantize CHECKPOINT TYPE FILE       writes a GGUF file
//   interop_probe tokenize MODEL TEXTS.json           token ids of each string of a JSON list, without BOS
//   interop_probe nll MODEL TEXT.txt LENGTH WINDOWS   the windows of the text and their mean NLL
//   interop_probe step STEP.json                      runs a technique and copies its outputs; keys plugin, technique,
//                                                     inputs [{port, kind, path, attributes}], params, outputs {port:
//                                                     path}
//   interop_probe logits MODEL IDS.json FILE          [ids, vocab] f32 of one sequence, and their shape

#include "fettle_kit/eval/perplexity.h"
#include "fettle_kit/eval/windows.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/io/output_file.h"
#include "fettle_kit/model/decoder.h"
#include "fettle_kit/model/model_tokenizer.h"

#include "plugins/harness.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

namespace {

using namespace fettle;
using namespace fettle::kit;

Status quantize(const std::string& checkpoint, const std::string& type, const std::string& file) {
  const test::StepResult step = test::Step("quantize_gguf", "quantize.gguf")
                                    .input("model", "model", checkpoint, {{"layout", "hf"}})
                                    .param("type", type)
                                    .run();
  if (!step.ok()) return {Code::internal, step.message};
  std::filesystem::copy_file(step.outputs.at("model") + "/model.gguf", file,
                             std::filesystem::copy_options::overwrite_existing);
  return {};
}

Status tokenize(const std::string& model, const std::string& texts_file) {
  FETTLE_ASSIGN(const Tokenizer tokenizer, open_model_tokenizer(model));
  FETTLE_ASSIGN(const Json texts, read_json_file(texts_file));
  Json ids = Json::array();
  for (const Json& text : texts) ids.push_back(tokenizer.encode(text.get<std::string>()));
  fmt::print("{}\n", ids.dump());
  return {};
}

Status nll(const std::string& path, const std::string& text_file, std::int64_t length, std::int64_t count) {
  FETTLE_ASSIGN(const Tokenizer tokenizer, open_model_tokenizer(path));
  FETTLE_ASSIGN(const std::string text, read_text_file(text_file));
  FETTLE_ASSIGN(const TokenSet windows, windows_of_text(tokenizer, text, length, count));
  FETTLE_ASSIGN(Weights weights, Weights::open(path));
  FETTLE_ASSIGN(const Decoder model, Decoder::open(std::move(weights)));
  FETTLE_ASSIGN(const Perplexity result, perplexity(model, windows));
  Json out{{"nll", result.nll.value}, {"windows", Json::array()}};
  for (std::int64_t i = 0; i < windows.sequences(); ++i) {
    const auto ids = windows.sequence(i);
    out["windows"].push_back(std::vector<std::int32_t>(ids.begin(), ids.end()));
  }
  fmt::print("{}\n", out.dump());
  return {};
}

Status step(const std::string& description) {
  namespace fs = std::filesystem;
  FETTLE_ASSIGN(const Json json, read_json_file(description));
  test::Step step(json.at("plugin").get<std::string>(), json.at("technique").get<std::string>());
  for (const Json& in : json.at("inputs"))
    step.input(in.at("port").get<std::string>(), in.at("kind").get<std::string>(), in.at("path").get<std::string>(),
               in.value("attributes", test::Attributes{}));
  for (const auto& [name, value] : json.at("params").items()) step.param(name, value);
  const test::StepResult result = step.run();
  if (!result.ok()) return {Code::internal, result.message};
  for (const auto& [port, path] : json.at("outputs").items())
    fs::copy(result.outputs.at(port), path.get<std::string>(), fs::copy_options::recursive);
  return {};
}

Status logits(const std::string& path, const std::string& ids_file, const std::string& file) {
  FETTLE_ASSIGN(const Json json, read_json_file(ids_file));
  const auto ids = json.get<std::vector<std::int32_t>>();
  FETTLE_ASSIGN(Weights weights, Weights::open(path));
  FETTLE_ASSIGN(const Decoder model, Decoder::open(std::move(weights)));
  const auto rows = static_cast<std::int64_t>(ids.size());
  Rows states(rows, model.config().hidden), logits(rows, model.config().vocab);
  FETTLE_TRY(model.forward(states, ids, {1, rows}));
  model.logits(logits, states);
  const MutMatrix all = logits;
  std::ofstream out(file, std::ios::binary);
  out.write(reinterpret_cast<const char*>(all.data), all.rows * all.cols * static_cast<std::int64_t>(sizeof(float)));
  if (!out.flush()) return {Code::io, file + ": cannot be written"};
  fmt::print("[{}, {}]\n", all.rows, all.cols);
  return {};
}

Status run(std::span<const std::string> words) {
  if (words.size() == 4 && words[0] == "quantize") return quantize(words[1], words[2], words[3]);
  if (words.size() == 3 && words[0] == "tokenize") return tokenize(words[1], words[2]);
  if (words.size() == 5 && words[0] == "nll")
    return nll(words[1], words[2], std::stoll(words[3]), std::stoll(words[4]));
  if (words.size() == 2 && words[0] == "step") return step(words[1]);
  if (words.size() == 4 && words[0] == "logits") return logits(words[1], words[2], words[3]);
  return {Code::invalid_argument, "usage: see the head of tests/interop/probe.cpp"};
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (const Status status = run(words); !status.ok()) {
    fmt::print(stderr, "{}\n", status.message());
    return 1;
  }
  return 0;
}
