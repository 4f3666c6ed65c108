// A manifest that is accepted can be written and read again, and is the same.
#include "formats/manifest.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto manifest = q2c::ReadManifest(FuzzText(data, size));
  if (!manifest.ok()) return 0;
  const std::string text = q2c::WriteManifest(manifest.value());
  const auto again = q2c::ReadManifest(text);
  FUZZ_CHECK(again.ok());
  FUZZ_CHECK(q2c::WriteManifest(again.value()) == text);
  return 0;
}
