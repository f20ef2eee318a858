// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/tensor/dtype.h"

#include "kernels/kernel_testing.h"

#include <cstring>
#include <limits>
#include <numeric>

namespace fettle::kit {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr std::size_t kMost = 3 * 16 + 1;  ///< three vectors and one element

/// Every length, from an unaligned start; then a longer row; then the same with special values strewn in.
void for_rows(auto&& body) {
  Random random(11);
  std::vector<std::size_t> lengths(kMost + 1);
  std::iota(lengths.begin(), lengths.end(), std::size_t{0});
  lengths.push_back(1003);
  for (const std::size_t n : lengths)
    for (const bool special : {false, true}) {
      std::vector<float> a = random.row(n + 1, -8, 8), b = random.row(n + 1), c = random.row(n + 1);
      if (special) {
        const float values[] = {kNaN,    kInf,  -kInf,  0.0f,   -0.0f,   1e-41f,
                                -1e-41f, 3e38f, -3e38f, 100.0f, -100.0f, 1e-20f};
        for (std::size_t i = 0; i <= n; i += 3) a[i] = values[random.below(std::size(values))];
      }
      for (const KernelTable* table : usable_kernels()) {
        body(*table, n, a, b, c);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
}

using Row = std::vector<float>;

TEST(RowKernels, OfAllInstructionSetsGiveTheBitsOfTheScalarOnes) {
  for_rows([](const KernelTable& t, std::size_t n, const Row& a, const Row& b, const Row& c) {
    const KernelTable& s = scalar_kernels;
    const float *pa = a.data() + 1, *pb = b.data() + 1, *pc = c.data() + 1;
    const std::string at = std::string(t.name) + " n " + std::to_string(n) + ' ';
    const auto same_number = [&](const char* what, float got, float want) {
      ASSERT_TRUE(same(got, want)) << at << what << ": " << got << ", expected " << want;
    };
    const auto same_row = [&](const char* what, auto&& run) {
      Row got = c, want = c;  // what lies beyond the row must stay
      run(t, got.data()), run(s, want.data());
      expect_same(got, want, at + what);
    };
    same_number("dot", t.dot(pa, pb, n), s.dot(pa, pb, n));
    same_number("sum_squares", t.sum_squares(pa, n), s.sum_squares(pa, n));
    same_number("max", t.max(pa, n), s.max(pa, n));
    ASSERT_EQ(t.arg_max(pa, n), s.arg_max(pa, n)) << at << "arg_max";
    same_row("axpy", [&](const KernelTable& k, float* y) { k.axpy(y, 1.7f, pa, n); });
    same_row("scale", [&](const KernelTable& k, float* y) { k.scale(y, 1.7f, pa, n); });
    same_row("add", [&](const KernelTable& k, float* y) { k.add(y, pa, pb, n); });
    same_row("mul", [&](const KernelTable& k, float* y) { k.mul(y, pa, pb, n); });
    same_row("scale_mul", [&](const KernelTable& k, float* y) { k.scale_mul(y, 1.7f, pa, pb, n); });
    same_row("exp", [&](const KernelTable& k, float* y) { k.exp(y, pa, n); });
    same_row("tanh", [&](const KernelTable& k, float* y) { k.tanh(y, pa, n); });
    same_row("sigmoid", [&](const KernelTable& k, float* y) { k.sigmoid(y, pa, n); });
    same_row("silu", [&](const KernelTable& k, float* y) { k.silu(y, pa, n); });
    same_row("gelu_tanh", [&](const KernelTable& k, float* y) { k.gelu_tanh(y, pa, n); });
    same_row("silu_mul", [&](const KernelTable& k, float* y) { k.silu_mul(y, pa, pb, n); });
    same_row("gelu_mul", [&](const KernelTable& k, float* y) { k.gelu_mul(y, pa, pb, n); });
    same_row("scale_mul_add", [&](const KernelTable& k, float* y) { k.scale_mul_add(y, 1.7f, pa, pb, n); });
    for (const auto gradient : {&KernelTable::silu_mul_gradient, &KernelTable::gelu_mul_gradient}) {
      Row other = c;
      same_row("dgate", [&](const KernelTable& k, float* y) { (k.*gradient)(y, other.data(), pb, pa, pc, n); });
      same_row("dup", [&](const KernelTable& k, float* y) { (k.*gradient)(other.data(), y, pb, pa, pc, n); });
    }
    const AdamwFactors factors{0.7f, 0.9f, 0.1f, 0.95f, 0.05f, 0.999f, 1e-3f, 1.5f, 1e-8f};
    Row squares = a;
    for (float& x : squares) x = x * x;
    for (const int which : {0, 1, 2})
      same_row("adamw", [&](const KernelTable& k, float* y) {
        Row state[3] = {a, b, squares};
        k.adamw(state[0].data() + 1, state[1].data() + 1, state[2].data() + 1, pc, factors, n);
        std::copy(state[which].begin(), state[which].end(), y);
      });
    same_row("exp_sum", [&](const KernelTable& k, float* y) { k.exp_sum(y, pa, 1.5f, n); });
    same_row("rotate", [&](const KernelTable& k, float* y) { k.rotate(y, pa, pc, n / 2); });
    Row unused(n + 1);
    same_number("exp_sum", t.exp_sum(unused.data(), pa, 1.5f, n), s.exp_sum(unused.data(), pa, 1.5f, n));
    if (n > 0) {
      same_row("rms_norm", [&](const KernelTable& k, float* y) { rms_norm_row(y, pa, pb, n, 1e-5f, k); });
      same_row("softmax", [&](const KernelTable& k, float* y) { softmax_row(y, pa, n, k); });
      same_number("log_sum_exp", log_sum_exp_row(pa, unused.data(), n, t), log_sum_exp_row(pa, unused.data(), n, s));
    }
  });
}

TEST(RowKernels, TransposeLikeTheScalarOne) {
  Random random(12);
  for (const std::int64_t rows : {1, 7, 8, 15, 16, 17, 33, 40})
    for (const std::int64_t cols : {1, 7, 8, 15, 16, 17, 33, 40}) {
      const Owned x(rows, cols, cols + 3, random);
      const Owned before(cols, rows, rows + 2, random);
      Owned want = before;
      scalar_kernels.transpose(want.data.data(), want.stride, x.data.data(), x.stride, rows, cols);
      for (const KernelTable* t : usable_kernels()) {
        Owned got = before;
        t->transpose(got.data.data(), got.stride, x.data.data(), x.stride, rows, cols);
        expect_same(got.data, want.data, t->name);
      }
    }
}

TEST(RowKernels, ConvertEveryHalfAsTheDtypeTableDoes) {
  std::vector<std::uint16_t> codes(65536 + 7);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint16_t>(i);
  std::vector<float> want(codes.size()), got(codes.size());
  const auto equal = [&] {
    return std::memcmp(got.data(), want.data(), want.size() * sizeof(float)) == 0;  // every bit of a NaN too
  };
  for (const KernelTable* t : usable_kernels()) {
    info(DType::f16).to_f32(reinterpret_cast<const std::byte*>(codes.data()), want.data(), codes.size());
    t->f16_to_f32(got.data(), codes.data(), codes.size());
    EXPECT_TRUE(equal()) << "f16 " << t->name;
    info(DType::bf16).to_f32(reinterpret_cast<const std::byte*>(codes.data()), want.data(), codes.size());
    t->bf16_to_f32(got.data(), codes.data(), codes.size());
    EXPECT_TRUE(equal()) << "bf16 " << t->name;
  }
}

TEST(RowKernels, RoundToHalvesAsTheDtypeTableDoes) {
  Random random(13);
  std::vector<float> x(200'003);
  for (float& value : x) value = std::bit_cast<float>(static_cast<std::uint32_t>(random.bits()));
  for (std::size_t i = 0; i < x.size(); i += 2)  // half of them where f16 rounds, ties and subnormals among them
    x[i] = std::ldexp(static_cast<float>(random.below(1 << 14)), static_cast<int>(random.below(44)) - 30);
  std::vector<std::uint16_t> want(x.size()), got(x.size());
  for (const KernelTable* t : usable_kernels()) {
    info(DType::f16).from_f32(x.data(), reinterpret_cast<std::byte*>(want.data()), x.size());
    t->f32_to_f16(got.data(), x.data(), x.size());
    EXPECT_EQ(got, want) << "f16 " << t->name;
    info(DType::bf16).from_f32(x.data(), reinterpret_cast<std::byte*>(want.data()), x.size());
    t->f32_to_bf16(got.data(), x.data(), x.size());
    EXPECT_EQ(got, want) << "bf16 " << t->name;
  }
}

TEST(RowKernels, FindTheFirstOfTheLargest) {
  for (const KernelTable* t : usable_kernels()) {
    std::vector<float> x(40, 1.0f);
    x[37] = x[21] = x[30] = 5;
    x[3] = kNaN;
    EXPECT_EQ(t->arg_max(x.data(), x.size()), 21u) << t->name;
    const std::vector<float> nothing(20, -kInf);
    EXPECT_EQ(t->arg_max(nothing.data(), nothing.size()), 0u) << t->name;
  }
}

TEST(RowKernels, SoftmaxSumsToOneAndLogSumExpIsItsNorm) {
  Random random(14);
  const auto x = random.row(1000, -20, 20);
  Row y(x.size());
  softmax_row(y.data(), x.data(), x.size());
  double total = 0, exact = 0;
  for (const float p : y) total += p;
  for (const float v : x) exact += std::exp(double{v});
  EXPECT_NEAR(total, 1, 1e-6);
  EXPECT_NEAR(log_sum_exp_row(x.data(), y.data(), x.size()), std::log(exact), 2e-6);
}

TEST(RowKernels, SoftmaxOfARowWithoutNumbersIsNaN) {
  Row x(5, -kInf);
  softmax_row(x.data(), x.data(), x.size());
  for (const float p : x) EXPECT_TRUE(std::isnan(p));
}

TEST(RowKernels, RmsNormDividesByTheRootMeanSquare) {
  const Row x = {3, -4}, weight = {2, 1};
  Row y(2);
  const float rstd = rms_norm_row(y.data(), x.data(), weight.data(), 2, 0);
  EXPECT_FLOAT_EQ(rstd, 1 / std::sqrt(12.5f));
  EXPECT_FLOAT_EQ(y[0], 6 / std::sqrt(12.5f));
  EXPECT_FLOAT_EQ(y[1], -4 / std::sqrt(12.5f));
}

TEST(Kernels, AreFoundByName) {
  for (const KernelTable* t : usable_kernels()) {
    const auto found = find_kernels(t->name);
    ASSERT_TRUE(found.ok());
    EXPECT_EQ(*found, t);
  }
  EXPECT_EQ(*find_kernels(nullptr), usable_kernels().back());
  EXPECT_EQ(*find_kernels(""), usable_kernels().back());
}

TEST(Kernels, NameTheVectorsOfTheirRows) {
  for (const KernelTable* t : usable_kernels())
    EXPECT_EQ(t->vectors == Vectors::avx512, t->exp == avx512_kernels.exp) << t->name;
}

TEST(Kernels, RefuseAnUnknownName) {
  const auto found = find_kernels("sse");
  ASSERT_FALSE(found.ok());
  EXPECT_EQ(found.error().where(), "FETTLE_ISA");
  EXPECT_EQ(
      found.error().message(),
      "unknown instruction set 'sse', expected scalar, avx2, avx512, avx512bf16 or amx; unset it to use the fastest");
}

}  // namespace
}  // namespace fettle::kit
