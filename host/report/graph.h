// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/pipeline/pipeline.h"

#include <string>

namespace fettle::host {

// The steps of a pipeline and what flows between them, as a drawing or a list. Inputs and outputs are nodes too.

std::string graph_dot(const Pipeline& pipeline);
std::string graph_mermaid(const Pipeline& pipeline);
std::string graph_text(const Pipeline& pipeline);
std::string graph_json(const Pipeline& pipeline);

}  // namespace fettle::host
