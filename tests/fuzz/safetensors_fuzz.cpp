// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/safetensors.h"

#include "fuzz/fuzz_driver.h"
#include "unit/kit/io/safetensors_bytes.h"

using namespace fettle;

std::vector<std::string> fuzz_seeds() {
  return {test::safetensors_bytes(
              R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8),
          test::safetensors_bytes(R"({"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
                                  R"("c":{"dtype":"I8","shape":[],"data_offsets":[12,13]},)"
                                  R"("d":{"dtype":"F64","shape":[0,7],"data_offsets":[13,13]}}   )",
                                  13)};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto content = kit::parse_safetensors(bytes, "fuzz");
  if (!content) return 0;
  const std::byte* at = nullptr;  // tensors follow each other to the end of the file, and hold what their shape says
  for (const kit::TensorView& tensor : content->tensors) {
    test::fuzz_check(at == nullptr || tensor.bytes.data() == at);
    at = tensor.bytes.data() + tensor.bytes.size();
    test::fuzz_check(tensor.bytes.size() == kit::bytes_of(tensor.dtype, static_cast<std::uint64_t>(tensor.elements())));
    test::fuzz_check(tensor.elements() == 0 || tensor.rows() * tensor.cols() == tensor.elements());
  }
  test::fuzz_check(at == nullptr || at == bytes.data() + bytes.size());
  return 0;
}
