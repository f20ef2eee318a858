// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace fettle::host {

/// What the program's exit code says (docs/reference/cli.md). Scripts rely on these numbers.
enum ExitCode {
  exit_done = 0,
  exit_usage = 2,
  exit_gate_failed = 3,
  exit_pipeline_invalid = 4,
  exit_does_not_fit = 5,
  exit_lock_would_change = 6,
  exit_step_failed = 7,
  exit_not_reproducible = 8,
  exit_store_damaged = 10,
  exit_input_missing = 12,
  exit_interrupted = 130,
};

}  // namespace fettle::host
