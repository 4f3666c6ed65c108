#include "verify/checks/tensor_scan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "formats/base/half.h"
#include "formats/base/hash.h"

namespace q2c {
namespace {

// Counts that a compiler can vectorise: bits of a magnitude compare as numbers do.
template <typename Word>
struct Magnitudes {
  uint64_t not_finite = 0;
  uint64_t zero = 0;
  uint64_t negative = 0;
  uint64_t subnormal = 0;
  Word low = std::numeric_limits<Word>::max();
  Word high = 0;

  void See(ByteView bytes, Word exponent, Word smallest_normal) {
    constexpr size_t kBlock = (size_t{1} << 14U) * sizeof(Word);  // its counts fit a word
    for (size_t at = 0; at < bytes.size(); at += kBlock) SeeBlock(bytes.subspan(at, std::min(kBlock, bytes.size() - at)), exponent, smallest_normal);
  }

 private:
  // A magnitude fits the signed word, which every vector unit compares. Everything the loop writes is local: a store through
  // 'this' could change the bytes that it reads, as far as the compiler knows.
  void SeeBlock(ByteView bytes, Word exponent, Word smallest_normal) {
    using Signed = std::make_signed_t<Word>;
    constexpr Signed kMost = std::numeric_limits<Signed>::max();
    const auto infinity = static_cast<Signed>(exponent);
    const auto normal = static_cast<Signed>(smallest_normal);
    const std::byte* const data = bytes.data();
    const size_t count = bytes.size() / sizeof(Word);
    Word bad = 0;
    Word zeros = 0;
    Word below = 0;
    Word minus = 0;
    Signed most = 0;
    Signed least = kMost;
    for (size_t i = 0; i < count; ++i) {
      const auto word = Load<Signed>(data + i * sizeof(Word));
      const auto magnitude = static_cast<Signed>(word & kMost);
      // All ones or nothing; conditions would be compiled to branches.
      const auto infinite = static_cast<Signed>(-static_cast<Signed>(magnitude >= infinity));
      const auto nothing = static_cast<Signed>(-static_cast<Signed>(magnitude == 0));
      const auto small = static_cast<Signed>(-static_cast<Signed>(magnitude < normal));
      bad = static_cast<Word>(bad - static_cast<Word>(infinite));
      zeros = static_cast<Word>(zeros - static_cast<Word>(nothing));
      below = static_cast<Word>(below - static_cast<Word>(small));
      minus = static_cast<Word>(minus + (static_cast<Word>(word) >> (8 * sizeof(Word) - 1)));
      most = std::max(most, static_cast<Signed>(magnitude & ~infinite));
      least = std::min(least, static_cast<Signed>(magnitude | (nothing & kMost)));
    }
    not_finite += bad;
    zero += zeros;
    subnormal += static_cast<Word>(below - zeros);
    negative += minus;
    high = std::max(high, static_cast<Word>(most));
    if (least < kMost) low = std::min(low, static_cast<Word>(least));
  }
};

double ValueOf(Dtype dtype, uint32_t bits) {
  if (dtype == Dtype::kF32) return std::bit_cast<float>(bits);
  return dtype == Dtype::kBF16 ? BfloatToFloat(static_cast<uint16_t>(bits)) : HalfToFloat(static_cast<uint16_t>(bits));
}

template <typename Word>
void Merge(const Magnitudes<Word>& seen, Dtype dtype, FloatScan* scan) {
  scan->not_finite += seen.not_finite;
  scan->zero += seen.zero;
  scan->negative += seen.negative;
  scan->subnormal += seen.subnormal;
  const double high = ValueOf(dtype, seen.high);
  if (seen.low != std::numeric_limits<Word>::max()) {
    const double low = ValueOf(dtype, seen.low);
    if (std::isfinite(low)) scan->low = scan->low == 0 ? low : std::min(scan->low, low);
  }
  scan->high = std::max(scan->high, high);
}

// The scale at the head of each GGUF block, and the offset that follows it in Q4_1. Blocks do not end where pieces do.
class BlockHeads {
 public:
  explicit BlockHeads(Dtype dtype) : width_(InfoOf(dtype).bits / 8U), has_offset_(dtype == Dtype::kQ4_1) {}

  void See(ByteView piece) {
    scales_.clear();
    offsets_.clear();
    if (!begun_.empty()) {
      const ByteView missing = piece.first(std::min(width_ - begun_.size(), piece.size()));
      begun_.insert(begun_.end(), missing.begin(), missing.end());
      piece = piece.subspan(missing.size());
      if (begun_.size() < width_) return;
      Take(begun_);
    }
    for (; piece.size() >= width_; piece = piece.subspan(width_)) Take(piece);
    begun_.assign(piece.begin(), piece.end());
    scale_.See(std::as_bytes(std::span(scales_)), 0x7C00, 0x0400);
    offset_.See(std::as_bytes(std::span(offsets_)), 0x7C00, 0x0400);
    count_ += scales_.size() + offsets_.size();
  }

  // An offset is the product of a scale and a zero point: its size says nothing.
  void AddTo(FloatScan* scan) const {
    scan->count = count_;
    Merge(scale_, Dtype::kF16, scan);
    scan->not_finite += offset_.not_finite;
  }

 private:
  void Take(ByteView block) {
    scales_.push_back(Load<uint16_t>(block.data()));
    if (has_offset_) offsets_.push_back(Load<uint16_t>(block.data() + 2));
  }

  size_t width_;
  bool has_offset_;
  uint64_t count_ = 0;
  std::vector<std::byte> begun_;
  std::vector<uint16_t> scales_;  // of one piece
  std::vector<uint16_t> offsets_;
  Magnitudes<uint16_t> scale_;
  Magnitudes<uint16_t> offset_;
};

// Runs of zero or one bits, a word at a time; the borders are cut to words.
class BlankRuns {
 public:
  void See(ByteView bytes, CodeScan* scan) {
    for (size_t i = 0; i + 64 <= bytes.size(); i += 64) {
      uint64_t any = 0;
      uint64_t all = ~uint64_t{0};
      for (size_t j = 0; j < 64; j += 8) {
        const auto word = Load<uint64_t>(bytes.data() + i + j);
        any |= word;
        all &= word;
      }
      const int kind = any == 0 ? 1 : all == ~uint64_t{0} ? 2 : 0;
      run_ = kind != 0 && kind == kind_ ? run_ + 64 : kind != 0 ? 64 : 0;
      kind_ = kind;
      if (run_ > scan->blank) {
        scan->blank = run_;
        scan->blank_at = at_ + i + 64 - run_;
      }
    }
    at_ += bytes.size();
  }

 private:
  uint64_t at_ = 0;
  uint64_t run_ = 0;
  int kind_ = 0;
};

void SeeRows(ByteView bytes, uint64_t row_bytes, uint64_t* pending, bool* all_zero, FloatScan* scan) {
  size_t at = 0;
  while (at < bytes.size()) {
    const size_t take = std::min<size_t>(bytes.size() - at, row_bytes - *pending);
    if (*all_zero) *all_zero = std::ranges::all_of(bytes.subspan(at, take), [](std::byte b) { return b == std::byte{0}; });
    at += take;
    *pending += take;
    if (*pending < row_bytes) continue;
    scan->zero_rows += *all_zero ? 1 : 0;
    *pending = 0;
    *all_zero = true;
  }
}

}  // namespace

Result<TensorScan> ScanTensor(const Checkpoint& checkpoint, const TensorInfo& tensor, ScanAs kind, const std::function<Status()>& check_stop) {
  constexpr size_t kSample = 1U << 16U;
  TensorScan scan;
  Xxh3 hash;
  Magnitudes<uint16_t> halves;
  Magnitudes<uint32_t> words;
  BlankRuns runs;
  uint64_t pending = 0;
  bool row_zero = true;
  const bool block = InfoOf(tensor.dtype).block > 1;
  BlockHeads heads(tensor.dtype);
  const uint64_t row_bytes = tensor.shape.size() == 2 && tensor.shape[0] > 0 ? tensor.bytes / tensor.shape[0] : 0;
  scan.codes.constant = tensor.bytes >= 8;
  if (kind == ScanAs::kCodes) scan.codes.bytes.resize(256);
  uint32_t first = 0;
  bool begun = false;
  QC_TRY(checkpoint.Stream(tensor, [&](ByteView piece) -> Status {
    if (check_stop) QC_TRY(check_stop());
    hash.Update(piece);
    if (block) heads.See(piece);
    else if (kind == ScanAs::kFloats && tensor.dtype == Dtype::kF32) words.See(piece, 0x7F800000U, 0x00800000U);
    else if (kind == ScanAs::kFloats && tensor.dtype == Dtype::kBF16) halves.See(piece, 0x7F80, 0x0080);
    else if (kind == ScanAs::kFloats && tensor.dtype == Dtype::kF16) halves.See(piece, 0x7C00, 0x0400);
    if (kind == ScanAs::kFloats && row_bytes > 0 && !block) SeeRows(piece, row_bytes, &pending, &row_zero, &scan.floats);
    if (kind != ScanAs::kCodes) return {};
    runs.See(piece, &scan.codes);
    if (!begun && piece.size() >= 4) first = Load<uint32_t>(piece.data());
    begun = true;
    if (scan.codes.constant) {
      for (size_t i = 0; i + 4 <= piece.size() && scan.codes.constant; i += 4) scan.codes.constant = Load<uint32_t>(piece.data() + i) == first;
    }
    const ByteView sample = piece.first(std::min(kSample, piece.size()));
    for (const std::byte byte : sample) ++scan.codes.bytes[static_cast<size_t>(byte)];
    scan.codes.sampled += sample.size();
    return {};
  }));
  if (block) {
    heads.AddTo(&scan.floats);
  } else if (kind == ScanAs::kFloats) {
    scan.floats.count = tensor.bytes / (InfoOf(tensor.dtype).bits / 8U);
    if (tensor.dtype == Dtype::kF32) Merge(words, tensor.dtype, &scan.floats);
    else Merge(halves, tensor.dtype, &scan.floats);
  }
  scan.digest = hash.Hex();
  return scan;
}

}  // namespace q2c
