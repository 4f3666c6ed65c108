// One stored linear, decoded a tile at a time: what the comparison, the forward pass and the
// fingerprint all work on, so that each side is read and decoded once.
#pragma once

#include "formats/model.h"
#include "verify/kernels.h"
#include "verify/reference.h"

namespace q2c {

// The linear of a model as the reference reads it; one that is not quantised as the dense
// layout of its dtype, or the block layout where a GGUF file keeps a float matrix in blocks.
StoredLinear Stored(const Model& model, const Linear& linear);
// The same of a matrix that is no linear: the embedding, [rows, columns] as [outputs, inputs].
StoredLinear StoredMatrix(const Model& model, TensorIndex weight);

// Inputs that are whole words, blocks and squares in every layout: tiles begin at its multiples.
inline constexpr uint64_t kInputUnit = 640;

// Another numbering of the channels of a stored linear, or fewer of them: input k of the view is
// input inputs[k] of the file. Empty: as in the file.
struct ChannelView {
  std::vector<uint32_t> inputs;
  std::vector<uint32_t> outputs;
  uint64_t in_features = 0;   // 0: all
  uint64_t out_features = 0;

  bool Reorders() const { return !inputs.empty() || !outputs.empty(); }
};

// Where a view reorders inputs, tiles must have all of them; where it reorders outputs, strips.
class LinearTiles {
 public:
  explicit LinearTiles(StoredLinear linear, ChannelView view = {}) : linear_(std::move(linear)), stored_(linear_), view_(std::move(view)) {
    if (linear_.stored_outputs != 0) stored_.out_features = linear_.stored_outputs;
  }

  // Reads the offsets of the linear, if it stores any: only all of them together tell whether
  // whole zero points are meant (verify/reference.h).
  Status Prepare();
  // Parameters of a range of outputs, then codes (or dense weights) of some of their inputs.
  Status ReadStrip(uint64_t first_output, uint64_t outputs);
  Status ReadTile(uint64_t first_input, uint64_t inputs);

  const StoredLinear& linear() const { return linear_; }
  const ChannelView& view() const { return view_; }
  uint64_t in_features() const { return view_.in_features > 0 ? view_.in_features : linear_.in_features; }    // of the view
  uint64_t out_features() const { return view_.out_features > 0 ? view_.out_features : linear_.out_features; }
  bool dense() const { return linear_.bits == 0; }
  uint64_t groups() const { return dense() ? 1 : CeilDiv(linear_.in_features, linear_.group_size); }
  // Does every stored offset come from a whole zero point? True where zero points are stored.
  bool whole_zeros() const { return whole_zeros_; }
  // Is offset i of the strip the one of its nearest whole zero point?
  bool Reproduces(size_t i) const;
  const ReferenceParameters& parameters() const { return parameters_; }  // of the strip
  const ReferenceTile& tile() const { return tile_; }
  const std::vector<uint8_t>& codes() const { return codes_; }           // [inputs][outputs] of the tile
  const std::vector<float>& dense_weights() const { return weights_; }   // likewise
  uint64_t GroupOf(uint64_t input) const { return static_cast<uint64_t>(parameters_.group_index[input]); }

  // The weights of `inputs` inputs of the tile from its input `first` on, for up to kPanelOutputs
  // outputs from its output `column` on, as [inputs][kPanelOutputs]; columns beyond the tile are
  // zero. scale·(code − zero) in float32, which is exact for 16-bit scales; with offsets that
  // are no zero points, or with `stored_offsets` where there are any, scale·code + offset, rounded once. There is no negative zero.
  void FillPanel(uint64_t column, uint64_t first, uint64_t inputs, float* panel, bool stored_offsets = false) const;

 private:
  Status ReadParameters(uint64_t first_output, uint64_t outputs);

  StoredLinear linear_;
  StoredLinear stored_;  // with all outputs that the parts hold
  ChannelView view_;
  bool whole_zeros_ = true;
  ReferenceTile tile_;
  ReferenceParameters parameters_;
  std::vector<uint8_t> codes_;
  std::vector<float> weights_;
};

// How many outputs a strip should have, whole panels; and how many inputs a tile of such a strip.
uint64_t StripOutputs(uint64_t groups);
uint64_t TileInputs(uint64_t outputs, bool dense);

}  // namespace q2c
