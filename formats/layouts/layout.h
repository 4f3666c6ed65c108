// A layout: how one quantised linear is spread over named tensors.
//
// A layout is a row in table.cc: its name and the list of its parts. Each part says its
// suffix, dtype and shape, how its rows and columns follow inputs, outputs and groups, and
// has a codec that moves it to and from the canonical form (quant_linear.h). Two parts of
// the same `encoding` hold the same bytes, so the plan copies them. Adding a layout = one
// .cc, its .md, one row.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "formats/quant_linear.h"

namespace q2c {

// What of the canonical form a part carries; a part may carry several.
// kFromScales marks zeros that can be decoded only after the scales.
enum Component : uint8_t { kCodes = 1, kZeros = 2, kScales = 4, kGroupIndex = 8, kSizes = 16, kFromScales = 32 };

// One axis of a part: `elements` inputs, outputs or groups take `units` rows, or bytes of a row.
enum class Axis : uint8_t { kWhole, kInputs, kOutputs, kGroups };
struct AxisCut {
  Axis axis = Axis::kWhole;
  uint64_t elements = 1;
  uint64_t units = 1;
};
// How a part can be cut: any multiple of `elements` along its rows and its columns (in bytes).
struct Grid {
  AxisCut rows;
  AxisCut columns;
};

// What must be known of a linear to say whether a layout can hold it.
struct QuantTraits {
  QuantShape shape;
  Dtype scale_dtype = Dtype::kF16;
  bool symmetric = false;      // every zero point is 2^(bits-1)
  bool has_zero_0 = false;     // some zero point is 0
  bool act_order = false;      // group_index is not trivial
  bool nearest_zeros = false;  // as in QuantLinear
  std::string no_zeros;        // as in QuantLinear
};

struct PartCodec {
  std::string_view suffix;    // "qzeros"
  uint8_t components;         // set of Component
  std::string_view encoding;  // names the bytes: equal in two layouts <=> equal bytes
  std::optional<Dtype> dtype;  // nothing: that of the scales, a float type that the file chooses
  Shape (*shape)(const QuantShape&);
  Grid (*grid)(const QuantShape&, uint64_t scale_bytes);
  // The bytes are the part's, or those of a tile of it; linear->shape says which. decode checks
  // values and fills its fields of *linear; encode fills `out` completely.
  // Parts are decoded in the order of the layout, so one may build on those before it.
  // Errors: kMalformed "quant-value"; kRefused "quant-offset".
  Status (*decode)(ByteView bytes, QuantLinear* linear);
  Status (*encode)(const QuantLinear& linear, MutableBytes out);
  // Is the part there for this linear when it is written? Null: always.
  bool (*written)(const QuantTraits&) = nullptr;
};

// What the configs claim of a linear; the tensors decide.
struct LayoutHints {
  std::string_view method;  // "gptq", "awq", "compressed-tensors", …; empty if nobody says
  std::string_view format;  // "gemv", "marlin", …
  std::optional<uint32_t> bits;
  std::optional<int64_t> group_size;
};

// How many inputs and outputs a linear has.
struct LinearSizes {
  uint64_t in_features = 0;
  uint64_t out_features = 0;
};

struct Layout {
  std::string_view name;    // "gptq-v1"
  std::string_view method;  // of the config it belongs to: "gptq"
  std::string_view format;  // the word for it in that config: "gptq_v2"
  std::span<const PartCodec> parts;
  std::span<const uint32_t> bits;           // that it can hold
  std::span<const uint64_t> group_sizes;    // that it can hold; empty: any
  bool ragged;                              // a shorter last group is possible
  bool act_order;                           // a scattered group_index is possible
  std::optional<std::string> (*refuses)(const QuantTraits&);  // any other reason why it cannot hold this linear, or null
  // Why a value changes when this linear, whose zeros and scales are given, is written so; null: never.
  std::optional<std::string> (*rounds)(const QuantLinear&);
  bool same_codes;  // the codes are stored as they are, and not only values
  // Shape of a linear from the shapes of its parts. Nothing if these are not this layout's
  // parts; an error ("quant-shape", "quant-part", "quant-dtype") if they are and do not fit together.
  Result<std::optional<QuantShape>> (*detect)(const std::string& name, uint64_t in_features, uint64_t out_features,
                                              std::span<const TensorInfo* const> parts, const LayoutHints& hints);
  // The size of a linear that no architecture describes, as its parts show it, with the help of the
  // hints where they alone do not; detect holds them against it afterwards. Nothing if these are not
  // this layout's parts or do not show it. Null: they never do.
  std::optional<LinearSizes> (*sizes)(std::span<const TensorInfo* const> parts, const LayoutHints& hints) = nullptr;

  const PartCodec* Part(std::string_view suffix) const;
  bool IsDense() const { return method.empty(); }
  // weight = scale · code + offset: any offset will do, not only whole zero points.
  bool StoresOffsets() const;
  // Why it cannot hold this linear as it is, apart from its group size.
  std::optional<std::string> Refuses(const QuantTraits& traits) const;
  // The group size with which it holds the linear: its own, or the largest that divides it and
  // that both the layout and `allowed` (empty: any; 0 stands for one group) know. Nothing if there is none.
  std::optional<uint64_t> GroupSizeFor(const QuantShape& shape, std::span<const uint64_t> allowed) const;
};

std::span<const Layout> Layouts();
const Layout* FindLayout(std::string_view name);
std::vector<std::string> LayoutNames();

// A layout or format that is recognised so that it can be refused by name.
// Returns what it is and what to do, or nothing.
std::optional<std::string> ForeignQuantisation(std::string_view quant_method, std::span<const TensorInfo* const> parts);

// Reads and decodes a tile of a linear: `read` fills bytes from the given offset of the named
// part, `part` finds it (null: it is absent). A missing group_index comes out trivial.
// A tile of less than all inputs can carry codes only, and begins where the layout can be cut;
// among the outputs it may begin and end anywhere.
struct PartSource {
  std::function<const TensorInfo*(std::string_view suffix)> part;
  std::function<Status(const TensorInfo&, uint64_t offset, MutableBytes out)> read;
};
Result<QuantLinear> DecodeTile(const Layout& layout, const QuantShape& shape, const PartSource& source, uint8_t components, const Tile& tile);

}  // namespace q2c
