#include "convert/produce.h"

#include <numeric>

#include "formats/base/text.h"
#include "formats/cast.h"

namespace q2c {
namespace {

// Inputs or outputs that a tile may hold any multiple of: what the part itself and all parts
// of the source that it is made from can be cut at. At least 64, so that rows are read in pieces of some size.
uint64_t TileUnit(const PlannedTensor& tensor, Axis axis) {
  constexpr uint64_t kLeast = 64;
  uint64_t unit = kLeast;
  const auto take = [&](const Grid& grid) {
    for (const AxisCut& cut : {grid.rows, grid.columns}) {
      if (cut.axis == axis) unit = std::lcm(unit, cut.elements);
    }
  };
  take(tensor.part->grid(tensor.linear->shape, 2));
  for (const PartCodec& part : tensor.linear->linear->layout->parts) take(part.grid(tensor.linear->linear->traits.shape, 2));
  return unit;
}

// How the rows of a part are cut into tiles; nothing where it can only be made whole.
struct RowTiles {
  Axis axis = Axis::kWhole;
  uint64_t row_bytes = 0;
  uint64_t unit = 0;       // inputs or outputs
  uint64_t unit_rows = 0;
  uint64_t elements_of(uint64_t rows) const { return rows / unit_rows * unit; }
};
std::optional<RowTiles> TilesOf(const PlannedTensor& tensor) {
  const AxisCut cut = tensor.part->grid(tensor.linear->shape, 2).rows;
  // Only codes can be made from a part of the inputs.
  const bool by_input = cut.axis == Axis::kInputs && tensor.part->components == kCodes;
  if (!by_input && cut.axis != Axis::kOutputs) return std::nullopt;
  RowTiles tiles;
  tiles.axis = cut.axis;
  tiles.row_bytes = tensor.bytes / tensor.shape.front();
  tiles.unit = TileUnit(tensor, cut.axis);
  tiles.unit_rows = tiles.unit / cut.elements * cut.units;
  return tiles;
}

Status Encode(const Plan& plan, const PlannedTensor& tensor, uint64_t from, MutableBytes out) {
  const QuantShape& source = tensor.linear->linear->traits.shape;
  Tile tile{0, source.in_features, 0, source.out_features};
  if (const std::optional<RowTiles> tiles = TilesOf(tensor)) {
    const uint64_t first = tiles->elements_of(from / tiles->row_bytes);
    const uint64_t rows = out.size() / tiles->row_bytes;
    // The last tile may end within a unit.
    const bool last = from + out.size() == tensor.bytes;
    const uint64_t all = tiles->axis == Axis::kOutputs ? source.out_features : source.in_features;
    const uint64_t count = last ? all - first : tiles->elements_of(rows);
    if (tiles->axis == Axis::kOutputs) tile = {0, source.in_features, first, count};
    else tile = {first, count, 0, source.out_features};
  }
  auto components = static_cast<uint8_t>(tensor.part->components & ~(kFromScales | kSizes));
  if ((tensor.part->components & kFromScales) != 0) components |= kScales;
  QC_ASSIGN(QuantLinear linear, DecodeLinear(*plan.model, *tensor.linear->linear, components, tile));
  // A tile may have none of the offsets that make the whole linear one of offsets.
  linear.nearest_zeros = tensor.linear->linear->traits.nearest_zeros;
  if (tile.inputs == source.in_features) SplitGroups(tensor.linear->shape.group_size, &linear);
  return tensor.part->encode(linear, out);
}

Status CastPiece(const Plan& plan, const PlannedTensor& tensor, uint64_t from, MutableBytes out) {
  const TensorInfo& info = plan.model->info(tensor.input);
  const DtypeInfo& in = InfoOf(info.dtype);
  const DtypeInfo& made = InfoOf(tensor.dtype);
  const auto elements = [&](uint64_t bytes) { return bytes * 8 / made.bits * made.block; };
  std::vector<std::byte> bytes(elements(out.size()) / in.block * in.bits / 8);
  QC_TRY(plan.model->checkpoint->Read(info, plan.InputOffset(tensor) + elements(from) / in.block * in.bits / 8, bytes));
  Cast(bytes, info.dtype, out, tensor.dtype);
  return {};
}

}  // namespace

uint64_t UnitBytes(const Plan& plan, const PlannedTensor& tensor) {
  switch (tensor.source) {
    case PlannedTensor::Source::kCopy:
    case PlannedTensor::Source::kZeros: return 1;
    case PlannedTensor::Source::kCast: {
      const DtypeInfo& made = InfoOf(tensor.dtype);
      const uint64_t elements = std::lcm<uint64_t>(made.block, InfoOf(plan.model->info(tensor.input).dtype).block);
      return elements / made.block * made.bits / 8;
    }
    case PlannedTensor::Source::kEncode: break;
  }
  const std::optional<RowTiles> tiles = TilesOf(tensor);
  return tiles.has_value() ? std::min(tensor.bytes, tiles->unit_rows * tiles->row_bytes) : tensor.bytes;
}

Status Produce(const Plan& plan, const PlannedTensor& tensor, uint64_t from, MutableBytes out) {
  Status status = tensor.source == PlannedTensor::Source::kCast ? CastPiece(plan, tensor, from, out) : Encode(plan, tensor, from, out);
  if (!status.ok()) return std::move(status).TakeError().Within(fmt::format("tensor '{}'", Escape(tensor.name)));
  return status;
}

}  // namespace q2c
