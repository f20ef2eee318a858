// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/plan/plan.h"

#include <atomic>
#include <string>

namespace fettle::host::test {

/// Techniques of a plugin that exists only in the test program:
///   test.write     {text, gate}       -> file           writes `text`; metrics bytes
///   test.join      files              -> file           concatenates; metrics bytes
///   test.sum       {items}            -> file           a parallel sum in fixed chunks; metrics threads
///   test.misbehave {how}              -> file, extra?   fails in the way named
///   test.wait      {until}            -> file           works until the file exists or it is cancelled
///   test.together  {name, others}     -> file           waits until as many run at once; metrics most
Catalogue catalogue();
const Technique* find_technique(const std::string& id);

extern std::atomic<int> executions;  ///< of all techniques, in this process

}  // namespace fettle::host::test
