// Linears whose channels the output has in another order, or more of.
#include <algorithm>

#include "formats/base/text.h"
#include "verify/compare_parts.h"
#include "verify/rounding.h"

namespace q2c {

StoredLinear StoredOutput(const Checkpoint& output, const ManifestLinear& claim) {
  const uint64_t size = claim.bits != 0 ? claim.group_size : claim.source_group_size;
  return {&output, claim.name, claim.layout, claim.OutputInputs(), claim.OutputOutputs(), size, claim.bits};
}

Result<ChannelView> ViewOfOutput(const Checkpoint& source, const ManifestLinear& claim, const ManifestLinear* order_of) {
  ChannelView view;
  if (claim.Padded()) {
    view.in_features = claim.in_features;
    view.out_features = claim.out_features;
  }
  if (claim.order_of.empty()) return view;
  if (order_of == nullptr || !order_of->orders_inputs || order_of->order_of != claim.order_of) {
    return Mismatch("exact-order", "linear '{}' is said to have its channels in the order of '{}', which has not", Escape(claim.name), Escape(claim.order_of));
  }
  if (claim.orders_inputs != (claim.source == claim.order_of)) return Mismatch("exact-order", "linear '{}' is said to follow the groups of '{}'; only its own inputs, or outputs of others, can", Escape(claim.name), Escape(claim.order_of));
  const uint64_t channels = claim.orders_inputs ? claim.in_features : claim.out_features;
  if (channels != order_of->in_features) return Mismatch("exact-order", "linear '{}' has {} channels, '{}', whose order it is said to have, {}", Escape(claim.name), channels, Escape(claim.order_of), order_of->in_features);
  const StoredLinear by{&source, order_of->source, order_of->source_layout, order_of->in_features, order_of->out_features, order_of->source_group_size, order_of->source_bits};
  QC_ASSIGN(const ReferenceParameters parameters, ReferenceParametersOf(by, 0, std::min<uint64_t>(kPanelOutputs, by.out_features)));
  // Where in the output each channel of the source lies: after all of the groups before its own,
  // and those of its own group that come before it.
  std::vector<uint32_t> next(CeilDiv(by.in_features, by.group_size) + 1);
  for (const int64_t group : parameters.group_index) {
    if (group < 0 || static_cast<uint64_t>(group) + 1 >= next.size()) return Malformed("quant-group", "linear '{}': an input is in group {}, expected 0 to {}", Escape(by.name), group, next.size() - 2);
    ++next[static_cast<size_t>(group) + 1];
  }
  for (size_t g = 1; g < next.size(); ++g) next[g] += next[g - 1];
  std::vector<uint32_t> places;
  for (const int64_t group : parameters.group_index) places.push_back(next[static_cast<size_t>(group)]++);
  (claim.orders_inputs ? view.inputs : view.outputs) = std::move(places);
  return view;
}

Status CheckPadding(const Checkpoint& output, const ManifestLinear& claim) {
  if (!claim.Padded()) return {};
  LinearTiles tiles(StoredOutput(output, claim));
  const uint64_t in_features = tiles.linear().in_features;
  const uint64_t out_features = tiles.linear().out_features;
  QC_TRY(tiles.Prepare());
  const uint64_t strip = StripOutputs(tiles.groups());
  std::vector<float> panel(kInputUnit * kPanelOutputs);
  for (uint64_t n = 0; n < out_features; n += strip) {
    const uint64_t outputs = std::min(strip, out_features - n);
    // Before the first output that was added, only inputs that were.
    const bool all_inputs = n + outputs > claim.out_features;
    QC_TRY(tiles.ReadStrip(n, outputs));
    for (uint64_t k = all_inputs ? 0 : claim.in_features; k < in_features; k += kInputUnit) {
      const uint64_t inputs = std::min(kInputUnit, in_features - k);
      QC_TRY(tiles.ReadTile(k, inputs));
      for (uint64_t column = 0; column < outputs; column += kPanelOutputs) {
        tiles.FillPanel(column, 0, inputs, panel.data());
        for (uint64_t i = 0; i < inputs * kPanelOutputs; ++i) {
          const uint64_t input = k + i / kPanelOutputs;
          const uint64_t at = n + column + i % kPanelOutputs;
          const bool added = input >= claim.in_features || at >= claim.out_features;
          if (!added || panel[i] == 0) continue;
          return Mismatch("exact-padding", "linear '{}': weight of input {}, output {}, which the source does not have, is {}, expected 0", Escape(claim.name), input, at, panel[i]);
        }
      }
    }
  }
  return {};
}

}  // namespace q2c
