// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/gguf.h"

#include "fuzz/fuzz_driver.h"
#include "unit/kit/io/gguf_bytes.h"

using namespace fettle;

std::vector<std::string> fuzz_seeds() {
  test::GgufBytes pairs, tensors;
  pairs.header(3, 0, 5).text("general.architecture").i32(8).text("llama");
  pairs.text("a").i32(9).i32(8).u64(2).text("x").text("");
  pairs.text("b").i32(9).i32(4).u64(2).u32(7).u32(8);
  pairs.text("c").i32(7).u8(1).text("d").i32(12).u64(0).align(32);
  tensors.header(3, 2, 1).text("general.alignment").i32(4).u32(16);
  tensors.text("v").u32(2).i64(32).i64(2).i32(2).u64(0);
  tensors.text("w").u32(1).i64(3).i32(0).u64(48).align(16).zeros(48 + 16);
  return {pairs.bytes, tensors.bytes};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto content = kit::parse_gguf(bytes, "fuzz");
  if (!content) return 0;
  for (const kit::TensorView& tensor : content->tensors) {
    test::fuzz_check(tensor.bytes.empty() ||
                     (tensor.bytes.data() >= bytes.data() &&
                      tensor.bytes.data() + tensor.bytes.size() <= bytes.data() + bytes.size()));
    test::fuzz_check(tensor.bytes.size() == kit::bytes_of(tensor.dtype, static_cast<std::uint64_t>(tensor.elements())));
    test::fuzz_check(tensor.elements() == 0 || tensor.rows() * tensor.cols() == tensor.elements());
  }
  return 0;
}
