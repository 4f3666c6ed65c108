#include "convert/produce.h"

#include <numeric>

#include "formats/base/text.h"
#include "formats/base/timings.h"
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
  if (tensor.linear->order != nullptr) return std::nullopt;  // what follows each other comes from anywhere
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

// Codes of new inputs that complete the last group there was: its zero points.
Result<std::vector<uint16_t>> LastZeros(const Plan& plan, const PlannedLinear& planned, const Tile& stored) {
  const QuantShape& source = planned.linear->traits.shape;
  QC_ASSIGN(const QuantLinear linear, DecodeLinear(*plan.model, *planned.linear, kZeros, {0, source.in_features, stored.first_output, stored.outputs}));
  return std::vector<uint16_t>(linear.zeros.end() - static_cast<std::ptrdiff_t>(stored.outputs), linear.zeros.end());
}

// A tile of the output: channels in their new order, groups split, new channels filled with
// zeros. Where there is an order the tile is the whole linear.
Result<QuantLinear> Make(const Plan& plan, const PlannedLinear& planned, uint8_t components, const Tile& tile) {
  const QuantShape& source = planned.linear->traits.shape;
  const auto within = [](uint64_t first, uint64_t count, uint64_t all) { return std::min(count, all - std::min(first, all)); };
  const Tile stored{std::min(tile.first_input, source.in_features), within(tile.first_input, tile.inputs, source.in_features), std::min(tile.first_output, source.out_features),
                    within(tile.first_output, tile.outputs, source.out_features)};
  const Timed timed(Stage::kDecode);
  QuantLinear linear;
  if (stored.inputs > 0 && stored.outputs > 0) {
    QC_ASSIGN(linear, DecodeLinear(*plan.model, *planned.linear, components, stored));
  } else {
    linear.shape = source;
    linear.shape.in_features = stored.inputs;
    linear.shape.out_features = stored.outputs;
    linear.scale_dtype = planned.linear->traits.scale_dtype;
  }
  // A tile may have none of the offsets that make the whole linear one of offsets.
  linear.nearest_zeros = planned.linear->traits.nearest_zeros;
  if (planned.order != nullptr) (planned.orders_inputs ? ReorderInputs : ReorderOutputs)(*planned.order, &linear);
  // One group stays one, however many inputs are added.
  if (stored.inputs == source.in_features && std::max(planned.shape.groups, source.groups) > 1) SplitGroups(planned.shape.group_size, &linear);
  if (!planned.Padded()) return linear;
  std::vector<uint16_t> last_zeros;
  if (stored.inputs < tile.inputs && stored.outputs > 0 && (components & kCodes) != 0) {
    QC_ASSIGN(last_zeros, LastZeros(plan, planned, stored));
  }
  Pad({tile.first_input, source.in_features, tile.inputs, tile.outputs, planned.shape.groups, planned.shape.group_size}, {(components & kCodes) != 0, (components & kZeros) != 0, (components & kScales) != 0, (components & kGroupIndex) != 0}, last_zeros, &linear);
  return linear;
}

Status Encode(const Plan& plan, const PlannedTensor& tensor, uint64_t from, MutableBytes out) {
  const QuantShape& made = tensor.linear->shape;
  Tile tile{0, made.in_features, 0, made.out_features};
  if (const std::optional<RowTiles> tiles = TilesOf(tensor)) {
    const uint64_t first = tiles->elements_of(from / tiles->row_bytes);
    const uint64_t rows = out.size() / tiles->row_bytes;
    // The last tile may end within a unit.
    const bool last = from + out.size() == tensor.bytes;
    const uint64_t all = tiles->axis == Axis::kOutputs ? made.out_features : made.in_features;
    const uint64_t count = last ? all - first : tiles->elements_of(rows);
    if (tiles->axis == Axis::kOutputs) tile = {0, made.in_features, first, count};
    else tile = {first, count, 0, made.out_features};
  }
  auto components = static_cast<uint8_t>(tensor.part->components & ~(kFromScales | kSizes));
  if ((tensor.part->components & kFromScales) != 0) components |= kScales;
  QC_ASSIGN(QuantLinear linear, Make(plan, *tensor.linear, components, tile));
  const Timed timed(Stage::kEncode);
  CastScales(tensor.linear->scale_dtype, &linear);
  return tensor.part->encode(linear, out);
}

Status CastPiece(const Plan& plan, const PlannedTensor& tensor, uint64_t from, MutableBytes out) {
  const TensorInfo& info = plan.model->info(tensor.input);
  const DtypeInfo& in = InfoOf(info.dtype);
  const DtypeInfo& made = InfoOf(tensor.dtype);
  const auto elements = [&](uint64_t bytes) { return bytes * 8 / made.bits * made.block; };
  std::vector<std::byte> bytes(elements(out.size()) / in.block * in.bits / 8);
  QC_TRY(plan.model->checkpoint->Read(info, plan.InputOffset(tensor) + elements(from) / in.block * in.bits / 8, bytes));
  const Timed timed(Stage::kEncode);
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
