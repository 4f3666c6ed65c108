// Every element of every tensor of an accepted file lies inside the file, and is what its strides say.
// Both forms of PyTorch files, as the front of the input says.
#include "formats/containers/torch.h"
#include "formats/strided.h"
#include "tests/fuzz/fuzz.h"

namespace {

// Large enough for several dimensions, small enough for every input.
constexpr uint64_t kMostBytes = 1U << 16U;

std::vector<std::byte> Walk(const q2c::TensorInfo& tensor, q2c::ByteView file) {
  const uint64_t width = q2c::InfoOf(tensor.dtype).bits / 8;
  std::vector<std::byte> all;
  for (uint64_t i = 0; i < tensor.bytes / width; ++i) {
    uint64_t rest = i;
    uint64_t at = tensor.offset;
    for (size_t d = tensor.shape.size(); d-- > 0;) {
      at += rest % tensor.shape[d] * tensor.strides[d] * width;
      rest /= tensor.shape[d];
    }
    FUZZ_CHECK(at + width <= file.size());
    for (uint64_t b = 0; b < width; ++b) all.push_back(file[at + b]);
  }
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const q2c::ByteView file = FuzzBytes(data, size);
  q2c::ByteSource source = q2c::SourceOf(file);
  source.read = [file](uint64_t offset, q2c::MutableBytes out) -> q2c::Status {
    FUZZ_CHECK(offset <= file.size() && out.size() <= file.size() - offset);
    if (!out.empty()) std::memcpy(out.data(), file.data() + offset, out.size());
    return {};
  };
  const auto header = q2c::ParseTorchHeader(source);
  if (!header.ok()) return 0;
  for (const q2c::TensorInfo& tensor : header.value().tensors) {
    FUZZ_CHECK(q2c::BytesOf(tensor.dtype, tensor.shape) == tensor.bytes);
    if (tensor.strides.empty()) {
      FUZZ_CHECK(tensor.offset <= size && tensor.bytes <= size - tensor.offset);
    } else if (tensor.bytes <= kMostBytes) {
      std::vector<std::byte> gathered(tensor.bytes);
      FUZZ_CHECK(q2c::GatherStrided(tensor, 0, gathered, source.read).ok());
      FUZZ_CHECK(gathered == Walk(tensor, file));
    }
  }
  return 0;
}
