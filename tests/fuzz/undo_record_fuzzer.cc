// An undo record that is accepted can be packed and read again, and is the same. The input is
// taken as a file, and as the content of one, since no fuzzer gets past a checksum.
#include "convert/undo_record.h"
#include "formats/base/hash.h"
#include "formats/base/zstd.h"
#include "tests/fuzz/fuzz.h"

namespace {

void Check(q2c::ByteView file) {
  const auto record = q2c::UnpackUndo(file);
  if (!record.ok()) return;
  const auto packed = q2c::PackUndo(record.value());
  FUZZ_CHECK(packed.ok());
  const auto again = q2c::UnpackUndo(packed.value());
  FUZZ_CHECK(again.ok());
  FUZZ_CHECK(again.value() == record.value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Check(FuzzBytes(data, size));
  const std::string body(FuzzText(data, size));
  const std::string content = "qwen2-convert-undo 1.0 " + q2c::Sha256::Of(q2c::AsBytes(body)) + "\n" + body;
  Check(q2c::ZstdCompress(q2c::AsBytes(content)));
  return 0;
}
