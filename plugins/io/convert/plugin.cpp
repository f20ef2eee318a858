// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/model_files.h"

#include "convert.h"

namespace {

using fettle::Status;

class IoConvert {
 public:
  struct Params {
    std::string to = "bf16";
    fettle::Bytes shard_size{5'000'000'000};
  };

  static fettle::Description<Params> describe() {
    return fettle::Description<Params>("io.convert", "Turn a model in any layout we read into a plain checkpoint.")
        .epoch(2)
        .version("1.0")
        .input("model", "model", "a Hugging Face checkpoint, quantized or not, or a GGUF file of any type we read")
        .output("model", "model", "the same weights as floats, by their usual names")
        .param("to", &Params::to, "type of the floats", fettle::one_of({"bf16", "f16", "f32"}))
        .param("shard_size", &Params::shard_size, "largest size of a file of weights", fettle::at_least(1e6));
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    const fettle::Input model = in.at("model");
    const double parameters = model.number("parameters", 4 * model.number("bytes"));
    e.memory(192e6)
        .disk(parameters * (p.to == "f32" ? 4 : 2))
        .like("model", model)
        .attribute("model", "layout", "hf")
        .attribute("model", "weights", p.to);
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    io_convert::Target target;
    target.folder = context.output("model");
    target.type = fettle::kit::find_dtype_by_name(p.to)->dtype;
    target.shard_bytes = static_cast<std::uint64_t>(p.shard_size.value);
    const std::string path = context.inputs.at("model").path();
    FETTLE_ASSIGN(const std::string gguf, fettle::kit::gguf_file_of(path));
    return gguf.empty() ? io_convert::from_checkpoint(path, target, context)
                        : io_convert::from_gguf(gguf, target, context);
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-io-convert", "0.1.0", "Fettle", "Apache-2.0", IoConvert)
