// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/linalg/factor.h"

#include <fmt/format.h>
#include <tbb/enumerable_thread_specific.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <utility>

// One function compiled for several instruction sets and chosen when the library is loaded. Safe for the bits: lanes
// are independent sums in index order and nothing is contracted. Sanitizers' run times cannot resolve it.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FETTLE_EVERY_ISA
#else
#define FETTLE_EVERY_ISA __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#endif

namespace fettle::kit {
namespace {

constexpr std::int64_t block =
    64;  // columns factored at a time: a panel of 64 x 1,000 doubles stays in the second-level cache
constexpr std::int64_t tile_rows = 4, tile_cols = 16;  // eight 512-bit accumulators

/// Eight doubles at any address. The compiler's own vector type, so that the sums stay in registers on every target.
typedef double Lanes __attribute__((vector_size(64), aligned(8), may_alias));

/// c[4, 16] -= a[4, k] * b[k, 16]
FETTLE_EVERY_ISA void subtract_tile(double* c, std::int64_t ldc, const double* a, std::int64_t lda, const double* b,
                                    std::int64_t ldb, std::int64_t k) {
  Lanes sum00{}, sum01{}, sum10{}, sum11{}, sum20{}, sum21{}, sum30{}, sum31{};
  for (std::int64_t p = 0; p < k; ++p) {
    const Lanes b0 = *reinterpret_cast<const Lanes*>(b + p * ldb),
                b1 = *reinterpret_cast<const Lanes*>(b + p * ldb + 8);
    const double a0 = a[p], a1 = a[lda + p], a2 = a[2 * lda + p], a3 = a[3 * lda + p];
    sum00 += a0 * b0;
    sum01 += a0 * b1;
    sum10 += a1 * b0;
    sum11 += a1 * b1;
    sum20 += a2 * b0;
    sum21 += a2 * b1;
    sum30 += a3 * b0;
    sum31 += a3 * b1;
  }
  const auto at = [&](std::int64_t i, std::int64_t j) -> Lanes& { return *reinterpret_cast<Lanes*>(c + i * ldc + j); };
  at(0, 0) -= sum00;
  at(0, 8) -= sum01;
  at(1, 0) -= sum10;
  at(1, 8) -= sum11;
  at(2, 0) -= sum20;
  at(2, 8) -= sum21;
  at(3, 0) -= sum30;
  at(3, 8) -= sum31;
}

/// The same for any size, element by element in the same order.
void subtract_rest(double* c, std::int64_t ldc, const double* a, std::int64_t lda, const double* b, std::int64_t ldb,
                   std::int64_t rows, std::int64_t cols, std::int64_t k) {
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j) {
      double sum = 0;
      for (std::int64_t p = 0; p < k; ++p) sum += a[i * lda + p] * b[p * ldb + j];
      c[i * ldc + j] -= sum;
    }
}

/// c[rows, cols] -= a[rows, k] * b[k, cols]
void subtract_product(double* c, std::int64_t ldc, const double* a, std::int64_t lda, const double* b, std::int64_t ldb,
                      std::int64_t rows, std::int64_t cols, std::int64_t k) {
  const std::int64_t whole_rows = rows / tile_rows * tile_rows, whole_cols = cols / tile_cols * tile_cols;
  for (std::int64_t i = 0; i < whole_rows; i += tile_rows) {
    for (std::int64_t j = 0; j < whole_cols; j += tile_cols)
      subtract_tile(c + i * ldc + j, ldc, a + i * lda, lda, b + j, ldb, k);
    subtract_rest(c + i * ldc + whole_cols, ldc, a + i * lda, lda, b + whole_cols, ldb, tile_rows, cols - whole_cols,
                  k);
  }
  subtract_rest(c + whole_rows * ldc, ldc, a + whole_rows * lda, lda, b, ldb, rows - whole_rows, cols, k);
}

/// Plain Cholesky of the diagonal block [first, first + size).
Status factor_diagonal(Square& a, std::int64_t first, std::int64_t size) {
  for (std::int64_t j = first; j < first + size; ++j) {
    double pivot = a(j, j);
    for (std::int64_t p = first; p < j; ++p) pivot -= a(j, p) * a(j, p);
    if (!(pivot > 0) || !std::isfinite(pivot))
      return {Code::invalid_argument,
              fmt::format("the matrix is not positive definite: pivot {} of {} is {}", j + 1, a.size(), pivot)};
    a(j, j) = std::sqrt(pivot);
    for (std::int64_t i = j + 1; i < first + size; ++i) {
      double sum = a(i, j);
      for (std::int64_t p = first; p < j; ++p) sum -= a(i, p) * a(j, p);
      a(i, j) = sum / a(j, j);
    }
  }
  return {};
}

}  // namespace

Status cholesky(Square& a) {
  const std::int64_t n = a.size();
  std::vector<double> panel(static_cast<std::size_t>(block * n));  // the rows of the block so far, transposed
  for (std::int64_t first = 0; first < n; first += block) {
    const std::int64_t size = std::min(block, n - first), below = first + size;
    for (std::int64_t j = 0; j < size; ++j)
      for (std::int64_t p = 0; p < first; ++p) panel[static_cast<std::size_t>(p * size + j)] = a(first + j, p);
    subtract_product(a.row(first) + first, n, a.row(first), n, panel.data(), size, size, size, first);
    FETTLE_TRY(factor_diagonal(a, first, size));
    tbb::parallel_for(std::int64_t{0}, (n - below + block - 1) / block, [&](std::int64_t chunk) {
      const std::int64_t begin = below + chunk * block, rows = std::min(block, n - begin);
      subtract_product(a.row(begin) + first, n, a.row(begin), n, panel.data(), size, rows, size, first);
      for (std::int64_t i = begin; i < begin + rows; ++i)
        for (std::int64_t j = first; j < below; ++j) {
          double sum = a(i, j);
          for (std::int64_t p = first; p < j; ++p) sum -= a(i, p) * a(j, p);
          a(i, j) = sum / a(j, j);
        }
    });
  }
  return {};
}

void invert_lower(Square& l) {
  const std::int64_t n = l.size();
  std::vector<double> product(static_cast<std::size_t>(block * n)), diagonal(static_cast<std::size_t>(block * block));
  tbb::enumerable_thread_specific<std::vector<double>> columns;
  for (std::int64_t first = 0; first < n; first += block) {
    const std::int64_t size = std::min(block, n - first);
    // Inverse D of the diagonal block, column by column.
    std::fill(diagonal.begin(), diagonal.end(), 0.0);
    for (std::int64_t j = 0; j < size; ++j)
      for (std::int64_t i = j; i < size; ++i) {
        double sum = i == j ? 1.0 : 0.0;
        for (std::int64_t p = j; p < i; ++p)
          sum -= l(first + i, first + p) * diagonal[static_cast<std::size_t>(p * size + j)];
        diagonal[static_cast<std::size_t>(i * size + j)] = sum / l(first + i, first + i);
      }
    // Rows of the block left of it become -D * (L * M), where M is the inverse of everything above.
    tbb::parallel_for(std::int64_t{0}, (first + block - 1) / block, [&](std::int64_t chunk) {
      const std::int64_t begin = chunk * block, cols = std::min(block, first - begin);
      double* const out = product.data() + begin;
      std::vector<double>& packed = columns.local();  // M's columns of this chunk, one after the other
      // M is lower triangular: of its rows, those above `begin` are zero here, the next `cols` begin at the diagonal.
      for (std::int64_t i = 0; i < size; ++i)
        for (std::int64_t j = 0; j < cols; ++j) {
          double sum = 0;
          for (std::int64_t p = begin + j; p < begin + cols; ++p) sum += l(first + i, p) * l(p, begin + j);
          out[i * n + j] = -sum;
        }
      const std::int64_t below = begin + cols;
      packed.resize(static_cast<std::size_t>((first - below) * cols));
      for (std::int64_t p = below; p < first; ++p)
        std::copy_n(l.row(p) + begin, cols, packed.data() + (p - below) * cols);
      subtract_product(out, n, l.row(first) + below, n, packed.data(), cols, size, cols, first - below);
    });
    tbb::parallel_for(std::int64_t{0}, (first + block - 1) / block, [&](std::int64_t chunk) {
      const std::int64_t begin = chunk * block, cols = std::min(block, first - begin);
      for (std::int64_t i = 0; i < size; ++i)
        for (std::int64_t j = begin; j < begin + cols; ++j) {
          double sum = 0;
          for (std::int64_t p = 0; p <= i; ++p)
            sum += diagonal[static_cast<std::size_t>(i * size + p)] * product[static_cast<std::size_t>(p * n + j)];
          l(first + i, j) = sum;
        }
    });
    for (std::int64_t i = 0; i < size; ++i)
      for (std::int64_t j = 0; j <= i; ++j) l(first + i, first + j) = diagonal[static_cast<std::size_t>(i * size + j)];
  }
}

Result<Square> inverse_upper_factor(Square h) {
  // With J the reversal of order, J h J = L L^T gives h = R R^T with R = J L J upper triangular, and h^-1 = U^T U with
  // U = R^-1 = J L^-1 J.
  const std::int64_t n = h.size();
  Square reversed(n);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j <= i; ++j) reversed(i, j) = h(n - 1 - j, n - 1 - i);
  FETTLE_TRY(cholesky(reversed));
  invert_lower(reversed);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j) h(i, j) = j >= i ? reversed(n - 1 - i, n - 1 - j) : 0.0;
  return h;
}

}  // namespace fettle::kit
