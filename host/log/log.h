// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/log/terminal.h"

#include <string_view>

namespace fettle::host {

enum class LogLevel { debug, info, warning, error };

/// Once, before the first log(): nothing below `least` is shown.
void set_up_log(LogLevel least, ColorMode color);

/// One event, one line on stderr: "warning: ..." and the like; plain text for info. Safe to call with text from
/// plugins. [any thread]
void log(LogLevel level, std::string_view text);

}  // namespace fettle::host
