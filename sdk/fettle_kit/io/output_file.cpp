// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/output_file.h"

#include "fettle_kit/io/message.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <limits>
#include <utility>

namespace fettle::kit {
namespace {

constexpr std::size_t kGather = 256 << 10;  // writes below this are gathered

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Status write_error(const std::string& path, int error, std::uint64_t needed) {
  if (error != ENOSPC && error != EDQUOT)
    return {Code::io, fmt::format("{}: cannot write: {}", path, errno_text(error))};
  struct statvfs system {};
  const bool known = ::statvfs(folder_of(path).c_str(), &system) == 0;
  const std::uint64_t left = known ? static_cast<std::uint64_t>(system.f_bavail) * system.f_frsize : 0;
  return {Code::io, fmt::format("{}: {}: {} more bytes to write, {} available; free some space or choose a folder on "
                                "another disk",
                                path, error == EDQUOT ? "disk quota used up" : "disk full", grouped(needed),
                                known ? grouped(left) : "an unknown number")};
}

Status sync_folder(const std::string& folder) {
  const FileDescriptor directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // EINVAL: a file system whose folders cannot be synced and need not be.
  if (!directory || (::fsync(directory.get()) != 0 && errno != EINVAL))
    return {Code::io, fmt::format("{}: cannot make the folder durable: {}", folder, errno_text(errno))};
  return {};
}

}  // namespace

Result<OutputFile> OutputFile::create(const std::string& path) {
  static std::atomic<unsigned> counter = 0;
  OutputFile output;
  output.path_ = path;
  const std::string folder = folder_of(path);
  for (;;) {
    output.temporary_ = fmt::format("{}/.fettle-{}-{}.tmp", folder, ::getpid(), counter++);
    output.file_ = FileDescriptor(::open(output.temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (output.file_) return output;
    if (errno == EEXIST) continue;  // left behind by a killed process with our id
    const int error = errno;
    output.temporary_.clear();
    if (error == ENOENT || error == ENOTDIR)
      return Status(Code::not_found,
                    fmt::format("{}: cannot create the file: no such folder: {}", path, in_quotes(folder)));
    if (error == ENOSPC || error == EDQUOT) return write_error(path, error, 1);
    return Status(Code::io, fmt::format("{}: cannot create the file: {}", path, errno_text(error)));
  }
}

OutputFile::OutputFile(OutputFile&& other) noexcept { *this = std::move(other); }

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(size_, other.size_);
  std::swap(pending_, other.pending_);
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  return *this;
}

OutputFile::~OutputFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Status OutputFile::put(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done < 0) {
      if (errno == EINTR) continue;
      return write_error(path_, errno, bytes.size());
    }
    offset += static_cast<std::uint64_t>(done);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
  return {};
}

Status OutputFile::flush() {
  FETTLE_TRY(put(size_ - pending_.size(), pending_));
  pending_.clear();
  return {};
}

Status OutputFile::write(std::span<const std::byte> bytes) {
  if (pending_.size() + bytes.size() > kGather) FETTLE_TRY(flush());
  if (bytes.size() > kGather) {
    FETTLE_TRY(put(size_, bytes));
  } else {
    pending_.insert(pending_.end(), bytes.begin(), bytes.end());
  }
  size_ += bytes.size();
  return {};
}

Status OutputFile::write(std::string_view text) { return write(std::as_bytes(std::span(text))); }

Status OutputFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (offset > size_ || bytes.size() > size_ - offset)
    return {Code::internal, fmt::format("{}: {} bytes to write at {}, but only {} bytes are written yet", path_,
                                        grouped(bytes.size()), grouped(offset), grouped(size_))};
  FETTLE_TRY(flush());
  return put(offset, bytes);
}

Status OutputFile::reserve(std::uint64_t size) {
  if (size <= size_) return {};
  FETTLE_TRY(flush());
  if (size > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max())) return write_error(path_, EFBIG, size);
  const int error = ::posix_fallocate(file_.get(), 0, static_cast<off_t>(size));
  const bool unable = error == EOPNOTSUPP || error == EINVAL;  // a file system that cannot; a sparse file will do
  if (unable ? ::ftruncate(file_.get(), static_cast<off_t>(size)) != 0 : error != 0)
    return write_error(path_, unable ? errno : error, size);
  size_ = size;
  return {};
}

Status OutputFile::commit() {
  FETTLE_TRY(flush());
  if (::fsync(file_.get()) != 0) return write_error(path_, errno, size_);
  if (::close(file_.release()) != 0) return write_error(path_, errno, size_);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0)
    return {Code::io, fmt::format("{}: cannot give the finished file its name: {}", path_, errno_text(errno))};
  temporary_.clear();
  return sync_folder(folder_of(path_));
}

Result<std::string> read_text_file(const std::string& path, std::uint64_t limit) {
  FETTLE_ASSIGN(const FileDescriptor file, open_regular_file(path));
  struct stat status {};
  std::string text;
  if (::fstat(file.get(), &status) == 0 && static_cast<std::uint64_t>(status.st_size) <= limit)
    text.reserve(static_cast<std::size_t>(status.st_size));
  char buffer[64 << 10];
  for (;;) {
    const ssize_t done = ::read(file.get(), buffer, sizeof buffer);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return Status(Code::io, fmt::format("{}: cannot read: {}", path, errno_text(errno)));
    if (done == 0) return text;
    if (text.size() + static_cast<std::size_t>(done) > limit)
      return Status(Code::invalid_argument,
                    fmt::format("{}: the file is larger than {} bytes, the most that is read of such a file", path,
                                grouped(limit)));
    text.append(buffer, static_cast<std::size_t>(done));
  }
}

Status write_text_file(const std::string& path, std::string_view text) {
  FETTLE_ASSIGN(OutputFile file, OutputFile::create(path));
  FETTLE_TRY(file.write(text));
  return file.commit();
}

Status copy_file(const std::string& from, const std::string& to) {
  FETTLE_ASSIGN(const FileDescriptor source, open_regular_file(from));
  FETTLE_ASSIGN(OutputFile target, OutputFile::create(to));
  std::vector<std::byte> buffer(1 << 20);
  for (;;) {
    const ssize_t done = ::read(source.get(), buffer.data(), buffer.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return {Code::io, fmt::format("{}: cannot read: {}", from, errno_text(errno))};
    if (done == 0) return target.commit();
    FETTLE_TRY(target.write(std::span(buffer).first(static_cast<std::size_t>(done))));
  }
}

}  // namespace fettle::kit
