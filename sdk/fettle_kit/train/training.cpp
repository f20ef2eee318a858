// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/train/training.h"

#include "fettle_kit/io/message.h"
#include "fettle_kit/io/sha256.h"
#include "fettle_kit/train/data_order.h"
#include "fettle_kit/train/state.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <optional>
#include <utility>

namespace fettle::kit {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* state_name = "/state.safetensors";
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// All that a training has to remember from one step to the next, but for the tensors.
struct Memory {
  std::int64_t step = 0;        ///< done
  std::int64_t evaluated = -1;  ///< steps done at the last evaluation
  std::int64_t best_step = 0, without_better = 0;
  double first_loss = nan, last_loss = nan, held_out_first = nan, held_out_best = nan;
  std::map<std::string, std::vector<std::pair<double, double>>> series;
};

struct Field {
  const char* name;
  std::int64_t Memory::*count;
  double Memory::*number;
};
constexpr Field fields[] = {
    {"step", &Memory::step, nullptr},
    {"evaluated", &Memory::evaluated, nullptr},
    {"best_step", &Memory::best_step, nullptr},
    {"without_better", &Memory::without_better, nullptr},
    {"first_loss", nullptr, &Memory::first_loss},
    {"last_loss", nullptr, &Memory::last_loss},
    {"held_out_first", nullptr, &Memory::held_out_first},
    {"held_out_best", nullptr, &Memory::held_out_best},
};

class Training {
 public:
  Training(const TrainingTask& task, const TrainingOptions& options, const TrainingWatch& watch)
      : task_(task),
        options_(options),
        watch_(watch),
        backend_(*task.backend),
        order_(options.seed, task.data->sequences()),
        tensors_(task.tensors.begin(), task.tensors.end()) {
    options_.schedule.steps = options_.steps;
    options_.micro_batch = std::min(options_.micro_batch, options_.batch);
    for (const TrainedTensor& t : tensors_) {
      moments_.push_back(
          {backend_.allocate(t.value.rows, t.value.cols), backend_.allocate(t.value.rows, t.value.cols)});
      for (const char* part : {"value.", "first.", "second."})
        state_specs_.push_back({part + t.name, DType::f32, {t.value.rows, t.value.cols}});
      best_specs_.push_back({t.name, DType::f32, {t.value.rows, t.value.cols}});
    }
    identity_ = identity();
  }

  Result<Trained> run() {
    if (!resume()) begin();
    last_save_ = started_ = Clock::now();
    started_at_ = memory_.step;
    for (;;) {
      Status status;
      if (evaluation_due()) status = evaluate();
      if (status.ok()) {
        if (memory_.step == options_.steps || out_of_patience()) return finish();
        if (save_due()) FETTLE_TRY(save());
        status = step();
      }
      if (!status.ok()) {
        if (status.code() == Code::cancelled && memory_.step > 0) FETTLE_TRY(save());
        return status;
      }
    }
  }

 private:
  bool stop() const { return watch_.stop && watch_.stop(); }
  void point(const char* series, double y) {
    const auto x = static_cast<double>(memory_.step);
    memory_.series[series].emplace_back(x, y);
    if (watch_.point) watch_.point(series, x, y);
  }
  std::int64_t counted(std::span<const std::int32_t> ids) const {
    return task_.counted ? task_.counted(ids) : static_cast<std::int64_t>(ids.size()) - 1;
  }
  bool out_of_patience() const { return options_.patience > 0 && memory_.without_better >= options_.patience; }
  bool evaluation_due() const {
    if (!task_.evaluate || memory_.evaluated == memory_.step) return false;
    return memory_.step == 0 || memory_.step == options_.steps ||
           (options_.evaluate_every > 0 && memory_.step % options_.evaluate_every == 0);
  }
  bool save_due() const {
    if (memory_.step == saved_step_ || memory_.step == 0) return false;
    if (options_.save_every > 0 && memory_.step % options_.save_every == 0) return true;
    return std::chrono::duration<double>(Clock::now() - last_save_).count() >= options_.save_seconds;
  }
  std::string state_path() const { return options_.folder + state_name; }
  std::string best_path(std::int64_t step) const {
    return fmt::format("{}/best-{}.safetensors", options_.folder, step);
  }

  std::string identity() const;
  bool resume();
  void begin();
  Status step();
  Status evaluate();
  Status save();
  Result<Trained> finish();
  void report_progress();
  void use_values();
  void forget_best_files(std::int64_t keep_also);
  Status not_finite(const std::string& what, bool gradients);

  const TrainingTask& task_;
  TrainingOptions options_;
  const TrainingWatch& watch_;
  Backend& backend_;
  DataOrder order_;
  std::vector<TrainedTensor> tensors_;
  struct Moments {
    Array first, second;
  };
  std::vector<Moments> moments_;
  std::vector<TensorSpec> state_specs_, best_specs_;
  std::string identity_;
  Memory memory_;
  std::int64_t saved_step_ = -1, saved_best_ = -1;  ///< of the state in the folder
  Clock::time_point last_save_, started_;
  std::int64_t started_at_ = 0;  ///< steps that an earlier run did
  std::vector<std::int32_t> ids_;
  std::vector<std::int64_t> samples_;
};

/// Everything that decides over the bits but is not in the state itself.
std::string Training::identity() const {
  Sha256 digest;
  const TrainingOptions& o = options_;
  digest.update(fmt::format("{}\n{} {} {} {} {:a} {:a} {}\n{:a} {:a} {:a} {:a} {:a} {} {} {}\n", o.identity, o.steps,
                            o.batch, o.micro_batch, static_cast<int>(o.schedule.decay), o.schedule.peak,
                            o.schedule.floor, o.schedule.warmup, o.adamw.beta1, o.adamw.beta2, o.adamw.epsilon,
                            o.adamw.decay, o.clip, o.evaluate_every, o.patience, o.seed));
  for (const TrainedTensor& t : tensors_)
    digest.update(fmt::format("{} {} {} {} {:a} {}\n", t.name, t.value.rows, t.value.cols, t.decay, t.rate_factor,
                              static_cast<bool>(t.mask)));
  digest.update(fmt::format("{}\n", task_.data->length()));
  digest.update(task_.data->ids().data(), task_.data->ids().size_bytes());
  return digest.hex();
}

void Training::use_values() {
  for (const TrainedTensor& t : tensors_)
    if (t.used) backend_.copy(t.used, t.value);
  if (task_.values_changed) task_.values_changed();
}

/// The values of the state's file, or what is wrong with it.
Result<Memory> memory_of(const StateValues& values, const std::string& path) {
  Memory memory;
  for (const Field& field : fields) {
    const auto stored = values.texts.find(field.name);
    const std::string text = stored == values.texts.end() ? "" : stored->second;
    char* end = nullptr;
    if (field.count != nullptr)
      memory.*field.count = std::strtoll(text.c_str(), &end, 10);
    else
      memory.*field.number = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0')
      return Status(Code::corrupt_data, fmt::format("{}: no number at '{}'", path, field.name));
  }
  memory.series = values.series;
  return memory;
}

/// Takes up the state in the folder; false if there is none that can be used.
bool Training::resume() {
  std::error_code none;
  for (fs::directory_iterator it(options_.folder, none), end; !none && it != end; it.increment(none)) {
    const std::string name = it->path().filename();  // what a killed run left half-written
    if (name.starts_with(".fettle-") && name.ends_with(".tmp")) fs::remove(it->path(), none);
  }
  if (!fs::exists(state_path(), none)) return false;
  const auto refuse = [&](const Status& why) {
    if (watch_.warn)
      watch_.warn(fmt::format("the saved state of this training is not used: {}; training starts anew", why.message()));
    return false;
  };
  const auto state = StateFile::open(state_path(), identity_, state_specs_);
  if (!state) return refuse(state.error());
  auto memory = memory_of(state->values(), state_path());
  if (!memory) return refuse(memory.error());
  if (task_.evaluate && memory->evaluated >= 0 && memory->best_step != memory->step) {
    const auto best = StateFile::open(best_path(memory->best_step), identity_, best_specs_);
    if (!best) return refuse(best.error());
  }
  memory_ = *std::move(memory);
  state->read([&](std::size_t i, std::span<const float> values) {
    const std::size_t t = i / 3;
    backend_.upload(i % 3 == 0 ? tensors_[t].value : i % 3 == 1 ? moments_[t].first : moments_[t].second, values);
  });
  use_values();
  saved_step_ = memory_.step;
  saved_best_ = memory_.best_step;
  if (watch_.point)
    for (const auto& [name, points] : memory_.series)
      for (const auto& [x, y] : points) watch_.point(name.c_str(), x, y);
  if (watch_.info) watch_.info(fmt::format("going on after step {} of {}", memory_.step, options_.steps));
  return true;
}

void Training::begin() {
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    backend_.fill(moments_[i].first, 0);
    backend_.fill(moments_[i].second, 0);
    if (tensors_[i].mask) backend_.multiply(tensors_[i].value, tensors_[i].mask);
  }
  use_values();
}

Status Training::step() {
  const TokenSet& data = *task_.data;
  if (task_.begin_step) {
    task_.begin_step();
  } else {
    for (const TrainedTensor& t : tensors_) backend_.fill(t.gradient, 0);
  }

  samples_.clear();
  std::int64_t denominator = 0;
  for (std::int64_t i = 0; i < options_.batch; ++i) {
    samples_.push_back(order_[memory_.step * options_.batch + i]);
    denominator += counted(data.sequence(samples_.back()));
  }
  if (denominator < 1)
    return {Code::invalid_argument, fmt::format("step {}: no position of the batch counts", memory_.step + 1)};

  double loss = 0;
  for (std::int64_t first = 0; first < options_.batch; first += options_.micro_batch) {
    if (stop()) return cancelled_status();
    const std::int64_t count = std::min(options_.micro_batch, options_.batch - first);
    ids_.clear();
    for (std::int64_t i = first; i < first + count; ++i) {
      const auto row = data.sequence(samples_[static_cast<std::size_t>(i)]);
      ids_.insert(ids_.end(), row.begin(), row.end());
    }
    MicroBatch batch;
    batch.ids = ids_;
    batch.samples = std::span(samples_).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    batch.sequences = count;
    batch.length = data.length();
    batch.step = memory_.step;
    batch.denominator = denominator;
    FETTLE_ASSIGN(const double part, task_.loss(batch));
    loss += part;
  }
  if (!std::isfinite(loss)) return not_finite("the loss", false);
  if (task_.finish_gradients) task_.finish_gradients();

  double squares = 0;
  for (const TrainedTensor& t : tensors_) {
    if (t.mask) backend_.multiply(t.gradient, t.mask);
    squares += backend_.sum_squares(t.gradient);
  }
  if (!std::isfinite(squares)) return not_finite("the gradient", true);
  const double norm = std::sqrt(squares), rate = options_.schedule.rate(memory_.step);

  AdamwStep adamw;
  const auto passed = static_cast<double>(memory_.step + 1);
  adamw.beta1 = static_cast<float>(options_.adamw.beta1);
  adamw.beta2 = static_cast<float>(options_.adamw.beta2);
  adamw.epsilon = static_cast<float>(options_.adamw.epsilon);
  adamw.correction1 = static_cast<float>(1 - std::pow(options_.adamw.beta1, passed));
  adamw.correction2 = static_cast<float>(1 - std::pow(options_.adamw.beta2, passed));
  if (options_.clip > 0 && norm > options_.clip)
    adamw.gradient_scale = static_cast<float>(options_.clip / (norm + 1e-6));  // as torch's clip_grad_norm_
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const TrainedTensor& t = tensors_[i];
    adamw.rate = static_cast<float>(rate * t.rate_factor);
    adamw.decay = t.decay ? static_cast<float>(options_.adamw.decay) : 0;
    backend_.adamw(t.value, moments_[i].first, moments_[i].second, t.gradient, t.used, adamw);
  }
  if (task_.values_changed) task_.values_changed();

  if (memory_.step == 0) memory_.first_loss = loss;
  memory_.last_loss = loss;
  ++memory_.step;
  point("loss", loss);
  point("lr", rate);
  point("gradient_norm", norm);
  report_progress();
  return {};
}

void Training::report_progress() {
  const auto a_step = static_cast<std::uint64_t>(options_.batch * task_.data->length());
  const double seconds = std::chrono::duration<double>(Clock::now() - started_).count();
  const double speed = static_cast<double>(a_step) * static_cast<double>(memory_.step - started_at_) / seconds;
  if (watch_.progress)
    watch_.progress(fmt::format("train, {} tokens/s", grouped(static_cast<std::uint64_t>(speed))).c_str(),
                    static_cast<std::uint64_t>(memory_.step) * a_step,
                    static_cast<std::uint64_t>(options_.steps) * a_step);
}

Status Training::evaluate() {
  FETTLE_ASSIGN(const double held_out, task_.evaluate());
  if (!std::isfinite(held_out)) return not_finite("the held-out loss", false);
  point("held_out_loss", held_out);
  memory_.evaluated = memory_.step;
  if (memory_.step == 0) memory_.held_out_first = held_out;
  if (std::isnan(memory_.held_out_best) || held_out < memory_.held_out_best) {
    memory_.held_out_best = held_out;
    memory_.best_step = memory_.step;
    memory_.without_better = 0;
    if (memory_.step < options_.steps) {  // after the last step the best weights are at hand
      FETTLE_TRY(save_state(best_path(memory_.step), {{{"identity", identity_}}, {}}, best_specs_,
                            [&](std::size_t i, std::span<float> to) { backend_.download(to, tensors_[i].value); }));
      forget_best_files(memory_.best_step);
    }
  } else {
    ++memory_.without_better;
  }
  return {};
}

/// Removes best weights that neither the state in the folder nor `keep_also` mean.
void Training::forget_best_files(std::int64_t keep_also) {
  std::error_code none;
  for (fs::directory_iterator it(options_.folder, none), end; !none && it != end; it.increment(none)) {
    const fs::path path = it->path();
    if (!path.filename().string().starts_with("best-")) continue;
    if (path != best_path(keep_also) && path != best_path(saved_best_)) fs::remove(path, none);
  }
}

Status Training::save() {
  StateValues values;
  values.texts["identity"] = identity_;
  for (const Field& field : fields)
    values.texts[field.name] =
        field.count != nullptr ? fmt::format("{}", memory_.*field.count) : fmt::format("{:a}", memory_.*field.number);
  values.series = memory_.series;
  FETTLE_TRY(save_state(state_path(), values, state_specs_, [&](std::size_t i, std::span<float> to) {
    const std::size_t t = i / 3;
    backend_.download(to, i % 3 == 0 ? tensors_[t].value : i % 3 == 1 ? moments_[t].first : moments_[t].second);
  }));
  saved_step_ = memory_.step;
  saved_best_ = memory_.best_step;
  forget_best_files(saved_best_);
  last_save_ = Clock::now();
  return {};
}

/// The error for a step whose numbers left the range. Nothing was changed in it, so unless the weights themselves are
/// spoilt, the state before it is saved.
Status Training::not_finite(const std::string& what, bool gradients) {
  const auto first_bad = [&](Array TrainedTensor::*array) -> const TrainedTensor* {
    for (const TrainedTensor& t : tensors_)
      if (!std::isfinite(backend_.sum_squares(t.*array))) return &t;
    return nullptr;
  };
  const TrainedTensor* spoilt = first_bad(&TrainedTensor::value);
  const TrainedTensor* gradient = gradients ? first_bad(&TrainedTensor::gradient) : nullptr;
  const bool evaluating = what == "the held-out loss";
  std::string message = evaluating ? fmt::format("after step {} of {}: ", memory_.step, options_.steps)
                                   : fmt::format("step {} of {}: ", memory_.step + 1, options_.steps);
  message += fmt::format("{} is not a finite number", what);
  std::string elsewhere;
  if (spoilt == nullptr && task_.spoilt_elsewhere) elsewhere = task_.spoilt_elsewhere();
  if (!elsewhere.empty())
    message += "; first bad tensor: " + elsewhere;
  else if (spoilt != nullptr)
    message += fmt::format("; first bad tensor: weights of '{}'", spoilt->name);
  else if (gradient != nullptr)
    message += fmt::format("; first bad tensor: gradient of '{}'", gradient->name);
  else
    message += ", though all weights are";
  if (spoilt == nullptr && memory_.step > saved_step_) FETTLE_TRY(save());
  message += saved_step_ >= 0 ? fmt::format("; the weights after step {} are kept in '{}'", saved_step_, state_path())
                              : "; no earlier weights are kept";
  message += "; lower 'lr', lengthen 'warmup', or check the data and the model for NaN";
  return {Code::invalid_argument, message};
}

Result<Trained> Training::finish() {
  Trained result;
  result.steps = memory_.step;
  result.tokens = memory_.step * options_.batch * task_.data->length();
  result.first_loss = memory_.first_loss;
  result.last_loss = memory_.last_loss;
  result.held_out_first = memory_.held_out_first;
  result.held_out_best = memory_.held_out_best;
  result.best_step = task_.evaluate ? memory_.best_step : memory_.step;
  result.stopped_early = memory_.step < options_.steps;
  if (result.best_step != memory_.step) {
    FETTLE_ASSIGN(const auto best, StateFile::open(best_path(result.best_step), identity_, best_specs_));
    best.read([&](std::size_t i, std::span<const float> values) { backend_.upload(tensors_[i].value, values); });
    use_values();
  }
  return result;
}

Status check(const TrainingTask& task, const TrainingOptions& options) {
  const auto bad = [](const char* where, std::string text) {
    return Status(Code::invalid_argument, std::move(text), where);
  };
  if (task.data->sequences() < 1) return bad("data", "the data has no sequences");
  if (task.data->length() < 2)
    return bad("data", fmt::format("the sequences are {} ids long; at least 2 are needed", task.data->length()));
  if (task.tensors.empty()) return bad("frozen", "nothing to train: every tensor is frozen");
  if (options.steps < 1) return bad("steps", fmt::format("steps is {}, but must be at least 1", options.steps));
  if (options.batch < 1) return bad("batch", fmt::format("batch is {}, but must be at least 1", options.batch));
  if (options.micro_batch < 1)
    return bad("micro_batch", fmt::format("micro_batch is {}, but must be at least 1", options.micro_batch));
  constexpr auto most = std::numeric_limits<std::int64_t>::max();
  if (options.steps > most / options.batch / task.data->length())
    return bad("steps", fmt::format("{} steps of {} sequences are more tokens than can be counted",
                                    grouped(static_cast<std::uint64_t>(options.steps)), options.batch));
  return {};
}

}  // namespace

TrainingWatch watch_of(const Context& context) {
  return {
      [&context] { return context.cancelled(); },
      [&context](const char* phase, std::uint64_t done, std::uint64_t total) { context.progress(phase, done, total); },
      [&context](const char* series, double x, double y) { context.point(series, x, y); },
      [&context](const std::string& text) { context.warn(text); },
      [&context](const std::string& text) { context.info(text); }};
}

std::vector<std::string> odd_options(const TrainingOptions& options, std::int64_t sequences) {
  std::vector<std::string> found;
  const double peak = options.schedule.peak;
  if (peak == 0) found.push_back("the learning rate is 0: nothing will change");
  if (peak > 0.1)
    found.push_back(fmt::format("a learning rate of {:g} is far above what AdamW follows (1e-5 to 1e-2)", peak));
  if (options.schedule.floor > peak)
    found.push_back(
        fmt::format("the learning rate ends at {:g}, above its peak of {:g}", options.schedule.floor, peak));
  if (options.schedule.warmup >= options.steps && options.steps > 1)
    found.push_back(
        fmt::format("the warm-up of {} steps takes all of the {} steps", options.schedule.warmup, options.steps));
  if (options.batch > sequences)
    found.push_back(fmt::format("a batch of {} sequences, but the data has {}: sequences repeat inside a batch",
                                options.batch, sequences));
  return found;
}

Result<Trained> train(const TrainingTask& task, const TrainingOptions& options, const TrainingWatch& watch) {
  FETTLE_TRY(check(task, options));
  if (watch.warn)
    for (const std::string& text : odd_options(options, task.data->sequences())) watch.warn(text);
  return Training(task, options, watch).run();
}

}  // namespace fettle::kit
