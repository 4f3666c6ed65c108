// Holds every output of a zoo against its manifest, and gives failed models another chance.
#pragma once

#include "convert/zoo_report.h"

namespace q2c {

struct ZooVerified {
  uint64_t sound = 0;
  uint64_t bytes = 0;            // of the sound ones
  std::vector<std::pair<std::string, Error>> wrong;  // model, what is wrong
  std::vector<std::string> left;  // staging folders beside the outputs
};
// Looks at the models that are done. Errors: kInterrupted, by errno.
Result<ZooVerified> VerifyZoo(const ZooSummary& summary, unsigned jobs, const std::atomic<int>* stop);

// Opens failed models again: those that failed with one of the findings, or all if none is named.
// "output-missing" stands for models that are done and whose output is gone. Returns their paths.
Result<std::vector<std::string>> RetryZoo(const ZooSummary& summary, const std::vector<std::string>& only);

}  // namespace q2c
