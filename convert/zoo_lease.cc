#include "convert/zoo_lease.h"

#include <algorithm>
#include <cmath>

#include "formats/base/shared_folder.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

// Everybody touches this file to learn what time it is on the file server.
const std::string kClock = "clock";
constexpr uint64_t kMaxLease = 4096;

std::string NameOf(const std::string& unit, uint64_t fence) { return fmt::format("{}.{}", unit, fence); }

Result<Dir> OpenFolder(const std::string& path) {
  Result<Dir> dir = Dir::Open(path);
  if (dir.ok() || dir.error().id != "no-folder") return dir;
  QC_ASSIGN(const Dir parent, Dir::Open(ParentPath(AbsolutePath(path))));
  return MakeBelow(parent, BaseName(AbsolutePath(path)));
}

}  // namespace

Result<LeaseFolder> LeaseFolder::Open(const std::string& path, const ProcessName& self, double stale_seconds) {
  QC_ASSIGN(Dir dir, OpenFolder(path));
  LeaseFolder folder(path, std::move(dir), self, stale_seconds);
  // A folder that cannot be written to shows now, before anything is done.
  QC_ASSIGN(const int64_t now, folder.Now());
  (void)now;
  return folder;
}

// The folder may vanish while we work, and then it is made again: the leases in it were only advice.
Result<bool> LeaseFolder::Create(const std::string& name) {
  const std::string content = Json::Object({{"holder", self_.ToJson()}}).Dump(-1) + "\n";
  Result<bool> created = CreateExclusively(dir_, name, AsBytes(content));
  if (created.ok()) return created;
  const Result<Dir> named = Dir::Open(path_);
  if (named.ok()) {
    QC_ASSIGN(const FileStamp ours, dir_.Stat());
    QC_ASSIGN(const FileStamp theirs, named.value().Stat());
    if (ours.inode == theirs.inode && ours.device == theirs.device) return created;
  }
  QC_ASSIGN(dir_, OpenFolder(path_));
  return CreateExclusively(dir_, name, AsBytes(content));
}

Result<int64_t> LeaseFolder::Now() {
  QC_ASSIGN(const bool touched, Touch(dir_, kClock));
  if (!touched) {
    QC_ASSIGN(const bool created, Create(kClock));
    (void)created;  // or somebody else did
  }
  QC_ASSIGN(const std::optional<FileStamp> stamp, dir_.StatOf(kClock));
  if (!stamp.has_value()) return MakeError(Code::kTryAgain, "lease-folder", "the lease folder '{}' is being removed", Escape(path_));
  return stamp->modified_ns;
}

Result<std::optional<HeldLease>> LeaseFolder::Look(const Lease& lease) {
  const std::string name = NameOf(lease.unit, lease.fence);
  // The clock first: a heartbeat in between makes the lease look younger, not older.
  QC_ASSIGN(const int64_t now, Now());
  QC_ASSIGN(const std::optional<FileStamp> stamp, dir_.StatOf(name));
  if (!stamp.has_value()) return std::optional<HeldLease>();
  HeldLease held{lease, std::nullopt, static_cast<double>(now - stamp->modified_ns) * 1e-9};
  const Result<InputFile> file = InputFile::Open(dir_, name);
  const Result<std::string> text = file.ok() ? file.value().ReadAll(kMaxLease) : Result<std::string>(file.error());
  const Result<Json> json = text.ok() ? ParseJson(text.value()) : Result<Json>(text.error());
  if (json.ok() && json.value().Find("holder") != nullptr) held.holder = ParseProcessName(*json.value().Find("holder"));
  return std::optional<HeldLease>(std::move(held));
}

bool LeaseFolder::IsStale(const HeldLease& held) const {
  if (held.holder.has_value() && IsKnownDead(*held.holder)) return true;
  // No heartbeat comes from the server's future; such a time was set by hand, or the server's clock was put back.
  return std::abs(held.age_seconds) > stale_seconds_;
}

Result<std::optional<Lease>> LeaseFolder::Take(const std::string& unit, uint64_t fence) {
  for (Lease lease{unit, fence + 1};; ++lease.fence) {
    QC_ASSIGN(const bool created, Create(NameOf(unit, lease.fence)));
    if (created) return std::optional<Lease>(lease);
    QC_ASSIGN(const std::optional<HeldLease> held, Look(lease));
    if (!held.has_value() || !IsStale(*held)) return std::optional<Lease>();  // just released, or held
  }
}

Result<LeaseFolder::Beat> LeaseFolder::Renew(const Lease& lease) {
  QC_ASSIGN(const bool touched, Touch(dir_, NameOf(lease.unit, lease.fence)));
  QC_ASSIGN(const bool taken, dir_.Has(NameOf(lease.unit, lease.fence + 1)));
  if (taken) return Beat::kLost;
  return touched ? Beat::kHeld : Beat::kMissing;
}

Result<bool> LeaseFolder::Restore(const Lease& lease) { return Create(NameOf(lease.unit, lease.fence)); }

Status LeaseFolder::Release(const Lease& lease) {
  // From the lowest on: while one of them is there, nobody can take the unit below it.
  for (uint64_t fence = 1; fence <= lease.fence; ++fence) QC_TRY(dir_.RemoveFile(NameOf(lease.unit, fence)));
  return {};
}

Result<std::vector<HeldLease>> LeaseFolder::List() {
  QC_ASSIGN(const std::vector<DirEntry> entries, dir_.List());
  std::vector<HeldLease> list;
  for (const DirEntry& entry : entries) {
    const size_t dot = entry.name.rfind('.');
    const std::optional<uint64_t> fence = dot == std::string::npos ? std::nullopt : Json::Number(entry.name.substr(dot + 1)).AsU64();
    if (!fence.has_value()) continue;
    QC_ASSIGN(std::optional<HeldLease> held, Look({entry.name.substr(0, dot), *fence}));
    if (held.has_value()) list.push_back(std::move(*held));
  }
  return list;
}

}  // namespace q2c
