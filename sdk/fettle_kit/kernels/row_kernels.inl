// SPDX-License-Identifier: Apache-2.0
// The row kernels of scalar.cpp, 16 elements at a time. Included inside the anonymous namespace of each vector file, after
//
//   struct V   16 floats: load(p), load(p, n) (zeros beyond n), store(p), store(p, n), set(x), and the operations below
//   struct M   16 conditions
//
// Every operation is one IEEE operation a lane, so the bits are those of scalar.cpp.

constexpr size_t kLanes = 16;

/// Calls step(i, n) for each group of lanes of a row; n < 16 only in the last.
template <class Step>
[[gnu::always_inline]] inline void for_lanes(size_t n, const Step& step) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) step(i, All{});
  if (i < n) step(i, First{n - i});
}

float dot(const float* a, const float* b, size_t n) {
  V sum = V::set(0.0f);
  for_lanes(n, [&](size_t i, auto part) { sum = fma(V::load(a + i, part), V::load(b + i, part), sum); });
  return add_lanes(sum);
}

float sum_squares(const float* x, size_t n) { return dot(x, x, n); }

float max(const float* x, size_t n) {
  V best = V::set(-kInf);
  for_lanes(n, [&](size_t i, auto part) { best = keep(part, larger(V::load(x + i, part), best), best); });
  return max_lanes(best);
}

void axpy(float* y, float a, const float* x, size_t n) {
  const V factor = V::set(a);
  for_lanes(n, [&](size_t i, auto part) { fma(factor, V::load(x + i, part), V::load(y + i, part)).store(y + i, part); });
}
void scale(float* y, float a, const float* x, size_t n) {
  const V factor = V::set(a);
  for_lanes(n, [&](size_t i, auto part) { (factor * V::load(x + i, part)).store(y + i, part); });
}
void add(float* y, const float* a, const float* b, size_t n) {
  for_lanes(n, [&](size_t i, auto part) { (V::load(a + i, part) + V::load(b + i, part)).store(y + i, part); });
}
void mul(float* y, const float* a, const float* b, size_t n) {
  for_lanes(n, [&](size_t i, auto part) { (V::load(a + i, part) * V::load(b + i, part)).store(y + i, part); });
}
void scale_mul(float* y, float a, const float* x, const float* w, size_t n) {
  const V factor = V::set(a);
  for_lanes(n, [&](size_t i, auto part) {
    (factor * V::load(x + i, part) * V::load(w + i, part)).store(y + i, part);
  });
}

void scale_mul_add(float* y, float a, const float* x, const float* w, size_t n) {
  const V factor = V::set(a);
  for_lanes(n, [&](size_t i, auto part) {
    (V::load(y + i, part) + factor * V::load(x + i, part) * V::load(w + i, part)).store(y + i, part);
  });
}

void adamw(float* w, float* m, float* v, const float* g, const AdamwFactors& f, size_t n) {
  const V scale = V::set(f.scale), beta1 = V::set(f.beta1), rest1 = V::set(f.rest1), beta2 = V::set(f.beta2);
  const V rest2 = V::set(f.rest2), keep_share = V::set(f.keep), rate = V::set(f.rate), root = V::set(f.root);
  const V epsilon = V::set(f.epsilon);
  for_lanes(n, [&](size_t i, auto part) {
    const V scaled = V::load(g + i, part) * scale;
    const V first = beta1 * V::load(m + i, part) + rest1 * scaled;
    const V second = beta2 * V::load(v + i, part) + rest2 * (scaled * scaled);
    first.store(m + i, part);
    second.store(v + i, part);
    (keep_share * V::load(w + i, part) - rate * first / (square_root(second * root) + epsilon)).store(w + i, part);
  });
}

struct Exp {
  [[gnu::always_inline]] static V of(V x) {
    const M none = less(x, V::set(kExpMin));
    x = smaller(V::set(kExpMax), x);  // x if it is NaN
    const V shifted = fma(x, V::set(kLog2E), V::set(kRoundMagic));
    const V n = shifted - V::set(kRoundMagic);
    V r = fma(n, V::set(-kLn2High), x);
    r = fma(n, V::set(-kLn2Low), r);
    V p = fma(V::set(kExp[5]), r, V::set(kExp[4]));
    p = fma(p, r, V::set(kExp[3]));
    p = fma(p, r, V::set(kExp[2]));
    p = fma(p, r, V::set(kExp[1]));
    p = fma(p, r, V::set(kExp[0]));
    p = fma(r * r, p, r) + V::set(1.0f);
    return times_power_of_two(p, n, shifted, none);
  }
};

struct Tanh {
  [[gnu::always_inline]] static V of(V x) {
    const V magnitude = abs(x), z = x * x;
    V p = fma(V::set(kTanh[5]), z, V::set(kTanh[4]));
    p = fma(p, z, V::set(kTanh[3]));
    p = fma(p, z, V::set(kTanh[2]));
    p = fma(p, z, V::set(kTanh[1]));
    p = fma(p, z, V::set(kTanh[0]));
    const V small = fma(x * z, p, x);
    const V large = V::set(1.0f) - V::set(2.0f) / (Exp::of(magnitude + magnitude) + V::set(1.0f));
    return select(less(magnitude, V::set(kTanhSmall)), small, copy_sign(large, x));
  }
};

struct Sigmoid {
  [[gnu::always_inline]] static V of(V x) {
    const V one = V::set(1.0f), e = Exp::of(negative(abs(x)));
    return select(less(x, V::set(0.0f)), e, one) / (one + e);
  }
};

struct Silu {
  [[gnu::always_inline]] static V of(V x) { return x * Sigmoid::of(x); }
};

struct GeluTanh {
  [[gnu::always_inline]] static V of(V x) { return x * Sigmoid::of(x * fma(V::set(kGelu3), x * x, V::set(kGelu1))); }
};

template <class Function>
void each(float* y, const float* x, size_t n) {
  for_lanes(n, [&](size_t i, auto part) { Function::of(V::load(x + i, part)).store(y + i, part); });
}
template <class Function>
void each_mul(float* y, const float* gate, const float* up, size_t n) {
  for_lanes(n, [&](size_t i, auto part) {
    (Function::of(V::load(gate + i, part)) * V::load(up + i, part)).store(y + i, part);
  });
}

struct SiluSlope {
  [[gnu::always_inline]] static V inner(V x) { return x; }
  [[gnu::always_inline]] static V inner_slope(V) { return V::set(1.0f); }
};
struct GeluSlope {
  [[gnu::always_inline]] static V inner(V x) { return x * fma(V::set(kGelu3), x * x, V::set(kGelu1)); }
  [[gnu::always_inline]] static V inner_slope(V x) { return fma(V::set(3.0f * kGelu3), x * x, V::set(kGelu1)); }
};
template <class Function>
void mul_gradient(float* dgate, float* dup, const float* dy, const float* gate, const float* up, size_t n) {
  for_lanes(n, [&](size_t i, auto part) {
    const V x = V::load(gate + i, part), d = V::load(dy + i, part), u = V::load(up + i, part);
    const V s = Sigmoid::of(Function::inner(x)), value = x * s;
    const V slope = s + value * (V::set(1.0f) - s) * Function::inner_slope(x);
    (d * u * slope).store(dgate + i, part);
    (d * value).store(dup + i, part);
  });
}

float exp_sum(float* y, const float* x, float shift, size_t n) {
  V sum = V::set(0.0f);
  const V shifts = V::set(shift);
  for_lanes(n, [&](size_t i, auto part) {
    const V e = Exp::of(V::load(x + i, part) - shifts);
    e.store(y + i, part);
    sum = keep(part, sum + e, sum);
  });
  return add_lanes(sum);
}

void rotate(float* x, const float* cos, const float* sin, size_t pairs) {
  for_lanes(pairs, [&](size_t i, auto part) {
    const V a = V::load(x + i, part), b = V::load(x + pairs + i, part);
    const V c = V::load(cos + i, part), s = V::load(sin + i, part);
    (a * c - b * s).store(x + i, part);
    (b * c + a * s).store(x + pairs + i, part);
  });
}

size_t arg_max(const float* x, size_t n) {
  const float best = max(x, n);
  if (!(best > -kInf)) return 0;
  const V wanted = V::set(best);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const unsigned hits = bits(equal(V::load(x + i, All{}), wanted));
    if (hits != 0) return i + static_cast<size_t>(__builtin_ctz(hits));
  }
  for (; i < n; ++i)
    if (x[i] == best) return i;
  return 0;
}
