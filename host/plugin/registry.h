// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/abi.h"
#include "fettle/result.h"

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::host {

/// A loaded plugin. Never unloaded.
struct Plugin {
  std::string path;    ///< absolute
  std::string digest;  ///< "sha256:..." of the file: part of every cache key of its techniques
  const fettle_library* library = nullptr;
  bool ours = false;  ///< came from the program's own plugin folder
};

/// A technique as the host sees it: the plugin's constant table, checked.
struct Technique {
  const fettle_technique* table = nullptr;
  const Plugin* plugin = nullptr;
  std::string_view id() const { return table->id; }
};

/// A file that looked like a plugin and was not taken, with the sentence that says why.
struct Refusal {
  std::string path;
  std::string reason;
};

/// Finds and loads plugins: each --plugin-dir in order, then FETTLE_PLUGIN_PATH, then the program's own folder. Never
/// the current directory. One technique id in two plugins refuses both, naming both. [const members: any thread]
class Registry {
 public:
  struct Options {
    std::vector<std::string> directories;  ///< --plugin-dir
    std::string own_directory;             ///< beside the program; "" = find it from /proc/self/exe
  };
  /// Loads every *.so of the search path. Problems become refusals, not failures.
  static Registry discover(const Options& options);

  const Technique* find(std::string_view id) const;
  std::vector<const Technique*> techniques() const;  ///< sorted by id
  const std::deque<Plugin>& plugins() const { return plugins_; }
  const std::vector<Refusal>& refusals() const { return refusals_; }
  const std::vector<std::string>& search_path() const { return search_path_; }

 private:
  std::deque<Plugin> plugins_;
  std::map<std::string, Technique, std::less<>> techniques_;
  std::vector<Refusal> refusals_;
  std::vector<std::string> search_path_;
};

/// Services this host offers, by id: what a technique's `services` are checked against.
const std::vector<std::string>& offered_services();

}  // namespace fettle::host
