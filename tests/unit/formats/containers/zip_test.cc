// The directory of an archive, and every way in which two readers could see two archives in it.
#include "formats/containers/zip.h"

#include <gtest/gtest.h>

#include "tests/unit/support/results.h"
#include "tests/unit/support/zip.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::LittleEndian;
using test::Must;
using test::Zip;

Result<std::vector<ZipMember>> Read(const std::string& archive) { return ReadZipDirectory(SourceOf(AsBytes(archive))); }

TEST(ZipTest, Crc32OfTheUsualText) {
  EXPECT_EQ(Crc32(AsBytes("123456789")), 0xCBF43926U);
  EXPECT_EQ(Crc32({}), 0U);
}

TEST(ZipTest, MembersLieWhereTheLocalHeadersSay) {
  for (const bool end64 : {false, true}) {
    const std::string archive = Zip({{"t/a", "hello"}, {"t/b", "", 0x0800, 0, 0, "FB\2\0ZZ"}, {"t/c", "world!", 0x0800, 0, 0, "FB\1\0Z", true}, {"t/d", "x", 0x0800, 0, 0, "", false, true}}, {end64});
    const std::vector<ZipMember> members = Must(Read(archive));
    ASSERT_EQ(members.size(), 4U);
    EXPECT_EQ(members[0].name, "t/a");
    EXPECT_EQ(archive.substr(members[0].offset, members[0].bytes), "hello");
    EXPECT_EQ(members[1].bytes, 0U);
    EXPECT_EQ(archive.substr(members[2].offset, members[2].bytes), "world!");
    EXPECT_EQ(archive.substr(members[3].offset, members[3].bytes), "x");
    EXPECT_EQ(members[2].crc, test::SlowCrc32("world!"));
  }
  EXPECT_TRUE(Must(Read(Zip({}))).empty());
}

TEST(ZipTest, WhatIsRefused) {
  const auto broken = [](const std::string& archive, const std::string& id) { ExpectError(Read(archive), Code::kMalformed, id); };
  for (const char* name : {"../x", "/x", "t/../x", "t//x", "t/.", "", "t\\x", "C:/x", "t/\x01", "t/\xff", "t/"}) broken(Zip({{name, "x"}}), "torch-archive");
  broken(Zip({{"t/x", "1"}, {"t/x", "1"}}), "torch-archive");
  broken(Zip({{"t/x", "1", 0x0801}}), "torch-archive");            // encrypted
  broken(Zip({{"t/x", "1", 0x0820}}), "torch-archive");            // patched
  broken(Zip({{"t/x", "1", 0x0800, 8}}), "torch-archive");         // deflated
  broken(Zip({{"t/x", "1", 0x0800, 0, 0120777U << 16U}}), "torch-archive");  // a link
  broken(Zip({{"t/x", "1", 0x0800, 0, 0, "", false, false, "t/y"}}), "torch-archive");
  broken(Zip({{"t/x", "1", 0x0800, 0, 0, "", false, false, "", "junk"}, {"t/y", "1"}}), "torch-archive");
  broken(Zip({{"t/x", "1"}}, {false, "", "junk"}), "torch-archive");
  broken(Zip({{"t/x", "1"}}, {false, "a comment"}), "truncated");
  broken(Zip({{"t/x", "1"}}, {false, "", "", "prefix"}), "torch-archive");
  broken(Zip({{"t/x", "1"}}) + "more", "truncated");
  broken(Zip({{"t/x", "1"}}) + Zip({{"t/y", "1"}}), "torch-archive");  // two archives, two ends
  broken(Zip({{"t/x", "1"}}).substr(0, 40), "truncated");
  broken("PK\3\4", "truncated");
}

// One byte or word of a good archive at a time.
TEST(ZipTest, EveryFieldHasToAgree) {
  const std::string good = Zip({{"t/x", "12345", 0x0800, 0, 0, "", true}, {"t/y", "123", 0x0800, 0, 0, "", false, true}}, {true});
  Must(Read(good));
  // Times, versions and attributes are nobody's business; a change anywhere else is noticed, or changes content only.
  size_t accepted = 0;
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x40);
    const Result<std::vector<ZipMember>> members = Read(bad);
    if (!members.ok()) continue;
    ++accepted;
    ASSERT_EQ(members.value().size(), 2U);
    EXPECT_EQ(members.value()[0].bytes, 5U);
    EXPECT_EQ(members.value()[1].offset, Must(Read(good))[1].offset);
  }
  EXPECT_LT(accepted, 75U);
  for (size_t size = 0; size < good.size(); ++size) EXPECT_FALSE(Read(good.substr(0, size)).ok()) << size;
}

TEST(ZipTest, NothingIsBelievedBeforeItIsThere) {
  std::string archive = Zip({{"t/x", "1"}}, {true});
  const size_t end64 = archive.size() - 22 - 20 - 56;
  const auto with = [&](size_t at, uint64_t value, size_t width) {
    std::string bad = archive;
    bad.replace(at, width, LittleEndian(value, width));
    return bad;
  };
  for (const uint64_t value : {UINT64_MAX, UINT64_MAX - 55, uint64_t{1} << 63U, uint64_t{64'000'001}}) {
    for (const size_t at : {end64 + 24, end64 + 32, end64 + 40, end64 + 48}) EXPECT_FALSE(Read(with(at, value, 8)).ok());
  }
  EXPECT_FALSE(Read(with(archive.size() - 22 - 20 + 8, UINT64_MAX, 8)).ok());
}

}  // namespace
}  // namespace q2c
