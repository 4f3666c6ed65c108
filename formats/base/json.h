// JSON, strictly: one reader for headers, indexes and configs.
//
// Duplicate keys are an error (compared after unescaping), depth is limited, comments
// and trailing commas are refused, and a number keeps the text it was written with, so
// that 1e-06 stays 1e-06 and 2^63 stays exact. NaN and Infinity, which Python writes,
// are accepted where the caller asks for it. Objects keep their order.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "formats/base/status.h"

namespace q2c {

class Json {
 public:
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };
  using Member = std::pair<std::string, Json>;

  Json() = default;  // null
  static Json Bool(bool value);
  static Json Number(std::string text);  // the text as it shall be written
  static Json Integer(uint64_t value);
  static Json Integer(int64_t value);
  static Json Integer(int value) { return Integer(static_cast<int64_t>(value)); }
  static Json String(std::string_view text);
  static Json Array(std::vector<Json> items = {});
  static Json Object(std::vector<Member> members = {});

  Kind kind() const { return static_cast<Kind>(value_.index()); }
  bool is_null() const { return kind() == Kind::kNull; }
  bool is_string() const { return kind() == Kind::kString; }
  bool is_number() const { return kind() == Kind::kNumber; }
  bool is_array() const { return kind() == Kind::kArray; }
  bool is_object() const { return kind() == Kind::kObject; }

  // What kind of value this is, for messages: "a string", "null".
  std::string_view KindName() const;

  // Typed access; nothing where the kind or the range does not fit.
  std::optional<bool> AsBool() const;
  std::optional<uint64_t> AsU64() const;    // written as an integer (4 or 4.0)
  std::optional<int64_t> AsI64() const;
  std::optional<double> AsDouble() const;
  const std::string& text() const;  // of a string or a number, else empty

  // Of an array and of an object; empty for anything else, which becomes one when it is to be changed.
  const std::vector<Json>& items() const;
  std::vector<Json>& items();
  const std::vector<Member>& members() const;
  std::vector<Member>& members();

  // Object access. Find returns null where the key is absent or this is no object.
  const Json* Find(std::string_view key) const;
  Json* Find(std::string_view key);
  void Set(std::string_view key, Json value);  // replaces in place, or appends
  bool Erase(std::string_view key);

  // Two spaces per level and no trailing newline; indent < 0 writes one line.
  std::string Dump(int indent = 2) const;

  friend bool operator==(const Json& a, const Json& b);

 private:
  // In the order of Kind. A model of 146,000 tensors has millions of these: small ones.
  std::variant<std::monostate, bool, std::string, std::string, std::vector<Json>, std::vector<Member>> value_;
};

enum class JsonNumbers { kStrict, kAllowNan };

// Errors: kMalformed "json" with the byte position.
Result<Json> ParseJson(std::string_view text, JsonNumbers numbers = JsonNumbers::kStrict);

// The same for a document that is one large object: hands over each member and keeps
// none, so that memory stays small. A status that is not ok ends the walk.
using JsonMemberVisitor = std::function<Status(const std::string& key, const Json& value)>;
Status VisitJsonMembers(std::string_view text, const JsonMemberVisitor& visit);

inline constexpr size_t kMaxJsonDepth = 64;

}  // namespace q2c
