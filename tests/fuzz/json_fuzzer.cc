// What is accepted can be written and read again, and is the same.
#include "formats/base/json.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const auto numbers : {q2c::JsonNumbers::kStrict, q2c::JsonNumbers::kAllowNan}) {
    const auto json = q2c::ParseJson(FuzzText(data, size), numbers);
    if (!json.ok()) continue;
    for (const int indent : {-1, 2}) {
      const std::string text = json.value().Dump(indent);
      const auto again = q2c::ParseJson(text, numbers);
      FUZZ_CHECK(again.ok());
      FUZZ_CHECK(again.value().Dump(indent) == text);
    }
  }
  return 0;
}
