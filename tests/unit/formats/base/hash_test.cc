// Digests against values that sha256sum and xxhsum -H2 print.
#include "formats/base/hash.h"

#include <gtest/gtest.h>

#include "tests/unit/support/bits.h"

namespace q2c {
namespace {

TEST(Sha256, KnownDigests) {
  EXPECT_EQ(Sha256::Of({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256::Of(AsBytes(std::string_view("abc"))), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Xxh3, KnownDigests) {
  EXPECT_EQ(Xxh3::Of({}), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(Xxh3::Of(AsBytes(std::string_view("abc"))), "06b05ab6733a618578af5f94892f3950");
}

TEST(Digests, StreamedInPiecesOfAnySizeAreTheSame) {
  const test::Bytes data = test::Random(5).Fill(100'000);
  for (const size_t piece : {1UL, 63UL, 64UL, 1000UL, 4096UL, 99'999UL}) {
    Sha256 sha;
    Xxh3 xxh;
    for (size_t at = 0; at < data.size(); at += piece) {
      const ByteView part = ByteView(data).subspan(at, std::min(piece, data.size() - at));
      sha.Update(part);
      xxh.Update(part);
    }
    EXPECT_EQ(sha.Hex(), Sha256::Of(data));
    EXPECT_EQ(xxh.Hex(), Xxh3::Of(data));
  }
}

}  // namespace
}  // namespace q2c
