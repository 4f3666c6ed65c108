#include "formats/layouts/layout.h"

#include <algorithm>
#include <numeric>

#include "formats/base/text.h"

namespace q2c {
namespace {

// Units of one axis that a tile covers: [first, first + count).
struct Range {
  uint64_t first = 0;
  uint64_t count = 0;
};

Range Covered(const AxisCut& cut, const QuantShape& whole, const Tile& tile, uint64_t all_units) {
  // The last elements may be fewer than a whole cut.
  const auto range = [&](uint64_t first, uint64_t count) -> Range {
    const uint64_t begin = first / cut.elements * cut.units;
    return {begin, std::min(CeilDiv(count, cut.elements) * cut.units, all_units - std::min(begin, all_units))};
  };
  switch (cut.axis) {
    case Axis::kWhole: return {0, all_units};
    case Axis::kInputs: return range(tile.first_input, tile.inputs);
    case Axis::kOutputs: return range(tile.first_output, tile.outputs);
    case Axis::kGroups: return range(0, whole.groups);
  }
  return {};
}

Result<std::vector<std::byte>> ReadTile(const PartCodec& part, const TensorInfo& info, const QuantShape& shape, const PartSource& source, const Tile& tile, uint64_t scale_bytes) {
  const uint64_t rows = info.shape.empty() ? 1 : info.shape[0];
  const uint64_t row_bytes = rows == 0 ? 0 : info.bytes / rows;
  const Grid grid = part.grid(shape, scale_bytes);
  const Range r = Covered(grid.rows, shape, tile, rows);
  const Range c = Covered(grid.columns, shape, tile, row_bytes);
  if (r.first + r.count > rows || c.first + c.count > row_bytes) return Internal("tile outside tensor '{}'", Escape(info.name));
  std::vector<std::byte> bytes(r.count * c.count);
  if (c.count == row_bytes) {
    QC_TRY(source.read(info, r.first * row_bytes, bytes));
    return bytes;
  }
  for (uint64_t i = 0; i < r.count; ++i) QC_TRY(source.read(info, (r.first + i) * row_bytes + c.first, MutableBytes(bytes).subspan(i * c.count, c.count)));
  return bytes;
}

// Outputs that a tile may hold any multiple of, if its parts are to be read no wider than it is.
uint64_t OutputUnit(const Layout& layout, const QuantShape& shape, uint8_t components) {
  uint64_t unit = 1;
  for (const PartCodec& part : layout.parts) {
    if ((part.components & (kCodes | kZeros | kScales)) == 0 || (part.components & (components | kScales)) == 0) continue;
    const Grid grid = part.grid(shape, 2);
    bool cut = false;
    for (const AxisCut& axis : {grid.rows, grid.columns}) {
      if (axis.axis != Axis::kOutputs) continue;
      cut = true;
      unit = std::lcm(unit, axis.elements);
    }
    if (!cut) return std::max<uint64_t>(1, shape.out_features);  // such a part is read whole
  }
  return std::max<uint64_t>(1, std::min(unit, shape.out_features));  // never 0: it divides
}

Result<QuantLinear> DecodeUnits(const Layout& layout, const QuantShape& shape, const PartSource& source, uint8_t components, const Tile& tile) {
  QuantLinear linear;
  linear.shape = shape;
  linear.shape.in_features = tile.inputs;
  linear.shape.out_features = tile.outputs;
  const auto inside = [](uint64_t first, uint64_t count, uint64_t all) { return first <= all && count <= all - first; };
  if (!inside(tile.first_input, tile.inputs, shape.in_features) || !inside(tile.first_output, tile.outputs, shape.out_features)) return Internal("tile outside layout '{}'", layout.name);
  const bool all_inputs = tile.inputs == shape.in_features;
  if (!all_inputs && (components & ~kCodes) != 0) return Internal("zeros and scales need all inputs");
  const bool from_scales = std::ranges::any_of(layout.parts, [&](const PartCodec& part) { return (part.components & components & kZeros) != 0 && (part.components & kFromScales) != 0; });
  const auto needed = static_cast<uint8_t>(from_scales ? components | kScales : components);
  for (const PartCodec& part : layout.parts) {
    if ((part.components & needed & kScales) == 0 || part.dtype.has_value()) continue;
    if (const TensorInfo* info = source.part(part.suffix)) linear.scale_dtype = info->dtype;
  }
  const uint64_t scale_bytes = InfoOf(linear.scale_dtype).bits / 8;
  uint8_t found = 0;
  for (const PartCodec& part : layout.parts) {
    if ((part.components & needed) == 0) continue;
    if (part.components == kSizes && !(all_inputs && tile.outputs == shape.out_features)) continue;  // they are those of the whole
    const TensorInfo* info = source.part(part.suffix);
    if (info == nullptr) continue;
    QC_ASSIGN(const std::vector<std::byte> bytes, ReadTile(part, *info, shape, source, tile, scale_bytes));
    if (Status status = part.decode(bytes, &linear); !status.ok()) return std::move(status).TakeError().Within(fmt::format("tensor '{}'", Escape(info->name)));
    found |= part.components;
  }
  // What is not stored follows from the layout: symmetric zero points, groups in order.
  if ((components & kZeros) != 0 && (found & kZeros) == 0) linear.zeros.assign(shape.groups * tile.outputs, static_cast<uint16_t>(shape.MidCode()));
  if ((components & kGroupIndex) != 0 && (found & kGroupIndex) == 0) {
    linear.group_index.resize(shape.in_features);
    for (uint64_t k = 0; k < shape.in_features; ++k) linear.group_index[k] = static_cast<int32_t>(k / shape.group_size);
  }
  return linear;
}

}  // namespace

const PartCodec* Layout::Part(std::string_view suffix) const {
  const auto found = std::ranges::find(parts, suffix, &PartCodec::suffix);
  return found == parts.end() ? nullptr : &*found;
}

bool Layout::StoresOffsets() const {
  return std::ranges::any_of(parts, [](const PartCodec& part) { return (part.components & kFromScales) != 0; });
}

std::optional<std::string> Layout::Refuses(const QuantTraits& traits) const {
  const QuantShape& s = traits.shape;
  if (std::ranges::find(bits, s.bits) == bits.end()) return fmt::format("it has {} bits, and '{}' holds {}", s.bits, name, fmt::join(bits, " or "));
  if (traits.act_order && !act_order) return fmt::format("its inputs are scattered over the groups (act-order), which '{}' cannot say", name);
  if (!ragged && group_sizes.empty() && s.Ragged()) {
    return fmt::format("{} inputs are no whole number of groups of {}, and '{}' has no shorter last group", s.in_features, s.group_size, name);
  }
  return refuses == nullptr ? std::nullopt : refuses(traits);
}

std::optional<uint64_t> Layout::GroupSizeFor(const QuantShape& shape, std::span<const uint64_t> allowed) const {
  const auto known = [&](std::span<const uint64_t> list, uint64_t size) {
    if (list.empty() || std::ranges::find(list, size) != list.end()) return true;
    return size == shape.in_features && std::ranges::find(list, 0U) != list.end();
  };
  if (known(group_sizes, shape.group_size) && known(allowed, shape.group_size) && (ragged || !shape.Ragged())) return shape.group_size;
  std::optional<uint64_t> best;
  for (const std::span<const uint64_t> list : {group_sizes, allowed}) {
    for (const uint64_t size : list) {
      const bool divides = size > 0 && shape.group_size % size == 0 && shape.in_features % size == 0;
      if (divides && known(group_sizes, size) && known(allowed, size) && size > best.value_or(0)) best = size;
    }
  }
  return best;
}

Result<QuantLinear> DecodeTile(const Layout& layout, const QuantShape& shape, const PartSource& source, uint8_t components, const Tile& tile) {
  // Outputs need not begin or end where words do: whole units are decoded, then cut.
  const uint64_t unit = OutputUnit(layout, shape, components);
  const uint64_t begin = tile.first_output / unit * unit;
  const uint64_t end = std::min(CeilDiv(tile.first_output + tile.outputs, unit) * unit, shape.out_features);
  if (begin == tile.first_output && end <= begin + tile.outputs) return DecodeUnits(layout, shape, source, components, tile);
  QC_ASSIGN(QuantLinear wide, DecodeUnits(layout, shape, source, components, {tile.first_input, tile.inputs, begin, end - begin}));
  CutOutputs(tile.first_output - begin, tile.outputs, &wide);
  return wide;
}

}  // namespace q2c
