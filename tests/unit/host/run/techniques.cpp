// SPDX-License-Identifier: Apache-2.0
#include "unit/host/run/techniques.h"

#include "fettle/plugin.h"

#include <signal.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <new>
#include <stdexcept>
#include <thread>

namespace fettle::host::test {

std::atomic<int> executions{0};

namespace {

namespace fs = std::filesystem;

void write(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }
std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Write {
  struct Params {
    std::string text;
    std::string name = "text.txt";
  };
  static Description<Params> describe() {
    return Description<Params>("test.write", "Write a text.")
        .output("file", "file", "the text")
        .param("text", &Params::text, required, "what to write")
        .param("name", &Params::name, "of the file");
  }
  static Status run(const Params& params, Context& context) {
    ++executions;
    write(context.output("file") + "/" + params.name, params.text);
    context.metric("bytes", static_cast<double>(params.text.size()), "bytes", 0.5);
    context.point("curve", 0, 1);
    context.progress("writing", 1, 1);
    if (params.text == "warn") context.warn("a warning");
    return {};
  }
};

struct Join {
  using Params = NoParams;
  static Description<Params> describe() {
    return Description<Params>("test.join", "Concatenate files.")
        .list_input("files", "file", "what to join")
        .output("file", "file", "all of them");
  }
  static Status run(const Params&, Context& context) {
    ++executions;
    std::string all;
    for (const Input& input : context.inputs.all("files"))
      for (const auto& entry : fs::directory_iterator(input.path())) all += read(entry.path().string());
    write(context.output("file") + "/text.txt", all);
    context.metric("bytes", static_cast<double>(all.size()));
    return {};
  }
};

struct Sum {
  struct Params {
    std::int64_t items = 100'000;
  };
  static Description<Params> describe() {
    return Description<Params>("test.sum", "A parallel sum of floats in fixed chunks.")
        .output("file", "file", "the sum")
        .param("items", &Params::items, "numbers to add");
  }
  static Status estimate(const Params&, const Inputs&, Estimate& estimate) {
    estimate.memory(1 << 20);
    return {};
  }
  static Status run(const Params& params, Context& context) {
    ++executions;
    std::vector<float> partial(static_cast<std::size_t>(params.items / 1000 + 1));
    tbb::parallel_for(std::size_t{0}, partial.size(), [&](std::size_t chunk) {
      for (std::size_t i = 0; i < 1000; ++i) partial[chunk] += 1.0f / static_cast<float>(chunk * 1000 + i + 1);
    });
    float sum = 0;
    for (const float part : partial) sum += part;
    char text[64];
    std::snprintf(text, sizeof text, "%a", static_cast<double>(sum));
    write(context.output("file") + "/sum.txt", text);
    context.metric("threads", context.threads());
    context.metric("arena", tbb::this_task_arena::max_concurrency());
    return {};
  }
};

struct Misbehave {
  struct Params {
    std::string how;
  };
  static Description<Params> describe() {
    return Description<Params>("test.misbehave", "Fail in one way or another.")
        .output("file", "file", "a file, if all is well")
        .param("how", &Params::how, required, "the way");
  }
  static Status run(const Params& params, Context& context) {
    ++executions;
    if (params.how == "error") return {Code::unsupported, "block 3 has width 100, expected a multiple of 32", "group"};
    if (params.how == "throw") throw std::runtime_error("boom");
    if (params.how == "memory") throw std::bad_alloc();
    if (params.how == "cancelled") return cancelled_status();
    if (params.how == "empty") return {};
    if (params.how == "crash") ::raise(SIGSEGV);
    if (params.how == "exit") std::_Exit(3);
    if (params.how == "dangling") fs::create_symlink("/nowhere", context.output("file") + "/link");
    if (params.how == "half") {
      write(context.output("file") + "/text.txt", "half");
      return {Code::io, "model.bin: cannot write: no space left on device"};
    }
    return {};
  }
};

struct Wait {
  struct Params {
    std::string until;
  };
  static Description<Params> describe() {
    return Description<Params>("test.wait", "Work until a file exists.")
        .output("file", "file", "how often it was started")
        .param("until", &Params::until, required, "the file");
  }
  static Status run(const Params& params, Context& context) {
    ++executions;
    const std::string state = context.checkpoint() + "/state";
    write(state, read(state) + "started;");
    context.progress("waiting", 0, 0);
    while (!fs::exists(params.until)) {
      if (context.cancelled()) return cancelled_status();
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    write(context.output("file") + "/text.txt", read(state));
    return {};
  }
};

std::atomic<int> running{0}, most{0};

struct Together {
  struct Params {
    std::string name;
    std::int64_t others = 1;
    Bytes memory;
  };
  static Description<Params> describe() {
    return Description<Params>("test.together", "Wait a while for others to run at the same time.")
        .output("file", "file", "its name")
        .param("name", &Params::name, required, "its name")
        .param("others", &Params::others, "how many run at once when all is well")
        .param("memory", &Params::memory, "what to ask for");
  }
  static Status estimate(const Params& params, const Inputs&, Estimate& estimate) {
    estimate.memory(static_cast<double>(params.memory.value)).max_threads(1);
    return {};
  }
  static Status run(const Params& params, Context& context) {
    ++executions;
    const int now = ++running;
    for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
    }
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(params.others > 1 ? 5000 : 50);
    while (std::chrono::steady_clock::now() < deadline && (params.others == 1 || most < params.others))
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    write(context.output("file") + "/text.txt", params.name);
    context.metric("most", most);
    if (--running == 0) most = 0;
    return {};
  }
};

// In plain C terms: no trampoline stands between it and the host.
std::int32_t raw_run(const fettle_run*, fettle_error*) { return 77; }

const Plugin& plugin() {
  static const Plugin plugin = [] {
    Plugin p;
    p.path = "/test/plugin.so";
    p.digest = "sha256:test";
    p.ours = true;
    return p;
  }();
  return plugin;
}

const std::vector<Technique>& techniques() {
  static const fettle_technique raw = [] {
    fettle_technique table = *fettle::detail::Adapter<Misbehave>::table();
    table.id = "test.raw";
    table.run = raw_run;
    return table;
  }();
  static const std::vector<Technique> all{{fettle::detail::Adapter<Join>::table(), &plugin()},
                                          {fettle::detail::Adapter<Misbehave>::table(), &plugin()},
                                          {&raw, &plugin()},
                                          {fettle::detail::Adapter<Sum>::table(), &plugin()},
                                          {fettle::detail::Adapter<Together>::table(), &plugin()},
                                          {fettle::detail::Adapter<Wait>::table(), &plugin()},
                                          {fettle::detail::Adapter<Write>::table(), &plugin()}};
  return all;
}

}  // namespace

Catalogue catalogue() {
  Catalogue found;
  for (const Technique& technique : techniques()) found.techniques.push_back(&technique);
  found.services = {FETTLE_SERVICE_METRICS};
  return found;
}

const Technique* find_technique(const std::string& id) {
  for (const Technique& technique : techniques())
    if (technique.id() == id) return &technique;
  return nullptr;
}

}  // namespace fettle::host::test
