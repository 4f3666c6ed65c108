#include "convert/zoo_verify.h"

#include <algorithm>
#include <set>

#include "convert/execute.h"
#include "convert/zoo_run.h"
#include "formats/base/text.h"
#include "verify/readback.h"

namespace q2c {
namespace {

constexpr std::string_view kMissing = "output-missing";

// Returns the number of bytes that were found as the manifest says.
Result<uint64_t> VerifyOutput(const std::string& path) {
  const Result<Dir> dir = Dir::Open(path, Links::kRefuse);
  if (!dir.ok()) return MakeError(Code::kFindings, kMissing, "output '{}' is not there any more; 'retry --only={}' and run again", Escape(path), kMissing);
  constexpr uint64_t kMaxManifest = 1 << 30;
  QC_ASSIGN(const InputFile file, InputFile::Open(dir.value(), std::string(kManifestName)));
  QC_ASSIGN(const std::string text, file.ReadAll(kMaxManifest));
  QC_ASSIGN(const Manifest manifest, ReadManifest(text));
  QC_TRY(VerifyHashes(dir.value(), manifest, {1, ReadFrom::kCache, nullptr, nullptr}));
  uint64_t bytes = 0;
  std::set<std::string> known = {std::string(kManifestName), std::string(kSumsName)};
  for (const ManifestFile& item : manifest.files) {
    bytes += item.bytes;
    known.insert(item.name);
  }
  QC_ASSIGN(const std::vector<DirEntry> entries, dir.value().List());
  for (const DirEntry& entry : entries) {
    if (!known.contains(entry.name)) return MakeError(Code::kFindings, "output-extra", "output '{}' holds '{}', which its manifest does not know", Escape(path), Escape(entry.name));
  }
  return bytes;
}

// Folders in which outputs grow, beside where they will be.
Status FindStaging(const ZooSummary& summary, std::vector<std::string>* left) {
  std::vector<std::string> outs;
  for (const ZooRow& row : summary.rows) outs.push_back(JoinPath(summary.plan->out, row.model->out));
  QC_ASSIGN(const std::vector<Staging::Left> found, Staging::FindLeft(outs));
  for (const Staging::Left& folder : found) left->push_back(folder.path);
  return {};
}

}  // namespace

Result<ZooVerified> VerifyZoo(const ZooSummary& summary, unsigned jobs, const std::atomic<int>* stop) {
  ZooVerified verified;
  std::vector<const ZooRow*> rows;
  for (const ZooRow& row : summary.rows) {
    if (row.state == UnitState::State::kDone) rows.push_back(&row);
  }
  // Each in a child: what lies there may be anything by now.
  Children children;
  std::map<uint64_t, const ZooRow*> at_work;
  for (size_t next = 0; next < rows.size() || children.count() > 0;) {
    QC_TRY(CheckStop(stop));
    while (next < rows.size() && children.count() < jobs) {
      const std::string path = JoinPath(summary.plan->out, rows[next]->model->out);
      QC_ASSIGN(const uint64_t child, children.Start([&] {
        const Result<uint64_t> bytes = VerifyOutput(path);
        if (bytes.ok()) return Json::Object({{"bytes", Json::Integer(bytes.value())}}).Dump(-1);
        return Json::Object({{"exit", Json::Integer(static_cast<int>(bytes.error().code))}, {"id", Json::String(bytes.error().id)}, {"message", Json::String(bytes.error().message)}}).Dump(-1);
      }));
      at_work[child] = rows[next++];
    }
    constexpr int kTick = 200;  // ms, until the next look at the signals
    for (const Children::Ended& ended : children.Wait(kTick)) {
      const ZooRow& row = *at_work[ended.id];
      const Result<Json> said = ParseJson(ended.text);
      if (!said.ok()) {
        verified.wrong.emplace_back(row.model->in, Internal("looking at the output ended by signal {}", ended.signal));
      } else if (said.value().Find("id") != nullptr) {
        verified.wrong.emplace_back(row.model->in, Error{static_cast<Code>(said.value().Find("exit")->AsU64().value_or(1)), said.value().Find("id")->text(), said.value().Find("message")->text()});
      } else {
        ++verified.sound;
        verified.bytes += said.value().Find("bytes")->AsU64().value_or(0);
      }
    }
  }
  std::ranges::sort(verified.wrong, {}, [](const auto& item) { return item.first; });
  QC_TRY(FindStaging(summary, &verified.left));
  return verified;
}

Result<std::vector<std::string>> RetryZoo(const ZooSummary& summary, const std::vector<std::string>& only) {
  std::vector<std::string> models;
  const auto named = [&](std::string_view id) { return std::ranges::find(only, id) != only.end(); };
  QC_ASSIGN(ZooFolders folders, OpenZooFolders(*summary.plan));
  QC_TRY(folders.history.Refresh());
  const ProcessName self = ThisProcess();
  ZooJournal journal(std::move(folders.journals), self);
  for (const ZooRow& row : summary.rows) {
    bool again = row.state == UnitState::State::kFailed && (only.empty() || (row.outcome.has_value() && named(row.outcome->id)));
    if (row.state == UnitState::State::kDone && named(kMissing)) again = !Dir::Open(JoinPath(summary.plan->out, row.model->out)).ok();
    if (!again) continue;
    ZooRecord record;
    record.event = ZooEvent::kReopened;
    record.unit = row.unit;
    record.model = row.model->in;
    record.fence = folders.history.Of(row.unit).fence + 1;
    record.time = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    record.worker = self.Short();
    QC_TRY(journal.Append(record));
    models.push_back(row.model->in);
  }
  return models;
}

}  // namespace q2c
