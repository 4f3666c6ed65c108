// qwen2-zoo: see --help.
#include <csignal>
#include <cstdio>

#include "convert/zoo_options.h"
#include "convert/zoo_verify.h"
#include "formats/base/program.h"
#include "formats/base/text.h"

namespace {

using q2c::Code;
using q2c::Exit;
using q2c::Json;
using q2c::Print;
using q2c::ZooCommand;

q2c::Result<int> Plan(const ZooCommand& command) {
  q2c::FindOptions options = command.find;
  options.stop = &q2c::StopSignal();
  QC_ASSIGN(const q2c::FoundZoo zoo, q2c::FindZoo(command.root, command.out, options));
  std::string text = q2c::PlanHeadLine(zoo.plan);
  size_t refused = 0;
  for (const q2c::ZooModel& model : zoo.plan.models) {
    text += q2c::PlanLine(model);
    if (!model.refused.has_value()) continue;
    ++refused;
    if (!command.run.quiet) fmt::print(stderr, "refused  {}: {}\n", q2c::Escape(model.in), model.refused->Text());
  }
  if (!command.run.quiet) {
    for (const std::string& note : zoo.notes) fmt::print(stderr, "{}\n", note);
    fmt::print(stderr, "{} models planned, {} refused\n", zoo.plan.models.size() - refused, refused);
  }
  return Print(text, refused > 0 ? Code::kFindings : Code::kOk);
}

q2c::Result<int> Run(const ZooCommand& command, const q2c::ZooPlan& plan) {
  q2c::ZooRunOptions options = command.run;
  options.stops = &q2c::StopCount();
  QC_ASSIGN(const q2c::ZooOutcome outcome, q2c::RunZoo(plan, options));
  const uint64_t open = outcome.models - outcome.done - outcome.failed;
  if (!options.quiet) fmt::print(stderr, "{} of {} models done, {} failed, {} open; {} taken by this worker\n", outcome.done, outcome.models, outcome.failed, open, outcome.taken);
  if (outcome.ended_by.has_value()) return *outcome.ended_by;
  if (outcome.stopped && open > 0) return Exit(q2c::StopSignal() == SIGINT ? Code::kInterrupted : Code::kTerminated);
  return Exit(outcome.failed > 0 || !plan.bad_lines.empty() ? Code::kFindings : Code::kOk);
}

q2c::Result<int> Verify(const ZooCommand& command, const q2c::ZooSummary& summary) {
  QC_ASSIGN(const q2c::ZooVerified verified, q2c::VerifyZoo(summary, command.run.jobs, &q2c::StopSignal()));
  std::string text;
  Json wrong = Json::Array();
  for (const auto& [model, error] : verified.wrong) {
    text += fmt::format("{}: {}\n", q2c::Escape(model), error.Text());
    wrong.items().push_back(Json::Object({{"model", Json::String(model)}, {"id", Json::String(error.id)}, {"message", Json::String(error.message)}}));
  }
  Json left = Json::Array();
  for (const std::string& path : verified.left) {
    text += fmt::format("note: '{}' is in work, or left by a worker that was killed; the next run clears it away\n", q2c::Escape(path));
    left.items().push_back(Json::String(path));
  }
  text += fmt::format("{} outputs as their manifests say, {}; {} not; {} models are not done\n", verified.sound, q2c::HumanBytes(verified.bytes), verified.wrong.size(), summary.failed + summary.open);
  if (command.json) {
    text = Json::Object({{"schema", Json::Integer(1)}, {"sound", Json::Integer(verified.sound)}, {"bytes", Json::Integer(verified.bytes)}, {"not_done", Json::Integer(summary.failed + summary.open)}, {"wrong", std::move(wrong)}, {"staging_left", std::move(left)}}).Dump() + "\n";
  }
  return Print(text, verified.wrong.empty() ? Code::kOk : Code::kFindings);
}

q2c::Result<int> Retry(const ZooCommand& command, const q2c::ZooSummary& summary) {
  QC_ASSIGN(const std::vector<std::string> models, q2c::RetryZoo(summary, command.only));
  std::string text;
  for (const std::string& model : models) text += fmt::format("open again: {}\n", q2c::Escape(model));
  if (models.empty()) text += "nothing to retry\n";
  else text += fmt::format("{} models; now: qwen2-zoo run {}\n", models.size(), q2c::Escape(command.plan));
  return Print(text, Code::kOk);
}

q2c::Status WriteHtml(const ZooCommand& command, const q2c::ZooSummary& summary) {
  const std::string path = q2c::AbsolutePath(command.html);
  const std::string home = q2c::ParentPath(path);
  std::string reports = q2c::JoinPath(q2c::AbsolutePath(summary.plan->Folder()), "reports");
  if (q2c::IsInside(reports, home) && home != "/") reports = reports.substr(home.size() + 1);  // so that both may be moved together
  return q2c::PutFile(path, q2c::AsBytes(q2c::ZooReportHtml(summary, reports)));
}

q2c::Result<int> Report(const ZooCommand& command, const q2c::ZooSummary& summary) {
  if (!command.html.empty()) {
    QC_TRY(WriteHtml(command, summary));
    return Exit(Code::kOk);
  }
  if (command.json) return Print(q2c::ZooReportJson(summary).Dump() + "\n", Code::kOk);
  return Print(q2c::ZooReportText(summary), Code::kOk);
}

q2c::Result<int> Carry(const ZooCommand& command) {
  using Mode = ZooCommand::Mode;
  if (command.mode == Mode::kHelp) {
    QC_ASSIGN(const std::string help, q2c::ManualAs(q2c::ZooManual(), command.help));
    return Print(help, Code::kOk);
  }
  if (command.mode == Mode::kVersion) return Print("qwen2-zoo " Q2C_VERSION "\n", Code::kOk);
  if (command.mode == Mode::kPlan) return Plan(command);
  QC_ASSIGN(const q2c::ZooPlan plan, q2c::ReadZooPlan(command.plan));
  // Before anything is written.
  for (const q2c::Error& line : plan.bad_lines) fmt::print(stderr, "qwen2-zoo: refused: {}\n", line.Text());
  if (command.mode == Mode::kRun) return Run(command, plan);
  QC_ASSIGN(const q2c::ZooSummary summary, q2c::Summarise(plan, command.run.leases));
  switch (command.mode) {
    case Mode::kVerify: return Verify(command, summary);
    case Mode::kRetry: return Retry(command, summary);
    case Mode::kReport: return Report(command, summary);
    default: return Print(command.json ? q2c::StatusJson(summary).Dump() + "\n" : q2c::StatusText(summary), Code::kOk);
  }
}

int Main(int argc, char** argv) {
  const q2c::Result<ZooCommand> command = q2c::ParseZooCommand(argc, argv);
  if (!command.ok()) return q2c::ExitWith(command.error());
  const q2c::Result<int> code = Carry(command.value());
  return code.ok() ? code.value() : q2c::ExitWith(code.error());
}

}  // namespace

int main(int argc, char** argv) { return q2c::RunProgram("qwen2-zoo", Main, argc, argv); }
