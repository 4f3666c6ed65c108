// Whatever the bytes are: what is returned refers to nothing outside of them, and to nothing that is not on the list.
#include "formats/containers/pickle.h"
#include "formats/containers/torch_state.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto names = q2c::TorchGlobals();
  const auto pickle = q2c::ReadPickle(FuzzBytes(data, size), names);
  if (!pickle.ok()) return 0;
  const auto check = [&](const q2c::PickleValue& value) {
    switch (value.kind) {
      case q2c::PickleKind::kText:
      case q2c::PickleKind::kBytes:
      case q2c::PickleKind::kLong: FUZZ_CHECK(value.number <= size && value.size <= size - value.number); break;
      case q2c::PickleKind::kGlobal: FUZZ_CHECK(value.number < names.size() && names[value.number].use != q2c::PickleGlobal::Use::kUnread); break;
      case q2c::PickleKind::kTuple:
      case q2c::PickleKind::kList:
      case q2c::PickleKind::kDict: FUZZ_CHECK(value.number < pickle.value().nodes.size()); break;
      case q2c::PickleKind::kCall:
      case q2c::PickleKind::kPersistent: FUZZ_CHECK(value.number < pickle.value().nodes.size() && !pickle.value().nodes[value.number].empty()); break;
      case q2c::PickleKind::kAbsent: FUZZ_CHECK(false); break;
      default: break;
    }
    if (value.kind == q2c::PickleKind::kDict) FUZZ_CHECK(pickle.value().Items(value).size() % 2 == 0);
    if (value.kind == q2c::PickleKind::kCall) FUZZ_CHECK(names[pickle.value().Items(value)[0].number].use == q2c::PickleGlobal::Use::kCall);
  };
  FUZZ_CHECK(pickle.value().bytes <= size);
  check(pickle.value().root);
  for (const auto& node : pickle.value().nodes) {
    for (const q2c::PickleValue& value : node) check(value);
  }
  return 0;
}
