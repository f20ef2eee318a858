// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/checkpoint.h"

#include "plugins/harness.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace fettle::test {
namespace {

namespace fs = std::filesystem;

std::string tiny_model() {
  const std::string folder = temporary_folder();
  const kit::TensorSource zeros = [](const kit::TensorSpec&, const kit::TensorSink& sink) {
    return sink(std::vector<std::byte>(16));
  };
  EXPECT_TRUE(
      write_checkpoint(folder, kit::Json{{"model_type", "llama"}}, {{"w", kit::DType::f32, {2, 2}}}, zeros, "").ok());
  std::ofstream(folder + "/tokenizer.json") << "{}";
  return folder;
}

TEST(IoLoad, LinksEveryFileOfACheckpoint) {
  const std::string model = tiny_model();
  const StepResult r = Step("io_load", "io.load").param("path", model).run();
  ASSERT_TRUE(r.ok()) << r.message;
  for (const char* file : {"config.json", "model.safetensors", "tokenizer.json"}) {
    const fs::path link = fs::path(r.outputs.at("model")) / file;
    ASSERT_TRUE(fs::is_symlink(link));
    EXPECT_EQ(fs::read_symlink(link), fs::path(model) / file);
  }
}

TEST(IoLoad, RefusesAFolderThatIsNoCheckpoint) {
  const StepResult r = Step("io_load", "io.load").param("path", temporary_folder()).run();
  EXPECT_NE(r.code, FETTLE_OK);
  EXPECT_NE(r.message.find("config.json"), std::string::npos) << r.message;
}

TEST(IoLoad, RefusesATruncatedCheckpoint) {
  const std::string model = tiny_model();
  fs::resize_file(model + "/model.safetensors", fs::file_size(model + "/model.safetensors") - 1);
  EXPECT_EQ(Step("io_load", "io.load").param("path", model).run().code, FETTLE_CORRUPT_DATA);
}

}  // namespace
}  // namespace fettle::test
