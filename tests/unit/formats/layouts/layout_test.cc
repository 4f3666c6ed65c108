// All layouts with each other: there and back, tiles of every pair, what each refuses or rounds.
#include "formats/layouts/layout.h"

#include <numeric>
#include <set>

#include "tests/unit/formats/layouts/content.h"

namespace q2c {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

bool IsDense(const Layout& layout) { return layout.name.starts_with("dense"); }

// The content in the group size that the layout wants; nothing if it cannot hold it.
std::optional<QuantLinear> For(const Layout& layout, QuantLinear linear) {
  const std::optional<uint64_t> size = layout.GroupSizeFor(linear.shape, {});
  if (!size.has_value()) return std::nullopt;
  if (layout.Refuses(TraitsOf(linear)).has_value()) return std::nullopt;
  SplitGroups(*size, &linear);
  return linear;
}

// The shape as detect finds it, and the group size that the config says.
QuantShape Detected(const Written& written, const QuantShape& shape) {
  QuantShape found = *Must(Detect(written, shape, HintsOf(*written.layout, shape)));
  EXPECT_EQ(found.groups, shape.groups) << written.layout->name;
  found.group_size = shape.group_size;
  return found;
}

void ExpectSameWeights(const QuantLinear& a, const QuantLinear& b, const std::string& where) {
  ASSERT_EQ(a.shape.Weights(), b.shape.Weights());
  for (uint64_t n = 0; n < a.shape.out_features; ++n) {
    for (uint64_t k = 0; k < a.shape.in_features; ++k) ASSERT_EQ(WeightAt(a, k, n), WeightAt(b, k, n)) << where << ": " << k << ", " << n;
  }
}

struct Named {
  std::string name;
  QuantLinear linear;
};
std::vector<Named> Contents() {
  std::vector<Named> contents;
  uint64_t seed = 100;
  const auto add = [&](const QuantShape& shape, const Content& content, const char* name) {
    contents.push_back({fmt::format("{} ({} by {} in {}, {} bits, {})", name, shape.in_features, shape.out_features, shape.group_size, shape.bits, NameOf(content.dtype)),
                        RandomLinear(shape, content, ++seed)});
  };
  for (const uint32_t bits : {2U, 3U, 4U, 8U}) {
    add(ShapeOf(256, 256, 128, bits), {.symmetric = true}, "symmetric");
    add(ShapeOf(320, 96, 32, bits), {.zero_0 = false}, "no zero of 0");
    add(ShapeOf(192, 32, 64, bits), {}, "any zeros");
    add(ShapeOf(128, 64, 32, bits), {.zero_0 = false, .act_order = true}, "act-order");
    add(ShapeOf(160, 64, 64, bits), {.zero_0 = false}, "ragged");
  }
  for (const Dtype dtype : {Dtype::kBF16, Dtype::kF32}) {
    add(ShapeOf(256, 256, 256, 4), {.dtype = dtype, .symmetric = true, .power_of_two = true}, "one group");
    add(ShapeOf(192, 64, 64, 4), {.dtype = dtype}, "any zeros");
    add(ShapeOf(128, 32, 32, 3), {.dtype = dtype, .power_of_two = true}, "powers of two");
  }
  add(ShapeOf(256, 256, 256, 4), {.symmetric = true}, "one group");
  add(ShapeOf(1024, 32, 1024, 4), {}, "one group");
  return contents;
}

TEST(Layouts, ThereAndBack) {
  std::map<std::string, int> held;
  for (const Named& content : Contents()) {
    for (const Layout& layout : Layouts()) {
      const auto linear = For(layout, content.linear);
      if (IsDense(layout) || !linear.has_value()) continue;
      if (layout.rounds != nullptr && layout.rounds(*linear).has_value()) continue;
      const std::string where = fmt::format("{}: {}", layout.name, content.name);
      Written written = Write(layout.name, *linear);
      const QuantShape shape = Detected(written, linear->shape);
      const QuantLinear back = ReadAll(&written, shape);
      ++held[std::string(layout.name)];
      EXPECT_FALSE(back.nearest_zeros) << where;
      ExpectSameWeights(back, content.linear, where);
      if (!layout.same_codes) continue;
      for (uint64_t n = 0; n < shape.out_features; ++n) {
        for (uint64_t k = 0; k < shape.in_features; ++k) ASSERT_EQ(CodeAt(back, k, n), CodeAt(*linear, k, n)) << where;
      }
      EXPECT_EQ(back.zeros, linear->zeros) << where;
      EXPECT_EQ(back.group_index, linear->group_index) << where;
      if (back.scale_dtype == linear->scale_dtype) {
        EXPECT_EQ(back.scales, linear->scales) << where;
      }
    }
  }
  for (const Layout& layout : Layouts()) EXPECT_TRUE(IsDense(layout) || held[std::string(layout.name)] >= 2) << layout.name << ": " << held[std::string(layout.name)];
}

// A → B → A gives the bytes of A again, where B holds it in the same groups; the same weights in any case.
TEST(Layouts, ByWayOfEveryOther) {
  int pairs = 0;
  for (const Named& content : Contents()) {
    for (const Layout& a : Layouts()) {
      const auto in_a = For(a, content.linear);
      if (IsDense(a) || !in_a.has_value() || (a.rounds != nullptr && a.rounds(*in_a).has_value())) continue;
      Written first = Write(a.name, *in_a);
      const QuantLinear from_a = ReadAll(&first, Detected(first, in_a->shape));
      for (const Layout& b : Layouts()) {
        const auto in_b = For(b, from_a);
        if (IsDense(b) || !in_b.has_value() || (b.rounds != nullptr && b.rounds(*in_b).has_value())) continue;
        const std::string where = fmt::format("{} by way of {}: {}", a.name, b.name, content.name);
        Written between = Write(b.name, *in_b);
        const QuantLinear from_b = ReadAll(&between, Detected(between, in_b->shape));
        const auto again = For(a, from_b);
        ++pairs;
        if (!again.has_value()) {  // a block type of 4 or 8 bits stands for fewer; what it came from need not hold that
          EXPECT_FALSE(b.same_codes && b.bits.size() > 3) << where;
          ExpectSameWeights(from_b, content.linear, where);
          continue;
        }
        Written second = Write(a.name, *again);
        const bool same = from_b.shape == from_a.shape && from_b.scale_dtype == from_a.scale_dtype && a.same_codes && b.same_codes;
        if (same) {
          EXPECT_EQ(first.bytes, second.bytes) << where;
        } else {
          ExpectSameWeights(ReadAll(&second, Detected(second, again->shape)), content.linear, where);
        }
      }
    }
  }
  EXPECT_GT(pairs, 300);
}

// What rows of outputs, or a rectangle of codes, of the canonical form are.
QuantLinear CutOf(const QuantLinear& whole, const Tile& tile) {
  QuantLinear cut = whole;
  cut.shape.in_features = tile.inputs;
  cut.shape.out_features = tile.outputs;
  SetCodes(&cut, [&](uint64_t k, uint64_t n) { return CodeAt(whole, tile.first_input + k, tile.first_output + n); });
  cut.zeros.clear();
  cut.scales.clear();
  const uint64_t width = InfoOf(whole.scale_dtype).bits / 8;
  for (uint64_t g = 0; g < whole.shape.groups; ++g) {
    for (uint64_t n = tile.first_output; n < tile.first_output + tile.outputs; ++n) {
      cut.zeros.push_back(ZeroAt(whole, g, n));
      for (uint64_t b = 0; b < width; ++b) cut.scales.push_back(whole.scales[(g * whole.shape.out_features + n) * width + b]);
    }
  }
  return cut;
}

// The finest step at which all parts can be cut along an axis.
uint64_t StepOf(const Layout& layout, const QuantShape& shape, Axis axis, uint8_t components = kEverything) {
  uint64_t step = 1;
  for (const PartCodec& part : layout.parts) {
    if ((part.components & components) == 0) continue;
    const Grid grid = part.grid(shape, 2);
    for (const AxisCut& cut : {grid.rows, grid.columns}) {
      if (cut.axis == axis) step = std::lcm(step, cut.elements);
    }
  }
  return step;
}

std::vector<std::pair<uint64_t, uint64_t>> Runs(uint64_t size, uint64_t step) {
  std::vector<std::pair<uint64_t, uint64_t>> runs = {{0, size}};
  for (uint64_t first = 0; first < size; first += step) {
    // The first three and the last.
    if (first < 3 * step || first + step >= size) runs.emplace_back(first, std::min(step, size - first));
  }
  if (size > 2 * step) {
    runs.emplace_back(step, size - step);
    runs.emplace_back(step, (size - 1) / step * step - step);
  }
  return runs;
}

TEST(Tiles, DecodedAreThoseOfTheWhole) {
  for (const Named& content : Contents()) {
    for (const Layout& layout : Layouts()) {
      const auto linear = For(layout, content.linear);
      if (IsDense(layout) || !linear.has_value()) continue;
      const std::string where = fmt::format("{}: {}", layout.name, content.name);
      Written written = Write(layout.name, *linear);
      const QuantShape shape = Detected(written, linear->shape);
      const QuantLinear whole = ReadAll(&written, shape);
      for (const auto& [first, count] : Runs(shape.out_features, StepOf(layout, shape, Axis::kOutputs))) {
        const Tile tile = {0, shape.in_features, first, count};
        ExpectSame(ReadTile(&written, shape, tile), CutOf(whole, tile), fmt::format("{}, outputs {} + {}", where, first, count));
        // A row of the canonical codes is whole words.
        const uint64_t step = std::lcm(StepOf(layout, shape, Axis::kInputs, kCodes), uint64_t{32});
        for (const auto& [k, inputs] : Runs(shape.in_features, step)) {
          const Tile rectangle = {k, inputs, first, count};
          ASSERT_EQ(ReadTile(&written, shape, rectangle, kCodes).codes, CutOf(whole, rectangle).codes) << where << ", inputs " << k << " + " << inputs << ", outputs " << first << " + " << count;
        }
      }
    }
  }
}

// Where two linears are stored as one, the border between them need not be one between words.
TEST(Tiles, MayBeginAndEndAtAnyOutput) {
  std::map<std::string, std::set<uint32_t>> seen;
  for (const Named& content : Contents()) {
    for (const Layout& layout : Layouts()) {
      const auto linear = For(layout, content.linear);
      if (IsDense(layout) || !linear.has_value()) continue;
      Written written = Write(layout.name, *linear);
      const QuantShape shape = Detected(written, linear->shape);
      const QuantLinear whole = ReadAll(&written, shape);
      seen[std::string(layout.name)].insert(shape.bits);
      for (const auto& [first, end] : std::vector<std::pair<uint64_t, uint64_t>>{{0, 1}, {0, 17}, {1, 2}, {5, 31}, {7, 30}, {9, shape.out_features}, {31, shape.out_features}, {shape.out_features - 1, shape.out_features}}) {
        const Tile tile = {0, shape.in_features, first, end - first};
        ExpectSame(ReadTile(&written, shape, tile, kCodes | kZeros | kScales | kGroupIndex), CutOf(whole, tile), fmt::format("{}: {}, outputs {} to {}", layout.name, content.name, first, end));
      }
    }
  }
  for (const char* layout : {"gptq-v1", "gptq-v2", "compressed-tensors"}) EXPECT_EQ(seen[layout], (std::set<uint32_t>{2, 3, 4, 8})) << layout;
}

// The bytes of a part that belong to a range of outputs, by its grid.
Bytes RowsOf(const PartCodec& part, const Bytes& whole, const Shape& part_shape, const QuantShape& shape, uint64_t scale_bytes, uint64_t first, uint64_t count) {
  const Grid grid = part.grid(shape, scale_bytes);
  const uint64_t rows = part_shape[0];
  const uint64_t row_bytes = whole.size() / rows;
  const auto covered = [&](const AxisCut& cut, uint64_t unit, uint64_t all) {
    return cut.axis != Axis::kOutputs || unit >= all ? true : unit >= first / cut.elements * cut.units && unit < (first + count + cut.elements - 1) / cut.elements * cut.units;
  };
  Bytes cut;
  for (uint64_t r = 0; r < rows; ++r) {
    for (uint64_t c = 0; c < row_bytes; ++c) {
      if (covered(grid.rows, r, rows) && covered(grid.columns, c, row_bytes)) cut.push_back(whole[r * row_bytes + c]);
    }
  }
  return cut;
}

TEST(Tiles, EncodedAreThoseOfTheWhole) {
  int pairs = 0;
  for (const Named& content : Contents()) {
    for (const Layout& from : Layouts()) {
      const auto linear = For(from, content.linear);
      if (IsDense(from) || !linear.has_value()) continue;
      Written source = Write(from.name, *linear);
      const QuantShape shape = Detected(source, linear->shape);
      const QuantLinear whole_from = ReadAll(&source, shape);
      for (const Layout& to : Layouts()) {
        const auto whole = For(to, whole_from);
        if (!whole.has_value()) continue;
        ++pairs;
        const Written target = Write(to.name, *whole);
        const uint64_t step = std::lcm(StepOf(from, shape, Axis::kOutputs), StepOf(to, whole->shape, Axis::kOutputs));
        for (const auto& [first, count] : Runs(shape.out_features, step)) {
          QuantLinear tile = ReadTile(&source, shape, {0, shape.in_features, first, count});
          SplitGroups(whole->shape.group_size, &tile);
          tile.nearest_zeros = whole->nearest_zeros;  // what a tile alone need not show
          for (const TensorInfo& info : target.infos) {
            const PartCodec& part = *to.Part(info.name.substr(2));
            if (part.components == kSizes) continue;  // speaks of the whole
            ASSERT_EQ(EncodePart(part, tile), RowsOf(part, target.bytes.at(std::string(part.suffix)), info.shape, whole->shape, InfoOf(whole->scale_dtype).bits / 8, first, count))
                << from.name << " to " << to.name << ", " << part.suffix << ", outputs " << first << " + " << count << ": " << content.name;
          }
        }
      }
    }
  }
  EXPECT_GT(pairs, 400);
}

TEST(Tiles, PartOfTheInputsIsCodesOnly) {
  const QuantLinear linear = Fixture(ShapeOf(64, 32, 32, 4));
  Written written = Write("gptq-v1", linear);
  for (const uint8_t components : {uint8_t{kZeros}, uint8_t{kScales}, uint8_t{kCodes | kGroupIndex}}) {
    ExpectError(DecodeTile(*written.layout, linear.shape, written.Source(), components, {0, 32, 0, 32}), Code::kInternal, "internal");
  }
}

TEST(Tiles, WhatIsAbsentFollowsFromTheLayout) {
  const QuantLinear linear = Fixture(ShapeOf(64, 32, 32, 4), true);
  Written written = Write("gptq-v1", linear);
  written.Remove("g_idx");
  ExpectSame(ReadAll(&written, linear.shape), linear, "no g_idx");
  // Only what was asked for.
  const QuantLinear zeros = ReadTile(&written, linear.shape, WholeOf(linear.shape), kZeros);
  EXPECT_EQ(zeros.zeros, linear.zeros);
  EXPECT_TRUE(zeros.codes.empty() && zeros.scales.empty() && zeros.group_index.empty());
}

// The error of a part names its tensor; that of the file goes up as it is.
TEST(Tiles, Errors) {
  const QuantLinear linear = Fixture(ShapeOf(64, 32, 32, 4));
  Written written = Write("gptq-v1", linear);
  Store(written.bytes["g_idx"].data() + 4, int32_t{7});
  ExpectError(DecodeTile(*written.layout, linear.shape, written.Source(), kGroupIndex, WholeOf(linear.shape)), Code::kMalformed, "quant-value", {"l.g_idx"});
  PartSource source = written.Source();
  source.read = [](const TensorInfo&, uint64_t, MutableBytes) -> Status { return MakeError(Code::kIo, "read", "gone"); };
  ExpectError(DecodeTile(*written.layout, linear.shape, source, kCodes, WholeOf(linear.shape)), Code::kIo, "read");
  ExpectError(DecodeTile(*written.layout, linear.shape, written.Source(), kCodes, {64, 64, 0, 32}), Code::kInternal, "internal");
  ExpectError(DecodeTile(*written.layout, linear.shape, written.Source(), kCodes, {32, 64, 0, 32}), Code::kInternal, "internal");
  ExpectError(DecodeTile(*written.layout, linear.shape, written.Source(), kEverything, {0, 64, 32, 32}), Code::kInternal, "internal");
}

// The tensors of one layout are no other's, whatever the config says.
TEST(Layouts, EachIsRecognisedAsItself) {
  for (const Named& content : Contents()) {
    for (const Layout& layout : Layouts()) {
      const auto linear = For(layout, content.linear);
      if (IsDense(layout) || !linear.has_value()) continue;
      const Written written = Write(layout.name, *linear);
      for (const bool said : {false, true}) {
        LayoutHints hints = HintsOf(layout, linear->shape);
        if (!said) hints.method = hints.format = {};
        std::string_view found;
        for (const Layout& other : Layouts()) {
          const auto shape = other.detect("l", linear->shape.in_features, linear->shape.out_features, written.Parts(), hints);
          ASSERT_TRUE(shape.ok()) << other.name << ": " << shape.error().Text();
          if (!shape.value().has_value()) continue;
          found = other.name;
          break;
        }
        // The two versions of GPTQ differ in values only.
        EXPECT_EQ(found, layout.name == "gptq-v2" ? "gptq-v1" : layout.name) << content.name;
      }
    }
  }
}

struct Row {
  const char* layout;
  QuantTraits traits;
  const char* why;  // part of the reason; null: it is held
};
QuantTraits Traits(uint64_t in, uint64_t out, uint64_t group, uint32_t bits) {
  QuantTraits traits;
  traits.shape = ShapeOf(in, out, group, bits);
  return traits;
}
QuantTraits Symmetric(QuantTraits traits) {
  traits.symmetric = true;
  return traits;
}
QuantTraits Zero0(QuantTraits traits) {
  traits.has_zero_0 = true;
  return traits;
}
QuantTraits ActOrder(QuantTraits traits) {
  traits.act_order = true;
  return traits;
}

TEST(Layouts, Refuses) {
  const QuantTraits plain = Traits(256, 256, 128, 4);
  std::vector<Row> rows;
  // Widths.
  for (const Layout& layout : Layouts()) {
    for (const uint32_t bits : {2U, 3U, 4U, 8U}) {
      const bool held = std::ranges::find(layout.bits, bits) != layout.bits.end();
      rows.push_back({layout.name.data(), Symmetric(Traits(256, 256, 128, bits)), held ? nullptr : "bits"});
    }
    rows.push_back({layout.name.data(), Symmetric(Traits(256, 256, 128, 5)), "bits"});
    const bool three = layout.name == "compressed-tensors-2025";
    QuantTraits scattered = ActOrder(Symmetric(Traits(256, 256, 128, three ? 3 : 4)));
    rows.push_back({layout.name.data(), scattered, layout.name.starts_with("gptq") || layout.name.starts_with("dense") ? nullptr : "act-order"});
  }
  // A shorter last group.
  for (const char* layout : {"awq-gemm", "awq-gemv", "compressed-tensors"}) rows.push_back({layout, Traits(320, 256, 128, 4), "no whole number of groups"});
  rows.push_back({"compressed-tensors-2025", Traits(320, 256, 128, 3), "no whole number of groups"});
  for (const char* layout : {"gptq-v1", "gptq-v2", "gguf-q4_1", "dense-fp16", "dense-bf16", "dense-fp32"}) rows.push_back({layout, Traits(320, 256, 128, 4), nullptr});
  // A zero point of 0.
  for (const Layout& layout : Layouts()) {
    if (layout.bits.size() == 1 && layout.bits[0] == 3) continue;
    const bool symmetric_only = layout.name == "marlin" || layout.name == "gguf-q4_0";
    rows.push_back({layout.name.data(), Zero0(plain), layout.name == "gptq-v1" ? "zero points of 0" : symmetric_only ? "not all 8" : nullptr});
  }
  for (const uint32_t bits : {2U, 3U}) {
    rows.push_back({"gguf-q4_0", Zero0(Traits(256, 256, 32, bits)), nullptr});
    rows.push_back({"gguf-q8_0", Zero0(Traits(256, 256, 32, bits)), nullptr});
  }
  rows.push_back({"gguf-q8_0", Traits(256, 256, 32, 8), "not all 128"});
  rows.push_back({"gguf-q8_0", Symmetric(Traits(256, 256, 32, 8)), nullptr});
  // Sizes.
  for (const char* layout : {"gptq-v1", "gptq-v2", "mlx"}) {
    rows.push_back({layout, Traits(264, 256, 264, 4), "multiples of 32"});
    rows.push_back({layout, Traits(256, 40, 128, 4), "multiples of 32"});
    rows.push_back({layout, Traits(224, 160, 32, 4), nullptr});
  }
  rows.push_back({"awq-gemm", Traits(256, 40, 128, 4), "multiples of 32"});
  rows.push_back({"awq-gemm", Traits(264, 96, 264, 4), nullptr});
  rows.push_back({"awq-gemv", Traits(256, 40, 128, 4), nullptr});
  rows.push_back({"awq-gemv-fast", Traits(256, 42, 128, 4), "multiples of 64 and outputs of 4"});
  rows.push_back({"awq-gemv-fast", Traits(288, 64, 32, 4), "multiples of 64 and outputs of 4"});
  for (const char* layout : {"awq-gemv", "awq-gemv-fast"}) {
    for (const uint64_t group : {16U, 96U}) rows.push_back({layout, Traits(192, 64, group, 4), "groups of 32, 64, 128 and more"});
    for (const uint64_t group : {32U, 64U, 192U}) rows.push_back({layout, Traits(192, 64, group, 4), nullptr});
  }
  rows.push_back({"marlin", Traits(256, 256, 128, 4), "not all 8"});
  for (const auto& [in, out] : std::vector<std::pair<uint64_t, uint64_t>>{{192, 256}, {256, 128}, {64, 256}}) rows.push_back({"marlin", Symmetric(Traits(in, out, in, 4)), "multiples of 128 and outputs of 256"});
  rows.push_back({"marlin", Symmetric(plain), nullptr});
  for (const char* layout : {"gguf-q4_0", "gguf-q8_0"}) rows.push_back({layout, Symmetric(Traits(40, 256, 40, 4)), "multiples of 32"});
  rows.push_back({"gguf-q4_1", Traits(40, 256, 40, 4), "multiples of 32"});

  for (const Row& row : rows) {
    const auto why = FindLayout(row.layout)->Refuses(row.traits);
    const std::string where = fmt::format("{}: {} by {} in {}, {} bits", row.layout, row.traits.shape.in_features, row.traits.shape.out_features, row.traits.shape.group_size, row.traits.shape.bits);
    EXPECT_EQ(why.has_value(), row.why != nullptr) << where << ": " << why.value_or("held");
    if (why.has_value() && row.why != nullptr) {
      EXPECT_NE(why->find(row.why), std::string::npos) << where << ": " << *why;
    }
  }
}

TEST(Layouts, GroupSizeFor) {
  struct Case {
    const char* layout;
    QuantShape shape;
    std::vector<uint64_t> allowed;
    std::optional<uint64_t> expected;
  };
  constexpr auto kNone = std::nullopt;
  for (const Case& c : std::vector<Case>{
           {"gptq-v1", ShapeOf(256, 32, 48, 4), {}, 48}, {"gptq-v1", ShapeOf(256, 32, 256, 4), {}, 256}, {"gptq-v1", ShapeOf(160, 32, 64, 4), {}, 64},
           {"gptq-v1", ShapeOf(256, 32, 128, 4), {32, 64}, 64}, {"gptq-v1", ShapeOf(256, 32, 128, 4), {32, 128}, 128}, {"gptq-v1", ShapeOf(256, 32, 16, 4), {32, 64}, kNone},
           {"gptq-v1", ShapeOf(256, 32, 256, 4), {0, 128}, 256}, {"gptq-v1", ShapeOf(256, 32, 256, 4), {128}, 128}, {"gptq-v1", ShapeOf(256, 32, 128, 4), {0}, kNone},
           {"mlx", ShapeOf(256, 32, 32, 4), {}, 32}, {"mlx", ShapeOf(256, 32, 64, 4), {}, 64}, {"mlx", ShapeOf(256, 32, 128, 4), {}, 128}, {"mlx", ShapeOf(256, 32, 256, 4), {}, 128},
           {"mlx", ShapeOf(192, 32, 192, 4), {}, 64}, {"mlx", ShapeOf(160, 32, 160, 4), {}, 32}, {"mlx", ShapeOf(160, 32, 64, 4), {}, 32}, {"mlx", ShapeOf(256, 32, 16, 4), {}, kNone},
           {"mlx", ShapeOf(240, 32, 48, 4), {}, kNone}, {"mlx", ShapeOf(256, 32, 256, 4), {64}, 64}, {"mlx", ShapeOf(256, 32, 256, 4), {16}, kNone}, {"mlx", ShapeOf(256, 32, 128, 4), {32, 64}, 64},
           {"marlin", ShapeOf(256, 256, 128, 4), {}, 128}, {"marlin", ShapeOf(256, 256, 256, 4), {}, 256}, {"marlin", ShapeOf(512, 256, 256, 4), {}, 128}, {"marlin", ShapeOf(256, 256, 64, 4), {}, kNone},
           {"marlin", ShapeOf(128, 256, 128, 4), {}, 128}, {"marlin", ShapeOf(256, 256, 256, 4), {128}, 128}, {"marlin", ShapeOf(64, 256, 64, 4), {}, 64},
           {"gguf-q4_0", ShapeOf(256, 32, 128, 4), {}, 32}, {"gguf-q4_0", ShapeOf(256, 32, 32, 4), {}, 32}, {"gguf-q4_0", ShapeOf(160, 32, 64, 4), {}, 32}, {"gguf-q4_0", ShapeOf(96, 32, 48, 4), {}, kNone},
           {"gguf-q8_0", ShapeOf(256, 32, 16, 4), {}, kNone}, {"gguf-q4_1", ShapeOf(224, 32, 224, 4), {}, 32},
           {"awq-gemm", ShapeOf(256, 32, 128, 4), {}, 128}, {"awq-gemm", ShapeOf(160, 32, 64, 4), {}, kNone}, {"awq-gemm", ShapeOf(160, 32, 64, 4), {32}, 32},
           {"compressed-tensors", ShapeOf(160, 32, 64, 4), {0, 32, 64, 128}, 32}, {"compressed-tensors", ShapeOf(160, 32, 160, 4), {0, 32, 64, 128}, 160},
           {"dense-fp16", ShapeOf(160, 32, 48, 4), {}, 48}}) {
    EXPECT_EQ(FindLayout(c.layout)->GroupSizeFor(c.shape, c.allowed), c.expected) << c.layout << ", " << c.shape.in_features << " in " << c.shape.group_size << ", allowed " << fmt::format("{}", fmt::join(c.allowed, " "));
  }
}

// Pattern of the first scale and zero point of an otherwise harmless linear.
QuantLinear With(Dtype dtype, uint32_t scale, uint16_t zero, uint32_t bits = 4) {
  QuantLinear linear = RandomLinear(ShapeOf(32, 32, 32, bits), {.dtype = dtype, .symmetric = true, .power_of_two = true}, 9);
  if (dtype == Dtype::kF32) Store(linear.scales.data(), scale);
  else Store(linear.scales.data(), static_cast<uint16_t>(scale));
  linear.zeros[0] = zero;
  return linear;
}

TEST(Layouts, Rounds) {
  struct Case {
    const char* layout;
    QuantLinear linear;
    bool rounds;
  };
  for (const Case& c : std::vector<Case>{
           {"gguf-q4_0", With(Dtype::kF16, 0x1234, 8), false}, {"gguf-q4_0", With(Dtype::kBF16, 0x3F81, 8), false},  // 1.0078125
           {"gguf-q4_0", With(Dtype::kBF16, 0x4780, 8), true},                                                       // 65536
           {"gguf-q4_0", With(Dtype::kBF16, 0x477F, 8), false},                                                      // 65280
           {"gguf-q4_0", With(Dtype::kBF16, 0x3380, 8), false},                                                      // 2^-24, the smallest half
           {"gguf-q4_0", With(Dtype::kBF16, 0x3300, 8), true}, {"gguf-q4_0", With(Dtype::kBF16, 0x3390, 8), true},   // 2^-25; 1.125 · 2^-24
           {"gguf-q8_0", With(Dtype::kBF16, 0x4780, 8), true}, {"marlin", With(Dtype::kBF16, 0x4780, 8), true}, {"marlin", With(Dtype::kF16, 0x7BFF, 8), false},
           {"gguf-q4_0", With(Dtype::kF32, 0x3F802000, 8), false}, {"gguf-q4_0", With(Dtype::kF32, 0x3F801000, 8), true},  // 1 + 2^-10; 1 + 2^-11
           {"awq-gemv-fast", With(Dtype::kF16, 0x3C01, 8), false}, {"awq-gemv-fast", With(Dtype::kF16, 0x3C01, 3), true},
           {"gguf-q4_1", With(Dtype::kBF16, 0x4780, 0), true}, {"gguf-q4_1", With(Dtype::kF16, 0x3C01, 8), false}, {"gguf-q4_1", With(Dtype::kF16, 0x3C01, 3), true},
           {"gguf-q4_1", With(Dtype::kF16, 0x3C00, 15), false}, {"gguf-q4_1", With(Dtype::kF16, 0x7BFF, 8), true},  // −8 · 65504
           {"mlx", With(Dtype::kF16, 0x3C01, 8), false}, {"mlx", With(Dtype::kF16, 0x3C01, 3), true}, {"mlx", With(Dtype::kF16, 0x3C00, 3), false}, {"mlx", With(Dtype::kF16, 0x7BFF, 8), true},
           {"mlx", With(Dtype::kF16, 0x0001, 13), false}, {"mlx", With(Dtype::kBF16, 0x3F81, 3), true}, {"mlx", With(Dtype::kF32, 0x3F800001, 3), true}, {"mlx", With(Dtype::kF32, 0x3F802000, 15), false},
           {"mlx", With(Dtype::kF16, 0x7E00, 8), true}, {"mlx", With(Dtype::kF16, 0x3C01, 0), false},
           {"dense-fp16", With(Dtype::kF16, 0x3C00, 8), true}, {"dense-bf16", With(Dtype::kF16, 0x3C00, 8), true}, {"dense-fp32", With(Dtype::kF16, 0x3C01, 7), false},
           {"dense-fp32", With(Dtype::kBF16, 0x3F81, 7), false}, {"dense-fp32", With(Dtype::kF32, 0x3F800001, 7), true}}) {
    const auto why = FindLayout(c.layout)->rounds(c.linear);
    EXPECT_EQ(why.has_value(), c.rounds) << c.layout << ", " << NameOf(c.linear.scale_dtype) << ", scale " << c.linear.ScaleAt(0) << ", zero " << c.linear.zeros[0] << ": " << why.value_or("");
  }
  for (const char* layout : {"gptq-v1", "gptq-v2", "awq-gemm", "awq-gemv", "compressed-tensors", "compressed-tensors-2025"}) EXPECT_EQ(FindLayout(layout)->rounds, nullptr) << layout;
}

TEST(Layouts, TableIsConsistent) {
  std::map<std::string_view, std::string> of_encoding;
  const QuantLinear linear = RandomLinear(ShapeOf(256, 256, 128, 4), {.zero_0 = false}, 5);
  const QuantLinear symmetric = RandomLinear(ShapeOf(256, 256, 128, 4), {.symmetric = true}, 5);
  for (const Layout& layout : Layouts()) {
    EXPECT_EQ(FindLayout(layout.name), &layout);
    for (const PartCodec& part : layout.parts) EXPECT_EQ(layout.Part(part.suffix), &part);
    EXPECT_EQ(layout.Part("nothing"), nullptr);
    auto held = For(layout, linear);
    if (!held.has_value()) held = For(layout, symmetric);
    if (!held.has_value() || layout.name.starts_with("marlin")) continue;
    // Equal encodings are equal bytes, which the plan copies.
    for (const auto& [suffix, bytes] : Write(layout.name, *held).bytes) {
      const auto [at, added] = of_encoding.try_emplace(layout.Part(suffix)->encoding, Sha256::Of(bytes));
      if (!added) {
        EXPECT_EQ(at->second, Sha256::Of(bytes)) << layout.name << ", " << suffix;
      }
    }
  }
  EXPECT_EQ(FindLayout("none"), nullptr);
  EXPECT_EQ(LayoutNames().size(), Layouts().size());
}

}  // namespace
}  // namespace q2c
