// SPDX-License-Identifier: Apache-2.0
#include "host/store/file_lock.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

namespace fettle::host {
namespace {

struct flock whole_file(FileLock::Mode mode) {
  struct flock range {};
  range.l_type = mode == FileLock::Mode::exclusive ? F_WRLCK : F_RDLCK;
  range.l_whence = SEEK_SET;
  return range;
}

}  // namespace

Result<FileLock> FileLock::open(const std::string& path) {
  FETTLE_ASSIGN(Descriptor file, open_file(path, O_RDWR | O_CREAT, 0644));
  return FileLock(std::move(file), path);
}

Result<bool> FileLock::try_lock(Mode mode) {
  struct flock range = whole_file(mode);
  if (::fcntl(file_.get(), F_OFD_SETLK, &range) == 0) return true;
  if (errno == EAGAIN || errno == EACCES) return false;
  return io_error(path_, "lock the file", errno);
}

Status FileLock::lock(Mode mode) {
  struct flock range = whole_file(mode);
  while (::fcntl(file_.get(), F_OFD_SETLKW, &range) != 0)
    if (errno != EINTR) return io_error(path_, "lock the file", errno);
  return {};
}

bool FileLock::still_names(const std::string& path) const {
  struct stat locked {
  }, named{};
  return ::fstat(file_.get(), &locked) == 0 && ::stat(path.c_str(), &named) == 0 && locked.st_ino == named.st_ino &&
         locked.st_dev == named.st_dev;
}

}  // namespace fettle::host
