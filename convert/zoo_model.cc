#include "convert/zoo_model.h"

#include <algorithm>
#include <chrono>
#include <csignal>

#include "convert/zoo_find.h"
#include "formats/base/shared_folder.h"
#include "formats/base/text.h"
#include "verify/report.h"

namespace q2c {
namespace {

// A model of this size keeps every core busy; smaller ones run side by side.
constexpr uint64_t kBytesPerThread = 64 << 20;
// What a conversion is allowed at its default settings, whatever the size of the model, and what a
// small one takes at least (zoo.md).
constexpr uint64_t kMostMemory = 512 << 20;
constexpr uint64_t kLeastMemory = 32 << 20;

// A signal has no other way to reach the work.
std::atomic<int> g_stop = 0;
extern "C" void OnTerminate(int number) { g_stop = number; }

ZooEvent EventOf(const Error& error) {
  if (error.id == "changed-since-plan") return ZooEvent::kFailed;  // it will not change back
  if (error.id == "locked") return ZooEvent::kGivenBack;           // somebody else is at it
  if (error.code == Code::kIo || error.code == Code::kTryAgain) return ZooEvent::kTryAgain;
  if (error.code == Code::kInterrupted || error.code == Code::kTerminated || error.code == Code::kNoSpace) return ZooEvent::kGivenBack;
  return ZooEvent::kFailed;
}

ZooRecord Failure(const Error& error) {
  ZooRecord record;
  record.event = EventOf(error);
  record.code = error.code;
  record.id = error.id.empty() ? "error" : error.id;
  record.message = error.message;
  return record;
}

// The folder above a report or an output, made where it is not there.
Status MakeParent(const std::string& folder, const std::string& below) {
  const std::string parent = ParentPath(below);
  QC_ASSIGN(const Dir dir, Dir::Open(folder));
  QC_ASSIGN(const Dir made, MakeBelow(dir, parent.empty() ? "." : parent));
  (void)made;
  return {};
}

Result<ZooRecord> Convert(const ModelTask& task) {
  const ZooModel& model = *task.model;
  QC_ASSIGN(JobOptions job, ZooJob(JoinPath(task.root, model.in), JoinPath(task.out, model.out), model.options));
  job.overwrite = Overwrite::kKeepEqual;
  job.attempt = task.attempt;
  job.jobs = task.jobs;
  job.stop = &g_stop;
  // No component of the path may be a link that leads out of the zoo.
  QC_ASSIGN(const Dir root, Dir::Open(task.root));
  QC_ASSIGN(const Dir in, OpenBelow(root, model.in));
  (void)in;
  QC_ASSIGN(const std::string identity, IdentityLike(model.identity, job.in, job.links));
  if (identity != model.identity) {
    return MakeError(Code::kTryAgain, "changed-since-plan", "model '{}' is not what it was when it was planned; plan again", Escape(model.in));
  }
  const auto start = std::chrono::steady_clock::now();
  QC_ASSIGN(const PlannedJob planned, PlanJob(job));
#ifdef Q2C_TEST_DAMAGE
  if (task.crash) (void)::raise(SIGSEGV);
#endif
  QC_TRY(MakeParent(task.out, model.out));
  QC_ASSIGN(const JobReport report, RunJob(planned, job));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string report_path = ReportPath(model.Unit());
  QC_TRY(MakeParent(task.reports, report_path));
  QC_TRY(WriteReport(JoinPath(task.reports, report_path), ReportDocument(planned, job, report)));
  if (!report.findings.empty()) return report.findings.front();
  ZooRecord record;
  record.event = ZooEvent::kDone;
  record.found_equal = report.found_equal;
  record.output_bytes = report.bytes;
  record.job_seconds = seconds;
  record.exactness = NameOf(planned.plan.Worst());
  return record;
}

}  // namespace

std::string ReportPath(const std::string& unit) { return fmt::format("{}/{}.json", unit.substr(0, 2), unit); }

std::string ConvertModel(const ModelTask& task) {
  struct sigaction action {};
  action.sa_handler = OnTerminate;
  ::sigaction(SIGTERM, &action, nullptr);
  Result<ZooRecord> converted = Convert(task);
  ZooRecord record = converted.ok() ? std::move(converted).value() : Failure(converted.error());
  record.unit = task.model->Unit();
  record.fence = task.attempt;
  return ToJson(record).Dump(-1);
}

ZooRecord OutcomeOf(const Children::Ended& ended) {
  Result<ZooRecord> said = ParseZooRecord(ended.text);
  if (said.ok()) return std::move(said).value();
  if (ended.signal == SIGTERM) return Failure(MakeError(Code::kTerminated, "stopped", "stopped before it began"));
  if (ended.signal == SIGKILL) {
    return Failure(MakeError(Code::kTryAgain, "killed", "the conversion was killed (signal 9), perhaps for want of memory"));
  }
  return Failure(MakeError(Code::kInternal, "crash", "the conversion ended by signal {} without an outcome; please report it", ended.signal));
}

unsigned ThreadsFor(const ZooModel& model, unsigned all) {
  return static_cast<unsigned>(std::clamp<uint64_t>(CeilDiv(model.bytes, kBytesPerThread), 1, all));
}

uint64_t MemoryFor(const ZooModel& model) { return std::min(kMostMemory, kLeastMemory + 2 * model.bytes); }

}  // namespace q2c
