// SPDX-License-Identifier: Apache-2.0
#include <fettle/plugin.h>
#include <fettle_kit/io/checkpoint.h>

namespace {

namespace kit = fettle::kit;

/// Multiplies every weight by a factor.
struct Scale {
  struct Params {
    double factor = 1.0;
  };

  static fettle::Description<Params> describe() {
    return fettle::Description<Params>("my.scale", "Multiply every weight by a factor.")
        .input("model", "model", "a Hugging Face checkpoint", "layout=hf")
        .output("model", "model", "the scaled checkpoint")
        .param("factor", &Params::factor, "what to multiply by", fettle::in_range(-10, 10));
  }

  static fettle::Status run(const Params& p, fettle::Context& context) {
    FETTLE_ASSIGN(const auto model, kit::Checkpoint::open(context.inputs.at("model").path()));
    std::vector<kit::TensorSpec> specs;
    for (const kit::TensorView* t : model.tensors()) specs.push_back({t->name, t->dtype, t->shape});

    std::uint64_t done = 0;
    const auto scaled = [&](const kit::TensorSpec& spec, const kit::TensorSink& sink) -> fettle::Status {
      if (context.cancelled()) return fettle::cancelled_status();
      const kit::TensorView& t = *model.find(spec.name);
      std::vector<float> values(static_cast<std::size_t>(t.elements()));
      std::vector<std::byte> bytes(t.bytes.size());
      kit::info(t.dtype).to_f32(t.bytes.data(), values.data(), values.size());
      for (float& v : values) v *= static_cast<float>(p.factor);
      kit::info(t.dtype).from_f32(values.data(), bytes.data(), values.size());
      context.progress("tensors", ++done, specs.size());
      return sink(bytes);
    };
    return kit::write_checkpoint(context.output("model"), model.config(), specs, scaled, model.folder());
  }
};

}  // namespace

FETTLE_PLUGIN("my-techniques", "1.0", "Me", "MIT", Scale)
