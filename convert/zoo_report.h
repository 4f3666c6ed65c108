// How far a zoo is, and what became of it: for people, for programs, and as a page.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "convert/zoo_journal.h"
#include "convert/zoo_lease.h"
#include "convert/zoo_plan.h"

namespace q2c {

struct ZooRow {
  const ZooModel* model = nullptr;
  std::string unit;
  UnitState::State state = UnitState::State::kOpen;
  uint64_t attempts = 0;             // begun and recorded
  std::optional<ZooRecord> outcome;  // the record that decides the state, or the latest
};

struct ZooSummary {
  const ZooPlan* plan = nullptr;
  std::vector<ZooRow> rows;          // of the models that the plan does not refuse
  std::vector<ZooRecord> finished;   // kDone, in the order of their times
  std::vector<HeldLease> leases;
  std::vector<std::string> notes;
  uint64_t done = 0;
  uint64_t failed = 0;
  uint64_t open = 0;
  uint64_t refused = 0;              // by the plan
  uint64_t found_equal = 0;          // finished once more by somebody else
  uint64_t workers = 0;
  uint64_t bytes = 0;                // read for what is done
  uint64_t output_bytes = 0;
  double seconds = 0;                // of work, summed
  double job_seconds = 0;
  double cpu_seconds = 0;
  double begin = 0;                  // of the first record's work, seconds since 1970
  double end = 0;                    // of the last

  double elapsed() const { return end > begin ? end - begin : 0; }
};

// `leases`: their folder; one that cannot be read is left out.
Result<ZooSummary> Summarise(const ZooPlan& plan, const std::string& leases);

// Failures and refusals by finding: id -> paths and the first message.
struct ZooFailures {
  std::vector<std::string> models;
  std::string message;
  Code code = Code::kOk;
  bool planned = false;  // the plan refuses it
};
std::map<std::string, ZooFailures> FailuresByFinding(const ZooSummary& summary);

Json StatusJson(const ZooSummary& summary);
std::string StatusText(const ZooSummary& summary);
Json ZooReportJson(const ZooSummary& summary);
std::string ZooReportText(const ZooSummary& summary);
// `reports`: how the page reaches the folder of reports.
std::string ZooReportHtml(const ZooSummary& summary, const std::string& reports);

}  // namespace q2c
