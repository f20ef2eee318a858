// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/backend/backend.h"
