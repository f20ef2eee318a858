// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/distill/distillation.h"

#include "fettle_kit/compress/mask.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/io/message.h"
#include "fettle_kit/train/next_token.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <utility>
#include <vector>

namespace fettle::kit {
namespace {

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

/// 1 for each position whose next token lies in the sequence, so that teacher and labels count the same rows.
std::vector<std::uint8_t> rows_with_a_next(std::int64_t sequences, std::int64_t length) {
  std::vector<std::uint8_t> rows(size(sequences * length), 1);
  for (std::int64_t s = 1; s <= sequences; ++s) rows[size(s * length - 1)] = 0;
  return rows;
}

/// Rows of the teacher's final hidden states, from the artifact into the backend.
class CachedHidden final : public Teacher {
 public:
  CachedHidden(Backend& backend, Targets targets, Precision precision)
      : backend_(backend), targets_(std::move(targets)) {
    const StoredMatrix& head = targets_.head();
    head_ = backend_.allocate(head.rows, head.cols);
    const DTypeInfo& stored = info(head.dtype);
    const std::int64_t row_bytes = head.cols / stored.block_elems * stored.block_bytes;
    backend_.host_view(head_, Access::write, [&](MutMatrix to) {
      for (std::int64_t i = 0; i < head.rows; ++i)
        stored.to_f32(head.data + i * row_bytes, to.row(i).data(), size(head.cols));
    });
    finite_ = std::isfinite(backend_.sum_squares(head_));
    if (precision == Precision::bf16) {
      const Array narrow = backend_.allocate(head.rows, head.cols, Element::bf16);
      backend_.copy(narrow, head_);
      head_ = narrow;
    }
  }

  Status show(LossTarget& target, const MicroBatch& batch) override {
    const std::int64_t width = targets_.header().hidden, rows = batch.sequences * batch.length;
    if (!hidden_ || hidden_.rows < rows) hidden_ = backend_.allocate(rows, width);
    const Array view = hidden_.rows_from(0, rows);
    Status status;
    backend_.host_view(view, Access::write, [&](MutMatrix to) {
      for (std::int64_t s = 0; s < batch.sequences && status.ok(); ++s) {
        const MutMatrix own = to.rows_from(s * batch.length, batch.length);
        status = targets_.read_hidden(batch.samples[size(s)], {own.data, size((batch.length - 1) * width)});
        std::ranges::fill(own.row(batch.length - 1), 0.0F);
      }
    });
    target.teacher_hidden = view;
    target.teacher_head = head_;
    target.teacher_softcap = static_cast<float>(targets_.header().softcap);
    return status;
  }

  std::string first_spoilt() override { return finite_ ? "" : "the output matrix of the targets"; }

 private:
  Backend& backend_;
  Targets targets_;
  Array head_, hidden_;
  bool finite_ = true;
};

/// The teacher's most likely tokens or draws.
class CachedTokens final : public Teacher {
 public:
  explicit CachedTokens(Targets targets) : targets_(std::move(targets)) {}

  Status show(LossTarget& target, const MicroBatch& batch) override {
    const std::int64_t k = targets_.header().k;
    ids_.assign(size(batch.sequences * batch.length * k), -1);
    log_p_.assign(ids_.size(), 0);
    const std::size_t known = size((batch.length - 1) * k);
    for (std::int64_t s = 0; s < batch.sequences; ++s) {
      const std::size_t from = size(s * batch.length * k);
      FETTLE_TRY(targets_.read_known(batch.samples[size(s)], std::span(ids_).subspan(from, known),
                                     std::span(log_p_).subspan(from, known)));
    }
    target.top = {k, ids_, log_p_, targets_.header().content == TargetContent::top};
    return {};
  }

 private:
  Targets targets_;
  std::vector<std::int32_t> ids_;
  std::vector<float> log_p_;
};

constexpr std::array<std::pair<std::string_view, Divergence>, 6> divergences{
    {{"forward_kl", Divergence::forward_kl},
     {"reverse_kl", Divergence::reverse_kl},
     {"jsd", Divergence::jensen_shannon},
     {"skew_kl", Divergence::skew_forward_kl},
     {"skew_reverse_kl", Divergence::skew_reverse_kl},
     {"taid", Divergence::taid}}};

Result<TokenSet> open_tokens(const Input& input, const ModelConfig& student) {
  const std::string port(input.port());
  FETTLE_ASSIGN(TokenSet tokens, TokenSet::open(input.path()));
  FETTLE_TRY(check_sequences(tokens, student, port.c_str()));
  if (const auto largest = *std::ranges::max_element(tokens.ids()); largest >= student.vocab)
    return Status(
        Code::invalid_argument,
        fmt::format("id {} is outside the student's vocabulary of {}; cut the text with the tokenizer of this "
                    "model",
                    largest, student.vocab),
        port);
  return tokens;
}

/// Probabilities that the teacher lacks are 0, and the logarithm of 0 has no end.
bool needs_every_token(const DistillParams& p) {
  return p.loss == "reverse_kl" || p.loss == "taid" || (p.loss == "jsd" && p.beta == 1);
}

}  // namespace

Result<Divergence> parse_divergence(std::string_view text) {
  for (const auto& [name, value] : divergences)
    if (name == text) return value;
  return Status(Code::invalid_argument, fmt::format("unknown loss {}", in_quotes(text)), "loss");
}

Status LiveTeacher::forward(const MicroBatch& batch) {
  return network_.forward(batch.ids, {batch.sequences, batch.length});
}

Status LiveTeacher::show(LossTarget& target, const MicroBatch& batch) {
  FETTLE_TRY(forward(batch));
  target.teacher_hidden = network_.hidden();
  target.teacher_head = network_.head();
  target.teacher_softcap = network_.config().logit_softcap;
  return {};
}

std::string LiveTeacher::first_spoilt() {
  for (const Parameter& p : network_.parameters())
    if (!std::isfinite(network_.backend().sum_squares(p.value)))
      return fmt::format("weights of the teacher's '{}'", p.name);
  return {};
}

std::unique_ptr<Teacher> cached_teacher(Backend& backend, Targets targets, Precision precision) {
  if (targets.header().content == TargetContent::hidden)
    return std::make_unique<CachedHidden>(backend, std::move(targets), precision);
  return std::make_unique<CachedTokens>(std::move(targets));
}

Status check_distillation(const DistillParams& p, const Inputs& in) {
  const auto teacher = in.find("teacher"), targets = in.find("targets");
  if (!teacher && !targets && p.ce < 1)
    return {Code::invalid_argument, "connect port 'teacher' or port 'targets': there is nobody to learn from",
            "teacher"};
  if (targets && p.loss == "taid" && targets->attribute("content") != "" && targets->attribute("content") != "hidden")
    return {Code::invalid_argument, "'taid' needs all logits of the teacher; use targets with 'content: hidden'",
            "loss"};
  if (teacher && needs_every_token(p)) {
    const double theirs = teacher->number("vocab"), own = in.at("student").number("vocab");
    if (theirs > 0 && theirs < own)
      return {
          Code::invalid_argument,
          fmt::format("'{}' needs a teacher with all tokens of the student, but its vocabulary of {} is smaller than "
                      "the student's of {}; use 'forward_kl'",
                      p.loss, theirs, own),
          "loss"};
  }
  return {};
}

void estimate_distillation(const DistillParams& p, const Inputs& in, Estimate& e, double more_bytes) {
  const Input student = in.at("student"), data = in.at("data");
  TrainingCost cost = training_cost(config_of(student), p, data, in.find("held_out"));
  const double length = data.number("length", 512), sequences = data.number("sequences");
  const auto rows = static_cast<double>(std::min(p.micro_batch, p.batch)) * length;
  const auto steps = static_cast<double>(training_steps(p, static_cast<std::int64_t>(sequences)));
  if (const auto teacher = in.find("teacher")) {
    const ModelConfig shape = config_of(*teacher);
    NetworkOptions options = network_options(p);
    options.frozen = true;
    cost.bytes += Network::bytes(shape, rows, options);
    if (!in.find("targets") && p.ce < 1)
      cost.flops += 2 * static_cast<double>(shape.parameters()) * steps * static_cast<double>(p.batch) * length;
  }
  if (in.find("mask")) cost.bytes += 4 * student.number("parameters");
  e.memory(cost.bytes + more_bytes).disk(cost.disk).flops(cost.flops).like("model", student);
  if (p.dtype != "same") e.attribute("model", "weights", p.dtype);
}

Result<std::unique_ptr<Distillation>> Distillation::open(const DistillParams& params, const Context& context) {
  FETTLE_TRY(check_distillation(params, context.inputs));
  std::unique_ptr<Distillation> d(new Distillation(params, context));
  const Inputs& in = context.inputs;
  FETTLE_ASSIGN(const Weights weights, Weights::open(in.at("student").path()));
  FETTLE_ASSIGN(d->data_, open_tokens(in.at("data"), weights.config()));
  if (const auto held_out = in.find("held_out")) {
    FETTLE_ASSIGN(d->held_out_, open_tokens(*held_out, weights.config()));
  }
  d->backend_ = make_cpu_backend();
  FETTLE_ASSIGN(d->student_, Network::open(*d->backend_, weights, network_options(params)));
  d->steps_ = training_steps(params, d->data_->sequences());
  FETTLE_TRY(d->open_teacher());
  return d;
}

Status Distillation::open_teacher() {
  const ModelConfig& student = student_->config();
  if (const auto port = context_.inputs.find("teacher")) {
    FETTLE_ASSIGN(const Weights weights, Weights::open(port->path()));
    const ModelConfig& config = weights.config();
    for (const auto& [tokens, name] :
         {std::pair(&*data_, "data"), std::pair(held_out_ ? &*held_out_ : nullptr, "held_out")})
      if (tokens != nullptr && tokens->length() > config.context)
        return {Code::invalid_argument,
                fmt::format("the sequences are {} ids long, but the teacher's context is {}; make them shorter with "
                            "'length' of data.tokens",
                            tokens->length(), config.context),
                name};
    if (needs_every_token(params_) && config.vocab < student.vocab)
      return {
          Code::invalid_argument,
          fmt::format("'{}' needs a teacher with all tokens of the student, but its vocabulary of {} is smaller than "
                      "the student's of {}; use 'forward_kl'",
                      params_.loss, config.vocab, student.vocab),
          "loss"};
    NetworkOptions options = network_options(params_);
    options.frozen = true;
    FETTLE_ASSIGN(Network network, Network::open(*backend_, weights, options));
    if (network.parameter_count() < student_->parameter_count())
      context_.warn(fmt::format("the teacher is smaller than the student: {} and {} parameters; are they swapped?",
                                grouped(static_cast<std::uint64_t>(network.parameter_count())),
                                grouped(static_cast<std::uint64_t>(student_->parameter_count()))));
    live_ = std::make_unique<LiveTeacher>(std::move(network));
  }
  const auto port = context_.inputs.find("targets");
  if (!port) return {};
  FETTLE_ASSIGN(Targets targets, Targets::open(port->path()));
  FETTLE_TRY(targets.check_bound_to(*data_, student.vocab));
  const TargetsHeader& header = targets.header();
  if (const auto teacher = context_.inputs.find("teacher");
      teacher && !teacher->digest().empty() && !header.teacher.empty() && teacher->digest() != header.teacher)
    return {Code::invalid_argument,
            fmt::format("the targets were made by the teacher {}, port 'teacher' holds {}", in_quotes(header.teacher),
                        in_quotes(teacher->digest())),
            "targets"};
  if (header.content != TargetContent::hidden) {
    if (params_.loss == "taid")
      return {Code::invalid_argument, "'taid' needs all logits of the teacher; use targets with 'content: hidden'",
              "loss"};
    if (header.temperature != params_.temperature)
      return {Code::invalid_argument,
              fmt::format("temperature is {}, but the targets were made at {}, and what they leave out cannot be "
                          "converted; use that, or targets with 'content: hidden'",
                          params_.temperature, header.temperature),
              "temperature"};
    if (header.content == TargetContent::samples && params_.loss != "forward_kl")
      return {Code::invalid_argument, "random draws know of no loss but 'forward_kl'; use other targets", "loss"};
  } else if (needs_every_token(params_) && header.vocab < student.vocab) {
    return {Code::invalid_argument,
            fmt::format("'{}' needs a teacher with all tokens of the student, but its vocabulary of {} is smaller than "
                        "the student's of {}; use 'forward_kl'",
                        params_.loss, header.vocab, student.vocab),
            "loss"};
  }
  cached_ = cached_teacher(*backend_, std::move(targets), network_options(params_).precision);
  return {};
}

LossSpec Distillation::spec(std::int64_t step) const {
  LossSpec spec;
  spec.divergence = *parse_divergence(params_.loss);  // one of the choices
  spec.temperature = static_cast<float>(params_.temperature);
  spec.beta = static_cast<float>(params_.beta);
  spec.alpha = static_cast<float>(params_.alpha);
  const double done = steps_ > 1 ? static_cast<double>(step) / static_cast<double>(steps_ - 1) : 1;
  spec.tau = static_cast<float>(params_.tau + (1 - params_.tau) * std::min(1.0, done));
  return spec;
}

Result<double> Distillation::loss(const MicroBatch& batch, InnerLoss* inner) {
  LossTarget target;
  const auto denominator = static_cast<double>(batch.denominator);
  std::vector<std::int32_t> labels;
  std::vector<std::uint8_t> rows;
  if (params_.ce > 0) {
    labels = next_tokens(batch.ids, batch.length);
    target.labels = labels;
    target.label_scale = params_.ce / denominator;
  }
  if (params_.ce < 1) {
    Teacher& teacher = cached_ ? *cached_ : *live_;
    FETTLE_TRY(teacher.show(target, batch));
    target.spec = spec(batch.step);
    target.teacher_scale = (1 - params_.ce) / denominator;
    rows = rows_with_a_next(batch.sequences, batch.length);
    target.teacher_rows = rows;
  }
  FETTLE_TRY(student_->forward(batch.ids, {batch.sequences, batch.length}));
  const LossSums sums = student_->head_loss(target);
  if (inner == nullptr) {
    student_->backward();
  } else {
    if (cached_ || params_.ce == 1) FETTLE_TRY(live_->forward(batch));
    inner->begin(batch);
    student_->backward([&](std::int64_t layer, const Array& gradient) { inner->add_gradient(layer, gradient); });
  }
  return target.label_scale * sums.cross_entropy + target.teacher_scale * sums.divergence +
         (inner == nullptr ? 0 : inner->value());
}

Result<double> Distillation::held_out_loss() {
  if (!held_out_) return std::numeric_limits<double>::quiet_NaN();
  return measure(live_ ? params_.ce : 1, spec(steps_ - 1));  // without a teacher at hand there is the text itself
}

Result<double> Distillation::held_out_kl() {
  if (!held_out_ || !live_) return std::numeric_limits<double>::quiet_NaN();
  LossSpec kl;
  kl.divergence = Divergence::forward_kl;
  return measure(0, kl);
}

Result<double> Distillation::measure(double ce, const LossSpec& spec) {
  const TokenSet& tokens = *held_out_;
  LossSums sums;
  for (std::int64_t first = 0; first < tokens.sequences(); first += params_.micro_batch) {
    if (context_.cancelled()) return cancelled_status();
    MicroBatch batch;
    batch.sequences = std::min(params_.micro_batch, tokens.sequences() - first);
    batch.length = tokens.length();
    batch.ids = tokens.ids().subspan(size(first * batch.length), size(batch.sequences * batch.length));
    LossTarget target;
    const std::vector<std::int32_t> labels = next_tokens(batch.ids, batch.length);
    const std::vector<std::uint8_t> rows = rows_with_a_next(batch.sequences, batch.length);
    if (ce > 0) target.labels = labels;
    if (ce < 1) {
      FETTLE_TRY(live_->show(target, batch));
      target.spec = spec;
      target.teacher_rows = rows;
    }
    FETTLE_TRY(student_->forward(batch.ids, {batch.sequences, batch.length}));
    HeadLoss head;
    head.hidden = student_->hidden();
    head.head = student_->head();
    head.softcap = student_->config().logit_softcap;
    head.precision = student_->options().precision;
    sums += backend_->head_loss(head, target);
  }
  const auto rows = static_cast<double>(tokens.sequences() * (tokens.length() - 1));
  return (ce * sums.cross_entropy + (1 - ce) * sums.divergence) / rows;
}

Status Distillation::run(const std::string& identity, InnerLoss* inner, const Beside& beside) {
  const Inputs& in = context_.inputs;
  std::map<std::string, Mask> masks;
  if (const auto port = in.find("mask")) {
    FETTLE_ASSIGN(masks, read_masks(port->path()));
  }
  FETTLE_ASSIGN(auto tensors, trained_tensors(*student_, params_.frozen, &masks));
  const std::span<const TrainedTensor> more = inner == nullptr ? std::span<const TrainedTensor>() : inner->tensors();
  tensors.insert(tensors.end(), more.begin(), more.end());
  tensors.insert(tensors.end(), beside.tensors.begin(), beside.tensors.end());
  TrainingTask task = training_of(*student_, tensors, *data_);
  task.begin_step = [&] {
    student_->zero_gradients();
    for (const TrainedTensor& t : more) backend_->fill(t.gradient, 0);
  };
  task.loss = [&](const MicroBatch& batch) { return loss(batch, inner); };
  task.spoilt_elsewhere = [&] {
    Teacher* const teacher = cached_ ? cached_.get() : live_.get();
    return teacher == nullptr ? std::string() : teacher->first_spoilt();
  };
  if (held_out_) task.evaluate = [&] { return held_out_loss(); };

  TrainingOptions options = training_options(params_, context_, data_->sequences(), held_out_.has_value());
  const DistillParams& p = params_;
  options.identity = fmt::format("{} {} {} {} {} {} {} {}", identity, p.loss, p.temperature, p.beta, p.alpha, p.tau,
                                 p.ce, p.precision);
  for (const char* port : {"student", "teacher", "targets", "held_out", "mask"})
    if (const auto input = in.find(port)) options.identity += fmt::format(" {}", input->digest());
  FETTLE_ASSIGN(const Trained trained, train(task, options, watch_of(context_)));
  report(context_, trained);
  context_.metric("first_loss", trained.first_loss, "nats a token");
  if (beside.before_write) beside.before_write();

  const std::string folder = in.at("student").path();
  FETTLE_ASSIGN(Json config, read_json_file(folder + "/config.json"));
  FETTLE_ASSIGN(const DType dtype, stored_type(p, folder));
  return student_->write(context_.output("model"), std::move(config), dtype, folder);
}

}  // namespace fettle::kit
