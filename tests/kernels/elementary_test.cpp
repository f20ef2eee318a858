// SPDX-License-Identifier: Apache-2.0
// The errors that kernel_table.h states, measured on every 4,099th float; FETTLE_FLOAT_STRIDE takes more.
#include "fettle_kit/kernels/kernels.h"

#include "kernels/kernel_testing.h"

#include <cstdio>
#include <cstdlib>

namespace fettle::kit {
namespace {

/// |got - exact| in units of the last place of the exact value as f32; the smallest unit is 2^-149.
double ulps(float got, double exact) {
  if (std::isnan(got) || std::isnan(exact)) return std::isnan(got) && std::isnan(exact) ? 0 : HUGE_VAL;
  const float rounded = static_cast<float>(exact);
  if (std::isinf(got) || std::isinf(rounded)) return got == rounded ? 0 : HUGE_VAL;
  int exponent = 0;
  std::frexp(exact, &exponent);
  return std::fabs(got - exact) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

struct Function {
  const char* name;
  void (*KernelTable::*kernel)(float*, const float*, std::size_t);
  double (*exact)(double);
  double limit;
  double low, high;  ///< where the limit holds
};

double exact_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double exact_gelu(double x) {  // x/2 (1 + tanh u) = x / (1 + exp(-2u))
  return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

class Elementary : public ::testing::TestWithParam<Function> {};

TEST_P(Elementary, StaysWithinItsStatedError) {
  const Function& f = GetParam();
  const char* wanted = std::getenv("FETTLE_FLOAT_STRIDE");
  const std::uint64_t stride = wanted != nullptr ? std::strtoull(wanted, nullptr, 10) | 1 : 4099;
  std::vector<float> x, y;
  double worst = 0;
  float worst_at = 0;
  const auto measure = [&] {
    y.resize(x.size());
    (kernels().*f.kernel)(y.data(), x.data(), x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double error = ulps(y[i], f.exact(x[i]));
      if (error > worst) worst = error, worst_at = x[i];
    }
    x.clear();
  };
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += stride) {
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (!(value >= f.low && value <= f.high)) continue;
    x.push_back(value);
    if (x.size() == 65536) measure();
  }
  measure();
  std::printf("%s: %.3f ulp at %a (%g)\n", f.name, worst, static_cast<double>(worst_at), static_cast<double>(worst_at));
  EXPECT_LE(worst, f.limit) << "at " << worst_at;
}

INSTANTIATE_TEST_SUITE_P(
    Functions, Elementary,
    ::testing::Values(
        Function{"exp", &KernelTable::exp, [](double x) { return std::exp(x); }, 1.0, -HUGE_VAL, HUGE_VAL},
        Function{"tanh", &KernelTable::tanh, [](double x) { return std::tanh(x); }, 1.5, -HUGE_VAL, HUGE_VAL},
        Function{"sigmoid", &KernelTable::sigmoid, exact_sigmoid, 2.5, -HUGE_VAL, HUGE_VAL},
        Function{"silu", &KernelTable::silu, [](double x) { return x * exact_sigmoid(x); }, 3.5, -80, HUGE_VAL},
        Function{"gelu_tanh", &KernelTable::gelu_tanh, exact_gelu, 3.5, -1, HUGE_VAL},
        Function{"gelu_tanh_tail", &KernelTable::gelu_tanh, exact_gelu, 100, -8, -1}),
    [](const auto& function) { return function.param.name; });

}  // namespace
}  // namespace fettle::kit
