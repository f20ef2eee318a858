// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/json.h"

#include "fuzz/fuzz_driver.h"

#include <nlohmann/json.hpp>

#include <string_view>

using namespace fettle;

std::vector<std::string> fuzz_seeds() {
  return {R"({"model_type":"llama","hidden_size":256,"rope_scaling":null,"rms_norm_eps":1e-06,"eos_token_id":[1,2]})",
          R"([[],{},[{"a":{"b":[-1,18446744073709551615,0.5,true,"\u00e4\ud83d\ude00\n\\"]}}]])"};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto json = kit::parse_json({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!json) {
    test::fuzz_check(!json.error().message().empty());
    return 0;
  }
  const auto text = kit::json_text(*json);
  test::fuzz_check(text.ok());
  const auto again = kit::parse_json(*text, "fuzz");
  test::fuzz_check(again.ok() && *again == *json);
  return 0;
}
