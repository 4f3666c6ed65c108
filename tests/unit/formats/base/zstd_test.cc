// Zstandard frames: what comes back, and what hostile ones must not do.
#include "formats/base/zstd.h"

#include <gtest/gtest.h>

#include "tests/unit/support/bits.h"
#include "tests/unit/support/results.h"

namespace q2c {
namespace {

using test::Bytes;
using test::ExpectError;
using test::Must;

// "hello\n" as the zstd command of Debian 12 writes it: magic, one raw block, checksum.
const Bytes kHello = [] {
  Bytes bytes;
  for (const int byte : {0x28, 0xb5, 0x2f, 0xfd, 0x24, 0x06, 0x31, 0x00, 0x00, 0x68, 0x65, 0x6c, 0x6c, 0x6f, 0x0a, 0x53, 0x88, 0xbd, 0x91}) bytes.push_back(static_cast<std::byte>(byte));
  return bytes;
}();

TEST(Zstd, ReadsWhatTheCommandWrites) {
  const Bytes content = Must(ZstdDecompress(kHello, 6));
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(content.data()), content.size()), "hello\n");  // NOLINT
}

TEST(Zstd, GivesBackWhatItTook) {
  test::Random random(5);
  for (const uint64_t size : {0U, 1U, 1000U, 300000U}) {
    const Bytes content = random.Fill(size);
    EXPECT_EQ(Must(ZstdDecompress(ZstdCompress(content), size)), content) << size;
  }
}

// Read by the library, whose checksum is over the content. Around the borders of blocks.
TEST(Zstd, StoresAsItIs) {
  test::Random random(6);
  for (const uint64_t size : {0U, 1U, 131071U, 131072U, 131073U, 1048576U}) {
    const Bytes content = random.Fill(size);
    const Bytes frame = ZstdStore(content);
    EXPECT_EQ(Must(ZstdDecompress(frame, size)), content) << size;
    EXPECT_LE(frame.size(), size + 13 + 3 * (size / 131072 + 1)) << size;
    Bytes damaged = frame;
    damaged[damaged.size() / 2] ^= std::byte{1};
    EXPECT_FALSE(ZstdDecompress(damaged, size).ok()) << size;
  }
}

TEST(Zstd, ZerosTakeNoRoom) {
  EXPECT_LT(ZstdCompress(Bytes(10'000'000)).size(), 2000U);
}

TEST(Zstd, StopsAtTheLimit) {
  const Bytes frame = ZstdCompress(Bytes(10'000'000));
  EXPECT_TRUE(ZstdDecompress(frame, 10'000'000).ok());
  ExpectError(ZstdDecompress(frame, 9'999'999), Code::kMalformed, "zstd", {"9999999"});
  ExpectError(ZstdDecompress(frame, 0), Code::kMalformed, "zstd");
}

TEST(Zstd, RefusesWindowsThatAFrameOnlyDeclares) {
  // A frame header with a window of 2^31: the memory for it must not be taken.
  Bytes frame;
  for (const int byte : {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00}) frame.push_back(static_cast<std::byte>(byte));
  ExpectError(ZstdDecompress(frame, 100), Code::kMalformed, "zstd", {"memory"});
}

TEST(Zstd, RefusesWhatIsCutOffOrFollowedByMore) {
  for (size_t size = 0; size < kHello.size(); ++size) ExpectError(ZstdDecompress(ByteView(kHello).first(size), 100), Code::kMalformed, "zstd");
  Bytes more = kHello;
  more.push_back(std::byte{0});
  ExpectError(ZstdDecompress(more, 100), Code::kMalformed, "zstd", {"1 bytes follow"});
  Bytes twice = kHello;
  twice.insert(twice.end(), kHello.begin(), kHello.end());
  ExpectError(ZstdDecompress(twice, 100), Code::kMalformed, "zstd", {"19 bytes follow"});
}

TEST(Zstd, NoticesAnyFlippedBit) {
  for (size_t bit = 0; bit < kHello.size() * 8; ++bit) {
    Bytes frame = kHello;
    frame[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    const Result<Bytes> content = ZstdDecompress(frame, 100);
    // The reserved bit of a header means nothing.
    if (content.ok()) {
      EXPECT_EQ(content.value().size(), 6U) << bit;
    }
  }
}

}  // namespace
}  // namespace q2c
