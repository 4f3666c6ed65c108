// A layout: how one quantised linear is spread over named tensors.
//
// A layout is a row in table.cc: its name and the list of its parts. Each part says its
// suffix, dtype and shape, and has a codec that moves it to and from the canonical form
// (quant_linear.h). Two layouts whose parts have the same `encoding` hold the same bytes
// there, so the plan copies them. Adding a layout = one .cc, its .md, one row.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "formats/quant_linear.h"

namespace q2c {

// What of the canonical form a part carries; a part may carry several.
enum Component : uint8_t { kCodes = 1, kZeros = 2, kScales = 4, kGroupIndex = 8 };

struct PartCodec {
  std::string_view suffix;    // "qzeros"
  uint8_t components;         // set of Component
  std::string_view encoding;  // names the bytes: equal in two layouts <=> equal bytes
  std::optional<Dtype> dtype;  // nothing: a float type that the file chooses
  Shape (*shape)(const QuantShape&);
  // The bytes have exactly the part's size. decode checks values and fills its fields of *linear;
  // encode fills `out` completely. Errors: kMalformed "quant-value".
  Status (*decode)(ByteView bytes, QuantLinear* linear);
  Status (*encode)(const QuantLinear& linear, MutableBytes out);
};

// What must be known of a linear to say whether a layout can hold it.
struct QuantTraits {
  QuantShape shape;
  bool symmetric = false;    // every zero point is 2^(bits-1)
  bool has_zero_0 = false;   // some zero point is 0
  bool act_order = false;    // group_index is not trivial
};

struct Layout {
  std::string_view name;                 // "gptq-v1"
  std::string_view checkpoint_format;    // the word for it in a quantisation config
  std::span<const PartCodec> parts;
  std::optional<std::string> (*refuses)(const QuantTraits&);  // why it cannot hold this linear
  // Shape of a linear from the shapes of its parts. Nothing if these are not this layout's
  // parts; an error ("quant-shape", "quant-part") if they are and do not fit together.
  Result<std::optional<QuantShape>> (*detect)(const std::string& name, uint64_t in_features, uint64_t out_features,
                                              std::span<const TensorInfo* const> parts);
};

std::span<const Layout> Layouts();
const Layout* FindLayout(std::string_view name);

// A layout or format that is recognised so that it can be refused by name.
// Returns what it is and what to do, or nothing.
std::optional<std::string> ForeignQuantisation(std::string_view quant_method, std::span<const TensorInfo* const> parts);

}  // namespace q2c
