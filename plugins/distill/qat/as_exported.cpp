// SPDX-License-Identifier: Apache-2.0
#include "as_exported.h"

#include "fettle_kit/compress/float_grids.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

namespace distill_qat {

using namespace fettle::kit;

namespace {

/// A matrix as the checkpoint will store it.
class Stored {
 public:
  Stored(ConstMatrix w, DType type) : matrix_{reinterpret_cast<const std::byte*>(w.data), type, w.rows, w.cols} {
    const DTypeInfo& t = info(type);
    std::atomic<bool> finite = true;
    if (type != DType::f32) {
      bytes_.resize(bytes_of(type, static_cast<std::uint64_t>(w.rows * w.cols)));
      matrix_.data = bytes_.data();
    }
    tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, w.rows, 16), [&](const auto& range) {
      for (std::int64_t i = range.begin(); i < range.end(); ++i) {
        const auto row = w.row(i);
        const float largest = rounded(largest_magnitude(row), type);
        if (!std::isfinite(largest)) finite = false;
        if (type != DType::f32) t.from_f32(row.data(), bytes_.data() + i * w.cols * t.block_bytes, row.size());
      }
    });
    finite_ = finite;
  }

  static float rounded(float x, DType type) {
    std::byte bytes[4] = {};
    info(type).from_f32(&x, bytes, 1);
    info(type).to_f32(bytes, &x, 1);
    return x;
  }

  const StoredMatrix& matrix() const { return matrix_; }
  bool finite() const { return finite_; }

 private:
  std::vector<std::byte> bytes_;
  StoredMatrix matrix_;
  bool finite_ = true;
};

void widen(MutMatrix to, const StoredMatrix& from) {
  const DTypeInfo& type = info(from.dtype);
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, from.rows, 16), [&](const auto& range) {
    for (std::int64_t i = range.begin(); i < range.end(); ++i)
      type.to_f32(from.data + i * from.cols * type.block_bytes, to.row(i).data(), to.row(i).size());
  });
}

}  // namespace

AsExported::AsExported(DType stored, std::shared_ptr<const FakeQuantizer> quantizer, std::vector<Array> sharing,
                       std::shared_ptr<const LearnedRange> range)
    : stored_(stored), quantizer_(std::move(quantizer)), sharing_(std::move(sharing)), range_(std::move(range)) {}

float AsExported::magnitude(Backend& backend) const {
  float largest = 0;
  for (const Array& master : sharing_)
    backend.host_view(master, Access::read, [&](MutMatrix w) {
      for (std::int64_t i = 0; i < w.rows; ++i) largest = std::max(largest, largest_magnitude(w.row(i)));
    });
  return Stored::rounded(largest, stored_);
}

void AsExported::apply(Backend& backend, const Array& used, const Array& master) const {
  const Array wide = used.element == Element::real ? used : backend.allocate(used.rows, used.cols);
  Array source = master;
  if (range_) {
    source = backend.allocate(master.rows, master.cols);
    backend.host_view(source, Access::write, [&](MutMatrix cut) { range_->apply(cut, master); });
  }
  bool finite = true;
  backend.host_view(source, Access::read, [&](MutMatrix w) {
    const Stored stored(w, stored_);
    finite = stored.finite();
    if (!finite) return;
    backend.host_view(wide, Access::write, [&](MutMatrix to) {
      if (quantizer_)
        quantizer_->quantize(to, stored.matrix(), magnitude(backend));
      else
        widen(to, stored.matrix());
    });
  });
  if (!finite)
    backend.copy(used, master);
  else if (used.element != Element::real)
    backend.copy(used, wide);
}

void AsExported::filter_gradient(Backend& backend, const Array& gradient, const Array& master) const {
  if (!quantizer_) return;
  backend.host_view(master, Access::read, [&](MutMatrix w) {
    backend.host_view(gradient, Access::read_write, [&](MutMatrix g) {
      if (range_) return range_->differentiate(g, w);
      const Stored stored(w, stored_);
      if (stored.finite()) quantizer_->clip_gradient(g, stored.matrix(), magnitude(backend));
    });
  });
}

}  // namespace distill_qat
