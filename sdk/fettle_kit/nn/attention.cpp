// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/attention.h"

#include <tbb/blocked_range2d.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace fettle::kit {

void attention(MutMatrix out, ConstMatrix queries, ConstMatrix keys, ConstMatrix values, const AttentionShape& shape,
               std::int64_t first) {
  const std::int64_t dim = shape.head_dim, group = shape.heads / shape.kv_heads;
  const tbb::blocked_range2d<std::int64_t> heads_by_queries(0, shape.heads, 1, 0, queries.rows, 16);
  tbb::parallel_for(heads_by_queries, [&](const auto& range) {
    std::vector<float> weights;
    for (std::int64_t h = range.rows().begin(); h != range.rows().end(); ++h) {
      for (std::int64_t t = range.cols().begin(); t != range.cols().end(); ++t) {
        const std::int64_t last = first + t,
                           begin = shape.window > 0 ? std::max<std::int64_t>(0, last - shape.window + 1) : 0;
        const float* q = queries.row(t).data() + h * dim;
        weights.clear();
        for (std::int64_t j = begin; j <= last; ++j) {
          const float* k = keys.row(j).data() + h / group * dim;
          float dot = 0;
          for (std::int64_t d = 0; d < dim; ++d) dot += q[d] * k[d];
          dot *= shape.scale;
          weights.push_back(shape.softcap > 0 ? shape.softcap * std::tanh(dot / shape.softcap) : dot);
        }
        const float top = *std::max_element(weights.begin(), weights.end());
        float sum = 0;
        for (float& w : weights) sum += w = std::exp(w - top);

        float* o = out.row(t).data() + h * dim;
        std::fill(o, o + dim, 0.0f);
        for (std::int64_t j = begin; j <= last; ++j) {
          const float* v = values.row(j).data() + h / group * dim;
          const float w = weights[static_cast<std::size_t>(j - begin)] / sum;
          for (std::int64_t d = 0; d < dim; ++d) o[d] += w * v[d];
        }
      }
    }
  });
}

}  // namespace fettle::kit
