// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/gguf_budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <queue>
#include <string>
#include <tuple>

namespace fettle::kit {
namespace {

/// The options worth taking, from the smallest: each larger one has a smaller error, and the gain a byte falls.
std::vector<std::size_t> hull(const std::vector<StorageOption>& options) {
  std::vector<std::size_t> order(options.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::tie(options[a].bytes, options[a].error, a) < std::tie(options[b].bytes, options[b].error, b);
  });
  const auto gain = [&](std::size_t from, std::size_t to) {
    return (options[from].error - options[to].error) / static_cast<double>(options[to].bytes - options[from].bytes);
  };
  std::vector<std::size_t> out;
  for (const std::size_t next : order) {
    if (!out.empty() && options[next].error >= options[out.back()].error) continue;
    if (!out.empty() && options[next].bytes == options[out.back()].bytes) continue;
    while (out.size() >= 2 && gain(out[out.size() - 2], out.back()) <= gain(out.back(), next)) out.pop_back();
    out.push_back(next);
  }
  return out;
}

}  // namespace

Result<SizeTarget> parse_size_target(std::string_view text) {
  const auto fail = [&] {
    return Status(
        Code::invalid_argument,
        fmt::format("'{}' is no size of a model; write bits a weight or bytes, for example 4.2bpw or 1.6GiB", text));
  };
  double number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || !std::isfinite(number) || number <= 0) return fail();
  const std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  if (unit == "bpw") return number <= 32 ? Result<SizeTarget>(SizeTarget{number, 0}) : fail();
  constexpr std::pair<std::string_view, double> units[] = {{"B", 1},
                                                           {"kB", 1e3},
                                                           {"MB", 1e6},
                                                           {"GB", 1e9},
                                                           {"TB", 1e12},
                                                           {"KiB", 1024},
                                                           {"MiB", 1024 * 1024.0},
                                                           {"GiB", 1024 * 1024 * 1024.0},
                                                           {"TiB", 1024 * 1024 * 1024 * 1024.0}};
  for (const auto& [name, factor] : units)
    if (unit == name && number * factor < 1e18) return SizeTarget{0, static_cast<std::uint64_t>(number * factor)};
  return fail();
}

std::optional<std::vector<std::size_t>> choose_storage(std::span<const std::vector<StorageOption>> tensors,
                                                       std::uint64_t budget) {
  std::vector<std::vector<std::size_t>> hulls;
  std::vector<std::size_t> at(tensors.size(), 0);  // into the hulls
  std::uint64_t used = 0;
  for (const auto& options : tensors) {
    hulls.push_back(hull(options));
    used += options[hulls.back().front()].bytes;
  }
  if (used > budget) return std::nullopt;

  struct Step {
    double gain;  ///< error saved a byte
    std::size_t tensor;
    bool operator<(const Step& other) const {
      return std::tie(gain, other.tensor) < std::tie(other.gain, tensor);  // equal gains: the earlier tensor first
    }
  };
  std::priority_queue<Step> steps;
  const auto option = [&](std::size_t t, std::size_t place) -> const StorageOption& {
    return tensors[t][hulls[t][place]];
  };
  const auto offer = [&](std::size_t t) {
    if (at[t] + 1 == hulls[t].size()) return;
    const StorageOption &now = option(t, at[t]), &next = option(t, at[t] + 1);
    steps.push({(now.error - next.error) / static_cast<double>(next.bytes - now.bytes), t});
  };
  for (std::size_t t = 0; t < tensors.size(); ++t) offer(t);
  while (!steps.empty()) {
    const std::size_t t = steps.top().tensor;
    steps.pop();
    const std::uint64_t more = option(t, at[t] + 1).bytes - option(t, at[t]).bytes;
    if (more > budget - used) continue;  // a smaller step of another tensor may still fit
    used += more;
    ++at[t];
    offer(t);
  }
  std::vector<std::size_t> chosen;
  for (std::size_t t = 0; t < tensors.size(); ++t) chosen.push_back(hulls[t][at[t]]);
  return chosen;
}

}  // namespace fettle::kit
