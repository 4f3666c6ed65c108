// The strict reader: what it refuses, what it keeps, and that what it writes reads back.
#include "formats/base/json.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/support/results.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

std::string Nested(size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

TEST(JsonParse, KindsAndOrder) {
  const Json json = Must(ParseJson(R"( {"b": [1, "x", null, true], "a": {"z": false}} )"));
  ASSERT_EQ(json.members().size(), 2U);
  EXPECT_EQ(json.members()[0].first, "b");
  EXPECT_EQ(json.members()[1].first, "a");
  const auto& items = json.Find("b")->items();
  EXPECT_EQ(items[0].AsU64(), 1U);
  EXPECT_EQ(items[1].text(), "x");
  EXPECT_TRUE(items[2].is_null());
  EXPECT_EQ(items[3].AsBool(), true);
  EXPECT_EQ(json.Find("a")->Find("z")->AsBool(), false);
  EXPECT_EQ(json.Find("c"), nullptr);
  EXPECT_EQ(items[0].Find("x"), nullptr);
}

TEST(JsonParse, DuplicateKeysAfterUnescaping) {
  ExpectError(ParseJson(R"({"a": 1, "a": 1})"), Code::kMalformed, "json-duplicate-key", {"'a'"});
  ExpectError(ParseJson(R"({"a": 1, "\u0061": 2})"), Code::kMalformed, "json-duplicate-key", {"'a'"});
  ExpectError(ParseJson(R"({"x": {"\/": 1, "/": 2}})"), Code::kMalformed, "json-duplicate-key");
  Must(ParseJson(R"({"x": {"a": 1}, "y": {"a": 1}, "a": [{"a": 1}, {"a": 1}]})"));
  // Many keys are compared through another structure than few.
  for (const int count : {15, 16, 17, 40}) {
    for (const int twice : {0, count - 1}) {
      std::string text = "{";
      for (int i = 0; i < count; ++i) text += fmt::format("\"k{}\": 0, ", i);
      Must(ParseJson(text + "\"other\": 0}"));
      ExpectError(ParseJson(text + fmt::format("\"k{}\": 0}}", twice)), Code::kMalformed, "json-duplicate-key", {fmt::format("'k{}'", twice)});
    }
  }
}

TEST(JsonParse, DepthOf64IsTheLimit) {
  Must(ParseJson(Nested(64)));
  ExpectError(ParseJson(Nested(65)), Code::kMalformed, "json-depth");
  ExpectError(ParseJson(Nested(1'000'000)), Code::kMalformed, "json-depth");
  std::string objects;
  for (int i = 0; i < 65; ++i) objects += "{\"a\":";
  ExpectError(ParseJson(objects), Code::kMalformed, "json-depth");
}

TEST(JsonParse, NumbersKeepTheirText) {
  for (const char* text : {"1e-06", "1E+5", "0.10", "18446744073709551615", "-9223372036854775808", "18446744073709551616", "1000000.0", "123456789012345678901234567890"}) {
    const Json json = Must(ParseJson(text));
    EXPECT_EQ(json.text(), text);
    EXPECT_EQ(json.Dump(), text);
  }
  EXPECT_EQ(Must(ParseJson("18446744073709551615")).AsU64(), UINT64_MAX);
  EXPECT_EQ(Must(ParseJson("18446744073709551615")).AsI64(), std::nullopt);
  EXPECT_EQ(Must(ParseJson("18446744073709551616")).AsU64(), std::nullopt);
  EXPECT_EQ(Must(ParseJson("9223372036854775808")).AsU64(), uint64_t{1} << 63U);
  EXPECT_EQ(Must(ParseJson("-1")).AsU64(), std::nullopt);
  EXPECT_EQ(Must(ParseJson("-1")).AsI64(), -1);
  EXPECT_EQ(Must(ParseJson("4.0")).AsU64(), 4U);
  EXPECT_EQ(Must(ParseJson("4.5")).AsU64(), std::nullopt);
  EXPECT_EQ(Must(ParseJson("1e-06")).AsDouble(), 1e-6);
  EXPECT_EQ(Must(ParseJson("\"4\"")).AsU64(), std::nullopt);
  EXPECT_EQ(Must(ParseJson("true")).AsI64(), std::nullopt);
  EXPECT_EQ(Must(ParseJson("1")).AsBool(), std::nullopt);
}

TEST(JsonParse, NanOnlyWhereItIsAllowed) {
  for (const char* word : {"NaN", "Infinity", "-Infinity"}) {
    const std::string text = fmt::format("{{\"a\": {}, \"b\": [{}]}}", word, word);
    ExpectError(ParseJson(text), Code::kMalformed, "json");
    const Json json = Must(ParseJson(text, JsonNumbers::kAllowNan));
    EXPECT_TRUE(json.Find("a")->is_number());
    EXPECT_EQ(json.Find("a")->text(), word);
    EXPECT_FALSE(std::isfinite(*json.Find("a")->AsDouble()));
    EXPECT_EQ(json.Dump(-1), text);
  }
  // The words inside strings stay what they are, quotes and marks included.
  const Json json = Must(ParseJson(R"({"NaN": "Infinity", "x\"NaN": "\u00010\u0002NaN", "y": NaN})", JsonNumbers::kAllowNan));
  EXPECT_EQ(json.Find("NaN")->text(), "Infinity");
  EXPECT_TRUE(json.Find("NaN")->is_string());
  EXPECT_EQ(json.Find("x\"NaN")->text(), "\x01" "0\x02NaN");
  EXPECT_TRUE(json.Find("x\"NaN")->is_string());
  EXPECT_TRUE(json.Find("y")->is_number());
  for (const char* bad : {"[NaNs]", "[+Infinity]", "[nan]", "[--Infinity]", "{NaN: 1}"}) EXPECT_FALSE(ParseJson(bad, JsonNumbers::kAllowNan).ok()) << bad;
}

TEST(JsonParse, WhatIsNoJson) {
  for (const char* bad : {"", " ", "{", "[1,]", "{\"a\":1,}", "// x\n1", "[1 2]", "01", "1.", "+1", "'a'", "{a: 1}", "1 1", "[1]]", "\"\\x\"", "\"\\ud800\"", "tru", "1e999", "\xEF\xBB\xBF{}"}) {
    ExpectError(ParseJson(bad), Code::kMalformed, "json");
  }
  ExpectError(ParseJson(std::string_view("{}\0", 3)), Code::kMalformed, "json", {"byte 2"});
  ExpectError(ParseJson("\"a\tb\""), Code::kMalformed, "json");  // a bare control character
  ExpectError(ParseJson("\"\xC0\xAF\""), Code::kMalformed, "json");
  ExpectError(ParseJson("\"\xFF\""), Code::kMalformed, "json");
  ExpectError(ParseJson("1" + std::string(100, '0') + ".5"), Code::kMalformed, "json");
}

TEST(JsonDump, ReadsBackAsItWas) {
  const std::string all = "\"\\/\b\f\n\r\t\x01\x1f\x7f é 中 😀";
  Json json = Json::Object({{all, Json::String(all)}, {"", Json::Array()}, {"o", Json::Object()}, {"n", Json()}, {"i", Json::Integer(INT64_MIN)},
                            {"u", Json::Integer(UINT64_MAX)}, {"f", Json::Number("1e-06")}, {"l", Json::Array({Json::Bool(true), Json::Array({Json::Integer(1)})})}});
  for (const int indent : {-1, 0, 2, 4}) {
    const Json back = Must(ParseJson(json.Dump(indent)));
    EXPECT_EQ(back, json);
    EXPECT_EQ(back.Dump(indent), json.Dump(indent));
  }
  EXPECT_EQ(Json::String("\x01\x7f\n\"\\").Dump(), R"("\u0001\u007f\n\"\\")");
}

TEST(JsonDump, Layout) {
  const Json json = Must(ParseJson(R"({"a":[1,{"b":null}],"c":{},"d":[]})"));
  EXPECT_EQ(json.Dump(2), "{\n  \"a\": [\n    1,\n    {\n      \"b\": null\n    }\n  ],\n  \"c\": {},\n  \"d\": []\n}");
  EXPECT_EQ(json.Dump(-1), R"({"a": [1, {"b": null}], "c": {}, "d": []})");
}

TEST(JsonEdit, SetAndErase) {
  Json json = Must(ParseJson(R"({"a": 1, "b": 2, "c": 3})"));
  json.Set("b", Json::String("x"));
  json.Set("d", Json::Bool(false));
  EXPECT_TRUE(json.Erase("a"));
  EXPECT_FALSE(json.Erase("a"));
  EXPECT_EQ(json.Dump(-1), R"({"b": "x", "c": 3, "d": false})");
}

TEST(JsonEquality, NumbersByValueEverythingElseByContent) {
  EXPECT_EQ(Json::Number("1.0"), Json::Integer(1));
  EXPECT_EQ(Json::Number("1e3"), Json::Number("1000"));
  EXPECT_FALSE(Json::Number("1") == Json::Number("2"));
  EXPECT_FALSE(Json::String("1") == Json::Integer(1));
  EXPECT_FALSE(Json::Bool(true) == Json::Bool(false));
  EXPECT_FALSE(Json::Array() == Json::Object());
  EXPECT_FALSE(Json::Bool(false) == Json());
}

TEST(JsonVisit, HandsOverEachMemberOnce) {
  std::string seen;
  Must(VisitJsonMembers(R"({"a": {"x": 1}, "b": [2]})", [&](const std::string& key, const Json& value) -> Status {
    seen += key + value.Dump(-1) + ";";
    return {};
  }));
  EXPECT_EQ(seen, R"(a{"x": 1};b[2];)");
  const auto ignore = [](const std::string&, const Json&) -> Status { return {}; };
  for (const char* bad : {"[]", "1", "null", "\"x\"", "{", "{} {}"}) EXPECT_FALSE(VisitJsonMembers(bad, ignore).ok()) << bad;
  ExpectError(VisitJsonMembers(R"({"a": 1, "a": 2})", ignore), Code::kMalformed, "json-duplicate-key");
  ExpectError(VisitJsonMembers(R"({"a": {"b": 1, "b": 2}})", ignore), Code::kMalformed, "json-duplicate-key");
  const auto stop = [](const std::string&, const Json&) -> Status { return Usage("mine", "enough"); };
  ExpectError(VisitJsonMembers(R"({"a": 1, "b": 2})", stop), Code::kUsage, "mine");
}

}  // namespace
}  // namespace q2c
