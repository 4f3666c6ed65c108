// Linears with known content, stored in any layout, and the plainest readers of what was stored.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>

#include "formats/base/hash.h"
#include "formats/layouts/layout.h"
#include "tests/unit/support/bits.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/stored.h"

namespace q2c::test {

inline QuantShape ShapeOf(uint64_t in, uint64_t out, uint64_t group_size, uint32_t bits) { return {in, out, CeilDiv(in, group_size), group_size, bits}; }

// Code k of output n in the canonical form, bit by bit.
inline uint32_t CodeAt(const QuantLinear& linear, uint64_t k, uint64_t n) {
  const uint64_t row = n * linear.shape.WordsPerRow();
  return GetField(AsBytes(linear.codes), k * linear.shape.bits, linear.shape.bits, [&](uint64_t word) { return row + word; });
}
inline void SetCodes(QuantLinear* linear, const std::function<uint32_t(uint64_t k, uint64_t n)>& code) {
  const QuantShape& s = linear->shape;
  Bytes codes(s.out_features * s.WordsPerRow() * 4);
  for (uint64_t n = 0; n < s.out_features; ++n) {
    for (uint64_t k = 0; k < s.in_features; ++k) PutField(&codes, k * s.bits, s.bits, code(k, n), [&](uint64_t word) { return n * s.WordsPerRow() + word; });
  }
  linear->codes = WordsFrom<uint32_t>(codes);
}
inline uint16_t ZeroAt(const QuantLinear& linear, uint64_t g, uint64_t n) { return linear.zeros[g * linear.shape.out_features + n]; }
inline void SetTrivialGroups(QuantLinear* linear) {
  linear->group_index.clear();
  for (uint64_t k = 0; k < linear->shape.in_features; ++k) linear->group_index.push_back(static_cast<int32_t>(k / linear->shape.group_size));
}

// The pattern of units/1024 as float16, for units below 2048, made from the definition.
inline uint16_t HalfOf1024ths(uint32_t units) {
  uint32_t exponent = 5;  // of 1/1024, whose pattern is 0x1400
  while (units >> (exponent - 5) > 1) ++exponent;
  return static_cast<uint16_t>((exponent << 10U) | ((units << (10 - (exponent - 5))) & 0x3FFU));
}

// The fixtures of the layout notes: T is 32 by 8 in groups of 16, L 256 by 256 in groups of 128.
inline uint32_t FixtureCode(uint32_t bits, uint64_t k, uint64_t n) {
  if (bits == 8) return static_cast<uint32_t>((37 * k + 91 * n + k * n) % 256);
  return static_cast<uint32_t>((5 * k + 3 * n + k * n / 4) % 16) & ((1U << bits) - 1);
}
inline uint16_t FixtureZero(uint32_t bits, uint64_t g, uint64_t n) { return static_cast<uint16_t>(1 + (3 * n + 7 * g) % ((1U << bits) - 1)); }
inline QuantLinear Fixture(const QuantShape& shape, bool symmetric = false) {
  QuantLinear linear;
  linear.shape = shape;
  SetCodes(&linear, [&](uint64_t k, uint64_t n) { return FixtureCode(shape.bits, k, n); });
  std::vector<uint16_t> scales;
  for (uint64_t g = 0; g < shape.groups; ++g) {
    for (uint64_t n = 0; n < shape.out_features; ++n) {
      linear.zeros.push_back(symmetric ? static_cast<uint16_t>(shape.MidCode()) : FixtureZero(shape.bits, g, n));
      scales.push_back(HalfOf1024ths(static_cast<uint32_t>(1 + n % 61 + 16 * (g % 8))));
    }
  }
  linear.scales = BytesOfWords(scales);
  SetTrivialGroups(&linear);
  return linear;
}

struct Content {
  Dtype dtype = Dtype::kF16;
  bool symmetric = false;
  bool zero_0 = true;   // zero points of 0 and of the maximum occur
  bool act_order = false;
  bool power_of_two = false;  // scales of which every product is exact
};
// Random content; finite scales of both signs, 2^-10 … 2^-3 in magnitude, with one that is 0.
inline QuantLinear RandomLinear(const QuantShape& shape, const Content& content, uint64_t seed) {
  Random random(seed);
  QuantLinear linear;
  linear.shape = shape;
  linear.scale_dtype = content.dtype;
  const auto max = static_cast<uint32_t>(shape.MaxCode());
  SetCodes(&linear, [&](uint64_t, uint64_t) { return random.Below(max + 1); });
  const uint64_t count = shape.groups * shape.out_features;
  const uint64_t width = InfoOf(content.dtype).bits / 8;
  linear.scales.resize(count * width);
  for (uint64_t i = 0; i < count; ++i) {
    uint32_t zero = content.zero_0 ? random.Below(max + 1) : 1 + random.Below(max);
    if (content.zero_0 && i < 2) zero = i == 0 ? 0 : max;
    linear.zeros.push_back(static_cast<uint16_t>(content.symmetric ? shape.MidCode() : zero));
    // Sign, exponent −10 … −3 and the whole significand of the dtype.
    const uint32_t sign = random.Below(8) == 0 ? 0x80000000U : 0;
    const uint32_t fraction_bits = content.dtype == Dtype::kF16 ? 10 : content.dtype == Dtype::kBF16 ? 7 : 23;
    const uint32_t fraction = content.power_of_two ? 0 : random.Next() >> (32 - fraction_bits) << (23 - fraction_bits);
    const uint32_t exponent = 127 - 10 + random.Below(8);
    const uint32_t single = sign | (exponent << 23U) | fraction;
    std::byte* at = linear.scales.data() + i * width;
    if (content.dtype == Dtype::kF32) Store(at, single);
    if (content.dtype == Dtype::kBF16) Store(at, static_cast<uint16_t>(single >> 16U));
    if (content.dtype == Dtype::kF16) Store(at, static_cast<uint16_t>(sign >> 16U | (exponent - 112) << 10U | fraction >> 13U));
  }
  SetTrivialGroups(&linear);
  if (content.act_order) {
    for (uint64_t k = shape.in_features; k > 1; --k) std::swap(linear.group_index[k - 1], linear.group_index[random.Below(static_cast<uint32_t>(k))]);
  }
  return linear;
}

inline QuantTraits TraitsOf(const QuantLinear& linear) {
  QuantTraits traits;
  traits.shape = linear.shape;
  traits.scale_dtype = linear.scale_dtype;
  traits.symmetric = std::ranges::all_of(linear.zeros, [&](uint16_t zero) { return zero == linear.shape.MidCode(); });
  traits.has_zero_0 = std::ranges::find(linear.zeros, 0) != linear.zeros.end();
  traits.act_order = !linear.group_index.empty() && !IsTrivial(linear.group_index, linear.shape.group_size);
  traits.nearest_zeros = linear.nearest_zeros;
  return traits;
}

// weight(n, k) by the definition.
inline double WeightAt(const QuantLinear& linear, uint64_t k, uint64_t n) {
  const auto g = static_cast<uint64_t>(linear.group_index[k]);
  return static_cast<double>(linear.Scale(g, n)) * (static_cast<double>(CodeAt(linear, k, n)) - ZeroAt(linear, g, n));
}

// A linear as it lies in a file: one tensor a part.
struct Written {
  const Layout* layout = nullptr;
  std::deque<TensorInfo> infos;
  std::map<std::string, Bytes, std::less<>> bytes;  // by suffix

  TensorInfo* Info(std::string_view suffix) {
    for (TensorInfo& info : infos) {
      if (info.name == "l." + std::string(suffix)) return &info;
    }
    return nullptr;
  }
  std::vector<const TensorInfo*> Parts() const {
    std::vector<const TensorInfo*> parts;
    for (const TensorInfo& info : infos) parts.push_back(&info);
    return parts;
  }
  void Remove(std::string_view suffix) {
    std::erase_if(infos, [&](const TensorInfo& info) { return info.name == "l." + std::string(suffix); });
  }
  PartSource Source() {
    PartSource source;
    source.part = [this](std::string_view suffix) -> const TensorInfo* { return Info(suffix); };
    source.read = [this](const TensorInfo& info, uint64_t offset, MutableBytes out) -> Status {
      const Bytes& from = bytes.at(info.name.substr(2));
      if (offset > from.size() || out.size() > from.size() - offset) return Internal("read outside '{}'", info.name);
      std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
      return {};
    };
    return source;
  }
  std::vector<uint32_t> Words(std::string_view suffix) const { return WordsFrom<uint32_t>(bytes.find(suffix)->second); }
  std::vector<uint16_t> Halves(std::string_view suffix) const { return WordsFrom<uint16_t>(bytes.find(suffix)->second); }
  std::string Sha(std::string_view suffix) const { return Sha256::Of(bytes.find(suffix)->second); }
};

inline uint64_t PartBytes(const PartCodec& part, const QuantLinear& linear) { return *BytesOf(part.dtype.value_or(linear.scale_dtype), part.shape(linear.shape)); }
inline Bytes EncodePart(const PartCodec& part, const QuantLinear& linear) {
  Bytes out(PartBytes(part, linear), std::byte{0xCD});  // nothing may be left as it was
  Must(part.encode(linear, out));
  return out;
}
inline Written Write(std::string_view layout, const QuantLinear& linear) {
  Written written;
  written.layout = FindLayout(layout);
  const QuantTraits traits = TraitsOf(linear);
  for (const PartCodec& part : written.layout->parts) {
    if (part.written != nullptr && !part.written(traits)) continue;
    const Bytes bytes = EncodePart(part, linear);
    written.infos.push_back({"l." + std::string(part.suffix), part.dtype.value_or(linear.scale_dtype), part.shape(linear.shape), 0, 0, bytes.size()});
    written.bytes[std::string(part.suffix)] = bytes;
  }
  return written;
}

inline LayoutHints HintsOf(const Layout& layout, const QuantShape& shape) { return {layout.method, layout.format, shape.bits, static_cast<int64_t>(shape.group_size)}; }
inline Result<std::optional<QuantShape>> Detect(const Written& written, const QuantShape& shape, const LayoutHints& hints = {}) {
  return written.layout->detect("l", shape.in_features, shape.out_features, written.Parts(), hints);
}

constexpr uint8_t kEverything = kCodes | kZeros | kScales | kGroupIndex | kSizes;
inline Tile WholeOf(const QuantShape& shape) { return {0, shape.in_features, 0, shape.out_features}; }
inline QuantLinear ReadTile(Written* written, const QuantShape& shape, const Tile& tile, uint8_t components = kEverything) {
  return Must(DecodeTile(*written->layout, shape, written->Source(), components, tile));
}
inline QuantLinear ReadAll(Written* written, const QuantShape& shape) { return ReadTile(written, shape, WholeOf(shape)); }

// Same codes, zeros, scales (bit for bit) and groups.
inline void ExpectSame(const QuantLinear& a, const QuantLinear& b, const std::string& where) {
  EXPECT_EQ(a.shape, b.shape) << where;
  EXPECT_EQ(a.codes, b.codes) << where;
  EXPECT_EQ(a.zeros, b.zeros) << where;
  EXPECT_EQ(a.scale_dtype, b.scale_dtype) << where;
  EXPECT_EQ(a.scales, b.scales) << where;
  EXPECT_EQ(a.group_index, b.group_index) << where;
}

inline bool BitAt(ByteView bytes, uint64_t bit) { return ((std::to_integer<uint32_t>(bytes[bit / 8]) >> (bit % 8)) & 1U) != 0; }

// Where bit b of the element (i, j) lies in the part, counted from its first byte.
using BitOf = std::function<uint64_t(const QuantShape&, uint64_t i, uint64_t j, uint32_t b)>;
// Every one of rows · columns elements of `bits` bits is where `bit_of` says, no two share a bit,
// and every other bit of the part is 0.
inline void ExpectElements(ByteView part, const QuantShape& s, uint64_t rows, uint64_t columns, uint32_t bits, const BitOf& bit_of,
                           const std::function<uint64_t(uint64_t i, uint64_t j)>& value, const std::string& where) {
  std::vector<bool> seen(part.size() * 8);
  for (uint64_t i = 0; i < rows; ++i) {
    for (uint64_t j = 0; j < columns; ++j) {
      uint64_t found = 0;
      for (uint32_t b = 0; b < bits; ++b) {
        const uint64_t bit = bit_of(s, i, j, b);
        ASSERT_LT(bit, seen.size()) << where;
        ASSERT_FALSE(seen[bit]) << where << ": bit " << bit << " belongs to two";
        seen[bit] = true;
        found |= uint64_t{BitAt(part, bit)} << b;
      }
      ASSERT_EQ(found, value(i, j)) << where << ": element (" << i << ", " << j << ")";
    }
  }
  for (uint64_t bit = 0; bit < seen.size(); ++bit) ASSERT_TRUE(seen[bit] || !BitAt(part, bit)) << where << ": bit " << bit << " is set and belongs to nobody";
}

// The codes of a part that holds nothing else: random ones of each shape, and each value of a code
// in each place; written as `bit_of` says and read back the same.
inline void CheckCodes(std::string_view layout, std::string_view suffix, const std::vector<QuantShape>& shapes, const BitOf& bit_of) {
  const PartCodec& part = *FindLayout(layout)->Part(suffix);
  const auto check = [&](const QuantLinear& linear, const std::string& where) {
    const QuantShape& s = linear.shape;
    const Bytes bytes = EncodePart(part, linear);
    ExpectElements(bytes, s, s.in_features, s.out_features, s.bits, bit_of, [&](uint64_t k, uint64_t n) { return CodeAt(linear, k, n); }, where);
    QuantLinear back;
    back.shape = s;
    Must(part.decode(bytes, &back));
    ASSERT_EQ(back.codes, linear.codes) << where;
  };
  uint64_t seed = 0;
  for (const QuantShape& s : shapes) check(RandomLinear(s, {}, ++seed), fmt::format("{}: {} by {}, {} bits", layout, s.in_features, s.out_features, s.bits));
  std::map<uint32_t, QuantShape> smallest;
  for (const QuantShape& s : shapes) {
    const auto [at, first] = smallest.try_emplace(s.bits, s);
    if (!first && s.Weights() < at->second.Weights()) at->second = s;
  }
  for (const auto& entry : smallest) {
    const QuantShape& s = entry.second;
    QuantLinear linear;
    linear.shape = s;
    for (uint32_t value = 0; value <= s.MaxCode(); ++value) {
      SetCodes(&linear, [&](uint64_t k, uint64_t n) { return static_cast<uint32_t>((value + 5 * k + 3 * n + k / 8 * n) & s.MaxCode()); });
      check(linear, fmt::format("{}: {} bits, value {}", layout, s.bits, value));
    }
  }
}

// The same for zero points, [groups, out].
inline void CheckZeros(std::string_view layout, std::string_view suffix, const std::vector<QuantShape>& shapes, const BitOf& bit_of) {
  const PartCodec& part = *FindLayout(layout)->Part(suffix);
  for (const QuantShape& s : shapes) {
    const std::string where = fmt::format("{}: {} by {} in {} groups, {} bits", layout, s.in_features, s.out_features, s.groups, s.bits);
    for (uint32_t value = 0; value <= s.MaxCode(); ++value) {
      QuantLinear linear;
      linear.shape = s;
      for (uint64_t i = 0; i < s.groups * s.out_features; ++i) linear.zeros.push_back(static_cast<uint16_t>((value + 3 * i + i / 7) & s.MaxCode()));
      const Bytes bytes = EncodePart(part, linear);
      ExpectElements(bytes, s, s.groups, s.out_features, s.bits, bit_of, [&](uint64_t g, uint64_t n) { return ZeroAt(linear, g, n); }, where);
      QuantLinear back;
      back.shape = s;
      Must(part.decode(bytes, &back));
      ASSERT_EQ(back.zeros, linear.zeros) << where;
    }
  }
}

// The same for scales of each float type, [groups, out]; `element_of` gives the place in elements.
inline void CheckScales(std::string_view layout, std::string_view suffix, const std::vector<QuantShape>& shapes, const std::vector<Dtype>& dtypes,
                        const std::function<uint64_t(const QuantShape&, uint64_t g, uint64_t n)>& element_of) {
  const PartCodec& part = *FindLayout(layout)->Part(suffix);
  for (const QuantShape& s : shapes) {
    for (const Dtype dtype : dtypes) {
      const std::string where = fmt::format("{}: {} groups, {} outputs, {}", layout, s.groups, s.out_features, NameOf(dtype));
      const uint32_t bits = InfoOf(dtype).bits;
      QuantLinear linear;
      linear.shape = s;
      linear.scale_dtype = dtype;
      linear.scales = Random(s.out_features + s.groups).Fill(s.groups * s.out_features * bits / 8);
      const Bytes bytes = EncodePart(part, linear);
      ExpectElements(bytes, s, s.groups, s.out_features, bits, [&](const QuantShape&, uint64_t g, uint64_t n, uint32_t b) { return element_of(s, g, n) * bits + b; },
                     [&](uint64_t g, uint64_t n) {
                       const std::byte* at = linear.scales.data() + (g * s.out_features + n) * bits / 8;
                       return bits == 16 ? uint64_t{Load<uint16_t>(at)} : uint64_t{Load<uint32_t>(at)};
                     }, where);
      QuantLinear back;
      back.shape = s;
      back.scale_dtype = dtype;
      Must(part.decode(bytes, &back));
      ASSERT_EQ(back.scales, linear.scales) << where;
    }
  }
}

// What detect must say after a change to the parts of a sound linear.
struct Broken {
  std::string what;
  std::function<void(Written*)> change;
  std::string id;  // empty: these are not this layout's parts
  Code code = Code::kMalformed;
};
inline void CheckBroken(std::string_view layout, const QuantLinear& linear, const std::vector<Broken>& cases) {
  for (const Broken& broken : cases) {
    SCOPED_TRACE(fmt::format("{}: {}", layout, broken.what));
    Written written = Write(layout, linear);
    const LayoutHints hints = HintsOf(*written.layout, linear.shape);
    const auto sound = Detect(written, linear.shape, hints);
    ASSERT_TRUE(sound.ok() && sound.value().has_value());
    broken.change(&written);
    const auto found = Detect(written, linear.shape, hints);
    if (!broken.id.empty()) {
      ExpectError(found, broken.code, broken.id);
    } else {
      ASSERT_TRUE(found.ok()) << found.error().Text();
      EXPECT_FALSE(found.value().has_value());
    }
  }
}
inline Broken Without(const std::string& suffix, const std::string& id) {
  return {"without " + suffix, [suffix](Written* w) { w->Remove(suffix); }, id};
}
inline Broken WithDtype(const std::string& suffix, Dtype dtype, const std::string& id) {
  return {fmt::format("{} of {}", suffix, NameOf(dtype)), [suffix, dtype](Written* w) { w->Info(suffix)->dtype = dtype; }, id};
}
inline Broken WithShape(const std::string& suffix, const Shape& shape, const std::string& id) {
  return {fmt::format("{} of [{}]", suffix, fmt::join(shape, ",")), [suffix, shape](Written* w) { w->Info(suffix)->shape = shape; }, id};
}

}  // namespace q2c::test
