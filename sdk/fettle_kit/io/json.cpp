// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/json.h"

#include "fettle_kit/io/message.h"
#include "fettle_kit/io/output_file.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <iterator>
#include <optional>
#include <unordered_set>
#include <vector>

namespace fettle::kit {
namespace {

/// Lets us see how far the parser has read.
class WatchedIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  WatchedIterator(const char* at, const char** seen) : at_(at), seen_(seen) {}
  reference operator*() const { return *at_; }
  WatchedIterator& operator++() {
    *seen_ = ++at_;
    return *this;
  }
  WatchedIterator operator++(int) {
    WatchedIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const WatchedIterator& other) const { return at_ == other.at_; }
  bool operator!=(const WatchedIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** seen_;
};

/// Builds the document from the parser's events, and stops at the first thing that we refuse.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, std::string_view name, int max_depth)
      : text_(text), name_(name), max_depth_(max_depth), seen_(text.data()) {}

  const char** seen() { return &seen_; }
  Result<Json> take(bool parsed) && {
    if (!parsed || error_) return error_ ? *error_ : Status(Code::internal, "the JSON parser stopped without a reason");
    return std::move(root_);
  }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // does not occur in JSON text

  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    if (!open_.back().keys.insert(name).second)
      return refuse(key_start(), fmt::format("key {} is here a second time; keep one", in_quotes(name)));
    key_ = std::move(name);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& exception) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error while parsing value - ..."
    // "[json.exception.out_of_range.406] number overflow parsing '1e999'"
    std::string_view reason = exception.what();
    reason.remove_prefix(std::min(reason.find("] ") + 2, reason.size()));
    if (reason.starts_with("parse error")) reason.remove_prefix(std::min(reason.find(": ") + 2, reason.size()));
    std::string words;
    for (const char c : reason.substr(0, 300)) words += (c >= ' ' && c <= '~') ? c : '?';
    return refuse(position == 0 ? 0 : position - 1, "invalid JSON: " + words);
  }

 private:
  struct Open {
    Json* value;
    std::unordered_set<std::string> keys;
  };

  std::size_t offset() const { return static_cast<std::size_t>(seen_ - text_.data()) - 1; }

  /// Where the key that was just read begins: back to the quote that no backslash escapes.
  std::size_t key_start() const {
    for (std::size_t at = offset() - 1; at > 0; --at) {
      if (text_[at] != '"') continue;
      const std::size_t before = text_.find_last_not_of('\\', at - 1);
      if ((at - before) % 2 == 1) return at;  // an even number of backslashes
    }
    return 0;
  }

  bool refuse(std::size_t offset, std::string_view what) {
    const std::string_view before = text_.substr(0, std::min(offset, text_.size()));
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const std::size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
    const auto column = 1 + std::count_if(before.begin() + static_cast<std::ptrdiff_t>(line_start), before.end(),
                                          [](char c) { return (c & 0xc0) != 0x80; });
    error_ = Status(Code::corrupt_data, fmt::format("{}:{}:{}: {}", name_, line, column, what));
    return false;
  }

  /// Where the value went. Objects are appended to, not searched: the keys are known to differ.
  Json* place(Json&& value) {
    if (open_.empty()) return &(root_ = std::move(value));
    Json& parent = *open_.back().value;
    if (parent.is_array()) {
      auto& items = parent.get_ref<Json::array_t&>();
      return &items.emplace_back(std::move(value));
    }
    std::vector<Json::object_t::value_type>& items = parent.get_ref<Json::object_t&>();
    return &items.emplace_back(std::move(key_), std::move(value)).second;
  }

  bool add(Json&& value) {
    place(std::move(value));
    return true;
  }

  bool open(Json&& value) {
    if (open_.size() == static_cast<std::size_t>(max_depth_))
      return refuse(offset(), fmt::format("nested deeper than {} levels", max_depth_));
    open_.push_back({place(std::move(value)), {}});
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_, name_;
  int max_depth_;
  const char* seen_;
  Json root_;
  std::vector<Open> open_;
  std::string key_;
  std::optional<Status> error_;
};

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view name, JsonLimits limits) {
  if (text.size() > limits.max_bytes)
    return Status(Code::corrupt_data, fmt::format("{}: {} bytes of JSON, expected at most {}", name,
                                                  grouped(text.size()), grouped(limits.max_bytes)));
  Builder builder(text, name, limits.max_depth);
  const WatchedIterator first(text.data(), builder.seen()), last(text.data() + text.size(), builder.seen());
  const bool parsed = Json::sax_parse(first, last, &builder);
  return std::move(builder).take(parsed);
}

Result<Json> read_json_file(const std::string& path, JsonLimits limits) {
  FETTLE_ASSIGN(const std::string text, read_text_file(path, limits.max_bytes));
  return parse_json(text, path, limits);
}

Result<std::string> json_text(const Json& json) {
  try {
    return json.dump(2) + "\n";
  } catch (const Json::type_error&) {  // the one thing dump() objects to
    return Status(Code::invalid_argument, "a string in this JSON is not valid UTF-8");
  }
}

Status write_json_file(const std::string& path, const Json& json) {
  auto text = json_text(json);
  if (!text) return std::move(text).error().with_context(path);
  return write_text_file(path, *text);
}

}  // namespace fettle::kit
