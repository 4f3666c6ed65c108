#include "convert/zoo_report.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <unordered_map>

#include "convert/zoo_model.h"
#include "convert/zoo_run.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

using State = UnitState::State;

std::string_view NameOf(State state) { return state == State::kDone ? "done" : state == State::kFailed ? "failed" : "open"; }

// Does the record say more about the unit than the one we have?
bool Decides(const ZooRecord& record, const std::optional<ZooRecord>& other) {
  if (record.event == ZooEvent::kReopened) return false;
  if (!other.has_value()) return true;
  const bool done = record.event == ZooEvent::kDone;
  const bool other_done = other->event == ZooEvent::kDone;
  return done != other_done ? done : record.fence > other->fence;
}

void Count(const ZooHistory& history, ZooSummary* summary) {
  for (ZooRow& row : summary->rows) {
    row.state = history.Of(row.unit).state();
    if (row.outcome.has_value() && row.outcome->fence <= history.Of(row.unit).reopened) row.outcome.reset();
    if (row.state == State::kOpen) ++summary->open;
    if (row.state == State::kFailed) ++summary->failed;
    if (row.state != State::kDone) continue;
    ++summary->done;
    summary->bytes += row.model->bytes;
    summary->output_bytes += row.outcome.has_value() ? row.outcome->output_bytes : 0;
  }
}

std::string Duration(double seconds) {
  const auto whole = static_cast<uint64_t>(std::lround(seconds));
  if (whole < 120) return fmt::format("{:.1f} s", seconds);
  if (whole < 7200) return fmt::format("{} min", whole / 60);
  return fmt::format("{} h {} min", whole / 3600, whole / 60 % 60);
}

uint64_t Rate(uint64_t bytes, double seconds) { return seconds > 0 ? static_cast<uint64_t>(static_cast<double>(bytes) / seconds) : 0; }
Json Seconds(double value) { return Json::Number(fmt::format("{:.3f}", value)); }

}  // namespace

Result<ZooSummary> Summarise(const ZooPlan& plan, const std::string& leases) {
  ZooSummary summary;
  summary.plan = &plan;
  std::unordered_map<std::string, size_t> index;
  for (const ZooModel& model : plan.models) {
    if (model.refused.has_value()) {
      ++summary.refused;
      continue;
    }
    summary.rows.push_back({&model, model.Unit(), State::kOpen, 0, std::nullopt});
    index[summary.rows.back().unit] = summary.rows.size() - 1;
  }
  // A plan that was never run has no journals; looking at it makes no folders.
  if (!Dir::Open(JoinPath(plan.Folder(), "journal")).ok()) {
    summary.open = summary.rows.size();
    return summary;
  }
  QC_ASSIGN(ZooFolders folders, OpenZooFolders(plan));
  std::set<std::string> workers;
  QC_TRY(folders.history.Refresh([&](const ZooRecord& record) {
    const auto found = index.find(record.unit);
    if (found == index.end()) return;
    ZooRow& row = summary.rows[found->second];
    if (record.event != ZooEvent::kReopened) {
      ++row.attempts;
      workers.insert(record.worker);
      summary.seconds += record.seconds;
      summary.job_seconds += record.job_seconds;
      summary.cpu_seconds += record.cpu_seconds;
      summary.begin = summary.begin == 0 ? record.time - record.seconds : std::min(summary.begin, record.time - record.seconds);
      summary.end = std::max(summary.end, record.time);
    }
    if (record.event == ZooEvent::kDone) {
      summary.finished.push_back(record);
      summary.found_equal += record.found_equal ? 1 : 0;
    }
    if (Decides(record, row.outcome)) row.outcome = record;
  }));
  summary.notes = folders.history.complaints();
  summary.workers = workers.size();
  std::ranges::sort(summary.finished, {}, &ZooRecord::time);
  Count(folders.history, &summary);
  constexpr double kNever = 1e9;
  Result<LeaseFolder> folder = LeaseFolder::Open(leases.empty() ? JoinPath(plan.Folder(), "leases") : leases, ThisProcess(), kNever);
  if (folder.ok()) {
    Result<std::vector<HeldLease>> held = folder.value().List();
    if (held.ok()) summary.leases = std::move(held).value();
  }
  return summary;
}

std::map<std::string, ZooFailures> FailuresByFinding(const ZooSummary& summary) {
  std::map<std::string, ZooFailures> failures;
  const auto add = [&](const std::string& id, const std::string& model, const std::string& message, Code code, bool planned) {
    ZooFailures& group = failures[id];
    if (group.models.empty()) group.message = message, group.code = code, group.planned = planned;
    group.models.push_back(model);
  };
  for (const ZooModel& model : summary.plan->models) {
    if (model.refused.has_value()) add(model.refused->id, model.in, model.refused->message, model.refused->code, true);
  }
  for (const ZooRow& row : summary.rows) {
    if (row.state == State::kFailed && row.outcome.has_value()) add(row.outcome->id, row.model->in, row.outcome->message, row.outcome->code, false);
  }
  return failures;
}

Json StatusJson(const ZooSummary& summary) {
  Json working = Json::Array();
  for (const HeldLease& held : summary.leases) {
    const auto row = std::ranges::find(summary.rows, held.lease.unit, &ZooRow::unit);
    if (row == summary.rows.end() || row->state != State::kOpen) continue;
    working.items().push_back(Json::Object({{"model", Json::String(row->model->in)}, {"worker", Json::String(held.holder.has_value() ? held.holder->Short() : "")}, {"fence", Json::Integer(held.lease.fence)},
                                            {"heartbeat_age_seconds", Seconds(held.age_seconds)}}));
  }
  return Json::Object({{"schema", Json::Integer(1)},
                       {"plan", Json::String(summary.plan->path)},
                       {"models", Json::Integer(uint64_t{summary.rows.size()})},
                       {"done", Json::Integer(summary.done)},
                       {"failed", Json::Integer(summary.failed)},
                       {"open", Json::Integer(summary.open)},
                       {"refused_by_plan", Json::Integer(summary.refused)},
                       {"bad_lines", Json::Integer(uint64_t{summary.plan->bad_lines.size()})},
                       {"found_equal", Json::Integer(summary.found_equal)},
                       {"workers", Json::Integer(summary.workers)},
                       {"bytes", Json::Integer(summary.bytes)},
                       {"output_bytes", Json::Integer(summary.output_bytes)},
                       {"work_seconds", Seconds(summary.seconds)},
                       {"job_seconds", Seconds(summary.job_seconds)},
                       {"cpu_seconds", Seconds(summary.cpu_seconds)},
                       {"elapsed_seconds", Seconds(summary.elapsed())},
                       {"working", std::move(working)}});
}

std::string StatusText(const ZooSummary& summary) {
  std::string text = fmt::format("{} of {} models done, {} failed, {} open", summary.done, summary.rows.size(), summary.failed, summary.open);
  if (summary.refused > 0) text += fmt::format("; {} more refused by the plan", summary.refused);
  if (!summary.plan->bad_lines.empty()) text += fmt::format("; {} lines of the plan are no good", summary.plan->bad_lines.size());
  text += '\n';
  if (summary.end > 0) {
    text += fmt::format("{} read, {} written by {} workers in {}, {}/s\n", HumanBytes(summary.bytes), HumanBytes(summary.output_bytes), summary.workers, Duration(summary.elapsed()),
                        HumanBytes(Rate(summary.bytes + summary.output_bytes, summary.elapsed())));
    uint64_t left = 0;
    for (const ZooRow& row : summary.rows) left += row.state == State::kOpen ? row.model->bytes : 0;
    if (left > 0 && summary.bytes > 0) text += fmt::format("{} left, about {} at that rate\n", HumanBytes(left), Duration(summary.elapsed() * static_cast<double>(left) / static_cast<double>(summary.bytes)));
  }
  const Json status = StatusJson(summary);
  for (const Json& item : status.Find("working")->items()) {
    text += fmt::format("in work: {} by {}, heartbeat {:.0f} s ago\n", Escape(item.Find("model")->text()), Escape(item.Find("worker")->text()), item.Find("heartbeat_age_seconds")->AsDouble().value_or(0));
  }
  return text;
}

Json ZooReportJson(const ZooSummary& summary) {
  Json document = StatusJson(summary);
  Json failures = Json::Array();
  for (const auto& [id, group] : FailuresByFinding(summary)) {
    Json models = Json::Array();
    for (const std::string& model : group.models) models.items().push_back(Json::String(model));
    failures.items().push_back(Json::Object({{"id", Json::String(id)}, {"exit", Json::Integer(static_cast<int>(group.code))}, {"refused_by_plan", Json::Bool(group.planned)}, {"message", Json::String(group.message)}, {"models", std::move(models)}}));
  }
  Json models = Json::Array();
  for (const ZooRow& row : summary.rows) {
    Json item = Json::Object({{"model", Json::String(row.model->in)}, {"state", Json::String(NameOf(row.state))}, {"attempts", Json::Integer(row.attempts)}});
    if (row.model->generic) item.Set("architecture", Json::String("generic"));
    if (row.outcome.has_value()) {
      const Json record = ToJson(*row.outcome);
      for (const auto& [key, value] : record.members()) {
        if (item.Find(key) == nullptr) item.Set(key, value);
      }
      if (row.state == State::kDone) item.Set("report", Json::String("reports/" + ReportPath(row.unit)));
    }
    models.items().push_back(std::move(item));
  }
  document.Set("failures", std::move(failures));
  document.Set("per_model", std::move(models));
  return document;
}

std::string ZooReportText(const ZooSummary& summary) {
  std::string text = StatusText(summary);
  if (summary.found_equal > 0) text += fmt::format("{} times a worker found that an equal output was there already\n", summary.found_equal);
  if (summary.seconds > 0) text += fmt::format("{} of work, {} of processor time\n", Duration(summary.seconds), Duration(summary.cpu_seconds));
  std::vector<std::string> generic;
  for (const ZooRow& row : summary.rows) {
    if (row.model->generic) generic.push_back(row.model->in);
  }
  if (!generic.empty()) text += fmt::format("{} models are of no known architecture and are taken as they are (--arch=generic): {}\n", generic.size(), QuoteSome(generic));
  for (const auto& [id, group] : FailuresByFinding(summary)) {
    text += fmt::format("{} [{}], exit {}: {}: {}\n    {}\n", group.planned ? "refused" : "failed", id, static_cast<int>(group.code), group.models.size(), QuoteSome(group.models), group.message);
  }
  for (const std::string& note : summary.notes) text += fmt::format("note: {}\n", note);
  return text;
}

}  // namespace q2c
