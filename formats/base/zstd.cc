#include "formats/base/zstd.h"

#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <memory>
#include <new>

namespace q2c {
namespace {

constexpr int kWindowLog = 23;
static_assert(kZstdWindow == uint64_t{1} << kWindowLog);

struct Free {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

}  // namespace

std::vector<std::byte> ZstdCompress(ByteView bytes, int level) {
  const std::unique_ptr<ZSTD_CCtx, Free> context(ZSTD_createCCtx());
  if (context == nullptr) throw std::bad_alloc();
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, level);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_windowLog, kWindowLog);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_checksumFlag, 1);
  std::vector<std::byte> frame(ZSTD_compressBound(bytes.size()));
  const size_t size = ZSTD_compress2(context.get(), frame.data(), frame.size(), bytes.data(), bytes.size());
  // There is room for any content, so that only memory can be short.
  if (ZSTD_isError(size) != 0) throw std::bad_alloc();
  frame.resize(size);
  return frame;
}

std::vector<std::byte> ZstdStore(ByteView bytes) {
  constexpr uint32_t kMagic = 0xFD2FB528;
  constexpr size_t kBlock = size_t{128} << 10U;
  constexpr auto kDescriptor = std::byte{0b10100100};  // size in four bytes, one segment, a checksum
  constexpr size_t kBlockHead = 3;
  std::vector<std::byte> frame(4 + 1 + 4 + kBlockHead * std::max<size_t>(1, CeilDiv(bytes.size(), kBlock)) + bytes.size() + 4);
  std::byte* at = frame.data();
  Store<uint32_t>(at, kMagic);
  at[4] = kDescriptor;
  Store<uint32_t>(at + 5, static_cast<uint32_t>(bytes.size()));
  at += 9;
  ByteView left = bytes;
  do {
    const ByteView block = left.first(std::min(kBlock, left.size()));
    left = left.subspan(block.size());
    const auto head = static_cast<uint32_t>(block.size() << 3U) | (left.empty() ? 1U : 0U);  // bits 1 and 2, the kind, are those of a raw block
    for (size_t i = 0; i < kBlockHead; ++i) *at++ = static_cast<std::byte>(head >> (8 * i));
    at = std::ranges::copy(block, at).out;
  } while (!left.empty());
  Store<uint32_t>(at, static_cast<uint32_t>(XXH64(bytes.data(), bytes.size(), 0)));
  return frame;
}

Result<std::vector<std::byte>> ZstdDecompress(ByteView frame, uint64_t limit) {
  const std::unique_ptr<ZSTD_DCtx, Free> context(ZSTD_createDCtx());
  if (context == nullptr) throw std::bad_alloc();
  ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, kWindowLog);
  std::vector<std::byte> content;
  std::vector<std::byte> piece(ZSTD_DStreamOutSize());
  ZSTD_inBuffer in{frame.data(), frame.size(), 0};
  for (;;) {
    ZSTD_outBuffer out{piece.data(), piece.size(), 0};
    const size_t left = ZSTD_decompressStream(context.get(), &out, &in);
    if (ZSTD_isError(left) != 0) return Malformed("zstd", "the compressed data is damaged: {}", ZSTD_getErrorName(left));
    if (out.pos > limit - content.size()) return Malformed("zstd", "the compressed data holds more than {} bytes", limit);
    content.insert(content.end(), piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(out.pos));
    if (left == 0) break;
    if (in.pos == in.size && out.pos < out.size) return Malformed("zstd", "the compressed data ends early, after {} bytes", in.size);
  }
  if (in.pos != in.size) return Malformed("zstd", "{} bytes follow the compressed data", in.size - in.pos);
  return content;
}

}  // namespace q2c
