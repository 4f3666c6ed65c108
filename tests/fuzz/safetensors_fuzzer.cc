// An accepted header describes tensors that lie back to back and end with the file.
// The first eight bytes of the input are the size the file is said to have.
#include "formats/containers/safetensors.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return 0;
  const q2c::ByteView head = FuzzBytes(data, size).subspan(8);
  const auto claimed = q2c::Load<uint64_t>(FuzzBytes(data, size).data());
  const uint64_t file_bytes = std::max<uint64_t>(claimed, head.size());
  // The reader hands over the whole header, or a front that is too short to hold one.
  if (head.size() >= 8 && q2c::Load<uint64_t>(head.data()) > head.size() - 8 && q2c::Load<uint64_t>(head.data()) <= file_bytes - 8) return 0;
  const auto header = q2c::ParseSafetensorsHeader(head, file_bytes);
  if (!header.ok()) return 0;
  uint64_t next = 8 + q2c::Load<uint64_t>(head.data());
  for (const q2c::TensorInfo& tensor : header.value().tensors) {
    FUZZ_CHECK(tensor.offset == next);
    FUZZ_CHECK(q2c::BytesOf(tensor.dtype, tensor.shape) == tensor.bytes);
    next += tensor.bytes;
  }
  FUZZ_CHECK(next == file_bytes);
  return 0;
}
