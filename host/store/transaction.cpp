// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/sha256.h"

#include "host/store/durable.h"
#include "host/store/layout.h"
#include "host/store/record_json.h"
#include "host/store/store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <tbb/parallel_for.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>

namespace fettle::host {
namespace fs = std::filesystem;

namespace {

/// A file of an output, and where the object lies that it has yet to become ("": it is one, or it stays outside).
struct Taken {
  ManifestEntry entry;
  std::string from;
};

}  // namespace

struct Store::Transaction::Impl {
  std::shared_ptr<const Store::Impl> store;
  std::string key;
  FileLock lease;

  Impl(std::shared_ptr<const Store::Impl> in, std::string for_key, FileLock held)
      : store(std::move(in)), key(std::move(for_key)), lease(std::move(held)) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  std::string folder() const { return store->staging(key); }
  std::string output(const std::string& port) const { return folder() + "/out/" + port; }

  ~Impl() {
    (void)remove_tree(folder());
    // While it is still locked: who waits for it sees that the name is gone and opens a new file.
    ::unlink(store->lease(key).c_str());
  }

  Status prepare(const std::vector<std::string>& ports) const;
  Result<Taken> make_object(const std::string& file, const std::string& relative, const FileContent& content) const;
  Result<Taken> take(const std::string& port, const std::string& relative) const;
  Result<Taken> take_link(const std::string& path, const std::string& relative, const std::string& name) const;
  std::string copy_name(const std::string& path) const { return folder() + "/copy-" + kit::sha256_hex(path); }
};

namespace {

Status no_port(const std::string& port) { return {Code::internal, "'" + port + "' cannot be the name of an output"}; }

bool is_port_name(const std::string& name) {
  return !name.empty() && name.size() <= 128 && name.front() != '.' && name.find('/') == name.npos &&
         name.find('\0') == name.npos;
}

constexpr double kWorthSyncing = 0.5;  // seconds of work that should survive a power cut a moment later

/// Calls `body` for 0 to n-1 in parallel; the first error by number.
template <class Body>
Status for_each_file(std::size_t n, const Body& body) {
  std::vector<Status> status(n);
  tbb::parallel_for(std::size_t{0}, n, [&](std::size_t i) { status[i] = body(i); });
  for (Status& s : status) FETTLE_TRY(std::move(s));
  return {};
}

/// Relative paths of everything in a folder that is not a folder, sorted.
Result<std::vector<std::string>> files_below(const std::string& folder, const std::string& port) {
  std::vector<std::string> files;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error);
  for (const fs::recursive_directory_iterator end; !error && it != end; it.increment(error)) {
    if (it.depth() >= 64)
      return Status(Code::invalid_argument, fmt::format("output '{}': folders are nested more than 64 deep", port));
    if (it->symlink_status(error).type() == fs::file_type::directory) continue;
    files.push_back(it->path().lexically_relative(folder).string());
    if (files.size() > kMaxFiles)
      return Status(Code::invalid_argument,
                    fmt::format("output '{}': has more than {} files", port, grouped(kMaxFiles)));
  }
  if (error) return io_error(folder, "read the folder", error.value());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

Status Store::Transaction::Impl::prepare(const std::vector<std::string>& ports) const {
  FETTLE_TRY(remove_tree(folder()));  // of a killed run: nobody else may be in it while we hold the lease
  FETTLE_TRY(make_folder(folder() + "/out"));
  for (const std::string& port : ports) FETTLE_TRY(make_folder(output(port)));
  FETTLE_TRY(make_folder(folder() + "/scratch"));
  return make_folder(store->checkpoint(key));
}

/// Makes of `file`, which nothing else links to, what an object is, and starts its way to the disk.
Result<Taken> Store::Transaction::Impl::make_object(const std::string& file, const std::string& relative,
                                                    const FileContent& content) const {
  Taken taken{{relative, content.size, content.sha256, ""}, ""};
  if (store->object_is_whole(content.sha256, content.size)) return taken;
  if (::chmod(file.c_str(), 0444) != 0) return io_error(file, "set the mode", errno);
  const timespec times[2] = {kObjectTime, kObjectTime};
  if (::utimensat(AT_FDCWD, file.c_str(), times, 0) != 0) return io_error(file, "set the time", errno);
  FETTLE_TRY(start_writing(file));
  taken.from = file;
  return taken;
}

Result<Taken> Store::Transaction::Impl::take_link(const std::string& path, const std::string& relative,
                                                  const std::string& name) const {
  std::error_code error;
  const std::string target = fs::canonical(path, error).string();
  if (error) return Status(Code::invalid_argument, fmt::format("{}: is a link that leads nowhere", name));
  if (is_inside(target, store->folder("staging")) || is_inside(target, store->folder("checkpoints")))
    return Status(
        Code::invalid_argument,
        fmt::format("{}: is a link into the step's own folders; write the file itself, or link to one outside", name));
  if (!fs::is_regular_file(target, error))
    return Status(Code::invalid_argument, fmt::format("{}: is a link to something that is not a file", name));
  if (!is_utf8(target))
    return Status(Code::unsupported, fmt::format("{}: is a link to a name that is not valid UTF-8", name));
  FETTLE_ASSIGN(const FileContent content, store->contents.content_of(target));
  if (!is_inside(target, store->root)) return Taken{{relative, content.size, content.sha256, target}, ""};
  // A file of an input artifact, which is an object already.
  if (store->object_is_whole(content.sha256, content.size))
    return Taken{{relative, content.size, content.sha256, ""}, ""};
  const std::string copy = copy_name(path);
  FETTLE_TRY(copy_file(target, copy, 0600));
  return make_object(copy, relative, content);
}

Result<Taken> Store::Transaction::Impl::take(const std::string& port, const std::string& relative) const {
  const std::string name = fmt::format("output '{}': '{}'", port, relative);
  std::string path = output(port) + "/" + relative;
  if (!is_utf8(relative))
    return Status(Code::invalid_argument, fmt::format("output '{}': a file name is not valid UTF-8", port));
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return io_error(path, "read", errno);
  if (S_ISLNK(info.st_mode)) return take_link(path, relative, name);
  if (!S_ISREG(info.st_mode))
    return Status(Code::invalid_argument, fmt::format("{}: is neither a file nor a link to one", name));
  if (info.st_nlink > 1) {  // someone else's file too: it must not become read-only or change under us
    const std::string copy = copy_name(path);
    FETTLE_TRY(copy_file(path, copy, 0600));
    path = copy;
  }
  FETTLE_ASSIGN(const FileContent content, hash_file(path));
  return make_object(path, relative, content);
}

Store::Transaction::Transaction(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::Transaction::Transaction(Transaction&&) noexcept = default;
Store::Transaction& Store::Transaction::operator=(Transaction&&) noexcept = default;
Store::Transaction::~Transaction() = default;

std::string Store::Transaction::staging(const std::string& port) const { return impl_->output(port); }
std::string Store::Transaction::scratch() const { return impl_->folder() + "/scratch"; }
std::string Store::Transaction::checkpoint() const { return impl_->store->checkpoint(impl_->key); }

Result<Record> Store::Transaction::commit(Record record,
                                          const std::vector<std::pair<std::string, std::string>>& port_kinds) {
  const Store::Impl& store = *impl_->store;
  std::vector<std::pair<std::string, Artifact>> outputs;
  std::vector<std::pair<std::size_t, std::string>> files;  // output, relative path
  for (const auto& [port, kind] : port_kinds) {
    if (!is_port_name(port)) return no_port(port);
    FETTLE_ASSIGN(const auto found, files_below(impl_->output(port), port));
    if (found.empty())
      return Status(Code::invalid_argument, fmt::format("output '{}': nothing was written to it", port));
    Artifact& artifact = outputs.emplace_back(port, Artifact{kind, {}, {}, {}}).second;
    for (const auto& [known, given] : record.outputs)
      if (known == port) artifact.attributes = given.attributes;
    for (const std::string& file : found) files.emplace_back(outputs.size() - 1, file);
  }

  std::vector<Taken> taken(files.size());
  FETTLE_TRY(for_each_file(files.size(), [&](std::size_t i) -> Status {
    FETTLE_ASSIGN(taken[i], impl_->take(port_kinds[files[i].first].first, files[i].second));
    return {};
  }));
  for (std::size_t i = 0; i < files.size(); ++i) outputs[files[i].first].second.files.push_back(taken[i].entry);
  for (auto& [port, artifact] : outputs) artifact.digest = artifact_digest(artifact);
  record.key = impl_->key;
  record.outputs = std::move(outputs);
  const std::string written = impl_->folder() + "/record.json";
  FETTLE_TRY(replace_file(written, written + ".new", write_record(record), false));
  FETTLE_TRY(start_writing(written));

  // First the content of everything is on the disk, then it gets its names, the record's last: a name always stands for
  // its content. All files were set off before the first is waited for, so that they share the disk's commits.
  FETTLE_TRY(for_each_file(files.size(),
                           [&](std::size_t i) { return taken[i].from.empty() ? Status() : sync_file(taken[i].from); }));
  FETTLE_TRY(sync_file(written));
  for (const Taken& file : taken) {
    if (file.from.empty()) continue;
    if (::rename(file.from.c_str(), store.object(file.entry.sha256).c_str()) != 0)
      return io_error(file.from, "put the object in place", errno);
  }
  if (::rename(written.c_str(), store.record(record.key).c_str()) != 0)
    return io_error(written, "put the record in place", errno);
  // A power cut may take back names that were not synced, in any order; a record without its objects is no hit. That
  // costs a step run again, which for a short one is cheaper than the wait here.
  if (record.seconds >= kWorthSyncing) {
    FETTLE_TRY(sync_folder(store.folder("objects")));
    FETTLE_TRY(sync_folder(store.folder("records")));
  }
  (void)remove_tree(checkpoint());
  impl_.reset();
  return record;
}

namespace {

// A function of its own: inlined, GCC 12 warns of an uninitialised member that is not.
[[gnu::noinline]] std::variant<Store::Transaction, Record> finished(Record record) { return record; }

}  // namespace

Result<std::variant<Store::Transaction, Record>> Store::begin(const std::string& key,
                                                              const std::vector<std::string>& ports,
                                                              const std::function<bool()>& cancelled) const {
  if (!kit::is_sha256_hex(key)) return Status(Code::internal, "'" + key + "' is not a key");
  for (const std::string& port : ports)
    if (!is_port_name(port)) return no_port(port);
  const std::string path = impl_->lease(key);
  auto pause = std::chrono::milliseconds(1);
  for (;;) {
    FETTLE_ASSIGN(FileLock lease, FileLock::open(path));
    FETTLE_ASSIGN(const bool ours, lease.try_lock(FileLock::Mode::exclusive));
    if (ours && !lease.still_names(path)) continue;
    if (ours) {
      auto transaction = std::make_unique<Transaction::Impl>(impl_, key, std::move(lease));
      if (auto record = find(key)) return finished(*std::move(record));
      FETTLE_TRY(transaction->prepare(ports));
      return std::variant<Transaction, Record>(Transaction(std::move(transaction)));
    }
    if (cancelled && cancelled())
      return Status(Code::cancelled, "cancelled while another process works on the same step");
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::milliseconds(50));
  }
}

}  // namespace fettle::host
