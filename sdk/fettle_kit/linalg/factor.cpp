// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/linalg/factor.h"

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fettle::kit {
namespace {

constexpr std::int64_t block = 128;  // columns factored at a time, and the most rows of a product
constexpr std::int64_t depth = 128;  // of a product at a time: 16 columns of it stay in the first-level cache
constexpr std::int64_t share = 128;  // a task's share of a block of rows

// The one operation behind everything: c[rows, 16] -= a[rows, k] * b[k, 16], each element a chain of fused
// multiply-adds in index order that begins with c. So the bits depend neither on the tiles nor on the instruction set.
// Both are copied together: a(i, p) at a[i * 136 + p],
// b(p, j) at b[p * 16 + j].
using Tile = void (*)(double* c, std::int64_t ldc, const double* a, const double* b, std::int64_t k);

constexpr std::int64_t tile_rows = 8, tile_cols = 16;
constexpr std::int64_t row_of_a = depth + 8;  // rows a power of two apart would share the ways of a cache set

void tile_plain(double* c, std::int64_t ldc, const double* a, const double* b, std::int64_t k) {
  for (std::int64_t i = 0; i < tile_rows; ++i)
    for (std::int64_t p = 0; p < k; ++p)
      for (std::int64_t j = 0; j < tile_cols; ++j)
        c[i * ldc + j] = std::fma(-a[i * row_of_a + p], b[p * tile_cols + j], c[i * ldc + j]);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void tile_avx2(double* c, std::int64_t ldc, const double* a, const double* b,
                                                   std::int64_t k) {
  for (std::int64_t i = 0; i < tile_rows; i += 4)
    for (std::int64_t j = 0; j < tile_cols; j += 8) {
      double* const at = c + i * ldc + j;
      __m256d c00 = _mm256_loadu_pd(at), c01 = _mm256_loadu_pd(at + 4);
      __m256d c10 = _mm256_loadu_pd(at + ldc), c11 = _mm256_loadu_pd(at + ldc + 4);
      __m256d c20 = _mm256_loadu_pd(at + 2 * ldc), c21 = _mm256_loadu_pd(at + 2 * ldc + 4);
      __m256d c30 = _mm256_loadu_pd(at + 3 * ldc), c31 = _mm256_loadu_pd(at + 3 * ldc + 4);
      for (std::int64_t p = 0; p < k; ++p) {
        const __m256d b0 = _mm256_loadu_pd(b + p * tile_cols + j), b1 = _mm256_loadu_pd(b + p * tile_cols + j + 4);
        const double* const row = a + i * row_of_a + p;
        __m256d x = _mm256_broadcast_sd(row);
        c00 = _mm256_fnmadd_pd(x, b0, c00);
        c01 = _mm256_fnmadd_pd(x, b1, c01);
        x = _mm256_broadcast_sd(row + row_of_a);
        c10 = _mm256_fnmadd_pd(x, b0, c10);
        c11 = _mm256_fnmadd_pd(x, b1, c11);
        x = _mm256_broadcast_sd(row + 2 * row_of_a);
        c20 = _mm256_fnmadd_pd(x, b0, c20);
        c21 = _mm256_fnmadd_pd(x, b1, c21);
        x = _mm256_broadcast_sd(row + 3 * row_of_a);
        c30 = _mm256_fnmadd_pd(x, b0, c30);
        c31 = _mm256_fnmadd_pd(x, b1, c31);
      }
      _mm256_storeu_pd(at, c00);
      _mm256_storeu_pd(at + 4, c01);
      _mm256_storeu_pd(at + ldc, c10);
      _mm256_storeu_pd(at + ldc + 4, c11);
      _mm256_storeu_pd(at + 2 * ldc, c20);
      _mm256_storeu_pd(at + 2 * ldc + 4, c21);
      _mm256_storeu_pd(at + 3 * ldc, c30);
      _mm256_storeu_pd(at + 3 * ldc + 4, c31);
    }
}

__attribute__((target("avx512f"))) void tile_avx512(double* c, std::int64_t ldc, const double* a, const double* b,
                                                    std::int64_t k) {
  __m512d left[tile_rows], right[tile_rows];
  for (int i = 0; i < tile_rows; ++i) {
    left[i] = _mm512_loadu_pd(c + i * ldc);
    right[i] = _mm512_loadu_pd(c + i * ldc + 8);
  }
  for (std::int64_t p = 0; p < k; ++p) {
    const __m512d b0 = _mm512_loadu_pd(b + p * tile_cols), b1 = _mm512_loadu_pd(b + p * tile_cols + 8);
#pragma GCC unroll 8
    for (int i = 0; i < tile_rows; ++i) {
      const __m512d x = _mm512_set1_pd(a[i * row_of_a + p]);
      left[i] = _mm512_fnmadd_pd(x, b0, left[i]);
      right[i] = _mm512_fnmadd_pd(x, b1, right[i]);
    }
  }
  for (int i = 0; i < tile_rows; ++i) {
    _mm512_storeu_pd(c + i * ldc, left[i]);
    _mm512_storeu_pd(c + i * ldc + 8, right[i]);
  }
}
#endif

Tile tile_of_this_machine() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return &tile_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &tile_avx2;
#endif
  return &tile_plain;
}

/// Any size, element by element in the same order.
void subtract_rest(double* c, std::int64_t ldc, const double* a, std::int64_t lda, const double* b, std::int64_t ldb,
                   std::int64_t rows, std::int64_t cols, std::int64_t k) {
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j)
      for (std::int64_t p = 0; p < k; ++p) c[i * ldc + j] = std::fma(-a[i * lda + p], b[p * ldb + j], c[i * ldc + j]);
}

/// c[rows, cols] -= a[rows, k] * b[k, cols], at most `block` rows.
void subtract_product(double* c, std::int64_t ldc, const double* a, std::int64_t lda, const double* b, std::int64_t ldb,
                      std::int64_t rows, std::int64_t cols, std::int64_t k) {
  static const Tile tile = tile_of_this_machine();
  const std::int64_t whole_rows = rows / tile_rows * tile_rows, whole_cols = cols / tile_cols * tile_cols;
  alignas(64) double left[block * row_of_a], right[depth * tile_cols];
  for (std::int64_t first = 0; first < k; first += depth) {
    const std::int64_t deep = std::min(depth, k - first);
    for (std::int64_t i = 0; i < whole_rows; ++i) std::copy_n(a + i * lda + first, deep, left + i * row_of_a);
    for (std::int64_t j = 0; j < whole_cols; j += tile_cols) {
      for (std::int64_t p = 0; p < deep; ++p) std::copy_n(b + (first + p) * ldb + j, tile_cols, right + p * tile_cols);
      for (std::int64_t i = 0; i < whole_rows; i += tile_rows)
        tile(c + i * ldc + j, ldc, left + i * row_of_a, right, deep);
    }
    const double* const below = b + first * ldb;
    subtract_rest(c + whole_cols, ldc, a + first, lda, below + whole_cols, ldb, whole_rows, cols - whole_cols, deep);
    subtract_rest(c + whole_rows * ldc, ldc, a + whole_rows * lda + first, lda, below, ldb, rows - whole_rows, cols,
                  deep);
  }
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

/// The inverse of the lower triangular [first, first + size) of l, row-major [size, size], zeros above.
std::vector<double> inverse_of_diagonal(const Square& l, std::int64_t first, std::int64_t size) {
  std::vector<double> inverse(static_cast<std::size_t>(size * size));
  for (std::int64_t i = 0; i < size; ++i) {
    double* const row = inverse.data() + i * size;
    row[i] = 1;
    for (std::int64_t p = 0; p < i; ++p) {
      const double x = l(first + i, first + p);
      const double* const above = inverse.data() + p * size;
      for (std::int64_t j = 0; j <= p; ++j) row[j] -= x * above[j];
    }
    for (std::int64_t j = 0; j <= i; ++j) row[j] /= l(first + i, first + i);
  }
  return inverse;
}

}  // namespace

Status cholesky(Square& a) {
  const std::int64_t n = a.size();
  std::vector<double> panel(static_cast<std::size_t>(block * n));  // the rows of the block so far, transposed
  std::vector<double> solver(static_cast<std::size_t>(block * block));
  for (std::int64_t first = 0; first < n; first += block) {
    const std::int64_t size = std::min(block, n - first), below = first + size;
    for (std::int64_t j = 0; j < size; ++j)
      for (std::int64_t p = 0; p < first; ++p) panel[static_cast<std::size_t>(p * size + j)] = a(first + j, p);
    subtract_product(a.row(first) + first, n, a.row(first), n, panel.data(), size, size, size, first);
    FETTLE_TRY(factor_diagonal(a, first, size));
    // What is below is divided by the diagonal block: multiplied by its inverse, transposed.
    const std::vector<double> inverse = inverse_of_diagonal(a, first, size);
    for (std::int64_t i = 0; i < size; ++i)
      for (std::int64_t j = 0; j < size; ++j)
        solver[static_cast<std::size_t>(j * size + i)] = inverse[static_cast<std::size_t>(i * size + j)];
    tbb::parallel_for(std::int64_t{0}, (n - below + share - 1) / share, [&](std::int64_t chunk) {
      const std::int64_t begin = below + chunk * share, rows = std::min(share, n - begin);
      subtract_product(a.row(begin) + first, n, a.row(begin), n, panel.data(), size, rows, size, first);
      std::vector<double> right(static_cast<std::size_t>(rows * size));  // negated
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < size; ++j) {
          right[static_cast<std::size_t>(i * size + j)] = -a(begin + i, first + j);
          a(begin + i, first + j) = 0;
        }
      subtract_product(a.row(begin) + first, n, right.data(), size, solver.data(), size, rows, size, size);
    });
  }
  return {};
}

void invert_lower(Square& l) {
  const std::int64_t n = l.size();
  std::vector<double> product(static_cast<std::size_t>(block * n));
  for (std::int64_t first = 0; first < n; first += block) {
    const std::int64_t size = std::min(block, n - first), chunks = (first + share - 1) / share;
    std::vector<double> inverse = inverse_of_diagonal(l, first, size);
    // Rows of the block left of it become -D * (L * M), where M is the inverse of everything above and D that of the
    // diagonal block. First -L * M, a chunk of columns a task.
    std::fill_n(product.begin(), size * n, 0.0);
    tbb::parallel_for(std::int64_t{0}, chunks, [&](std::int64_t chunk) {
      const std::int64_t begin = chunk * share, cols = std::min(share, first - begin);
      double* const out = product.data() + begin;
      std::vector<double> corner(static_cast<std::size_t>(cols * cols));  // M's triangle here, zeros above it
      for (std::int64_t p = 0; p < cols; ++p) std::copy_n(l.row(begin + p) + begin, p + 1, corner.data() + p * cols);
      subtract_product(out, n, l.row(first) + begin, n, corner.data(), cols, size, cols, cols);
      const std::int64_t below = begin + cols;
      subtract_product(out, n, l.row(first) + below, n, l.row(below) + begin, n, size, cols, first - below);
    });
    std::vector<double> negated(inverse.size());
    std::transform(inverse.begin(), inverse.end(), negated.begin(), [](double x) { return -x; });
    tbb::parallel_for(std::int64_t{0}, chunks, [&](std::int64_t chunk) {
      const std::int64_t begin = chunk * share, cols = std::min(share, first - begin);
      for (std::int64_t i = 0; i < size; ++i) std::fill_n(l.row(first + i) + begin, cols, 0.0);
      subtract_product(l.row(first) + begin, n, negated.data(), size, product.data() + begin, n, size, cols, size);
    });
    for (std::int64_t i = 0; i < size; ++i) std::copy_n(inverse.data() + i * size, i + 1, l.row(first + i) + first);
  }
}

Result<Square> inverse_upper_factor(Square h) {
  // With J the reversal of order, J h J = L L^T gives h = R R^T with R = J L J upper triangular, and h^-1 = U^T U with
  // U = R^-1 = J L^-1 J.
  const std::int64_t n = h.size();
  constexpr std::int64_t patch = 32;  // squares, so that the side read down its columns stays in the cache
  const auto patches = [&](const auto& visit) {
    tbb::parallel_for(std::int64_t{0}, (n + patch - 1) / patch, [&](std::int64_t row) {
      for (std::int64_t col = 0; col <= row; ++col)
        for (std::int64_t i = row * patch; i < std::min(n, (row + 1) * patch); ++i)
          for (std::int64_t j = col * patch; j < std::min(i + 1, (col + 1) * patch); ++j) visit(i, j);
    });
  };
  Square reversed(n);
  patches([&](std::int64_t i, std::int64_t j) { reversed(i, j) = h(n - 1 - j, n - 1 - i); });
  FETTLE_TRY(cholesky(reversed));
  invert_lower(reversed);
  patches([&](std::int64_t i, std::int64_t j) {
    h(n - 1 - i, n - 1 - j) = reversed(i, j);
    if (i != j) h(n - 1 - j, n - 1 - i) = 0;
  });
  return h;
}

}  // namespace fettle::kit
