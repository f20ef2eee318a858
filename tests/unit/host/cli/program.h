// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace fettle::test {

/// What a finished program left behind.
struct Outcome {
  int code = -1;  ///< exit code; 128 + n after signal n
  std::string out, err;
};

/// The built `fettle`, started with `arguments` in `folder`, its output going to files there. The environment has PATH,
/// a plain locale and no terminal.
class Program {
 public:
  Program(const std::string& folder, const std::vector<std::string>& arguments);
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program();
  /// Waits until stderr contains `text`; false after ten seconds.
  bool says(const std::string& text) const;
  void signal(int number) const;
  Outcome wait();

 private:
  pid_t pid_ = -1;
  std::string out_, err_;
};

Outcome fettle(const std::string& folder, const std::vector<std::string>& arguments);

std::string text_of(const std::string& path);
void write_text(const std::string& path, const std::string& text);

/// A new empty folder, removed with its owner.
class Folder {
 public:
  Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder();
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace fettle::test
