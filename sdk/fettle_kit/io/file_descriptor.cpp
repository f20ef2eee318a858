// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/file_descriptor.h"

#include "fettle_kit/io/message.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace fettle::kit {

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Result<FileDescriptor> open_regular_file(const std::string& path) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) {
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR) return Status(Code::not_found, fmt::format("{}: no such file", path));
    return Status(Code::io, fmt::format("{}: cannot open the file: {}", path, errno_text(error)));
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0)
    return Status(Code::io, fmt::format("{}: cannot open the file: {}", path, errno_text(errno)));
  if (S_ISDIR(status.st_mode))
    return Status(Code::invalid_argument, fmt::format("{}: is a folder, expected a file", path));
  if (!S_ISREG(status.st_mode))
    return Status(Code::invalid_argument, fmt::format("{}: is a device or a pipe, expected a file", path));
  return file;
}

}  // namespace fettle::kit
