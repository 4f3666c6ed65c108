#include "convert/zoo_journal.h"

#include <algorithm>

#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr std::string_view kFormat = "qwen2-zoo-journal";
constexpr std::string_view kVersion = "1.0";
constexpr uint64_t kMaxLine = 1 << 20;

struct EventName {
  ZooEvent event;
  std::string_view name;
};
constexpr EventName kEvents[] = {{ZooEvent::kDone, "done"}, {ZooEvent::kFailed, "failed"}, {ZooEvent::kTryAgain, "try-again"}, {ZooEvent::kGivenBack, "given-back"}, {ZooEvent::kReopened, "reopened"}};

}  // namespace

std::string_view NameOf(ZooEvent event) {
  return std::ranges::find(kEvents, event, &EventName::event)->name;
}

Json ToJson(const ZooRecord& record) {
  Json json = Json::Object({{"event", Json::String(NameOf(record.event))}, {"unit", Json::String(record.unit)}, {"model", Json::String(record.model)}, {"fence", Json::Integer(record.fence)},
                            {"time", Json::Number(fmt::format("{:.3f}", record.time))}, {"worker", Json::String(record.worker)}});
  if (record.event == ZooEvent::kReopened) return json;
  if (record.event != ZooEvent::kDone) {
    json.Set("exit", Json::Integer(static_cast<int>(record.code)));
    json.Set("id", Json::String(record.id));
    json.Set("message", Json::String(record.message));
  } else {
    json.Set("found_equal", Json::Bool(record.found_equal));
    json.Set("exactness", Json::String(record.exactness));
  }
  json.Set("bytes", Json::Integer(record.bytes));
  json.Set("output_bytes", Json::Integer(record.output_bytes));
  json.Set("seconds", Json::Number(fmt::format("{:.3f}", record.seconds)));
  json.Set("job_seconds", Json::Number(fmt::format("{:.4f}", record.job_seconds)));
  json.Set("cpu_seconds", Json::Number(fmt::format("{:.3f}", record.cpu_seconds)));
  json.Set("peak_memory_bytes", Json::Integer(record.peak_memory));
  return json;
}

Result<ZooRecord> ParseZooRecord(std::string_view line) {
  QC_ASSIGN(const Json json, ParseJson(line));
  const auto text = [&](std::string_view key) { return json.Find(key) != nullptr && json.Find(key)->is_string() ? json.Find(key)->text() : std::string(); };
  const auto number = [&](std::string_view key) { return json.Find(key) != nullptr ? json.Find(key)->AsU64().value_or(0) : 0; };
  const auto real = [&](std::string_view key) { return json.Find(key) != nullptr ? json.Find(key)->AsDouble().value_or(0) : 0; };
  const auto* event = std::ranges::find(kEvents, text("event"), &EventName::name);
  ZooRecord record;
  record.unit = text("unit");
  record.fence = number("fence");
  if (event == std::end(kEvents) || record.unit.empty() || record.fence == 0) return Malformed("journal", "this is no record: expected an event, a unit and a fence");
  record.event = event->event;
  record.model = text("model");
  record.time = real("time");
  record.worker = text("worker");
  record.code = static_cast<Code>(number("exit"));
  record.id = text("id");
  record.message = text("message");
  record.found_equal = json.Find("found_equal") != nullptr && json.Find("found_equal")->AsBool().value_or(false);
  record.bytes = number("bytes");
  record.output_bytes = number("output_bytes");
  record.seconds = real("seconds");
  record.job_seconds = real("job_seconds");
  record.cpu_seconds = real("cpu_seconds");
  record.peak_memory = number("peak_memory_bytes");
  record.exactness = text("exactness");
  return record;
}

Status ZooJournal::Append(const ZooRecord& record) {
  if (!file_.has_value()) {
    QC_ASSIGN(file_, AppendFile::Create(folder_, self_.Short() + ".jsonl"));
    const Json head = Json::Object({{"format", Json::String(kFormat)}, {"version", Json::String(kVersion)}, {"tool", Json::String(Q2C_VERSION)}, {"worker", self_.ToJson()}});
    QC_TRY(file_->Append(head.Dump(-1) + "\n"));
  }
  return file_->Append(ToJson(record).Dump(-1) + "\n");
}

UnitState::State UnitState::state() const {
  if (done > reopened) return State::kDone;
  return failed > reopened ? State::kFailed : State::kOpen;
}

uint64_t UnitState::attempts() const {
  return static_cast<uint64_t>(std::ranges::count_if(tries, [&](uint64_t at) { return at > reopened; }));
}

void UnitState::Add(const ZooRecord& record) {
  fence = std::max(fence, record.fence);
  ++records;
  switch (record.event) {
    case ZooEvent::kDone: done = std::max(done, record.fence); break;
    case ZooEvent::kFailed: failed = std::max(failed, record.fence); break;
    case ZooEvent::kReopened: reopened = std::max(reopened, record.fence); break;
    case ZooEvent::kTryAgain:
      tries.push_back(record.fence);
      seen = std::chrono::steady_clock::now();
      break;
    case ZooEvent::kGivenBack: break;
  }
}

Status ZooHistory::Refresh(const Visitor& visit) {
  QC_ASSIGN(const std::vector<DirEntry> entries, folder_.List());
  for (const DirEntry& entry : entries) {
    if (!entry.name.ends_with(".jsonl")) continue;
    uint64_t& offset = offsets_[entry.name];
    QC_ASSIGN(const InputFile file, InputFile::Open(folder_, entry.name));
    if (file.bytes() <= offset) continue;
    const auto read = [&](std::string_view line) -> Status {
      Result<ZooRecord> record = ParseZooRecord(line);
      if (record.ok()) {
        units_[record.value().unit].Add(record.value());
        if (visit) visit(record.value());
        return {};
      }
      const Result<Json> json = ParseJson(line);
      const Json* version = json.ok() ? json.value().Find("version") : nullptr;
      if (version == nullptr || !version->is_string()) {
        complaints_.push_back(fmt::format("journal '{}': skipped a line that is no record: {}", Escape(file.path()), Escape(line, 60)));
      } else if (version->text().substr(0, version->text().find('.')) != kVersion.substr(0, kVersion.find('.'))) {
        return Refused("journal-version", "journal '{}' has format version {}, this program reads 1.x", Escape(file.path()), Escape(version->text(), 20));
      }
      return {};
    };
    QC_ASSIGN(const uint64_t torn, VisitLines(file, &offset, kMaxLine, read));
    (void)torn;  // being written, or left by somebody who died
  }
  return {};
}

const UnitState& ZooHistory::Of(const std::string& unit) const {
  static const UnitState kNothing;
  const auto found = units_.find(unit);
  return found == units_.end() ? kNothing : found->second;
}

}  // namespace q2c
