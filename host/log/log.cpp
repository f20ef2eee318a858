// SPDX-License-Identifier: Apache-2.0
#include "host/log/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

namespace fettle::host {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

spdlog::logger& logger() {
  static const auto instance = [] {
    auto l = std::make_shared<spdlog::logger>("fettle", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    l->set_pattern("%v");
    return l;
  }();
  return *instance;
}

}  // namespace

void set_up_log(LogLevel least, ColorMode color) {
  const bool colored = terminal_of(2, color).color;
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>(colored ? spdlog::color_mode::always
                                                                            : spdlog::color_mode::never);
  logger().sinks() = {sink};
  logger().set_pattern("%v");
  logger().set_level(to_spdlog(least));
}

void log(LogLevel level, std::string_view text) {
  const std::string line = printable(text);
  switch (level) {
    case LogLevel::debug:
      logger().debug("debug: {}", line);
      break;
    case LogLevel::info:
      logger().info("{}", line);
      break;
    case LogLevel::warning:
      logger().warn("warning: {}", line);
      break;
    case LogLevel::error:
      logger().error("error: {}", line);
      break;
  }
  logger().flush();
}

}  // namespace fettle::host
