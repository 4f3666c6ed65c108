// A line of a plan or of a journal that is accepted can be written and read again, and is the same.
#include "convert/zoo_journal.h"
#include "convert/zoo_plan.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view line = FuzzText(data, size);
  if (const auto model = q2c::ParsePlanLine(line); model.ok()) {
    const std::string text = q2c::PlanLine(model.value());
    const auto again = q2c::ParsePlanLine(text);
    FUZZ_CHECK(again.ok() && q2c::PlanLine(again.value()) == text);
    FUZZ_CHECK(again.value().Unit() == model.value().Unit());
    FUZZ_CHECK(!model.value().out.starts_with('/') && ("/" + model.value().out + "/").find("/../") == std::string::npos);
  }
  if (const auto record = q2c::ParseZooRecord(line); record.ok()) {
    const std::string text = q2c::ToJson(record.value()).Dump();
    const auto again = q2c::ParseZooRecord(text);
    FUZZ_CHECK(again.ok() && q2c::ToJson(again.value()).Dump() == text);
  }
  return 0;
}
