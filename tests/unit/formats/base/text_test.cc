#include "formats/base/text.h"

#include <gtest/gtest.h>

#include "tests/unit/support/results.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

TEST(Escape, ControlsBidiAndBadUtf8AreShownAsCodes) {
  EXPECT_EQ(Escape("model.layers.0 é 中 😀"), "model.layers.0 é 中 😀");
  EXPECT_EQ(Escape("a\nb\x1b[31m\x7f"), "a\\x0ab\\x1b[31m\\x7f");
  EXPECT_EQ(Escape("it's \\"), "it\\x27s \\x5c");  // or a name could end its own quotation
  EXPECT_EQ(Escape("\xE2\x80\xAE" "abc"), "\\u202eabc");
  EXPECT_EQ(Escape("\xC2\x85"), "\\u0085");
  EXPECT_EQ(Escape("\xEF\xBB\xBF"), "\\ufeff");
  EXPECT_EQ(Escape("\xFF\xC0\xAF\xED\xA0\x80"), "\\xff\\xc0\\xaf\\xed\\xa0\\x80");
  EXPECT_EQ(Escape("\xE2\x80"), "\\xe2\\x80");  // cut in the middle
  EXPECT_EQ(Escape(std::string(3, '\0')), "\\x00\\x00\\x00");
}

TEST(Escape, LongNamesAreCut) {
  EXPECT_EQ(Escape(std::string(200, 'a')), std::string(200, 'a'));
  EXPECT_EQ(Escape(std::string(201, 'a')), std::string(200, 'a') + "…");
  EXPECT_LE(Escape(std::string(10000, '\n'), 40).size(), 48U);
}

TEST(IsUtf8, TheBordersOfEveryLength) {
  for (const char* good : {"", "\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80", "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) EXPECT_TRUE(IsUtf8(good)) << Escape(good);
  for (const char* bad : {"\x80", "\xC1\xBF", "\xC2", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xC2\x41", "a\xFF"}) EXPECT_FALSE(IsUtf8(bad)) << Escape(bad);
}

TEST(GlobMatch, StarsAndQuestionMarks) {
  struct Row {
    const char* pattern;
    const char* name;
    bool matches;
  };
  for (const Row& row : {Row{"*", "", true}, Row{"", "", true}, Row{"", "a", false}, Row{"a", "a", true}, Row{"a", "ab", false}, Row{"?", "", false}, Row{"a?c", "abc", true},
                         Row{"*.bias", "model.layers.0.mlp.up_proj.bias", true}, Row{"*.bias", "x.bias2", false}, Row{"model.*.bias", "model.a.b.bias", true},
                         Row{"a*b*c", "a1b2b3c", true}, Row{"a*b*c", "a1b2b3", false}, Row{"**a**", "bab", true}, Row{"[ab]", "a", false}, Row{"*?", "x", true}, Row{"*?", "", false}}) {
    EXPECT_EQ(GlobMatch(row.pattern, row.name), row.matches) << row.pattern << " against " << row.name;
  }
  std::string stars;
  for (int i = 0; i < 200; ++i) stars += "a*";
  EXPECT_FALSE(GlobMatch(stars + "b", std::string(5000, 'a')));  // would never end if it were exponential
}

TEST(Bytes, ForPeopleAndFromPeople) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(999), "999 B");
  EXPECT_EQ(HumanBytes(5'580'000'000), "5.58 GB");
  EXPECT_EQ(Must(ParseBytes("123")), 123U);
  EXPECT_EQ(Must(ParseBytes("200KB")), 200'000U);
  EXPECT_EQ(Must(ParseBytes("5GB")), 5'000'000'000U);
  EXPECT_EQ(Must(ParseBytes("4GiB")), uint64_t{4} << 30U);
  EXPECT_EQ(Must(ParseBytes("1MiB")), 1048576U);
  for (const char* bad : {"", "0", "-1", "5 GB", "5gb", "GB", "1.5GB", "18446744073709551616", "18446744073709551615KB", "5GBs", "+5"}) {
    ExpectError(ParseBytes(bad), Code::kUsage, "usage", {"5GB"});
  }
}

TEST(Lines, WithoutTheirEnds) {
  using Views = std::vector<std::string_view>;
  EXPECT_EQ(Lines(""), Views{});
  EXPECT_EQ(Lines("\n"), Views{""});
  EXPECT_EQ(Lines("a\r\n\nb\rc\n d"), (Views{"a", "", "b\rc", " d"}));
  EXPECT_EQ(Lower("AZaz09_\xC3\x84"), "azaz09_\xC3\x84");
}

TEST(Lists, ForMessages) {
  EXPECT_EQ(Join({"a", "b", "c"}, ", "), "a, b, c");
  EXPECT_EQ(Join({}, ", "), "");
  EXPECT_EQ(QuoteSome({"a"}), "'a'");
  EXPECT_EQ(QuoteSome({"a", "b\n", "c", "d", "e"}), "'a', 'b\\x0a', 'c' and 2 more");
  EXPECT_EQ(ShapeText({28, 2368}), "[28,2368]");
  EXPECT_EQ(ShapeText({}), "[]");
}

}  // namespace
}  // namespace q2c
