// A worker: takes models of a plan one after the other – lease, convert, verify, commit, record –
// until every model of the plan has its outcome. Any number of workers may do so at once; what each
// step relies on is in zoo.md.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "convert/zoo_journal.h"
#include "convert/zoo_lease.h"
#include "convert/zoo_plan.h"
#include "convert/zoo_process.h"

namespace q2c {

struct ZooRunOptions {
  unsigned jobs = 1;                  // threads, shared out among the models in work
  std::string leases;                 // folder; empty: in that of the plan
  std::optional<uint64_t> limit;      // models to take
  double stale_seconds = 60;
  uint64_t memory = 0;                // for all models in work; 0: four fifths of what is free
  uint64_t disk_reserve = 1 << 28;    // to be left free
  uint64_t attempts = 3;              // of a model that fails in ways that may pass
  bool quiet = false;
  const std::atomic<int>* stops = nullptr;  // signals received: 1, finish the models in work; 2, stop them
  std::string test_crash;             // glob, in builds for tests: models whose child crashes
};

struct ZooOutcome {
  uint64_t models = 0;   // in the plan, without those it refuses
  uint64_t done = 0;
  uint64_t failed = 0;   // of them
  uint64_t taken = 0;    // by this worker
  bool stopped = false;  // by a signal
  std::optional<Error> ended_by;  // why the worker could not go on
};

// What lies beside the plan: the logs of all workers, and a report a model.
struct ZooFolders {
  ZooHistory history;
  Dir journals;
  Dir reports;
};
Result<ZooFolders> OpenZooFolders(const ZooPlan& plan);

// Errors: what keeps the worker from beginning.
Result<ZooOutcome> RunZoo(const ZooPlan& plan, const ZooRunOptions& options);

}  // namespace q2c
