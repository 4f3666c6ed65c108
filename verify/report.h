// Reports, as JSON documents and in words: what verification found, how far the two sides are
// apart. The format is described in report.md, its schema is report.schema.json.
#pragma once

#include <string>
#include <vector>

#include "formats/base/json.h"
#include "verify/proof.h"

namespace q2c {

inline constexpr std::string_view kReportFormat = "qwen2-convert-report";
inline constexpr std::string_view kReportVersion = "1.0";

Json FindingsJson(const std::vector<Error>& findings);  // [{id, message}]
Json ComparedJson(const Compared& compared);
Json ForwardJson(const ForwardReport& report);
// A few lines, each ending in a newline.
std::string ForwardText(const ForwardReport& report);
std::string RoundingText(const Compared& compared);  // empty if nothing was rounded

// The document with this text. Errors: kMalformed "report"; kRefused "report-version" for a
// major version that is not 1.
Result<Json> ReadReport(std::string_view text);
// Puts it where `path` says, in one step, in place of what was there. Errors: kIo, …
Status WriteReport(const std::string& path, const Json& report);

// Writes input_ids, logits and hidden_states as a safetensors file, in place of what was there.
Status WriteObservation(const std::string& path, const Observation& observation);

// The most memory that this process has had, in bytes.
uint64_t PeakMemory();

}  // namespace q2c
