// SPDX-License-Identifier: Apache-2.0
#include "unit/host/cli/program.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <thread>

namespace fettle::test {

namespace fs = std::filesystem;

Program::Program(const std::string& folder, const std::vector<std::string>& arguments) {
  static int number = 0;
  const std::string base = fs::temp_directory_path() / ("fettle-cli-" + std::to_string(::getpid()) + "-");
  out_ = base + std::to_string(++number) + ".out";
  err_ = base + std::to_string(number) + ".err";
  const std::string program = std::string(FETTLE_TEST_BINARY_DIR) + "/bin/fettle";
  std::vector<const char*> argv{program.c_str()};
  for (const std::string& a : arguments) argv.push_back(a.c_str());
  argv.push_back(nullptr);
  const std::string path = std::string("PATH=") + (std::getenv("PATH") ? std::getenv("PATH") : "/usr/bin");
  const char* const environment[] = {path.c_str(), "LC_ALL=C", nullptr};
  pid_ = ::fork();
  if (pid_ < 0) throw std::runtime_error("fork failed");
  if (pid_ > 0) return;
  const auto redirect = [](const std::string& file, int to) {
    const int fd = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    return fd >= 0 && ::dup2(fd, to) == to;
  };
  if (::chdir(folder.c_str()) == 0 && redirect(out_, 1) && redirect(err_, 2))
    ::execve(program.c_str(), const_cast<char* const*>(argv.data()), const_cast<char* const*>(environment));
  ::_exit(125);
}

Program::~Program() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    wait();
  }
  fs::remove(out_);
  fs::remove(err_);
}

bool Program::says(const std::string& text) const {
  for (int i = 0; i < 1000; ++i) {
    if (text_of(err_).find(text) != std::string::npos) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

void Program::signal(int number) const { ::kill(pid_, number); }

Outcome Program::wait() {
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), text_of(out_), text_of(err_)};
}

Outcome fettle(const std::string& folder, const std::vector<std::string>& arguments) {
  return Program(folder, arguments).wait();
}

std::string text_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_text(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

Folder::Folder() : path_(fs::temp_directory_path() / "fettle-test-XXXXXX") {
  if (!::mkdtemp(path_.data())) throw std::runtime_error("no temporary folder");
  path_ = fs::canonical(path_);
}

Folder::~Folder() {
  std::error_code ignored;
  // The store makes what it keeps read-only.
  for (fs::recursive_directory_iterator i(path_, ignored), end; !ignored && i != end; i.increment(ignored))
    if (i->is_directory(ignored) && !i->is_symlink(ignored))
      fs::permissions(i->path(), fs::perms::owner_all, fs::perm_options::add, ignored);
  fs::remove_all(path_, ignored);
}

}  // namespace fettle::test
