#include "tests/unit/support/converted.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/unit/support/results.h"

namespace q2c::test {

std::map<std::string, std::vector<std::byte>> Converted(const JobOptions& options) {
  std::filesystem::remove_all(options.out);
  const PlannedJob planned = Must(PlanJob(options));
  const JobReport report = Must(RunJob(planned, options));
  EXPECT_TRUE(report.findings.empty()) << (report.findings.empty() ? "" : report.findings.front().Text());
  EXPECT_TRUE(report.compared.has_value());
  const Checkpoint output = Must(Checkpoint::Open(options.out, Links::kRefuse));
  std::map<std::string, std::vector<std::byte>> tensors;
  for (const TensorInfo& info : output.tensors()) tensors[info.name] = Must(output.ReadWhole(info));
  return tensors;
}

}  // namespace q2c::test
