// SPDX-License-Identifier: Apache-2.0
#include "host/plan/plan.h"

namespace fettle::host {

Plan make_plan(std::shared_ptr<const Pipeline> pipeline, const Registry& registry, const Store* store,
               Diagnostics& diagnostics, const PlanLimits& limits) {
  return make_plan(std::move(pipeline), Catalogue{registry.techniques(), registry.refusals(), offered_services()},
                   store, diagnostics, limits);
}

}  // namespace fettle::host
