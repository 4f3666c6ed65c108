#include "verify/fingerprint.h"

#include <algorithm>

#include "formats/base/hash.h"
#include "formats/base/text.h"
#include "verify/reference_parts.h"

namespace q2c {
namespace {

constexpr uint64_t kPanel = 64;  // part of the definition
static_assert(kPanel == kPanelOutputs, "panels of the forward pass are hashed as they are");

template <typename T>
ByteView BytesOfVector(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

template <typename Digests>
std::string TextDigest(std::string text, const Digests& panels) {
  for (const auto& panel : panels) text += fmt::format("{:02x}\n", fmt::join(panel, ""));
  return Sha256::Of(AsBytes(text));
}

std::string VectorText(const Shape& shape, const std::string& xxh3) { return Sha256::Of(AsBytes(fmt::format("tensor\nshape {}\n{}\n", fmt::join(shape, "x"), xxh3))); }

// Of one value that is no matrix: shape and float32 bits.
Result<std::string> VectorDigest(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  Xxh3 hash;
  if (!IsFloat16Or32(tensor.dtype)) {  // of an architecture that is not known: its bytes
    QC_TRY(checkpoint.Stream(tensor, [&](ByteView piece) -> Status {
      hash.Update(piece);
      return {};
    }));
    return Sha256::Of(AsBytes(fmt::format("bytes {}\nshape {}\n{}\n", NameOf(tensor.dtype), fmt::join(tensor.shape, "x"), hash.Hex())));
  }
  QC_TRY(checkpoint.Stream(tensor, [&](ByteView piece) -> Status {
    hash.Update(BytesOfVector(WidenBits(piece, tensor.dtype)));
    return {};
  }));
  return VectorText(tensor.shape, hash.Hex());
}

std::string Root(std::string_view kind, const std::vector<TensorFingerprint>& tensors, std::string TensorFingerprint::*digest) {
  std::string text = fmt::format("{}\n", kind);
  for (const TensorFingerprint& tensor : tensors) text += fmt::format("{} {}\n", tensor.*digest, tensor.name);
  return Sha256::Of(AsBytes(text));
}

}  // namespace

// Panels of a strip: each is hashed as a stream of its own, so strips may have any width and
// run in any order.
class FingerprintPass::Strip final : public StripWatch {
 public:
  Strip(Matrix* matrix, uint64_t first_output) : matrix_(matrix), first_panel_(first_output / kPanel) {}

  void Tile(const LinearTiles& tiles) override {
    const ReferenceTile& tile = tiles.tile();
    if (tile.first_input == 0) Begin(tiles);
    for (size_t p = 0; p < decoded_.size(); ++p) {
      const uint64_t column = p * kPanel;
      const uint64_t width = std::min(kPanel, tile.outputs - column);
      if (tiles.dense()) Gather(tiles.dense_weights(), tile, column, width, &floats_, &decoded_[p]);
      else Gather(tiles.codes(), tile, column, width, &codes_, &decoded_[p]);
    }
  }

  void Panel(uint64_t column, uint64_t inputs, const float* panel) override { weights_[column / kPanel].Update(std::as_bytes(std::span(panel, inputs * kPanel))); }

  void End() override {
    for (size_t p = 0; p < decoded_.size(); ++p) {
      matrix_->decoded[first_panel_ + p] = decoded_[p].Digest();
      matrix_->weights[first_panel_ + p] = weights_[p].Digest();
    }
  }

 private:
  // Zero points (or offsets) and scales come before the codes.
  void Begin(const LinearTiles& tiles) {
    const uint64_t outputs = tiles.tile().outputs;
    decoded_.resize(CeilDiv(outputs, kPanel));
    weights_.resize(decoded_.size());
    if (tiles.dense()) return;
    const ReferenceParameters& parameters = tiles.parameters();
    const uint64_t groups = parameters.scales.size() / outputs;
    const ReferenceTile rows = {0, groups, tiles.tile().first_output, outputs};
    std::vector<uint16_t> zeros;
    std::vector<uint32_t> words;
    for (size_t p = 0; p < decoded_.size(); ++p) {
      const uint64_t width = std::min(kPanel, outputs - p * kPanel);
      if (tiles.whole_zeros()) Gather(parameters.zeros, rows, p * kPanel, width, &zeros, &decoded_[p]);
      else Gather(parameters.offsets, rows, p * kPanel, width, &words, &decoded_[p]);
      Gather(parameters.scales, rows, p * kPanel, width, &words, &decoded_[p]);
    }
    if (first_panel_ == 0) {
      matrix_->parameters = tiles.whole_zeros() ? "zeros" : "offsets";
      DescribeGroups(tiles);
    }
  }

  void DescribeGroups(const LinearTiles& tiles) {
    std::vector<uint32_t> map;
    bool trivial = true;
    for (uint64_t k = 0; k < tiles.linear().in_features; ++k) {
      map.push_back(static_cast<uint32_t>(tiles.GroupOf(k)));
      trivial = trivial && map.back() == k / tiles.linear().group_size;
    }
    if (!trivial) matrix_->map = Xxh3::Of(BytesOfVector(map));
  }

  // Columns of [inputs][outputs], a narrow last panel filled up with zeros.
  template <typename T>
  static void Gather(const std::vector<T>& from, const ReferenceTile& tile, uint64_t column, uint64_t width, std::vector<T>* buffer, Xxh3* hash) {
    constexpr uint64_t kRows = 256;  // what is gathered stays in the cache
    buffer->assign(kRows * kPanel, T{});
    for (uint64_t first = 0; first < tile.inputs; first += kRows) {
      const uint64_t rows = std::min(kRows, tile.inputs - first);
      for (uint64_t r = 0; r < rows; ++r) std::copy_n(from.data() + (first + r) * tile.outputs + column, width, buffer->data() + r * kPanel);
      hash->Update(std::as_bytes(std::span(buffer->data(), rows * kPanel)));
    }
  }

  Matrix* matrix_;
  uint64_t first_panel_;
  std::vector<Xxh3> decoded_;
  std::vector<Xxh3> weights_;
  std::vector<uint8_t> codes_;
  std::vector<float> floats_;
};

const TensorFingerprint* Fingerprint::Find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(tensors, name, {}, &TensorFingerprint::name);
  return found != tensors.end() && found->name == name ? &*found : nullptr;
}

FingerprintPass::FingerprintPass(const Model& model) : model_(model) {
  for (const auto& [name, linear] : model.linears) {
    if (linear.quantised() || linear.Part("weight").has_value()) matrices_[name].stored = Stored(model, linear);
  }
  for (const auto& [name, index] : model.tensors) {
    if (model.skeleton.IsMatrix(name)) matrices_[SplitPart(name).first].stored = StoredMatrix(model, index);
  }
  for (auto& [name, matrix] : matrices_) {
    const uint64_t panels = CeilDiv(matrix.stored.out_features, kPanel);
    matrix.decoded.resize(panels);
    matrix.weights.resize(panels);
    matrix.parameters = "floats";
    by_stored_name_[matrix.stored.name] = &matrix;
  }
}

void FingerprintPass::WatchMatrix(Matrix* matrix, LinearTask::Side* side) {
  matrix->taken = true;
  side->watch = [matrix](uint64_t first_output) -> std::unique_ptr<StripWatch> { return std::make_unique<Strip>(matrix, first_output); };
}

void FingerprintPass::Watch(LinearTask::Side* side) {
  const auto found = by_stored_name_.find(side->linear.name);
  if (found != by_stored_name_.end() && !found->second->taken) WatchMatrix(found->second, side);
}

// Norms, and biases that the architecture has or that are not zero.
Result<std::vector<TensorFingerprint>> FingerprintPass::Others() const {
  std::vector<TensorFingerprint> others;
  const auto add = [&](const std::string& name, TensorIndex index) -> Status {
    QC_ASSIGN(std::string digest, VectorDigest(*model_.checkpoint, model_.info(index)));
    others.push_back({name, digest, digest});
    return {};
  };
  for (const auto& [name, index] : model_.tensors) {
    if (!model_.skeleton.IsMatrix(name)) QC_TRY(add(name, index));
  }
  for (const auto& [name, linear] : model_.linears) {
    const std::optional<TensorIndex> bias = linear.Part("bias");
    if (!bias.has_value()) continue;
    QC_ASSIGN(std::vector<uint32_t> bits, WidenedBits(*model_.checkpoint, model_.info(*bias)));
    const auto first = bits.begin() + static_cast<std::ptrdiff_t>(linear.rows.first);
    bits = {first, first + static_cast<std::ptrdiff_t>(linear.expected.out_features)};
    const bool zero = std::ranges::all_of(bits, [](uint32_t b) { return (b << 1U) == 0; });
    if (!linear.expected.bias && zero) continue;
    const std::string digest = VectorText({bits.size()}, Xxh3::Of(BytesOfVector(bits)));
    others.push_back({name + ".bias", digest, digest});
  }
  return others;
}

Result<Fingerprint> FingerprintPass::Finish(const RunOptions& options) {
  std::vector<LinearTask> rest;
  for (auto& [name, matrix] : matrices_) {
    if (matrix.taken) continue;
    LinearTask task;
    task.sides.push_back({matrix.stored});
    WatchMatrix(&matrix, &task.sides[0]);
    rest.push_back(std::move(task));
  }
  QC_TRY(RunLinears(&rest, options));

  Fingerprint fingerprint;
  QC_ASSIGN(fingerprint.tensors, Others());
  for (const auto& [name, matrix] : matrices_) {
    const StoredLinear& stored = matrix.stored;
    const std::string sizes = fmt::format("in_features {}\nout_features {}\n", stored.in_features, stored.out_features);
    TensorFingerprint tensor{name, TextDigest("values\n" + sizes, matrix.weights), ""};
    if (stored.bits == 0) {
      tensor.qlf1 = TextDigest("floats\n" + sizes, matrix.decoded);
    } else {
      tensor.qlf1 = TextDigest(fmt::format("codes\n{}bits {}\ngroup_size {}\nmap {}\n{}\n", sizes, stored.bits, std::min(stored.group_size, stored.in_features), matrix.map, matrix.parameters), matrix.decoded);
    }
    fingerprint.tensors.push_back(std::move(tensor));
  }
  std::ranges::sort(fingerprint.tensors, {}, &TensorFingerprint::name);
  // A head that repeats the embedding says nothing new.
  const TensorFingerprint* head = fingerprint.Find("lm_head");
  const TensorFingerprint* embedding = fingerprint.Find("model.embed_tokens");
  if (head != nullptr && embedding != nullptr && head->qlf1 == embedding->qlf1) fingerprint.tensors.erase(fingerprint.tensors.begin() + (head - fingerprint.tensors.data()));
  fingerprint.values = Root("values", fingerprint.tensors, &TensorFingerprint::values);
  fingerprint.qlf1 = Root("qlf1", fingerprint.tensors, &TensorFingerprint::qlf1);
  return fingerprint;
}

Result<Fingerprint> FingerprintOf(const Model& model, const RunOptions& options) { return FingerprintPass(model).Finish(options); }

}  // namespace q2c
