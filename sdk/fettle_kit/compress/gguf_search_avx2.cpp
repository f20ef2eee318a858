// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/gguf_search_lanes.h"
#include "fettle_kit/tensor/block_layout.h"

#include <string.h>

namespace fettle::kit {
namespace {

#define GGUF_SEARCH_WIDTH 8
#include "gguf_search.inl"

}  // namespace

const BlockSearches block_searches_avx2{search_q4_0<8>,    search_q4_0<16>,   search_q2_k, search_q3_k,
                                        search_q4_k<kQ4K>, search_q4_k<kQ5K>, search_q6_k};

}  // namespace fettle::kit
