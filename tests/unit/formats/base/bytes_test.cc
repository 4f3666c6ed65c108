#include "formats/base/bytes.h"

#include <gtest/gtest.h>

#include <array>

namespace q2c {
namespace {

TEST(CheckedSize, StaysOverflownOnceItHas) {
  EXPECT_EQ((CheckedSize(3) * 4 + 5).value(), 17U);
  EXPECT_EQ((CheckedSize(UINT64_MAX) + 0).value(), UINT64_MAX);
  EXPECT_EQ((CheckedSize(UINT64_MAX) + 1).value(), std::nullopt);
  EXPECT_EQ((CheckedSize(uint64_t{1} << 32U) * (uint64_t{1} << 32U)).value(), std::nullopt);
  EXPECT_EQ((CheckedSize(UINT64_MAX) * 2 * 0).value(), std::nullopt);  // 0 again, but not to be believed
  EXPECT_EQ((CheckedSize(1) + CheckedSize(UINT64_MAX) * 2).value(), std::nullopt);
}

TEST(Bytes, LoadAndStoreAtAnyAddress) {
  std::array<std::byte, 16> memory{};
  for (size_t at = 0; at < 8; ++at) {
    Store<uint64_t>(memory.data() + at, 0x0102030405060708U);
    EXPECT_EQ(memory.at(at), std::byte{8});  // little-endian
    EXPECT_EQ(Load<uint64_t>(memory.data() + at), 0x0102030405060708U);
  }
}

TEST(CeilDiv, DoesNotOverflow) {
  EXPECT_EQ(CeilDiv(0, 32), 0U);
  EXPECT_EQ(CeilDiv(32, 32), 1U);
  EXPECT_EQ(CeilDiv(33, 32), 2U);
  EXPECT_EQ(CeilDiv(UINT64_MAX, 2), (UINT64_MAX / 2) + 1);
}

}  // namespace
}  // namespace q2c
