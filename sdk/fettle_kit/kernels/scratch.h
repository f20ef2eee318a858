// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace fettle::kit {

/// What a thread's buffer is for; each purpose has one buffer a thread.
enum class Scratch { x, w, rows, panel, scores, sums, count };

/// This thread's buffer for a purpose, of at least n floats, 64-byte aligned, with unknown content. Valid until this
/// thread asks again for the same purpose; it is kept for the life of the thread. Ask only in code that waits for no
/// other task while it uses the buffer: a thread that waits may be given a task that asks again.
float* scratch(Scratch purpose, std::size_t n);

}  // namespace fettle::kit
