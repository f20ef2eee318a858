// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle/technique.h"
#include "fettle_kit/backend/backend.h"
#include "fettle_kit/text/token_set.h"
#include "fettle_kit/train/schedule.h"

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace fettle::kit {

/// A tensor that training changes. Arrays are dense; value, gradient and mask are `real` and of one shape.
struct TrainedTensor {
  std::string name;        ///< unique
  Array value;             ///< [rows, cols]; a vector is one row
  Array gradient;          ///< what the loss of a micro-batch adds to
  Array used;              ///< none, or a copy of the value that products read (bf16): kept in step with it
  Array mask;              ///< none, or 1 and 0: where it is 0, value, gradient and both moments stay exactly 0
  bool decay = true;       ///< usually not for norms, biases and other vectors
  double rate_factor = 1;  ///< its learning rate is this much times the schedule's
};

struct AdamwOptions {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, decay = 0.1;
};

struct TrainingOptions {
  std::int64_t steps = 0;
  std::int64_t batch = 32;       ///< sequences a step
  std::int64_t micro_batch = 8;  ///< sequences at a time: less memory, the same result but for rounding
  Schedule schedule;             ///< its `steps` is set from the above
  AdamwOptions adamw;
  double clip = 1;                  ///< of the norm of all gradients together; 0: none
  std::int64_t evaluate_every = 0;  ///< steps; 0: only before the first and after the last
  std::int64_t patience = 0;        ///< evaluations in a row without a better one until training stops; 0: never
  std::uint64_t seed = 0;           ///< of the order of the data
  std::int64_t save_every = 0;      ///< steps between two states in `folder`; 0: by time alone
  double save_seconds = 300;        ///< and seconds
  std::string folder;               ///< of the resumable state: Context::checkpoint()
  /// Whatever else decides over the result (technique, models, losses), as text: a state of another run is not taken.
  std::string identity;
};

/// Some sequences of a step's batch.
struct MicroBatch {
  std::span<const std::int32_t> ids;      ///< [sequences * length]
  std::span<const std::int64_t> samples;  ///< [sequences]: which of the token set they are
  std::int64_t sequences = 0, length = 0;
  std::int64_t step = 0;
  /// Positions that count in the whole batch of the step, by TrainingTask::counted. Divide by it, so that the
  /// micro-batches add up to the mean over the batch however it is split.
  std::int64_t denominator = 0;
};

/// What is trained, on what, and to what end. Borrowed.
struct TrainingTask {
  Backend* backend = nullptr;
  std::span<const TrainedTensor> tensors;
  const TokenSet* data = nullptr;
  /// Adds the gradients of its part of the batch's loss to TrainedTensor::gradient and returns that part: sums over
  /// its positions divided by MicroBatch::denominator.
  std::function<Result<double>(const MicroBatch&)> loss;
  /// The loss on held-out data: smaller is better, the best weights win. May be empty: the last win.
  std::function<Result<double>()> evaluate;
  /// How many positions of a sequence count. Empty: all but one, as for next-token prediction.
  std::function<std::int64_t(std::span<const std::int32_t> ids)> counted;
  /// Before the first micro-batch of a step: sets the gradients to 0. Empty: the tensors' arrays are filled with 0.
  std::function<void()> begin_step;
  /// After the last micro-batch, before clipping. May be empty.
  std::function<void()> finish_gradients;
  /// After the values changed (also when a state is taken up); TrainedTensor::used is up to date. May be empty.
  std::function<void()> values_changed;
  /// For the error of a loss that is no number though the trained weights are: the first tensor of another model that
  /// holds such values ("weights of the teacher's 'x'"), or "". May be empty.
  std::function<std::string()> spoilt_elsewhere;
};

/// What a training reports and obeys. All may be empty. [called from the training thread]
struct TrainingWatch {
  std::function<bool()> stop;
  std::function<void(const char* phase, std::uint64_t done, std::uint64_t total)>
      progress;  ///< tokens; the phase has their rate after a comma
  /// Series: loss, lr, gradient_norm after each step; held_out_loss at each evaluation; x is the number of steps done.
  std::function<void(const char* series, double x, double y)> point;
  std::function<void(const std::string&)> warn, info;
};
TrainingWatch watch_of(const Context& context);

struct Trained {
  std::int64_t steps = 0;                        ///< done, fewer than asked for if training stopped early
  std::int64_t tokens = 0;                       ///< steps * batch * length
  double first_loss = 0;                         ///< of the first batch, before any change
  double last_loss = 0;                          ///< of the last batch, before the last change
  std::int64_t best_step = 0;                    ///< steps done when the weights were those that are returned
  double held_out_first = 0, held_out_best = 0;  ///< NaN without TrainingTask::evaluate
  bool stopped_early = false;
};

/// Trains: the tensors' values end as the best weights (or the last, without evaluation). What happens is decided by
/// the values at the start, the task and the options alone, not by threads, interruptions or time: a run that finds
/// its state in `folder` goes on from there to the same bits. A state that is damaged or of another run is not used:
/// a warning says why, and training starts anew. Memory beyond the task's: 8 bytes a trained number.
///
/// Errors: cancelled once watch.stop() is true, with the state saved; invalid_argument for options that fit nothing,
/// or a loss, gradient or held-out loss that is no finite number: the message names the step and the first tensor that
/// is not finite, the last good state stays in `folder`; io; those of the task.
Result<Trained> train(const TrainingTask& task, const TrainingOptions& options, const TrainingWatch& watch);

/// What looks like a mistake in the options but is allowed, as sentences; train() warns of the same.
std::vector<std::string> odd_options(const TrainingOptions& options, std::int64_t sequences);

}  // namespace fettle::kit
