#include "verify/signature.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>

#include "formats/base/hash.h"
#include "formats/base/parallel.h"
#include "formats/base/text.h"
#include "formats/model_signature.h"

namespace q2c {
namespace {

constexpr uint64_t kMaxSignature = 256U << 20U;
constexpr uint64_t kPiece = 1U << 20U;
constexpr int kMaxDepth = 16;

// Every file below the folder, but for what the signature leaves out.
Status ListFiles(const Dir& dir, const std::string& prefix, const std::set<std::string>& ignored, int depth, std::set<std::string>* names) {
  if (depth > kMaxDepth) return Malformed("folder-depth", "folder '{}' lies more than {} levels deep", Escape(dir.path()), kMaxDepth);
  QC_ASSIGN(const std::vector<DirEntry> entries, dir.List());
  for (const DirEntry& entry : entries) {
    const std::string name = prefix + entry.name;
    if (ignored.contains(name)) continue;
    if (entry.kind == FileKind::kFolder) {
      QC_ASSIGN(const Dir below, dir.OpenDir(entry.name));
      QC_TRY(ListFiles(below, name + "/", ignored, depth + 1, names));
    } else {
      names->insert(name);
    }
  }
  return {};
}

// Opened step by step, so that no name leads out of the folder.
Result<std::string> HashBelow(const Dir& dir, const std::string& name, const SignatureOptions& options) {
  if (const size_t slash = name.find('/'); slash != std::string::npos) {
    QC_ASSIGN(const Dir below, dir.OpenDir(name.substr(0, slash)));
    return HashBelow(below, name.substr(slash + 1), options);
  }
  QC_ASSIGN(const InputFile file, InputFile::Open(dir, name, options.links));
  Sha256 hash;
  std::vector<std::byte> buffer(std::min(kPiece, file.bytes()));
  for (uint64_t at = 0; at < file.bytes(); at += kPiece) {
    if (options.check_stop) QC_TRY(options.check_stop());
    const MutableBytes part(buffer.data(), std::min(kPiece, file.bytes() - at));
    QC_TRY(file.ReadAt(at, part));
    hash.Update(part);
  }
  QC_TRY(file.CheckUnchanged());
  return hash.Hex();
}

}  // namespace

Result<SignatureReport> VerifyModelSignature(const std::string& folder, const SignatureOptions& options) {
  QC_ASSIGN(const Dir dir, Dir::Open(folder));
  QC_ASSIGN(const bool there, dir.Has(std::string(kSignatureName)));
  if (!there) return MakeError(Code::kNotRun, "no-signature", "'{}' has no {}; sign with 'qwen2-convert --sign=KEY.pem'", Escape(folder), kSignatureName);
  QC_ASSIGN(const InputFile file, InputFile::Open(dir, std::string(kSignatureName), options.links));
  QC_ASSIGN(const std::string text, file.ReadAll(kMaxSignature));
  QC_ASSIGN(const ModelSignature signature, ReadModelSignature(text));
  SignatureReport report;
  report.key_hint = signature.key_hint;
  const auto find = [&report](std::string_view id, std::string message) { report.findings.push_back({Code::kFindings, std::string(id), std::move(message)}); };
  if (!options.public_key.empty()) {
    QC_ASSIGN(const EcKey key, EcKey::LoadPublic(options.public_key));
    if (!signature.key_hint.empty() && signature.key_hint != key.Hint()) {
      find("signature-key", fmt::format("'{}' was signed with another key: {}, expected {} ('{}')", Escape(folder), Escape(signature.key_hint, 64), key.Hint(), Escape(options.public_key)));
    } else if (!signature.IsBy(key)) {
      find("signature-forged", fmt::format("the signature in '{}' is not that of key '{}'; whoever wrote it does not have the key", Escape(folder), Escape(options.public_key)));
    }
  }
  std::set<std::string> ignored(signature.ignored.begin(), signature.ignored.end());
  ignored.insert({std::string(kSignatureName), ".git", ".github", ".gitignore", ".gitattributes"});
  std::set<std::string> present;
  QC_TRY(ListFiles(dir, "", ignored, 0, &present));
  std::mutex mutex;
  std::map<std::string, std::string> digests;
  std::vector<std::string> both;
  for (const SignedFile& meant : signature.files) {
    if (present.contains(meant.name)) both.push_back(meant.name);
    else find("signature-file-missing", fmt::format("file '{}' was signed, and is missing", Escape(meant.name)));
  }
  QC_TRY(RunParallel(both.size(), options.jobs, [&](size_t i) -> Status {
    QC_ASSIGN(std::string digest, HashBelow(dir, both[i], options));
    const std::lock_guard lock(mutex);
    digests[both[i]] = std::move(digest);
    return {};
  }));
  for (const SignedFile& meant : signature.files) {
    const auto found = digests.find(meant.name);
    if (found == digests.end()) continue;
    present.erase(meant.name);
    if (found->second == meant.sha256) ++report.files;
    else find("signature-file-changed", fmt::format("file '{}' has SHA-256 {}, and {} was signed", Escape(meant.name), found->second, Escape(meant.sha256, 64)));
  }
  for (const std::string& name : present) find("signature-file-extra", fmt::format("file '{}' was not signed", Escape(name)));
  return report;
}

}  // namespace q2c
