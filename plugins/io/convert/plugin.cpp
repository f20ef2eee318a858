// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/model_files.h"

#include "convert.h"

namespace {

using fettle::Status;

class IoConvert {
 public:
  struct Params {
    std::string to = "bf16";
    std::string compress = "no";
    fettle::Bytes shard_size{5'000'000'000};
  };

  static fettle::Description<Params> describe() {
    return fettle::Description<Params>("io.convert", "Turn a model in any layout we read into a plain checkpoint.")
        .epoch(2)
        .version("1.0")
        .input("model", "model", "a Hugging Face checkpoint, quantized or not, or a GGUF file of any type we read")
        .output("model", "model", "the same weights as floats, by their usual names")
        .param("to", &Params::to, "type of the floats", fettle::one_of({"bf16", "f16", "f32"}))
        .param(
            "compress", &Params::compress,
            "2:4: store sparse matrices as half of their values and where these stood, for archives and sm80 kernels",
            fettle::one_of({"no", "2:4"}))
        .param("shard_size", &Params::shard_size, "largest size of a file of weights", fettle::at_least(1e6));
  }

  static Status validate(const Params& p) {
    if (p.compress == "2:4" && p.to == "f32")
      return {fettle::Code::invalid_argument, "the 2:4 layout holds weights of 16 bits; use to: bf16 or to: f16", "to"};
    return {};
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    const fettle::Input model = in.at("model");
    const double parameters = model.number("parameters", 4 * model.number("bytes"));
    e.memory(192e6)
        .disk(parameters * (p.to == "f32" ? 4 : 2) *
              (p.compress == "2:4" ? 1 + 9.0 / 16 : 1))  // the plain one beside it
        .like("model", model)
        .attribute("model", "layout", "hf")
        .attribute("model", "weights", p.compress == "2:4" ? "sparse24.sm80" : p.to);
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    io_convert::Target target;
    target.folder = context.output("model");
    target.type = fettle::kit::find_dtype_by_name(p.to)->dtype;
    target.shard_bytes = static_cast<std::uint64_t>(p.shard_size.value);
    const bool compress = p.compress == "2:4";
    if (compress) target.folder = context.scratch() + "/dense";
    const std::string path = context.inputs.at("model").path();
    FETTLE_ASSIGN(const std::string gguf, fettle::kit::gguf_file_of(path));
    FETTLE_TRY(gguf.empty() ? io_convert::from_checkpoint(path, target, context)
                            : io_convert::from_gguf(gguf, target, context));
    if (compress) return io_convert::to_sparse24(target.folder, context.output("model"), target.shard_bytes, context);
    return {};
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-io-convert", "0.1.0", "Fettle", "Apache-2.0", IoConvert)
