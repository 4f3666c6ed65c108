#include "convert/zoo_run.h"

#include <algorithm>
#include <csignal>
#include <cstdio>

#include "convert/zoo_model.h"
#include "formats/base/shared_folder.h"
#include "formats/base/system.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

using Clock = std::chrono::steady_clock;
using State = UnitState::State;

double Since(Clock::time_point then) { return std::chrono::duration<double>(Clock::now() - then).count(); }
double WallTime() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

// How long a unit that failed in passing rests: 1, 4, 16, … seconds.
double Pause(uint64_t attempts) {
  constexpr uint64_t kMostDoublings = 8;
  return attempts == 0 ? 0 : static_cast<double>(uint64_t{1} << std::min(2 * (attempts - 1), kMostDoublings));
}

class Worker {
 public:
  Worker(const ZooPlan& plan, const ZooRunOptions& options, ZooFolders folders, LeaseFolder leases, Dir out)
      : plan_(plan), options_(options), self_(ThisProcess()), history_(std::move(folders.history)), journal_(std::move(folders.journals), self_), reports_(std::move(folders.reports)), leases_(std::move(leases)),
        out_(std::move(out)), memory_(options.memory != 0 ? options.memory : os::FreeMemory() / 5 * 4) {
    for (const ZooModel& model : plan.models) {
      if (model.refused.has_value()) continue;
      units_.push_back({&model, model.Unit(), State::kOpen, {}});
      index_[units_.back().name] = units_.size() - 1;
      ++open_;
    }
  }

  Result<ZooOutcome> Run() {
    QC_TRY(Follow());
    ClearLeases();
    Status status = Loop();
    // Whatever ended the loop, nothing of ours stays behind.
    while (!at_work_.empty()) {
      SignalAll();
      for (const Children::Ended& ended : children_.Wait(kTick)) {
        if (Status settled = Settle(ended); status.ok() && !settled.ok()) status = std::move(settled);
      }
    }
    if (!status.ok()) ended_by_ = std::move(status).TakeError();
    for (const std::string& complaint : history_.complaints()) fmt::print(stderr, "qwen2-zoo: warning: {}\n", complaint);
    if (done_ + failed_ == units_.size()) ClearLeftovers();
    return ZooOutcome{uint64_t{units_.size()}, done_, failed_, taken_, stops() > 0, std::move(ended_by_)};
  }

 private:
  struct Unit {
    const ZooModel* model;
    std::string name;
    State state;
    Clock::time_point not_before;
  };
  struct Work {
    size_t unit = 0;
    unsigned threads = 1;
    uint64_t memory = 0;
    Lease lease;
    Clock::time_point started;
    bool lost = false;
  };
  enum class Next { kStarted, kWait, kNothingLeft };
  static constexpr int kTick = 200;         // ms, until the next look at the signals
  static constexpr uint64_t kFullDisk = 3;  // models in a row that found no room: then all will
  static constexpr auto kLookAgain = std::chrono::milliseconds(500);

  int stops() const { return options_.stops == nullptr ? 0 : options_.stops->load(); }
  bool MayTake() const { return stops() == 0 && !ended_by_.has_value() && (!options_.limit.has_value() || taken_ < *options_.limit); }

  // Reads what all workers have recorded since.
  Status Follow() {
    return history_.Refresh([&](const ZooRecord& record) {
      const auto found = index_.find(record.unit);
      if (found == index_.end()) return;  // of an earlier plan
      State& state = units_[found->second].state;
      CounterOf(state) -= 1;
      state = history_.Of(record.unit).state();
      CounterOf(state) += 1;
      if (state == State::kOpen) first_open_ = std::min(first_open_, found->second);
    });
  }
  uint64_t& CounterOf(State state) { return state == State::kDone ? done_ : state == State::kFailed ? failed_ : open_; }

  Status Loop() {
    Clock::time_point beat = Clock::now();
    for (;;) {
      Next next = Next::kStarted;
      while (next == Next::kStarted && MayTake()) {
        QC_ASSIGN(next, StartOne());
      }
      if (at_work_.empty() && (!MayTake() || next == Next::kNothingLeft)) return {};
      if (stops() > 1) SignalAll();
      for (const Children::Ended& ended : children_.Wait(kTick)) QC_TRY(Settle(ended));
      if (Since(beat) > leases_.stale_seconds() / 5) {
        QC_TRY(RenewAll());
        beat = Clock::now();
      }
    }
  }

  void SignalAll() const {
    for (const auto& [child, work] : at_work_) children_.Signal(child, SIGTERM);
  }

  // The first model, in the order of the plan, that nobody has: largest first.
  Result<Next> StartOne() {
    while (first_open_ < units_.size() && units_[first_open_].state != State::kOpen) ++first_open_;
    for (size_t i = first_open_; i < units_.size(); ++i) {
      Unit& unit = units_[i];
      const UnitState& known = history_.Of(unit.name);
      if (unit.state != State::kOpen || Clock::now() < unit.not_before || IsAtWork(i)) continue;
      if (known.attempts() > 0 && Since(known.seen) < Pause(known.attempts())) continue;
      Work work{i, ThreadsFor(*unit.model, options_.jobs), MemoryFor(*unit.model), {}, {}, false};
      QC_ASSIGN(const bool fits, Fits(work));
      if (!fits) return Next::kWait;  // and nothing smaller slips past it for ever
      const uint64_t attempts = known.attempts();
      QC_ASSIGN(std::optional<Lease> lease, leases_.Take(unit.name, known.fence));
      if (lease.has_value()) {
        // Whoever had the lease before recorded the outcome before giving it up.
        QC_TRY(Follow());
        const UnitState& now = history_.Of(unit.name);
        if (unit.state != State::kOpen || now.fence >= lease->fence || now.attempts() != attempts) {
          QC_TRY(leases_.Release(*lease));
          lease.reset();
        }
      }
      if (!lease.has_value()) {
        unit.not_before = Clock::now() + kLookAgain;
        continue;
      }
      work.lease = std::move(*lease);
      QC_TRY(Start(std::move(work)));
      return Next::kStarted;
    }
    QC_TRY(Follow());
    return done_ + failed_ < units_.size() ? Next::kWait : Next::kNothingLeft;
  }

  bool IsAtWork(size_t unit) const {
    return std::ranges::any_of(at_work_, [&](const auto& item) { return item.second.unit == unit; });
  }

  // Is there a core, memory and room for one more? A model by itself always gets the first two.
  Result<bool> Fits(const Work& work) {
    unsigned threads = work.threads;
    uint64_t memory = work.memory;
    uint64_t bytes = units_[work.unit].model->output_bytes + options_.disk_reserve;
    for (const auto& [child, other] : at_work_) {
      threads += other.threads;
      memory += other.memory;
      bytes += units_[other.unit].model->output_bytes;
    }
    if (!at_work_.empty() && (threads > options_.jobs || memory > memory_)) return false;
    QC_ASSIGN(const uint64_t room, FreeBytes(out_));
    if (bytes <= room) return true;
    if (at_work_.empty()) {
      ended_by_ = MakeError(Code::kNoSpace, "no-space", "model '{}' needs {} with the reserve, but only {} are free at '{}'; make room and run again", Escape(units_[work.unit].model->in), HumanBytes(bytes),
                            HumanBytes(room), Escape(plan_.out));
    }
    return false;
  }

  Status Start(Work work) {
    const Unit& unit = units_[work.unit];
    // Attempts that ended without a record may have left something; of those alive it is locked.
    ClearUnrecorded(unit, work.lease.fence - 1);
    const ModelTask task{unit.model, plan_.root, plan_.out, reports_.path(), work.lease.fence, work.threads, !options_.test_crash.empty() && GlobMatch(options_.test_crash, unit.model->in)};
    Result<uint64_t> child = children_.Start([&] { return ConvertModel(task); });
    if (!child.ok()) {
      QC_TRY(leases_.Release(work.lease));
      return std::move(child).TakeError();
    }
    work.started = Clock::now();
    at_work_[child.value()] = std::move(work);
    ++taken_;
    return {};
  }

  void ClearUnrecorded(const Unit& unit, uint64_t last) const {
    const uint64_t records = history_.Of(unit.name).records;
    for (uint64_t fence = 1; fence <= last && records < last; ++fence) (void)Staging::Clear(JoinPath(plan_.out, unit.model->out), fence);
  }

  // Heartbeats. A worker that lost a lease stops that model: somebody else is at it.
  Status RenewAll() {
    for (auto& [child, work] : at_work_) {
      const Result<LeaseFolder::Beat> beat = leases_.Renew(work.lease);
      if (!beat.ok() || beat.value() == LeaseFolder::Beat::kHeld) continue;  // without an answer the model goes on: leases are advice
      work.lost = beat.value() == LeaseFolder::Beat::kLost;
      if (!work.lost) {
        QC_TRY(Follow());
        work.lost = units_[work.unit].state != State::kOpen || history_.Of(work.lease.unit).fence >= work.lease.fence;
        if (!work.lost) (void)leases_.Restore(work.lease);
      }
      if (work.lost) children_.Signal(child, SIGTERM);
    }
    return {};
  }

  Status Settle(const Children::Ended& ended) {
    const Work work = std::move(at_work_.at(ended.id));
    at_work_.erase(ended.id);
    Unit& unit = units_[work.unit];
    ZooRecord record = OutcomeOf(ended);
    record.unit = unit.name;
    record.model = unit.model->in;
    record.fence = work.lease.fence;
    record.time = WallTime();
    record.worker = self_.Short();
    record.bytes = unit.model->bytes;
    record.seconds = Since(work.started);
    record.cpu_seconds = ended.cpu_seconds;
    record.peak_memory = ended.peak_memory;
    if (work.lost && record.event != ZooEvent::kDone) record.event = ZooEvent::kGivenBack;
    if (record.event == ZooEvent::kTryAgain && history_.Of(unit.name).attempts() + 1 >= options_.attempts) record.event = ZooEvent::kFailed;
    if (record.event == ZooEvent::kGivenBack) unit.not_before = Clock::now() + std::chrono::seconds(1);
    if (ended.text.empty()) (void)Staging::Clear(JoinPath(plan_.out, unit.model->out), work.lease.fence);
    QC_TRY(journal_.Append(record));
    // Only now may others take it. A lease that cannot be removed will be found stale.
    (void)leases_.Release(work.lease);
    QC_TRY(Follow());
    full_ = record.code == Code::kNoSpace ? full_ + 1 : 0;
    if (full_ == kFullDisk) ended_by_ = MakeError(Code::kNoSpace, "no-space", "{}; make room and run again", record.message);
    Tell(record);
    return {};
  }

  void Tell(const ZooRecord& record) const {
    if (options_.quiet) return;
    const std::string what = record.event != ZooEvent::kDone ? fmt::format("{} [{}]", record.message, record.id)
                                                             : fmt::format("{}, {}, {:.2f} s{}", HumanBytes(record.output_bytes), record.exactness, record.seconds, record.found_equal ? "; an equal output was there already" : "");
    fmt::print(stderr, "{}/{} {:9} {}: {}\n", done_ + failed_, units_.size(), NameOf(record.event), Escape(record.model), what);
    (void)std::fflush(stderr);
  }

  // What workers left that were killed: staged outputs, where others finished the model, and leases
  // whose outcome is recorded.
  void ClearLeftovers() {
    std::vector<std::string> outs;
    for (const Unit& unit : units_) outs.push_back(JoinPath(plan_.out, unit.model->out));
    if (const Result<std::vector<Staging::Left>> left = Staging::FindLeft(outs); left.ok()) {
      for (const Staging::Left& folder : left.value()) (void)Staging::Clear(folder.out, folder.attempt);
    }
    ClearLeases();
  }
  // A settled model needs no lease, whatever its number: one that was taken over may be finished by
  // the worker that was thought dead, while the one that took it over died.
  void ClearLeases() {
    const Result<std::vector<HeldLease>> leases = leases_.List();
    if (!leases.ok()) return;
    for (const HeldLease& held : leases.value()) {
      const auto found = index_.find(held.lease.unit);
      if (found == index_.end()) continue;
      if (units_[found->second].state != State::kOpen || held.lease.fence <= history_.Of(held.lease.unit).fence) (void)leases_.Release(held.lease);
    }
  }

  const ZooPlan& plan_;
  const ZooRunOptions& options_;
  const ProcessName self_;
  ZooHistory history_;
  ZooJournal journal_;
  const Dir reports_;
  LeaseFolder leases_;
  const Dir out_;
  const uint64_t memory_;
  std::vector<Unit> units_;
  std::unordered_map<std::string, size_t> index_;  // by name
  size_t first_open_ = 0;                          // every unit before it is settled
  uint64_t open_ = 0;
  uint64_t done_ = 0;
  uint64_t failed_ = 0;
  uint64_t taken_ = 0;
  uint64_t full_ = 0;
  std::map<uint64_t, Work> at_work_;  // by child
  Children children_;
  std::optional<Error> ended_by_;
};

}  // namespace

Result<ZooFolders> OpenZooFolders(const ZooPlan& plan) {
  const std::string path = AbsolutePath(plan.path);
  QC_ASSIGN(const Dir parent, Dir::Open(ParentPath(path)));
  QC_ASSIGN(const Dir folder, MakeBelow(parent, BaseName(plan.Folder())));
  QC_ASSIGN(Dir journals, MakeBelow(folder, "journal"));
  QC_ASSIGN(Dir journals_again, OpenBelow(folder, "journal"));
  QC_ASSIGN(Dir reports, MakeBelow(folder, "reports"));
  return ZooFolders{ZooHistory(std::move(journals_again)), std::move(journals), std::move(reports)};
}

Result<ZooOutcome> RunZoo(const ZooPlan& plan, const ZooRunOptions& options) {
  QC_ASSIGN(const Dir root, Dir::Open(plan.root));
  QC_ASSIGN(const Dir above, Dir::Open(ParentPath(plan.out)));
  QC_ASSIGN(Dir out, MakeBelow(above, BaseName(plan.out)));
  QC_ASSIGN(ZooFolders folders, OpenZooFolders(plan));
  const std::string leases_path = options.leases.empty() ? JoinPath(plan.Folder(), "leases") : options.leases;
  QC_ASSIGN(LeaseFolder leases, LeaseFolder::Open(leases_path, ThisProcess(), options.stale_seconds));
  Worker worker(plan, options, std::move(folders), std::move(leases), std::move(out));
  return worker.Run();
}

}  // namespace q2c
