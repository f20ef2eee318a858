// SPDX-License-Identifier: Apache-2.0
#include "host/pipeline/expression.h"

#include "host/pipeline/scalar.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace fettle::host {

struct Expression::Node {
  enum class Op {
    constant,
    metric,
    negate,
    invert,
    add,
    subtract,
    multiply,
    divide,
    less,
    less_equal,
    greater,
    greater_equal,
    equal,
    unequal,
    conjunction,
    disjunction,
    minimum,
    maximum,
    absolute
  };
  Op op = Op::constant;
  Type type = Type::number;
  Value value;             // of a constant
  std::size_t metric = 0;  // index into metrics()
  std::vector<std::shared_ptr<const Node>> operands;
  std::string text;  // as written, for messages
};

namespace {

using Node = Expression::Node;
using Op = Node::Op;
using Type = Expression::Type;
using NodePtr = std::shared_ptr<const Node>;

constexpr std::size_t longest_expression = 4096;
constexpr int deepest_expression = 64;

std::string_view name_of(Type type) {
  switch (type) {
    case Type::number:
      return "a number";
    case Type::boolean:
      return "true or false";
    case Type::string:
      return "text";
  }
  return "";
}

/// Text literals bring their own quotes.
std::string quoted(const std::string& text) {
  return text.starts_with('\'') || text.starts_with('"') ? text : fmt::format("'{}'", text);
}

bool starts_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool in_name(char c) { return starts_name(c) || is_digit(c); }

struct Token {
  enum class Kind { end, number, string, name, symbol } kind = Kind::end;
  std::string_view text;
  std::size_t at = 0;
};

/// Thrown inside the parser only: the first problem ends it.
struct Problem {
  std::size_t at = 0;
  std::size_t length = 1;
  std::string message;
  std::vector<std::string> notes;
};
/// A problem that the scope has reported already.
struct Reported {};

class Parser {
 public:
  Parser(std::string_view text, SourceRange where, const Expression::Scope& scope,
         std::vector<Expression::MetricRef>& metrics)
      : text_(text), where_(std::move(where)), scope_(scope), metrics_(metrics) {}

  NodePtr parse() {
    if (text_.size() > longest_expression)
      throw Problem{0,
                    1,
                    fmt::format("an expression of {} characters, at most {} are read", grouped(text_.size()),
                                grouped(longest_expression)),
                    {}};
    next();
    NodePtr node = disjunction();
    if (token_.kind != Token::Kind::end) unexpected("expected an operator");
    return node;
  }

  SourceRange range(std::size_t at, std::size_t length) const {
    SourceRange r = where_;
    const auto characters = [&](std::size_t begin, std::size_t end) {
      return static_cast<int>(std::count_if(text_.begin() + static_cast<std::ptrdiff_t>(begin),
                                            text_.begin() + static_cast<std::ptrdiff_t>(end),
                                            [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
    };
    at = std::min(at, text_.size());
    r.column += characters(0, at);
    r.length = std::max(1, characters(at, std::min(at + length, text_.size())));
    return r;
  }

 private:
  [[noreturn]] void unexpected(const std::string& expected) const {
    if (token_.kind == Token::Kind::end)
      throw Problem{token_.at, 1, expected + ", found the end of the expression", {}};
    std::vector<std::string> notes;
    if (token_.text == "=") notes.emplace_back("'==' compares");
    if (token_.text == "&" || token_.text == "|" || token_.text == "!") notes.emplace_back("write 'and', 'or', 'not'");
    throw Problem{token_.at, token_.text.size(), fmt::format("{}, found '{}'", expected, token_.text), notes};
  }

  void next() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
      ++at_;
    const std::size_t begin = at_;
    token_ = {Token::Kind::end, {}, begin};
    if (at_ >= text_.size()) return;
    const char c = text_[at_];
    const auto peek = [&](std::size_t ahead) { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; };
    if (is_digit(c) || (c == '.' && is_digit(peek(1)))) {
      token_.kind = Token::Kind::number;
      while (at_ < text_.size() && (in_name(text_[at_]) || text_[at_] == '.' ||
                                    ((text_[at_] == '+' || text_[at_] == '-') &&
                                     (text_[at_ - 1] == 'e' || text_[at_ - 1] == 'E') && is_digit(peek(1)))))
        ++at_;
      if (peek(0) == '%') ++at_;
    } else if (c == '"' || c == '\'') {
      token_.kind = Token::Kind::string;
      const std::size_t close = text_.find(c, at_ + 1);
      if (close == std::string_view::npos)
        throw Problem{begin, text_.size() - begin, "text without its closing quote", {}};
      at_ = close + 1;
    } else if (starts_name(c)) {
      token_.kind = Token::Kind::name;
      // A '-' between two name characters belongs to the name: steps may be called eval-base.
      while (in_name(peek(0)) || (peek(0) == '-' && in_name(peek(1)))) ++at_;
    } else {
      token_.kind = Token::Kind::symbol;
      const bool two = peek(1) == '=' && (c == '<' || c == '>' || c == '=' || c == '!');
      at_ += two ? 2 : 1;
      while (at_ < text_.size() && (static_cast<unsigned char>(text_[at_]) & 0xC0) == 0x80) ++at_;
    }
    token_.text = text_.substr(begin, at_ - begin);
  }

  bool accept(std::string_view text) {
    if ((token_.kind != Token::Kind::symbol && token_.kind != Token::Kind::name) || token_.text != text) return false;
    next();
    return true;
  }

  NodePtr make(Op op, Type type, std::vector<NodePtr> operands, std::size_t begin) const {
    auto node = std::make_shared<Node>();
    node->op = op;
    node->type = type;
    node->operands = std::move(operands);
    node->text = std::string(written(begin));
    return node;
  }
  std::string_view written(std::size_t begin) const {
    std::string_view text = text_.substr(begin, token_.at - begin);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\n')) text.remove_suffix(1);
    return text;
  }

  void demand(const NodePtr& node, Type type, std::string_view what, std::size_t at) const {
    if (node->type != type)
      throw Problem{
          at,
          node->text.size(),
          fmt::format("{} needs {}, but {} is {}", what, name_of(type), quoted(node->text), name_of(node->type)),
          {}};
  }

  struct Deeper {
    explicit Deeper(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > deepest_expression)
        throw Problem{parser_.token_.at, 1, "the expression is nested too deeply", {}};
    }
    ~Deeper() { --parser_.depth_; }
    Parser& parser_;
  };

  NodePtr disjunction() {
    const Deeper deeper(*this);
    const std::size_t begin = token_.at;
    NodePtr left = conjunction();
    while (token_.text == "or") {
      demand(left, Type::boolean, "'or'", begin);
      next();
      const std::size_t at = token_.at;
      NodePtr right = conjunction();
      demand(right, Type::boolean, "'or'", at);
      left = make(Op::disjunction, Type::boolean, {left, right}, begin);
    }
    return left;
  }

  NodePtr conjunction() {
    const std::size_t begin = token_.at;
    NodePtr left = negation();
    while (token_.text == "and") {
      demand(left, Type::boolean, "'and'", begin);
      next();
      const std::size_t at = token_.at;
      NodePtr right = negation();
      demand(right, Type::boolean, "'and'", at);
      left = make(Op::conjunction, Type::boolean, {left, right}, begin);
    }
    return left;
  }

  NodePtr negation() {
    if (token_.text != "not") return comparison();
    const Deeper deeper(*this);
    const std::size_t begin = token_.at;
    next();
    const std::size_t at = token_.at;
    NodePtr operand = negation();
    demand(operand, Type::boolean, "'not'", at);
    return make(Op::invert, Type::boolean, {operand}, begin);
  }

  static std::optional<Op> comparison_operator(std::string_view text) {
    static constexpr std::array<std::pair<std::string_view, Op>, 6> all{{{"<", Op::less},
                                                                         {"<=", Op::less_equal},
                                                                         {">", Op::greater},
                                                                         {">=", Op::greater_equal},
                                                                         {"==", Op::equal},
                                                                         {"!=", Op::unequal}}};
    for (const auto& [symbol, op] : all)
      if (symbol == text) return op;
    return std::nullopt;
  }

  NodePtr comparison() {
    const std::size_t begin = token_.at;
    NodePtr left = sum();
    const std::optional<Op> op = comparison_operator(token_.text);
    if (!op || token_.kind != Token::Kind::symbol) return left;
    const std::string what = fmt::format("'{}'", token_.text);
    next();
    const std::size_t at = token_.at;
    NodePtr right = sum();
    if (*op != Op::equal && *op != Op::unequal) {
      demand(left, Type::number, what, begin);
      demand(right, Type::number, what, at);
    } else if (left->type != right->type) {
      throw Problem{at,
                    right->text.size(),
                    fmt::format("{} compares {} with {}", what, name_of(left->type), name_of(right->type)),
                    {}};
    }
    if (token_.kind == Token::Kind::symbol && comparison_operator(token_.text))
      throw Problem{token_.at, token_.text.size(), "comparisons cannot be chained", {"join two of them with 'and'"}};
    return make(*op, Type::boolean, {left, right}, begin);
  }

  NodePtr sum() {
    const std::size_t begin = token_.at;
    NodePtr left = product();
    while (token_.kind == Token::Kind::symbol && (token_.text == "+" || token_.text == "-"))
      left = arithmetic(left, begin, token_.text == "+" ? Op::add : Op::subtract, &Parser::product);
    return left;
  }

  NodePtr product() {
    const std::size_t begin = token_.at;
    NodePtr left = unary();
    while (token_.kind == Token::Kind::symbol && (token_.text == "*" || token_.text == "/"))
      left = arithmetic(left, begin, token_.text == "*" ? Op::multiply : Op::divide, &Parser::unary);
    return left;
  }

  NodePtr arithmetic(const NodePtr& left, std::size_t begin, Op op, NodePtr (Parser::*operand)()) {
    const std::string what = fmt::format("'{}'", token_.text);
    demand(left, Type::number, what, begin);
    next();
    const std::size_t at = token_.at;
    NodePtr right = (this->*operand)();
    demand(right, Type::number, what, at);
    return make(op, Type::number, {left, right}, begin);
  }

  NodePtr unary() {
    if (token_.text != "-" || token_.kind != Token::Kind::symbol) return primary();
    const Deeper deeper(*this);
    const std::size_t begin = token_.at;
    next();
    const std::size_t at = token_.at;
    NodePtr operand = unary();
    demand(operand, Type::number, "'-'", at);
    return make(Op::negate, Type::number, {operand}, begin);
  }

  NodePtr constant(Expression::Value value, std::string_view text) const {
    auto node = std::make_shared<Node>();
    node->type = std::holds_alternative<double>(value) ? Type::number
                 : std::holds_alternative<bool>(value) ? Type::boolean
                                                       : Type::string;
    node->value = std::move(value);
    node->text = std::string(text);
    return node;
  }

  NodePtr primary() {
    const Token token = token_;
    switch (token.kind) {
      case Token::Kind::number: {
        const std::optional<double> value = read_quantity(token.text);
        if (!value)
          throw Problem{token.at,
                        token.text.size(),
                        fmt::format("'{}' is not a number", token.text),
                        {"units: k M G T, B kB MB GB TB KiB MiB GiB TiB, ms s min h d, %"}};
        next();
        return constant(*value, token.text);
      }
      case Token::Kind::string:
        next();
        return constant(std::string(token.text.substr(1, token.text.size() - 2)), token.text);
      case Token::Kind::symbol:
        if (accept("(")) {
          NodePtr inner = disjunction();
          if (!accept(")")) unexpected("expected ')'");
          auto copy = std::make_shared<Node>(*inner);
          copy->text = std::string(written(token.at));
          return copy;
        }
        break;
      case Token::Kind::name:
        return named(token);
      case Token::Kind::end:
        break;
    }
    unexpected("expected a value");
  }

  NodePtr named(const Token& token) {
    static constexpr std::array<std::string_view, 3> words{"and", "or", "not"};
    if (std::find(words.begin(), words.end(), token.text) != words.end()) unexpected("expected a value");
    next();
    if (token.text == "true" || token.text == "false") return constant(token.text == "true", token.text);
    if (token_.text == "(" && token_.at == token.at + token.text.size()) return call(token);
    return reference(token);
  }

  NodePtr call(const Token& name) {
    const Op op = name.text == "min" ? Op::minimum : name.text == "max" ? Op::maximum : Op::absolute;
    if (op == Op::absolute && name.text != "abs")
      throw Problem{
          name.at, name.text.size(), fmt::format("unknown function '{}'", name.text), {"functions: min, max, abs"}};
    next();
    std::vector<NodePtr> operands;
    do {
      const std::size_t at = token_.at;
      operands.push_back(disjunction());
      demand(operands.back(), Type::number, fmt::format("'{}'", name.text), at);
    } while (accept(","));
    if (!accept(")")) unexpected("expected ',' or ')'");
    if (op == Op::absolute && operands.size() != 1)
      throw Problem{name.at, name.text.size(), fmt::format("'abs' takes one number, found {}", operands.size()), {}};
    return make(op, Type::number, std::move(operands), name.at);
  }

  /// metric | metric.se | step.metric | step.metric.se | step[instance].metric... | vars.NAME and the like
  NodePtr reference(const Token& first) {
    std::optional<std::string> instance;
    if (token_.text == "[" && token_.kind == Token::Kind::symbol) {
      const std::size_t open = token_.at;
      const std::size_t close = text_.find(']', open);
      if (close == std::string_view::npos) throw Problem{open, 1, "a '[' without its ']'", {}};
      instance = std::string(text_.substr(open + 1, close - open - 1));
      at_ = close + 1;
      next();
    }
    std::vector<std::string> parts;
    std::size_t end = at_;
    while (token_.text == "." && token_.kind == Token::Kind::symbol) {
      next();
      if (token_.kind != Token::Kind::name && token_.kind != Token::Kind::number)
        unexpected("expected a name after '.'");
      parts.emplace_back(token_.text);
      end = at_;
      next();
    }
    if (parts.empty() && !instance) end = first.at + first.text.size();
    const std::string_view whole = text_.substr(first.at, end - first.at);
    const SourceRange where = range(first.at, whole.size());

    const bool is_constant = first.text == "vars" || first.text == "matrix" || first.text == "each";
    if (is_constant && !instance) {
      if (parts.size() != 1) throw Problem{first.at, whole.size(), fmt::format("expected '{}.NAME'", first.text), {}};
      if (!scope_.constant) throw Problem{first.at, whole.size(), fmt::format("unknown variable '{}'", whole), {}};
      const std::optional<Expression::Value> value = scope_.constant(whole, where);
      if (!value) throw Reported{};
      return constant(*value, whole);
    }

    Expression::MetricRef ref;
    ref.where = where;
    if (!parts.empty() && parts.back() == "se") {
      ref.standard_error = true;
      parts.pop_back();
    }
    if (instance && parts.empty())
      throw Problem{first.at, whole.size(), fmt::format("'{}' needs a metric: write {}.METRIC", whole, whole), {}};
    if (parts.empty()) {
      ref.metric = std::string(first.text);
    } else if (parts.size() == 1) {
      ref.metric = parts[0];
      std::optional<std::string> step = std::string(first.text) + (instance ? "[" + *instance + "]" : "");
      if (scope_.step) step = scope_.step(first.text, instance, where);
      if (!step) throw Reported{};
      ref.step = *step;
    } else {
      throw Problem{first.at, whole.size(), fmt::format("'{}' is not STEP.METRIC or STEP.METRIC.se", whole), {}};
    }
    auto node = std::make_shared<Node>();
    node->op = Op::metric;
    node->metric = metrics_.size();
    node->text = std::string(whole);
    metrics_.push_back(std::move(ref));
    return node;
  }

  std::string_view text_;
  SourceRange where_;
  const Expression::Scope& scope_;
  std::vector<Expression::MetricRef>& metrics_;
  std::size_t at_ = 0;
  Token token_;
  int depth_ = 0;
};

std::string written(const Expression::MetricRef& ref) {
  return (ref.step.empty() ? "" : ref.step + ".") + ref.metric + (ref.standard_error ? ".se" : "");
}

struct Evaluation {
  const std::vector<Expression::MetricRef>& metrics;
  const Expression::Lookup& lookup;

  /// Throws the message.
  Expression::Value value(const Node& node) const {
    switch (node.op) {
      case Op::constant:
        return node.value;
      case Op::metric:
        return metric(metrics[node.metric]);
      case Op::invert:
        return !truth(*node.operands[0]);
      case Op::conjunction:
        return truth(*node.operands[0]) && truth(*node.operands[1]);
      case Op::disjunction:
        return truth(*node.operands[0]) || truth(*node.operands[1]);
      case Op::equal:
        return value(*node.operands[0]) == value(*node.operands[1]);
      case Op::unequal:
        return value(*node.operands[0]) != value(*node.operands[1]);
      default:
        break;
    }
    const double a = number(*node.operands[0]);
    if (node.op == Op::minimum || node.op == Op::maximum) {
      double best = a;
      for (const NodePtr& operand : node.operands)
        best = node.op == Op::minimum ? std::min(best, number(*operand)) : std::max(best, number(*operand));
      return best;
    }
    if (node.op == Op::negate) return -a;
    if (node.op == Op::absolute) return std::fabs(a);
    const double b = number(*node.operands[1]);
    double result = 0;
    switch (node.op) {
      case Op::less:
        return a < b;
      case Op::less_equal:
        return a <= b;
      case Op::greater:
        return a > b;
      case Op::greater_equal:
        return a >= b;
      case Op::add:
        result = a + b;
        break;
      case Op::subtract:
        result = a - b;
        break;
      case Op::multiply:
        result = a * b;
        break;
      default:
        if (b == 0) throw fmt::format("division by zero in '{}'", node.text);
        result = a / b;
    }
    if (std::isnan(result)) throw fmt::format("'{}' is not a number", node.text);
    return result;
  }

  bool truth(const Node& node) const { return std::get<bool>(value(node)); }
  double number(const Node& node) const { return std::get<double>(value(node)); }
  double metric(const Expression::MetricRef& ref) const {
    const std::optional<double> found = lookup(ref);
    if (!found && ref.standard_error)
      throw fmt::format("metric '{}' has no standard error", written({ref.step, ref.metric, false, {}}));
    if (!found) throw fmt::format("metric '{}' was not reported", written(ref));
    if (std::isnan(*found)) throw fmt::format("metric '{}' is not a number", written(ref));
    return *found;
  }
};

}  // namespace

std::optional<Expression> Expression::parse(std::string_view text, SourceRange where, Diagnostics& diagnostics,
                                            const Scope& scope) {
  Expression expression;
  expression.text_ = std::string(text);
  expression.where_ = where;
  Parser parser(text, where, scope, expression.metrics_);
  try {
    expression.root_ = parser.parse();
  } catch (const Problem& problem) {
    diagnostics.error(parser.range(problem.at, problem.length), problem.message, problem.notes);
    return std::nullopt;
  } catch (const Reported&) {
    return std::nullopt;
  }
  expression.type_ = expression.root_->type;
  expression.where_.length = std::max(1, parser.range(0, text.size()).length);
  return expression;
}

std::variant<Expression::Value, std::string> Expression::evaluate(const Lookup& metric) const {
  using Outcome = std::variant<Value, std::string>;
  if (!root_) return Outcome(std::in_place_index<0>, true);
  try {
    return Outcome(std::in_place_index<0>, Evaluation{metrics_, metric}.value(*root_));
  } catch (const std::string& message) {
    return Outcome(std::in_place_index<1>, message);
  }
}

std::string Expression::explain(const Lookup& metric) const {
  std::string out;
  std::vector<std::string> told;
  for (const MetricRef& ref : metrics_) {
    const std::string name = written(ref);
    if (std::find(told.begin(), told.end(), name) != told.end()) continue;
    told.push_back(name);
    const std::optional<double> value = metric(ref);
    out +=
        fmt::format("{}{} = {}", out.empty() ? "" : ", ", name, value ? fmt::format("{:.6g}", *value) : "not reported");
  }
  return out;
}

}  // namespace fettle::host
