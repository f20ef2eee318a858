// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/attention.h"

#include "fettle_kit/kernels/kernels.h"

#include <tbb/blocked_range2d.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <vector>

namespace fettle::kit {

void attention(MutMatrix out, ConstMatrix queries, ConstMatrix keys, ConstMatrix values, const AttentionShape& shape,
               std::int64_t first) {
  const std::int64_t dim = shape.head_dim, group = shape.heads / shape.kv_heads;
  const auto n = static_cast<std::size_t>(dim);
  const KernelTable& table = kernels();
  const tbb::blocked_range2d<std::int64_t> heads_by_queries(0, shape.heads, 1, 0, queries.rows, 16);
  tbb::parallel_for(heads_by_queries, [&](const auto& range) {
    std::vector<float> weights;
    for (std::int64_t h = range.rows().begin(); h != range.rows().end(); ++h) {
      for (std::int64_t t = range.cols().begin(); t != range.cols().end(); ++t) {
        const std::int64_t last = first + t;
        const std::int64_t begin = shape.window > 0 ? std::max<std::int64_t>(0, last - shape.window + 1) : 0;
        const float* q = queries.row(t).data() + h * dim;
        weights.clear();
        for (std::int64_t j = begin; j <= last; ++j)
          weights.push_back(table.dot(q, keys.row(j).data() + h / group * dim, n) * shape.scale);
        if (shape.softcap > 0) {
          table.scale(weights.data(), 1 / shape.softcap, weights.data(), weights.size());
          table.tanh(weights.data(), weights.data(), weights.size());
          table.scale(weights.data(), shape.softcap, weights.data(), weights.size());
        }
        softmax_row(weights.data(), weights.data(), weights.size(), table);

        float* o = out.row(t).data() + h * dim;
        std::fill(o, o + dim, 0.0f);
        for (std::int64_t j = begin; j <= last; ++j)
          table.axpy(o, weights[static_cast<std::size_t>(j - begin)], values.row(j).data() + h / group * dim, n);
      }
    }
  });
}

}  // namespace fettle::kit
