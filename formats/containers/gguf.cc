#include "formats/containers/gguf.h"

#include <algorithm>
#include <array>
#include <set>

#include "formats/base/text.h"
#include "formats/containers/gguf_names.h"

namespace q2c {
namespace {

// Own limits, far above what real models have, so that a header of the largest size stays harmless in memory.
constexpr uint64_t kMaxValues = 65'536;
constexpr uint64_t kMaxTexts = 4'000'000;  // in one array
constexpr uint64_t kMaxTensors = 400'000;  // each expert counted
constexpr uint64_t kPiece = 1 << 20;

// By number, with the types that llama.cpp has taken out again.
constexpr std::array<std::string_view, 43> kTensorTypes = {
    "F32", "F16", "Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K",
    "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M",
    "BF16", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4", "NVFP4", "Q1_0", "Q2_0",
};
constexpr std::array<uint32_t, 8> kRemoved = {4, 5, 31, 32, 33, 36, 37, 38};

// The front of a file, taken from its beginning piece by piece.
class Cursor {
 public:
  Cursor(ByteView head, uint64_t file_bytes) : window_(head), file_bytes_(file_bytes) {}
  explicit Cursor(const InputFile* file) : file_(file), file_bytes_(file->bytes()) {}

  void Enter(std::string where) { where_ = std::move(where); }  // what is being read, for messages
  const std::string& where() const { return where_; }
  uint64_t position() const { return position_; }
  uint64_t file_bytes() const { return file_bytes_; }

  // That many bytes lie ahead in the file, and the header stays within its limit.
  Status Expect(CheckedSize bytes) const {
    const uint64_t count = bytes.value().value_or(UINT64_MAX);
    if (count > file_bytes_ - position_) {
      return Malformed("truncated", "{}: {} bytes expected at byte {}, only {} follow: the file is cut short or damaged; download or copy it again", where_, count,
                       position_, file_bytes_ - position_);
    }
    if (count > kMaxGgufHeader - position_) return Malformed("gguf-header", "{}: the header is larger than {} bytes", where_, kMaxGgufHeader);
    return {};
  }

  // The next bytes; valid until the next call.
  Result<ByteView> Take(uint64_t count) {
    QC_TRY(Expect(count));
    if (count > window_.size() - used_) {
      if (file_ == nullptr) return Internal("a header of at least {} bytes, {} given", position_ + count, position_ + window_.size() - used_);
      buffer_.resize(std::max(count, std::min(kPiece, file_bytes_ - position_)));
      QC_TRY(file_->ReadAt(position_, buffer_));
      window_ = buffer_;
      used_ = 0;
    }
    const ByteView taken = window_.subspan(used_, count);
    used_ += count;
    position_ += count;
    return taken;
  }

  template <typename T>
  Result<T> Number() {
    QC_ASSIGN(const ByteView bytes, Take(sizeof(T)));
    return Load<T>(bytes.data());
  }

  Result<std::string> Text() {
    QC_ASSIGN(const uint64_t size, Number<uint64_t>());
    QC_ASSIGN(const ByteView bytes, Take(size));
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());  // NOLINT: bytes as text
  }

 private:
  const InputFile* file_ = nullptr;
  ByteView window_;
  std::vector<std::byte> buffer_;
  uint64_t used_ = 0;
  uint64_t position_ = 0;
  uint64_t file_bytes_;
  std::string where_ = "the start of the file";
};

Status ReadMagic(Cursor* cursor) {
  QC_ASSIGN(const ByteView bytes, cursor->Take(kGgufMagic.size()));
  const std::string magic(reinterpret_cast<const char*>(bytes.data()), bytes.size());  // NOLINT: bytes as text
  if (magic == "vers") return Malformed("file-type", "this is a Git LFS pointer: the weights themselves were not downloaded; run 'git lfs pull'");
  if (magic != kGgufMagic) return Malformed("file-type", "this begins with '{}', expected 'GGUF': not a GGUF file", Escape(magic));
  QC_ASSIGN(const uint32_t version, cursor->Number<uint32_t>());
  if (version == 0) return Malformed("gguf-version", "version 0, expected 2 or 3");
  if ((version & 0xFFFFU) == 0) return Refused("gguf-endian", "the file was written for big-endian machines; convert it back, or download the usual one");
  if (version != 2 && version != 3) {
    return Refused("gguf-version", "version {} of GGUF, 2 and 3 can be read{}", version, version == 1 ? "; write it anew with a current tool" : "");
  }
  return {};
}

Result<GgufValue> ReadValue(Cursor* cursor) {
  QC_ASSIGN(uint32_t type, cursor->Number<uint32_t>());
  const bool array = type == static_cast<uint32_t>(GgufType::kArray);
  uint64_t count = 1;
  if (array) {
    QC_ASSIGN(type, cursor->Number<uint32_t>());
    QC_ASSIGN(count, cursor->Number<uint64_t>());
    if (type == static_cast<uint32_t>(GgufType::kArray)) return Refused("gguf-array", "{} is an array of arrays, which no known model has", cursor->where());
  }
  if (type >= kGgufTypes) return Malformed("gguf-type", "{} has the value type {}, expected one of 0 to {}", cursor->where(), type, kGgufTypes - 1);
  const auto kind = static_cast<GgufType>(type);
  if (kind == GgufType::kString) {
    QC_TRY(cursor->Expect(CheckedSize(count) * 8));
    if (count > kMaxTexts) return Malformed("gguf-array", "{} has {} texts, expected at most {}", cursor->where(), count, kMaxTexts);
    std::vector<std::string> texts;
    for (uint64_t i = 0; i < count; ++i) {
      QC_ASSIGN(std::string text, cursor->Text());
      texts.push_back(std::move(text));
    }
    return array ? GgufValue::Strings(std::move(texts)) : GgufValue::String(std::move(texts.front()));
  }
  QC_TRY(cursor->Expect(CheckedSize(count) * WidthOf(kind)));
  QC_ASSIGN(const ByteView bytes, cursor->Take(count * WidthOf(kind)));
  if (kind == GgufType::kBool && std::ranges::any_of(bytes, [](std::byte b) { return std::to_integer<unsigned>(b) > 1; })) {
    return Malformed("gguf-bool", "{} holds a truth value that is neither 0 nor 1", cursor->where());
  }
  return GgufValue::Raw(kind, array, bytes);
}

Status ReadValues(Cursor* cursor, uint64_t count, GgufHeader* header) {
  std::set<std::string> seen;
  for (uint64_t i = 0; i < count; ++i) {
    cursor->Enter(fmt::format("key {} of {}", i + 1, count));
    QC_ASSIGN(std::string key, cursor->Text());
    if (!IsGgufName(key)) return Malformed("gguf-key", "{} is '{}', expected a name in UTF-8", cursor->where(), Escape(key));
    if (!seen.insert(key).second) return Malformed("gguf-duplicate-key", "key '{}' is there twice", Escape(key));
    cursor->Enter(fmt::format("key '{}'", Escape(key)));
    QC_ASSIGN(GgufValue value, ReadValue(cursor));
    header->values.emplace_back(std::move(key), std::move(value));
  }
  return {};
}

Result<Dtype> ReadTensorType(Cursor* cursor) {
  QC_ASSIGN(const uint32_t id, cursor->Number<uint32_t>());
  for (const GgufTensorType& type : kGgufTensorTypes) {
    if (type.id == id) return type.dtype;
  }
  if (id >= kTensorTypes.size()) return Refused("gguf-tensor-type", "{} has the type {}, which is not known; a newer version may know it", cursor->where(), id);
  if (std::ranges::find(kRemoved, id) != kRemoved.end()) {
    return Refused("gguf-tensor-type", "{} has the type {}, which llama.cpp has removed; quantise the model anew", cursor->where(), kTensorTypes[id]);
  }
  return Refused("gguf-tensor-type", "{} has the type {}; F32, F16, BF16, Q4_0, Q4_1 and Q8_0 can be read", cursor->where(), kTensorTypes[id]);
}

struct StoredTensor {
  TensorInfo info;        // of a stack: shape [E,N,K]; offset within the data section
  uint64_t experts = 0;   // 0: no stack
};

Result<StoredTensor> ReadTensor(Cursor* cursor) {
  StoredTensor tensor;
  TensorInfo& info = tensor.info;
  QC_ASSIGN(info.name, cursor->Text());
  if (!IsGgufName(info.name)) {
    return Malformed("gguf-name", "{} has the name '{}', expected a name in UTF-8", cursor->where(), Escape(info.name));
  }
  cursor->Enter(fmt::format("tensor '{}'", Escape(info.name)));
  if (info.name.size() > kMaxGgufName) return Malformed("gguf-name", "{}: a name of {} bytes, expected at most {}", cursor->where(), info.name.size(), kMaxGgufName);
  if (GgufSliceOf(info.name).has_value()) return Refused("gguf-name", "{} looks like one expert of a stack, which is not how GGUF holds them", cursor->where());
  QC_ASSIGN(const uint32_t rank, cursor->Number<uint32_t>());
  if (rank < 1 || rank > 4) return Malformed("gguf-shape", "{} has {} dimensions, expected 1 to 4", cursor->where(), rank);
  info.shape.resize(rank);
  for (uint32_t i = rank; i-- > 0;) {
    QC_ASSIGN(info.shape[i], cursor->Number<uint64_t>());
    if (info.shape[i] == 0) return Malformed("gguf-shape", "{} has a dimension of 0", cursor->where());
  }
  const bool stack = GgufStackOf(info.name).has_value() && (rank == 2 || rank == 3);  // [N,K] is a stack of one: trailing ones may be left out
  if (rank > 2 && !stack) {
    return Refused("gguf-shape", "{} has the shape {}; only stacks of experts may have more than two dimensions", cursor->where(), ShapeText(info.shape));
  }
  if (stack) {
    if (rank == 2) info.shape.insert(info.shape.begin(), 1);
    tensor.experts = info.shape[0];
    if (tensor.experts > kMaxGgufExperts) return Malformed("gguf-shape", "{} holds {} experts, expected at most {}", cursor->where(), tensor.experts, kMaxGgufExperts);
  }
  QC_ASSIGN(info.dtype, ReadTensorType(cursor));
  const std::optional<uint64_t> bytes = BytesOf(info.dtype, info.shape);
  if (!bytes.has_value()) {
    return Malformed("gguf-shape", "{}: {} {} is too large or no whole number of blocks", cursor->where(), NameOf(info.dtype), ShapeText(info.shape));
  }
  info.bytes = *bytes;
  QC_ASSIGN(info.offset, cursor->Number<uint64_t>());
  return tensor;
}

// Appends the tensor, or the slices of a stack.
void Present(const StoredTensor& stored, std::vector<TensorInfo>* tensors) {
  if (stored.experts == 0) return tensors->push_back(stored.info);
  for (uint64_t e = 0; e < stored.experts; ++e) {
    TensorInfo slice = stored.info;
    slice.name = GgufSliceName(*GgufStackOf(stored.info.name), e);
    slice.shape.erase(slice.shape.begin());
    slice.bytes = stored.info.bytes / stored.experts;
    slice.offset += e * slice.bytes;
    tensors->push_back(std::move(slice));
  }
}

// Each tensor begins where the one before ends, rounded up; the file ends with the last one, padded or not.
Status Place(std::vector<StoredTensor>* tensors, uint64_t data_start, uint64_t alignment, uint64_t file_bytes) {
  uint64_t next = 0;
  uint64_t end = data_start;
  for (StoredTensor& tensor : *tensors) {
    TensorInfo& info = tensor.info;
    if (info.offset != next) return Malformed("gguf-offset", "tensor '{}' begins at byte {} of the data, expected {}", Escape(info.name), info.offset, next);
    const std::optional<uint64_t> last = (CheckedSize(data_start) + next + info.bytes).value();
    const std::optional<uint64_t> padded = GgufPadded(CheckedSize(next) + info.bytes, alignment);
    if (!last.has_value() || *last > file_bytes || !padded.has_value()) {
      return Malformed("truncated", "the file has {} bytes, but tensor '{}' ends at byte {}: the file is cut short; download or copy it again", file_bytes,
                       Escape(info.name), last.value_or(UINT64_MAX));
    }
    info.offset = data_start + next;
    end = *last;
    next = *padded;
  }
  const uint64_t padded_end = (CheckedSize(data_start) + next).value().value_or(UINT64_MAX);
  if (file_bytes > padded_end) {
    return Malformed("trailing-bytes", "the file has {} bytes, expected {} to {}: something follows the last tensor", file_bytes, end, padded_end);
  }
  return {};
}

Result<GgufHeader> Parse(Cursor* cursor) {
  QC_TRY(ReadMagic(cursor));
  QC_ASSIGN(const uint64_t tensor_count, cursor->Number<uint64_t>());
  QC_ASSIGN(const uint64_t value_count, cursor->Number<uint64_t>());
  if (tensor_count > kMaxTensors) return Malformed("gguf-header", "{} tensors, expected at most {}", tensor_count, kMaxTensors);
  if (value_count > kMaxValues) return Malformed("gguf-header", "{} key-values, expected at most {}", value_count, kMaxValues);
  GgufHeader header;
  QC_TRY(ReadValues(cursor, value_count, &header));
  QC_ASSIGN(header.alignment, GgufAlignment(header.values));
  std::vector<StoredTensor> stored;
  std::set<std::string> seen;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    cursor->Enter(fmt::format("tensor {} of {}", i + 1, tensor_count));
    QC_ASSIGN(StoredTensor tensor, ReadTensor(cursor));
    if (!seen.insert(tensor.info.name).second) return Malformed("gguf-duplicate-name", "{} is there twice", cursor->where());
    stored.push_back(std::move(tensor));
  }
  const std::optional<uint64_t> data_start = GgufPadded(cursor->position(), header.alignment);
  if (!data_start.has_value() || (!stored.empty() && *data_start > cursor->file_bytes())) {
    return Malformed("truncated", "the file has {} bytes and ends with its header: the file is cut short; download or copy it again", cursor->file_bytes());
  }
  QC_TRY(Place(&stored, *data_start, header.alignment, cursor->file_bytes()));
  uint64_t presented = 0;
  for (const StoredTensor& tensor : stored) presented += std::max<uint64_t>(tensor.experts, 1);
  if (presented > kMaxTensors) return Malformed("gguf-header", "{} tensors and experts, expected at most {}", presented, kMaxTensors);
  for (const StoredTensor& tensor : stored) Present(tensor, &header.tensors);
  return header;
}

}  // namespace

Result<GgufHeader> ParseGgufHeader(ByteView head, uint64_t file_bytes) {
  Cursor cursor(head, file_bytes);
  return Parse(&cursor);
}

Result<GgufHeader> ReadGgufHeader(const InputFile& file) {
  Cursor cursor(&file);
  Result<GgufHeader> header = Parse(&cursor);
  if (!header.ok()) return std::move(header).TakeError().Within(fmt::format("file '{}'", Escape(file.path())));
  return header;
}

}  // namespace q2c
