// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/kernels/gemm.h"

#include "kernels/kernel_testing.h"
#include "kernels/row_source_testing.h"

#include <tbb/global_control.h>
#include <tbb/task_arena.h>

#include <limits>

namespace fettle::kit {
namespace {

/// What the header promises, word by word.
void naive(MutMatrix y, std::int64_t depth, bool accumulate, auto&& x, auto&& w) {
  for (std::int64_t i = 0; i < y.rows; ++i) {
    for (std::int64_t j = 0; j < y.cols; ++j) {
      float sum = accumulate ? y(i, j) : 0.0f;
      for (std::int64_t k = 0; k < depth; ++k) sum = std::fma(x(i, k), w(k, j), sum);
      y(i, j) = sum;
    }
  }
}

enum class Form { nt, nn, tn };

struct Product {
  Form form;
  std::int64_t m, n, k;
  bool accumulate;
  Owned x, w, y;

  static std::int64_t pad(Random& random) { return random.below(3) == 0 ? random.below(20) : 0; }
  Product(Form f, std::int64_t m_, std::int64_t n_, std::int64_t k_, bool acc, Random& random)
      : form(f),
        m(m_),
        n(n_),
        k(k_),
        accumulate(acc),
        x(f == Form::tn ? k : m, f == Form::tn ? m : k, (f == Form::tn ? m : k) + pad(random), random),
        w(f == Form::nt ? n : k, f == Form::nt ? k : n, (f == Form::nt ? k : n) + pad(random), random),
        y(m, n, n + pad(random), random) {}

  std::vector<float> expected() const {
    Owned out = y;
    naive(
        out, k, accumulate,
        [&](auto i, auto d) { return form == Form::tn ? ConstMatrix(x)(d, i) : ConstMatrix(x)(i, d); },
        [&](auto d, auto j) { return form == Form::nt ? ConstMatrix(w)(j, d) : ConstMatrix(w)(d, j); });
    return out.data;
  }
  std::vector<float> run(const KernelTable& table) const {
    Owned out = y;
    const auto function =
        form == Form::nt
            ? static_cast<void (*)(MutMatrix, ConstMatrix, ConstMatrix, bool, const KernelTable&)>(matmul_nt)
        : form == Form::nn ? matmul_nn
                           : matmul_tn;
    function(out, x, w, accumulate, table);
    return out.data;
  }
  std::string name(const KernelTable& table) const {
    return std::string(table.name) +
           (form == Form::nt   ? " nt "
            : form == Form::nn ? " nn "
                               : " tn ") +
           std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k) +
           (accumulate ? " accumulated" : "");
  }
};

void expect_as_promised(const Product& product) {
  const std::vector<float> expected = product.expected();
  for (const KernelTable* table : usable_kernels()) expect_same(product.run(*table), expected, product.name(*table));
}

TEST(MatrixProduct, IsOneChainInIndexOrderForEveryShapeAndInstructionSet) {
  Random random(1);
  for (int round = 0; round < 60; ++round) {
    const std::int64_t m = 1 + random.below(60), n = 1 + random.below(80), k = random.below(300);
    for (const Form form : {Form::nt, Form::nn, Form::tn}) {
      expect_as_promised(Product(form, m, n, k, random.below(2) == 1, random));
      if (HasFatalFailure()) return;
    }
  }
}

TEST(MatrixProduct, IsTheSameAroundEveryBorderOfABlock) {
  Random random(2);
  for (const std::int64_t m : {1, 2, 7, 8, 9, 13, 14, 15, 28, 29})
    for (const std::int64_t n : {1, 15, 16, 17, 31, 32, 33})
      for (const std::int64_t k : {0, 1, 15, 16, 17, 32, 33}) {
        for (const Form form : {Form::nt, Form::nn, Form::tn})
          expect_as_promised(Product(form, m, n, k, m % 2 == 0, random));
        if (HasFatalFailure()) return;
      }
}

TEST(MatrixProduct, IsTheSameAcrossBlocksOfDepth) {
  Random random(3);
  for (const std::int64_t k : {kBlockDepth - 1, kBlockDepth, kBlockDepth + 1, 3 * kBlockDepth + 5})
    for (const std::int64_t m : {3, 20}) {
      for (const Form form : {Form::nt, Form::nn, Form::tn}) expect_as_promised(Product(form, m, 37, k, true, random));
      if (HasFatalFailure()) return;
    }
}

TEST(MatrixProduct, IsTheSameForAnyNumberOfThreads) {
  const tbb::global_control allow(tbb::global_control::max_allowed_parallelism, 7);  // more than the machine may have
  Random random(4);
  for (const std::int64_t m : {4, 200, 700}) {
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

TEST(MatrixProduct, OfARowDoesNotDependOnTheOtherRows) {
  Random random(5);
  const Product product(Form::nt, 40, 130, 600, false, random);
  for (const KernelTable* table : usable_kernels()) {
    if (table == &scalar_kernels) continue;
    const auto whole = product.run(*table);
    for (std::int64_t i = 0; i < product.m; i += 3) {
      std::vector<float> alone(static_cast<std::size_t>(product.n));
      matmul_nt(MutMatrix(alone.data(), 1, product.n), ConstMatrix(product.x).rows_from(i, 1), product.w, false,
                *table);
      expect_same(alone, std::span(whole).subspan(static_cast<std::size_t>(i * product.y.stride), alone.size()), "row");
      if (HasFatalFailure()) return;
    }
  }
}

TEST(MatrixProduct, CarriesNaNAndInfinity) {
  Random random(6);
  for (const std::int64_t m : {2, 30}) {
    Product product(Form::nt, m, 40, 50, false, random);
    product.x.data[5] = std::numeric_limits<float>::quiet_NaN();
    product.x.data[static_cast<std::size_t>(product.x.stride) + 3] = std::numeric_limits<float>::infinity();
    product.w.data[0] = -std::numeric_limits<float>::infinity();
    expect_as_promised(product);
    EXPECT_TRUE(std::isnan(product.run(kernels())[7]));
  }
}

TEST(MatrixProduct, OfStoredWeightsIsThatOfTheirValues) {
  Random random(7);
  for (const DTypeInfo& type : all_dtypes()) {
    if (type.to_f32 == nullptr || type.from_f32 == nullptr || !is_float(type.dtype)) continue;
    for (const std::int64_t m : {1, 3, 8, 9, 33}) {
      for (const std::size_t misplaced : {0, 1}) {
        const std::int64_t k = 300, n = 45;
        const Owned x(m, k, k + 3, random), w(n, k, k, random);
        std::vector<std::byte> stored(bytes_of(type.dtype, static_cast<std::uint64_t>(n * k)) + misplaced);
        std::byte* at = stored.data() + misplaced;
        type.from_f32(w.data.data(), at, w.data.size());
        std::vector<float> values(w.data.size());
        type.to_f32(at, values.data(), values.size());
        Owned expected(m, n, n, random), got(m, n, n, random);
        naive(
            expected, k, false, [&](auto i, auto d) { return ConstMatrix(x)(i, d); },
            [&](auto d, auto j) { return values[static_cast<std::size_t>(j * k + d)]; });
        for (const KernelTable* table : usable_kernels()) {
          matmul_nt(got, x, StoredMatrix{at, type.dtype, n, k}, false, *table);
          expect_same(got.data, expected.data, std::string(type.name) + " " + table->name + " m " + std::to_string(m));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(MatrixProduct, OfRowsFromASourceIsThatOfTheirValues) {
  Random random(9);
  for (const std::int64_t m : {1, 3, 8, 9, 40}) {
    const std::int64_t k = 333, n = 150;
    const Owned x(m, k, k + 5, random), w(n, k, k, random);
    for (const bool accumulate : {false, true})
      for (const KernelTable* table : usable_kernels())
        for (const int threads : {1, 3}) {
          const CountedRows rows{ConstMatrix(w)};
          Owned expected(m, n, n + 3, random), got = expected;
          matmul_nt(expected, x, ConstMatrix(w), accumulate, scalar_kernels);
          const tbb::global_control limit(tbb::global_control::max_allowed_parallelism,
                                          static_cast<std::size_t>(threads));
          tbb::task_arena(threads).execute([&] {
            matmul_nt(got, x, StoredMatrix{nullptr, DType::f32, n, k, &rows}, accumulate, *table);
          });
          expect_same(got.data, expected.data, std::string(table->name) + " m " + std::to_string(m));
          EXPECT_EQ(rows.rows(), n);  // each once
        }
  }
}

/// What a product holds of a matrix that it cannot read as it is stored does not grow with the matrix.
TEST(MatrixProduct, HoldsAPanelOfTheRowsOfASource) {
  const std::int64_t n = 2500, k = 4096;
  const std::vector<float> w(static_cast<std::size_t>(n * k), 0.5F);
  ASSERT_GT(n * k, 2 * kPanelWeights);
  for (const std::int64_t m : {1, 9}) {
    const CountedRows rows{ConstMatrix(w.data(), n, k)};
    const std::vector<float> x(static_cast<std::size_t>(m * k), 1);
    std::vector<float> y(static_cast<std::size_t>(m * n));
    tbb::task_arena(1).execute([&] {
      matmul_nt(MutMatrix(y.data(), m, n), ConstMatrix(x.data(), m, k), StoredMatrix{nullptr, DType::f32, n, k, &rows});
    });
    EXPECT_EQ(rows.rows(), n);
    EXPECT_LE(rows.most_rows(), 64);
    EXPECT_LE(rows.spread(), m == 1 ? 64 * k : kPanelWeights);
    EXPECT_EQ(y.back(), 0.5F * k);
  }
}

TEST(MatrixProduct, OfStoredWeightsIsTheSameForAnyFewRowsAndAroundEveryBorder) {
  Random random(9);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const DTypeInfo& type = info(dtype);
    for (std::int64_t m = 1; m <= 16; ++m) {
      for (const std::int64_t n : {15, 16, 17, 33}) {
        for (const std::int64_t k : {1, 15, 31, 32, 33, 64, 95}) {
          const Owned x(m, k, k, random), w(n, k, k, random);
          std::vector<std::byte> stored(bytes_of(dtype, static_cast<std::uint64_t>(n * k)));
          type.from_f32(w.data.data(), stored.data(), w.data.size());
          std::vector<float> values(w.data.size());
          type.to_f32(stored.data(), values.data(), values.size());
          Owned expected(m, n, n, random), got(m, n, n, random);
          naive(
              expected, k, false, [&](auto i, auto d) { return ConstMatrix(x)(i, d); },
              [&](auto d, auto j) { return values[static_cast<std::size_t>(j * k + d)]; });
          for (const KernelTable* table : usable_kernels()) {
            matmul_nt(got, x, StoredMatrix{stored.data(), dtype, n, k}, false, *table);
            expect_same(got.data, expected.data,
                        std::string(type.name) + " " + table->name + " " + std::to_string(m) + " x " +
                            std::to_string(n) + " x " + std::to_string(k));
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST(MatrixProduct, OfStoredBlocksIsThatOfTheirValues) {
  Random random(8);
  const DTypeInfo& type = info(DType::q8_0);
  if (type.to_f32 == nullptr || type.from_f32 == nullptr) GTEST_SKIP() << "the table cannot convert q8_0";
  for (const std::int64_t m : {1, 2, 8, 20, 33}) {
    const std::int64_t k = 576, n = 50;
    const Owned x(m, k, k, random), w(n, k, k, random);
    std::vector<std::byte> stored(bytes_of(type.dtype, static_cast<std::uint64_t>(n * k)));
    type.from_f32(w.data.data(), stored.data(), w.data.size());
    std::vector<float> values(w.data.size());
    type.to_f32(stored.data(), values.data(), values.size());
    Owned expected(m, n, n, random), got(m, n, n, random);
    matmul_nt(expected, x, ConstMatrix(values.data(), n, k), false, scalar_kernels);
    for (const KernelTable* table : usable_kernels()) {
      matmul_nt(got, x, StoredMatrix{stored.data(), type.dtype, n, k}, false, *table);
      expect_same(got.data, expected.data, std::string("q8_0 ") + table->name + " m " + std::to_string(m));
    }
  }
}

TEST(MatrixProductDeathTest, NamesShapesThatDoNotFit) {
  float y[6] = {}, x[6] = {}, w[6] = {};
  EXPECT_DEATH(matmul_nt(MutMatrix(y, 2, 3), ConstMatrix(x, 2, 2), ConstMatrix(w, 3, 1)),
               "matmul_nt: y \\[2, 3\\] cannot hold \\[2, 2\\] x \\[1, 3\\]");
}

}  // namespace
}  // namespace fettle::kit
