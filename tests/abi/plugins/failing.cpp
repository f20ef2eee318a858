// SPDX-License-Identifier: Apache-2.0
// Techniques that load well and fail when they run, each in its own way.
#include "fettle/plugin.h"

#include <chrono>
#include <new>
#include <stdexcept>
#include <thread>

namespace {
using namespace fettle;

Description<NoParams> described(const char* id) {
  return Description<NoParams>(id, "Fail.").output("file", "file", "never written");
}

struct ThrowsException {
  using Params = NoParams;
  static Description<Params> describe() { return described("test.throws"); }
  static Status run(const Params&, Context&) { throw std::runtime_error("the frobnicator is jammed"); }
};

struct ThrowsInt {
  using Params = NoParams;
  static Description<Params> describe() { return described("test.throws_int"); }
  static Status run(const Params&, Context&) { throw 42; }
};

struct RunsOutOfMemory {
  using Params = NoParams;
  static Description<Params> describe() { return described("test.out_of_memory"); }
  static Status run(const Params&, Context&) { throw std::bad_alloc(); }
};

struct ReturnsError {
  using Params = NoParams;
  static Description<Params> describe() { return described("test.returns_error"); }
  static Status run(const Params&, Context&) {
    return {Code::unsupported, "the moon is full, expected new moon; wait two weeks", "moon"};
  }
};

struct NeedsService {
  using Params = NoParams;
  static Description<Params> describe() { return described("test.needs_gpu").needs("acme.gpu/1"); }
  static Status run(const Params&, Context&) { return {}; }
};

/// Never ends by itself.
struct WaitsForCancel {
  using Params = NoParams;
  static Description<Params> describe() { return described("test.waits"); }
  static Status run(const Params&, Context& context) {
    while (!context.cancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return cancelled_status();
  }
};

}  // namespace

FETTLE_PLUGIN("failing", "1.0", "Fettle tests", "Apache-2.0", ThrowsException, ThrowsInt, RunsOutOfMemory, ReturnsError,
              NeedsService, WaitsForCancel)
