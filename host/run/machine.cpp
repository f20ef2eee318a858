// SPDX-License-Identifier: Apache-2.0
#include "host/run/machine.h"

#include <sys/resource.h>
#include <tbb/info.h>

#include <algorithm>
#include <fstream>
#include <limits>

namespace fettle::host {
namespace {

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("model name", 0) == 0 && line.find(": ") != line.npos) return line.substr(line.find(": ") + 2);
  return "unknown";
}

std::string widest_isa() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
  return "x86-64";
}

std::uint64_t number_in(const char* path) {
  std::ifstream file(path);
  std::uint64_t number = 0;
  return file >> number ? number : std::numeric_limits<std::uint64_t>::max();  // "max": no limit
}

}  // namespace

const Machine& this_machine() {
  static const Machine machine{cpu_name(), widest_isa(),
                               static_cast<unsigned>(std::max(1, tbb::info::default_concurrency()))};
  return machine;
}

std::uint64_t available_memory() {
  std::uint64_t available = std::uint64_t{1} << 30;
  std::ifstream file("/proc/meminfo");
  for (std::string name, unit; file >> name;) {
    std::uint64_t kibibytes = 0;
    file >> kibibytes;
    std::getline(file, unit);
    if (name == "MemAvailable:") available = kibibytes * 1024;
  }
  return std::min(available, number_in("/sys/fs/cgroup/memory.max"));
}

std::uint64_t peak_memory() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace fettle::host
