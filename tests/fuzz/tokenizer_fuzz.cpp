// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/text/tokenizer.h"

#include "fuzz/fuzz_driver.h"

#include <algorithm>
#include <string_view>

using namespace fettle;

// A tokenizer.json, and after the first NUL a text.
std::vector<std::string> fuzz_seeds() {
  const std::string text = std::string(1, '\0') +
                           " the <s>\xc3\xa9 ab \xe2\x96\x81"
                           "12 \xff\n";
  return {
      R"({"added_tokens":[{"id":6,"content":"<s>","special":true,"lstrip":true,"normalized":false}],"normalizer":{"type":"NFKC"},
"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\p{L}+|\\s+(?!\\S)|\\s"},
"behavior":"MergedWithNext","invert":false},{"type":"Digits","individual_digits":true},{"type":"ByteLevel","use_regex":true}]},
"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"t":3,"h":4,"th":5},"merges":["a b",["t","h"]]}})" +
          text,
      R"({"added_tokens":[{"id":5,"content":"<s>","single_word":true,"rstrip":true,"normalized":true}],
"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"\u2581"},{"type":"Replace","pattern":{"String":" "},
"content":"\u2581"}]},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}],
"special_tokens":{"<s>":{"ids":[5]}}},"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"Regex":"\u2581"},
"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
"model":{"type":"BPE","unk_token":"?","fuse_unk":true,"byte_fallback":true,"vocab":{"?":0,"a":1,"b":2,"ab":3,"<0xC3>":4},
"merges":[["a","b"]]}})" +
          text};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = std::min(input.find('\0'), size);
  const auto tokenizer = kit::Tokenizer::parse(input.substr(0, end), "fuzz");
  if (!tokenizer) {
    test::fuzz_check(!tokenizer.error().message().empty());
    return 0;
  }
  const std::string_view text = input.substr(std::min(end + 1, size)).substr(0, 4096);
  const auto ids = tokenizer->try_encode(text, {});
  if (!ids) return 0;
  for (const std::int32_t id : *ids) test::fuzz_check(tokenizer->token(id) != nullptr);
  tokenizer->decode(*ids);
  kit::Tokenizer::EncodeOptions half;
  half.max_tokens = ids->size() / 2;
  const auto first = tokenizer->try_encode(text, half);
  test::fuzz_check(first.ok() && first->size() == half.max_tokens &&
                   std::equal(first->begin(), first->end(), ids->begin()));
  return 0;
}
