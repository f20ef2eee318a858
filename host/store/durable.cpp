// SPDX-License-Identifier: Apache-2.0
#include "host/store/durable.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <vector>

namespace fettle::host {
namespace fs = std::filesystem;

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

bool is_disk_full(int error) { return error == ENOSPC || error == EDQUOT; }

std::uint64_t available_bytes(const std::string& path) {
  struct statvfs info {};
  if (::statvfs(path.c_str(), &info) != 0) return 0;
  return static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
}

Status io_error(const std::string& path, std::string_view what, int error) {
  if (is_disk_full(error))
    return {Code::io, fmt::format("{}: cannot {}: the disk is full, {} bytes are available; free some space, or run "
                                  "'fettle store gc'",
                                  path, what, grouped(available_bytes(fs::path(path).parent_path().string())))};
  return {error == ENOENT ? Code::not_found : Code::io,
          fmt::format("{}: cannot {}: {}", path, what, std::generic_category().message(error))};
}

Result<Descriptor> open_file(const std::string& path, int flags, mode_t mode) {
  int fd = -1;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return io_error(path, (flags & O_CREAT) ? "create the file" : "open the file", errno);
  return Descriptor(fd);
}

Status make_folder(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) == 0) return {};
  if (errno == ENOENT) {
    const std::string parent = fs::path(path).parent_path().string();
    if (parent.empty() || parent == path) return io_error(path, "create the folder", ENOENT);
    FETTLE_TRY(make_folder(parent));
    if (::mkdir(path.c_str(), 0755) == 0) return {};
  }
  const int error = errno;
  struct stat info {};
  if (error == EEXIST && ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return {};
  return io_error(path, "create the folder", error == EEXIST ? ENOTDIR : error);
}

Status sync_folder(const std::string& path) {
  FETTLE_ASSIGN(const Descriptor folder, open_file(path, O_RDONLY | O_DIRECTORY));
  if (::fsync(folder.get()) != 0) return io_error(path, "sync the folder", errno);
  return {};
}

Status sync_file(const std::string& path) {
  FETTLE_ASSIGN(const Descriptor file, open_file(path, O_RDONLY));
  if (::fsync(file.get()) != 0) return io_error(path, "sync the file", errno);
  return {};
}

Status start_writing(const std::string& path) {
  FETTLE_ASSIGN(const Descriptor file, open_file(path, O_RDONLY));
  (void)::sync_file_range(file.get(), 0, 0, SYNC_FILE_RANGE_WRITE);  // a hint; sync_file() is what counts
  return {};
}

namespace {

Status write_all(int fd, const std::string& path, const char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t n = ::write(fd, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error(path, "write", errno);
    data += n;
    size -= static_cast<std::size_t>(n);
  }
  return {};
}

Status copy_bytes(int from, int to, const std::string& from_path, const std::string& to_path) {
  if (::ioctl(to, FICLONE, from) == 0) return {};
  std::vector<char> buffer(1u << 20);
  for (;;) {
    const ssize_t n = ::read(from, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error(from_path, "read", errno);
    if (n == 0) return {};
    FETTLE_TRY(write_all(to, to_path, buffer.data(), static_cast<std::size_t>(n)));
  }
}

}  // namespace

Status replace_file(const std::string& path, const std::string& temporary, std::string_view text, bool durable) {
  const Status written = [&]() -> Status {
    FETTLE_ASSIGN(const Descriptor file, open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC));
    FETTLE_TRY(write_all(file.get(), temporary, text.data(), text.size()));
    if (durable && ::fsync(file.get()) != 0) return io_error(temporary, "sync the file", errno);
    if (::rename(temporary.c_str(), path.c_str()) != 0) return io_error(path, "put the file in place", errno);
    return {};
  }();
  if (!written) ::unlink(temporary.c_str());
  return written;
}

Status copy_file(const std::string& from, const std::string& to, mode_t mode) {
  const Status copied = [&]() -> Status {
    FETTLE_ASSIGN(const Descriptor source, open_file(from, O_RDONLY));
    FETTLE_ASSIGN(const Descriptor target, open_file(to, O_WRONLY | O_CREAT | O_EXCL, 0600));
    FETTLE_TRY(copy_bytes(source.get(), target.get(), from, to));
    if (::fchmod(target.get(), mode) != 0) return io_error(to, "set the mode", errno);
    if (::fsync(target.get()) != 0) return io_error(to, "sync the file", errno);
    return {};
  }();
  if (!copied) ::unlink(to.c_str());
  return copied;
}

Status remove_tree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (!error || error == std::errc::no_such_file_or_directory) return {};
  // A step may have made a folder read-only: open it up and try once more.
  std::error_code ignored;
  for (fs::recursive_directory_iterator it(path, fs::directory_options::skip_permission_denied, ignored), end;
       !ignored && it != end; it.increment(ignored))
    if (it->is_directory(ignored) && !it->is_symlink(ignored)) ::chmod(it->path().c_str(), 0700);
  ::chmod(path.c_str(), 0700);
  fs::remove_all(path, error);
  if (!error || error == std::errc::no_such_file_or_directory) return {};
  return io_error(path, "remove", error.value());
}

Result<std::string> read_file(const std::string& path, std::uint64_t limit) {
  FETTLE_ASSIGN(const Descriptor file, open_file(path, O_RDONLY));
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return io_error(path, "read", errno);
  if (!S_ISREG(info.st_mode)) return Status(Code::corrupt_data, path + ": not a regular file");
  if (static_cast<std::uint64_t>(info.st_size) > limit)
    return Status(Code::corrupt_data, fmt::format("{}: has {} bytes, expected at most {}", path,
                                                  grouped(static_cast<std::uint64_t>(info.st_size)), grouped(limit)));
  std::string text(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t have = 0;
  while (have < text.size()) {
    const ssize_t n = ::read(file.get(), text.data() + have, text.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error(path, "read", errno);
    if (n == 0) break;
    have += static_cast<std::size_t>(n);
  }
  text.resize(have);
  return text;
}

bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const int extra = c < 0x80                  ? 0
                      : (c >= 0xc2 && c < 0xe0) ? 1
                      : (c >= 0xe0 && c < 0xf0) ? 2
                      : (c >= 0xf0 && c < 0xf5) ? 3
                                                : -1;
    if (extra < 0 || text.size() - i <= static_cast<std::size_t>(extra)) return false;
    std::uint32_t point = extra == 0 ? c : c & (0x3fu >> extra);
    for (int k = 1; k <= extra; ++k) {
      const auto next = static_cast<unsigned char>(text[i + static_cast<std::size_t>(k)]);
      if ((next & 0xc0) != 0x80) return false;
      point = (point << 6) | (next & 0x3f);
    }
    if ((extra == 2 && (point < 0x800 || (point >= 0xd800 && point < 0xe000))) ||
        (extra == 3 && (point < 0x10000 || point > 0x10ffff)))
      return false;
    i += static_cast<std::size_t>(extra) + 1;
  }
  return true;
}

}  // namespace fettle::host
