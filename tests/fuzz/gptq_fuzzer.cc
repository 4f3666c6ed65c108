// Decoding any words and encoding them again gives the same words.
#include "formats/layouts/gptq.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 4) return 0;
  static constexpr uint32_t kBits[] = {2, 3, 4, 8};
  q2c::QuantShape shape;
  shape.bits = kBits[data[0] % 4];
  shape.in_features = 32 * (1 + data[1] % 4);
  shape.out_features = 32 * (1 + data[2] % 4);
  shape.groups = 1 + data[3] % 4;
  shape.group_size = q2c::CeilDiv(shape.in_features, shape.groups);
  const q2c::ByteView payload = FuzzBytes(data, size).subspan(4);
  for (const auto* parts : {&q2c::kGptqV1Parts, &q2c::kGptqV2Parts}) {
    for (const q2c::PartCodec& part : *parts) {
      const auto bytes = q2c::BytesOf(part.dtype.value_or(q2c::Dtype::kF16), part.shape(shape));
      std::vector<std::byte> in(*bytes);
      for (size_t i = 0; i < in.size() && !payload.empty(); ++i) in[i] = payload[i % payload.size()];
      q2c::QuantLinear linear;
      linear.shape = shape;
      if (!part.decode(in, &linear).ok()) continue;
      std::vector<std::byte> out(in.size());
      FUZZ_CHECK(part.encode(linear, out).ok());
      FUZZ_CHECK(in == out);
    }
  }
  return 0;
}
