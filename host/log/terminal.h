// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace fettle::host {

enum class ColorMode { automatic, always, never };

/// What can be shown on an output stream.
struct Terminal {
  bool interactive = false;  ///< lines may be rewritten
  bool color = false;
  bool utf8 = false;  ///< the locale says so; otherwise plain ASCII
  int width = 80;     ///< columns
};

/// Of a file descriptor (1: stdout, 2: stderr), as it is now. NO_COLOR is respected in automatic mode.
Terminal terminal_of(int fd, ColorMode color);

/// Text from a plugin or a file, safe to show: control characters (which could steer a terminal) become '?', line
/// breaks and tabs become spaces.
std::string printable(std::string_view text);

}  // namespace fettle::host
