#include "verify/compare.h"

#include <algorithm>
#include <set>

#include "formats/base/text.h"
#include "verify/parallel.h"
#include "verify/reference.h"

namespace q2c {
namespace {

template <typename... Args>
Error Mismatch(std::string_view id, fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(Code::kFindings, id, format, std::forward<Args>(args)...);
}

Status CompareParameters(const StoredLinear& source, const StoredLinear& output) {
  QC_ASSIGN(const ReferenceParameters a, ReferenceParametersOf(source));
  QC_ASSIGN(const ReferenceParameters b, ReferenceParametersOf(output));
  const uint64_t outputs = source.out_features;
  const auto differ = [&](std::string_view what, size_t at, auto x, auto y) {
    return Mismatch("exact-linear", "linear '{}': {} of group {}, output {} is {} in the source and {} in what was written", Escape(output.name), what, at / outputs, at % outputs, x, y);
  };
  for (size_t i = 0; i < a.zeros.size(); ++i) {
    if (a.zeros[i] != b.zeros[i]) return differ("zero point", i, a.zeros[i], b.zeros[i]);
    if (a.scales[i] != b.scales[i]) return differ("scale (float32 bits)", i, a.scales[i], b.scales[i]);
  }
  for (size_t k = 0; k < a.group_index.size(); ++k) {
    if (a.group_index[k] != b.group_index[k]) {
      return Mismatch("exact-linear", "linear '{}': input {} is in group {} in the source and {} in what was written", Escape(output.name), k, a.group_index[k], b.group_index[k]);
    }
  }
  return {};
}

// A megabyte or so of codes at a time.
Status CompareCodes(const StoredLinear& source, const StoredLinear& output, const CompareOptions& options) {
  constexpr uint64_t kTileCodes = 1U << 20U;
  const uint64_t outputs = source.out_features;
  const uint64_t inputs = std::max<uint64_t>(1, kTileCodes / (outputs * kReferenceInputs)) * kReferenceInputs;
  std::vector<uint8_t> a;
  std::vector<uint8_t> b;
  for (uint64_t first = 0; first < source.in_features; first += inputs) {
    if (options.check_stop) QC_TRY(options.check_stop());
    const uint64_t count = std::min(inputs, source.in_features - first);
    QC_TRY(ReferenceCodes(source, first, count, &a));
    QC_TRY(ReferenceCodes(output, first, count, &b));
    if (options.progress) options.progress(count * outputs * output.bits / 8);
    if (a == b) continue;
    const auto [x, y] = std::ranges::mismatch(a, b);
    const auto at = static_cast<uint64_t>(x - a.begin());
    return Mismatch("exact-linear", "linear '{}': code of input {}, output {} is {} in the source and {} in what was written", Escape(output.name), first + at / outputs, at % outputs, *x, *y);
  }
  return {};
}

bool AllZero(ByteView bytes, Dtype dtype) {
  // −0.0 is a zero too: only the top bit of an element may be set.
  const size_t width = InfoOf(dtype).bits / 8;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const bool sign_byte = i % width == width - 1;
    if ((bytes[i] & (sign_byte ? std::byte{0x7F} : std::byte{0xFF})) != std::byte{0}) return false;
  }
  return true;
}

Result<bool> IsZero(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  bool zero = true;
  QC_TRY(checkpoint.Stream(tensor, [&](ByteView piece) -> Status {
    zero = zero && AllZero(piece, tensor.dtype);
    return {};
  }));
  return zero;
}

Status CompareTensor(const Checkpoint& source, const Checkpoint& output, const ManifestTensor& tensor) {
  const TensorInfo* written = output.Find(tensor.name);
  if (written == nullptr) return Internal("tensor '{}' has vanished", Escape(tensor.name));  // CheckAccounts saw it
  if (tensor.sources.empty()) {
    QC_ASSIGN(const bool zero, IsZero(output, *written));
    if (!zero) return Mismatch("exact-tensor", "tensor '{}' has no source and is not zero", Escape(tensor.name));
    return {};
  }
  const TensorInfo* read = source.Find(tensor.sources.front());
  if (read == nullptr || tensor.sources.size() != 1) return Mismatch("exact-tensor", "tensor '{}': its source '{}' is not in the input", Escape(tensor.name), Escape(tensor.sources.front()));
  QC_ASSIGN(const bool same, SameBytes(source, *read, output, *written));
  if (!same) return Mismatch("exact-tensor", "tensor '{}' differs from its source '{}'", Escape(tensor.name), Escape(read->name));
  return {};
}

// What was left out must not have mattered.
Status CheckDropped(const Checkpoint& source, const ManifestDrop& drop) {
  const TensorInfo* tensor = source.Find(drop.name);
  if (tensor == nullptr) return Mismatch("exact-dropped", "tensor '{}' is said to be left out, but is not in the input", Escape(drop.name));
  if (drop.action == "zero-bias") {
    QC_ASSIGN(const bool zero, IsZero(source, *tensor));
    if (!zero || !drop.name.ends_with(".bias")) return Mismatch("exact-dropped", "tensor '{}' was left out as a zero bias, but is none", Escape(drop.name));
  } else if (drop.action == "tied-head") {
    const TensorInfo* twin = source.Find(drop.same_as);
    if (twin == nullptr) return Mismatch("exact-dropped", "tensor '{}' is said to repeat '{}', which is not in the input", Escape(drop.name), Escape(drop.same_as));
    QC_ASSIGN(const bool same, SameBytes(source, *tensor, source, *twin));
    if (!same) return Mismatch("exact-dropped", "tensor '{}' was left out as a repetition of '{}', but differs from it", Escape(drop.name), Escape(drop.same_as));
  } else if (drop.action == "derived-buffer") {
    if (drop.name.find("rotary_emb.") == std::string::npos) return Mismatch("exact-dropped", "tensor '{}' was left out as a buffer, but is none", Escape(drop.name));
  } else if (drop.action != "user") {
    return Mismatch("exact-dropped", "tensor '{}' was left out for a reason that is not known: '{}'", Escape(drop.name), Escape(drop.action));
  }
  return {};
}

// Every tensor of the input and of the output must have its place in the manifest.
Status CheckAccounts(const Checkpoint& source, const Checkpoint& output, const Manifest& manifest) {
  std::set<std::string> used;
  std::set<std::string> written;
  for (const ManifestTensor& tensor : manifest.tensors) {
    written.insert(tensor.name);
    used.insert(tensor.sources.begin(), tensor.sources.end());
    const TensorInfo* info = output.Find(tensor.name);
    if (info == nullptr) return Mismatch("exact-tensor", "tensor '{}' was not written", Escape(tensor.name));
    if (info->dtype != tensor.dtype || info->shape != tensor.shape) {
      return Mismatch("exact-tensor", "tensor '{}' was written as {} {}, expected {} {}", Escape(tensor.name), NameOf(info->dtype), ShapeText(info->shape), NameOf(tensor.dtype), ShapeText(tensor.shape));
    }
  }
  for (const ManifestDrop& drop : manifest.dropped) used.insert(drop.name);
  for (const TensorInfo& tensor : source.tensors()) {
    if (!used.contains(tensor.name)) return Mismatch("exact-lost", "tensor '{}' of the input is neither in the output nor left out for a reason", Escape(tensor.name));
  }
  for (const TensorInfo& tensor : output.tensors()) {
    if (!written.contains(tensor.name)) return Mismatch("exact-unknown", "tensor '{}' of the output is not in the manifest", Escape(tensor.name));
  }
  return {};
}

}  // namespace

Result<Compared> CompareExact(const Checkpoint& source, const Checkpoint& output, const Manifest& manifest, const CompareOptions& options) {
  QC_TRY(CheckAccounts(source, output, manifest));
  for (const ManifestDrop& drop : manifest.dropped) QC_TRY(CheckDropped(source, drop));

  // The parts of quantised linears are compared decoded, everything else as bytes.
  std::set<std::string> decoded;
  Compared compared;
  for (const ManifestLinear& linear : manifest.linears) {
    for (const char* part : {"qweight", "qzeros", "scales", "g_idx"}) decoded.insert(fmt::format("{}.{}", linear.name, part));
    compared.weights += linear.in_features * linear.out_features;
  }
  compared.linears = manifest.linears.size();
  std::vector<const ManifestTensor*> others;
  for (const ManifestTensor& tensor : manifest.tensors) {
    if (!decoded.contains(tensor.name)) others.push_back(&tensor);
  }
  compared.tensors = others.size();
  QC_TRY(RunParallel(manifest.linears.size(), options.jobs, [&](size_t i) -> Status {
    const ManifestLinear& linear = manifest.linears[i];
    if (linear.bits == 0 || linear.bits > 8 || linear.group_size == 0 || linear.out_features == 0 || linear.in_features == 0) {
      return Mismatch("exact-linear", "linear '{}' has no sensible shape in the manifest", Escape(linear.name));
    }
    const StoredLinear from{&source, linear.source, linear.source_layout, linear.in_features, linear.out_features, linear.group_size, linear.bits};
    const StoredLinear to{&output, linear.name, linear.layout, linear.in_features, linear.out_features, linear.group_size, linear.bits};
    QC_TRY(CompareParameters(from, to));
    return CompareCodes(from, to, options);
  }));
  QC_TRY(RunParallel(others.size(), options.jobs, [&](size_t i) -> Status {
    if (options.check_stop) QC_TRY(options.check_stop());
    QC_TRY(CompareTensor(source, output, *others[i]));
    if (options.progress) options.progress(BytesOf(others[i]->dtype, others[i]->shape).value_or(0));
    return {};
  }));
  return compared;
}

}  // namespace q2c
