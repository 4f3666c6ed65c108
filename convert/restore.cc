#include "convert/restore.h"

#include <chrono>

#include "convert/execute.h"
#include "convert/rebuild.h"
#include "formats/base/hash.h"
#include "formats/base/parallel.h"
#include "formats/base/text.h"
#include "formats/manifest.h"

namespace q2c {
namespace {

// Room for the file system's own needs.
constexpr uint64_t kReserve = 1'000'000;

Result<UndoRecord> ReadRecord(const Location& out) {
  const std::string name(kUndoName);
  QC_ASSIGN(const bool there, out.dir().Has(name));
  if (!there) return Refused("undo-missing", "folder '{}' has no '{}', so its input cannot be restored; only what is converted with --undo has one", Escape(out.dir().path()), kUndoName);
  QC_ASSIGN(const InputFile file, out.OpenMember(name));
  QC_ASSIGN(const std::string bytes, file.ReadAll(kMaxUndoBytes));
  Result<UndoRecord> record = UnpackUndo(AsBytes(bytes));
  if (!record.ok()) return std::move(record).TakeError().Within(fmt::format("file '{}'", Escape(file.path())));
  return record;
}

Error Changed(const InputFile& file, std::string_view what) {
  return Malformed("undo-changed", "file '{}' is not the one that was written ({}); put it back as it was, SHA256SUMS shows what has changed", Escape(file.path()), what);
}

// Every file that the record knows must be what was written, whether it is needed or not.
Status CheckOutput(const Location& out, const UndoRecord& record, const RestoreOptions& options, Progress* progress) {
  uint64_t total = 0;
  for (const UndoOutput& output : record.outputs) {
    QC_ASSIGN(const bool there, out.dir().Has(output.name));
    if (!there) return Malformed("undo-changed", "file '{}' is missing; put it back as it was", Escape(out.dir().PathOf(output.name)));
    QC_ASSIGN(const InputFile file, out.OpenMember(output.name));
    if (file.bytes() != output.bytes) return Changed(file, fmt::format("{} bytes instead of {}", file.bytes(), output.bytes));
    total += file.bytes();
  }
  progress->Begin("checking", total);
  return RunParallel(record.outputs.size(), options.jobs, [&](size_t i) -> Status {
    QC_ASSIGN(const InputFile file, out.OpenMember(record.outputs[i].name));
    Sha256 sha256;
    constexpr uint64_t kPiece = 1U << 20U;
    std::vector<std::byte> buffer(std::min(kPiece, file.bytes()));
    for (uint64_t at = 0; at < file.bytes(); at += kPiece) {
      QC_TRY(CheckStop(options.stop));
      const MutableBytes piece(buffer.data(), std::min(kPiece, file.bytes() - at));
      QC_TRY(file.ReadAt(at, piece));
      sha256.Update(piece);
      progress->Add(piece.size());
    }
    if (sha256.Hex() != record.outputs[i].sha256) return Changed(file, "its SHA-256 is another");
    return {};
  });
}

Status WriteOriginal(const UndoFile& meant, const Rebuilder& rebuilder, const OutputFile& file, const RestoreOptions& options, Progress* progress) {
  Sha256 sha256;
  QC_TRY(rebuilder.Stream(meant, [&](uint64_t offset, MutableBytes bytes) -> Status {
    QC_TRY(CheckStop(options.stop));
    sha256.Update(bytes);
    QC_TRY(file.WriteAt(offset, bytes));
    progress->Add(bytes.size());
    return {};
  }));
  const std::string found = sha256.Hex();
  if (found != meant.sha256) return MakeError(Code::kFindings, "undo-differs", "file '{}' comes out with SHA-256 {}, the input had {}; nothing was restored", Escape(meant.name), found, meant.sha256);
  return file.Finish(meant.mode);
}

}  // namespace

Result<RestoreReport> Restore(const RestoreOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  Progress progress(options.progress);
  QC_ASSIGN(const Location out, Location::Open(options.out, options.links));
  QC_ASSIGN(const UndoRecord record, ReadRecord(out));
  QC_ASSIGN(Staging staging, Staging::Begin(options.original, out.dir().path(), options.overwrite));
  RestoreReport report;
  report.files = record.files.size();
  CheckedSize total = kReserve;
  for (const UndoFile& file : record.files) total += file.bytes;
  QC_ASSIGN(const uint64_t room, FreeBytes(staging.dir()));
  if (!total.value().has_value() || room < *total.value()) {
    return MakeError(Code::kNoSpace, "no-space", "'{}' needs {}, but only {} are free there", Escape(options.original), HumanBytes(total.value().value_or(UINT64_MAX)), HumanBytes(room));
  }
  report.bytes = *total.value() - kReserve;
  QC_TRY(CheckOutput(out, record, options, &progress));
  QC_ASSIGN(const std::unique_ptr<Rebuilder> rebuilder, Rebuilder::Open(record, out.dir().path(), options.links));

  std::vector<OutputFile> files;
  for (const UndoFile& file : record.files) {
    QC_ASSIGN(OutputFile created, OutputFile::Create(staging.dir(), file.name));
    QC_TRY(created.Preallocate(file.bytes));
    files.push_back(std::move(created));
  }
  progress.Begin("restoring", report.bytes);
  QC_TRY(RunParallel(files.size(), options.jobs, [&](size_t i) { return WriteOriginal(record.files[i], *rebuilder, files[i], options, &progress); }));
  QC_TRY(CheckStop(options.stop));
  QC_TRY(staging.Commit());
  progress.End();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace q2c
