// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/mapped_file.h"

#include "fettle_kit/io/file_descriptor.h"
#include "fettle_kit/io/message.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <utility>

namespace fettle::kit {

Result<MappedFile> MappedFile::open(const std::string& path) {
  FETTLE_ASSIGN(const FileDescriptor file, open_regular_file(path));
  struct stat before {
  }, after{};
  if (::fstat(file.get(), &before) != 0)
    return Status(Code::io, fmt::format("{}: cannot read its size: {}", path, errno_text(errno)));
  MappedFile mapped;
  mapped.path_ = path;
  if (before.st_size == 0) return mapped;
  const auto size = static_cast<std::size_t>(before.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (data == MAP_FAILED) return Status(Code::io, fmt::format("{}: cannot map the file: {}", path, errno_text(errno)));
  mapped.data_ = static_cast<const std::byte*>(data);
  mapped.size_ = size;
  if (::fstat(file.get(), &after) != 0 || after.st_size != before.st_size)
    return Status(
        Code::io,
        fmt::format("{}: the file changed its size while it was opened, from {} to {} bytes; wait until it is "
                    "written",
                    path, grouped(size), grouped(static_cast<std::uint64_t>(after.st_size))));
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(path_, other.path_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr)
    ::munmap(const_cast<std::byte*>(data_), size_);  // NOLINT: munmap takes void*, it does not write
}

void MappedFile::drop(std::size_t offset, std::size_t length) const {
  if (offset >= size_ || length == 0) return;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t end = offset + std::min(length, size_ - offset);
  const std::size_t first = offset / page * page;  // a page shared with a neighbour is read again from the cache
  ::madvise(const_cast<std::byte*>(data_) + first, end - first, MADV_DONTNEED);  // NOLINT: as above; only a hint
}

bool MappedFile::drop(std::span<const std::byte> part) const {
  const std::less<const std::byte*> before;
  if (part.empty() || before(part.data(), data_) || !before(part.data(), data_ + size_)) return false;
  drop(static_cast<std::size_t>(part.data() - data_), part.size());
  return true;
}

}  // namespace fettle::kit
