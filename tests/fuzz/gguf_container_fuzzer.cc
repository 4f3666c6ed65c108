// An accepted header describes tensors inside the file; written again, it is read as the same.
// The first eight bytes of the input are the size the file is said to have.
#include "formats/containers/gguf.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return 0;
  const q2c::ByteView head = FuzzBytes(data, size).subspan(8);
  const auto claimed = q2c::Load<uint64_t>(FuzzBytes(data, size).data());
  const uint64_t file_bytes = std::max<uint64_t>(claimed, head.size());
  const auto header = q2c::ParseGgufHeader(head, file_bytes);
  if (!header.ok()) return 0;
  uint64_t end = 0;
  std::vector<q2c::GgufEntry> entries;
  for (const q2c::TensorInfo& tensor : header.value().tensors) {
    FUZZ_CHECK(tensor.offset >= end);
    FUZZ_CHECK(q2c::BytesOf(tensor.dtype, tensor.shape) == tensor.bytes);
    FUZZ_CHECK(tensor.bytes > 0 && tensor.bytes <= file_bytes - tensor.offset);
    end = tensor.offset + tensor.bytes;
    entries.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  const auto again = q2c::BuildGgufHead(header.value().values, entries);
  if (!again.ok()) {
    FUZZ_CHECK(file_bytes > INT64_MAX / 2);  // the writer stops before 2^63
    return 0;
  }
  const auto parsed = q2c::ParseGgufHeader(q2c::AsBytes(again.value().bytes), again.value().file_bytes);
  FUZZ_CHECK(parsed.ok());
  FUZZ_CHECK(parsed.value().values == header.value().values);
  FUZZ_CHECK(parsed.value().tensors.size() == entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    const q2c::TensorInfo& tensor = parsed.value().tensors[i];
    FUZZ_CHECK(tensor.name == entries[i].name && tensor.dtype == entries[i].dtype && tensor.shape == entries[i].shape);
    FUZZ_CHECK(tensor.offset == again.value().offsets[i]);
  }
  return 0;
}
