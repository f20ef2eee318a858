// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/generate.h"

#include "fettle_kit/model/model_tokenizer.h"

#include "host/cli/verbs.h"

#include <CLI/Formatter.hpp>
#include <nlohmann/json.hpp>
#include <tbb/task_arena.h>

#include <filesystem>
#include <memory>

namespace fettle::host {
namespace {

struct Request {
  std::string model, prompt;
  std::int64_t max_tokens = 64;
  kit::Sampling sampling;
};

/// As much of `text` as is whole UTF-8 characters: a token may end inside one.
std::size_t whole_characters(const std::string& text) {
  std::size_t n = text.size();
  for (std::size_t back = 1; back <= 4 && back <= text.size(); ++back) {
    const auto c = static_cast<unsigned char>(text[text.size() - back]);
    if ((c & 0xC0) == 0x80) continue;
    const std::size_t length = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
    if (length > back) n = text.size() - back;
    break;
  }
  return n;
}

Status generate(const Options& options, const Request& request) {
  std::error_code failed;
  if (!std::filesystem::exists(request.model, failed))
    return {Code::not_found, "'" + request.model + "': no such file or folder"};
  FETTLE_ASSIGN(kit::Weights weights, kit::Weights::open(request.model));
  FETTLE_ASSIGN(const kit::Decoder decoder, kit::Decoder::open(std::move(weights)));
  FETTLE_ASSIGN(const kit::Tokenizer tokenizer, kit::open_model_tokenizer(request.model));
  kit::Tokenizer::EncodeOptions encoding;
  encoding.add_special = true;
  FETTLE_ASSIGN(const std::vector<std::int32_t> prompt, tokenizer.try_encode(request.prompt, encoding));
  if (prompt.empty()) return {Code::invalid_argument, "the prompt has no tokens; write some text after --prompt"};

  std::vector<std::int32_t> all = prompt;
  std::size_t shown = 0;
  const auto show = [&](bool last) {
    const std::string text = tokenizer.decode(all, true);
    const std::size_t end = last ? text.size() : whole_characters(text);
    if (end > shown) print(std::string_view(text).substr(shown, end - shown));
    shown = std::max(shown, end);
  };
  if (!options.json) show(false);
  const auto on_token = [&](std::int32_t id) {
    all.push_back(id);
    if (!options.json) show(false);
  };
  FETTLE_ASSIGN(const std::vector<std::int32_t> ids,
                kit::generate(decoder, prompt, request.max_tokens, request.sampling, 0, {}, on_token));
  if (options.json) {
    print_json({{"prompt", request.prompt},
                {"text", tokenizer.decode(all, true)},
                {"prompt_tokens", prompt},
                {"tokens", ids}});
  } else {
    show(true);
    print("\n");
  }
  return {};
}

}  // namespace

void add_generate_verb(CLI::App& program, Options& options, Action& action) {
  CLI::App* verb = program.add_subcommand("generate", "Let a model continue a text");
  verb->footer(
      "Example:\n  fettle generate pipelines/data/prose-3m --prompt 'When the storm had passed' --max-tokens 40");
  const auto request = std::make_shared<Request>();
  verb->add_option("model", request->model, "A checkpoint folder or a .gguf file")->required()->type_name("PATH");
  verb->add_option("--prompt", request->prompt, "The text to continue")->required()->type_name("TEXT");
  verb->add_option("--max-tokens", request->max_tokens, "At most so many new tokens (default: 64)")
      ->check(whole_number(1, std::int64_t{1} << 20))
      ->type_name("N");
  verb->add_option("--temperature", request->sampling.temperature, "0 (default): always the likeliest token")
      ->check(number(0, 100))
      ->type_name("T");
  verb->add_option("--top-k", request->sampling.top_k, "Only the k likeliest tokens (default: all)")
      ->check(whole_number(0, std::int64_t{1} << 32))
      ->type_name("K");
  verb->add_option("--top-p", request->sampling.top_p, "Only the likeliest that reach this probability (default: 1)")
      ->check(number(0, 1))
      ->type_name("P");
  verb->add_option("--seed", request->sampling.seed, "Of the random choices (default: 0)")->type_name("N");
  verb->add_option("-j,--jobs", options.jobs, "Cores (default: all)")->check(whole_number(1, 65536))->type_name("N");
  add_json_option(*verb, options);
  add_common_options(*verb, options);
  verb->callback([&, request] {
    action = [&options, request] {
      tbb::task_arena arena(options.jobs == 0 ? tbb::task_arena::automatic : static_cast<int>(options.jobs));
      const Status status = arena.execute([&] { return generate(options, *request); });
      return status.ok() ? static_cast<int>(exit_done) : fail(status);
    };
  });
}

}  // namespace fettle::host
