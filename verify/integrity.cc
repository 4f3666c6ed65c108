#include "verify/integrity.h"

#include <algorithm>
#include <map>

#include "formats/base/hash.h"
#include "formats/base/text.h"
#include "formats/model_signature.h"
#include "formats/manifest.h"
#include "formats/base/parallel.h"

namespace q2c {
namespace {

constexpr uint64_t kMaxList = 64'000'000;
constexpr size_t kSha256Digits = 64;
constexpr size_t kSha1Digits = 40;

bool IsHex(std::string_view text, size_t digits) {
  return text.size() == digits && std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); });
}

// One statement about a file.
struct Expected {
  std::string source;
  std::string digest;  // 64 digits: SHA-256; 40: git's SHA-1 of a blob
  int64_t recorded_ns = 0;  // when it was downloaded; 0: not said
};
using Statements = std::map<std::string, std::vector<Expected>>;

// "digest  name", "digest *name" or "SHA256 (name) = digest".
bool ReadSumsLine(std::string_view line, std::string* name, std::string* digest) {
  constexpr std::string_view kTag = "SHA256 (";
  if (line.starts_with(kTag)) {
    const size_t close = line.rfind(") = ");
    if (close == std::string_view::npos) return false;
    *name = line.substr(kTag.size(), close - kTag.size());
    *digest = Lower(line.substr(close + 4));
  } else {
    const bool escaped = line.starts_with('\\');  // a name with a backslash or a newline, as sha256sum marks it
    if (escaped) line.remove_prefix(1);
    if (line.size() < kSha256Digits + 2 || line[kSha256Digits] != ' ' || (line[kSha256Digits + 1] != ' ' && line[kSha256Digits + 1] != '*')) return false;
    name->clear();
    for (size_t i = kSha256Digits + 2; i < line.size(); ++i) {
      const bool pair = escaped && line[i] == '\\' && i + 1 < line.size();
      if (pair) ++i;
      *name += pair && line[i] == 'n' ? '\n' : line[i];
    }
    *digest = Lower(line.substr(0, kSha256Digits));
  }
  if (name->starts_with("./")) name->erase(0, 2);
  return IsHex(*digest, kSha256Digits);
}

bool FromSums(const CheckInput& input, Statements* statements, Findings* findings) {
  const std::optional<std::string> text = input.ReadText(std::string(kSumsName), kMaxList);
  if (!text.has_value()) return false;
  for (const std::string_view line : Lines(*text)) {
    std::string name;
    std::string digest;
    if (line.empty() || line.starts_with('#')) continue;
    if (ReadSumsLine(line, &name, &digest)) (*statements)[name].push_back({std::string(kSumsName), digest});
    else findings->Add("manifest", fmt::format("file '{}': the line '{}' is no checksum and name", kSumsName, Escape(line, 80)));
  }
  return true;
}

bool FromManifest(const CheckInput& input, Statements* statements, Findings* findings) {
  const std::optional<std::string> text = input.ReadText(std::string(kManifestName), kMaxList);
  if (!text.has_value()) return false;
  const Result<Manifest> manifest = ReadManifest(*text);
  if (!manifest.ok()) {
    findings->Add(manifest.error());
    return true;
  }
  for (const ManifestFile& file : manifest.value().files) (*statements)[file.name].push_back({std::string(kManifestName), Lower(file.sha256)});
  return true;
}

// A file of a Hub cache is a link to a blob that is named by its digest.
bool FromHubCache(const CheckInput& input, Statements* statements) {
  bool any = false;
  for (const DirEntry& entry : input.entries) {
    if (entry.kind != FileKind::kLink) continue;
    const Result<std::string> link = input.checkpoint->location().dir().ReadLink(entry.name);
    if (!link.ok()) continue;
    const std::string blob = BaseName(link.value());
    if (BaseName(ParentPath(link.value())) != "blobs" || !(IsHex(blob, kSha256Digits) || IsHex(blob, kSha1Digits))) continue;
    (*statements)[entry.name].push_back({"the name of its blob in the Hub cache", Lower(blob)});
    any = true;
  }
  return any;
}

// .cache/huggingface/download/NAME.metadata: commit, etag and time of the download, a line each.
bool FromDownloads(const CheckInput& input, Statements* statements) {
  const Dir& dir = input.checkpoint->location().dir();
  const Result<Dir> cache = dir.OpenDir(".cache");
  const Result<Dir> hub = cache.ok() ? cache.value().OpenDir("huggingface") : Result<Dir>(cache.error());
  const Result<Dir> records = hub.ok() ? hub.value().OpenDir("download") : Result<Dir>(hub.error());
  if (!records.ok()) return false;
  const Result<std::vector<DirEntry>> entries = records.value().List();
  if (!entries.ok()) return false;
  constexpr std::string_view kEnding = ".metadata";
  constexpr uint64_t kMaxRecord = 4096;
  bool any = false;
  for (const DirEntry& entry : entries.value()) {
    if (!entry.name.ends_with(kEnding)) continue;
    const Result<InputFile> file = InputFile::Open(records.value(), entry.name);
    if (!file.ok()) continue;
    const Result<std::string> text = file.value().ReadAll(kMaxRecord);
    if (!text.ok()) continue;
    const std::vector<std::string_view> lines = Lines(text.value());
    if (lines.size() < 3 || !(IsHex(lines[1], kSha256Digits) || IsHex(lines[1], kSha1Digits))) continue;
    const std::optional<double> seconds = Json::Number(std::string(lines[2])).AsDouble();
    (*statements)[entry.name.substr(0, entry.name.size() - kEnding.size())].push_back({"its download record", Lower(lines[1]), static_cast<int64_t>(seconds.value_or(0) * 1e9)});
    any = true;
  }
  return any;
}

// The files that an OpenSSF signature lists.
bool FromSignature(const CheckInput& input, Statements* statements, Findings* findings) {
  const std::optional<std::string> text = input.ReadText(std::string(kSignatureName), kMaxList);
  if (!text.has_value()) return false;
  const Result<ModelSignature> signature = ReadModelSignature(*text);
  if (!signature.ok()) {
    findings->Add("manifest", fmt::format("file '{}': {}", kSignatureName, signature.error().message));
    return true;
  }
  for (const SignedFile& file : signature.value().files) (*statements)[file.name].push_back({"model.sig (its signature was not checked)", Lower(file.sha256)});
  return true;
}

Status HashFile(const CheckInput& input, const std::string& name, bool git, const std::function<Status()>& check_stop, FileHash* out) {
  constexpr uint64_t kPiece = 1U << 20U;
  QC_ASSIGN(const InputFile file, input.checkpoint->location().OpenMember(name));
  out->name = name;
  out->bytes = file.bytes();
  Sha256 sha;
  Xxh3 xxh3;
  GitBlobSha1 blob(file.bytes());
  std::vector<std::byte> buffer(std::min(kPiece, file.bytes()));
  for (uint64_t at = 0; at < file.bytes(); at += kPiece) {
    if (check_stop) QC_TRY(check_stop());
    const MutableBytes part(buffer.data(), std::min(kPiece, file.bytes() - at));
    QC_TRY(file.ReadAt(at, part));
    sha.Update(part);
    xxh3.Update(part);
    if (git) blob.Update(part);
  }
  out->sha256 = sha.Hex();
  out->xxh3 = xxh3.Hex();
  if (git) out->git_sha1 = blob.Hex();
  return file.CheckUnchanged();
}

// A file that is no weights of this model and that no list names is read only if it is small:
// it may be a terabyte of nothing.
bool WorthReading(const CheckInput& input, const Statements& statements, const std::string& name) {
  constexpr uint64_t kSmall = 100'000'000;
  if (statements.contains(name)) return true;
  const std::vector<WeightFile>& weights = input.checkpoint->files();
  if (std::ranges::find(weights, name, &WeightFile::name) != weights.end()) return true;
  if (name.ends_with(".safetensors") || name.ends_with(".gguf")) return false;  // a header that cannot be read is a finding already
  const Result<InputFile> file = input.checkpoint->location().OpenMember(name);
  return file.ok() && file.value().bytes() <= kSmall;
}

void Compare(const CheckInput& input, const Statements& statements, const std::vector<FileHash>& files, IntegrityReport* report, Findings* findings) {
  std::vector<std::string> unlisted;
  for (const FileHash& file : files) {
    const auto found = statements.find(file.name);
    if (found == statements.end()) {
      if (file.name != kSumsName && file.name != kManifestName && file.name != kSignatureName) unlisted.push_back(file.name);
      continue;
    }
    ++report->compared;
    for (const Expected& expected : found->second) {
      const std::string& seen = expected.digest.size() == kSha256Digits ? file.sha256 : file.git_sha1;
      if (seen == expected.digest) continue;
      const Result<InputFile> opened = input.checkpoint->location().OpenMember(file.name);
      constexpr int64_t kSlack = 1'000'000'000;
      const bool touched = expected.recorded_ns > 0 && opened.ok() && opened.value().stamp().modified_ns > expected.recorded_ns + kSlack;
      findings->Add(touched ? "hash-stale" : "hash-mismatch", fmt::format("file '{}': {} {}, expected {} by {}{}", Escape(file.name), expected.digest.size() == kSha256Digits ? "SHA-256" : "git SHA-1", seen, expected.digest, expected.source,
                                                                          touched ? "; it was changed after the download" : ""));
    }
  }
  for (const auto& [name, expected] : statements) {
    const bool here = std::ranges::find(files, name, &FileHash::name) != files.end();
    const bool elsewhere = name.find('/') != std::string::npos;  // sub-folders are not looked into
    if (!here && !elsewhere) findings->Add("hash-missing", fmt::format("file '{}' is named by {} and is not there", Escape(name), expected.front().source));
  }
  if (!unlisted.empty()) findings->Add("hash-unlisted", fmt::format("{} are named by none of the lists", QuoteSome(unlisted, 8)), {}, unlisted.size());
}

}  // namespace

Result<IntegrityReport> CheckIntegrity(const CheckInput& input, const IntegrityOptions& options, Findings* findings) {
  IntegrityReport report;
  Statements statements;
  if (options.compare) {
    if (FromSums(input, &statements, findings)) report.sources.emplace_back(kSumsName);
    if (FromManifest(input, &statements, findings)) report.sources.emplace_back(kManifestName);
    if (FromHubCache(input, &statements)) report.sources.emplace_back("the names of the blobs in the Hub cache");
    if (FromDownloads(input, &statements)) report.sources.emplace_back("the download records");
    if (FromSignature(input, &statements, findings)) report.sources.emplace_back("model.sig (files only; its signature was not checked)");
  }
  std::vector<std::string> names;
  for (const DirEntry& entry : input.entries) {
    if ((entry.kind == FileKind::kRegular || entry.kind == FileKind::kLink) && WorthReading(input, statements, entry.name)) names.push_back(entry.name);
  }
  std::vector<FileHash> files(names.size());
  std::vector<std::optional<Error>> errors(names.size());
  const auto git = [&](const std::string& name) {
    const auto found = statements.find(name);
    return found != statements.end() && std::ranges::any_of(found->second, [](const Expected& expected) { return expected.digest.size() == kSha1Digits; });
  };
  QC_TRY(RunParallel(names.size(), options.jobs, [&](size_t i) -> Status {
    Status status = HashFile(input, names[i], git(names[i]), options.check_stop, &files[i]);
    if (status.ok()) return status;
    const Code code = status.error().code;
    if (code == Code::kInterrupted || code == Code::kTerminated || code == Code::kTryAgain) return status;
    errors[i] = std::move(status).TakeError();
    return {};
  }));
  for (size_t i = 0; i < names.size(); ++i) {
    if (errors[i].has_value()) {
      if (options.compare) findings->Add(*errors[i]);
      continue;
    }
    report.bytes += files[i].bytes;
    report.files.push_back(std::move(files[i]));
  }
  if (options.compare) Compare(input, statements, report.files, &report, findings);
  return report;
}

}  // namespace q2c
