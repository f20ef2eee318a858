// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/kernels/gemm_bf16.h"

#include "kernels/kernel_testing.h"
#include "kernels/row_source_testing.h"

#include <tbb/global_control.h>
#include <tbb/task_arena.h>

#include <limits>

namespace fettle::kit {
namespace {

enum class Form { nt, nn, tn };
constexpr const char* kFormNames[] = {"nt", "nn", "tn"};

float rounded(float x) {
  std::uint16_t half;
  float back;
  scalar_kernels.f32_to_bf16(&half, &x, 1);
  scalar_kernels.bf16_to_f32(&back, &half, 1);
  return back;
}

float flush(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }

/// x and w as f32 and as stored bf16, in the orientation of `form`, with room between rows.
struct Product {
  Form form;
  std::int64_t m, n, k;
  bool accumulate;
  Owned x, w, y;
  std::vector<std::uint16_t> stored_x, stored_w;

  static std::int64_t pad(Random& random) { return random.below(3) == 0 ? random.below(20) : 0; }
  Product(Form f, std::int64_t m_, std::int64_t n_, std::int64_t k_, bool acc, Random& random)
      : form(f),
        m(m_),
        n(n_),
        k(k_),
        accumulate(acc),
        x(f == Form::tn ? k : m, f == Form::tn ? m : k, (f == Form::tn ? m : k) + pad(random), random),
        w(f == Form::nt ? n : k, f == Form::nt ? k : n, (f == Form::nt ? k : n) + pad(random), random),
        y(m, n, n + pad(random), random) {
    store();
  }
  void store() {
    stored_x.resize(x.data.size()), stored_w.resize(w.data.size());
    scalar_kernels.f32_to_bf16(stored_x.data(), x.data.data(), x.data.size());
    scalar_kernels.f32_to_bf16(stored_w.data(), w.data.data(), w.data.size());
  }
  float& at_x(std::int64_t i, std::int64_t d) { return form == Form::tn ? MutMatrix(x)(d, i) : MutMatrix(x)(i, d); }
  float& at_w(std::int64_t d, std::int64_t j) { return form == Form::nt ? MutMatrix(w)(j, d) : MutMatrix(w)(d, j); }

  /// What the header promises, word by word (but for sums just below the smallest normal number).
  std::vector<float> expected() {
    Owned out = y;
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        float sum = accumulate ? y.data[static_cast<std::size_t>(i * y.stride + j)] : 0.0f;
        for (std::int64_t s = 0; s < k; s += 32) {
          float chain[2] = {};
          for (std::int64_t d = s; d < s + 32; ++d) {
            const float a = d < k ? flush(rounded(at_x(i, d))) : 0.0f, b = d < k ? flush(rounded(at_w(d, j))) : 0.0f;
            chain[d % 2] = flush(std::fma(a, b, chain[d % 2]));
          }
          sum = flush(flush(sum) + flush(chain[0] + chain[1]));
        }
        out.data[static_cast<std::size_t>(i * out.stride + j)] = sum;
      }
    }
    return out.data;
  }
  std::vector<float> run(const KernelTable& table, bool x_stored = false, bool w_stored = false) const {
    Owned out = y;
    const Bf16Operand a =
        x_stored ? Bf16Operand(Bf16Matrix{stored_x.data(), x.rows, x.cols, x.stride}) : Bf16Operand(ConstMatrix(x));
    const Bf16Operand b =
        w_stored ? Bf16Operand(Bf16Matrix{stored_w.data(), w.rows, w.cols, w.stride}) : Bf16Operand(ConstMatrix(w));
    using Function = void (*)(MutMatrix, Bf16Operand, Bf16Operand, bool, const KernelTable&);
    const Function function = form == Form::nt   ? Function{matmul_bf16_nt}
                              : form == Form::nn ? Function{matmul_bf16_nn}
                                                 : Function{matmul_bf16_tn};
    function(out, a, b, accumulate, table);
    return out.data;
  }
  std::string name(const KernelTable& table) const {
    return std::string(table.name) + ' ' + kFormNames[static_cast<int>(form)] + ' ' + std::to_string(m) + " x " +
           std::to_string(n) + " x " + std::to_string(k) + (accumulate ? " accumulated" : "");
  }
};

void expect_as_promised(Product& product) {
  const std::vector<float> expected = product.expected();
  for (const KernelTable* table : usable_kernels()) expect_same(product.run(*table), expected, product.name(*table));
}

/// Numbers of every size, subnormals and zeros of both signs among them.
void make_hostile(std::vector<float>& values, Random& random) {
  for (float& v : values) {
    const auto kind = random.below(8);
    const auto scale = static_cast<int>(kind == 0 ? random.below(20) - 140 : kind < 4 ? random.below(30) - 75 : -60);
    v = kind == 7 ? std::copysign(0.0f, v) : std::ldexp(v, scale);
  }
}

TEST(Bf16Product, IsTwoChainsASliceForEveryShapeAndInstructionSet) {
  Random random(21);
  for (int round = 0; round < 30; ++round) {
    const std::int64_t m = 1 + random.below(80), n = 1 + random.below(80), k = random.below(200);
    for (const Form form : {Form::nt, Form::nn, Form::tn}) {
      Product product(form, m, n, k, random.below(2) == 1, random);
      expect_as_promised(product);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Bf16Product, IsTheSameAroundEveryBorderOfAPanel) {
  Random random(22);
  for (const std::int64_t m : {1, 4, 5, 8, 9, 16, 17, 31, 32, 33})
    for (const std::int64_t n : {1, 8, 9, 16, 17, 32, 33})
      for (const std::int64_t k : {0, 1, 2, 31, 32, 33, 63}) {
        for (const Form form : {Form::nt, Form::nn, Form::tn}) {
          Product product(form, m, n, k, m % 2 == 0, random);
          expect_as_promised(product);
        }
        if (HasFatalFailure()) return;
      }
}

TEST(Bf16Product, IsTheSameAcrossBlocksOfDepth) {
  Random random(23);
  for (const std::int64_t k : {511, 512, 513, 1100})
    for (const Form form : {Form::nt, Form::nn, Form::tn}) {
      Product product(form, 33, 37, k, true, random);
      expect_as_promised(product);
      if (HasFatalFailure()) return;
    }
}

TEST(Bf16Product, TakesSubnormalsForZerosOnEveryInstructionSet) {
  Random random(24);
  for (int round = 0; round < 20; ++round) {
    for (const Form form : {Form::nt, Form::nn, Form::tn}) {
      Product product(form, 33, 40, 70, round % 2 == 0, random);
      make_hostile(product.x.data, random), make_hostile(product.w.data, random), make_hostile(product.y.data, random);
      for (float& y : product.y.data) y = std::ldexp(y, -60);
      product.store();
      expect_as_promised(product);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Bf16Product, FlushesASumThatOnlyItsRoundingLiftsToTheSmallestNormalNumber) {
  Random random(25);
  Product product(Form::nt, 1, 1, 32, false, random);
  std::ranges::fill(product.x.data, 0.0f), std::ranges::fill(product.w.data, 0.0f);
  product.at_x(0, 0) = product.at_w(0, 0) = 0x1p-63f;
  product.at_x(0, 2) = -0x1p-75f, product.at_w(2, 0) = 0x1p-75f;  // 2^-126 - 2^-150
  for (const KernelTable* table : usable_kernels()) EXPECT_EQ(product.run(*table)[0], 0.0f) << table->name;
  product.at_x(0, 2) = -0x1p-76f;  // 2^-126 - 2^-151 rounds to 2^-126 with any exponent
  for (const KernelTable* table : usable_kernels()) EXPECT_EQ(product.run(*table)[0], 0x1p-126f) << table->name;
}

TEST(Bf16Product, OfStoredNumbersIsThatOfTheNumbersRounded) {
  Random random(26);
  for (const Form form : {Form::nt, Form::nn, Form::tn}) {
    for (const std::int64_t k : {30, 64, 600}) {
      Product product(form, 45, 70, k, false, random);
      for (std::size_t i = 0; i < product.x.data.size(); i += 3)  // f32 that rounds up to the smallest normal number
        product.x.data[i] = i % 2 == 0 ? 0x1.fffffcp-127f : 0x1.fcp-127f;
      product.store();
      const auto expected = product.run(scalar_kernels);
      for (const KernelTable* table : usable_kernels())
        for (const int which : {0, 1, 2, 3}) {
          expect_same(product.run(*table, which % 2 == 1, which / 2 == 1), expected, product.name(*table));
          if (HasFatalFailure()) return;
        }
    }
  }
}

TEST(Bf16Product, IsTheSameForAnyNumberOfThreads) {
  const tbb::global_control allow(tbb::global_control::max_allowed_parallelism, 7);  // more than the machine may have
  Random random(27);
  for (const std::int64_t m : {4, 200, 1100}) {
    for (const Form form : {Form::nt, Form::nn, Form::tn}) {
      const Product product(form, m, 300, 270, false, random);
      tbb::task_arena one(1);
      const auto expected = one.execute([&] { return product.run(kernels()); });
      for (const int threads : {2, 3, 7}) {
        tbb::task_arena arena(threads);
        expect_same(arena.execute([&] { return product.run(kernels()); }), expected,
                    std::to_string(threads) + " threads");
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Bf16Product, OfARowDoesNotDependOnTheOtherRows) {
  Random random(28);
  const Product product(Form::nt, 40, 130, 600, false, random);
  for (const KernelTable* table : usable_kernels()) {
    const auto whole = product.run(*table);
    for (std::int64_t i = 0; i < product.m; i += 7) {
      std::vector<float> alone(static_cast<std::size_t>(product.n));
      matmul_bf16_nt(MutMatrix(alone.data(), 1, product.n), ConstMatrix(product.x).rows_from(i, 1),
                     ConstMatrix(product.w), false, *table);
      expect_same(alone, std::span(whole).subspan(static_cast<std::size_t>(i * product.y.stride), alone.size()), "row");
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Bf16Product, SpreadsNaNAndInfinityToTheirRowsAndColumnsOnly) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  Random random(29);
  for (const Form form : {Form::nt, Form::nn, Form::tn}) {
    Product product(form, 35, 40, 50, false, random);
    product.at_x(3, 7) = std::numeric_limits<float>::quiet_NaN();
    product.at_x(33, 1) = kInf;
    product.at_w(11, 38) = -kInf;
    product.store();
    expect_as_promised(product);
    const auto got = product.run(kernels(), true, true);
    for (std::int64_t i = 0; i < product.m; ++i)
      for (std::int64_t j = 0; j < product.n; ++j)
        ASSERT_EQ(std::isfinite(got[static_cast<std::size_t>(i * product.y.stride + j)]), i != 3 && i != 33 && j != 38)
            << i << ' ' << j;
  }
}

TEST(Bf16Product, LeavesTheControlWordOfTheThreadAlone) {
  Random random(30);
  const Product product(Form::nt, 8, 8, 64, false, random);
  volatile float tiny = 0x1p-140f;
  for (const KernelTable* table : usable_kernels()) {
    product.run(*table);
    EXPECT_EQ(tiny * 2.0f, 0x1p-139f) << table->name;
  }
}

TEST(Bf16ProductDeathTest, NamesShapesThatDoNotFit) {
  float y[6] = {}, x[6] = {}, w[6] = {};
  EXPECT_DEATH(matmul_bf16_nt(MutMatrix(y, 2, 3), ConstMatrix(x, 2, 2), ConstMatrix(w, 3, 1)),
               "matmul_bf16_nt: y \\[2, 3\\] cannot hold \\[2, 2\\] x \\[1, 3\\]");
}

TEST(Bf16Product, TakesWeightsAsTheyAreStored) {
  Random random(31);
  constexpr std::int64_t m = 5, n = 70, k = 256;
  std::vector<float> x(m * k), w(n * k), converted(n * k), expected(m * n), made(m * n);
  for (float& v : x) v = random.uniform(-2, 2);
  for (float& v : w) v = random.uniform(-2, 2);
  for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_k}) {
    const DTypeInfo& t = info(type);
    std::vector<std::byte> bytes(
        w.size() / static_cast<std::size_t>(t.block_elems) * static_cast<std::size_t>(t.block_bytes) + 1);
    for (const std::size_t misplaced : {0u, 1u}) {
      t.from_f32(w.data(), bytes.data() + misplaced, w.size());
      t.to_f32(bytes.data() + misplaced, converted.data(), w.size());
      matmul_bf16_nt({expected.data(), m, n}, ConstMatrix(x.data(), m, k), ConstMatrix(converted.data(), n, k));
      matmul_bf16_nt({made.data(), m, n}, ConstMatrix(x.data(), m, k),
                     StoredMatrix{bytes.data() + misplaced, type, n, k});
      EXPECT_EQ(made, expected) << t.name << " " << misplaced;
    }
  }
}

TEST(Bf16Product, OfRowsFromASourceIsThatOfTheirValuesPanelByPanel) {
  Random random(32);
  const std::int64_t k = 4096, n = 1100, m = 3;
  ASSERT_GT(n * k, kPanelWeights);
  std::vector<float> x(static_cast<std::size_t>(m * k)), w(static_cast<std::size_t>(n * k)),
      expected(static_cast<std::size_t>(m * n)), made(expected.size());
  for (float& v : x) v = random.uniform(-2, 2);
  for (float& v : w) v = random.uniform(-2, 2);
  const CountedRows rows{ConstMatrix(w.data(), n, k)};
  matmul_bf16_nt({expected.data(), m, n}, ConstMatrix(x.data(), m, k), ConstMatrix(w.data(), n, k));
  matmul_bf16_nt({made.data(), m, n}, ConstMatrix(x.data(), m, k), StoredMatrix{nullptr, DType::f32, n, k, &rows});
  EXPECT_EQ(made, expected);
  EXPECT_EQ(rows.rows(), n);
  EXPECT_LE(rows.spread(), kPanelWeights);
}

}  // namespace
}  // namespace fettle::kit
