// SPDX-License-Identifier: Apache-2.0
#include "host/plugin/registry.h"

#define BOOST_DLL_USE_STD_FS
#include "fettle_kit/io/mapped_file.h"
#include "fettle_kit/io/sha256.h"

#include "host/plugin/elf.h"
#include "host/plugin/handshake.h"

#include <boost/dll/shared_library.hpp>
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

namespace fettle::host {
namespace {

namespace fs = std::filesystem;

/// Libraries stay loaded until the process ends, also those that are not linked with -z nodelete: their tables and code
/// may be in use in any thread. So the handles are kept where no destructor runs.
std::deque<boost::dll::shared_library>& kept_libraries() {
  static auto* libraries = new std::deque<boost::dll::shared_library>;
  return *libraries;
}

Result<std::string> file_digest(const std::string& path) {
  FETTLE_ASSIGN(const auto file, kit::MappedFile::open(path));
  kit::Sha256 hash;
  hash.update(file.bytes().data(), file.bytes().size());
  return "sha256:" + hash.hex();
}

Result<const fettle_library*> call_entry(fettle_entry_fn entry) {
  fettle_error error{};
  const fettle_library* library = nullptr;
  try {
    library = entry(&host_abi(), &error);
  } catch (...) {  // forbidden by abi.h, and yet better refused than fatal
    return Status{Code::internal,
                  "its entry function threw an exception; report this to the author, whose entry function must catch"};
  }
  if (library) return library;
  error.message[sizeof error.message - 1] = '\0';
  return Status{Code::unsupported,
                fmt::format("declines to work with this host (plugin interface {}.{}): {}", FETTLE_ABI_MAJOR,
                            FETTLE_ABI_MINOR, error.message[0] ? error.message : "it gives no reason; ask its author")};
}

Result<Plugin> load(const std::string& path) {
  FETTLE_TRY(check_shared_object(path));
  Plugin plugin;
  plugin.path = path;
  FETTLE_ASSIGN(plugin.digest, file_digest(path));

  boost::dll::shared_library file;
  boost::dll::fs::error_code failed;
  using boost::dll::load_mode::type;
  file.load(path, static_cast<type>(boost::dll::load_mode::rtld_now | boost::dll::load_mode::rtld_local), failed);
  if (failed) {
    const char* text = ::dlerror();  // Boost.DLL keeps only "bad file descriptor", the loader still has its sentence
    return Status{
        Code::unsupported,
        fmt::format("cannot be loaded: {}; install what it needs, or rebuild it on this machine", text ? text : "")};
  }
  if (!file.has(FETTLE_ENTRY_SYMBOL))
    return Status{Code::unsupported, "exports no '" FETTLE_ENTRY_SYMBOL
                                     "', so it is no fettle plugin; put FETTLE_PLUGIN(...) "
                                     "into one of its sources, or remove the file from the plugin folder"};
  const auto entry = &file.get<const fettle_library*(const fettle_abi_tag*, fettle_error*)>(FETTLE_ENTRY_SYMBOL);
  kept_libraries().push_back(std::move(file));
  FETTLE_ASSIGN(plugin.library, call_entry(entry));
  FETTLE_TRY(check_abi(plugin.library->abi));
  FETTLE_TRY(check_library(*plugin.library));
  return plugin;
}

/// <prefix>/lib/fettle/plugins of an installed program, <build>/plugins of one in its build tree.
std::string find_own_directory() {
  std::error_code failed;
  const fs::path program = fs::read_symlink("/proc/self/exe", failed);
  const fs::path prefix = program.parent_path().parent_path();
  const fs::path installed = prefix / "lib" / "fettle" / "plugins";
  const fs::path built = prefix / "plugins";
  return fs::is_directory(installed, failed) || !fs::is_directory(built, failed) ? installed : built;
}

}  // namespace

Registry Registry::discover(const Options& options) {
  Registry registry;
  std::set<std::string> seen_directories;

  const auto refuse = [&](const std::string& path, std::string reason) {
    registry.refusals_.push_back({path, std::move(reason)});
  };
  const auto scan = [&](const std::string& written, bool ours) {
    std::error_code failed;
    const fs::path directory = fs::canonical(written, failed);
    if (failed) return refuse(written, fmt::format("this plugin folder cannot be opened: {}", failed.message()));
    if (!seen_directories.insert(directory).second) return;
    registry.search_path_.push_back(directory);
    std::vector<std::string> files;
    for (fs::directory_iterator i(directory, failed), end; !failed && i != end; i.increment(failed))
      if (i->path().extension() == ".so") files.push_back(i->path());
    if (failed) return refuse(directory, fmt::format("this plugin folder cannot be read: {}", failed.message()));
    std::sort(files.begin(), files.end());
    for (const std::string& path : files) {
      Result<Plugin> plugin = load(path);
      if (!plugin) {
        refuse(path, plugin.error().message());
        continue;
      }
      plugin->ours = ours;
      registry.plugins_.push_back(*std::move(plugin));
    }
  };

  for (const std::string& directory : options.directories) scan(directory, false);
  if (const char* list = ::secure_getenv("FETTLE_PLUGIN_PATH"); list && *list) {
    std::string_view rest = list;
    std::error_code failed;
    for (bool more = true; more;) {
      const std::size_t colon = rest.find(':');
      const std::string entry(rest.substr(0, colon));
      more = colon != std::string_view::npos;
      if (more) rest.remove_prefix(colon + 1);
      if (entry.empty() || fs::equivalent(entry, fs::current_path(failed), failed))
        refuse(fmt::format("FETTLE_PLUGIN_PATH entry '{}'", entry),
               "this means the current directory, from which plugins are never loaded; write the folder's full path, "
               "or use "
               "--plugin-dir");
      else
        scan(entry, false);
    }
  }
  scan(options.own_directory.empty() ? find_own_directory() : options.own_directory, true);

  // One id in two plugins: neither is right to choose, so both are refused.
  std::map<std::string_view, std::vector<const Plugin*>> offered;
  for (const Plugin& plugin : registry.plugins_)
    for (std::uint32_t i = 0; i < plugin.library->technique_count; ++i)
      offered[plugin.library->techniques[i]->id].push_back(&plugin);
  std::set<std::string> doubled;
  for (const auto& [id, by] : offered) {
    if (by.size() < 2) continue;
    for (const Plugin* plugin : by) {
      if (!doubled.insert(plugin->path).second) continue;
      const Plugin* other = by[0] == plugin ? by[1] : by[0];
      refuse(plugin->path,
             fmt::format("offers technique '{}', and so does '{}'; remove one of the two from the plugin path", id,
                         other->path));
    }
  }
  std::deque<Plugin> kept;
  for (Plugin& plugin : registry.plugins_)
    if (!doubled.count(plugin.path)) kept.push_back(std::move(plugin));
  registry.plugins_ = std::move(kept);

  for (const Plugin& plugin : registry.plugins_)
    for (std::uint32_t i = 0; i < plugin.library->technique_count; ++i) {
      const fettle_technique* table = plugin.library->techniques[i];
      registry.techniques_.emplace(table->id, Technique{table, &plugin});
    }
  return registry;
}

const Technique* Registry::find(std::string_view id) const {
  const auto found = techniques_.find(id);
  return found == techniques_.end() ? nullptr : &found->second;
}

std::vector<const Technique*> Registry::techniques() const {
  std::vector<const Technique*> all;
  for (const auto& [id, technique] : techniques_) all.push_back(&technique);
  return all;
}

const std::vector<std::string>& offered_services() {
  static const std::vector<std::string> services{FETTLE_SERVICE_METRICS};
  return services;
}

}  // namespace fettle::host
