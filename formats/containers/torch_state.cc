#include "formats/containers/torch_state.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>

#include "formats/base/text.h"

namespace q2c {
namespace {

using Use = PickleGlobal::Use;

constexpr size_t kMaxRank = 64;
constexpr size_t kMaxTensors = 400'000;
// An expanded tensor says each of its elements once and may have any size; larger than the whole file none is believed.
constexpr uint64_t kMaxExpanded = 1U << 20U;

enum class Meaning : uint8_t { kNothing, kStorage, kUntyped, kDtype, kTensor, kTensorOfDtype, kParameter, kFromType, kPlainType, kSize };

struct TorchName {
  PickleGlobal global;
  Meaning meaning = Meaning::kNothing;
  Dtype dtype = Dtype::kF32;
};

constexpr TorchName Storage(std::string_view name, Dtype dtype) { return {{"torch", name, Use::kValue}, Meaning::kStorage, dtype}; }
constexpr TorchName Scalar(std::string_view name, Dtype dtype) { return {{"torch", name, Use::kValue}, Meaning::kDtype, dtype}; }
constexpr TorchName Call(std::string_view module, std::string_view name, Meaning meaning) { return {{module, name, Use::kCall}, meaning}; }
constexpr TorchName Type(std::string_view module, std::string_view name, Meaning meaning) { return {{module, name, Use::kValue}, meaning}; }
constexpr TorchName Unread(std::string_view module, std::string_view name) { return {{module, name, Use::kUnread}}; }

constexpr std::array kNames = {
    TorchName{{"collections", "OrderedDict", Use::kDict}},
    Call("torch._utils", "_rebuild_tensor", Meaning::kTensor), Call("torch._utils", "_rebuild_tensor_v2", Meaning::kTensor), Call("torch._utils", "_rebuild_tensor_v3", Meaning::kTensorOfDtype),
    Call("torch._utils", "_rebuild_parameter", Meaning::kParameter), Call("torch._utils", "_rebuild_parameter_with_state", Meaning::kParameter),
    Call("torch._tensor", "_rebuild_from_type_v2", Meaning::kFromType), Call("torch", "Size", Meaning::kSize), Call("torch", "device", Meaning::kNothing),
    Type("torch", "Tensor", Meaning::kPlainType), Type("torch.nn.parameter", "Parameter", Meaning::kPlainType), Type("torch.nn.parameter", "Buffer", Meaning::kPlainType),
    Type("torch.storage", "UntypedStorage", Meaning::kUntyped), Type("torch", "UntypedStorage", Meaning::kUntyped),
    Storage("DoubleStorage", Dtype::kF64), Storage("FloatStorage", Dtype::kF32), Storage("HalfStorage", Dtype::kF16), Storage("BFloat16Storage", Dtype::kBF16),
    Storage("LongStorage", Dtype::kI64), Storage("IntStorage", Dtype::kI32), Storage("ShortStorage", Dtype::kI16), Storage("CharStorage", Dtype::kI8),
    Storage("ByteStorage", Dtype::kU8), Storage("BoolStorage", Dtype::kBool), Storage("ComplexFloatStorage", Dtype::kC64),
    Scalar("float64", Dtype::kF64), Scalar("float32", Dtype::kF32), Scalar("float16", Dtype::kF16), Scalar("bfloat16", Dtype::kBF16), Scalar("int64", Dtype::kI64),
    Scalar("int32", Dtype::kI32), Scalar("int16", Dtype::kI16), Scalar("int8", Dtype::kI8), Scalar("uint8", Dtype::kU8), Scalar("bool", Dtype::kBool), Scalar("complex64", Dtype::kC64),
    Scalar("uint64", Dtype::kU64), Scalar("uint32", Dtype::kU32), Scalar("uint16", Dtype::kU16), Scalar("float8_e4m3fn", Dtype::kF8E4M3), Scalar("float8_e5m2", Dtype::kF8E5M2),
    Scalar("float8_e4m3fnuz", Dtype::kF8E4M3Fnuz), Scalar("float8_e5m2fnuz", Dtype::kF8E5M2Fnuz), Scalar("float8_e8m0fnu", Dtype::kF8E8M0),
    // What optimisers, trainers and quantised modules leave in files: harmless, and no weights of ours.
    Unread("torch", "ComplexDoubleStorage"), Unread("torch", "QInt8Storage"), Unread("torch", "QUInt8Storage"), Unread("torch", "QInt32Storage"), Unread("torch", "QUInt4x2Storage"),
    Unread("torch", "complex128"), Unread("torch._utils", "_rebuild_sparse_tensor"), Unread("torch._utils", "_rebuild_qtensor"), Unread("torch._utils", "_rebuild_meta_tensor_no_storage"),
    Unread("torch._utils", "_rebuild_wrapper_subclass"), Unread("torch._utils", "_rebuild_device_tensor_from_numpy"), Unread("torch._utils", "_rebuild_nested_tensor"),
    Unread("torch._tensor", "_rebuild_from_type"), Unread("torch.serialization", "_get_layout"), Unread("argparse", "Namespace"), Unread("collections", "defaultdict"), Unread("_codecs", "encode"),
    Unread("numpy", "dtype"), Unread("numpy", "ndarray"), Unread("numpy.core.multiarray", "_reconstruct"), Unread("numpy.core.multiarray", "scalar"),
    Unread("numpy._core.multiarray", "_reconstruct"), Unread("numpy._core.multiarray", "scalar"), Unread("transformers.training_args", "TrainingArguments"),
};

constexpr auto kGlobals = [] {
  std::array<PickleGlobal, kNames.size()> globals{};
  for (size_t i = 0; i < kNames.size(); ++i) globals[i] = kNames[i].global;
  return globals;
}();

const TorchName* NameOf(const PickleValue& value) { return value.kind == PickleKind::kGlobal ? &kNames[value.number] : nullptr; }
bool Means(const PickleValue& value, Meaning meaning) { return NameOf(value) != nullptr && NameOf(value)->meaning == meaning; }

std::optional<uint64_t> Unsigned(const PickleValue& value) {
  if (value.kind != PickleKind::kInt || static_cast<int64_t>(value.number) < 0) return std::nullopt;
  return value.number;
}

// ("storage", type, key, location, elements[, view]): what stands in for a storage.
struct StorageId {
  std::string_view key;
  Dtype dtype = Dtype::kU8;
  bool untyped = false;
  uint64_t bytes = 0;
  uint64_t view = 0;  // of the legacy form: the elements begin here, in bytes
};

Result<StorageId> ReadStorageId(const Pickle& pickle, const PickleValue& value) {
  const auto wrong = [](std::string_view what) { return Malformed("torch-state", "the pickle refers to a storage by {}, which is not how PyTorch does: the file is damaged or made by hand", what); };
  const PickleValue& tuple = pickle.Items(value)[0];
  if (tuple.kind != PickleKind::kTuple) return wrong("something that is no tuple");
  const std::span<const PickleValue> id = pickle.Items(tuple);
  if (id.size() != 5 && id.size() != 6) return wrong(fmt::format("a tuple of {}, expected 5 or 6", id.size()));
  if (id[0].kind != PickleKind::kText || pickle.Text(id[0]) != "storage") return wrong("a tuple that does not begin with 'storage'");
  StorageId storage;
  if (Means(id[1], Meaning::kStorage)) storage.dtype = NameOf(id[1])->dtype;
  else if (Means(id[1], Meaning::kUntyped)) storage.untyped = true;
  else return wrong("a type that is no storage");
  if (id[2].kind != PickleKind::kText) return wrong("a key that is no text");
  storage.key = pickle.Text(id[2]);
  const bool plain = !storage.key.empty() && std::ranges::all_of(storage.key, [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_'; });
  if (!plain) return wrong(fmt::format("the key '{}'", Escape(storage.key, 60)));
  const std::optional<uint64_t> elements = Unsigned(id[4]);
  const uint64_t width = InfoOf(storage.dtype).bits / 8;
  const std::optional<uint64_t> bytes = elements.has_value() ? (CheckedSize(*elements) * width).value() : std::nullopt;
  if (!bytes.has_value()) return wrong("a number of elements that none can have");
  storage.bytes = *bytes;
  if (id.size() == 6 && id[5].kind != PickleKind::kNone) {
    const std::span<const PickleValue> view = id[5].kind == PickleKind::kTuple ? pickle.Items(id[5]) : std::span<const PickleValue>();
    const std::optional<uint64_t> offset = view.size() == 3 ? Unsigned(view[1]) : std::nullopt;
    const std::optional<uint64_t> at = offset.has_value() ? (CheckedSize(*offset) * width).value() : std::nullopt;
    if (!at.has_value() || *at > storage.bytes) return wrong("a view that does not lie in it");
    storage.view = *at;
  }
  return storage;
}

class StateReader {
 public:
  StateReader(const Pickle& pickle, const TorchStorages& storages, uint64_t file_bytes) : pickle_(pickle), storages_(storages), file_bytes_(file_bytes) {}

  Result<TorchHeader> Read() {
    QC_ASSIGN(const PickleValue state, FindState());
    std::set<std::string_view> names;
    std::map<std::string_view, std::string_view> owners;  // storage key -> the first tensor on it
    std::vector<std::string> shared;
    std::vector<std::string> others;
    std::vector<std::string> strided;
    const std::span<const PickleValue> items = pickle_.Items(state);
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      if (items[i].kind != PickleKind::kText) return Malformed("torch-state", "the state dict has a key that is no text");
      const std::string_view name = pickle_.Text(items[i]);
      if (!IsUtf8(name) || name.empty()) return Malformed("torch-state", "a tensor is called '{}', expected a name in UTF-8", Escape(name));
      if (!IsTensor(items[i + 1])) {
        others.emplace_back(name);
        continue;
      }
      if (!names.insert(name).second) return Malformed("torch-state", "tensor '{}' is there twice", Escape(name));
      if (header_.tensors.size() == kMaxTensors) return Malformed("torch-state", "more than {} tensors", kMaxTensors);
      std::string_view key;
      QC_TRY(AddTensor(name, items[i + 1], &key));
      if (const auto [owner, fresh] = owners.emplace(key, name); !fresh) shared.emplace_back(name);
      if (!header_.tensors.back().strides.empty()) strided.emplace_back(name);
    }
    if (!others.empty()) header_.warnings.push_back(fmt::format("{} entries of the state dict are no tensors and are left out: {}", others.size(), QuoteSome(others)));
    if (!shared.empty()) header_.warnings.push_back(fmt::format("{} tensors share the storage of another one and are written out: {}", shared.size(), QuoteSome(shared)));
    if (!strided.empty()) header_.warnings.push_back(fmt::format("{} tensors are transposed, sliced or expanded views and are gathered while they are read: {}", strided.size(), QuoteSome(strided)));
    return std::move(header_);
  }

 private:
  bool IsTensor(const PickleValue& value) const {
    if (value.kind != PickleKind::kCall) return false;
    const Meaning meaning = NameOf(pickle_.Items(value)[0])->meaning;
    return meaning == Meaning::kTensor || meaning == Meaning::kTensorOfDtype || meaning == Meaning::kParameter || meaning == Meaning::kFromType;
  }

  bool HasTensors(const PickleValue& value) const {
    if (value.kind != PickleKind::kDict) return false;
    const std::span<const PickleValue> items = pickle_.Items(value);
    for (size_t i = 1; i < items.size(); i += 2) {
      if (IsTensor(items[i])) return true;
    }
    return false;
  }

  // The object itself, or what it holds under a usual name.
  Result<PickleValue> FindState() {
    constexpr std::array<std::string_view, 4> kUsual = {"state_dict", "model_state_dict", "model", "module"};
    if (HasTensors(pickle_.root)) return pickle_.root;
    if (pickle_.root.kind == PickleKind::kDict) {
      const std::span<const PickleValue> items = pickle_.Items(pickle_.root);
      for (const std::string_view usual : kUsual) {
        for (size_t i = 0; i + 1 < items.size(); i += 2) {
          if (items[i].kind != PickleKind::kText || pickle_.Text(items[i]) != usual || !HasTensors(items[i + 1])) continue;
          header_.warnings.push_back(fmt::format("the state dict lies under '{}'; {} other entries are left out", usual, items.size() / 2 - 1));
          return items[i + 1];
        }
      }
    }
    return Malformed("torch-state", "the file holds no dictionary of names and tensors, neither by itself nor under one of {}: it is no state dict", fmt::join(kUsual, ", "));
  }

  // Through parameters and subclasses to the call that makes the tensor: name of the call and its arguments.
  Result<std::vector<PickleValue>> Unwrap(std::string_view name, PickleValue value) const {
    constexpr int kMaxWraps = 4;
    for (int depth = 0; depth < kMaxWraps; ++depth) {
      if (!IsTensor(value)) break;
      const std::span<const PickleValue> call = pickle_.Items(value);
      const Meaning meaning = NameOf(call[0])->meaning;
      if (meaning == Meaning::kTensor || meaning == Meaning::kTensorOfDtype) return std::vector<PickleValue>(call.begin(), call.end());
      if (meaning == Meaning::kParameter) {
        if (call.size() < 2) break;
        value = call[1];
        continue;
      }
      // (how it is rebuilt, its class, the arguments, attributes)
      if (call.size() != 5 || NameOf(call[1]) == nullptr || call[3].kind != PickleKind::kTuple) break;
      if (!Means(call[2], Meaning::kPlainType)) return Refused("torch-unread", "tensor '{}' is of a class of its own; only plain tensors are read", Escape(name));
      std::vector<PickleValue> inner = {call[1]};
      const std::span<const PickleValue> arguments = pickle_.Items(call[3]);
      inner.insert(inner.end(), arguments.begin(), arguments.end());
      if (!Means(call[1], Meaning::kTensor) && !Means(call[1], Meaning::kTensorOfDtype)) break;
      return inner;
    }
    return Wrong(name, "it is not made as PyTorch makes tensors");
  }

  static Error Wrong(std::string_view name, std::string_view what) { return Malformed("torch-state", "tensor '{}': {}", Escape(name), what); }

  Result<std::vector<uint64_t>> Numbers(std::string_view name, PickleValue value) const {
    if (value.kind == PickleKind::kCall && Means(pickle_.Items(value)[0], Meaning::kSize) && pickle_.Items(value).size() == 2) value = pickle_.Items(value)[1];
    if (value.kind != PickleKind::kTuple) return Wrong(name, "its size or stride is no tuple");
    std::vector<uint64_t> numbers;
    if (pickle_.Items(value).size() > kMaxRank) return Wrong(name, fmt::format("more than {} dimensions", kMaxRank));
    for (const PickleValue& item : pickle_.Items(value)) {
      const std::optional<uint64_t> number = Unsigned(item);
      if (!number.has_value()) return Wrong(name, "its size or stride holds something that is no number or is negative");
      numbers.push_back(*number);
    }
    return numbers;
  }

  // Arguments: storage, offset in elements, size, stride, requires_grad, hooks, and then a dtype (v3) or metadata.
  Status AddTensor(std::string_view name, const PickleValue& value, std::string_view* key) {
    QC_ASSIGN(const std::vector<PickleValue> call, Unwrap(name, value));
    const bool own_dtype = Means(call[0], Meaning::kTensorOfDtype);
    if (call.size() < (own_dtype ? 8U : 5U)) return Wrong(name, fmt::format("it is made from {} values", call.size() - 1));
    if (call[1].kind != PickleKind::kPersistent) return Wrong(name, "it has no storage");
    QC_ASSIGN(const StorageId id, ReadStorageId(pickle_, call[1]));
    const size_t metadata = own_dtype ? 8 : 7;
    if (call.size() > metadata && call[metadata].kind == PickleKind::kDict && !pickle_.Items(call[metadata]).empty()) {
      return Refused("torch-unread", "tensor '{}' is a conjugated or negated view; only plain tensors are read", Escape(name));
    }
    TensorInfo tensor;
    tensor.name = name;
    tensor.dtype = id.dtype;
    if (own_dtype) {
      if (!Means(call[7], Meaning::kDtype)) return Wrong(name, "its dtype is none");
      tensor.dtype = NameOf(call[7])->dtype;
    } else if (id.untyped) {
      return Wrong(name, "its storage has no dtype");
    }
    const std::optional<uint64_t> first = Unsigned(call[2]);
    if (!first.has_value()) return Wrong(name, "its offset is no number or is negative");
    QC_ASSIGN(tensor.shape, Numbers(name, call[3]));
    QC_ASSIGN(tensor.strides, Numbers(name, call[4]));
    *key = id.key;
    QC_TRY(Place(id, *first, &tensor));
    header_.tensors.push_back(std::move(tensor));
    return {};
  }

  // Bounds, offset and bytes; strides are left out where the elements lie back to back.
  Status Place(const StorageId& id, uint64_t first, TensorInfo* tensor) const {
    const std::string shown = Escape(tensor->name);
    const Shape& shape = tensor->shape;
    if (tensor->strides.size() != shape.size()) return Wrong(tensor->name, fmt::format("{} strides for {} dimensions", tensor->strides.size(), shape.size()));
    const std::optional<uint64_t> bytes = BytesOf(tensor->dtype, shape);
    if (!bytes.has_value()) return Wrong(tensor->name, fmt::format("{} {} is too large", NameOf(tensor->dtype), ShapeText(shape)));
    const TorchStorage& storage = storages_.find(id.key)->second;
    const uint64_t width = InfoOf(tensor->dtype).bits / 8;
    tensor->bytes = *bytes;
    tensor->offset = storage.offset;
    if (*bytes == 0) {
      tensor->strides.clear();
      return {};
    }
    CheckedSize last = first;
    bool contiguous = true;
    uint64_t expected = 1;
    for (size_t d = shape.size(); d-- > 0;) {
      last += CheckedSize(tensor->strides[d]) * (shape[d] - 1);
      if (shape[d] > 1 && tensor->strides[d] != expected) contiguous = false;
      expected *= shape[d];
    }
    const std::optional<uint64_t> end = ((last + 1) * width + id.view).value();
    if (!end.has_value() || *end > storage.bytes) {
      return Malformed("torch-state", "tensor '{}': shape {}, strides {} from element {} on reach beyond its storage of {} bytes", shown, ShapeText(shape), ShapeText(tensor->strides), first, storage.bytes);
    }
    if (*bytes > std::max(file_bytes_, kMaxExpanded)) {
      return Malformed("torch-state", "tensor '{}': shape {} repeats its elements to {} bytes, more than the whole file has", shown, ShapeText(shape), *bytes);
    }
    tensor->offset += id.view + first * width;
    if (contiguous) tensor->strides.clear();
    return {};
  }

  const Pickle& pickle_;
  const TorchStorages& storages_;
  uint64_t file_bytes_;
  TorchHeader header_;
};

}  // namespace

std::span<const PickleGlobal> TorchGlobals() { return kGlobals; }

Result<TorchStorages> CollectStorages(const Pickle& pickle) {
  TorchStorages storages;
  for (const PickleValue& value : pickle.persistent) {
    QC_ASSIGN(const StorageId id, ReadStorageId(pickle, value));
    const auto [entry, fresh] = storages.try_emplace(std::string(id.key));
    if (!fresh && entry->second.bytes != id.bytes) {
      return Malformed("torch-state", "storage '{}' is said to have {} bytes and {} bytes", Escape(id.key), entry->second.bytes, id.bytes);
    }
    entry->second.bytes = id.bytes;
    entry->second.item_bytes = InfoOf(id.dtype).bits / 8;
  }
  return storages;
}

Result<TorchHeader> ReadStateDict(const Pickle& pickle, const TorchStorages& storages, uint64_t file_bytes) { return StateReader(pickle, storages, file_bytes).Read(); }

}  // namespace q2c
