// Leases: files that keep several workers from doing the same model. They only avoid waste;
// that nothing is overwritten is the business of the staging folders and of the rename.
// The protocol is described in zoo.md.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "convert/zoo_process.h"
#include "formats/base/file.h"

namespace q2c {

struct Lease {
  std::string unit;
  uint64_t fence = 0;  // rises with each holder of the unit
};

struct HeldLease {
  Lease lease;
  std::optional<ProcessName> holder;  // nothing where the file does not say
  double age_seconds = 0;             // since its last heartbeat
};

class LeaseFolder {
 public:
  // `path` is created if its parent is there. Errors: by errno.
  static Result<LeaseFolder> Open(const std::string& path, const ProcessName& self, double stale_seconds);

  // A lease with a fence above `fence`, or nothing where somebody alive holds one. What is
  // staged under lower fences may be left from the dead. Errors: by errno.
  Result<std::optional<Lease>> Take(const std::string& unit, uint64_t fence);

  enum class Beat { kHeld, kLost, kMissing };
  // Says that the holder lives. kLost: somebody has taken the unit over. kMissing: the lease
  // is not there; whether it was lost only the journals can tell.
  Result<Beat> Renew(const Lease& lease);
  // Puts a missing lease back. False if somebody did it meanwhile.
  Result<bool> Restore(const Lease& lease);
  // Removes the lease and those it took over. To be called after the outcome is in the journal.
  Status Release(const Lease& lease);

  Result<std::vector<HeldLease>> List();
  double stale_seconds() const { return stale_seconds_; }

 private:
  LeaseFolder(std::string path, Dir dir, ProcessName self, double stale_seconds) : path_(std::move(path)), dir_(std::move(dir)), self_(std::move(self)), stale_seconds_(stale_seconds) {}
  Result<bool> Create(const std::string& name);
  Result<int64_t> Now();
  Result<std::optional<HeldLease>> Look(const Lease& lease);
  bool IsStale(const HeldLease& held) const;

  std::string path_;
  Dir dir_;
  ProcessName self_;
  double stale_seconds_;
};

}  // namespace q2c
