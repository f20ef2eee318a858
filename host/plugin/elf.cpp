// SPDX-License-Identifier: Apache-2.0
#include "host/plugin/elf.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

namespace fettle::host {
namespace {

class File {
 public:
  explicit File(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  int fd() const { return fd_; }
  bool read_at(std::uint64_t offset, void* to, std::size_t size) const {
    return ::pread(fd_, to, size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size);
  }

 private:
  int fd_;
};

Status truncated(std::uint64_t end, std::uint64_t size) {
  return {Code::corrupt_data,
          fmt::format("the file is truncated: its contents end at byte {}, the file has {}; build or "
                      "copy the plugin again",
                      end, size)};
}

}  // namespace

Status check_shared_object(const std::string& path) {
  const File file(path);
  struct stat st {};
  if (file.fd() < 0 || ::fstat(file.fd(), &st) != 0)
    return {Code::io, fmt::format("cannot be read: {}", std::strerror(errno))};
  if (!S_ISREG(st.st_mode)) return {Code::io, "not a regular file; remove it from the plugin folder"};
  const auto size = static_cast<std::uint64_t>(st.st_size);

  Elf64_Ehdr header{};
  const bool whole = file.read_at(0, &header, sizeof header);
  if (size < SELFMAG || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
    return {Code::corrupt_data,
            "not a shared library: the file does not begin with an ELF header; remove it from the plugin folder"};
  if (!whole) return truncated(sizeof header, size);
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_machine != EM_X86_64)
    return {
        Code::unsupported,
        fmt::format("built for another machine: {}-bit ELF machine {}, this host is 64-bit ELF machine {} (x86-64); "
                    "build the plugin for x86-64",
                    header.e_ident[EI_CLASS] == ELFCLASS64 ? 64 : 32, header.e_machine, EM_X86_64)};
  if (header.e_type != ET_DYN)
    return {Code::corrupt_data,
            fmt::format("not a shared library: ELF type {}, expected {} (DYN); link it with -shared", header.e_type,
                        ET_DYN)};
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0)
    return {Code::corrupt_data, "its ELF program headers are malformed; build or copy the plugin again"};

  const std::uint64_t table_bytes = std::uint64_t{header.e_phnum} * sizeof(Elf64_Phdr);
  if (header.e_phoff > size || table_bytes > size - header.e_phoff)
    return truncated(header.e_phoff + table_bytes, size);
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  if (!file.read_at(header.e_phoff, segments.data(), table_bytes)) return truncated(header.e_phoff + table_bytes, size);
  for (const Elf64_Phdr& s : segments)
    if (s.p_type == PT_LOAD && (s.p_offset > size || s.p_filesz > size - s.p_offset))
      return truncated(s.p_offset + s.p_filesz, size);
  return {};
}

}  // namespace fettle::host
