// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/gguf.h"

#include <fmt/format.h>

#include <filesystem>

namespace {

namespace fs = std::filesystem;
using fettle::Code;
using fettle::Status;

class IoLoad {
 public:
  struct Params {
    fettle::Path path;
  };

  static fettle::Description<Params> describe() {
    return fettle::Description<Params>("io.load", "Take a model from outside the store: linked, not copied.")
        .epoch(1)
        .version("1.0")
        .output("model", "model", "the model; its files stay where they are")
        .param("path", &Params::path, fettle::required, "a Hugging Face checkpoint folder, or a GGUF file");
  }

  static Status estimate(const Params&, const fettle::Inputs&, fettle::Estimate& e) {
    e.memory(16e6).max_threads(1);
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    const fs::path source(p.path.value), target(context.output("model"));
    std::error_code error;
    if (fs::is_directory(source, error)) {
      FETTLE_TRY(fettle::kit::Checkpoint::open(source));  // opening checks every header
      for (const fs::directory_entry& entry : fs::directory_iterator(source, error))
        if (entry.is_regular_file()) FETTLE_TRY(link(entry.path(), target));
    } else {
      FETTLE_TRY(fettle::kit::GgufReader::open_model(source));
      FETTLE_ASSIGN(const auto parts, fettle::kit::gguf_files(source));
      for (const std::string& part : parts) FETTLE_TRY(link(part, target));
    }
    if (error) return {Code::io, fmt::format("{}: cannot list: {}", source.string(), error.message()), "path"};
    return {};
  }

 private:
  static Status link(const fs::path& file, const fs::path& folder) {
    std::error_code error;
    fs::create_symlink(fs::absolute(file), folder / file.filename(), error);
    if (error)
      return {Code::io, fmt::format("{}: cannot link: {}", (folder / file.filename()).string(), error.message())};
    return {};
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-io-load", "0.1.0", "Fettle", "Apache-2.0", IoLoad)
