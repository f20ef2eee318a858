// SPDX-License-Identifier: Apache-2.0
#include "host/store/content_memory.h"

#include "fettle_kit/io/sha256.h"

#include "host/store/durable.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <ctime>
#include <memory>

namespace fettle::host {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
// FAT counts in two seconds, the coarsest clock a file may live under.
constexpr std::int64_t kGranularity = 2 * kSecond;

std::int64_t nanoseconds(const timespec& t) { return t.tv_sec * kSecond + t.tv_nsec; }

bool same_state(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_size == b.st_size &&
         nanoseconds(a.st_mtim) == nanoseconds(b.st_mtim) && nanoseconds(a.st_ctim) == nanoseconds(b.st_ctim);
}

std::string identity(const struct stat& info) {
  return fmt::format("{} {} {} {} {}", info.st_dev, info.st_ino, info.st_size, nanoseconds(info.st_mtim),
                     nanoseconds(info.st_ctim));
}

Result<FileContent> hash_open(int fd, const std::string& path, const struct stat& before) {
  constexpr std::size_t chunk = 1u << 20;
  const auto buffer = std::make_unique_for_overwrite<char[]>(
      std::min<std::size_t>(chunk, static_cast<std::size_t>(before.st_size) + 1));
  const std::size_t capacity = std::min<std::size_t>(chunk, static_cast<std::size_t>(before.st_size) + 1);
  kit::Sha256 hash;
  std::uint64_t size = 0;
  for (;;) {
    const ssize_t n = ::read(fd, buffer.get(), capacity);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error(path, "read", errno);
    if (n == 0) break;
    hash.update(buffer.get(), static_cast<std::size_t>(n));
    size += static_cast<std::uint64_t>(n);
  }
  struct stat after {};
  if (::fstat(fd, &after) != 0) return io_error(path, "read", errno);
  if (!same_state(before, after) || size != static_cast<std::uint64_t>(before.st_size))
    return Status(Code::io, path + ": changed while it was being read; run again when nobody writes to it");
  return FileContent{hash.hex(), size};
}

struct OpenFile {
  Descriptor fd;
  struct stat info {};
};

Result<OpenFile> open_regular(const std::string& path) {
  // Non-blocking: opening a named pipe must not wait for its writer.
  FETTLE_ASSIGN(Descriptor fd, open_file(path, O_RDONLY | O_NONBLOCK));
  OpenFile file{std::move(fd), {}};
  if (::fstat(file.fd.get(), &file.info) != 0) return io_error(path, "read", errno);
  if (!S_ISREG(file.info.st_mode)) return Status(Code::invalid_argument, path + ": not a regular file");
  return file;
}

}  // namespace

Result<FileContent> hash_file(const std::string& path) {
  FETTLE_ASSIGN(const OpenFile file, open_regular(path));
  return hash_open(file.fd.get(), path, file.info);
}

Result<FileContent> ContentMemory::content_of(const std::string& path) const {
  FETTLE_ASSIGN(const OpenFile file, open_regular(path));
  const std::string id = identity(file.info);
  const std::string memory = fmt::format("{}/{:x}-{:x}", folder_, file.info.st_dev, file.info.st_ino);
  // "<identity>\n<sha256>\n<sha256 of both lines>\n"
  if (const auto text = read_file(memory, 1024); text.ok()) {
    const std::size_t body = id.size() + 1 + 64 + 1;
    if (text->size() == body + 65 && text->compare(0, id.size() + 1, id + "\n") == 0 &&
        text->compare(body, 64, kit::sha256_hex(std::string_view(*text).substr(0, body))) == 0)
      return FileContent{text->substr(id.size() + 1, 64), static_cast<std::uint64_t>(file.info.st_size)};
  }
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  FETTLE_ASSIGN(FileContent content, hash_open(file.fd.get(), path, file.info));
  const std::int64_t changed = std::max(nanoseconds(file.info.st_mtim), nanoseconds(file.info.st_ctim));
  if (changed + kGranularity < nanoseconds(now)) {
    static std::atomic<unsigned> serial{0};
    const std::string body = id + "\n" + content.sha256 + "\n";
    // Not durable and not checked: forgetting only costs time.
    (void)replace_file(memory, fmt::format("{}.{}.{}", memory, ::getpid(), serial++),
                       body + kit::sha256_hex(body) + "\n", false);
  }
  return content;
}

}  // namespace fettle::host
