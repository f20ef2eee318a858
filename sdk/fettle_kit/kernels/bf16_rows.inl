// SPDX-License-Identifier: Apache-2.0
// bf16 products by f32 fused multiply-adds. Included inside the anonymous namespace of each vector file, after
//
//   V                          a vector of kLanes floats: broadcast(x), fma(a, b, c), load(p, n), store(p, n, v) of the first n
//   FETTLE_ROWS(X)             X(0) ... X(kLanes / 2 - 1)
//   transpose                  of the file's kernel table
//
// Panels are f32: element k of row i of x at [k * kRows + i], of column j of w at [k * kLanes + j].

constexpr ptrdiff_t kRows = kLanes / 2;

inline float widened(std::uint16_t x) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(x) << 16); }
inline float widened(float x) {
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const std::uint32_t code = nan ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1);
  return __builtin_bit_cast(float, code & 0xffff0000u);
}

template <ptrdiff_t width, class Number>
void pack_by_depth(float* to, const Number* from, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t depth,
                   ptrdiff_t panel_floats) {
  for (ptrdiff_t k = 0; k < depth; ++k, from += stride, to += width) {
    ptrdiff_t i = 0;
    float* out = to;
    for (; i + width <= rows; i += width, out += panel_floats)
      for (ptrdiff_t j = 0; j < width; ++j) out[j] = widened(from[i + j]);
    for (ptrdiff_t j = 0; i < rows && j < width; ++j) out[j] = i + j < rows ? widened(from[i + j]) : 0.0f;
  }
}

template <ptrdiff_t width, class Number>
void pack_along_rows(float* to, const Number* from, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t depth,
                     ptrdiff_t panel_floats) {
  constexpr ptrdiff_t kChunk = 64;
  alignas(64) float part[width][kChunk + 16];  // + 16: the rows fall into different sets of the cache
  for (ptrdiff_t i = 0; i < rows; i += width, to += panel_floats, from += width * stride) {
    const ptrdiff_t height = rows - i < width ? rows - i : width;
    for (ptrdiff_t r = height; r < width; ++r)
      for (ptrdiff_t c = 0; c < kChunk; ++c) part[r][c] = 0;
    for (ptrdiff_t k = 0; k < depth; k += kChunk) {
      const ptrdiff_t chunk = depth - k < kChunk ? depth - k : kChunk;
      for (ptrdiff_t r = 0; r < height; ++r) {
        const Number* row = from + r * stride + k;
        if (chunk == kChunk) {
          for (ptrdiff_t c = 0; c < kChunk; ++c) part[r][c] = widened(row[c]);
        } else {
          for (ptrdiff_t c = 0; c < chunk; ++c) part[r][c] = widened(row[c]);
        }
      }
      transpose(to + k * width, width, part[0], kChunk + 16, width, chunk);
    }
  }
}

template <ptrdiff_t width>
void pack(void* to, Bf16Source from, ptrdiff_t rows, ptrdiff_t depth) {
  const ptrdiff_t padded = (depth + kBf16Slice - 1) / kBf16Slice * kBf16Slice, panel_floats = padded * width;
  auto* out = static_cast<float*>(to);
  const auto* halves = static_cast<const std::uint16_t*>(from.data);
  const auto* floats = static_cast<const float*>(from.data);
  if (from.stored && from.by_depth) {
    pack_by_depth<width>(out, halves, from.stride, rows, depth, panel_floats);
  } else if (from.stored) {
    pack_along_rows<width>(out, halves, from.stride, rows, depth, panel_floats);
  } else if (from.by_depth) {
    pack_by_depth<width>(out, floats, from.stride, rows, depth, panel_floats);
  } else {
    pack_along_rows<width>(out, floats, from.stride, rows, depth, panel_floats);
  }
  for (ptrdiff_t i = 0; i < rows; i += width, out += panel_floats)
    for (ptrdiff_t at = depth * width; at < panel_floats; ++at) out[at] = 0;
}

/// kRows x kLanes elements of y, of which `rows` and `cols` exist.
[[gnu::noinline]] void multiply_panels(float* y, ptrdiff_t y_stride, const float* x, const float* w, ptrdiff_t padded, ptrdiff_t rows,
                     ptrdiff_t cols, bool accumulate) {
  const V zero = broadcast(0.0f);
#define FETTLE_LOAD(i) V s##i = accumulate && i < rows ? load(y + i * y_stride, cols) : zero;
  FETTLE_ROWS(FETTLE_LOAD)
#undef FETTLE_LOAD
  for (ptrdiff_t k = 0; k < padded; k += kBf16Slice) {
#define FETTLE_ZERO(i) V even##i = zero, odd##i = zero;
    FETTLE_ROWS(FETTLE_ZERO)
#undef FETTLE_ZERO
    for (ptrdiff_t d = 0; d < kBf16Slice; d += 2, x += 2 * kRows, w += 2 * kLanes) {
      const V w0 = load(w, kLanes), w1 = load(w + kLanes, kLanes);
#define FETTLE_STEP(i)                            \
  even##i = fma(broadcast(x[i]), w0, even##i);    \
  odd##i = fma(broadcast(x[kRows + i]), w1, odd##i);
      FETTLE_ROWS(FETTLE_STEP)
#undef FETTLE_STEP
    }
#define FETTLE_ADD(i) s##i = s##i + (even##i + odd##i);
    FETTLE_ROWS(FETTLE_ADD)
#undef FETTLE_ADD
  }
#define FETTLE_STORE(i) \
  if (i < rows) store(y + i * y_stride, cols, s##i);
  FETTLE_ROWS(FETTLE_STORE)
#undef FETTLE_STORE
}

/// The control word with subnormal operands and results taken for zero. It changes nothing but the arithmetic between
/// the two instructions: no other code of a thread sees it.
void multiply(float* y, ptrdiff_t y_stride, const void* x, const void* w, ptrdiff_t rows, ptrdiff_t cols,
              ptrdiff_t depth, bool accumulate) {
  constexpr unsigned kFlush = 0x8040, kNearest = 0x1f80;  // all exceptions masked, rounding to nearest
  const unsigned before = _mm_getcsr();
  _mm_setcsr(kNearest | kFlush);
  asm volatile("" ::: "memory");
  const ptrdiff_t padded = (depth + kBf16Slice - 1) / kBf16Slice * kBf16Slice;
  for (ptrdiff_t j = 0; j < cols; j += kLanes) {
    const float* panel_w = static_cast<const float*>(w) + j * padded;
    for (ptrdiff_t i = 0; i < rows; i += kRows)
      multiply_panels(y + i * y_stride + j, y_stride, static_cast<const float*>(x) + i * padded, panel_w, padded,
                      rows - i, cols - j < kLanes ? cols - j : kLanes, accumulate);
  }
  asm volatile("" ::: "memory");
  _mm_setcsr(before);
}
