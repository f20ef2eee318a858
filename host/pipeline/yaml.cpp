// SPDX-License-Identifier: Apache-2.0
// parse_yaml: events of yaml-cpp become Nodes. The only file that knows yaml-cpp.
#include "host/pipeline/node.h"
#include "host/pipeline/scalar.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <unordered_map>

namespace fettle::host {

const Node* Node::find(std::string_view key) const {
  for (const auto& [name, value] : entries)
    if (name.text == key) return &value;
  return nullptr;
}

namespace {

/// A finding that ends the reading.
struct Refused {
  SourceRange where;
  std::string message;
  std::vector<std::string> notes;
};

/// Turns byte positions of a text into lines and columns.
class Lines {
 public:
  explicit Lines(std::shared_ptr<const SourceText> source) : source_(std::move(source)) {
    starts_.push_back(0);
    const std::string& text = source_->text;
    for (std::size_t i = 0; i < text.size(); ++i)
      if (text[i] == '\n') starts_.push_back(i + 1);
  }

  /// The range of `bytes` bytes from byte `offset`, cut at the end of its line.
  SourceRange range(std::size_t offset, std::size_t bytes) const {
    const std::string& text = source_->text;
    offset = std::min(offset, text.size());
    const auto line =
        static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), offset) - starts_.begin()) - 1;
    const std::size_t stop = std::min(text.find_first_of("\r\n", offset), text.size());
    const std::size_t end = std::min(offset + bytes, stop);
    return {source_, static_cast<int>(line) + 1, count(starts_[line], offset) + 1, std::max(1, count(offset, end))};
  }
  std::size_t offset(int line, int byte_column) const {
    const auto i = static_cast<std::size_t>(std::clamp<int>(line, 0, static_cast<int>(starts_.size()) - 1));
    return std::min(starts_[i] + static_cast<std::size_t>(std::max(byte_column, 0)), source_->text.size());
  }
  const std::string& text() const { return source_->text; }
  const std::vector<std::size_t>& starts() const { return starts_; }

 private:
  int count(std::size_t begin, std::size_t end) const {
    int characters = 0;
    for (std::size_t i = begin; i < end; ++i)
      characters += (static_cast<unsigned char>(source_->text[i]) & 0xC0) != 0x80;
    return characters;
  }

  std::shared_ptr<const SourceText> source_;
  std::vector<std::size_t> starts_;
};

class Builder final : public YAML::EventHandler {
 public:
  Builder(const Lines& lines, Diagnostics& diagnostics, const YamlLimits& limits)
      : lines_(lines), diagnostics_(diagnostics), limits_(limits) {}

  Node root;

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Node node;
    const std::size_t at = lines_.offset(mark.line, mark.column);
    const std::string_view rest = std::string_view(lines_.text()).substr(at);
    // A value that is not written has the place of its key; yaml-cpp gives the place of the next token.
    const bool written = rest.starts_with('~') || (rest.size() >= 4 && is_null_text(rest.substr(0, 4)));
    node.where = !written && pending_key() ? pending_key()->where
                                           : lines_.range(at, rest.starts_with('~') ? 1
                                                              : written             ? 4
                                                                                    : 1);
    place(std::move(node), anchor, 1);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    Node node;
    node.kind = Node::Kind::scalar;
    node.text = value;
    std::size_t at = skip_anchor(lines_.offset(mark.line, mark.column));
    refuse_tag(tag, at);
    const std::string& text = lines_.text();
    node.quoted = tag == "!";
    std::size_t bytes = value.size();
    if (node.quoted && at < text.size() && (text[at] == '"' || text[at] == '\'')) {
      bytes = quoted_bytes(at);
    } else if (node.quoted) {  // a block scalar: its '|' or '>'
      bytes = 1;
    } else if (text.compare(at, bytes, value) != 0) {  // plain, over several lines
      bytes = text.find('\n', at) - at;
    }
    node.where = lines_.range(at, bytes);
    place(std::move(node), anchor, 1);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const SourceRange where = lines_.range(lines_.offset(mark.line, mark.column), 1);
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) throw Refused{where, "this alias stands inside what it refers to", {}};
    count(found->second.nodes, where);
    Node copy = found->second.node;
    place(std::move(copy), 0, 0);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(Node::Kind::list, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(Node::Kind::map, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

  /// The innermost list or map that has begun and not ended.
  std::optional<SourceRange> open_place() const {
    return frames_.empty() ? std::nullopt : std::optional(frames_.back().node.where);
  }

 private:
  struct Frame {
    Node node;
    YAML::anchor_t anchor = 0;
    std::size_t nodes_before = 0;
    std::optional<Node> key;
    std::unordered_map<std::string, SourceRange> keys;
  };
  struct Anchored {
    Node node;
    std::size_t nodes = 0;
  };

  const Node* pending_key() const { return !frames_.empty() && frames_.back().key ? &*frames_.back().key : nullptr; }

  void refuse_tag(const std::string& tag, std::size_t at) const {
    if (tag != "?" && tag != "!" && !tag.empty())
      throw Refused{lines_.range(at, 1),
                    fmt::format("tags are not allowed here, found '{}'", tag),
                    {"quote a value to make it text; all other types follow from what the value is for"}};
  }

  std::size_t skip_anchor(std::size_t at) const {
    const std::string& text = lines_.text();
    if (at >= text.size() || text[at] != '&') return at;
    const std::size_t end = text.find_first_of(" \t\r\n", at);
    const std::size_t next = end == std::string::npos ? end : text.find_first_not_of(" \t\r\n", end);
    return next == std::string::npos ? at : next;
  }

  /// Bytes of the quoted scalar at `at` with its quotes. yaml-cpp takes the end of the file for a closing quote; we do
  /// not.
  std::size_t quoted_bytes(std::size_t at) const {
    const std::string& text = lines_.text();
    const char quote = text[at];
    for (std::size_t i = at + 1; i < text.size(); ++i) {
      if (quote == '"' && text[i] == '\\') {
        ++i;
      } else if (text[i] == quote) {
        if (quote == '\'' && i + 1 < text.size() && text[i + 1] == '\'')
          ++i;
        else
          return i + 1 - at;
      }
    }
    throw Refused{lines_.range(at, 1), "not valid YAML: quotes that are never closed", {}};
  }

  void count(std::size_t nodes, const SourceRange& where) {
    nodes_ += nodes;
    if (nodes_ > limits_.max_nodes)
      throw Refused{where,
                    fmt::format("too large: more than {} values once aliases are expanded", grouped(limits_.max_nodes)),
                    {}};
  }

  void open(Node::Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    const std::size_t at = skip_anchor(lines_.offset(mark.line, mark.column));
    refuse_tag(tag, at);
    Frame frame;
    frame.node.kind = kind;
    frame.node.where = lines_.range(at, 1);
    if (static_cast<int>(frames_.size()) >= limits_.max_depth)
      throw Refused{frame.node.where, fmt::format("nested more than {} levels deep", limits_.max_depth), {}};
    if (!frames_.empty() && frames_.back().node.kind == Node::Kind::map && !frames_.back().key)
      throw Refused{frame.node.where,
                    fmt::format("keys must be text, found {}", kind == Node::Kind::map ? "a map" : "a list"),
                    {}};
    frame.anchor = anchor;
    frame.nodes_before = nodes_;
    count(1, frame.node.where);
    frames_.push_back(std::move(frame));
  }

  void close() {
    Frame frame = std::move(frames_.back());
    frames_.pop_back();
    if (frame.anchor != 0) anchors_[frame.anchor] = {frame.node, nodes_ - frame.nodes_before};
    put(std::move(frame.node));
  }

  void place(Node node, YAML::anchor_t anchor, std::size_t nodes) {
    count(nodes, node.where);
    if (anchor != 0) anchors_[anchor] = {node, nodes};
    put(std::move(node));
  }

  void put(Node node) {
    if (frames_.empty()) {
      root = std::move(node);
      return;
    }
    Frame& frame = frames_.back();
    if (frame.node.kind == Node::Kind::list) {
      frame.node.items.push_back(std::move(node));
    } else if (!frame.key) {
      check_key(frame, node);
      frame.key = std::move(node);
    } else {
      if (frame.keys.try_emplace(frame.key->text, frame.key->where).second)
        frame.node.entries.push_back({std::move(*frame.key), std::move(node)});
      frame.key.reset();
    }
  }

  void check_key(const Frame& frame, const Node& key) {
    if (key.kind == Node::Kind::list || key.kind == Node::Kind::map)
      throw Refused{key.where, fmt::format("keys must be text, found {}", describe(key)), {}};
    if (key.kind == Node::Kind::null || is_typed_plain(key)) {
      diagnostics_.error(key.where, fmt::format("keys must be text, found {}", describe(key)),
                         key.kind == Node::Kind::null
                             ? std::vector<std::string>{}
                             : std::vector{fmt::format("write it in quotes: \"{}\"", key.text)});
    } else if (key.text == "<<" && !key.quoted) {
      diagnostics_.error(key.where, "merge keys ('<<') are not allowed", {"write the keys out, or use a profile"});
    }
    if (const auto first = frame.keys.find(key.text); first != frame.keys.end()) {
      Diagnostic duplicate;
      duplicate.where = key.where;
      duplicate.message = fmt::format("duplicate key '{}'", key.text);
      duplicate.related.emplace_back(first->second, "it stands here first");
      diagnostics_.add(std::move(duplicate));
    }
  }

  const Lines& lines_;
  Diagnostics& diagnostics_;
  const YamlLimits& limits_;
  std::vector<Frame> frames_;
  std::unordered_map<YAML::anchor_t, Anchored> anchors_;
  std::size_t nodes_ = 0;
};

/// Notices whether a second document follows.
class Second final : public YAML::EventHandler {
 public:
  struct Found {
    YAML::Mark mark;
  };
  void OnDocumentStart(const YAML::Mark& mark) override { throw Found{mark}; }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

/// Length of the valid UTF-8 character at `i`, or 0.
std::size_t utf8_length(const std::string& text, std::size_t i) {
  const auto byte = [&](std::size_t k) { return k < text.size() ? static_cast<unsigned char>(text[k]) : 0u; };
  const unsigned lead = byte(i);
  if (lead < 0x80) return 1;
  const std::size_t n = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  for (std::size_t k = 1; k < n; ++k)
    if ((byte(i + k) & 0xC0) != 0x80) return 0;
  const unsigned second = byte(i + 1);
  if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) || (lead == 0xF0 && second < 0x90) ||
      (lead == 0xF4 && second > 0x8F))
    return 0;
  return n;
}

void check_text(const Lines& lines) {
  const std::string& text = lines.text();
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t n = utf8_length(text, i);
    if (n == 0) throw Refused{lines.range(i, 1), "this is not UTF-8 text", {}};
    const auto c = static_cast<unsigned char>(text[i]);
    if (n == 1 && c < 0x20 && c != '\n' && c != '\r' && c != '\t')
      throw Refused{lines.range(i, 1), fmt::format("control character 0x{:02x} in the text", c), {}};
    i += n;
  }
  for (const std::size_t start : lines.starts()) {
    const std::size_t tab = text.find_first_not_of(' ', start);
    if (tab != std::string::npos && text[tab] == '\t' && text.find_first_not_of(" \t\r", tab) != text.find('\n', tab))
      throw Refused{lines.range(tab, 1), "a tab in the indentation; use spaces", {}};
  }
}

/// What yaml-cpp says, in words that help.
std::string reason(const std::string& message) {
  static const std::map<std::string, std::string, std::less<>> words{
      {"end of map flow not found", "a '{' without its '}'"},
      {"end of sequence flow not found", "a '[' without its ']'"},
      {"end of map not found", "expected a key of the map here; look at the indentation and the quotes"},
      {"end of sequence not found", "expected '- ' here; look at the indentation"},
      {"illegal EOF in scalar", "the text ends inside quotes"},
      {"illegal map value", "a ':' where no value can stand; quote text that holds ': '"},
      {"illegal flow end", "a ']' or '}' without its beginning"},
      {"illegal block entry", "a '-' where no list can stand"},
      {"unknown token", "a character that cannot start a value; quote it"},
      {"the referenced anchor is not defined", "this alias has no anchor before it"},
  };
  const auto found = words.find(message);
  return found == words.end() ? message : found->second;
}

}  // namespace

Node parse_yaml(std::shared_ptr<const SourceText> source, Diagnostics& diagnostics, YamlLimits limits) {
  if (source->text.size() > limits.max_bytes) {
    diagnostics.error({source, 0, 0, 1}, fmt::format("too large: {} bytes, at most {} are read",
                                                     grouped(source->text.size()), grouped(limits.max_bytes)));
    return {};
  }
  if (source->text.starts_with("\xEF\xBB\xBF"))  // yaml-cpp skips a byte order mark without counting it
    source = std::make_shared<SourceText>(SourceText{source->name, source->text.substr(3)});
  const Lines lines(source);
  Diagnostics found;
  Builder builder(lines, found, limits);
  const auto at = [&](const YAML::Mark& mark) { return lines.range(lines.offset(mark.line, mark.column), 1); };
  try {
    check_text(lines);
    std::istringstream stream(source->text);
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
    Second second;
    parser.HandleNextDocument(second);
  } catch (const Refused& refused) {
    found.error(refused.where, refused.message, refused.notes);
  } catch (const Second::Found& second) {
    found.error(at(second.mark), "a second document; a pipeline file holds one");
  } catch (const YAML::Exception& e) {
    Diagnostic d;
    d.where = at(e.mark);
    d.message = "not valid YAML: " + reason(e.msg);
    if (e.msg.find("flow not found") != std::string::npos && builder.open_place()) {
      d.related.emplace_back(*builder.open_place(), "it was opened here");
      const std::size_t offset = lines.offset(e.mark.line, e.mark.column);
      const std::string& text = lines.text();
      if (offset > 0 && offset < text.size() && text[offset] == '[' && text[offset - 1] != ' ')
        d.notes.emplace_back("inside {} and [] a name with an instance needs quotes: \"quant[*]\"");
    }
    found.add(std::move(d));
  } catch (const std::exception& e) {
    found.error({source, 0, 0, 1}, fmt::format("not valid YAML: {}", e.what()));
  }
  for (const Diagnostic& d : found.all()) diagnostics.add(d);
  return found.has_errors() ? Node{} : std::move(builder.root);
}

}  // namespace fettle::host
