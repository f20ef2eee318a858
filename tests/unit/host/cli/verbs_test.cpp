// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/gguf.h"

#include "unit/host/cli/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <csignal>
#include <filesystem>

namespace fettle::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Arguments = std::vector<std::string>;
using Json = nlohmann::json;

const std::string build = FETTLE_TEST_BINARY_DIR;

/// A folder with a pipeline of the test techniques.
class OnPipeline : public ::testing::Test {
 protected:
  Outcome run(Arguments arguments, const std::string& yaml) {
    write_text(folder_ / "p.yaml", "fettle: 1\nname: sample\n" + yaml);
    arguments.insert(arguments.begin() + 1, "p.yaml");
    arguments.insert(arguments.end(),
                     {"--plugin-dir", build + "/tests/plugins-c11", "--plugin-dir", build + "/tests/plugins-failing"});
    return fettle(folder_.path(), arguments);
  }

  const std::string good = R"(
steps:
  hay: {use: test.repeat, with: {line: hay, times: 2}}
  straw: {use: test.repeat, with: {line: straw}}
outputs:
  hay: {from: hay, path: out/hay}
)";
  Folder folder_;
};

TEST_F(OnPipeline, RunWritesItsOutputsAndASummary) {
  const Outcome outcome = run({"run"}, good);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("step   technique    state"), HasSubstr("hay    test.repeat  done"),
                    HasSubstr("test.repeat  lines\n"), HasSubstr("written"), HasSubstr("record of this run: ")));
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("hay: started test.repeat on "), HasSubstr("hay: done in ")));
  EXPECT_TRUE(fs::exists(folder_ / "out/hay"));
}

TEST_F(OnPipeline, ReportShowsTheLastRunAgain) {
  const Outcome ran = run({"run"}, good);
  const Outcome text = fettle(folder_.path(), {"report"});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_EQ(text.out, ran.out);
  const Outcome page = fettle(folder_.path(), {"report", "--format", "html", "-o", "run.html"});
  EXPECT_EQ(page.code, 0) << page.err;
  EXPECT_THAT(text_of(folder_ / "run.html"), HasSubstr("<h1>sample</h1>"));
}

TEST_F(OnPipeline, ReportSaysWhereItLooked) {
  const Outcome outcome = fettle(folder_.path(), {"report"});
  EXPECT_EQ(outcome.code, 12);
  EXPECT_EQ(outcome.err,
            "error: no run is recorded at '.fettle/runs/latest'; name a store with --store DIR, or a record\n");
}

TEST_F(OnPipeline, RunTakesTheSecondTimeFromTheStore) {
  run({"run"}, good);
  const Outcome outcome = run({"run"}, good);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("hay    test.repeat  cached"), HasSubstr("straw  test.repeat  cached"),
                                 HasSubstr("unchanged")));
}

TEST_F(OnPipeline, RunQuietlySaysNothingOnStderr) {
  const Outcome outcome = run({"run", "--quiet"}, good);
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.err, "");
}

TEST_F(OnPipeline, PlanShowsWhatIsCached) {
  const Outcome before = run({"plan"}, good);
  EXPECT_EQ(before.code, 0) << before.err;
  EXPECT_THAT(before.out, AllOf(HasSubstr("hay    test.repeat  miss"), HasSubstr("0 of 2 steps are in the store")));
  run({"run"}, good);
  EXPECT_THAT(run({"plan"}, good).out,
              AllOf(HasSubstr("hay    test.repeat  hit"), HasSubstr("2 of 2 steps are in the store\n")));
}

TEST_F(OnPipeline, CheckWritesNothing) {
  const Outcome outcome = run({"check"}, good);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "p.yaml: good, 2 steps\n");
  EXPECT_FALSE(fs::exists(folder_ / ".fettle"));
}

TEST_F(OnPipeline, OverridesReachTheTechnique) {
  const Outcome outcome = run({"run", "--set", "steps.hay.with.line=grass"}, good);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(text_of(fs::is_directory(folder_ / "out/hay") ? folder_ / "out/hay/lines.txt" : folder_ / "out/hay"),
            "grass\ngrass\n");
}

TEST_F(OnPipeline, AGateThatDoesNotHoldIsExitCode3) {
  const Outcome outcome = run({"run"}, R"(
steps:
  hay: {use: test.repeat, with: {line: hay, times: 2}, gate: {require: "lines > 5"}}
outputs:
  hay: {from: hay, path: out/hay}
)");
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("gate of hay: not met: lines > 5 (lines = 2)"), HasSubstr("withheld")));
  EXPECT_FALSE(fs::exists(folder_ / "out/hay"));
}

TEST_F(OnPipeline, AnInvalidPipelineIsExitCode4) {
  const Outcome outcome = run({"run"}, "steps:\n  hay: {use: test.repaet, with: {line: hay}}\n");
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, HasSubstr("unknown technique 'test.repaet'; did you mean 'test.repeat'?"));
  EXPECT_EQ(outcome.out, "");
}

TEST_F(OnPipeline, AStepThatDoesNotFitIsExitCode5) {
  const Outcome outcome = run({"run", "--memory", "1KiB"}, good);
  EXPECT_EQ(outcome.code, 5) << outcome.err;
}

struct FailureCase {
  const char* technique;
  const char* message;
};
class AFailingStep : public OnPipeline, public ::testing::WithParamInterface<FailureCase> {};

TEST_P(AFailingStep, IsExitCode7WithItsSentence) {
  const Outcome outcome = run({"run"}, std::string("steps:\n  bad: {use: ") + GetParam().technique +
                                           "}\noutputs:\n  bad: {from: bad, path: out/bad}\n");
  EXPECT_EQ(outcome.code, 7);
  EXPECT_THAT(outcome.err, HasSubstr(std::string("error: step 'bad': ") + GetParam().message + "\n"));
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

INSTANTIATE_TEST_SUITE_P(
    Ways, AFailingStep,
    ::testing::Values(FailureCase{"test.throws", "unexpected exception: the frobnicator is jammed"},
                      FailureCase{"test.throws_int", "unexpected exception of unknown type"},
                      FailureCase{"test.out_of_memory", "out of memory"},
                      FailureCase{"test.returns_error", "'moon': the moon is full, expected new moon; wait two weeks"}),
    [](const auto& c) { return std::string(c.param.technique).substr(5); });

TEST_F(OnPipeline, AnOutputThatCannotBeWrittenIsExitCode7WithItsSentence) {
  fs::create_directories(folder_ / "out/hay");
  write_text(folder_ / "out/hay/mine.txt", "not from a pipeline");
  const Outcome outcome = run({"run", "--quiet"}, good);
  EXPECT_EQ(outcome.code, 7);
  EXPECT_EQ(outcome.err, "error: output 'hay': '" + (folder_ / "out/hay") +
                             "': the folder holds 'mine.txt', which is not part of the output; remove it, or choose "
                             "another path\n");
  EXPECT_EQ(text_of(folder_ / "out/hay/mine.txt"), "not from a pipeline");
}

TEST_F(OnPipeline, AnErrorNamesThePortAndNotAPathInsideTheStore) {
  fs::copy(fs::path(FETTLE_TEST_SOURCE_DIR) / "pipelines/data/prose-3m", folder_ / "model");
  Json config = Json::parse(text_of(folder_ / "model/config.json"));
  config["num_attention_heads"] = -1;
  write_text(folder_ / "model/config.json", config.dump());
  const Outcome outcome = run({"run"}, R"(
inputs:
  base: {kind: model, path: model}
steps:
  small: {use: quantize.gguf, in: {model: base}}
)");
  EXPECT_EQ(outcome.code, 7);
  EXPECT_THAT(outcome.err, HasSubstr("error: step 'small': input 'model': config.json: 'num_attention_heads' is -1, "
                                     "expected an integer from 1 to 16384\n"));
}

TEST_F(OnPipeline, AMissingServiceIsSaidBeforeAnythingRuns) {
  const Outcome outcome = run({"run"}, "steps:\n  bad: {use: test.needs_gpu}\n");
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, HasSubstr("'acme.gpu/1'"));
}

TEST_F(OnPipeline, AMissingInputIsExitCode12) {
  const Outcome outcome = run({"run"}, "inputs:\n  text: {kind: text, path: ./nothing.txt}\n" + good);
  EXPECT_EQ(outcome.code, 12);
}

TEST_F(OnPipeline, AFailureLeavesIndependentStepsRunning) {
  const std::string yaml = "steps:\n  bad: {use: test.throws}\n  hay: {use: test.repeat, with: {line: hay}}\n";
  EXPECT_THAT(run({"run", "--jobs", "1"}, yaml).out, HasSubstr("hay   test.repeat  done"));
}

TEST_F(OnPipeline, TheFirstSignalStopsARunWithExitCode130) {
  write_text(folder_ / "p.yaml", "fettle: 1\nsteps:\n  slow: {use: test.waits}\n");
  Program program(folder_.path(), {"run", "p.yaml", "--plugin-dir", build + "/tests/plugins-failing"});
  ASSERT_TRUE(program.says("started"));
  program.signal(SIGINT);
  EXPECT_TRUE(program.says("stopping: no new steps, the running ones are cancelled; once more ends at once\n"));
  const Outcome outcome = program.wait();
  EXPECT_EQ(outcome.code, 130);
  EXPECT_THAT(outcome.out, HasSubstr("slow  test.waits  cancelled"));
}

TEST_F(OnPipeline, JsonOfEveryVerbParses) {
  for (const Arguments& arguments :
       {Arguments{"check", "--json"}, Arguments{"plan", "--json"}, Arguments{"run", "--json"}}) {
    const Outcome outcome = run(arguments, good);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_TRUE(Json::accept(outcome.out)) << arguments[0] << ": " << outcome.out;
  }
  const Arguments plugins{"--plugin-dir", build + "/tests/plugins-c11"};
  for (Arguments arguments : {Arguments{"plugins", "--json"}, Arguments{"describe", "--all", "--json"},
                              Arguments{"describe", "test.repeat", "--json"}, Arguments{"schema", "--json"}}) {
    arguments.insert(arguments.end(), plugins.begin(), plugins.end());
    const Outcome outcome = fettle(folder_.path(), arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_TRUE(Json::accept(outcome.out)) << arguments[0];
  }
  for (const Arguments& arguments :
       {Arguments{"graph", "p.yaml", "--json"}, Arguments{"store", "summary", "--json"},
        Arguments{"store", "verify", "--json"}, Arguments{"store", "gc", "--dry-run", "--json"}}) {
    const Outcome outcome = fettle(folder_.path(), arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_TRUE(Json::accept(outcome.out)) << arguments[0];
  }
}

TEST_F(OnPipeline, JsonOfAnInvalidPipelineHasTheFindings) {
  const Outcome outcome = run({"check", "--json"}, "steps:\n  hay: {use: test.repeat, with: {line: hay, tmies: 3}}\n");
  EXPECT_EQ(outcome.code, 4);
  const Json findings = Json::parse(outcome.out).at("findings");
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].at("line"), 4);
}

TEST_F(OnPipeline, StorePathPrintsTheFolderOfAnOutput) {
  const Json record = Json::parse(run({"run", "--json"}, good).out);
  const std::string key = record.at("steps").at(0).at("key");
  const Outcome outcome = fettle(folder_.path(), {"store", "path", key, "--port", "text"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(fs::is_directory(outcome.out.substr(0, outcome.out.find('\n')))) << outcome.out;
}

TEST_F(OnPipeline, ADamagedStoreIsExitCode10) {
  run({"run"}, good);
  for (const auto& entry : fs::directory_iterator(folder_ / ".fettle/objects")) {
    fs::permissions(entry.path(), fs::perms::owner_write, fs::perm_options::add);
    write_text(entry.path(), "spoilt");
  }
  const Outcome outcome = fettle(folder_.path(), {"store", "verify"});
  EXPECT_EQ(outcome.code, 10) << outcome.out;
}

TEST_F(OnPipeline, AStoreThatCannotBeMadeIsNotADamagedOne) {
  const Outcome outcome = run({"run", "--quiet", "--store", "/proc/store"}, good);
  EXPECT_EQ(outcome.code, 7);
  EXPECT_EQ(outcome.err,
            "error: /proc/store: cannot create the folder: No such file or directory; name another store with "
            "--store DIR\n");
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(OnPipeline, CheckDoesWithoutAStoreItMayNotWriteTo) {
  fs::create_directories(folder_ / "store/in-use");  // where a file must be opened for writing
  const Outcome outcome = run({"check", "--store", folder_ / "store"}, good);
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.err, "warning: looked up nothing: " + (folder_ / "store/in-use") +
                             ": cannot create the file: Is a directory; name another store with --store DIR\n");
}

#ifdef __linux__
TEST_F(OnPipeline, AResultThatCannotBePrintedIsAFailure) {
  write_text(folder_ / "p.yaml", "fettle: 1\n" + good);
  const std::string line =
      "cd '" + folder_.path() + "' && '" + build + "/bin/fettle' graph p.yaml 2>said >/dev/full; echo $? >>said";
  ASSERT_EQ(std::system(line.c_str()), 0);
  EXPECT_EQ(text_of(folder_ / "said"), "error: the result cannot be printed: No space left on device\n7\n");
}
#endif

TEST(StoreVerb, NeedsAStore) {
  const Folder folder;
  const Outcome outcome = fettle(folder.path(), {"store", "summary"});
  EXPECT_EQ(outcome.code, 12);
  EXPECT_EQ(outcome.err, "error: no store at '.fettle'; name it with --store DIR\n");
}

TEST_F(OnPipeline, GraphDrawsStepsAndArtifacts) {
  write_text(folder_ / "p.yaml", "fettle: 1\n" + good);
  EXPECT_EQ(fettle(folder_.path(), {"graph", "p.yaml"}).out,
            "hay  (test.repeat)\nstraw  (test.repeat)\noutput hay  (" + (folder_ / "out/hay") + ")\n  <- hay\n");
  EXPECT_EQ(fettle(folder_.path(), {"graph", "p.yaml", "--format", "mermaid"}).out,
            "flowchart LR\n  n0[\"hay<br/>test.repeat\"]\n  n1[\"straw<br/>test.repeat\"]\n  n2([\"output hay<br/>" +
                (folder_ / "out/hay") + "\"])\n  n0 --> n2\n");
  EXPECT_EQ(fettle(folder_.path(), {"graph", "p.yaml", "--format", "dot"}).out,
            "digraph pipeline {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n"
            "  \"hay\" [shape=box, label=\"hay\\ntest.repeat\"];\n"
            "  \"straw\" [shape=box, label=\"straw\\ntest.repeat\"];\n"
            "  \"output hay\" [shape=note, label=\"output hay\\n" +
                (folder_ / "out/hay") + "\"];\n  \"hay\" -> \"output hay\" [label=\"\"];\n}\n");
}

TEST(SchemaVerb, BindsParametersToTheirTechnique) {
  const Folder folder;
  const Json schema = Json::parse(fettle(folder.path(), {"schema", "--plugin-dir", build + "/tests/plugins-c11"}).out);
  EXPECT_EQ(schema.at("$schema"), "http://json-schema.org/draft-07/schema#");
  Json rule;
  for (const Json& r : schema.at("definitions").at("step").at("allOf"))
    if (r.at("if").at("properties").at("use").at("const") == "test.repeat") rule = r.at("then").at("properties");
  ASSERT_FALSE(rule.is_null());
  EXPECT_EQ(rule.at("with").at("required"), Json({"line"}));
  EXPECT_EQ(rule.at("with").at("properties").at("times").at("default"), 3);
  EXPECT_EQ(rule.at("with").at("properties").at("times").at("minimum"), 1);
  EXPECT_EQ(rule.at("with").at("properties").at("separator").at("anyOf").at(0).at("enum"), Json({"newline", "space"}));
  EXPECT_EQ(rule.at("with").at("additionalProperties"), false);
}

TEST(DescribeVerb, ShowsAllOfATechnique) {
  const Folder folder;
  const Outcome outcome =
      fettle(folder.path(), {"describe", "test.repeat", "--plugin-dir", build + "/tests/plugins-c11"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out,
            "test.repeat  1.0\n\nWrite a line a given number of times.\n"
            "Gives the same bytes on every machine. Epoch 1. From plugin test-repeat 1.0 (Fettle, Apache-2.0).\n"
            "\nOutputs\n"
            "  port  kind  meaning\n"
            "  ----  ----  -------\n"
            "  text  text  the lines\n"
            "\nParameters\n"
            "  parameter  type    default    unit   meaning\n"
            "  ---------  ------  ---------  -----  -------\n"
            "  line       string  required          what to write\n"
            "  times      count   3          lines  how often; 1 to 1000000\n"
            "  separator  string  \"newline\"         what stands after each line; one of newline, space\n"
            "\nExample\n"
            "  steps:\n"
            "    result:\n"
            "      use: test.repeat\n"
            "      with: {line: ..., times: 3}\n");
}

TEST(PluginsVerb, ListsRefusalsWithTheirReasons) {
  const Folder folder;
  write_text(folder / "notes.so", "remember the milk");
  const Outcome outcome = fettle(folder.path(), {"plugins", "--plugin-dir", folder.path()});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out,
              HasSubstr("refused:\n  " + (folder / "notes.so") +
                        "\n    not a shared library: the file does not begin with an ELF header; remove it "
                        "from the plugin folder\n"));
}

TEST(PluginsVerb, WarnsOfRefusalsElsewhere) {
  const Folder folder;
  write_text(folder / "notes.so", "remember the milk");
  const Outcome outcome = fettle(folder.path(), {"schema", "--plugin-dir", folder.path()});
  EXPECT_EQ(outcome.err,
            "warning: plugin '" + (folder / "notes.so") +
                "' is refused: not a shared library: the file does not begin with an ELF header; remove it "
                "from the plugin folder\n");
}

TEST(InspectVerb, NamesAMissingFile) {
  const Folder folder;
  const Outcome outcome = fettle(folder.path(), {"inspect", "nothing.gguf"});
  EXPECT_EQ(outcome.code, 12);
  EXPECT_EQ(outcome.err, "error: 'nothing.gguf': no such file or folder\n");
}

TEST(InspectVerb, RefusesWhatItDoesNotKnow) {
  const Folder folder;
  write_text(folder / "notes.txt", "remember the milk");
  const Outcome outcome = fettle(folder.path(), {"inspect", "notes.txt"});
  EXPECT_EQ(outcome.code, 7);
  EXPECT_EQ(outcome.err, "error: 'notes.txt': expected a checkpoint folder, a .safetensors file or a .gguf file\n");
}

TEST(InspectVerb, GivesTheReadersErrorOfAHostileFile) {
  const Folder folder;
  write_text(folder / "bad.gguf", "GGUF\3\0\0\0");
  write_text(folder / "bad.safetensors", std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10));
  for (const char* name : {"bad.gguf", "bad.safetensors"}) {
    const Outcome outcome = fettle(folder.path(), {"inspect", name});
    EXPECT_EQ(outcome.code, 7) << name;
    EXPECT_THAT(outcome.err, HasSubstr(name));
  }
}

TEST(InspectVerb, ShowsATinyCheckpoint) {
  const std::string model = std::string(FETTLE_TEST_SHARED) + "/models/stories260K";
  if (!fs::exists(model)) GTEST_SKIP() << "the shared models are not on this machine";
  const Folder folder;
  const Outcome outcome = fettle(folder.path(), {"inspect", model, "--tensors", "model.norm*"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, model +
                             ": Hugging Face checkpoint, 1 file of weights\n"
                             "260 k parameters in 47 tensors, 1016 KiB\n"
                             "  f32: 47 tensors, 1016 KiB\n\n"
                             "tensor             type  shape  bytes\n"
                             "-----------------  ----  -----  -----\n"
                             "model.norm.weight  f32   64       256\n");
}

/// A GGUF file of one f32 vector of that name.
void write_gguf(const std::string& path, kit::GgufMetadata metadata, const std::string& tensor) {
  auto writer = kit::GgufWriter::create(path, std::move(metadata), {{tensor, kit::DType::f32, {8}}});
  ASSERT_TRUE(writer.ok()) << writer.error().message();
  const std::vector<float> values(8, 1.0f);
  ASSERT_TRUE(writer->append(tensor, std::as_bytes(std::span(values))).ok());
  ASSERT_TRUE(writer->finish().ok());
}

TEST(InspectVerb, ShowsAGgufFile) {
  const Folder folder;
  write_gguf(folder / "m.gguf", {{"general.architecture", std::string("llama")}, {"llama.block_count", 2u}},
             "output_norm.weight");
  const Outcome outcome = fettle(folder.path(), {"inspect", "m.gguf"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out,
            "m.gguf: GGUF\n"
            "8 parameters in 1 tensors, 32 B\n"
            "  f32: 1 tensors, 32 B\n\n"
            "key                   value\n"
            "--------------------  -----\n"
            "general.architecture  llama\n"
            "llama.block_count     2\n\n"
            "tensor              type  shape  bytes\n"
            "------------------  ----  -----  -----\n"
            "output_norm.weight  f32   8         32\n");
}

TEST(InspectVerb, ShowsASplitGgufModelAsOne) {
  const Folder folder;
  for (std::uint16_t i = 0; i < 2; ++i)
    write_gguf(folder / ("m-0000" + std::to_string(i + 1) + "-of-00002.gguf"),
               {{"split.no", i}, {"split.count", std::uint16_t{2}}, {"split.tensors.count", std::int32_t{2}}},
               i == 0 ? "first" : "second");
  for (const std::string& path : {folder.path(), folder / "m-00001-of-00002.gguf"}) {
    const Outcome outcome = fettle(folder.path(), {"inspect", path, "--tensors", "*"});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.out, path +
                               ": GGUF, 2 files\n"
                               "16 parameters in 2 tensors, 64 B\n"
                               "  f32: 2 tensors, 64 B\n\n"
                               "tensor  type  shape  bytes\n"
                               "------  ----  -----  -----\n"
                               "first   f32   8         32\n"
                               "second  f32   8         32\n");
  }
}

TEST(ReferencePages, AreWhatDescribePrints) {
  const fs::path committed = fs::path(FETTLE_TEST_SOURCE_DIR) / "docs/reference/techniques";
  if (!fs::exists(committed)) GTEST_SKIP() << "docs/reference/techniques has not been generated yet";
  const Folder folder;
  const Outcome outcome = fettle(folder.path(), {"describe", "--all", "--markdown", folder / "pages", "--quiet"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto names = [](const fs::path& path) {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(path)) all.push_back(entry.path().filename());
    std::sort(all.begin(), all.end());
    return all;
  };
  EXPECT_EQ(names(committed), names(folder / "pages"))
      << "run: fettle describe --all --markdown docs/reference/techniques";
  for (const std::string& name : names(committed))
    EXPECT_EQ(text_of(committed / name), text_of(folder / ("pages/" + name)))
        << "run: fettle describe --all --markdown docs/reference/techniques";
}

}  // namespace
}  // namespace fettle::test
