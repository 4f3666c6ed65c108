#include "formats/base/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "formats/base/text.h"

namespace q2c {
namespace {

// Marks a quoted NaN or Infinity on its way through the parser, which knows neither. The
// number makes the mark one that the document itself does not use.
std::string NanMark(size_t number) { return fmt::format("\\u0001{}\\u0002", number); }
std::string NanMarkDecoded(size_t number) { return fmt::format("\x01{}\x02", number); }

// Puts quotes and a mark around NaN, Infinity and -Infinity where a value stands.
std::string QuoteNan(std::string_view text, std::string_view mark) {
  constexpr std::string_view kSpace = " \t\n\r";
  std::string out;
  bool in_string = false;
  char before = ':';  // the last character that is no white space; a document may be one value
  for (size_t i = 0; i < text.size(); ++i) {
    if (in_string && text[i] == '\\' && i + 1 < text.size()) {
      out += text[i++];
      out += text[i];
      continue;
    }
    if (text[i] == '"') in_string = !in_string;
    bool replaced = false;
    if (!in_string) {
      for (const std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
        if (text.substr(i, word.size()) != word) continue;
        const size_t after = text.find_first_not_of(kSpace, i + word.size());
        const bool is_key = after != std::string_view::npos && text[after] == ':';
        if (is_key || std::string_view(":[,").find(before) == std::string_view::npos) continue;
        out += fmt::format("\"{}{}\"", mark, word);
        i += word.size() - 1;
        replaced = true;
        break;
      }
    }
    if (!replaced) out += text[i];
    if (kSpace.find(text[i]) == std::string_view::npos) before = text[i];
  }
  return out;
}

// Builds our value from the events of nlohmann's parser, which would keep the last of
// two equal keys and turn large integers into doubles.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(const JsonMemberVisitor* visit = nullptr) : visit_(visit) {}
  void set_nan_mark(std::string mark) { nan_mark_ = std::move(mark); }

  bool null() override { return Add(Json()); }
  bool boolean(bool value) override { return Add(Json::Bool(value)); }
  bool number_integer(number_integer_t value) override { return Add(Json::Integer(int64_t{value})); }
  bool number_unsigned(number_unsigned_t value) override { return Add(Json::Integer(uint64_t{value})); }
  bool number_float(number_float_t /*value*/, const string_t& text) override {
    if (text.size() > kMaxNumberText) return Fail("a number of more than 64 characters");
    return Add(Json::Number(text));
  }
  bool string(string_t& text) override {
    if (!nan_mark_.empty() && text.starts_with(nan_mark_)) return Add(Json::Number(text.substr(nan_mark_.size())));
    return Add(Json::String(text));
  }
  bool binary(binary_t& /*value*/) override { return Fail("binary data"); }
  bool start_object(size_t /*count*/) override { return Open(Json::Object()); }
  bool start_array(size_t /*count*/) override { return Open(Json::Array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& text) override {
    if (!stack_.back().AddKey(text)) return Fail(fmt::format("key '{}' stands twice", Escape(text)), "json-duplicate-key");
    return true;
  }
  bool parse_error(size_t position, const std::string& /*token*/, const nlohmann::detail::exception& e) override {
    // The library's text ends with what it expected; its numbering prefix is of no use to people.
    std::string_view what = e.what();
    if (const size_t colon = what.find(": "); colon != std::string_view::npos) what.remove_prefix(colon + 2);
    error_ = Malformed("json", "not valid JSON at byte {}: {}", position, Escape(what));
    return false;
  }

  Result<Json> Take() {
    if (error_.has_value()) return std::move(*error_);
    return std::move(root_);
  }

 private:
  static constexpr size_t kMaxNumberText = 64;
  struct Level {
    Json value;
    std::string key;
    std::vector<std::string> few;  // the keys so far; a set only when there are many
    std::unordered_set<std::string> many;

    bool AddKey(const std::string& text) {
      constexpr size_t kFew = 16;
      key = text;
      if (few.size() < kFew) {
        if (std::find(few.begin(), few.end(), text) != few.end()) return false;
        few.push_back(text);
        if (few.size() == kFew) many.insert(few.begin(), few.end());
        return true;
      }
      return many.insert(text).second;
    }
  };

  bool Fail(std::string why, std::string_view id = "json") {
    error_ = Malformed(id, "not acceptable as JSON: {}", why);
    return false;
  }
  bool Open(Json value) {
    if (stack_.size() >= kMaxJsonDepth) return Fail(fmt::format("nested deeper than {} levels", kMaxJsonDepth), "json-depth");
    if (visit_ != nullptr && stack_.empty() && !value.is_object()) return Fail("not an object at the top");
    stack_.push_back({std::move(value), {}, {}, {}});
    return true;
  }
  bool Close() {
    Json value = std::move(stack_.back().value);
    stack_.pop_back();
    return Add(std::move(value));
  }
  bool Add(Json value) {
    if (stack_.empty()) {
      root_ = std::move(value);
    } else if (Level& level = stack_.back(); level.value.is_array()) {
      level.value.items().push_back(std::move(value));
    } else if (visit_ != nullptr && stack_.size() == 1) {
      if (Status status = (*visit_)(level.key, value); !status.ok()) {
        error_ = std::move(status).TakeError();
        return false;
      }
    } else {
      level.value.members().emplace_back(std::move(level.key), std::move(value));
    }
    return true;
  }

  const JsonMemberVisitor* visit_;
  std::string nan_mark_;
  std::vector<Level> stack_;
  Json root_;
  std::optional<Error> error_;
};

void AppendString(std::string* out, std::string_view text) {
  *out += '"';
  for (const char c : text) {
    switch (c) {
      case '"': *out += "\\\""; break;
      case '\\': *out += "\\\\"; break;
      case '\n': *out += "\\n"; break;
      case '\r': *out += "\\r"; break;
      case '\t': *out += "\\t"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
          *out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
        } else {
          *out += c;
        }
    }
  }
  *out += '"';
}

void AppendNewline(std::string* out, int indent, int level) {
  if (indent >= 0) out->append(1, '\n').append(static_cast<size_t>(indent) * static_cast<size_t>(level), ' ');
}

void AppendValue(std::string* out, const Json& value, int indent, int level) {
  const auto separator = [&](bool first) {
    if (!first) *out += indent < 0 ? ", " : ",";
    AppendNewline(out, indent, level + 1);
  };
  switch (value.kind()) {
    case Json::Kind::kNull: *out += "null"; break;
    case Json::Kind::kBool: *out += *value.AsBool() ? "true" : "false"; break;
    case Json::Kind::kNumber: *out += value.text(); break;
    case Json::Kind::kString: AppendString(out, value.text()); break;
    case Json::Kind::kArray: {
      *out += '[';
      bool first = true;
      for (const Json& item : value.items()) {
        separator(first);
        first = false;
        AppendValue(out, item, indent, level + 1);
      }
      if (!first) AppendNewline(out, indent, level);
      *out += ']';
      break;
    }
    case Json::Kind::kObject: {
      *out += '{';
      bool first = true;
      for (const auto& [key, member] : value.members()) {
        separator(first);
        first = false;
        AppendString(out, key);
        *out += ": ";
        AppendValue(out, member, indent, level + 1);
      }
      if (!first) AppendNewline(out, indent, level);
      *out += '}';
      break;
    }
  }
}

constexpr size_t AsIndex(Json::Kind kind) { return static_cast<size_t>(kind); }

template <typename T>
std::optional<T> ParseNumber(std::string_view text) {
  T value{};
  const auto [rest, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (ec != std::errc{} || rest != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

Json Json::Bool(bool value) {
  Json json;
  json.value_.emplace<AsIndex(Kind::kBool)>(value);
  return json;
}
Json Json::Number(std::string text) {
  Json json;
  json.value_.emplace<AsIndex(Kind::kNumber)>(std::move(text));
  return json;
}
Json Json::Integer(uint64_t value) { return Number(std::to_string(value)); }
Json Json::Integer(int64_t value) { return Number(std::to_string(value)); }
Json Json::String(std::string_view text) {
  Json json;
  json.value_.emplace<AsIndex(Kind::kString)>(text);
  return json;
}
Json Json::Array(std::vector<Json> items) {
  Json json;
  json.value_ = std::move(items);
  return json;
}
Json Json::Object(std::vector<Member> members) {
  Json json;
  json.value_ = std::move(members);
  return json;
}

const std::string& Json::text() const {
  static const std::string kNone;
  if (const auto* number = std::get_if<AsIndex(Kind::kNumber)>(&value_)) return *number;
  const auto* string = std::get_if<AsIndex(Kind::kString)>(&value_);
  return string == nullptr ? kNone : *string;
}
const std::vector<Json>& Json::items() const {
  static const std::vector<Json> kNone;
  const auto* items = std::get_if<std::vector<Json>>(&value_);
  return items == nullptr ? kNone : *items;
}
std::vector<Json>& Json::items() {
  if (!is_array()) value_ = std::vector<Json>();
  return std::get<std::vector<Json>>(value_);
}
const std::vector<Json::Member>& Json::members() const {
  static const std::vector<Member> kNone;
  const auto* members = std::get_if<std::vector<Member>>(&value_);
  return members == nullptr ? kNone : *members;
}
std::vector<Json::Member>& Json::members() {
  if (!is_object()) value_ = std::vector<Member>();
  return std::get<std::vector<Member>>(value_);
}

std::string_view Json::KindName() const {
  switch (kind()) {
    case Kind::kNull: return "null";
    case Kind::kBool: return "a boolean";
    case Kind::kNumber: return "a number";
    case Kind::kString: return "a string";
    case Kind::kArray: return "a list";
    case Kind::kObject: return "an object";
  }
  return "a value";
}

std::optional<bool> Json::AsBool() const {
  const bool* value = std::get_if<bool>(&value_);
  return value == nullptr ? std::nullopt : std::optional(*value);
}
std::optional<double> Json::AsDouble() const {
  return is_number() ? ParseNumber<double>(text()) : std::nullopt;
}
std::optional<uint64_t> Json::AsU64() const {
  const std::optional<int64_t> value = AsI64();
  if (value.has_value() && *value >= 0) return static_cast<uint64_t>(*value);
  return is_number() ? ParseNumber<uint64_t>(text()) : std::nullopt;
}
std::optional<int64_t> Json::AsI64() const {
  if (!is_number()) return std::nullopt;
  if (const auto integer = ParseNumber<int64_t>(text())) return integer;
  const std::optional<double> value = ParseNumber<double>(text());
  constexpr double kExact = 9007199254740992.0;  // 2^53
  if (value.has_value() && std::floor(*value) == *value && std::abs(*value) <= kExact) return static_cast<int64_t>(*value);
  return std::nullopt;
}

const Json* Json::Find(std::string_view key) const {
  for (const Member& member : members()) {
    if (member.first == key) return &member.second;
  }
  return nullptr;
}
Json* Json::Find(std::string_view key) { return const_cast<Json*>(std::as_const(*this).Find(key)); }  // NOLINT

void Json::Set(std::string_view key, Json value) {
  if (Json* old = Find(key)) {
    *old = std::move(value);
  } else {
    members().emplace_back(std::string(key), std::move(value));
  }
}
bool Json::Erase(std::string_view key) {
  return is_object() && std::erase_if(members(), [&](const Member& member) { return member.first == key; }) > 0;
}

std::string Json::Dump(int indent) const {
  std::string out;
  AppendValue(&out, *this, indent, 0);
  return out;
}

bool operator==(const Json& a, const Json& b) {
  if (a.is_number() && b.is_number() && a.text() != b.text()) return a.AsDouble().has_value() && a.AsDouble() == b.AsDouble();
  return a.value_ == b.value_;
}

namespace {
Status CheckStart(std::string_view text) {
  // The library stops at a NUL byte and calls what came before it the document.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return Malformed("json", "not valid JSON at byte {}: a NUL byte", nul);
  }
  if (text.starts_with("\xEF\xBB\xBF")) return Malformed("json", "not valid JSON at byte 0: a byte order mark");
  return {};
}
}  // namespace

Result<Json> ParseJson(std::string_view text, JsonNumbers numbers) {
  QC_TRY(CheckStart(text));
  Builder builder;
  std::string quoted;
  if (numbers == JsonNumbers::kAllowNan) {
    size_t number = 0;
    while (text.find(NanMark(number)) != std::string_view::npos) ++number;
    quoted = QuoteNan(text, NanMark(number));
    text = quoted;
    builder.set_nan_mark(NanMarkDecoded(number));
  }
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.Take();
}

Status VisitJsonMembers(std::string_view text, const JsonMemberVisitor& visit) {
  QC_TRY(CheckStart(text));
  Builder builder(&visit);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  QC_ASSIGN(const Json root, builder.Take());
  if (!root.is_object()) return Malformed("json", "not acceptable as JSON: not an object at the top");
  return {};
}

}  // namespace q2c
