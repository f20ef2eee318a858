// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

namespace fettle::bench {

/// Peak of anonymous resident memory of this process while the object lives, in MiB: mapped files do not count.
class PrivateMemory {
 public:
  PrivateMemory()
      : thread_([this] {
          while (!stop_) {
            peak_ = std::max(peak_.load(), now());
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
          }
        }) {}
  ~PrivateMemory() {
    stop_ = true;
    thread_.join();
  }
  double peak() const { return peak_; }

 private:
  static double now() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
      if (line.starts_with("RssAnon:")) return std::strtod(line.c_str() + 8, nullptr) / 1024;
    return 0;
  }
  std::atomic<bool> stop_ = false;
  std::atomic<double> peak_ = 0;
  std::thread thread_;
};

}  // namespace fettle::bench
