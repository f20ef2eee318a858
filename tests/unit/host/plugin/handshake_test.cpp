// SPDX-License-Identifier: Apache-2.0
#include "host/plugin/handshake.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <string>

namespace fettle::host {
namespace {

const char* const choices[] = {"fast", "slow", nullptr};
const char* const no_choices[] = {nullptr};
const char* const same_choices[] = {"fast", "fast", nullptr};

/// A library with one technique that keeps every rule; tests break one.
struct Sample {
  std::array<fettle_port, 2> inputs{
      {{"model", "the model", "model", nullptr, 0, 0}, {"data", "tokens", "tokens", nullptr, FETTLE_PORT_OPTIONAL, 0}}};
  std::array<fettle_port, 1> outputs{{{"model", "the result", "model", nullptr, 0, 0}}};
  std::array<fettle_param, 2> params{
      {{"share", "how much", nullptr, FETTLE_TYPE_FLOAT, FETTLE_SCALAR, FETTLE_PARAM_HAS_MIN | FETTLE_PARAM_HAS_MAX, 0,
        0.0, 1.0, "0.5", nullptr},
       {"mode", "how", nullptr, FETTLE_TYPE_STRING, FETTLE_SCALAR, 0, 0, 0, 0, "\"fast\"", choices}}};
  std::array<const char*, 1> services{"fettle.metrics/1"};
  fettle_technique technique{};
  const fettle_technique* table = &technique;
  fettle_library library{};

  Sample() {
    technique.struct_size = sizeof technique;
    technique.epoch = 1;
    technique.id = "prune.sample";
    technique.help = "Do nothing.";
    technique.version = "1.0";
    technique.inputs = inputs.data();
    technique.outputs = outputs.data();
    technique.params = params.data();
    technique.services = services.data();
    technique.input_count = inputs.size();
    technique.output_count = outputs.size();
    technique.param_count = params.size();
    technique.service_count = services.size();
    technique.run = [](const fettle_run*, fettle_error*) -> std::int32_t { return FETTLE_OK; };
    library = {host_abi(), sizeof library, 1, "sample", "1.0", "Fettle", "Apache-2.0", &table};
  }
  Sample(const Sample&) = delete;
};

TEST(CheckLibrary, AcceptsATableThatKeepsTheRules) {
  const Sample sample;
  const Status status = check_library(sample.library);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(CheckAbi, AcceptsItsOwnTag) { EXPECT_TRUE(check_abi(host_abi()).ok()); }

struct TableCase {
  const char* name;
  std::function<void(Sample&)> spoil;
  const char* message;  // without the cure
};

class BrokenTable : public ::testing::TestWithParam<TableCase> {};

TEST_P(BrokenTable, IsRefused) {
  Sample sample;
  GetParam().spoil(sample);
  const Status status = check_library(sample.library);
  EXPECT_EQ(status.message(), std::string(GetParam().message) + "; mend the plugin's description and rebuild it");
}

INSTANTIATE_TEST_SUITE_P(
    Rules, BrokenTable,
    ::testing::Values(
        TableCase{"library_size", [](Sample& s) { s.library.struct_size = 8; },
                  "its table says it has 8 bytes, expected 96"},
        TableCase{"library_name", [](Sample& s) { s.library.name = nullptr; },
                  "its table lacks a name, version, vendor or licence"},
        TableCase{"no_techniques", [](Sample& s) { s.library.technique_count = 0; },
                  "its table offers 0 techniques, expected 1 to 10,000"},
        TableCase{"null_technique", [](Sample& s) { s.table = nullptr; }, "technique 1 is missing from its table"},
        TableCase{"technique_size", [](Sample& s) { s.technique.struct_size = 1; },
                  "technique 1 says it has 1 bytes, expected 120"},
        TableCase{
            "id_with_space", [](Sample& s) { s.technique.id = "prune sample"; },
            "technique 1 has the id 'prune sample', expected kind.name of lower case letters, digits, '-' or '_'"},
        TableCase{"id_without_kind", [](Sample& s) { s.technique.id = "sample"; },
                  "technique 1 has the id 'sample', expected kind.name of lower case letters, digits, '-' or '_'"},
        TableCase{"id_with_trailing_dot", [](Sample& s) { s.technique.id = "prune."; },
                  "technique 1 has the id 'prune.', expected kind.name of lower case letters, digits, '-' or '_'"},
        TableCase{"no_help", [](Sample& s) { s.technique.help = nullptr; },
                  "technique 'prune.sample' has no help or no version"},
        TableCase{"epoch", [](Sample& s) { s.technique.epoch = 0; },
                  "technique 'prune.sample' has epoch 0, expected 1 or more"},
        TableCase{"determinism", [](Sample& s) { s.technique.determinism = 7; },
                  "technique 'prune.sample' has determinism 7, expected 0 to 2"},
        TableCase{"no_run", [](Sample& s) { s.technique.run = nullptr; },
                  "technique 'prune.sample' has no run function"},
        TableCase{"ports_missing", [](Sample& s) { s.technique.inputs = nullptr; },
                  "technique 'prune.sample': its table of inputs is missing"},
        TableCase{
            "port_name", [](Sample& s) { s.inputs[0].name = "The Model"; },
            "technique 'prune.sample': input 1 is named 'The Model', expected lower case letters, digits, '-' or '_'"},
        TableCase{"port_twice", [](Sample& s) { s.inputs[1].name = "model"; },
                  "technique 'prune.sample': two inputs are named 'model'"},
        TableCase{"port_help", [](Sample& s) { s.outputs[0].help = nullptr; },
                  "technique 'prune.sample': output 'model' has no help"},
        TableCase{"port_kind", [](Sample& s) { s.outputs[0].kind = "weights"; },
                  "technique 'prune.sample': output 'model' has kind 'weights', expected model, tokens, text, stats, "
                  "targets, mask, metrics or file"},
        TableCase{"port_flags", [](Sample& s) { s.inputs[0].flags = 8; },
                  "technique 'prune.sample': input 'model' has unknown flags 0x8"},
        TableCase{"params_missing", [](Sample& s) { s.technique.params = nullptr; },
                  "technique 'prune.sample': its table of parameters is missing"},
        TableCase{"param_twice", [](Sample& s) { s.params[1].name = "share"; },
                  "technique 'prune.sample': two parameters are named 'share'"},
        TableCase{"param_type", [](Sample& s) { s.params[0].type = 77; },
                  "technique 'prune.sample': parameter 'share' has type 77, expected 1 to 8"},
        TableCase{"param_shape", [](Sample& s) { s.params[0].shape = 3; },
                  "technique 'prune.sample': parameter 'share' has shape 3, expected 0 to 2"},
        TableCase{"param_without_default", [](Sample& s) { s.params[0].default_text = nullptr; },
                  "technique 'prune.sample': parameter 'share' has no default and is neither required nor optional"},
        TableCase{"required_with_default", [](Sample& s) { s.params[1].flags = FETTLE_PARAM_REQUIRED; },
                  "technique 'prune.sample': parameter 'mode' is required but has a default"},
        TableCase{"required_and_optional",
                  [](Sample& s) { s.params[1].flags = FETTLE_PARAM_REQUIRED | FETTLE_PARAM_OPTIONAL; },
                  "technique 'prune.sample': parameter 'mode' is both required and optional"},
        TableCase{"empty_range", [](Sample& s) { s.params[0].min = 2; },
                  "technique 'prune.sample': parameter 'share' has the empty range 2 to 1"},
        TableCase{"nan_range", [](Sample& s) { s.params[0].max = NAN; },
                  "technique 'prune.sample': parameter 'share' has the empty range 0 to nan"},
        TableCase{"choices_of_number", [](Sample& s) { s.params[0].choices = choices; },
                  "technique 'prune.sample': parameter 'share' has choices but is not a string"},
        TableCase{"no_choices", [](Sample& s) { s.params[1].choices = no_choices; },
                  "technique 'prune.sample': parameter 'mode' has an empty list of choices"},
        TableCase{"same_choices", [](Sample& s) { s.params[1].choices = same_choices; },
                  "technique 'prune.sample': parameter 'mode' lists the choice 'fast' twice"},
        TableCase{
            "default_not_a_choice", [](Sample& s) { s.params[1].default_text = "\"medium\""; },
            "technique 'prune.sample': parameter 'mode' has the default 'medium', which is not among its choices"},
        TableCase{"service_without_id", [](Sample& s) { s.services[0] = ""; },
                  "technique 'prune.sample': service 1 has no id"}),
    [](const auto& c) { return c.param.name; });

}  // namespace
}  // namespace fettle::host
