// The stack machine against pickles written out by hand, opcode by opcode.
#include "formats/containers/pickle.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>

#include "tests/unit/support/results.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;
using namespace std::string_literals;

constexpr std::array kNames = {
    PickleGlobal{"collections", "OrderedDict", PickleGlobal::Use::kDict},
    PickleGlobal{"m", "call", PickleGlobal::Use::kCall},
    PickleGlobal{"m", "value", PickleGlobal::Use::kValue},
    PickleGlobal{"m", "unread", PickleGlobal::Use::kUnread},
};

// The bytes stay alive with what was read from them.
struct Read {
  std::unique_ptr<const std::string> bytes;
  Pickle pickle;
};
Read Accept(const std::string& bytes) {
  Read read{std::make_unique<const std::string>(bytes), {}};
  read.pickle = Must(ReadPickle(AsBytes(*read.bytes), kNames));
  return read;
}
Result<Pickle> Try(const std::string& bytes) { return ReadPickle(AsBytes(bytes), kNames); }

std::string Le(uint64_t value, size_t width) {
  std::string bytes;
  for (size_t i = 0; i < width; ++i) bytes += static_cast<char>((value >> (8 * i)) & 0xFFU);
  return bytes;
}
std::string Text(const std::string& text) { return "X" + Le(text.size(), 4) + text; }
int64_t Int(const PickleValue& value) {
  EXPECT_EQ(value.kind, PickleKind::kInt);
  return static_cast<int64_t>(value.number);
}

TEST(PickleTest, Scalars) {
  EXPECT_EQ(Accept("N.").pickle.root.kind, PickleKind::kNone);
  EXPECT_EQ(Accept("\x88.").pickle.root.number, 1U);
  EXPECT_EQ(Accept("\x89.").pickle.root.number, 0U);
  EXPECT_EQ(Int(Accept("K\xff.").pickle.root), 255);
  EXPECT_EQ(Int(Accept("M\xfe\xff.").pickle.root), 65534);
  EXPECT_EQ(Int(Accept("J\xfe\xff\xff\xff.").pickle.root), -2);
  EXPECT_EQ(Int(Accept("\x8a\0."s).pickle.root), 0);
  EXPECT_EQ(Int(Accept("\x8a\x01\xff."s).pickle.root), -1);
  EXPECT_EQ(Int(Accept("\x8a\x02\xff\0."s).pickle.root), 255);
  EXPECT_EQ(Int(Accept("\x8a\x05\0\0\0\0\x01."s).pickle.root), int64_t{1} << 32);
  EXPECT_EQ(Int(Accept("\x8a\x08" + Le(uint64_t{1} << 63, 8) + ".").pickle.root), INT64_MIN);
  EXPECT_EQ(Int(Accept("\x8b" + Le(3, 4) + "\x01\x02\xff.").pickle.root), -(65536 - 0x201));
  const Read big = Accept("\x8a\x0a" "0123456789.");
  EXPECT_EQ(big.pickle.root.kind, PickleKind::kLong);
  EXPECT_EQ(big.pickle.Text(big.pickle.root), "0123456789");
  EXPECT_EQ(Accept("G\x3f\xf8\0\0\0\0\0\0."s).pickle.root.number, 0x3FF8000000000000U);  // 1.5, big-endian in the pickle
  EXPECT_EQ(Accept("\x80\x02N.").pickle.bytes, 4U);
  EXPECT_EQ(Accept("\x80\x05\x95" + Le(2, 8) + "N.rest").pickle.bytes, 13U);
}

TEST(PickleTest, Texts) {
  for (const std::string& bytes : {Text("abc"), "\x8c\x03"s "abc", "\x8d" + Le(3, 8) + "abc", "U\x03"s "abc", "T" + Le(3, 4) + "abc"}) {
    const Read read = Accept(bytes + ".");
    EXPECT_EQ(read.pickle.root.kind, PickleKind::kText);
    EXPECT_EQ(read.pickle.Text(read.pickle.root), "abc");
  }
  for (const std::string& bytes : {"C\x02"s "xy", "B" + Le(2, 4) + "xy", "\x8e" + Le(2, 8) + "xy"}) {
    const Read read = Accept(bytes + ".");
    EXPECT_EQ(read.pickle.root.kind, PickleKind::kBytes);
    EXPECT_EQ(read.pickle.Text(read.pickle.root), "xy");
  }
}

TEST(PickleTest, Containers) {
  const Read tuples = Accept("(K\x01K\x02\x86K\x03\x85K\x04K\x05K\x06\x87)t.");
  const auto outer = tuples.pickle.Items(tuples.pickle.root);
  ASSERT_EQ(outer.size(), 4U);
  EXPECT_EQ(Int(tuples.pickle.Items(outer[0])[1]), 2);
  EXPECT_EQ(Int(tuples.pickle.Items(outer[1])[0]), 3);
  EXPECT_EQ(Int(tuples.pickle.Items(outer[2])[2]), 6);
  EXPECT_TRUE(tuples.pickle.Items(outer[3]).empty());

  const Read list = Accept("]K\x01" "a(K\x02K\x03" "e.");
  ASSERT_EQ(list.pickle.Items(list.pickle.root).size(), 3U);
  EXPECT_EQ(Int(list.pickle.Items(list.pickle.root)[2]), 3);

  const Read dict = Accept("}K\x01K\x02s(K\x03K\x04K\x05K\x06u.");
  EXPECT_EQ(dict.pickle.root.kind, PickleKind::kDict);
  ASSERT_EQ(dict.pickle.Items(dict.pickle.root).size(), 6U);
  EXPECT_EQ(Int(dict.pickle.Items(dict.pickle.root)[5]), 6);
}

TEST(PickleTest, RemembersAndForgets) {
  const Read memo = Accept("(Nq\x00K\x07q\x01h\x01r\x02\0\0\0j\x02\0\0\0t."s);
  const auto items = memo.pickle.Items(memo.pickle.root);
  ASSERT_EQ(items.size(), 4U);
  EXPECT_EQ(Int(items[3]), 7);
  const Read memoized = Accept("(K\x01\x94K\x02\x94h\x01h\x00t."s);
  EXPECT_EQ(Int(memoized.pickle.Items(memoized.pickle.root)[2]), 2);
  EXPECT_EQ(Int(memoized.pickle.Items(memoized.pickle.root)[3]), 1);
  EXPECT_EQ(Int(Accept("K\x01K\x02" "0.").pickle.root), 1);
  EXPECT_EQ(Int(Accept("K\x01(K\x02K\x03" "1.").pickle.root), 1);
  EXPECT_EQ(Int(Accept("K\x01(0.").pickle.root), 1);  // a mark is taken off where nothing lies on it
  const Read twice = Accept("K\x05" "2\x86.");
  EXPECT_EQ(Int(twice.pickle.Items(twice.pickle.root)[1]), 5);
  // A list that holds itself is a value like any other.
  const Read cycle = Accept("]q\0h\0" "a."s);
  EXPECT_EQ(cycle.pickle.Items(cycle.pickle.root)[0].number, cycle.pickle.root.number);
}

TEST(PickleTest, CallsAreKeptAndNotMade) {
  const Read call = Accept("cm\ncall\n(K\x01K\x02tR.");
  EXPECT_EQ(call.pickle.root.kind, PickleKind::kCall);
  const auto items = call.pickle.Items(call.pickle.root);
  ASSERT_EQ(items.size(), 3U);
  EXPECT_EQ(items[0].kind, PickleKind::kGlobal);
  EXPECT_EQ(items[0].number, 1U);
  EXPECT_EQ(Int(items[2]), 2);
  EXPECT_EQ(Accept("\x8c\x01m\x8c\x05value\x93.").pickle.root.number, 2U);

  const Read empty = Accept("ccollections\nOrderedDict\n)R}" + Text("_metadata") + "Nsb.");
  EXPECT_EQ(empty.pickle.root.kind, PickleKind::kDict);
  EXPECT_TRUE(empty.pickle.Items(empty.pickle.root).empty());
  // Python 2 hands over a list of pairs.
  const Read pairs = Accept("ccollections\nOrderedDict\n](](K\x01K\x02" "e](K\x03K\x04" "ee\x85R.");
  ASSERT_EQ(pairs.pickle.Items(pairs.pickle.root).size(), 4U);
  EXPECT_EQ(Int(pairs.pickle.Items(pairs.pickle.root)[3]), 4);

  const Read persistent = Accept("(K\x01Q" "K\x02Qt.");
  ASSERT_EQ(persistent.pickle.persistent.size(), 2U);
  EXPECT_EQ(Int(persistent.pickle.Items(persistent.pickle.persistent[1])[0]), 2);
}

TEST(PickleTest, NamesOffTheListAreNamedAndNeverTaken) {
  const auto forbidden = [](const std::string& bytes, const std::vector<std::string>& mentions) { ExpectError(Try(bytes), Code::kMalformed, "pickle-code", mentions); };
  forbidden("cos\nsystem\n" + Text("true") + "\x85R.", {"'os.system'", "Nothing was run"});
  forbidden("cbuiltins\neval\n.", {"'builtins.eval'"});
  forbidden("c__builtin__\nexec\n.", {"'__builtin__.exec'"});
  forbidden(Text("posix") + Text("system") + "\x93.", {"'posix.system'"});
  forbidden("\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93."s, {"'os.system'"});
  forbidden("(" + Text("true") + "ios\nsystem\n.", {"'os.system'"});
  forbidden("cm\ncall.extra\n.", {"'m.call.extra'"});
  forbidden("cm\nCall\n.", {"'m.Call'"});
  forbidden("c m\ncall\n.", {});
  forbidden("cm\x1b[2J\nx\n.", {"\\x1b"});
  for (const char* opcode : {"o", "\x81", "\x92", "\x82", "\x83", "\x84", "P"}) forbidden("cm\ncall\n)"s + opcode + "\x01\x01\x01\x01\n.", {"opcode"});
  // Called in another way than the list says.
  for (const std::string& bytes : {"cm\nvalue\n)R."s, "ccollections\nOrderedDict\nN\x85R."s, "ccollections\nOrderedDict\n](N" "e\x85R."s, "cm\ncall\n)R}b."s}) forbidden(bytes, {});
  ExpectError(Try("cm\nunread\n."), Code::kRefused, "torch-unread", {"'m.unread'"});
}

TEST(PickleTest, WhatIsBroken) {
  for (const char* bytes : {"", "N", "X", "X\x05\x01\x01\x01", "K", "c", "cm\n", "cm\nvalue", "\x8a\x05"}) ExpectError(Try(bytes), Code::kMalformed, "truncated");
  ExpectError(Try("\x8e" + Le(UINT64_MAX, 8) + "x."), Code::kMalformed, "truncated");
  ExpectError(Try("B" + Le(UINT32_MAX, 4) + "x."), Code::kMalformed, "truncated");
  for (const char* bytes : {".", "(.", "NN.", "t.", "\x85.", "N\x86.", "a.", "Na.", "NNa.", "]s.", "(u.", "}(Nu.", "](NNu.", "NR.", "NNR.", "cm\ncall\nNR.", "b.", "(e.", "0.", "1.", "2.", "Q.", "N(\x85.", "](\x88" "a.",
                            "NN\x93.", "h\x01.", "(q\x01.", "N]q\x01h\x02."}) {
    ExpectError(Try(bytes), Code::kMalformed, "torch-pickle");
  }
  for (const char* bytes : {"\x80\x06N.", "\xff.", "\n."}) ExpectError(Try(bytes), Code::kMalformed, "torch-pickle");
  for (const char* bytes : {"I1\n.", "S'x'\n.", "\x8f.", "(l.", "\x97."}) ExpectError(Try(bytes), Code::kRefused, "torch-unread");
  ExpectError(Try("Nr\xff\xff\xff\xff."), Code::kMalformed, "torch-pickle");
  ExpectError(Try(std::string(1'000'002, 'N')), Code::kMalformed, "torch-pickle");
  ExpectError(Try(std::string(1'000'002, '(')), Code::kMalformed, "torch-pickle");
  std::string lists;
  for (int i = 0; i < 2'000'001; ++i) lists += "]0";
  ExpectError(Try(lists), Code::kMalformed, "torch-pickle");
  // A large tuple that is called again and again.
  std::string again = "cm\ncall\nq\0("s + std::string(900'000, 'N') + "tq\1"s;
  for (int i = 0; i < 100; ++i) again += "h\0h\1R0"s;
  ExpectError(Try(again), Code::kMalformed, "torch-pickle");
}

}  // namespace
}  // namespace q2c
