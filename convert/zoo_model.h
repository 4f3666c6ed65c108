// One model of a zoo, in a child process: from the line of the plan to the verified commit.
#pragma once

#include <string>

#include "convert/zoo_journal.h"
#include "convert/zoo_plan.h"
#include "convert/zoo_process.h"

namespace q2c {

struct ModelTask {
  const ZooModel* model = nullptr;
  std::string root;
  std::string out;
  std::string reports;   // folder
  uint64_t attempt = 0;
  unsigned jobs = 1;
  bool crash = false;    // for tests
};

// Where the report of a unit lies, below the folder of reports.
std::string ReportPath(const std::string& unit);

// Does all of it, stopping at SIGTERM, and returns what OutcomeOf reads. For a child process.
std::string ConvertModel(const ModelTask& task);
// What became of a child's model, from what the child said or how it ended: event, code, id,
// message and figures of the output; the rest is the worker's to fill in. Whether a failure is
// worth another attempt is decided by its code: 74 and 75 are; 76 is not the model's fault.
ZooRecord OutcomeOf(const Children::Ended& ended);

// Threads and memory that a model is given.
unsigned ThreadsFor(const ZooModel& model, unsigned all);
uint64_t MemoryFor(const ZooModel& model);

}  // namespace q2c
