// SPDX-License-Identifier: Apache-2.0
#include "host/pipeline/expression.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace fettle::host {
namespace {

std::optional<Expression> parse(const std::string& text, Diagnostics& diagnostics) {
  const auto source = std::make_shared<SourceText>(SourceText{"p.yaml", text});
  return Expression::parse(text, {source, 1, 1, 1}, diagnostics);
}

std::optional<double> lookup(const Expression::MetricRef& ref) {
  static const std::map<std::string, double> values{
      {".ppl", 30},          {"before.ppl", 29}, {"small[2:4,Q8_0].ppl", 31},
      {".kl", std::nan("")}, {".zero", 0},       {".ppl.se", 0.5}};
  const auto found = values.find(ref.step + "." + ref.metric + (ref.standard_error ? ".se" : ""));
  if (found == values.end()) return std::nullopt;
  return found->second;
}

/// "true", "3", or the message.
std::string outcome(const std::string& text) {
  Diagnostics diagnostics;
  const auto expression = parse(text, diagnostics);
  if (!expression) return diagnostics.text();
  const auto result = expression->evaluate(lookup);
  if (const auto* message = std::get_if<1>(&result)) return *message;
  const Expression::Value& value = std::get<0>(result);
  if (const auto* truth = std::get_if<bool>(&value)) return *truth ? "true" : "false";
  if (const auto* string = std::get_if<std::string>(&value)) return *string;
  std::string number = std::to_string(std::get<double>(value));
  return number.substr(0, number.find_last_not_of('0') + (number.find_last_not_of('0') == number.find('.') ? 0 : 1));
}

struct Case {
  const char* name;
  const char* text;
  const char* result;
};
class ExpressionValue : public ::testing::TestWithParam<Case> {};
TEST_P(ExpressionValue, Is) { EXPECT_EQ(outcome(GetParam().text), GetParam().result); }

INSTANTIATE_TEST_SUITE_P(
    Table, ExpressionValue,
    ::testing::Values(Case{"precedence", "1 + 2 * 3", "7"}, Case{"parentheses", "(1 + 2) * 3", "9"},
                      Case{"left_to_right", "8 - 4 - 2", "2"}, Case{"unary", "-2 * -3", "6"},
                      Case{"units", "1.5GiB / 1GiB", "1.5"}, Case{"percent", "15%", "0.15"},
                      Case{"exponent", "2e-1", "0.2"}, Case{"functions", "max(1, min(5, 3), abs(-2))", "3"},
                      Case{"own_metric", "ppl", "30"}, Case{"other_metric", "ppl <= before.ppl * 1.15", "true"},
                      Case{"error_bar", "ppl - 2 * ppl.se", "29"}, Case{"instance", "small[2:4,Q8_0].ppl > 30", "true"},
                      Case{"logic", "not (1 < 2 and 2 < 1) or false", "true"}, Case{"text", "'a' == \"a\"", "true"},
                      Case{"short_circuit", "false and ppl / zero > 1", "false"},
                      Case{"by_zero", "ppl / zero > 1", "division by zero in 'ppl / zero'"},
                      Case{"nan", "kl < 1", "metric 'kl' is not a number"},
                      Case{"inf_minus_inf", "1e308 * 10 - 1e308 * 10 < 1", "'1e308 * 10 - 1e308 * 10' is not a number"},
                      Case{"absent", "acc > 1", "metric 'acc' was not reported"},
                      Case{"absent_elsewhere", "before.acc > 1", "metric 'before.acc' was not reported"},
                      Case{"absent_error", "before.ppl.se > 1", "metric 'before.ppl' has no standard error"}),
    [](const auto& test) { return test.param.name; });

TEST(Expression, ErrorsPointIntoTheText) {
  EXPECT_EQ(outcome("ppl <= (1 + 'ü') * x"),
            "p.yaml:1:13: error: '+' needs a number, but 'ü' is text\n"
            "  1 | ppl <= (1 + 'ü') * x\n    |             ^~~\n");
}

TEST(Expression, ExplainsWhatItsMetricsWere) {
  Diagnostics diagnostics;
  EXPECT_EQ(parse("ppl <= before.ppl * 1.15 and ppl > acc", diagnostics)->explain(lookup),
            "ppl = 30, before.ppl = 29, acc = not reported");
}

TEST(Expression, RefusesDepthAndLength) {
  EXPECT_NE(outcome(std::string(100, '(') + "1").find("nested too deeply"), std::string::npos);
  EXPECT_NE(outcome(std::string(5000, '1')).find("at most 4,096 are read"), std::string::npos);
  EXPECT_NE(outcome(std::string(100, '-') + "1").find("nested too deeply"), std::string::npos);
}

}  // namespace
}  // namespace fettle::host
